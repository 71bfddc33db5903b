"""Patient-bootstrap intervals: how far the figures would move with other patients of the same kind.

The two films of a patient are not independent, so whole patients are drawn with replacement, as
many as there are in each stratum (the patient's worst class). A draw is a whole-number weight an
image; every figure of every draw then comes from matrix products and running sums. The interval
holds the trained models fixed: it says nothing about another seed or another training set.

Where nobody, or everybody, is right the bootstrap has no width at all. There the exact interval of
a count (Clopper & Pearson, Biometrika 26, 1934) belongs beside it, on independent patients.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from scipy.stats import binomtest

from hmc_fast.evaluation.metrics import METRICS, check_predictions
from hmc_fast.evaluation.units import check_one_row_a_patient

WEIGHTS_AT_ONCE = 1 << 22


def patient_bootstrap(
    labels: Any,
    probabilities: Any,
    patients: Sequence[str],
    classes: Sequence[str],
    *,
    resamples: int = 2000,
    level: float = 0.95,
    seed: int = 0,
) -> dict[str, list[float] | None]:
    """Percentile interval of each of METRICS over `resamples` draws of whole patients.

    labels: (n,) int, indices into `classes`, which stand in order of severity;
    probabilities: (n, C); patients: one name an image; level: 0 to 1. The same seed gives the same
    intervals, whatever the order of the images. A stratum of few patients makes them too narrow,
    one of a single patient does not vary at all.

    Returns {metric: [low, high]}, None where the figure is undefined in every draw.
    Raises ValueError: as `classification_metrics`, and for another number of patients than images,
    no resamples, or a level that is not between 0 and 1.
    """
    labels, probabilities = check_predictions(labels, probabilities, classes)
    check_draws(labels, patients, resamples, level)
    draws = [
        weighted_metrics(labels, probabilities, weights)
        for weights in patient_weights(labels, patients, resamples=resamples, seed=seed)
    ]
    return {
        name: _percentiles(np.concatenate([draw[name] for draw in draws]), level)
        for name in METRICS
    }


def clopper_pearson(count: int, total: int, level: float = 0.95) -> list[float]:
    """Exact two-sided interval of a share, `count` of `total` independent patients.

    0 of 51 gives 0 to 0.070; an upper limit alone (level 0.90, its upper end) is 0.057.
    Raises ValueError: no patient, count not in 0..total, level not between 0 and 1.
    """
    if not 0 <= count <= total or total < 1 or not 0 < level < 1:
        raise ValueError(
            "needs 0 <= count <= total, a total of 1 or more and a level between 0 and 1: "
            f"got {count} of {total} and {level}"
        )
    ends = binomtest(count, total).proportion_ci(level, method="exact")
    return [float(ends.low), float(ends.high)]


def exact_intervals(
    labels: Any,
    probabilities: Any,
    patients: Sequence[str],
    classes: Sequence[str],
    *,
    level: float = 0.95,
) -> list[dict[str, Any]]:
    """Clopper-Pearson intervals of the accuracy and of each class's sensitivity and specificity.

    labels: (n,) int; probabilities: (n, C); patients: n different names: the interval is exact only
    for independent rows, so films of one patient are joined first (`units.by_unit`).

    Returns rows of "metric", "class" (None for the accuracy), "count", "total", "value", "interval"
    and "at_end" (nobody or everybody); a figure without patients has no row.
    Raises ValueError: as `classification_metrics`, or a patient stands in two rows.
    """
    labels, probabilities = check_predictions(labels, probabilities, classes)
    check_one_row_a_patient(labels, patients)
    predicted = probabilities.argmax(axis=1)
    hits: list[tuple[str, str | None, np.ndarray]] = [("accuracy", None, predicted == labels)]
    for index, name in enumerate(classes):
        hits.append(("sensitivity", name, predicted[labels == index] == index))
        hits.append(("specificity", name, predicted[labels != index] != index))
    return [
        {
            "metric": metric,
            "class": name,
            "count": int(right.sum()),
            "total": len(right),
            "value": float(right.mean()),
            "interval": clopper_pearson(int(right.sum()), len(right), level),
            "at_end": bool(right.all() or not right.any()),
        }
        for metric, name, right in hits
        if len(right)
    ]


def check_draws(labels: Any, patients: Sequence[str], resamples: int, level: float) -> None:
    """Raises ValueError: another number of patients than images, no resamples, or a level that is
    not between 0 and 1."""
    if len(patients) != len(labels):
        raise ValueError(
            f"patients must be one name an image: got {len(patients)} for {len(labels)} images"
        )
    if resamples < 1 or not 0 < level < 1:
        raise ValueError(
            f"resamples must be 1 or more and level between 0 and 1: got {resamples} and {level}"
        )


def patient_weights(
    labels: np.ndarray, patients: Sequence[str], *, resamples: int, seed: int
) -> Iterator[np.ndarray]:
    """How often each image is drawn: blocks (draws, n) of float64, `resamples` draws in all."""
    names, patient_of_image = np.unique(np.asarray(patients), return_inverse=True)
    worst = np.zeros(len(names), dtype=np.int64)
    np.maximum.at(worst, patient_of_image, labels)
    generator = np.random.default_rng(seed)
    block = max(1, WEIGHTS_AT_ONCE // len(labels))
    for start in range(0, resamples, block):
        draws = min(block, resamples - start)
        counts = np.zeros((draws, len(names)))
        for stratum in np.unique(worst):
            members = np.flatnonzero(worst == stratum)
            share = np.full(len(members), 1 / len(members))
            counts[:, members] = generator.multinomial(len(members), share, size=draws)
        yield counts[:, patient_of_image]


def weighted_metrics(
    labels: np.ndarray, probabilities: np.ndarray, weights: np.ndarray
) -> dict[str, np.ndarray]:
    """Each of METRICS for every row of `weights` (draws, n): {metric: (draws,)}, NaN = none."""
    classes = probabilities.shape[1]
    cell = labels * classes + probabilities.argmax(axis=1)
    confusion = (weights @ np.eye(classes * classes)[cell]).reshape(-1, classes, classes)
    auc = [weighted_auc(labels == c, probabilities[:, c], weights) for c in range(classes)]
    present = confusion.sum(axis=2) > 0
    return {
        **_from_confusion(confusion),
        "auc": _mean_over_classes(np.stack(auc, axis=1), present),
    }


def weighted_auc(positive: np.ndarray, score: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Area under the ROC curve for every row of `weights`: P(s+ > s-) + P(s+ = s-) / 2.

    positive: (n,) bool; score: (n,), s+ on positive and s- on negative images; weights: (draws, n),
    not negative. Returns (draws,), NaN without both kinds.
    """
    order = np.argsort(score, kind="stable")
    starts = np.flatnonzero(np.diff(score[order], prepend=-np.inf))  # ties form one group
    ordered = weights[:, order]
    positives = np.add.reduceat(ordered * positive[order], starts, axis=1)  # (draws, groups)
    negatives = np.add.reduceat(ordered * ~positive[order], starts, axis=1)
    below = np.cumsum(negatives, axis=1) - negatives / 2
    pairs = positives.sum(axis=1) * negatives.sum(axis=1)
    return _ratio((positives * below).sum(axis=1), pairs)


def _from_confusion(confusion: np.ndarray) -> dict[str, np.ndarray]:
    """The figures that follow from (draws, C, C) confusion matrices, rows = truth."""
    right = np.diagonal(confusion, axis1=1, axis2=2)
    truth, predicted = confusion.sum(axis=2), confusion.sum(axis=1)
    total = truth.sum(axis=1, keepdims=True)
    present = truth > 0
    precision = np.divide(right, predicted, out=np.zeros_like(right), where=predicted > 0)
    sensitivity = _mean_over_classes(_ratio(right, truth), present)
    return {
        "accuracy": right.sum(axis=1) / total[:, 0],
        "balanced_accuracy": sensitivity,
        "sensitivity": sensitivity,
        "specificity": _mean_over_classes(
            _ratio(total - truth - predicted + right, total - truth), present
        ),
        "precision": _mean_over_classes(precision, present),
        "f1": _mean_over_classes(_ratio(2 * right, truth + predicted), present),
    }


def _ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    return np.divide(above, below, out=np.full(np.shape(above), np.nan), where=below > 0)


def _mean_over_classes(values: np.ndarray, present: np.ndarray) -> np.ndarray:
    """Mean over axis 1 of the defined values of classes with images."""
    defined = present & np.isfinite(values)
    return _ratio(np.where(defined, values, 0).sum(axis=1), defined.sum(axis=1))


def _percentiles(values: np.ndarray, level: float) -> list[float] | None:
    defined = values[np.isfinite(values)]
    if not len(defined):
        return None
    return [float(end) for end in np.quantile(defined, [(1 - level) / 2, (1 + level) / 2])]
