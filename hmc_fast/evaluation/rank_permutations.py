"""The distribution of Friedman's statistic if the order of the models is chance in every fold."""

import itertools
import math

import numpy as np

ENUMERATED = 2_000_000  # rows a fold may add to the exact distribution: half a second and GB
DEALT = 99_999


def exact_p_value(doubled: np.ndarray) -> tuple[float, bool]:
    """Share of all deals of each fold's ranks to the models that are as extreme as `doubled`.

    doubled: (folds, models) int, twice the ranks, so that tied ones are whole. Returns the share
    and True; where the deals are too many, (b + 1) / (DEALT + 1), b of DEALT seeded ones being as
    extreme, and False.
    """
    values, probabilities, enumerated = null_of_ranks(doubled)
    observed = int((doubled.sum(axis=0) ** 2).sum())
    exact = float(probabilities[values >= observed].sum())
    if not enumerated:
        exact = (exact * DEALT + 1) / (DEALT + 1)
    return min(exact, 1.0), enumerated


def null_of_ranks(doubled: np.ndarray) -> tuple[np.ndarray, np.ndarray, bool]:
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
