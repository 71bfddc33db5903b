"""What the tables of the study ask of its runs: which belong together, their scores, their names.

A run is a mapping with "name", "variant", "images", "patients", "folds", "labels", "probabilities"
(out of fold, one row an image, the same images in every run of a study) and "metrics", as
`summary.metrics_document` gives them.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from hmc_fast.evaluation import paper

WORDS = {"auc": "AUC", "f1": "F1", "brier": "Brier score"}
Run = Mapping[str, Any]
Study = Mapping[str, Any]


class RankSet(NamedTuple):
    """Models that are ranked against each other: the suffix of a table's name, and of its title."""

    suffix: str
    title: str
    runs: list[Run]


def word(metric: str) -> str:
    """The name of a metric in a table."""
    return WORDS.get(metric, metric.replace("_", " "))


def pair_of(row: Mapping[str, Any]) -> str:
    """The name of a row that compares "first" with "second"."""
    return f"{row['first']} and {row['second']}"


def ends_of(row: Mapping[str, Any]) -> list[float | None]:
    """Low and high of a row's "interval"; two empty cells where it has none."""
    return list(row["interval"] or [None, None])


def every_run(study: Study) -> list[Run]:
    """The runs, and those of the leak study that are not among them."""
    names = names_of(study["runs"])
    return [*study["runs"], *(run for run in study["leak"] if run["name"] not in names)]


def paper_runs(study: Study) -> list[Run]:
    """The runs of the paper's four models, as many as there are."""
    return [run for run in study["runs"] if run["variant"] in paper.MODELS]


def rank_sets(study: Study) -> list[RankSet]:
    """The paper's models and, where there are others, all: a mean rank depends on who is ranked."""
    ours, every = paper_runs(study), list(study["runs"])
    sets = [RankSet("", "", ours)] if len(ours) > 1 else []
    if len(every) > max(len(ours), 1):
        sets.append(RankSet("_all", f", all {len(every)} models", every))
    return sets


def common_folds(runs: Sequence[Run]) -> list[int]:
    """The folds that every run has finished."""
    found = [{fold["fold"] for fold in run["metrics"]["per_fold"]} for run in runs]
    return sorted(set.intersection(*found)) if found else []


def of_fold(run: Run, fold: int, metric: str) -> float | None:
    """A metric in one fold; None where the fold is missing or the metric undefined there."""
    rows = [row for row in run["metrics"]["per_fold"] if row["fold"] == fold]
    return rows[0][metric] if rows else None


def fold_scores(runs: Sequence[Run], metric: str) -> np.ndarray | None:
    """(folds, models) of a metric over the common folds; None where there is none, or the metric is
    undefined in one."""
    folds = common_folds(runs)
    values = [[of_fold(run, fold, metric) for run in runs] for fold in folds]
    if not values or any(value is None for row in values for value in row):
        return None
    return np.array(values, dtype=np.float64)


def names_of(runs: Sequence[Run]) -> list[str]:
    """The names of some runs."""
    return [run["name"] for run in runs]


def probabilities_of(runs: Sequence[Run]) -> dict[str, np.ndarray]:
    """{name: (n, C)} of runs that have predicted the same images.

    Raises ValueError: two runs differ in their images or labels.
    """
    first = runs[0]
    for run in runs[1:]:
        if list(run["images"]) != list(first["images"]) or not np.array_equal(
            run["labels"], first["labels"]
        ):
            raise ValueError(
                f"runs {first['name']} and {run['name']} have not predicted the same images in the "
                "same order: finish every fold of both"
            )
    return {run["name"]: np.asarray(run["probabilities"]) for run in runs}
