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
import inference_kernels  # noqa: E402
import inference_peers  # noqa: E402
from attention_targets import table  # noqa: E402
from inference_kernels import Kernel  # noqa: E402

sys.modules.pop("common", None)  # tests of pytest's options import a common.py of their own


CONVOLUTION = Kernel("sm90_xmma_fprop", "hmc_fast::convolution_relu", 4, 16, 320.0)
PRODUCT = Kernel("pointwise_convolution", "hmc_fast::pointwise_convolution", 4, 42, 400.0)
CAST = Kernel("unrolled_elementwise_kernel<direct_copy_kernel_cuda>", "aten::copy_", 2, 1, 1.5)
SUM = Kernel("vectorized_elementwise_kernel<4, CUDAFunctor_add<float>>", "aten::add", 2, 1, 1.5)


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
    monkeypatch.setattr(inference_gpu, "kernels_of", lambda call: [CONVOLUTION])
    turn = partial(gpu_timing.bursts_in_turn, timer=timer)
    monkeypatch.setattr(inference_gpu, "bursts_in_turn", turn)
    yield
    forget()


def test_every_provider_is_compared_timed_and_written(small, tmp_path, capsys):
    args = SimpleNamespace(rounds=3, full=False, out=tmp_path)
    assert inference_gpu.main(args) == 0
    kernels, path = sorted(tmp_path.glob("inference-*.csv"), key=lambda p: "kernels" not in p.name)
    assert kernels.read_text().count("hmc,1,sm90_xmma_fprop,hmc_fast::convolution_relu,4,16,") == 1
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


BROKEN = {
    "76 nodes, at most 75": PRODUCT._replace(count=58),
    "a pass over a map: 1 x vectorized": SUM._replace(operator="aten::relu_", dims=4),
    "a pass over a map: 3 x triton_poi_fused_relu": Kernel(
        "triton_poi_fused_relu_1", "", 0, 3, 9.0
    ),
    "copies a layout: 2 x cudnn::ops::nchwToNhwcKernel": Kernel(
        "cudnn::ops::nchwToNhwcKernel<bf16>", "aten::cudnn_convolution", 4, 2, 8.0
    ),
    "copies or casts a map: 1 x unrolled": CAST._replace(dims=4),
    "copies or casts a map: 1 x Memcpy DtoD": Kernel(
        "Memcpy DtoD (Device -> Device)", "", 0, 1, 2.0
    ),
    "2 copies or casts, at most 1 is explained": CAST._replace(operator="aten::_to_copy"),
}


def test_the_gate_of_kernels_holds():
    assert inference_kernels.gate([CONVOLUTION, PRODUCT, CAST, SUM]) == []
    assert inference_kernels.gate([]) == []


@pytest.mark.parametrize("told", BROKEN)
def test_the_gate_of_kernels_can_be_missed_in_each_way(told):
    kernels = [CONVOLUTION, CAST, SUM, BROKEN[told]]
    found = inference_kernels.gate(kernels)
    assert any(line.startswith(told) for line in found), found
    lines = inference_kernels.table_of("hmc", 1, kernels)
    assert f"gate missed: {found[0]}" in lines


def event(name, us, kernels=(), shapes=(), gpu=False):
    device = torch.autograd.DeviceType.CUDA if gpu else torch.autograd.DeviceType.CPU
    launched = [SimpleNamespace(name=kernel) for kernel in kernels]
    elapsed = SimpleNamespace(elapsed_us=lambda: us)
    return SimpleNamespace(
        name=name, device_type=device, kernels=launched, input_shapes=shapes, time_range=elapsed
    )


def test_kernels_are_summed_by_name_and_by_the_operator_that_launched_them():
    events = [
        event("aten::add", 9, ["add"], [[1, 3], [1, 3]]),
        event("aten::relu", 9, ["add", "add"], [[1, 8, 7, 7], []]),
        event("add", 1, gpu=True),
        event("add", 2, gpu=True),
        event("add", 3, gpu=True),
        event("Memset", 4, gpu=True),
    ]
    assert inference_kernels.summed(events) == [
        Kernel("add", "aten::relu", 4, 2, 5), Kernel("Memset", "", 0, 1, 4),
        Kernel("add", "aten::add", 2, 1, 1),
    ]  # fmt: skip


@pytest.mark.gpu
def test_the_kernels_of_a_forward_are_listed_on_a_gpu():
    x = torch.randn(2, 8, 4, 4, device="cuda")
    found = inference_kernels.kernels_of(lambda: x.relu() + x)
    assert sum(kernel.count for kernel in found) == 2
    assert {(k.operator, k.dims) for k in found} == {("aten::relu", 4), ("aten::add", 4)}


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
