"""`hmc-fast predict`: the mean over a run's folds as CSV, and what it says of bad images and
runs."""

import csv
import io
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from hmc_fast import load_model
from tiny import CLASSES, assert_refused, flags, make_folder, run, skip_pages, use_tiny_network


@pytest.fixture(scope="module")
def shared(tmp_path_factory) -> Path:
    """data/, a finished run on it in run/, and x.png and y.png of no data set."""
    root = tmp_path_factory.mktemp("predict")
    make_folder(root / "data")
    for seed, name in enumerate(("x.png", "y.png")):
        pixels = np.random.default_rng(seed).integers(0, 256, (40, 50), dtype=np.uint8)
        Image.fromarray(pixels).save(root / name)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HMC_FAST_CACHE", str(root / "cache"))
        use_tiny_network(patch)
        skip_pages(patch)
        words = ["--data", root / "data", *flags(out=root / "run", lr=0.1), "--quiet"]
        assert run("train", *words) == 0
    return root


@pytest.fixture
def place(shared, tmp_path, monkeypatch) -> Path:
    """A working directory with run/, x.png and y.png."""
    use_tiny_network(monkeypatch)
    monkeypatch.chdir(tmp_path)
    shutil.copytree(shared / "run", tmp_path / "run")
    for name in ("x.png", "y.png"):
        shutil.copy(shared / name, tmp_path / name)
    return tmp_path


@pytest.fixture
def predict(place, capsys):
    """A function: exit code, rows of the CSV on standard output, and what stands on the other."""

    def call(*words: object) -> tuple[int, list[dict[str, str]], str]:
        code = run("predict", *words)
        out, err = capsys.readouterr()
        return code, list(csv.DictReader(io.StringIO(out))), err

    return call


def probabilities(rows: list[dict[str, str]]) -> np.ndarray:
    return np.array([[float(row[f"p_{name}"]) for name in CLASSES] for row in rows])


def by_hand(folder: str, fold: int, image: str) -> np.ndarray:
    """Softmax of one fold's logits in float64, without the command."""
    model = load_model(folder, fold)
    with torch.no_grad():
        logits = model(model.preprocessing(image))[0].double().numpy()
    return np.exp(logits) / np.exp(logits).sum()


def test_the_table_holds_the_mean_over_the_folds(predict):
    code, rows, err = predict("run", "x.png", "y.png")
    assert (code, err) == (0, "")
    assert list(rows[0]) == ["image", "predicted", "p_normal", "p_benign", "p_malignant"]
    assert [row["image"] for row in rows] == ["x.png", "y.png"]
    found = probabilities(rows)
    for image, row in zip(("x.png", "y.png"), found, strict=True):
        each = [by_hand("run", fold, image) for fold in (0, 1)]
        np.testing.assert_allclose(row, np.mean(each, axis=0), rtol=0, atol=1e-6)
    np.testing.assert_allclose(found.sum(1), 1, atol=1e-12)
    assert [row["predicted"] for row in rows] == [CLASSES[i] for i in found.argmax(1)]


def test_one_fold_alone(predict):
    first = probabilities(predict("run", "x.png", "--fold", 0)[1])
    second = probabilities(predict("run", "x.png", "--fold", 1)[1])
    np.testing.assert_allclose(first[0], by_hand("run", 0, "x.png"), rtol=0, atol=1e-6)
    assert np.abs(first - second).max() > 1e-4
    assert (probabilities(predict("run/fold1", "x.png")[1]) == second).all()
    assert (probabilities(predict("run/fold1", "x.png", "--fold", 1)[1]) == second).all()


def test_a_table_in_a_file_is_the_same_and_is_announced(predict, place, capsys):
    run("predict", "run", "x.png", "y.png")
    expected = capsys.readouterr().out
    assert run("predict", "run", "x.png", "y.png", "--out", "p.csv") == 0
    told = capsys.readouterr().out.splitlines()
    assert told[0] == "2 predictions: p.csv"
    assert told[1].startswith("next: read run/report.html")
    assert (place / "p.csv").read_text() == expected
    assert run("predict", "run", "x.png", "--out", "p.csv", "--quiet") == 0
    assert capsys.readouterr() == ("", "")
    assert len((place / "p.csv").read_text().splitlines()) == 2


def test_no_progress_line_gets_into_the_table(predict, monkeypatch):
    now = iter(range(0, 10_000, 100))
    monkeypatch.setattr("hmc_fast.progress.time.monotonic", lambda: float(next(now)))
    _, rows, _ = predict("run", *["x.png"] * 5)
    assert [row["image"] for row in rows] == ["x.png"] * 5


def test_the_runs_own_images_are_noted(predict, shared):
    own = shared / "data" / "benign" / "b1_0.png"
    code, rows, err = predict("run", "x.png", own)
    assert (code, len(rows)) == (0, 2)
    assert err == f"hmc-fast: note: {own} is one of the run's own images: use predictions.csv\n"
    assert predict("run/fold0", own)[2] == err
    assert predict("run", own, "--quiet")[2] == ""


def test_a_run_whose_split_leaks_is_announced(predict, place):
    path = place / "run" / "fold1" / "model.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"protocol": "leaky"}))
    code, rows, err = predict("run/fold1", "x.png")
    assert (code, len(rows)) == (0, 1)
    assert err.startswith("hmc-fast: note: trained with protocol leaky: augmented copies of the te")
    assert err.count("\n") == 1
    assert predict("run/fold1", "x.png", "--quiet")[2] == ""
    assert predict("run/fold0", "x.png")[2] == ""


def test_out_of_fold_predictions_equal_the_folds_own(predict, place, shared):
    with open(place / "run" / "predictions.csv", newline="") as file:
        row = next(csv.DictReader(file))
    _, again, _ = predict("run", shared / "data" / row["image"], "--fold", row["fold"], "--quiet")
    np.testing.assert_allclose(probabilities(again), probabilities([row]), rtol=0, atol=1e-6)


def test_images_that_cannot_be_read_are_named_and_the_others_predicted(predict, place):
    (place / "bad.png").write_text("no image")
    (place / "folder").mkdir()
    code, rows, err = predict("run", "bad.png", "x.png", "none.png", "folder", "y.png")
    assert code == 1
    assert [row["image"] for row in rows] == ["x.png", "y.png"]
    assert err.splitlines() == [
        "hmc-fast: bad.png is no PNG, PGM, JPEG or TIFF image",
        "hmc-fast: no such file: none.png",
        "hmc-fast: folder cannot be read: Is a directory",
    ]


def test_nothing_that_can_be_read_is_bad_input(predict, place):
    code, rows, err = predict("run", "none.png", "--out", "p.csv")
    assert (code, rows) == (2, [])
    assert err.splitlines() == [
        "hmc-fast: no such file: none.png",
        "hmc-fast: none of the images could be read",
    ]
    assert not (place / "p.csv").exists()


BAD = {
    "nowhere x.png": "no such run: nowhere",
    "x.png y.png": "no such run: x.png",
    "empty x.png": "empty holds no trained fold",
    "run x.png --fold 9": "run has no trained fold 9 (trained: 0, 1)",
    "run x.png --fold -1": "run has no trained fold -1 (trained: 0, 1)",
    "run/fold1 x.png --fold 0": "run/fold1 is the folder of fold 1: leave --fold 0 out",
    "run": "the following arguments are required: IMAGE",
    "run x.png --out none/p.csv": "cannot write none/p.csv: none is no folder",
    "run x.png --out run": "cannot write run: it is a folder",
    "run x.png --out /proc/p.csv": "cannot write /proc/p.csv: ",
    "run x.png --device tpu": "--device must be auto, cpu, cuda or cuda:N, got 'tpu'",
    "run x.png --backend flash": "argument --backend: invalid choice: 'flash'",
    "run x.png --folds 1": "unrecognized arguments: --folds 1; did you mean --fold?",
}


@pytest.mark.parametrize("words", BAD)
def test_bad_use_is_one_sentence(place, capsys, words):
    (place / "empty").mkdir()
    assert_refused(capsys, place, ["predict", *words.split()], BAD[words])


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("fold1/model.json", "cannot read run/fold1/model.json: "),
        ("fold1/model.safetensors", "cannot load run/fold1/model.safetensors: "),
        ("images.json", "run/images.json is no JSON file: "),
    ],
)
def test_a_damaged_run_is_one_sentence(place, capsys, name, sentence):
    (place / "run" / name).write_text("{")
    assert_refused(capsys, place, ["predict", "run", "x.png"], sentence)


def test_an_unknown_backend_in_the_environment(place, capsys, monkeypatch):
    monkeypatch.setenv("HMC_FAST_BACKEND", "flash")
    sentence = "HMC_FAST_BACKEND must be one of auto, reference, chunked, sdpa, triton, got 'flash'"
    assert_refused(capsys, place, ["predict", "run", "x.png"], sentence)
