"""DeLong against pauc, brute force over pairs, and its coverage in simulation."""

import numpy as np
import pauc
import pytest
from scipy.stats import norm
from sklearn.metrics import roc_auc_score

from hmc_fast.evaluation.delong import (
    Areas,
    auc_covariance,
    auc_difference,
    auc_interval,
    auc_within_folds,
    patient_aucs,
)

CLASSES = ("normal", "benign", "malignant")


def scored(seed, *, positives=20, negatives=35, models=3, decimals=1):
    """Correlated scores with ties, higher for the positive patients."""
    random = np.random.default_rng(seed)
    positive = np.arange(positives + negatives) < positives
    shared = random.normal(size=len(positive)) + positive
    return positive, (shared + random.normal(0, 0.7, (models, len(positive)))).round(decimals)


def example(patients=90, seed=0):
    """Labels 0, 1, 2 in turn and the probabilities of two models."""
    random = np.random.default_rng(seed)
    labels = np.arange(patients) % 3
    tables = {name: random.dirichlet([1, 1, 1], patients) for name in ("a", "b")}
    tables["a"] = 0.8 * tables["a"] + 0.2 * np.eye(3)[labels]
    return labels, tables, [f"p{i}" for i in range(patients)]


@pytest.mark.parametrize("seed", range(5))
def test_auc_variance_and_covariance_agree_with_pauc(seed):
    positive, scores = scored(seed)
    found = auc_covariance(positive, scores)
    curves = [pauc.ROC(positive.astype(int), row, direction="<") for row in scores]
    for i, first in enumerate(curves):
        assert found.auc[i] == pytest.approx(roc_auc_score(positive, scores[i]), rel=1e-12)
        assert found.covariance[i, i] == pytest.approx(pauc.var(first), rel=1e-10)
        for j in range(i):
            expected = pauc.cov(first, curves[j])
            assert found.covariance[i, j] == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("seed", range(5))
def test_difference_of_two_models_agrees_with_pauc(seed):
    positive, scores = scored(seed)
    found = auc_difference(auc_covariance(positive, scores), 0, 1)
    first, second = (pauc.ROC(positive.astype(int), row, direction="<") for row in scores[:2])
    expected = pauc.compare(first, second)
    assert found["difference"] == pytest.approx(expected.estimate, abs=1e-12)
    assert found["p_value"] == pytest.approx(expected.p_value, abs=1e-10)
    assert found["interval"] == pytest.approx(expected.conf_int, abs=1e-5)  # pauc takes 1.96


def test_covariance_of_one_model_has_one_entry():
    positive, scores = scored(0, models=1)
    assert auc_covariance(positive, scores).covariance.shape == (1, 1)


def test_interval_is_symmetric_on_the_logit_scale_and_stays_in_0_to_1():
    low, high = auc_interval(0.9, 0.05)
    logit = np.log([low / (1 - low), 9, high / (1 - high)])
    assert logit[0] + logit[2] == pytest.approx(2 * np.log(9))
    assert logit[2] - np.log(9) == pytest.approx(1.959964 * 0.05 / 0.09, rel=1e-6)
    assert auc_interval(0.98, 0.05)[1] < 1


@pytest.mark.parametrize("auc", [0.0, 1.0, np.nan])
def test_there_is_no_interval_where_delong_finds_no_variance(auc):
    assert auc_interval(auc, 0.0) is None


def test_within_folds_counts_pairs_of_one_fold_only():
    positive, scores = scored(1)
    folds = np.arange(len(positive)) % 4
    right = total = 0.0
    for fold in range(4):
        above = scores[0, positive & (folds == fold)][:, None]
        below = scores[0, ~positive & (folds == fold)]
        right += (above > below).sum() + (above == below).sum() / 2
        total += above.size * below.size
    found = auc_within_folds(positive, scores, folds)
    assert found.auc[0] == pytest.approx(right / total)


def test_within_one_fold_is_over_all_patients():
    positive, scores = scored(2)
    one = auc_within_folds(positive, scores, np.zeros(len(positive)))
    all_of_them = auc_covariance(positive, scores)
    np.testing.assert_allclose(one.auc, all_of_them.auc)
    np.testing.assert_allclose(one.covariance, all_of_them.covariance)


def test_a_second_fold_with_the_same_scores_halves_the_variance():
    positive, scores = scored(4)
    once = auc_covariance(positive, scores)
    folds = np.repeat([0, 1], len(positive))
    twice = auc_within_folds(np.tile(positive, 2), np.tile(scores, 2), folds)
    np.testing.assert_allclose(twice.auc, once.auc)
    np.testing.assert_allclose(twice.covariance, once.covariance / 2)


def test_within_folds_does_not_see_that_folds_have_different_scales():
    positive, scores = scored(3, decimals=9)
    folds = np.arange(len(positive)) % 5
    found = auc_within_folds(positive, scores, folds)
    shifted = auc_within_folds(positive, scores + 10 * folds, folds)
    np.testing.assert_allclose(shifted.auc, found.auc)
    assert auc_covariance(positive, scores + 10 * folds).auc[0] < found.auc[0] - 0.05


@pytest.mark.parametrize(
    ("positives", "negatives", "auc"), [(0, 5, False), (5, 0, False), (1, 5, True)]
)
def test_too_few_patients_of_a_kind_leave_figures_undefined(positives, negatives, auc):
    found = auc_covariance(*scored(0, positives=positives, negatives=negatives))
    assert np.isfinite(found.auc).all() == auc
    assert np.isnan(found.covariance).all()
    difference = auc_difference(found, 0, 1)
    assert (difference["difference"] is not None) == auc
    assert difference["p_value"] is difference["interval"] is None


def test_no_fold_with_both_kinds_leaves_all_undefined():
    positive, scores = scored(0)
    found = auc_within_folds(positive, scores, positive.astype(int))
    assert np.isnan(found.auc).all()


@pytest.mark.parametrize(("aucs", "p"), [([1.0, 1.0], 1.0), ([1.0, 0.0], None)])
def test_difference_without_variance(aucs, p):
    found = auc_difference(Areas(np.array(aucs), np.zeros((2, 2))), 0, 1)
    assert found["p_value"] == p
    assert (found["interval"] is None) == (p is None)


def test_patient_aucs_are_those_of_each_class_against_the_rest():
    labels, tables, patients = example()
    found = patient_aucs(labels, tables, patients, CLASSES)
    for index, name in enumerate(CLASSES):
        assert found[name]["positives"] == 30
        for model in ("a", "b"):
            expected = roc_auc_score(labels == index, tables[model][:, index])
            figures = found[name]["models"][model]
            assert figures["auc"] == pytest.approx(expected)
            assert figures["interval"][0] < expected < figures["interval"][1]
        (pair,) = found[name]["pairs"]
        assert pair["difference"] > 0
        assert pair["p_holm"] == pair["p_value"] < 0.01


def test_patient_aucs_of_an_absent_class_are_none():
    labels, tables, patients = example()
    found = patient_aucs(np.where(labels == 2, 1, labels), tables, patients, CLASSES)
    assert found["malignant"]["models"]["a"] == {"auc": None, "error": None, "interval": None}
    assert found["malignant"]["pairs"][0]["p_holm"] is None


def test_two_films_of_a_patient_are_refused():
    labels, tables, patients = example()
    with pytest.raises(ValueError, match="90 rows of 89 patients; join their films by"):
        patient_aucs(labels, tables, [*patients[:-1], "p0"], CLASSES)


def test_no_model_is_refused():
    labels, _, patients = example()
    with pytest.raises(ValueError, match="one model or more: got none"):
        patient_aucs(labels, {}, patients, CLASSES)


def test_shapes_that_do_not_fit_are_named():
    with pytest.raises(ValueError, match=r"one a patient: got \(1,\) for \(5,\)"):
        auc_within_folds(np.ones(5), np.ones((3, 5)), [0])
    with pytest.raises(ValueError, match=r"got \(3, 4\) and \(5,\)"):
        auc_covariance(np.ones(5), np.ones((3, 4)))


@pytest.mark.slow
@pytest.mark.parametrize(("separation", "positives"), [(1.0, 51), (1.0, 15), (2.0, 51)])
def test_coverage_of_the_interval_is_93_to_97_percent(separation, positives):
    random = np.random.default_rng(0)
    truth, hits, studies = norm.cdf(separation / np.sqrt(2)), 0, 4000
    positive = np.arange(161) < positives
    for _ in range(studies):
        scores = random.normal(separation * positive)[None]
        areas = auc_covariance(positive, scores)
        ends = auc_interval(float(areas.auc[0]), float(np.sqrt(areas.covariance[0, 0])))
        hits += ends is not None and ends[0] <= truth <= ends[1]
    assert 0.93 <= hits / studies <= 0.97
