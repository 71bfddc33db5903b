"""The training entry: what a run leaves behind, what it says, and that no test image has a say in
it."""

import contextlib
import dataclasses
import io
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from sklearn import metrics as sk

from hmc_fast import __version__, load_model
from hmc_fast.data import open_dataset
from hmc_fast.data.cache import load_images
from hmc_fast.data.folder import open_folder
from hmc_fast.data.images import resize
from hmc_fast.files import sha256_file
from hmc_fast.models import VARIANTS
from hmc_fast.training import fold, loop
from hmc_fast.training.config import TrainConfig
from hmc_fast.training.step import Trainer
from tiny import (
    CLASSES,
    SETTINGS,
    contents,
    flags,
    make_folder,
    run,
    skip_pages,
    table,
    tiny_network,
    use_tiny_network,
    weights_of,
)

HISTORY = ["fold", "epoch", "images", "train_loss", "train_accuracy", "test_loss", "test_accuracy"]
HISTORY += ["seconds", "images_per_s"]
FOLD_FILES = {"history.csv", "model.json", "model.safetensors", "predictions.csv"}
RUN_FILES = {
    "config.json", "env.json", "folds.csv", "history.csv", "images.json", "metrics.json",
    "predictions.csv", "report.html", "figures",
}  # fmt: skip


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A folder with data/, and an image cache of its own."""
    root = tmp_path_factory.mktemp("train")
    make_folder(root / "data")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HMC_FAST_CACHE", str(root / "cache"))
        yield root


@pytest.fixture(scope="module")
def whole(root) -> tuple[Path, str]:
    """A run of the command line with report and figures, and what it printed."""
    printed = io.StringIO()
    words = ["--data", root / "data", *flags(out=root / "run", lr=0.1), "--deterministic"]
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(printed):
        use_tiny_network(patch)
        assert run("train", *words) == 0
    return root / "run", printed.getvalue()


@pytest.fixture
def train(root, tmp_path, monkeypatch):
    """A function: the folder of a quiet run of the tiny network, without report and figures."""
    skip_pages(monkeypatch)
    monkeypatch.chdir(tmp_path)

    def call(out: str = "run", *, resume: bool = False, **settings: object) -> Path:
        settings = SETTINGS | {"data": str(root / "data"), "out": out, "lr": 0.1} | settings
        config = TrainConfig(**settings)
        return loop.train(config, resume=resume, quiet=True, build=tiny_network)

    return call


def test_a_run_leaves_these_files_and_no_other(whole):
    folder, _ = whole
    assert {path.name for path in folder.iterdir()} == RUN_FILES | {"fold0", "fold1"}
    for number in (0, 1):
        assert {path.name for path in (folder / f"fold{number}").iterdir()} == FOLD_FILES
    assert all(path.suffix == ".png" for path in (folder / "figures").iterdir())
    assert len(list((folder / "figures").iterdir())) == 5


def test_the_folds_say_what_the_data_says(whole, root):
    rows = table(whole[0] / "folds.csv")
    assert list(rows[0]) == ["image", "patient", "label", "fold"]
    patients = {row["image"]: row["patient_id"] for row in table(root / "data" / "patients.csv")}
    assert {row["image"]: row["patient"] for row in rows} == patients
    assert all(row["label"] == row["image"].split("/")[0] for row in rows)
    folds = {row["patient"]: set() for row in rows}
    for row in rows:
        folds[row["patient"]].add(row["fold"])
    assert all(len(found) == 1 for found in folds.values())
    assert sorted(row["fold"] for row in rows) == ["0"] * 12 + ["1"] * 12


def test_every_image_is_predicted_once_by_the_fold_that_did_not_train_on_it(
    whole, root, monkeypatch
):
    use_tiny_network(monkeypatch)
    rows, folds = table(whole[0] / "predictions.csv"), table(whole[0] / "folds.csv")
    probabilities = [f"p_{name}" for name in CLASSES]
    assert list(rows[0]) == ["image", "patient", "fold", "label", "predicted", *probabilities]
    for name in ("image", "patient", "label", "fold"):
        assert [row[name] for row in rows] == [row[name] for row in folds]
    models = [load_model(whole[0], number) for number in (0, 1)]
    for row in rows:
        model = models[int(row["fold"])]
        with torch.no_grad():
            logits = model(model.preprocessing(root / "data" / row["image"]))
        found = torch.tensor([float(row[name]) for name in probabilities], dtype=torch.float64)
        torch.testing.assert_close(found, logits.double().softmax(1)[0], rtol=0, atol=1e-6)
        assert found.sum().item() == pytest.approx(1, abs=1e-12)
        assert row["predicted"] == CLASSES[found.argmax()]


def test_the_history_has_a_row_for_every_pass(whole):
    rows = table(whole[0] / "history.csv")
    assert list(rows[0]) == HISTORY
    assert [(row["fold"], row["epoch"]) for row in rows] == [
        (number, epoch) for number in "01" for epoch in "12"
    ]
    assert [row["images"] for row in rows] == ["12", "24"] * 2
    parts = [row for number in (0, 1) for row in table(whole[0] / f"fold{number}/history.csv")]
    assert [{k: float(v) for k, v in row.items()} for row in rows] == [
        {k: float(v) for k, v in row.items()} for row in parts
    ]
    assert all(0 <= float(row["train_accuracy"]) <= 1 for row in rows)


def test_the_last_test_columns_are_those_of_the_predictions(whole):
    predictions, history = table(whole[0] / "predictions.csv"), table(whole[0] / "history.csv")
    for number in "01":
        rows = [row for row in predictions if row["fold"] == number]
        last = [row for row in history if row["fold"] == number][-1]
        right = np.mean([row["predicted"] == row["label"] for row in rows])
        loss = -np.mean([np.log(float(row[f"p_{row['label']}"])) for row in rows])
        assert float(last["test_accuracy"]) == pytest.approx(right)
        assert float(last["test_loss"]) == pytest.approx(loss, rel=1e-5)


def by_scikit_learn(rows: list[dict[str, str]]) -> dict[str, float]:
    labels = np.array([CLASSES.index(row["label"]) for row in rows])
    predicted = np.array([CLASSES.index(row["predicted"]) for row in rows])
    scores = np.array([[float(row[f"p_{name}"]) for name in CLASSES] for row in rows])
    cells = sk.multilabel_confusion_matrix(labels, predicted, labels=[0, 1, 2])
    macro = {"average": "macro", "zero_division": 0}
    return {
        "n": len(rows),
        "accuracy": sk.accuracy_score(labels, predicted),
        "balanced_accuracy": sk.balanced_accuracy_score(labels, predicted),
        "sensitivity": sk.recall_score(labels, predicted, **macro),
        "specificity": np.mean([c[0, 0] / c[0].sum() for c in cells]),
        "precision": sk.precision_score(labels, predicted, **macro),
        "f1": sk.f1_score(labels, predicted, **macro),
        "auc": sk.roc_auc_score(labels, scores, multi_class="ovr", average="macro"),
    }


def test_the_metrics_are_scikit_learns_of_the_predictions(whole):
    rows = table(whole[0] / "predictions.csv")
    found = json.loads((whole[0] / "metrics.json").read_text())
    assert set(found) == {"per_fold", "mean", "sd", "pooled", "majority", "seconds"}
    each = [by_scikit_learn([row for row in rows if row["fold"] == k]) for k in "01"]
    for values, expected in zip(
        [*found["per_fold"], found["pooled"]], [*each, by_scikit_learn(rows)], strict=True
    ):
        assert {name: values[name] for name in expected} == pytest.approx(expected)
        assert set(values["per_class"]) == set(CLASSES)
    assert [values["fold"] for values in found["per_fold"]] == [0, 1]
    for name in set(each[0]) - {"n"}:
        both = [values[name] for values in each]
        assert found["mean"][name] == pytest.approx(np.mean(both))
        assert found["sd"][name] == pytest.approx(np.std(both, ddof=1))
    assert found["majority"]["accuracy"] == pytest.approx(1 / 3)
    seconds = sum(float(row["seconds"]) for row in table(whole[0] / "history.csv"))
    assert found["seconds"] == pytest.approx(seconds)


def test_the_descriptions_of_run_and_models(whole, root):
    folder, _ = whole
    config = json.loads((folder / "config.json").read_text())
    assert set(config) == {field.name for field in dataclasses.fields(TrainConfig)}
    given = SETTINGS | {"data": str(root / "data"), "lr": 0.1, "deterministic": True}
    assert {name: config[name] for name in given} == given
    facts = json.loads((folder / "env.json").read_text())
    assert facts["precision"] == {"amp": "off", "reason": "asked for"}
    images = json.loads((folder / "images.json").read_text())
    assert set(images) == {row["image"] for row in table(folder / "folds.csv")}
    for number in (0, 1):
        assert json.loads((folder / f"fold{number}/model.json").read_text()) == {
            "variant": "hmc", "reduction": 8, "scale": None, "classes": list(CLASSES),
            "image_size": 64, "fold": number, "seed": 0, "version": __version__,
            "folds_sha256": sha256_file(folder / "folds.csv"),
            "weights_sha256": sha256_file(folder / f"fold{number}/model.safetensors"),
            "preprocessing": {"image_size": 64, "resize": "bilinear, antialias", "channels": 3,
                              "mean": 0.5, "std": 0.5},
        }  # fmt: skip


def test_what_is_said(whole, root):
    folder, printed = whole
    lines = printed.splitlines()
    assert lines[0] == f"hmc-fast {__version__}: for research, not a medical device"
    for start in (
        "preset full (the default for real images); change it with --preset or single flags",
        f"hmc on {root / 'data'}: 24 images of 12 patients (8 normal, 8 benign, 8 malignant)",
        "2 of 2 folds, 6 steps each (2 passes), 64 px, batch 4, seed 0",
        "device cpu; amp off (asked for)",
        "not compiled (--compile)",
        f"writing to {folder}",
        "fold 1/2  pass 2/2  train loss ",
        "fold 2/2  pass 2/2  train loss ",
        "out of fold, 2 of 2 folds, 24 images (95 % intervals, patients resampled): balanced",
        "always the majority class: balanced accuracy 0.333, accuracy 0.333, f1 0.167",
    ):
        assert any(line.startswith(start) for line in lines), start
    assert lines[-2:] == [
        f"report: {folder}/report.html",
        f"next: hmc-fast predict {folder} IMAGE ...",
    ]


def test_the_report_is_one_page_with_the_command(whole, root):
    page = (whole[0] / "report.html").read_text()
    assert page.startswith("<!DOCTYPE html>")
    assert f"hmc-fast train --data {root}/data --image-size 64" in page
    assert f"hmc-fast train --variant resnet50 --config {whole[0]}/config.json" in page
    assert "not a medical device" in page.lower()
    assert 'src="http' not in page


def test_resuming_a_finished_run_makes_only_the_results_anew(whole, tmp_path, capsys, monkeypatch):
    use_tiny_network(monkeypatch)
    folder, before = Path(shutil.copytree(whole[0], tmp_path / "run")), contents(whole[0])
    (folder / "report.html").unlink()
    (folder / "metrics.json").unlink()
    assert run("train", "--resume", "--out", folder) == 0
    said = capsys.readouterr().out
    assert f"going on with the run in {folder}, its settings\n" in said
    assert "fold 1/2: done before\nfold 2/2: done before\n" in said
    after = contents(folder)
    changed = {name for name in after if after[name] != before.get(name)}
    assert changed == {"report.html", "config.json"}  # the command, and the folder's name
    assert after.keys() == before.keys()


def test_the_same_settings_give_the_same_bits(train):
    one, other = train("one", deterministic=True), train("other", deterministic=True, workers=2)
    for name in ("predictions.csv", "folds.csv", "images.json"):
        assert (one / name).read_bytes() == (other / name).read_bytes()
    for number in (0, 1):
        assert weights_of(one, number) == weights_of(other, number)
    assert weights_of(train("third", seed=1)) != weights_of(one)


def test_one_fold_alone_is_that_fold_of_the_whole(train, whole):
    folder = train(only_fold=1, deterministic=True)
    assert {path.name for path in folder.iterdir()} == RUN_FILES | {"fold1"}
    assert weights_of(folder, 1) == weights_of(whole[0], 1)
    tested = [row for row in table(whole[0] / "predictions.csv") if row["fold"] == "1"]
    assert table(folder / "predictions.csv") == tested
    metrics = json.loads((folder / "metrics.json").read_text())
    assert [values["fold"] for values in metrics["per_fold"]] == [1]
    assert (metrics["pooled"]["n"], set(metrics["sd"].values())) == (12, {None})
    train(only_fold=0, deterministic=True, resume=True)
    assert (folder / "predictions.csv").read_bytes() == (whole[0] / "predictions.csv").read_bytes()


def test_the_next_command_of_one_fold_is_the_next_fold(train, capsys, root):
    folder = train(only_fold=1)
    config = TrainConfig(**SETTINGS, data=str(root / "data"), out="run", lr=0.1, only_fold=1)
    loop.train(config, resume=True, build=tiny_network)
    assert loop.next_commands(folder, config, [1])[1] == (
        "hmc-fast train --resume --out run --only-fold 0"
    )


def test_a_validation_part_chooses_the_epoch(train, monkeypatch):
    losses = iter([0.9, 0.5, 0.7] * 2)
    kept: list[dict[str, torch.Tensor]] = []

    def made_up(trainer: Trainer, job: fold.Job, chosen: np.ndarray) -> tuple[float, float]:
        if len(chosen) != len(job.split.validation) or set(chosen) != set(job.split.validation):
            return 2.0, 0.0
        kept.append({k: v.clone() for k, v in trainer.model.state_dict().items()})
        return next(losses), 0.25

    monkeypatch.setattr(fold, "_evaluate", made_up)
    folder = train(epochs=3, validation_fraction=0.25)
    rows = table(folder / "history.csv")
    assert list(rows[0]) == [*HISTORY, "validation_loss", "validation_accuracy"]
    assert [float(row["validation_loss"]) for row in rows] == [0.9, 0.5, 0.7] * 2
    for number in (0, 1):
        description = json.loads((folder / f"fold{number}/model.json").read_text())
        assert description["selected_epoch"] == 2
        saved = load_file(folder / f"fold{number}/model.safetensors")
        best = kept[3 * number + 1]
        assert all(torch.equal(saved[name], best[name]) for name in saved)


def test_a_number_of_augmented_images_ends_within_a_pass(train):
    rows = table(train(epochs=None, augmented=30) / "fold0" / "history.csv")
    assert [row["images"] for row in rows] == ["12", "24", "30"]
    assert [row["epoch"] for row in rows] == ["1", "2", "3"]


def test_balanced_weights_are_those_of_the_training_fold(train, monkeypatch, root, tmp_path):
    data = make_folder(tmp_path / "data")
    rows = [
        row for row in (data / "patients.csv").read_text().splitlines() if "_1.png,n" not in row
    ]
    (data / "patients.csv").write_text("\n".join([*rows, ""]))
    for path in data.glob("normal/*_1.png"):
        path.unlink()  # 4 normal, 8 benign, 8 malignant images
    seen, reset = [], Trainer.reset
    monkeypatch.setattr(
        Trainer, "reset", lambda self, w, weights: (seen.append(weights), reset(self, w, weights))
    )
    train(data=str(data), class_weights="balanced")
    for weights in seen:  # 2, 4 and 4 images of 10 in each training fold
        torch.testing.assert_close(weights, torch.tensor([10 / 6, 10 / 12, 10 / 12]))
    assert len(seen) == 2


def test_the_training_columns_are_means_over_the_pass(train, monkeypatch):
    losses = iter([1.0, 2.0, 6.0, 4.0, 5.0, 0.0])
    right = iter([4, 4, 1, 0, 0, 3])  # of four in a batch
    made_up = lambda *_: (torch.tensor(next(losses)), torch.tensor(next(right)))  # noqa: E731
    monkeypatch.setattr(Trainer, "step", made_up)
    rows = table(train(only_fold=0) / "history.csv")
    assert [float(row["train_loss"]) for row in rows] == [3.0, 3.0]
    assert [float(row["train_accuracy"]) for row in rows] == [0.75, 0.25]


def test_quiet_says_nothing(train, capfd):
    train()
    assert capfd.readouterr() == ("", "")


def test_the_default_folder_counts_up(train):
    assert train(out=None) == Path("runs/hmc-1")
    assert train(out=None) == Path("runs/hmc-2")
    assert train(out=None, variant="resnet50") == Path("runs/resnet50-1")


def check_steps(variant: str, pixels: np.ndarray, labels: np.ndarray) -> None:
    """Two steps on these images give finite losses and change every parameter; in the first one
    those behind a zero stand still (gamma; the head of the ViT)."""
    config = TrainConfig(variant=variant, image_size=64)
    torch.manual_seed(0)
    trainer = Trainer(loop.build_model(config), torch.device("cpu"), loop.Precision("off", ""),
                      1e-4, False)  # fmt: skip
    before = {name: p.detach().clone() for name, p in trainer.model.named_parameters()}
    images = torch.from_numpy(pixels).unsqueeze(1)
    parameters = fold.draw_parameters(0, [0] * len(images), range(len(images)))
    for _ in range(2):
        loss, _ = trainer.step(images, parameters, torch.from_numpy(labels))
        assert 0 < loss.item() < 20
    after = dict(trainer.model.named_parameters())
    assert [name for name in before if torch.equal(before[name], after[name])] == []
    assert trainer.predict(images, 2).isfinite().all()


@pytest.mark.slow
@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant_trains(variant, root):
    dataset = open_folder(root / "data", classes=CLASSES)
    images, chosen = load_images(dataset, 64), [0, 8, 16, 23]
    check_steps(variant, images.pixels[chosen], dataset.labels[chosen])


@pytest.mark.slow
@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant_trains_on_real_images(variant, mias_dir):
    dataset = open_dataset(f"mias:{mias_dir}")
    chosen = [*np.flatnonzero(dataset.labels == 0)[:2], *np.flatnonzero(dataset.labels > 0)[:6]]
    pixels = np.stack([resize(dataset.read(i), 64) for i in chosen])
    check_steps(variant, pixels, dataset.labels[chosen])
