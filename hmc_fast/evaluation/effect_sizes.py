"""How large is the difference between two models over the folds? Effect sizes, without a test."""

import math
from typing import Any

import numpy as np

CLIFF_WORDS = ((0.147, "negligible"), (0.33, "small"), (0.474, "medium"))  # Romano et al. 2006


def cohens_d_paired(first: Any, second: Any) -> float | None:
    """Mean of first - second over their standard deviation (n - 1); both (folds,).

    None where there are fewer than two folds, or every difference is the same and not 0.
    """
    difference = np.asarray(first, dtype=np.float64) - np.asarray(second, dtype=np.float64)
    return _standardised(difference.mean(), difference.std(ddof=1) if len(difference) > 1 else 0.0)


def cohens_d_pooled(first: Any, second: Any) -> float | None:
    """Difference of the means over √((sd₁² + sd₂²) / 2), which forgets that folds are paired; both
    (folds,). None as for `cohens_d_paired`. It is what follows from a table of means and sds."""
    first, second = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    few = min(len(first), len(second)) < 2
    variance = 0.0 if few else (first.var(ddof=1) + second.var(ddof=1)) / 2
    return _standardised(first.mean() - second.mean(), math.sqrt(variance))


def cliffs_delta(first: Any, second: Any) -> float:
    """P(first > second) - P(first < second) over all pairs of values, -1 to 1 (Cliff 1993)."""
    return float(np.sign(np.subtract.outer(np.asarray(first), np.asarray(second))).mean())


def cliffs_word(delta: float) -> str:
    """'negligible', 'small', 'medium' or 'large', by the limits of Romano et al. 2006."""
    return next((word for limit, word in CLIFF_WORDS if abs(delta) < limit), "large")


def _standardised(mean: float, deviation: float) -> float | None:
    if deviation > 1e-9 * abs(mean):  # below: the rounding of equal differences
        return float(mean / deviation)
    return 0.0 if mean == 0 else None
