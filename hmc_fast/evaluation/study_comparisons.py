"""The comparisons that may be called better or worse: every pair of runs on the same patients.

Differences of pooled out-of-fold predictions, with intervals by drawing patients and Holm's
adjustment over the pairs of a metric (`pairs.pairwise_bootstrap`).
"""

from collections.abc import Sequence
from typing import Any

from hmc_fast.evaluation.pairs import pairwise_bootstrap
from hmc_fast.evaluation.report.wording import ATTENTION_OFF
from hmc_fast.evaluation.study_runs import Run, Study, probabilities_of

RESAMPLES = 10_000
LEVEL = 0.95
FIRST_METRICS = ("balanced_accuracy", "accuracy", "auc")


def model_pairs(study: Study) -> list[dict[str, Any]]:
    """Rows of `pairwise_bootstrap` for every pair of the study's runs; [] for fewer than two.

    Neither model of a pair is "better" where the attention of one is off: it is then a ResNet50
    with other random numbers.
    Raises ValueError: runs that have not predicted the same images.
    """
    off = attention_off(study["runs"])
    rows = _pairs(study["runs"], study["dataset"]["classes"])
    return [row | {"better": None} if {row["first"], row["second"]} & off else row for row in rows]


def attention_off(runs: Sequence[Run]) -> set[str]:
    """Names of the runs with attention blocks whose every |gamma| is below ATTENTION_OFF."""
    found = set()
    for run in runs:
        gammas = [g for fold in run["metrics"]["per_fold"] for g in fold["gamma"].values()]
        if gammas and all(gamma is not None and abs(gamma) < ATTENTION_OFF for gamma in gammas):
            found.add(run["name"])
    return found


def leak_differences(study: Study) -> dict[str, dict[str, dict[str, Any]]]:
    """{protocol: {metric: row}} of the leak study, in its order: each protocol minus `patient`; {}
    without it.

    Raises ValueError: as `model_pairs`.
    """
    # in reverse, so that a difference is a leaking protocol minus the honest one
    rows = _pairs(study["leak"][::-1], study["dataset"]["classes"])
    protocols = {run["name"]: run["protocol"] for run in study["leak"]}
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for row in rows:
        if protocols[row["second"]] == "patient":
            found.setdefault(protocols[row["first"]], {})[row["metric"]] = row
    return {name: found[name] for name in protocols.values() if name in found}


def _pairs(runs: Sequence[Run], classes: list[str]) -> list[dict[str, Any]]:
    if len(runs) < 2:
        return []
    first = runs[0]
    return pairwise_bootstrap(
        first["labels"],
        probabilities_of(runs),
        first["patients"],
        classes,
        resamples=RESAMPLES,
        level=LEVEL,
    )
