"""Tables 8 and 9: do the models' ranks over the folds differ? Beside the paper's own figures.

Ranks over five folds can show very little (`power`), and a p-value of folds that share most of
their training images says less than it seems to: what may be called better rests on patients
(`study_comparisons`).
"""

from typing import Any

from hmc_fast.evaluation import paper
from hmc_fast.evaluation.power import detection_power, power_sentence
from hmc_fast.evaluation.repeated import corrected_t_table
from hmc_fast.evaluation.statistics import (
    average_ranks,
    critical_difference_beside_paper,
    friedman_test,
    nemenyi_test,
    pairwise_table,
)
from hmc_fast.evaluation.study_runs import (
    RankSet,
    common_folds,
    ends_of,
    fold_scores,
    names_of,
    pair_of,
    word,
)
from hmc_fast.evaluation.study_table import StudyTable

RANKED = ("accuracy", "balanced_accuracy", "auc")
PAPER_METRIC = "accuracy"  # of its Tables 8 and 9
PAPER_NOTE = (
    "By which metric the paper ranks was not at hand: its figure stands in the row of the accuracy."
)
ALPHA = 0.05
FEWEST_FOR_FRIEDMAN = 3
SHIFTS = (0.5, 1.0, 2.0, 3.0)


def rank_table(models: RankSet) -> StudyTable:
    """Mean rank of each model over the folds, by each of RANKED."""
    metrics = {
        name: scores for name in RANKED if (scores := fold_scores(models.runs, name)) is not None
    }
    ranks = [average_ranks(scores) for scores in metrics.values()]
    rows = [
        [run["name"], *(float(of_metric[place]) for of_metric in ranks)]
        for place, run in enumerate(models.runs)
    ]
    header = ["model", *(word(name) for name in metrics)]
    if _is_paper(models):
        header.append("paper")
        for row, run in zip(rows, models.runs, strict=True):
            row.append(paper.RANKS.get(run["variant"]))
    return StudyTable(
        f"ranks{models.suffix}",
        f"Mean ranks over the folds{models.title}",
        header,
        rows,
        [
            "1 is the best model of every fold; tied ones share their mean rank.",
            *_undefined(models),
        ],
        digits=2,
    )


def friedman_table(models: RankSet) -> StudyTable | str:
    """Friedman's test, by the approximation and exactly, and the agreement of the folds."""
    if len(models.runs) < FEWEST_FOR_FRIEDMAN:
        return f"Friedman's test{models.title}: it needs three models or more."
    rows = []
    for name in RANKED:
        if (scores := fold_scores(models.runs, name)) is not None:
            rows.append([word(name), *friedman_test(scores)])
            rows[-1] += [_paper_p(name)] if _is_paper(models) else []
    header = ["metric", "chi²", "p of chi²", "p exact", "all deals counted", "Kendall's W"]
    return StudyTable(
        f"friedman{models.suffix}",
        f"Friedman's test{models.title}",
        header + (["paper p"] if _is_paper(models) else []),
        rows,
        [
            "The exact p counts every way of dealing the ranks of each fold to the models; where "
            "these are too many, 99 999 seeded deals stand for them.",
            *([PAPER_NOTE] if _is_paper(models) else []),
            *_undefined(models),
        ],
        digits=4,
    )


def nemenyi_table(models: RankSet) -> StudyTable:
    """Table 8: Nemenyi's p of every pair, the paper's in columns of their own."""
    names, p_values = names_of(models.runs), nemenyi_test(fold_scores(models.runs, PAPER_METRIC))
    header = ["model", *names]
    rows = [[name, *row] for name, row in zip(names, p_values.tolist(), strict=True)]
    if _is_paper(models):
        header += [f"paper p, {name}" for name in names]
        for row, run in zip(rows, models.runs, strict=True):
            row += [paper.nemenyi_p(run["variant"], other["variant"]) for other in models.runs]
    return StudyTable(
        f"table8_nemenyi{models.suffix}",
        f"Table 8. Nemenyi's p-values of the accuracy{models.title}",
        header,
        rows,
        ["Already adjusted for all pairs. A large p does not show that two models are equal."],
        digits=4,
    )


def pairwise_rank_table(models: RankSet) -> StudyTable:
    """Table 9: every pair with effect sizes and an interpretation."""
    by_name = {run["name"]: run["variant"] for run in models.runs}
    rows = []
    for row in pairwise_table(fold_scores(models.runs, PAPER_METRIC), list(by_name)):
        first, second, *figures = row.values()
        rows.append([pair_of(row), *figures])
        if _is_paper(models):
            rows[-1].append(paper.nemenyi_p(by_name[first], by_name[second]))
    header = ["pair", "mean difference", "rank difference", "p", "p < 0.05", "d, paired"]
    header += ["d, pooled sd", "Cliff's delta", "wins", "ties", "losses", "interpretation"]
    return StudyTable(
        f"table9_pairwise{models.suffix}",
        f"Table 9. Pairs by the accuracy of the folds{models.title}",
        header + (["paper p"] if _is_paper(models) else []),
        rows,
        [
            "Differences are of the first model minus the second; a positive rank difference is a "
            "lead of the first. p is Nemenyi's. Cohen's d of pairs divides by the sd of the "
            "differences; d of the pooled sd forgets that folds are paired, as one must with a "
            "table of means and sds alone."
        ],
    )


def critical_difference_table(models: RankSet) -> StudyTable:
    """The right q and critical difference; where the models are four, beside the paper's."""
    count, folds = len(models.runs), len(common_folds(models.runs))
    found = critical_difference_beside_paper(count, folds)
    rows: list[list[Any]] = [
        ["q at 0.05", found.q],
        ["critical difference", found.value],
        ["models that q belongs to", count],
    ]
    header = ["figure", f"{count} models, {folds} folds"]
    if _is_paper(models):
        header.append("paper")
        printed = (found.paper_q, paper.CRITICAL_DIFFERENCE, found.paper_q_models)
        for row, figure in zip(rows, printed, strict=True):
            row.append(figure)
    return StudyTable(
        f"critical_difference{models.suffix}",
        f"Critical difference of mean ranks{models.title}",
        header,
        rows,
        [found.sentence] if _is_paper(models) else [],
    )


def power_table(models: RankSet) -> StudyTable | str:
    """How often so many folds find a difference that is there."""
    if len(models.runs) < FEWEST_FOR_FRIEDMAN:
        return f"The power of the rank tests{models.title}: it needs three models or more."
    count, folds = len(models.runs), len(common_folds(models.runs))
    header = ["lead in sd of the folds", "Friedman", "Nemenyi, a given pair"]
    header += ["the same with q for 7 models"] if _is_paper(models) else []
    powers = [detection_power(shift, models=count, folds=folds) for shift in SHIFTS]
    rows = [
        [shift, *power.values()][: len(header)] for shift, power in zip(SHIFTS, powers, strict=True)
    ]
    return StudyTable(
        f"power{models.suffix}",
        f"Power: how often {count} models over {folds} folds show that one is better",
        header,
        rows,
        [power_sentence(count, folds)],
    )


def corrected_t(models: RankSet) -> StudyTable | str:
    """Nadeau and Bengio's test of every pair, of the balanced accuracy of the folds."""
    scores, folds = fold_scores(models.runs, "balanced_accuracy"), common_folds(models.runs)
    if scores is None or len(folds) < 2:
        return f"The corrected t-test{models.title}: it needs two finished folds or more."
    rows = []
    of_validation = models.runs[0]["config"]["folds"]  # also where not all of them are finished
    for row in corrected_t_table(scores, names_of(models.runs), of_validation):
        figures = [row[key] for key in ("statistic", "p_value", "p_holm")]
        rows.append([pair_of(row), row["mean"], row["error"], *ends_of(row), *figures])
    return StudyTable(
        f"corrected_t{models.suffix}",
        f"Corrected resampled t-test of the balanced accuracy{models.title}",
        ["pair", "mean difference", "error", "low", "high", "t", "p", "p, Holm"],
        rows,
        [
            f"One cross-validation, so {len(folds)} differences and {len(folds) - 1} degrees of "
            "freedom: the variance is enlarged for the training images that folds share (Nadeau "
            "and Bengio 2003), a rule of thumb. Only training again, with other folds and seeds, "
            "would show how far the difference moves."
        ],
    )


def _is_paper(models: RankSet) -> bool:
    """Whether these are exactly the models that the paper ranks: ranks of others do not compare."""
    return sorted(run["variant"] for run in models.runs) == sorted(paper.MODELS)


def _paper_p(metric: str) -> float | None:
    return paper.FRIEDMAN_P if metric == PAPER_METRIC else None


def _undefined(models: RankSet) -> list[str]:
    """A sentence on the metrics that no rank can be given by."""
    missing = [word(name) for name in RANKED if fold_scores(models.runs, name) is None]
    if not missing:
        return []
    return [f"Not ranked by {' and '.join(missing)}: it is undefined in a fold."]
