"""Reliability and ROC are those of the predictions, and their intervals those of drawn patients."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score, roc_curve

from figure_checks import legend
from hmc_fast.evaluation import probability_figures
from hmc_fast.evaluation.calibration import calibration
from hmc_fast.evaluation.figures import png_data_uri
from hmc_fast.evaluation.probability_figures import reliability_diagram, roc_with_intervals

CLASSES = ("normal", "benign", "malignant")
HOSTILE = ("$x^{$", "_hidden", "漢字")


def predictions(patients=40, seed=0):
    random = np.random.default_rng(seed)
    labels = np.repeat(np.arange(patients) % 3, 2)
    probabilities = random.dirichlet([1, 1, 1], 2 * patients) * 0.7 + 0.3 * np.eye(3)[labels]
    return labels, probabilities, [f"p{i // 2}" for i in range(2 * patients)]


def test_reliability_diagram_draws_the_curve_and_its_error():
    labels, probabilities, patients = predictions()
    found = calibration(labels, probabilities, patients, CLASSES, resamples=10)
    drawn = reliability_diagram({"hmc": found, "other": found})
    assert len(drawn.rows) == 2 * len(found["curve"])
    assert drawn.rows[0] == ["hmc", *found["curve"][0].values()]
    chance = found["ece_by_chance"]["mean"]
    assert legend(drawn.figure)[0] == f"hmc: ECE {found['ece']:.3f} (if calibrated {chance:.3f})"
    line = drawn.figure.axes[0].lines[1]
    np.testing.assert_array_equal(line.get_ydata(), [row["share"] for row in found["curve"]])


def test_roc_has_the_curve_of_each_class_inside_its_interval():
    labels, probabilities, patients = predictions()
    drawn = roc_with_intervals(labels, probabilities, patients, CLASSES, resamples=200)
    for index, name in enumerate(CLASSES):
        rows = np.array([row[1:] for row in drawn.rows if row[0] == name])
        false, true, _ = roc_curve(labels == index, probabilities[:, index])
        np.testing.assert_allclose(rows[:, 1], np.interp(rows[:, 0], false, true))
        assert (rows[:, 2] <= rows[:, 3]).all()
        assert ((rows[:, 2] <= rows[:, 1]) & (rows[:, 1] <= rows[:, 3])).mean() > 0.9
        auc = roc_auc_score(labels == index, probabilities[:, index])
        assert rows[0, 4] == pytest.approx(auc)
        assert rows[0, 5] < auc < rows[0, 6]
        assert legend(drawn.figure)[index].startswith(f"{name}: AUC {auc:.3f} (")


def test_roc_interval_is_that_of_scikit_learns_curves_of_the_drawn_images():
    random = np.random.default_rng(0)
    positive, score = np.arange(40) < 15, random.random(40).round(1)
    weights = random.integers(0, 4, (30, 40)).astype(float)
    expected = []
    for row in weights:
        drawn = np.repeat(np.arange(40), row.astype(int))
        false, true, _ = roc_curve(positive[drawn], score[drawn], drop_intermediate=False)
        expected.append(np.interp(probability_figures.GRID, false, true))
    blocks = [weights[:10], weights[10:]]
    low, high, _ = probability_figures._roc_ends(positive, score, blocks, [0.025, 0.975])
    ends = np.quantile(expected, [0.025, 0.975], axis=0)
    np.testing.assert_allclose([low, high], ends, atol=1e-12)


def test_roc_says_where_there_is_no_curve():
    drawn = roc_with_intervals(
        [0, 0, 1, 1], np.eye(3)[[0, 1, 1, 0]], list("abcd"), HOSTILE, resamples=20
    )
    assert legend(drawn.figure)[2] == "漢字: no curve"
    assert {row[0] for row in drawn.rows} == set(HOSTILE[:2])


def test_any_model_name_is_drawn_as_it_is():
    labels, probabilities, patients = predictions()
    found = calibration(labels, probabilities, patients, CLASSES, resamples=5)
    drawn = reliability_diagram(dict.fromkeys(HOSTILE, found))
    assert png_data_uri(drawn.figure)
    assert {row[0] for row in drawn.rows} == set(HOSTILE)
