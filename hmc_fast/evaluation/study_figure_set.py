"""All figures of a study by name; those that make no sense for it are left out."""

from collections.abc import Mapping, Sequence
from typing import Any

from hmc_fast.evaluation.calibration import calibration
from hmc_fast.evaluation.figures import STYLE, short
from hmc_fast.evaluation.statistics import average_ranks
from hmc_fast.evaluation.study_figures import (
    SPREAD_METRICS,
    StudyFigure,
    architecture,
    confusion,
    critical_difference_diagram,
    curves,
    heatmap_panels,
    leak_figure,
    metric_spread,
    reliability_diagram,
    roc_with_intervals,
)
from hmc_fast.evaluation.study_rank_tables import PAPER_METRIC
from hmc_fast.evaluation.study_runs import (
    RankSet,
    Run,
    Study,
    fold_scores,
    names_of,
    paper_runs,
    rank_sets,
)

OVERALL = ("accuracy", "balanced_accuracy", "auc")
BY_CLASS = ("precision", "sensitivity", "specificity", "f1")  # means over the classes
FIRST = "hmc"  # whose confusion matrix, curves and ROC are shown, where it ran


def study_figures_of(
    study: Study, outline: Sequence[Mapping[str, Any]] | None = None
) -> dict[str, StudyFigure]:
    """The figures that `study_figures.save` writes and the report shows, by the name of their file.

    study: "runs", "leak", "explanations" and "dataset"; outline: what `models.outline.outline` read
    off the first model, None for no drawing of it. The paper's number stands in a name where the
    paper has such a figure; "b" is the same of all models.
    """
    drawn = {} if outline is None else {"fig4_architecture": architecture(outline)}
    if study["runs"]:
        drawn |= _spreads(study) | _of_one_run(study) | _ranks(study) | _probabilities(study)
    if study["leak"]:
        drawn["leak"] = leak_figure(study["leak"])
    explanations = study["explanations"]
    if explanations is not None and explanations["panels"]:
        drawn["fig9_10_heatmaps"] = heatmap_panels(explanations["panels"])
    return drawn


def _spreads(study: Study) -> dict[str, StudyFigure]:
    ours, every = _main_runs(study), study["runs"]
    drawn = {
        "fig5_metric_spread": _spread(ours, OVERALL),
        "fig6_metric_spread": _spread(ours, BY_CLASS),
    }
    if len(every) > len(ours):
        drawn["fig5b_metric_spread"] = _spread(every, SPREAD_METRICS)
    return drawn


def _spread(runs: Sequence[Run], metrics: Sequence[str]) -> StudyFigure:
    return metric_spread(
        {run["name"]: run["metrics"]["per_fold"] for run in runs},
        metrics=metrics,
        majority=runs[0]["metrics"]["majority"],
    )


def _of_one_run(study: Study) -> dict[str, StudyFigure]:
    run, classes = _first_run(study), study["dataset"]["classes"]
    return {
        "fig7_confusion": _of(run, confusion(run["metrics"]["pooled"]["confusion"], classes)),
        "fig8_curves": _of(run, curves(run["history"])),
    }


def _of(run: Run, drawn: StudyFigure) -> StudyFigure:
    """`drawn` with the name of the run that it is of."""
    drawn.figure.axes[0].set_title(
        short(run["name"]), loc="left", fontsize=STYLE["font.size"], parse_math=False
    )
    return drawn


def _ranks(study: Study) -> dict[str, StudyFigure]:
    """The paper's models, and all where there are others; the ranks are those of Tables 8 and 9."""
    found = {
        f"fig11{'b' if models.suffix else ''}_critical_difference": _diagram(models)
        for models in rank_sets(study)
    }
    return {name: drawn for name, drawn in found.items() if drawn is not None}


def _diagram(models: RankSet) -> StudyFigure | None:
    scores = fold_scores(models.runs, PAPER_METRIC)
    if scores is None:
        return None
    return critical_difference_diagram(average_ranks(scores), names_of(models.runs), len(scores))


def _probabilities(study: Study) -> dict[str, StudyFigure]:
    run, classes = _first_run(study), study["dataset"]["classes"]
    calibrated = {
        run["name"]: calibration(
            run["labels"], run["probabilities"], run["patients"], classes,
            resamples=1,  # the intervals are in the table
        )
        for run in _main_runs(study)
    }  # fmt: skip
    roc = roc_with_intervals(run["labels"], run["probabilities"], run["patients"], classes)
    return {"calibration": reliability_diagram(calibrated), "roc": _of(run, roc)}


def _main_runs(study: Study) -> list[Run]:
    return paper_runs(study) or list(study["runs"])


def _first_run(study: Study) -> Run:
    named = (run for run in study["runs"] if run["variant"] == FIRST)
    return next(named, study["runs"][0])
