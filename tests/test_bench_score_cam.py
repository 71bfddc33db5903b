"""bench/score_cam.py and its GPU part, without a GPU and in small."""

import csv
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from cam_examples import LAYER, random_images, tiny_cam

ROOT = Path(__file__).resolve().parent.parent
sys.path.append(str(ROOT / "bench"))

import score_cam  # noqa: E402
import score_cam_gpu  # noqa: E402
import score_cam_measures  # noqa: E402
import score_cam_peers  # noqa: E402
from score_cam_peers import Case  # noqa: E402

sys.modules.pop("common", None)  # tests of pytest's options import a common.py of their own
pytestmark = pytest.mark.filterwarnings("ignore")  # of the packages


def tiny_case(*_):
    return Case(tiny_cam(linear=False), random_images(1), LAYER, 1)


@pytest.fixture
def small(monkeypatch):
    """A toy network instead of hmc, no processes, on the CPU in float32."""
    for module in (score_cam, score_cam_gpu):
        monkeypatch.setattr(module, "make_case", tiny_case)
    monkeypatch.setattr(score_cam, "memory_rows", lambda size, case: iter(()))
    monkeypatch.setattr(score_cam_gpu, "optimised", lambda case, grayscale: case)
    monkeypatch.setattr(score_cam_gpu, "torchcam_package", torchcam_without_net)
    monkeypatch.setattr(score_cam_gpu, "BATCH", 4)
    monkeypatch.setattr(score_cam_measures, "MAX_CHANNELS", (4, 40))
    monkeypatch.setattr(score_cam_gpu, "CHANNELS", 12)
    for name in ("synchronize", "empty_cache", "reset_peak_memory_stats"):
        monkeypatch.setattr(torch.cuda, name, lambda: None)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda: 3 * 2**20)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda: 2**20)


def torchcam_without_net(case, batch_size=32, layer=None):
    """`net.` is in the names of an optimised network only."""
    return score_cam_peers.torchcam_package(case, batch_size)


def read(folder):
    (path,) = folder.glob("score_cam-*.csv")
    return path.name, list(csv.DictReader(path.read_text().splitlines()))


def test_on_a_cpu_everybody_is_compared_timed_and_written(small, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(sys, "argv", ["score_cam.py", "--quick", "--out", str(tmp_path)])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert score_cam.main() == 0
    name, rows = read(tmp_path)
    assert name == "score_cam-cpu-96.csv"
    timed = {(r["op"], r["provider"]) for r in rows if r["metric"] == "ms"}
    providers = {"ours", "grad-cam", "torchcam", "torchcam-best"}
    assert {("score-cam", provider) for provider in providers} <= timed
    assert {("grad-cam", "ours"), ("grad-cam", "grad-cam")} <= timed
    printed = capsys.readouterr().out
    assert printed.count("max |Δ| of the map") >= 4
    assert "of the engine's time in forward passes" in printed
    assert "the targets are for 224 px" in printed


def test_no_side_leaves_a_hook_with_which_ours_could_not_be_folded(small):
    case = tiny_case()
    score_cam.checked(case)
    score_cam_peers.grad_cam_package(case, "GradCAM")()
    assert not any(module._forward_hooks for module in case.model.modules())


@pytest.mark.parametrize("wrong", ["torchcam", "grad-cam"])
def test_a_wrong_map_is_not_timed(small, monkeypatch, wrong):
    name = f"{wrong.replace('-', '_')}_package"
    monkeypatch.setattr(score_cam, name, lambda case, *_: lambda: torch.rand(1, 12, 16))
    with pytest.raises(AssertionError, match=rf"^{wrong}: max \|Δ\| is "):
        score_cam.checked(tiny_case())


def test_on_a_gpu_everybody_is_compared_timed_and_written(small, tmp_path, capsys):
    args = SimpleNamespace(rounds=None, out=tmp_path)
    assert score_cam_gpu.main(args) == 0
    _, rows = read(tmp_path)
    providers = set(score_cam_gpu.sides(tiny_case()))
    for metric in ("ms", "peak_mib"):
        found = {r["provider"] for r in rows if (r["op"], r["metric"]) == ("score-cam", metric)}
        assert found == providers
    assert {r["q50"] for r in rows if r["metric"] == "peak_mib"} == {"2"}
    fidelity = [r for r in rows if r["op"] == "score-cam-fidelity"]
    limits = {"max_channels=4", "tolerance=0.05", "tolerance=0.01"}  # not 40: there are but 12
    assert {r["provider"] for r in fidelity} == limits
    assert {r["mode"] for r in fidelity} >= {"pearson", "iou", "max_difference", "tried"}
    printed = capsys.readouterr().out
    assert "grad-cam, float32: max |Δ| of the map" in printed
    assert "of the network's own forward rate" in printed


def test_on_a_gpu_a_failing_side_takes_nobody_down(small, monkeypatch, tmp_path, capsys):
    def broken(case, *_):
        raise ImportError("No module named 'pytorch_grad_cam'")

    monkeypatch.setattr(score_cam_gpu, "grad_cam_package", broken)
    assert score_cam_gpu.main(SimpleNamespace(rounds=None, out=tmp_path)) == 0
    _, rows = read(tmp_path)
    assert "grad-cam" not in {r["provider"] for r in rows}
    printed = capsys.readouterr().out
    assert "grad-cam: ImportError: No module named 'pytorch_grad_cam'" in printed
    assert "x faster than grad-cam: not measured" in printed


def test_gpu_targets_are_those_of_the_design():
    ms = {"ours": 100, "grad-cam": 990, "torchcam": 601, "torchcam-optimised": 105, "forward": 95}
    assert score_cam_gpu.verdicts(ms) == [
        "x faster than grad-cam: 9.90 (>= 10: missed)",
        "x faster than torchcam: 6.01 (>= 6: met)",
        "x faster than torchcam-optimised: 1.05 (>= 1.05: met)",
        "of the network's own forward rate: 0.950 (>= 0.95: met)",
    ]
    assert score_cam_gpu.verdicts({"grad-cam": 3}) == ["ours was not timed"]


def a_row(op, provider, metric, value):
    return {"op": op, "provider": provider, "metric": metric, "q50": str(value)}


def test_cpu_targets_are_those_of_the_design():
    rows = [
        a_row("score-cam", "ours", "ms", 10), a_row("score-cam", "ours-bf16", "ms", 5),
        a_row("score-cam", "grad-cam", "ms", 18), a_row("score-cam", "torchcam", "ms", 20),
        a_row("score-cam", "torchcam-best", "ms", 12), a_row("score-cam", "ours", "peak_mib", 999),
        a_row("grad-cam", "ours", "ms", 3), a_row("grad-cam", "grad-cam", "ms", 6),
    ]  # fmt: skip
    assert score_cam.verdicts(rows) == [
        "ours, x faster than as they come: 1.80 (>= 1.8: met)",
        "ours, x faster than torchcam-best: 1.20 (>= 1.4: missed)",
        "ours, MiB of a process's own: 999.00 (<= 1000: met)",
        "ours-bf16, x faster than as they come: 3.60 (>= 3: met)",
        "ours-bf16, x faster than torchcam-best: 2.40 (>= 2.4: met)",
        "Grad-CAM, share of grad-cam's time: 0.50 (<= 0.4: missed)",
    ]


def test_agreement_by_hand():
    exact = torch.tensor([[0.0, 0.5], [0.5, 1.0]])
    found = score_cam_measures.agreement(torch.tensor([[0.5, 0.0], [0.5, 1.0]]), exact)
    # means 0.5; covariance (0 + 0 + 0 + 0.25) over variances 0.5
    assert found == pytest.approx({"pearson": 0.5, "iou": 2 / 4, "max_difference": 0.5})


def test_memory_that_was_given_back_before_is_not_counted(small, capsys):
    block = bytearray(600 * 2**20)
    before = score_cam.peak_of_process()
    del block
    score_cam.own_memory("ours", 64)
    during, earlier = (float(word) for word in capsys.readouterr().out.split())
    assert 100 < earlier <= during < before - 500


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--rounds", "0"], "--rounds must be 1, --size 64 or more, got 0 and 224"),
        (["--size", "32", "--quick"], "got None and 32"),
        (["--memory", "captum"], "invalid choice: 'captum'"),
        (["--round", "3"], "unrecognized arguments: --round 3"),
    ],
)
def test_bad_use_is_one_sentence(capsys, arguments, message):
    with pytest.raises(SystemExit) as stopped:
        score_cam.parse(arguments)
    assert stopped.value.code == 2
    sentence = capsys.readouterr().err
    assert message in sentence
    assert sentence.count("\n") == 1
