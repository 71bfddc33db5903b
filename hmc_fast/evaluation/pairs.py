"""Is one model better than another on these patients? Every pair, every metric, the same draws.

Both models have predicted the same images, each by the network of the fold that tests it. Whole
patients are drawn as in `intervals`, and in every draw both models are judged on the same patients:
the interval is of their difference, and narrower than the two intervals beside each other suggest.
It holds the trained networks fixed: another seed or another training set may move the difference by
more, and only repeated training (`repeated`) shows that.
"""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from hmc_fast.evaluation.calibration import brier_of_images
from hmc_fast.evaluation.intervals import check_draws, patient_weights, weighted_metrics
from hmc_fast.evaluation.metrics import METRICS, check_predictions, classification_metrics
from hmc_fast.evaluation.multiple_tests import with_holm

PAIR_METRICS = (*METRICS, "brier")
LOWER_IS_BETTER = ("brier",)


def pairwise_bootstrap(
    labels: Any,
    probabilities: Mapping[str, Any],
    patients: Sequence[str],
    classes: Sequence[str],
    *,
    resamples: int = 10_000,
    level: float = 0.95,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """Difference of each of PAIR_METRICS for every pair of models, with an interval over patients.

    labels: (n,) int, indices into `classes`, which stand in order of severity; probabilities:
    {model: (n, C)}, rows in the same order; patients: one name an image. The same seed gives the
    same draws, whatever the order of the images.

    Returns rows of "metric", "first", "second", "difference" (first - second), "interval"
    (percentile, of this pair alone), "p_value" (two-sided: twice the smaller share of draws, with
    the observed one, on one side of 0), "p_holm" (over the pairs of this metric) and "better": the
    model whose lead has p_holm < 1 - level, else None. What is undefined is None.
    Raises ValueError: as `patient_bootstrap`, fewer than two models.
    """
    names = list(probabilities)
    if len(names) < 2:
        raise ValueError(f"needs two models or more: got {len(names)}")
    checked = [check_predictions(labels, probabilities[name], classes) for name in names]
    tables = [table for _, table in checked]
    check_draws(labels, patients, resamples, level)
    draws = _metrics_of_draws(checked[0][0], tables, patients, resamples, seed)
    observed = [
        {**classification_metrics(labels, t, classes), "brier": brier_of_images(labels, t).mean()}
        for t in tables
    ]
    rows = []
    for metric in PAIR_METRICS:
        block = [
            _compare(metric, names, (i, j), observed, draws[metric], level)
            for i, j in itertools.combinations(range(len(names)), 2)
        ]
        rows += _judged(block, level)
    return rows


def _metrics_of_draws(
    labels: np.ndarray,
    tables: Sequence[np.ndarray],
    patients: Sequence[str],
    resamples: int,
    seed: int,
) -> dict[str, np.ndarray]:
    """{metric: (models, resamples)}, NaN where undefined, all models on the same draws."""
    briers = [brier_of_images(labels, table) for table in tables]
    blocks = [
        [
            {**weighted_metrics(labels, table, weights), "brier": weights @ brier / weights.sum(1)}
            for table, brier in zip(tables, briers, strict=True)
        ]
        for weights in patient_weights(labels, patients, resamples=resamples, seed=seed)
    ]
    return {
        name: np.concatenate([np.stack([m[name] for m in block]) for block in blocks], axis=1)
        for name in PAIR_METRICS
    }


def _compare(
    metric: str,
    names: Sequence[str],
    pair: tuple[int, int],
    observed: Sequence[Mapping[str, Any]],
    draws: np.ndarray,
    level: float,
) -> dict[str, Any]:
    first, second = pair
    row = {"metric": metric, "first": names[first], "second": names[second]}
    values = observed[first][metric], observed[second][metric]
    differences = draws[first] - draws[second]
    differences = differences[np.isfinite(differences)]
    if None in values or not len(differences):
        return {**row, "difference": None, "interval": None, "p_value": None}
    ends = np.quantile(differences, [(1 - level) / 2, (1 + level) / 2])
    return {
        **row,
        "difference": float(values[0] - values[1]),
        "interval": [float(end) for end in ends],
        "p_value": bootstrap_p_value(differences),
    }


def bootstrap_p_value(differences: np.ndarray) -> float:
    """Two-sided p of the draws' differences: 2 (b + 1) / (B + 1), at most 1, b the draws on the
    rarer side of 0 (those at 0, up to rounding, on both); never 0 (Davison & Hinkley 1997, 4.2)."""
    rarer = min((differences <= 1e-12).sum(), (differences >= -1e-12).sum())
    return min(2 * (int(rarer) + 1) / (len(differences) + 1), 1.0)


def _judged(rows: Sequence[dict[str, Any]], level: float) -> list[dict[str, Any]]:
    """The rows of one metric with Holm's p and the better model."""
    return [{**row, "better": _better(row, level)} for row in with_holm(rows)]


def _better(row: Mapping[str, Any], level: float) -> str | None:
    if row["p_holm"] is None or row["p_holm"] >= 1 - level:
        return None
    first_leads = (row["difference"] > 0) != (row["metric"] in LOWER_IS_BETTER)
    return row["first"] if first_leads else row["second"]
