"""The bootstrap against scikit-learn on repeated rows, closed forms and simulated coverage."""

import time

import numpy as np
import pytest
from scipy.stats import binom
from sklearn.metrics import roc_auc_score

from hmc_fast.evaluation import intervals
from hmc_fast.evaluation.intervals import (
    clopper_pearson,
    exact_intervals,
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


def test_nobody_of_51_missed_still_allows_6_percent():
    low, high = clopper_pearson(0, 51)
    assert (low, high) == (0, pytest.approx(1 - 0.025 ** (1 / 51)))  # two-sided: 7.0 %
    assert clopper_pearson(0, 51, level=0.9)[1] == pytest.approx(0.057, abs=5e-4)  # one-sided 95 %
    assert clopper_pearson(51, 51) == pytest.approx([1 - high, 1])


@pytest.mark.parametrize("share", [0.02, 0.3, 0.9])
def test_clopper_pearson_holds_the_true_share_in_95_percent_or_more(share):
    counts = np.arange(54)
    ends = np.array([clopper_pearson(count, 53) for count in counts])
    inside = (ends[:, 0] <= share) & (share <= ends[:, 1])
    assert binom.pmf(counts, 53, share)[inside].sum() >= 0.95


def test_exact_intervals_count_patients():
    labels = np.array([0, 0, 0, 1, 1, 2])
    predicted = np.array([0, 0, 1, 1, 1, 1])
    names = [str(index) for index in range(6)]
    rows = exact_intervals(labels, np.eye(3)[predicted], names, CLASSES)
    found = {(row["metric"], row["class"]): row for row in rows}
    counts = {key: (row["count"], row["total"]) for key, row in found.items()}
    assert counts == {
        ("accuracy", None): (4, 6),
        ("sensitivity", "normal"): (2, 3),
        ("specificity", "normal"): (3, 3),
        ("sensitivity", "benign"): (2, 2),
        ("specificity", "benign"): (2, 4),
        ("sensitivity", "malignant"): (0, 1),
        ("specificity", "malignant"): (5, 5),
    }
    assert found["sensitivity", "benign"]["interval"] == clopper_pearson(2, 2)
    assert [row["at_end"] for row in rows] == [False, False, True, True, False, True, True]


def test_a_class_without_patients_has_no_exact_sensitivity():
    rows = exact_intervals([0, 0], np.eye(2)[[0, 1]], ["a", "b"], ("no", "yes"))
    found = [(row["metric"], row["class"]) for row in rows]
    assert found == [("accuracy", None), ("sensitivity", "no"), ("specificity", "yes")]


def test_exact_intervals_refuse_two_films_of_a_patient():
    with pytest.raises(ValueError, match="2 rows of 1 patients; join their films by"):
        exact_intervals([0, 1], np.eye(2), ["a", "a"], ("no", "yes"))


@pytest.mark.parametrize("arguments", [(3, 2), (-1, 2), (0, 0), (1, 2, 95)])
def test_impossible_counts_are_named(arguments):
    with pytest.raises(ValueError, match=f"got {arguments[0]} of {arguments[1]} and"):
        clopper_pearson(*arguments)


def correlated(random, patients):
    """Films of a patient share part of their probabilities; half of the patients are normal."""
    labels = np.repeat(np.arange(patients) % 4 % 3, 2)
    shared = np.repeat(random.normal(size=(patients, 3)), 2, axis=0)
    logits = 0.7 * shared + 0.7 * random.normal(size=(2 * patients, 3)) + np.eye(3)[labels]
    return labels, np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)


@pytest.mark.slow
def test_coverage_of_accuracy_sensitivity_and_auc_is_93_to_97_percent():
    random = np.random.default_rng(0)
    labels, probabilities = correlated(random, 300_000)
    truth = weighted_metrics(labels, probabilities, np.ones((1, len(labels))))
    names = [str(index // 2) for index in range(2 * 160)]
    hits, studies = dict.fromkeys(("accuracy", "sensitivity", "auc"), 0), 1000
    for _ in range(studies):
        found = patient_bootstrap(*correlated(random, 160), names, CLASSES, resamples=500)
        for name in hits:
            hits[name] += found[name][0] <= truth[name][0] <= found[name][1]
    for name, count in hits.items():
        assert 0.93 <= count / studies <= 0.97, name
