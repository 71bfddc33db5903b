"""Do the models differ over the folds? Ranks, Friedman, Nemenyi, effect sizes, and their power.

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

PAPER_Q = 2.949  # used by Fatima et al. 2026 for 4 models
ENUMERATED = 2_000_000  # rows a fold may add to the exact distribution: half a second and GB
DEALT = 99_999
CLIFF_WORDS = ((0.147, "negligible"), (0.33, "small"), (0.474, "medium"))  # Romano et al. 2006


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
    values, probabilities, enumerated = _null_of_ranks(doubled)
    observed = int((doubled.sum(axis=0) ** 2).sum())
    exact = probabilities[values >= observed].sum()
    if not enumerated:
        exact = (exact * DEALT + 1) / (DEALT + 1)
    w = statistic / (folds * (models - 1))
    return Friedman(float(statistic), float(p_value), min(float(exact), 1.0), enumerated, float(w))


def kendall_w(scores: Any) -> float:
    """How far the folds agree on the order of the models, 0 to 1: χ² / (n (k - 1))."""
    return friedman_test(scores).kendall_w


def nemenyi_test(scores: Any) -> np.ndarray:
    """p-value of every pair of models, adjusted for all of them; scores (folds, models).

    Returns (models, models) float64, symmetric, 1 on the diagonal.
    Raises ValueError: as `average_ranks`.
    """
    ranks = average_ranks(scores)
    apart = np.abs(ranks[:, None] - ranks) / _rank_error(len(ranks), len(np.asarray(scores)))
    p_values = studentized_range.sf(math.sqrt(2) * apart, len(ranks), np.inf)
    np.fill_diagonal(p_values, 1.0)
    return np.minimum(p_values, 1.0)


def critical_difference(models: int, folds: int, alpha: float = 0.05) -> float:
    """How far apart the mean ranks of two models must be for p < alpha by Nemenyi's test.

    Raises ValueError: fewer than two models, no fold, alpha not between 0 and 1.
    """
    return _q(models, alpha) * _rank_error(models, folds)


def critical_difference_beside_paper(models: int = 4, folds: int = 5) -> CriticalDifferences:
    """The critical difference at 0.05 beside the one that the paper's q = 2.949 gives, which is q
    for as many models as `paper_q_models` says."""
    q, error = _q(models), _rank_error(models, folds)
    belongs_to = min(range(2, 21), key=lambda count: abs(_q(count) - PAPER_Q))
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


def holm(p_values: Any) -> np.ndarray:
    """Holm's step-down adjustment for several tests at once; (tests,) in and out (Holm 1979)."""
    p_values = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(p_values, kind="stable")
    left = np.arange(len(p_values), 0, -1)
    adjusted = np.empty_like(p_values)
    adjusted[order] = np.minimum(np.maximum.accumulate(p_values[order] * left), 1.0)
    return adjusted


def with_holm(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """`rows`, each with "p_value", and "p_holm" beside it; one without a p-value (None) counts as a
    test with p = 1 and gets None."""
    adjusted = holm([1.0 if row["p_value"] is None else row["p_value"] for row in rows])
    return [
        {**row, "p_holm": None if row["p_value"] is None else float(p)}
        for row, p in zip(rows, adjusted, strict=True)
    ]


def detection_power(
    shift: float = 1.0,
    *,
    models: int = 4,
    folds: int = 5,
    alpha: float = 0.05,
    experiments: int = 20_000,
    seed: int = 0,
) -> dict[str, float]:
    """How often the tests find one model that is better than the others, all equal, by `shift`.

    shift: in standard deviations of a model's score over the folds; scores are independent and
    normal, which real folds are not. The same seed gives the same shares.

    Returns {"friedman": share with an exact p ≤ alpha, "nemenyi_pair": share where the better model
    leads a given other one by the critical difference, "nemenyi_paper_q": the same with PAPER_Q}.
    Raises ValueError: as `critical_difference`.
    """
    error, q = _rank_error(models, folds), _q(models, alpha)
    random = np.random.default_rng(seed)
    scores = random.standard_normal((experiments, folds, models))
    scores[..., 0] += shift
    ranks = (-scores).argsort(axis=2).argsort(axis=2) + 1  # (experiments, folds, models), no ties
    sums = ranks.sum(axis=1)
    values, probabilities, _ = _null_of_ranks(np.tile(2 * np.arange(1, models + 1), (folds, 1)))
    tail = probabilities[::-1].cumsum()[::-1]
    critical = values[tail <= alpha].min(initial=np.iinfo(np.int64).max)
    lead = (sums[:, 1] - sums[:, 0]) / folds
    return {
        "friedman": float((4 * (sums**2).sum(axis=1) >= critical).mean()),
        "nemenyi_pair": float((lead >= q * error).mean()),
        "nemenyi_paper_q": float((lead >= PAPER_Q * error).mean()),
    }


def power_sentence(models: int = 4, folds: int = 5) -> str:
    """What that many folds can show, by `detection_power`."""
    power = {shift: detection_power(shift, models=models, folds=folds) for shift in (1.0, 2.0)}
    found = [
        f"{shift:.0f} standard deviation{'s' if shift > 1 else ''} between folds is found by "
        f"Friedman's test in {100 * share['friedman']:.0f} % of studies, and its lead over a given "
        f"other model by Nemenyi's in {100 * share['nemenyi_pair']:.0f} %"
        for shift, share in power.items()
    ]
    return (
        f"With {folds} folds and {models} models, a model better than all others by "
        f"{'; one better by '.join(found)} (simulated, independent normal scores). That nothing "
        "is significant therefore does not mean that the models are equal."
    )


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


def _rank_error(models: int, folds: int) -> float:
    if models < 2 or folds < 1:
        raise ValueError(f"needs two models and one fold or more: got {models} and {folds}")
    return math.sqrt(models * (models + 1) / (6 * folds))


def _q(models: int, alpha: float = 0.05) -> float:
    if models < 2 or not 0 < alpha < 1:
        raise ValueError(
            f"needs two models or more and alpha between 0 and 1: got {models} and {alpha}"
        )
    return float(studentized_range.ppf(1 - alpha, models, np.inf)) / math.sqrt(2)


def _standardised(mean: float, deviation: float) -> float | None:
    if deviation > 1e-9 * abs(mean):  # below: the rounding of equal differences
        return float(mean / deviation)
    return 0.0 if mean == 0 else None


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


def _null_of_ranks(doubled: np.ndarray) -> tuple[np.ndarray, np.ndarray, bool]:
    """Distribution of Σ_j S_j², S_j the sum of model j's doubled ranks, if the order is chance.

    doubled: (folds, models) int, twice the ranks, so that tied ones are whole. Friedman's χ² rises
    with this sum. Returns its values in rising order, their probabilities, and whether every way of
    dealing the ranks was counted or DEALT random ones.
    """
    enumerated = _enumerated(doubled)
    if enumerated is not None:
        return *enumerated, True
    random = np.random.default_rng(0)
    sums = np.zeros((DEALT, doubled.shape[1]), dtype=np.int64)
    for row in doubled:
        sums += random.permuted(np.tile(row, (DEALT, 1)), axis=1)
    values, counts = np.unique((sums**2).sum(axis=1), return_counts=True)
    return values, counts / DEALT, False


def _enumerated(doubled: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """The exact distribution, fold by fold; None where it would take too long.

    The rank sums reached so far are kept sorted: their order does not matter, as every order of the
    next fold's ranks is equally likely.
    """
    folds, models = doubled.shape
    base = int(doubled.max()) * folds + 1
    if math.factorial(models) > ENUMERATED or base**models >= 2**63:
        return None
    places = base ** np.arange(models)  # a sorted row of sums as one whole number
    states: np.ndarray = np.zeros((1, models), dtype=np.int64)
    weights: np.ndarray = np.ones(1)
    for row in doubled:
        orders = np.array(sorted(set(itertools.permutations(row.tolist()))))
        if len(states) * len(orders) > ENUMERATED:
            return None
        sums = np.sort((states[:, None] + orders).reshape(-1, models), axis=1)
        codes, state = np.unique(sums @ places, return_inverse=True)
        weights = np.bincount(state, np.repeat(weights / len(orders), len(orders)))
        states = codes[:, None] // places % base
    values, state = np.unique((states**2).sum(axis=1), return_inverse=True)
    return values, np.bincount(state, weights)
