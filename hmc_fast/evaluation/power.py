"""What can a number of folds show? The power of the rank tests, by simulation."""

import numpy as np

from hmc_fast.evaluation.rank_permutations import null_of_ranks
from hmc_fast.evaluation.statistics import PAPER_Q, nemenyi_q, rank_error


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
    error, q = rank_error(models, folds), nemenyi_q(models, alpha)
    random = np.random.default_rng(seed)
    scores = random.standard_normal((experiments, folds, models))
    scores[..., 0] += shift
    ranks = (-scores).argsort(axis=2).argsort(axis=2) + 1  # (experiments, folds, models), no ties
    sums = ranks.sum(axis=1)
    values, probabilities, _ = null_of_ranks(np.tile(2 * np.arange(1, models + 1), (folds, 1)))
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
