"""metrics.json: every fold, the pooled figures and what stands beside them."""

import ast
import json
from pathlib import Path

import numpy as np
import pytest

import hmc_fast.evaluation
from hmc_fast.evaluation.intervals import patient_bootstrap
from hmc_fast.evaluation.metrics import METRICS
from hmc_fast.evaluation.summary import metrics_document

CLASSES = ("normal", "benign", "malignant")
LABELS = np.array([0, 0, 1, 1, 2, 2, 0, 0, 1, 1])
PREDICTED = np.array([0, 0, 1, 1, 2, 2, 0, 1, 1, 0])
FOLDS = np.array([0] * 6 + [3] * 4)
PATIENTS = ["a", "a", "b", "b", "c", "c", "d", "d", "e", "e"]


def document(**changes):
    arguments = {"seconds": 12, "gammas": {0: {"ha1": 0.5}, 3: {"ha1": np.float32(0.25)}}}
    return metrics_document(
        LABELS,
        np.eye(3, dtype=np.float32)[PREDICTED],
        PATIENTS,
        FOLDS,
        CLASSES,
        **{**arguments, **changes},
        resamples=100,
    )


def test_folds_mean_sd_and_pooled_by_hand():
    found = document()
    folds = [(fold["fold"], fold["n"], fold["patients"]) for fold in found["per_fold"]]
    assert folds == [(0, 6, 3), (3, 4, 2)]
    assert [fold["accuracy"] for fold in found["per_fold"]] == [1.0, 0.5]
    assert found["mean"]["accuracy"] == pytest.approx(0.75)
    assert found["sd"]["accuracy"] == pytest.approx(0.125**0.5)
    assert found["pooled"]["accuracy"] == pytest.approx(0.8)
    assert found["pooled"]["confusion"] == [[3, 1, 0], [1, 3, 0], [0, 0, 2]]
    assert found["per_fold"][1]["classes_without_images"] == ["malignant"]
    assert found["majority"]["class"] == "normal"
    assert found["majority"]["accuracy"] == pytest.approx(0.4)
    assert found["seconds"] == 12


def test_intervals_are_those_of_all_folds_together():
    found = document()["pooled"]
    expected = patient_bootstrap(LABELS, np.eye(3)[PREDICTED], PATIENTS, CLASSES, resamples=100)
    assert found["intervals"] == expected
    assert found["bootstrap"] == {"level": 0.95, "resamples": 100, "seed": 0}
    assert set(found["intervals"]) == set(METRICS)


def test_it_is_json_with_gammas_as_numbers():
    found = document()
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert [fold["gamma"] for fold in found["per_fold"]] == [{"ha1": 0.5}, {"ha1": 0.25}]


def test_a_gamma_that_diverged_is_null_and_a_missing_one_stays_away():
    found = document(gammas={0: {"ha1": float("nan")}})
    assert [fold["gamma"] for fold in found["per_fold"]] == [{"ha1": None}, {}]


def test_evaluation_knows_arrays_only():
    folder = Path(hmc_fast.evaluation.__file__).parent
    allowed = {"hmc_fast.evaluation", "hmc_fast.files", "hmc_fast.sentences", "hmc_fast.errors"}
    for path in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in getattr(node, "names", []) if hasattr(alias, "name")]
            modules = [node.module] if isinstance(node, ast.ImportFrom) else names
            for module in modules if isinstance(node, (ast.Import, ast.ImportFrom)) else []:
                assert not module.startswith("torch"), path
                if module.startswith("hmc_fast"):
                    assert ".".join(module.split(".")[:2]) in allowed, path
