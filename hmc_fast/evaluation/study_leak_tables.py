"""The leak study: one network and one budget, with less and less kept apart.

Only `patient` estimates anything. The others show what a test set that is not independent does to
the figures.
"""

from typing import Any

from hmc_fast.evaluation.report.wording import percent
from hmc_fast.evaluation.study_comparisons import (
    FIRST_METRICS,
    LEVEL,
    RESAMPLES,
    leak_differences,
)
from hmc_fast.evaluation.study_runs import Run, Study, ends_of, word
from hmc_fast.evaluation.study_table import StudyTable

BOTH_SIDES = {
    "patient": "nothing",
    "image": "films of one patient",
    "leaky": "augmented copies of the test images",
}
LABELS = {
    "patient": "an estimate for new patients of the same kind",
    "image": "image: not an estimate of anything",
    "leaky": "leaky: not an estimate of anything",
}
LEFT_OUT = "The leak study: it was not part of this study."


def leak_table(study: Study) -> StudyTable | str:
    """A row a protocol: what stands on both sides of the split, and the figures it gives."""
    if not study["leak"]:
        return LEFT_OUT
    header = ["protocol", "on both sides of the split", "what the figures are"]
    for metric in FIRST_METRICS:
        header += [word(metric), f"{word(metric)} low", f"{word(metric)} high"]
    first = study["leak"][0]
    majority = first["metrics"]["majority"]
    always: list[Any] = [f"always “{majority['class']}”", "", "without any image"]
    for metric in FIRST_METRICS:
        always += [majority[metric], None, None]
    return StudyTable(
        "leak_study",
        f"The leak study: {first['variant']} under three protocols",
        [*header, "steps a fold"],
        [*(_row(run) for run in study["leak"]), [*always, None]],
        [
            "The same network, budget and seed. Intervals are over patients; under the leaking "
            "protocols they say nothing about new ones, as test and training images are not "
            "independent."
        ],
    )


def leak_difference_table(study: Study) -> StudyTable | str:
    """Each leaking protocol minus the honest one, on the same images."""
    differences = leak_differences(study)
    if not differences:
        return LEFT_OUT
    rows = []
    for protocol, by_metric in differences.items():
        for metric in FIRST_METRICS:
            row = by_metric[metric]
            figures = [row["difference"], *ends_of(row), row["p_value"], row["p_holm"]]
            rows.append([f"{protocol} minus patient", word(metric), *figures])
    return StudyTable(
        "leak_differences",
        "The leak study: what each leak adds",
        ["protocols", "metric", "difference", "low", "high", "p", "p, Holm"],
        rows,
        [
            f"Every image is predicted once under each protocol; {percent(LEVEL)} intervals by "
            f"{RESAMPLES} draws of whole patients, both protocols on the same ones."
        ],
    )


def _row(run: Run) -> list[Any]:
    protocol, pooled = run["protocol"], run["metrics"]["pooled"]
    row = [protocol, BOTH_SIDES[protocol], LABELS[protocol]]
    for metric in FIRST_METRICS:
        row += [pooled[metric], *(pooled["intervals"][metric] or [None, None])]
    steps = dict.fromkeys((min(run["steps"]), max(run["steps"])))
    return [*row, " to ".join(map(str, steps))]
