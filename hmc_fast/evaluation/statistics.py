"""Do the models differ over the folds? Ranks, Friedman, Nemenyi and the critical difference.

`scores` are (folds, models), higher is better; in each fold the best model has rank 1 and ties
share their mean rank. R_j is the mean rank of model j, k the number of models, n that of folds.

    Friedman  χ² = 12 n / (k (k + 1)) Σ_j (R_j - (k + 1) / 2)², with ties over
              1 - Σ (t³ - t) / (n (k³ - k)), t the size of each tied group of a fold
    Nemenyi   p_ij = P(range of k independent normals > √2 |R_i - R_j| / √(k (k + 1) / (6 n)))
    critical difference   CD = q √(k (k + 1) / (6 n)), q = (upper α of that range) / √2

Friedman 1937; Nemenyi 1963; Demšar, JMLR 7, 2006. The tests were made for independent data sets.
Folds share most of their training images, so a p-value here says less than it seems to, and mean
ranks depend on which other models are in the table (Benavoli et al., JMLR 17, 2016): what rests on
patients is in `pairs`.
"""

import itertools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy.stats import friedmanchisquare, rankdata, studentized_range

from hmc_fast.evaluation.effect_sizes import (
    cliffs_delta,
    cliffs_word,
    cohens_d_paired,
    cohens_d_pooled,
)
from hmc_fast.evaluation.rank_permutations import exact_p_value

PAPER_Q = 2.949  # used by Fatima et al. 2026 for 4 models


class Friedman(NamedTuple):
    """Result of `friedman_test`.

    `p_value` is the χ² approximation, poor for few folds; `exact_p_value` counts every way of
    dealing each fold's ranks to the models. Where `enumerated` is False these are too many, and
    99 999 seeded deals stand for them: (b + 1) / 100 000, b of them being as extreme. `kendall_w`
    is the agreement of the folds: 0 none, 1 all alike.
    """

    statistic: float
    p_value: float
    exact_p_value: float
    enumerated: bool
    kendall_w: float


class CriticalDifferences(NamedTuple):
    """The right q and critical difference, and those of the paper, in one place."""

    models: int
    folds: int
    q: float
    value: float
    paper_q: float
    paper_value: float
    paper_q_models: int
    sentence: str


def average_ranks(scores: Any) -> np.ndarray:
    """Mean rank of each model over the folds, 1 = best in every fold; scores (folds, models).

    Returns (models,) float64. Only scores that are equal to the last bit are tied.
    Raises ValueError: not a (folds, models) table of finite numbers with two models or more.
    """
    return _ranks(_checked(scores)).mean(axis=0)


def friedman_test(scores: Any) -> Friedman:
    """Whether at least one of three or more models differs from the others; scores (folds, models).

    Where every fold ties all models the statistic is 0 and the p-values are 1.
    Raises ValueError: as `average_ranks`, and for fewer than three models.
    """
    scores = _checked(scores, fewest=3)
    doubled = (2 * _ranks(scores)).round().astype(np.int64)
    folds, models = scores.shape
    if (doubled == doubled[:, :1]).all():
        return Friedman(0.0, 1.0, 1.0, True, 0.0)
    statistic, p_value = friedmanchisquare(*scores.T)
    exact, enumerated = exact_p_value(doubled)
    w = statistic / (folds * (models - 1))
    return Friedman(float(statistic), float(p_value), exact, enumerated, float(w))


def kendall_w(scores: Any) -> float:
    """How far the folds agree on the order of the models, 0 to 1: χ² / (n (k - 1))."""
    return friedman_test(scores).kendall_w


def nemenyi_test(scores: Any) -> np.ndarray:
    """p-value of every pair of models, adjusted for all of them; scores (folds, models).

    Returns (models, models) float64, symmetric, 1 on the diagonal.
    Raises ValueError: as `average_ranks`.
    """
    ranks = average_ranks(scores)
    apart = np.abs(ranks[:, None] - ranks) / rank_error(len(ranks), len(np.asarray(scores)))
    p_values = studentized_range.sf(math.sqrt(2) * apart, len(ranks), np.inf)
    np.fill_diagonal(p_values, 1.0)
    return np.minimum(p_values, 1.0)


def critical_difference(models: int, folds: int, alpha: float = 0.05) -> float:
    """How far apart the mean ranks of two models must be for p < alpha by Nemenyi's test.

    Raises ValueError: fewer than two models, no fold, alpha not between 0 and 1.
    """
    return nemenyi_q(models, alpha) * rank_error(models, folds)


def critical_difference_beside_paper(models: int = 4, folds: int = 5) -> CriticalDifferences:
    """The critical difference at 0.05 beside the one that the paper's q = 2.949 gives, which is q
    for as many models as `paper_q_models` says."""
    q, error = nemenyi_q(models), rank_error(models, folds)
    belongs_to = min(range(2, 21), key=lambda count: abs(nemenyi_q(count) - PAPER_Q))
    sentence = (
        f"For {models} models over {folds} folds q is {q:.3f} and the critical difference "
        f"{q * error:.3f}. The paper's q of {PAPER_Q} is the value for {belongs_to} models; it "
        f"would give {PAPER_Q * error:.3f}."
    )
    return CriticalDifferences(
        models, folds, q, q * error, PAPER_Q, PAPER_Q * error, belongs_to, sentence
    )


def rank_groups(ranks: Any, difference: float) -> list[list[int]]:
    """The longest runs of two or more models whose mean ranks lie less than `difference` apart.

    ranks: (models,); the bars of a critical-difference diagram. Returns indices, best model first.
    """
    ranks = np.asarray(ranks, dtype=np.float64)
    order = np.argsort(ranks, kind="stable")
    groups: list[list[int]] = []
    for start in range(len(order)):
        within = ranks[order] - ranks[order[start]] < difference
        stop = int(np.flatnonzero(within)[-1]) + 1
        reached = groups[-1][-1] if groups else None
        if stop - start > 1 and order[stop - 1] != reached:
            groups.append(order[start:stop].tolist())
    return groups


def pairwise_table(scores: Any, models: Sequence[str], alpha: float = 0.05) -> list[dict[str, Any]]:
    """Every pair of models with p, effect sizes and a sentence; scores (folds, models).

    Returns rows of "first", "second", "mean_difference" (first - second), "rank_difference" (of
    mean ranks, positive = first is better), "p_nemenyi", "significant" (p < alpha), "d_paired",
    "d_pooled", "cliffs_delta", "wins", "ties", "losses" (folds, of first) and "interpretation".
    Raises ValueError: as `average_ranks`, and for another number of names than models.
    """
    scores = check_scores(scores, models)
    ranks, p_values = average_ranks(scores), nemenyi_test(scores)
    rows = []
    for i, j in itertools.combinations(range(len(models)), 2):
        first, second = scores[:, i], scores[:, j]
        row = {
            "first": models[i],
            "second": models[j],
            "mean_difference": float((first - second).mean()),
            "rank_difference": float(ranks[j] - ranks[i]),
            "p_nemenyi": float(p_values[i, j]),
            "significant": bool(p_values[i, j] < alpha),
            "d_paired": cohens_d_paired(first, second),
            "d_pooled": cohens_d_pooled(first, second),
            "cliffs_delta": cliffs_delta(first, second),
            "wins": int((first > second).sum()),
            "ties": int((first == second).sum()),
            "losses": int((first < second).sum()),
        }
        rows.append({**row, "interpretation": _interpretation(row, alpha, len(scores))})
    return rows


def rank_error(models: int, folds: int) -> float:
    """√(k (k + 1) / (6 n)), the unit of Nemenyi's differences between mean ranks.

    Raises ValueError: fewer than two models, no fold.
    """
    if models < 2 or folds < 1:
        raise ValueError(f"needs two models and one fold or more: got {models} and {folds}")
    return math.sqrt(models * (models + 1) / (6 * folds))


def nemenyi_q(models: int, alpha: float = 0.05) -> float:
    """Upper alpha of the range of `models` independent normals, over √2: Demšar 2006, table 5(a).

    Raises ValueError: fewer than two models, alpha not between 0 and 1.
    """
    if models < 2 or not 0 < alpha < 1:
        raise ValueError(
            f"needs two models or more and alpha between 0 and 1: got {models} and {alpha}"
        )
    return float(studentized_range.ppf(1 - alpha, models, np.inf)) / math.sqrt(2)


def check_scores(scores: Any, models: Sequence[str]) -> np.ndarray:
    """`scores` as (folds, models) float64 with a name for each model.

    Raises ValueError: as `average_ranks`, another number of names than models.
    """
    scores = _checked(scores)
    if len(models) != scores.shape[1]:
        raise ValueError(f"models must be {scores.shape[1]} names: got {len(models)}")
    return scores


def _checked(scores: Any, fewest: int = 2) -> np.ndarray:
    scores = np.asarray(scores, dtype=np.float64)
    if scores.ndim != 2 or not len(scores) or scores.shape[1] < fewest:
        raise ValueError(
            f"scores must be (folds, models), one fold and {fewest} models or more: "
            f"got {scores.shape}"
        )
    if not np.isfinite(scores).all():
        fold, model = np.argwhere(~np.isfinite(scores))[0]
        raise ValueError(
            f"scores must be finite: got {scores[fold, model]} in fold {fold} for model {model}"
        )
    return scores


def _ranks(scores: np.ndarray) -> np.ndarray:
    return rankdata(-scores, axis=1)


def _interpretation(row: dict[str, Any], alpha: float, folds: int) -> str:
    lead = row["rank_difference"]
    better, worse = (row["first"], row["second"]) if lead > 0 else (row["second"], row["first"])
    if row["significant"]:
        return (
            f"{better} ranks above {worse} by {abs(lead):.2f} over these {folds} folds "
            f"(p = {row['p_nemenyi']:.4f} < {alpha:g}); Cliff's delta "
            f"{abs(row['cliffs_delta']):.2f}, {cliffs_word(row['cliffs_delta'])}"
        )
    return f"no significant difference (p = {row['p_nemenyi']:.4f}); this does not show equality"
