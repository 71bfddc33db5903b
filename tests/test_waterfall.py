"""bench/waterfall.py in small, and its picture from made-up rows."""

import csv
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path.append(str(ROOT / "bench"))

import image_sets  # noqa: E402
import inference_cases  # noqa: E402
import waterfall  # noqa: E402
import waterfall_figure  # noqa: E402
from random_network import small_network  # noqa: E402

sys.modules.pop("common", None)  # tests of pytest's options import a common.py of their own
STEPS = 13  # without low precision, torch.compile and a GPU


@pytest.fixture
def small(monkeypatch):
    """One block a stage, 64 px, four images, no low precision."""
    inference_cases.phantom_images.cache_clear()
    monkeypatch.setattr(inference_cases, "SIZE", 64)
    monkeypatch.setattr(waterfall, "SIZE", 64)
    monkeypatch.setattr(image_sets, "IMAGES", 4)
    monkeypatch.setattr(waterfall, "network", lambda variant: small_network(torch.float32))
    monkeypatch.setattr(waterfall, "low_precision", lambda: None)
    yield
    inference_cases.phantom_images.cache_clear()


def run(folder, *arguments):
    words = ["--no-compile", "--rounds", "2", "--out", str(folder), *arguments]
    assert waterfall.main(words) == 0
    (path,) = folder.glob("waterfall-*.csv")
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.usefixtures("small")
def test_each_step_has_time_memory_and_difference(tmp_path):
    rows = run(tmp_path, "--batch", "1", "2")
    for batch in ("1", "2"):
        for metric in ("ms", "peak_mib", "error"):
            found = [r for r in rows if r["batch"] == batch and r["metric"] == metric]
            assert len(found) == STEPS
            assert [int(r["provider"][:2]) for r in found] == list(range(STEPS))
    assert all(float(r["q50"]) > 0 for r in rows if r["metric"] == "ms")
    errors = [float(r["q50"]) for r in rows if r["metric"] == "error"]
    assert 0 < max(errors) < 1e-5  # float32 against float64


@pytest.mark.usefixtures("small")
def test_a_step_that_changes_the_result_shows(tmp_path, monkeypatch):
    fold = waterfall.fold

    def wrong(model, use, **arguments):
        model.fc.bias.data.add_(torch.tensor([0.4, 0.0, 0.0]))
        return fold(model, use, **arguments)

    monkeypatch.setattr(waterfall, "fold", wrong)
    rows = run(tmp_path, "--batch", "1")
    errors = {r["provider"][3:]: float(r["q50"]) for r in rows if r["metric"] == "error"}
    assert errors["eager"] < 1e-5
    assert errors["BatchNorm folded"] > 0.03


@pytest.mark.usefixtures("small")
@pytest.mark.slow
def test_images_of_a_folder_are_compared_too(tmp_path, make_mias):
    films = make_mias(*(f"mdb{n:03d} G NORM" for n in range(1, 9)))
    rows = run(tmp_path / "out", "--batch", "4", "--data", f"mias:{films}")
    assert {r["mode"] for r in rows if r["metric"] == "error"} == {"phantom", "mias"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--rounds", "0"], "--rounds and --batch must be at least 1"),
        (["--data", "mias:"], "names no directory"),
    ],
)
def test_bad_use_is_one_sentence(arguments, message, capsys):
    with pytest.raises(SystemExit) as stop:
        waterfall.parse(arguments)
    assert stop.value.code == 2
    printed = capsys.readouterr().err
    assert message in printed
    assert printed.count("\n") == 1


def test_the_picture_is_drawn_from_rows(tmp_path, monkeypatch):
    columns = ["op", "provider", "mode", "batch", "n", "metric", "q50", "q20", "q80"]
    columns += ["gpu", "torch", "date"]
    path, out = tmp_path / "rows.csv", tmp_path / "picture.png"
    with open(path, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        for step, ms in (("00 eager", 9), ("01 torch.compile", 8), ("02 grey stem", 4)):
            sizes = ["hmc", step, "forward", 1, 224]
            writer.writerow([*sizes, "ms", ms, ms - 1, ms + 1, "a CPU", "2.14", "2026-11-25"])
            error = ["error", 1e-6, 1e-6, 1e-6, "a CPU", "2.14", "2026-11-25"]
            writer.writerow(["hmc", step, "phantom", 1, 224, *error])
    monkeypatch.setattr(sys, "argv", ["x", "--results", str(path), "--out", str(out)])
    waterfall_figure.main()
    assert out.read_bytes()[:4] == b"\x89PNG"
    assert "1e-06 on phantom" in waterfall_figure.conditions(waterfall_figure.read(path))
