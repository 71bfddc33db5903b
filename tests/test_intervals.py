"""The bootstrap against scikit-learn on repeated rows, closed forms and simulated coverage."""

import time

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from hmc_fast.evaluation import intervals
from hmc_fast.evaluation.intervals import (
    patient_bootstrap,
    patient_weights,
    weighted_auc,
    weighted_metrics,
)
from hmc_fast.evaluation.metrics import METRICS, classification_metrics

CLASSES = ("normal", "benign", "malignant")


def example(patients=30, *, seed=0, decimals=2):
    """Two films a patient, one class a patient, probabilities with ties."""
    random = np.random.default_rng(seed)
    labels = np.repeat(np.arange(patients) % 3, 2)
    probabilities = random.dirichlet([1, 1, 1], len(labels))
    probabilities[np.arange(len(labels)), labels] += 0.2
    names = [f"p{index // 2:03d}" for index in range(len(labels))]
    return labels, probabilities.round(decimals), names


def test_weighted_auc_equals_scikit_learns_with_ties():
    random = np.random.default_rng(1)
    positive = random.random(50) < 0.4
    score = random.random(50).round(1)
    weights = random.integers(0, 4, (20, 50)).astype(float)
    expected = [roc_auc_score(positive, score, sample_weight=row) for row in weights]
    np.testing.assert_allclose(weighted_auc(positive, score, weights), expected, rtol=1e-12)


def test_weighted_auc_is_undefined_without_both_kinds():
    positive, score = np.array([True, False]), np.array([0.9, 0.1])
    found = weighted_auc(positive, score, np.array([[1.0, 1.0], [2.0, 0.0], [0.0, 1.0]]))
    np.testing.assert_array_equal(found, [1, np.nan, np.nan])


@pytest.mark.parametrize("seed", range(4))
def test_a_draw_equals_the_metrics_of_the_repeated_images(seed):
    labels, probabilities, _ = example(seed=seed)
    weights = np.random.default_rng(seed).integers(0, 3, len(labels))
    weights[labels == 2] *= seed % 2  # every other time a class is not drawn
    probabilities[:, 0] *= seed != 3  # once a class is never predicted
    found = weighted_metrics(labels, probabilities, weights[None].astype(float))
    rows = np.repeat(np.arange(len(labels)), weights)
    expected = classification_metrics(labels[rows], probabilities[rows], CLASSES)
    for name in METRICS:
        assert found[name][0] == pytest.approx(expected[name], rel=1e-12)


def test_whole_patients_are_drawn_within_the_stratum_of_their_worst_class():
    labels = np.array([0, 0, 0, 0, 0, 1, 0, 1, 2, 2])
    patients = ["a", "a", "b", "b", "c", "c", "d", "d", "e", "e"]
    (weights,) = patient_weights(labels, patients, resamples=50, seed=0)
    left, right = weights[:, 0::2], weights[:, 1::2]
    np.testing.assert_array_equal(left, right)
    np.testing.assert_array_equal(left[:, :2].sum(axis=1), 2)
    np.testing.assert_array_equal(left[:, 2:4].sum(axis=1), 2)
    np.testing.assert_array_equal(left[:, 4], 1)
    assert set(left[:, 0]) == {0, 1, 2}


def test_the_seed_decides_and_the_order_of_images_does_not():
    labels, probabilities, patients = example()
    first = patient_bootstrap(labels, probabilities, patients, CLASSES, resamples=200)
    order = np.random.default_rng(3).permutation(len(labels))
    shuffled = [patients[index] for index in order]
    again = patient_bootstrap(labels[order], probabilities[order], shuffled, CLASSES, resamples=200)
    other = patient_bootstrap(labels, probabilities, patients, CLASSES, resamples=200, seed=1)
    for name in METRICS:
        assert first[name] == pytest.approx(again[name], rel=1e-12)
    assert first["auc"] != other["auc"]


def test_a_second_equal_film_of_each_patient_adds_no_information():
    labels, probabilities, _ = example()
    names = [f"p{index:03d}" for index in range(len(labels))]
    once = patient_bootstrap(labels, probabilities, names, CLASSES, resamples=300)
    twice = patient_bootstrap(
        np.tile(labels, 2), np.tile(probabilities, (2, 1)), names * 2, CLASSES, resamples=300
    )
    for name in METRICS:
        assert once[name] == pytest.approx(twice[name], rel=1e-12)


def test_width_of_the_accuracys_interval_is_that_of_a_binomial():
    right = np.arange(400) % 10 < 8
    probabilities = np.where(right[:, None], [0.9, 0.1], [0.1, 0.9])
    labels, names = np.zeros(400, dtype=int), [str(index) for index in range(400)]
    found = patient_bootstrap(labels, probabilities, names, ("no", "yes"), resamples=4000)
    half = 1.96 * np.sqrt(0.8 * 0.2 / 400)
    assert found["accuracy"] == pytest.approx([0.8 - half, 0.8 + half], abs=0.005)


def test_perfect_predictions_and_undefined_figures():
    labels = np.array([0, 0, 1, 1])
    sure = patient_bootstrap(labels, np.eye(2)[labels], ["a", "b", "c", "d"], ("no", "yes"))
    assert sure == {name: [1.0, 1.0] for name in METRICS}
    single = patient_bootstrap([0, 0], np.eye(2)[[0, 0]], ["a", "b"], ("no", "yes"))
    assert single["accuracy"] == [1.0, 1.0]
    assert single["auc"] is single["specificity"] is None


def test_many_images_are_drawn_in_blocks(monkeypatch):
    labels, _, patients = example()
    monkeypatch.setattr(intervals, "WEIGHTS_AT_ONCE", 7 * len(labels))
    blocks = [len(w) for w in patient_weights(labels, patients, resamples=20, seed=0)]
    assert blocks == [7, 7, 6]


def test_2000_draws_of_322_images_take_less_than_5_seconds():
    labels, probabilities, patients = example(161, decimals=9)
    start = time.perf_counter()
    patient_bootstrap(labels, probabilities, patients, CLASSES)
    assert time.perf_counter() - start < 5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"patients": ["a"]}, "got 1 for 2 images"),
        ({"resamples": 0}, "1 or more"),
        ({"level": 95}, "between 0 and 1: got 2000 and 95"),
    ],
)
def test_bad_input_names_what_it_got(arguments, message):
    good = {"labels": [0, 1], "probabilities": np.eye(2), "patients": ["a", "b"]}
    with pytest.raises(ValueError, match=message):
        patient_bootstrap(**{**good, **arguments}, classes=("no", "yes"))


def simulated(random, patients):
    """Films of one patient are right or wrong together more often than not; accuracy 2/3."""
    labels = np.repeat(np.arange(patients) % 3, 2)
    right = random.random(len(labels)) < np.repeat(random.beta(0.5, 0.25, patients), 2)
    predicted = np.where(right, labels, (labels + random.integers(1, 3, len(labels))) % 3)
    return labels, np.eye(3)[predicted]


@pytest.mark.slow
def test_coverage_is_near_95_percent_for_patients_and_not_for_images():
    random = np.random.default_rng(0)
    patients, hits = 120, {"patients": 0, "images": 0}
    units = {
        "patients": [str(index // 2) for index in range(2 * patients)],
        "images": [str(index) for index in range(2 * patients)],
    }
    for _ in range(400):
        labels, probabilities = simulated(random, patients)
        for unit, names in units.items():
            low, high = patient_bootstrap(labels, probabilities, names, CLASSES, resamples=400)[
                "balanced_accuracy"
            ]
            hits[unit] += low <= 2 / 3 <= high
    assert 0.91 <= hits["patients"] / 400 <= 0.98
    assert hits["images"] / 400 < 0.91
