"""Differences of two models on the same draws: by hand, by repetition, and their coverage."""

import numpy as np
import pytest
from scipy.stats import binomtest

from hmc_fast.evaluation.calibration import brier_of_images
from hmc_fast.evaluation.metrics import classification_metrics
from hmc_fast.evaluation.pairs import PAIR_METRICS, bootstrap_p_value, pairwise_bootstrap

CLASSES = ("normal", "benign", "malignant")


def study(random, patients, lifts):
    """Two films a patient; {model: probabilities}, the better the larger its lift."""
    labels = np.repeat(np.arange(patients) % 4 % 3, 2)
    shared = np.repeat(random.normal(size=(patients, 3)), 2, axis=0)
    tables = {}
    for name, lift in lifts.items():
        logits = 0.6 * shared + 0.6 * random.normal(size=(2 * patients, 3))
        logits[np.arange(2 * patients), labels] += lift
        tables[name] = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    return labels, tables, [f"p{i // 2}" for i in range(2 * patients)]


def rows_of(labels, tables, patients, **settings):
    rows = pairwise_bootstrap(labels, tables, patients, CLASSES, **settings)
    return {(row["metric"], row["first"], row["second"]): row for row in rows}


def test_every_metric_has_every_pair_with_the_observed_difference():
    labels, tables, patients = study(np.random.default_rng(0), 60, {"a": 2, "b": 1, "c": 0})
    rows = rows_of(labels, tables, patients, resamples=200)
    assert len(rows) == 3 * len(PAIR_METRICS)
    figures = {name: classification_metrics(labels, t, CLASSES) for name, t in tables.items()}
    for (metric, first, second), row in rows.items():
        if metric == "brier":
            expected = np.subtract(*(brier_of_images(labels, tables[m]) for m in (first, second)))
            assert row["difference"] == pytest.approx(expected.mean())
        else:
            expected = figures[first][metric] - figures[second][metric]
            assert row["difference"] == pytest.approx(expected)
        assert row["interval"][0] <= row["difference"] <= row["interval"][1]


def test_better_is_the_higher_metric_and_the_lower_brier_score():
    labels, tables, patients = study(np.random.default_rng(0), 80, {"bad": 0, "good": 3})
    rows = rows_of(labels, tables, patients, resamples=500)
    assert {row["better"] for row in rows.values()} == {"good"}
    assert rows["accuracy", "bad", "good"]["difference"] < 0
    assert rows["brier", "bad", "good"]["difference"] > 0


def test_a_model_is_not_better_than_itself():
    labels, tables, patients = study(np.random.default_rng(0), 30, {"a": 1})
    rows = rows_of(labels, {**tables, "again": tables["a"]}, patients, resamples=100)
    for row in rows.values():
        assert (row["difference"], row["interval"], row["p_value"]) == (0, [0, 0], 1)
        assert row["better"] is None


def test_models_are_compared_on_the_same_patients():
    labels, tables, patients = study(np.random.default_rng(1), 60, {"a": 1})
    tables["shifted"] = 0.9 * tables["a"] + 0.1 * np.eye(3)[labels]
    low, high = rows_of(labels, tables, patients)["brier", "a", "shifted"]["interval"]
    alone = 3.92 * brier_of_images(labels, tables["a"]).std() / np.sqrt(len(labels))
    assert 0 < low < high
    assert high - low < alone / 2


def test_interval_of_a_paired_accuracy_is_that_of_the_difference_of_each_image():
    random = np.random.default_rng(0)
    right = random.random((2, 600)) < [[0.8], [0.7]]
    tables = {name: np.eye(2)[(~row).astype(int)] for name, row in zip("ab", right, strict=True)}
    rows = pairwise_bootstrap(np.zeros(600, int), tables, range(600), ("no", "yes"))
    (row,) = [row for row in rows if row["metric"] == "accuracy"]
    each = right[0].astype(float) - right[1]
    half = 1.96 * each.std() / np.sqrt(600)
    assert row["interval"] == pytest.approx([each.mean() - half, each.mean() + half], abs=0.004)


def test_the_seed_decides_and_the_order_of_images_does_not():
    labels, tables, patients = study(np.random.default_rng(0), 40, {"a": 1, "b": 0.7})
    first = rows_of(labels, tables, patients, resamples=200)
    order = np.random.default_rng(3).permutation(len(labels))
    shuffled = {name: table[order] for name, table in tables.items()}
    again = rows_of(labels[order], shuffled, [patients[i] for i in order], resamples=200)
    other = rows_of(labels, tables, patients, resamples=200, seed=1)
    key = ("auc", "a", "b")
    assert again[key]["interval"] == pytest.approx(first[key]["interval"], rel=1e-9)
    assert other[key]["interval"] != first[key]["interval"]


def test_more_pairs_need_more_evidence():
    labels, tables, patients = study(np.random.default_rng(0), 60, {"a": 1.2, "b": 0.8, "c": 0.8})
    three = rows_of(labels, tables, patients, resamples=1000)
    two = rows_of(labels, {m: tables[m] for m in "ab"}, patients, resamples=1000)
    key = ("accuracy", "a", "b")
    assert three[key]["p_value"] == two[key]["p_value"] == two[key]["p_holm"]
    assert three[key]["p_holm"] > two[key]["p_holm"]


def test_undefined_figures_have_no_difference():
    rows = pairwise_bootstrap(
        [0, 0], {"a": np.eye(2), "b": np.eye(2)}, ["p", "q"], ("no", "yes"), resamples=10
    )
    found = {row["metric"]: row for row in rows}
    for metric in ("auc", "specificity"):
        assert found[metric]["difference"] is found[metric]["p_holm"] is None
        assert found[metric]["better"] is found[metric]["interval"] is None
    assert found["accuracy"]["difference"] == 0


@pytest.mark.parametrize(
    ("differences", "p"),
    [([1] * 99, 0.02), ([-1] * 99, 0.02), ([1] * 95 + [-1] * 4, 0.1), ([0] * 9, 1), ([1, -1], 1)],
)
def test_p_value_is_twice_the_rarer_side_and_never_0(differences, p):
    assert bootstrap_p_value(np.array(differences, float)) == pytest.approx(p)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"patients": ["a"]}, "got 1 for 2 images"),
        ({"probabilities": {"a": np.eye(2)}}, "two models or more: got 1"),
        ({"resamples": 0}, "1 or more"),
        ({"probabilities": {"a": np.eye(2), "b": np.eye(3)}}, r"got \(3, 3\)"),
    ],
)
def test_bad_input_names_what_it_got(arguments, message):
    good = {"labels": [0, 1], "patients": ["a", "b"]}
    good["probabilities"] = {"a": np.eye(2), "b": np.eye(2)}
    with pytest.raises(ValueError, match=message):
        pairwise_bootstrap(**{**good, **arguments}, classes=("no", "yes"))


@pytest.mark.slow
def test_models_that_are_equal_are_seldom_called_different():
    random, studies = np.random.default_rng(0), 300
    false_alarms = 0
    for _ in range(studies):
        labels, tables, patients = study(random, 120, {"a": 1, "b": 1, "c": 1})
        rows = pairwise_bootstrap(labels, tables, patients, CLASSES, resamples=400)
        false_alarms += any(row["better"] for row in rows if row["metric"] == "balanced_accuracy")
    assert binomtest(false_alarms, studies, 0.05, alternative="greater").pvalue > 0.01
