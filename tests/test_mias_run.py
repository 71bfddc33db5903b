"""A run on the real images, small: what it writes about them is right."""

import json
from collections import Counter

import pytest

from hmc_fast.cli import main
from tiny import table

pytestmark = pytest.mark.slow


def test_a_small_run_on_mias_counts_films_patients_and_labels(mias_dir, tmp_path):
    out = tmp_path / "run"
    words = ["--data", f"mias:{mias_dir}", "--variant", "resnet50", "--image-size", "64"]
    words += ["--only-fold", "0", "--augmented", "64", "--amp", "off", "--out", str(out), "--quiet"]
    assert main(["train", *words]) == 0
    folds = table(out / "folds.csv")
    assert len(folds) == 322
    assert len({row["patient"] for row in folds}) == 161
    assert Counter(r["label"] for r in folds) == {"normal": 207, "benign": 64, "malignant": 51}
    sides = {(row["patient"], row["fold"]) for row in folds}
    assert len(sides) == 161  # every patient in one fold
    tested = [row["image"] for row in folds if row["fold"] == "0"]
    assert [row["image"] for row in table(out / "predictions.csv")] == tested
    metrics = json.loads((out / "metrics.json").read_text())
    assert metrics["pooled"]["n"] == len(tested)
    page = (out / "report.html").read_text()
    assert "Only 1 of 5 folds ran" in page
    assert "mdb144" in page
