"""DeLong's variance of the area under the ROC curve, for one score a patient.

For m positive scores s+ and n negative ones s-, AUC = mean ψ with ψ = 1 where s+ > s-, 1/2 where
equal. The placements V_i = mean of ψ over the negatives (one a positive) and W_j = mean of ψ over
the positives give

    cov(AUC_a, AUC_b) = cov(V_a, V_b) / m + cov(W_a, W_b) / n         (both with n - 1)

DeLong et al., Biometrics 44, 1988; placements from mid-ranks: Sun & Xu, IEEE SPL 21, 2014. Every
row must be an independent patient: two films of one make the variance too small, so they are
refused. Like the bootstrap it holds the trained models fixed.
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy.stats import norm, rankdata

from hmc_fast.evaluation.metrics import check_predictions
from hmc_fast.evaluation.multiple_tests import with_holm
from hmc_fast.evaluation.units import check_one_row_a_patient


class Areas(NamedTuple):
    """auc: (models,), NaN where undefined; covariance: (models, models), NaN where undefined."""

    auc: np.ndarray
    covariance: np.ndarray


def auc_covariance(positive: Any, scores: Any) -> Areas:
    """AUC of each model and DeLong's covariance matrix, from the same patients.

    positive: (n,) bool; scores: (models, n), higher = more likely positive. The AUC needs a patient
    of each kind, the covariance two of each.
    Raises ValueError: shapes that do not fit.
    """
    positive, scores = _checked(positive, scores)
    models, positives = len(scores), int(positive.sum())
    negatives = len(positive) - positives
    if not (positives and negatives):
        return Areas(np.full(models, np.nan), np.full((models, models), np.nan))
    ranks = rankdata(scores, axis=1)
    above = (ranks[:, positive] - rankdata(scores[:, positive], axis=1)) / negatives  # V
    below = 1 - (ranks[:, ~positive] - rankdata(scores[:, ~positive], axis=1)) / positives  # W
    if min(positives, negatives) < 2:
        return Areas(above.mean(axis=1), np.full((models, models), np.nan))
    covariance = np.cov(above) / positives + np.cov(below) / negatives
    return Areas(above.mean(axis=1), covariance.reshape(models, models))


def auc_within_folds(positive: Any, scores: Any, folds: Any) -> Areas:
    """As `auc_covariance`, comparing patients of the same fold only.

    folds: (n,) int. Scores of five trained networks are not on one scale; here each fold's AUC is
    weighted by its number of pairs of a positive and a negative patient. Folds are independent
    given the trained networks, so the weighted covariances add. A fold without both kinds has no
    pairs; one with a single patient of a kind leaves the covariance undefined.
    Raises ValueError: shapes that do not fit.
    """
    positive, scores = _checked(positive, scores)
    folds = np.asarray(folds)
    if folds.shape != positive.shape:
        raise ValueError(f"folds must be one a patient: got {folds.shape} for {positive.shape}")
    total, parts = 0, []
    for fold in np.unique(folds):
        chosen = folds == fold
        pairs = int(positive[chosen].sum() * (~positive[chosen]).sum())
        if pairs:
            parts.append((pairs, auc_covariance(positive[chosen], scores[:, chosen])))
            total += pairs
    if not parts:
        return auc_covariance(np.zeros(len(positive), dtype=bool), scores)
    return Areas(
        np.sum([pairs / total * areas.auc for pairs, areas in parts], axis=0),
        np.sum([(pairs / total) ** 2 * areas.covariance for pairs, areas in parts], axis=0),
    )


def auc_interval(auc: float, error: float, level: float = 0.95) -> list[float] | None:
    """Interval of one AUC with standard error `error`, normal on the logit scale, so in 0 to 1.

    None where DeLong's method gives none: an AUC of 0 or 1, where it finds no variance at all, or
    an undefined one.
    """
    if not (0 < auc < 1 and error >= 0):
        return None
    half = norm.ppf((1 + level) / 2) * error / (auc * (1 - auc))
    centre = math.log(auc / (1 - auc))
    return [1 / (1 + math.exp(-(centre - half))), 1 / (1 + math.exp(-(centre + half)))]


def auc_difference(areas: Areas, first: int, second: int, level: float = 0.95) -> dict[str, Any]:
    """DeLong's test of two models on the same patients.

    Returns {"difference": first - second, "error", "interval", "p_value"}; None for what is
    undefined. Two models with the same placements have difference 0 and p 1.
    """
    difference = float(areas.auc[first] - areas.auc[second])
    variance = areas.covariance[[first, second], [first, second]].sum()
    error = math.sqrt(max(float(variance - 2 * areas.covariance[first, second]), 0.0))
    if not (math.isfinite(difference) and math.isfinite(error)):
        finite = difference if math.isfinite(difference) else None
        return {"difference": finite, "error": None, "interval": None, "p_value": None}
    if error < 1e-12:
        p_value = 1.0 if abs(difference) < 1e-12 else None
        ends = [difference, difference] if p_value else None
        return {"difference": difference, "error": error, "interval": ends, "p_value": p_value}
    half = float(norm.ppf((1 + level) / 2)) * error
    return {
        "difference": difference,
        "error": error,
        "interval": [difference - half, difference + half],
        "p_value": float(2 * norm.sf(abs(difference) / error)),
    }


def patient_aucs(
    labels: Any,
    probabilities: Mapping[str, Any],
    patients: Sequence[str],
    classes: Sequence[str],
    *,
    folds: Any = None,
    level: float = 0.95,
) -> dict[str, Any]:
    """One-vs-rest AUC of every class and model with DeLong's intervals, and every pair's test.

    labels: (n,) int; probabilities: {model: (n, C)}; patients: n different names (`units.by_unit`
    joins films); folds: (n,) int for AUCs within folds, None for one over all patients.

    Returns {class: {"positives", "models": {model: {"auc", "error", "interval"}},
    "pairs": [{"first", "second", "difference", "error", "interval", "p_value",
    "p_holm" (over the pairs of this class)}]}}, None for what is undefined.
    Raises ValueError: as `classification_metrics`, no model, or a patient stands in two rows.
    """
    names = list(probabilities)
    if not names:
        raise ValueError("probabilities must be of one model or more: got none")
    check_one_row_a_patient(labels, patients)
    checked = [check_predictions(labels, probabilities[name], classes) for name in names]
    result = {}
    for index, name in enumerate(classes):
        positive = np.asarray(labels) == index
        scores = np.stack([table[:, index] for _, table in checked])
        areas = (
            auc_covariance(positive, scores)
            if folds is None
            else auc_within_folds(positive, scores, folds)
        )
        result[name] = {
            "positives": int(positive.sum()),
            "models": {model: _figures(areas, i, level) for i, model in enumerate(names)},
            "pairs": with_holm(
                [
                    {"first": names[i], "second": names[j], **auc_difference(areas, i, j, level)}
                    for i, j in itertools.combinations(range(len(names)), 2)
                ]
            ),
        }
    return result


def _checked(positive: Any, scores: Any) -> tuple[np.ndarray, np.ndarray]:
    positive = np.asarray(positive, dtype=bool)
    scores = np.asarray(scores, dtype=np.float64)
    if positive.ndim != 1 or scores.ndim != 2 or scores.shape[1] != len(positive):
        raise ValueError(
            f"scores must be (models, patients) and positive (patients,): "
            f"got {scores.shape} and {positive.shape}"
        )
    return positive, scores


def _figures(areas: Areas, model: int, level: float) -> dict[str, Any]:
    auc, variance = float(areas.auc[model]), float(areas.covariance[model, model])
    error = math.sqrt(variance) if math.isfinite(variance) else math.nan
    return {
        "auc": auc if math.isfinite(auc) else None,
        "error": error if math.isfinite(error) else None,
        "interval": auc_interval(auc, error, level),
    }
