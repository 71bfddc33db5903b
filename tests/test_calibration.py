"""Reliability, calibration error and Brier score against scikit-learn and closed forms."""

import numpy as np
import pytest
from sklearn.calibration import calibration_curve
from sklearn.metrics import brier_score_loss

from hmc_fast.evaluation.calibration import (
    brier_of_images,
    calibration,
    expected_calibration_error,
    reliability_curve,
)

CLASSES = ("normal", "benign", "malignant")


def calibrated(images, seed=0):
    """Labels drawn with the very probabilities."""
    random = np.random.default_rng(seed)
    probabilities = random.dirichlet([1, 1, 1], images)
    labels = (probabilities.cumsum(axis=1) < random.random((images, 1))).sum(axis=1)
    return labels, probabilities, [f"p{i // 2}" for i in range(images)]


def test_brier_score_equals_scikit_learns():
    labels, probabilities, _ = calibrated(50)
    expected = brier_score_loss(labels, probabilities, labels=[0, 1, 2], scale_by_half=False)
    assert brier_of_images(labels, probabilities).mean() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    ("probabilities", "score"), [([1, 0, 0], 0), ([0, 1, 0], 2), ([1 / 3, 1 / 3, 1 / 3], 2 / 3)]
)
def test_brier_score_of_certain_and_of_unsure_predictions(probabilities, score):
    assert brier_of_images([0], [probabilities]) == pytest.approx([score])


def test_reliability_curve_equals_scikit_learns():
    random = np.random.default_rng(0)
    probability = random.random(200).round(2)
    outcome = random.random(200) < probability**2
    share, mean = calibration_curve(outcome, probability, n_bins=10)
    curve = reliability_curve(outcome, probability)
    np.testing.assert_allclose([row["share"] for row in curve], share)
    np.testing.assert_allclose([row["probability"] for row in curve], mean)
    assert sum(row["n"] for row in curve) == 200


def test_a_bin_holds_its_upper_end_and_empty_bins_have_no_row():
    curve = reliability_curve([1, 0, 1, 1], [0.0, 0.5, 0.500001, 1.0], bins=2)
    assert [(row["low"], row["high"], row["n"]) for row in curve] == [(0, 0.5, 2), (0.5, 1, 2)]
    assert [row["low"] for row in reliability_curve([1], [0.95])] == pytest.approx([0.9])


def test_calibration_error_is_the_weighted_gap_of_the_bins():
    outcome, probability = [1, 0, 1, 1], [0.3, 0.4, 0.9, 0.8]
    # (0, 0.5]: share 0.5, mean 0.35; (0.5, 1]: share 1, mean 0.85
    found = expected_calibration_error(outcome, probability, bins=2)
    assert found == pytest.approx(0.5 * 0.15 + 0.5 * 0.15)


def test_opposite_gaps_of_one_bin_cancel():
    assert expected_calibration_error([1, 0], [0.75, 0.75], bins=2) == pytest.approx(0.25)
    assert expected_calibration_error([1, 0], [0.5, 0.5], bins=2) == 0


def test_calibrated_predictions_err_as_much_as_chance_alone():
    labels, probabilities, patients = calibrated(4000)
    found = calibration(labels, probabilities, patients, CLASSES, resamples=100)
    assert found["ece"] < found["ece_by_chance"]["high"] < 0.03
    assert found["mean_confidence"] == pytest.approx(found["accuracy"], abs=0.03)
    assert found["brier_skill"] == pytest.approx(1 - found["brier"] / (2 / 3), abs=0.01)


def test_chance_alone_errs_more_on_few_images():
    few = calibration(*calibrated(60), CLASSES, resamples=10)["ece_by_chance"]["mean"]
    many = calibration(*calibrated(6000), CLASSES, resamples=10)["ece_by_chance"]["mean"]
    assert few == pytest.approx(10 * many, rel=0.3)  # as 1 / √n


def test_sure_and_wrong_predictions_are_far_from_calibrated():
    labels = np.arange(60) % 3
    found = calibration(labels, np.eye(3)[(labels + 1) % 3], range(60), CLASSES, resamples=50)
    assert (found["ece"], found["brier"], found["accuracy"]) == (1, 2, 0)
    assert found["ece_by_chance"]["high"] == 0
    assert found["brier_skill"] == pytest.approx(-2)


def test_intervals_hold_the_figures_and_follow_the_seed():
    arguments = (*calibrated(300), CLASSES)
    found = calibration(*arguments, resamples=300)
    low, high = found["brier_interval"]
    assert low < found["brier"] < high
    assert calibration(*arguments, resamples=300) == found
    assert calibration(*arguments, resamples=300, seed=1)["brier_interval"] != [low, high]


def test_brier_interval_has_the_width_of_a_mean():
    labels, probabilities, _ = calibrated(900)
    patients = [str(i) for i in range(900)]
    low, high = calibration(labels, probabilities, patients, CLASSES)["brier_interval"]
    scores = brier_of_images(labels, probabilities)
    within = np.mean([scores[labels == c].var() for c in range(3)])  # drawn within the classes
    assert high - low == pytest.approx(2 * 1.96 * np.sqrt(within / 900), rel=0.1)


def test_each_class_has_its_own_curve():
    labels, probabilities, patients = calibrated(200)
    found = calibration(labels, probabilities, patients, CLASSES, resamples=10)
    expected = expected_calibration_error(labels == 2, probabilities[:, 2])
    assert found["per_class"]["malignant"]["ece"] == expected
    assert list(found["per_class"]) == list(CLASSES)


def test_one_class_only_has_no_skill_to_measure():
    found = calibration([0, 0], [[1.0, 0.0], [0.8, 0.2]], ["a", "b"], ("no", "yes"), resamples=10)
    assert (found["brier_of_shares"], found["brier_skill"]) == (0, None)


@pytest.mark.parametrize(
    ("probabilities", "message"),
    [
        ([[0.5, 0.6], [0.5, 0.5]], "row 0 has the sum 1.1"),
        ([[0.5, 0.5], [1.2, -0.2]], "row 1 has the sum 1 and the smallest value -0.2"),
    ],
)
def test_what_are_no_probabilities_is_refused(probabilities, message):
    with pytest.raises(ValueError, match=message):
        calibration([0, 1], probabilities, ["a", "b"], ("no", "yes"))


def test_no_bins_are_refused():
    with pytest.raises(ValueError, match="bins must be 1 or more: got 0"):
        reliability_curve([1], [0.5], bins=0)


def test_patients_must_be_one_an_image():
    with pytest.raises(ValueError, match="got 1 for 2 images"):
        calibration([0, 1], np.eye(2), ["a"], ("no", "yes"))
