"""What a study shows and what it does not, in sentences made from its numbers.

A model leads another on one ground alone: the difference on the same patients, with its interval
and Holm's adjustment (`study_comparisons`). Ranks over the folds stand beside it, with their power.
"""

from collections.abc import Iterable, Sequence

from hmc_fast.evaluation import paper
from hmc_fast.evaluation.comparison_findings import (
    difference_sentences,
    leak_sentences,
    p_text,
    with_interval,
)
from hmc_fast.evaluation.power import power_sentence
from hmc_fast.evaluation.report.wording import (
    ABSENT,
    ROUNDING,
    gamma_sentence,
    number,
    only_class,
)
from hmc_fast.evaluation.statistics import (
    average_ranks,
    critical_difference,
    friedman_test,
    nemenyi_test,
)
from hmc_fast.evaluation.study_rank_tables import ALPHA, FEWEST_FOR_FRIEDMAN, PAPER_METRIC
from hmc_fast.evaluation.study_runs import RankSet, Run, Study, fold_scores, names_of, rank_sets
from hmc_fast.sentences import counted


def findings(study: Study) -> list[str]:
    """The sentences, in the order of the paragraph.

    Raises ValueError: no run, or runs that have not predicted the same images.
    """
    if not study["runs"]:
        raise ValueError("a study needs one finished run or more: got none")
    return [
        *majority_sentences(study["runs"]),
        *difference_sentences(study),
        *(sentence for run in study["runs"] if (sentence := attention_sentence(run))),
        *(sentence for models in rank_sets(study) for sentence in rank_sentences(models)),
        *leak_sentences(study),
        *localisation_sentences(study),
    ]


def majority_sentences(runs: Sequence[Run]) -> list[str]:
    """Which models learned more than the most frequent class, by their balanced accuracy."""
    majority = runs[0]["metrics"]["majority"]
    chance = majority["balanced_accuracy"]
    above: list[str] = []
    others: list[str] = []
    constant: list[str] = []
    for run in runs:
        pooled = run["metrics"]["pooled"]
        if name := only_class(pooled):
            constant.append(_one_class(run["name"], name, pooled["balanced_accuracy"]))
            continue
        ends = pooled["intervals"]["balanced_accuracy"]
        text = f"{run['name']} {with_interval(pooled['balanced_accuracy'], ends)}"
        (above if ends[0] > chance + ROUNDING else others).append(text)
    always = f"always predicting “{majority['class']}” (balanced accuracy {number(chance)})"
    sentences = []
    if above:
        sentences.append(f"More than {always} was learned by: {', '.join(above)}.")
    if others:
        sentences.append(
            f"No more than {always} is shown, as the interval does not lie above it, by: "
            f"{', '.join(others)}."
        )
    return [*sentences, *constant]


def _one_class(model: str, name: str, balanced_accuracy: float) -> str:
    """Of a model whose interval has no width: every draw of patients gives the same."""
    return (
        f"{model} predicts “{name}” for every image (balanced accuracy "
        f"{number(balanced_accuracy)}): no more than that is shown."
    )


def attention_sentence(run: Run) -> str:
    """Each block's gamma and what follows from it; '' for a model without attention."""
    per_fold = run["metrics"]["per_fold"]
    verdict = gamma_sentence(per_fold)
    if not verdict:
        return ""
    blocks = dict.fromkeys(block for fold in per_fold for block in fold["gamma"])
    spans = [f"{block} {_span(fold['gamma'].get(block) for fold in per_fold)}" for block in blocks]
    return f"Gamma of {run['name']}, lowest to highest fold: {', '.join(spans)}. {verdict}"


def _span(values: Iterable[float | None]) -> str:
    """'-0.4000 to 0.4000': a mean of both signs would look like no attention."""
    found = [value for value in values if value is not None]
    if not found:
        return ABSENT
    return " to ".join(dict.fromkeys((number(min(found), 4), number(max(found), 4))))


def rank_sentences(models: RankSet) -> list[str]:
    """Ranks of the accuracy over the folds, the tests, and how little they can show."""
    scores, names = fold_scores(models.runs, PAPER_METRIC), names_of(models.runs)
    if scores is None:
        return []
    folds, count = scores.shape
    ranks = [f"{n} {r:.2f}" for n, r in zip(names, average_ranks(scores), strict=True)]
    p_values, limit = nemenyi_test(scores), critical_difference(count, folds, ALPHA)
    apart = [
        f"{names[i]} and {names[j]}"
        for i in range(count)
        for j in range(i + 1, count)
        if p_values[i, j] < ALPHA
    ]
    friedman, power = "", []
    if count >= FEWEST_FOR_FRIEDMAN:
        friedman = f"Friedman's exact {p_text(friedman_test(scores).exact_p_value)}; "
        power = [power_sentence(count, folds)]
    return [
        f"Beside this, mean ranks of the accuracy over {counted(folds, 'fold')}: "
        f"{', '.join(ranks)}; {friedman}{', '.join(apart) if apart else 'no pair'} further apart "
        f"than Nemenyi's critical difference of {number(limit)}.",
        *power,
    ]


def localisation_sentences(study: Study) -> list[str]:
    """The IoU of the maps against what maps of so few cells can reach, ours and the paper's."""
    explanations = study["explanations"]
    if explanations is None:
        return []
    rows = [row for row in explanations["table"] if row["figure"] == "iou" and row["bound"]]
    bounds = {row["layer"]: (row["bound"], _films(row)) for row in rows}
    sentences = []
    for layer, (bound, films) in bounds.items():
        values = [
            f"{row['method']} {with_interval(row['mean'], _ends(row))} "
            f"({row['images']} of {counted(_films(row), 'film')})"
            for row in rows
            if row["layer"] == layer and row["mean"] is not None
        ]
        sentences.append(
            f"Mean IoU of the maps of {explanations['variant']} at {layer}: "
            f"{', '.join(values) or 'undefined'}; no map of so few cells can pass {number(bound)} "
            f"on {paper.these_masks(films)}."
        )
    if _like_the_papers(study) and paper.LAYER in bounds:
        above = paper.above_bound(*bounds[paper.LAYER])
        sentences += [f"The {above}."] if above else []
    return sentences


def _like_the_papers(study: Study) -> bool:
    """Whether the maps are of the paper's data and have as many cells as its own."""
    sizes = {run["config"]["image_size"] for run in study["runs"]}
    return study["dataset"]["mias"] and sizes == {paper.PIXELS}


def _films(row: Study) -> int:
    """All films of a row: each has a lesion, and so a mask that the bound is of."""
    return row["images"] + row["left_out"]


def _ends(row: Study) -> list[float] | None:
    return None if row["low"] is None else [row["low"], row["high"]]
