"""Paired t-test for repeated cross-validation, with the variance that shared training images need.

For the differences d_1 ... d_J of two models over J test sets (folds, or folds of every repeat),

    t = mean(d) / √((1 / J + n_test / n_train) var(d)),    J - 1 degrees of freedom

instead of the usual 1 / J: training sets overlap, so the differences are not independent (Nadeau &
Bengio, Machine Learning 52, 2003). n_test / n_train is 1 / (K - 1) for K folds; over 5 folds the
standard error is 1.5 times the usual one. It is a correction by a rule of thumb: no unbiased
estimate of this variance exists (Bengio & Grandvalet, JMLR 5, 2004).
"""

import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.stats import t as student

from hmc_fast.evaluation.multiple_tests import with_holm
from hmc_fast.evaluation.statistics import check_scores


def corrected_resampled_t(
    differences: Any, folds: int = 5, *, level: float = 0.95
) -> dict[str, Any]:
    """Nadeau and Bengio's test that the mean difference is 0.

    differences: (J,), first - second of one metric on every test set, J two or more; folds: K of
    the cross-validation, so that J = K times the repeats.

    Returns {"mean", "error" (corrected), "statistic", "p_value", "interval", "runs"}. Where every
    difference is the same there is no variance to test with: statistic and p_value are None, unless
    all are 0 (p_value 1).
    Raises ValueError: fewer than two or not finite differences, fewer than two folds.
    """
    differences = np.asarray(differences, dtype=np.float64)
    if differences.ndim != 1 or len(differences) < 2 or not np.isfinite(differences).all():
        raise ValueError(
            f"differences must be two finite numbers or more: got shape {differences.shape}"
        )
    if folds < 2:
        raise ValueError(f"folds must be 2 or more: got {folds}")
    runs, mean = len(differences), float(differences.mean())
    error = math.sqrt(1 / runs + 1 / (folds - 1)) * float(differences.std(ddof=1))
    half = float(student.ppf((1 + level) / 2, runs - 1)) * error
    result = {"mean": mean, "error": error, "interval": [mean - half, mean + half], "runs": runs}
    if error <= 1e-9 * abs(mean):  # rounding of equal differences
        p_value = 1.0 if mean == 0 else None
        return {**result, "statistic": None, "p_value": p_value, "interval": None}
    statistic = mean / error
    return {
        **result,
        "statistic": statistic,
        "p_value": float(2 * student.sf(abs(statistic), runs - 1)),
    }


def corrected_t_table(
    scores: Any, models: Sequence[str], folds: int = 5, *, level: float = 0.95
) -> list[dict[str, Any]]:
    """`corrected_resampled_t` of every pair of models, with Holm's adjustment over the pairs.

    scores: (J, models), a row a test set, all repeats one after the other.

    Returns rows of "first", "second", what `corrected_resampled_t` returns, and "p_holm".
    Raises ValueError: as `corrected_resampled_t`, another number of names than models.
    """
    scores = check_scores(scores, models)
    rows = [
        {
            "first": models[i],
            "second": models[j],
            **corrected_resampled_t(scores[:, i] - scores[:, j], folds, level=level),
        }
        for i, j in itertools.combinations(range(len(models)), 2)
    ]
    return with_holm(rows)
