"""bench/inference.py and its GPU part, without a GPU and in small."""

import csv
import subprocess
import sys
from functools import partial
from itertools import product
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path.append(str(ROOT / "bench"))

import gpu_timing  # noqa: E402
import inference_cases  # noqa: E402
import inference_gpu  # noqa: E402
import inference_peers  # noqa: E402
from attention_targets import table  # noqa: E402

sys.modules.pop("common", None)  # tests of pytest's options import a common.py of their own


def forget():
    inference_cases.phantom_images.cache_clear()
    inference_cases.network.cache_clear()


@pytest.fixture
def small(monkeypatch):
    """On the CPU in float32, 64 px, batch 1, nothing compiled; every call takes 2 ms."""

    def timer(call, calls):
        call()
        return 2.0

    forget()
    monkeypatch.setattr(inference_cases, "SIZE", 64)
    settings = {"DEVICE": "cpu", "DTYPE": torch.float32, "MODES": {}, "BATCHES": (1,)}
    for name, value in settings.items():
        monkeypatch.setattr(inference_gpu, name, value)
    monkeypatch.setattr(inference_gpu, "peak_mib", lambda side: 12.5)
    turn = partial(gpu_timing.bursts_in_turn, timer=timer)
    monkeypatch.setattr(inference_gpu, "bursts_in_turn", turn)
    yield
    forget()


def test_every_provider_is_compared_timed_and_written(small, tmp_path, capsys):
    args = SimpleNamespace(rounds=3, full=False, out=tmp_path)
    assert inference_gpu.main(args) == 0
    (path,) = tmp_path.glob("inference-*.csv")
    rows = list(csv.DictReader(path.read_text().splitlines()))
    providers = ("optimised", "optimised-eager", "eager")
    expected = product(("hmc", "resnet50"), providers, ("ms", "peak_mib"))
    assert {(r["op"], r["provider"], r["metric"]) for r in rows} == set(expected)
    assert {r["q50"] for r in rows if r["metric"] == "ms"} == {"2"}
    assert capsys.readouterr().out.count("max |Δp|") == 6


def test_a_wrong_or_failing_provider_is_not_timed(small, monkeypatch, tmp_path, capsys):
    def providers(variant, batch, full):
        return {"eager": lambda m: lambda x: -m(x), "compile": lambda m: lambda x: 1 / 0}

    monkeypatch.setattr(inference_gpu, "providers", providers)
    assert inference_gpu.main(SimpleNamespace(rounds=3, full=False, out=tmp_path)) == 1
    printed = capsys.readouterr().out
    assert "hmc batch 1 eager: AssertionError: max |Δp| is" in printed
    assert "hmc batch 1 compile: ZeroDivisionError: division by zero" in printed


def row(variant, provider, batch, ms):
    sizes = {"mode": "forward", "n": "224", "dtype": "bfloat16", "metric": "ms"}
    return {"op": variant, "provider": provider, "batch": str(batch), "q50": str(ms)} | sizes


def test_targets_are_those_of_the_design():
    rows = [
        row("hmc", "optimised", 1, 1.2), row("resnet50", "optimised", 1, 1.0),
        row("hmc", "optimised", 32, 3.2), row("resnet50", "optimised", 32, 1.6),
        row("hmc", "compile", 32, 8.0), row("hmc", "compile-graph", 32, 6.4),
    ]  # fmt: skip
    lines = {line[:42].strip(): line for line in table(rows, inference_gpu.TARGETS)}
    expected = {
        "hmc over resnet50, optimised, batch 1": ("1.20", "met"),
        "hmc over resnet50, optimised, batch 32": ("2.00", "missed"),
        "hmc, images/s, batch 32 (H200)": ("10000.00", "missed"),
        "resnet50, images/s, batch 32 (H200)": ("20000.00", "met"),
        "x the best torch.compile, batch 32": ("2.00", "met, stretch too"),
        "x torch.compile's default, batch 32": ("2.50", "met"),
    }
    for what, (value, word) in expected.items():
        assert lines[what].endswith(f" {value}  {word}"), lines[what]
    assert "torch.compile was not timed" in lines["x the best torch.compile, batch 1"]


def test_peers_that_are_not_installed_are_left_out(monkeypatch, capsys):
    def missing(model, images):
        raise ImportError("No module named 'openvino'")

    monkeypatch.setattr(inference_peers, "PEERS", {"openvino": missing, "same": lambda m, x: m})
    assert list(inference_peers.installed_peers(len, None)) == ["same"]
    assert capsys.readouterr().out == "without openvino: No module named 'openvino'\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["--rounds", "0"], "must be at least 1, got 0"), (["--roundz", "3"], "unrecognized")],
)
def test_bad_use_is_one_sentence(arguments, message):
    command = [sys.executable, str(ROOT / "bench" / "inference.py"), *arguments]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
