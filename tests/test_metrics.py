"""The figures against hand computations and against scikit-learn's own averages."""

import json
import math

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from hmc_fast.evaluation.metrics import (
    METRICS,
    classification_metrics,
    majority_metrics,
    mean_and_sd,
)

CLASSES = ("normal", "benign", "malignant")
MIAS = np.repeat([0, 1, 2], [207, 64, 51])


def predictions_of(confusion):
    """Labels and one-hot probabilities that give this confusion matrix."""
    counts = np.asarray(confusion)
    cells = np.argwhere(counts >= 0).repeat(counts.ravel(), axis=0)
    return cells[:, 0], np.eye(len(counts))[cells[:, 1]]


def metrics_of(confusion, classes=CLASSES):
    return classification_metrics(*predictions_of(confusion), classes)


def test_majority_class_of_mias():
    figures = majority_metrics(MIAS, CLASSES)
    assert figures["class"] == "normal"
    assert figures["accuracy"] == pytest.approx(0.643, abs=5e-4)
    assert figures["balanced_accuracy"] == pytest.approx(1 / 3)
    assert figures["f1"] == pytest.approx(0.261, abs=5e-4)
    assert figures["specificity"] == pytest.approx(2 / 3)
    assert figures["precision"] == pytest.approx(207 / 322 / 3)
    assert figures["auc"] == pytest.approx(0.5)
    assert figures["confusion"] == [[207, 0, 0], [64, 0, 0], [51, 0, 0]]


def test_one_error_in_322_gives_the_figures_of_the_papers_matrix():
    figures = metrics_of([[207, 0, 0], [0, 63, 1], [0, 0, 51]])
    names = ("accuracy", "precision", "sensitivity", "specificity", "f1")
    percent = [round(100 * figures[name], 2) for name in names]
    assert percent == [99.69, 99.36, 99.48, 99.88, 99.41]


def test_each_class_by_hand():
    figures = metrics_of([[4, 1, 0], [1, 2, 1], [0, 1, 2]])
    benign = figures["per_class"]["benign"]
    assert benign["n"] == 4
    assert benign["accuracy_one_vs_rest"] == pytest.approx(8 / 12)
    assert benign["sensitivity"] == pytest.approx(2 / 4)
    assert benign["specificity"] == pytest.approx(6 / 8)
    assert benign["precision"] == pytest.approx(2 / 4)
    assert benign["f1"] == pytest.approx(2 / 4)
    assert benign["auc"] == pytest.approx((2 / 4 + 6 / 8) / 2)  # one threshold: a triangle
    assert figures["accuracy"] == pytest.approx(8 / 12)
    assert figures["balanced_accuracy"] == pytest.approx((4 / 5 + 2 / 4 + 2 / 3) / 3)
    assert figures["precision"] == pytest.approx((4 / 5 + 2 / 4 + 2 / 3) / 3)


def test_auc_is_the_macro_one_vs_rest_average():
    random = np.random.default_rng(0)
    labels, probabilities = np.arange(60) % 3, random.dirichlet([1, 1, 1], 60)
    expected = roc_auc_score(labels, probabilities, multi_class="ovr", average="macro")
    assert classification_metrics(labels, probabilities, CLASSES)["auc"] == pytest.approx(expected)


def test_a_class_without_images_is_none_and_outside_the_averages():
    figures = metrics_of([[3, 1, 0], [0, 3, 1], [0, 0, 0]])
    missing = figures["per_class"]["malignant"]
    undefined = [missing[name] for name in ("sensitivity", "precision", "f1", "auc")]
    assert undefined == [None] * 4
    assert missing["specificity"] == pytest.approx(7 / 8)
    assert figures["classes_without_images"] == ["malignant"]
    assert figures["balanced_accuracy"] == pytest.approx(3 / 4)
    assert figures["precision"] == pytest.approx((3 / 3 + 3 / 4) / 2)
    assert figures["specificity"] == pytest.approx((4 / 4 + 3 / 4) / 2)


def test_a_class_that_is_never_predicted_has_precision_zero():
    figures = metrics_of([[2, 0, 0], [2, 0, 0], [0, 0, 2]])
    assert figures["per_class"]["benign"]["precision"] == 0
    assert figures["precision"] == pytest.approx((2 / 4 + 0 + 1) / 3)


def test_one_class_only_has_no_specificity_and_no_auc():
    figures = metrics_of([[3, 1, 0], [0, 0, 0], [0, 0, 0]])
    assert figures["accuracy"] == figures["sensitivity"] == pytest.approx(3 / 4)
    assert figures["specificity"] is None
    assert figures["auc"] is None


def test_two_classes():
    figures = metrics_of([[3, 1], [2, 4]], ("no", "yes"))
    assert figures["per_class"]["yes"]["sensitivity"] == pytest.approx(4 / 6)
    assert figures["per_class"]["yes"]["specificity"] == pytest.approx(3 / 4)
    assert figures["sensitivity"] == figures["specificity"] == pytest.approx((4 / 6 + 3 / 4) / 2)


def test_everything_survives_json():
    figures = metrics_of([[3, 1, 0], [0, 0, 0], [0, 0, 0]])
    assert json.loads(json.dumps(figures, allow_nan=False)) == figures


def test_mean_and_sd_leave_out_what_is_undefined():
    folds = [dict.fromkeys(METRICS, value) for value in (0.5, 0.7, 0.9)]
    folds[2]["auc"] = None
    mean, sd = mean_and_sd(folds)
    assert (mean["accuracy"], sd["accuracy"]) == pytest.approx((0.7, 0.2))
    assert (mean["auc"], sd["auc"]) == pytest.approx((0.6, math.sqrt(0.02)))


def test_one_fold_has_no_sd():
    mean, sd = mean_and_sd([{**dict.fromkeys(METRICS, 0.5), "auc": None}])
    assert mean["f1"] == 0.5
    assert mean["auc"] is None
    assert set(sd.values()) == {None}


@pytest.mark.parametrize(
    ("labels", "probabilities", "message"),
    [
        ([], np.zeros((0, 3)), "one an image"),
        ([0.5], np.ones((1, 3)), "whole numbers"),
        ([0, 1], np.ones((1, 3)), r"\(2, 3\).*got \(1, 3\)"),
        ([0, 3], np.ones((2, 3)), r"0\.\.2: got 0 to 3"),
        ([0, 1], [[1, 0, 0], [np.nan, 0, 1]], "1 of 2 images are not finite.*diverged"),
    ],
)
def test_bad_input_names_what_it_got(labels, probabilities, message):
    with pytest.raises(ValueError, match=message):
        classification_metrics(labels, probabilities, CLASSES)
