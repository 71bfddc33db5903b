"""Sentences on differences: of two models, and of a leaking protocol from the honest one."""

from collections.abc import Mapping, Sequence
from typing import Any

from hmc_fast.evaluation.report.wording import ROUNDING, interval, number, percent
from hmc_fast.evaluation.study_comparisons import (
    FIRST_METRICS,
    LEVEL,
    attention_off,
    leak_differences,
    model_pairs,
)
from hmc_fast.evaluation.study_leak_tables import BOTH_SIDES
from hmc_fast.evaluation.study_runs import Study, pair_of, word
from hmc_fast.sentences import counted

MAIN = "balanced_accuracy"
MOST_LISTED = 6
SMALLEST_P = 0.001


def difference_sentences(study: Study) -> list[str]:
    """Which models lead on the same patients, which pairs cannot be told apart."""
    pairs = model_pairs(study)
    if not pairs:
        return ["There is one model only: nothing is compared."]
    off = attention_off(study["runs"])
    judged = [row for row in pairs if not {row["first"], row["second"]} & off]
    of_main = [row for row in judged if row["metric"] == MAIN]
    sentences = _leads([row for row in of_main if row["better"]])
    sentences += _undecided([row for row in of_main if not row["better"]])
    if off:
        names = [run["name"] for run in study["runs"] if run["name"] in off]
        sentences.append(
            f"The attention of {', '.join(names)} is practically off: such a model is a ResNet50 "
            "with other random numbers, and none is called better or worse than another."
        )
    return sentences + _other_metrics(judged)


def leak_sentences(study: Study) -> list[str]:
    """What each leak adds to the balanced accuracy; that it estimates nothing."""
    runs, sentences = {run["protocol"]: run for run in study["leak"]}, []
    for protocol, by_metric in leak_differences(study).items():
        row, pooled = by_metric[MAIN], runs[protocol]["metrics"]["pooled"]
        value, honest = pooled[MAIN], runs["patient"]["metrics"]["pooled"][MAIN]
        plain = row["p_holm"] < 1 - LEVEL or _rounds_to_nothing(row["difference"])
        chance = "" if plain else ", which chance alone can give"
        sentences.append(
            f"With {BOTH_SIDES[protocol]} on both sides of the split the balanced accuracy of "
            f"{runs[protocol]['variant']} is {number(value)} instead of {number(honest)}, "
            f"{_signed(row['difference'])} ({_spread(row['interval'], ' of the difference')}, "
            f"{p_text(row['p_holm'])}){chance}: this is not an estimate of anything."
        )
    return sentences


def with_interval(value: float | None, ends: Sequence[float] | None) -> str:
    """'0.842 (95 % interval 0.758 to 0.908)'."""
    return number(value) if ends is None else f"{number(value)} ({_spread(ends)})"


def p_text(p_value: float) -> str:
    """'p = 0.012' or 'p < 0.001'."""
    return f"p < {SMALLEST_P}" if p_value < SMALLEST_P else f"p = {number(p_value)}"


def _leads(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """A sentence for each model that leads another."""
    sentences = []
    for leader in dict.fromkeys(row["better"] for row in rows):
        behind = []
        for row in (row for row in rows if row["better"] == leader):
            low, high = row["interval"]
            first = row["first"] == leader
            other, ends = (row["second"], [low, high]) if first else (row["first"], [-high, -low])
            by = with_interval(abs(row["difference"]), ends)
            behind.append(f"that of {other} by {by}, {p_text(row['p_holm'])}")
        sentences.append(
            f"On the same patients the {word(MAIN)} of {leader} is higher than {'; '.join(behind)} "
            "(p by Holm over all pairs)."
        )
    return sentences


def _undecided(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    if not rows:
        return []
    listed = [
        f"{pair_of(row)} {with_interval(row['difference'], row['interval'])}"
        for row in rows[:MOST_LISTED]
    ]
    if more := len(rows) - len(listed):
        listed.append(f"and {counted(more, 'more pair')}")
    return [
        f"Not told apart by their {word(MAIN)} after Holm's adjustment (an interval is of its pair "
        f"alone): {'; '.join(listed)}. This does not show that they are equal."
    ]


def _other_metrics(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """How many pairs the other metrics tell apart."""
    found = []
    for metric in FIRST_METRICS:
        of_metric = [row for row in rows if row["metric"] == metric]
        if metric != MAIN and of_metric:
            apart = sum(row["better"] is not None for row in of_metric)
            found.append(f"{apart} of {counted(len(of_metric), 'pair')} by {word(metric)}")
    if not found:
        return []
    return [f"Told apart are {' and '.join(found)}; the intervals stand in the table."]


def _spread(ends: Sequence[float], of_what: str = "") -> str:
    """The interval; one without width is no certainty, so it is not called an interval."""
    if ends[1] - ends[0] <= ROUNDING:
        return "every draw of patients gives the same"
    return f"{percent(LEVEL)} interval{of_what} {interval(ends)}"


def _rounds_to_nothing(difference: float) -> bool:
    return number(abs(difference)) == number(0)


def _signed(difference: float) -> str:
    if _rounds_to_nothing(difference):
        return "no difference"
    direction = "more" if difference > 0 else "less"
    return f"{number(abs(difference))} {direction}"
