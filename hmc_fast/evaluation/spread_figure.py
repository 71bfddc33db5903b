"""Every fold's value of each metric and model."""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from hmc_fast.evaluation.figure_table import GREY, MARKERS, StudyFigure
from hmc_fast.evaluation.figures import COLOURS, PAGE, STYLE, short
from hmc_fast.evaluation.study_runs import word

SPREAD_METRICS = ("accuracy", "sensitivity", "specificity", "precision", "f1", "auc")


def metric_spread(
    per_fold: Mapping[str, Sequence[Mapping[str, Any]]],
    *,
    metrics: Sequence[str] = SPREAD_METRICS,
    majority: Mapping[str, float | None] | None = None,
) -> StudyFigure:
    """Every fold's value of each metric and model, with mean ± sd (n - 1): the paper's Fig. 5, 6.

    per_fold: {model: [{"fold", metric: value or None, ...}, ...]}, as metrics.json has it, a fold
    number once a model; majority: {metric: value} of always giving the most frequent class, a
    dashed line. A thin line joins the models of one fold.
    Raises ValueError: no model or no metric.
    """
    if not per_fold or not metrics:
        raise ValueError(
            f"needs a model and a metric or more: got {len(per_fold)} and {len(metrics)}"
        )
    models = list(per_fold)
    rows: list[list[Any]] = []
    with matplotlib.rc_context(STYLE):
        columns = 2 if len(metrics) == 4 else min(3, len(metrics))
        lines = -(-len(metrics) // columns)
        figure = Figure(figsize=(PAGE, 2.0 * lines + 0.3), layout="constrained")
        grid = figure.subplots(lines, columns, sharex=True, squeeze=False)
        for axes in grid.flat[len(metrics) :]:
            axes.set_axis_off()
        for axes, metric in zip(grid.flat, metrics, strict=False):
            values = {
                m: {f["fold"]: f[metric] for f in per_fold[m] if f[metric] is not None}
                for m in models
            }
            rows += _spread(axes, metric, values)
            if majority and majority.get(metric) is not None:
                line = axes.axhline(majority[metric], color=GREY, linestyle="--", linewidth=0.9)
                line.set_label("most frequent class alone")
            axes.set_title(word(metric))
            axes.set_xticks(range(len(models)), [short(m, 14) for m in models])
            for label in axes.get_xticklabels() if len(models) > 3 else []:
                label.set(rotation=30, ha="right", rotation_mode="anchor")
            axes.set_xlim(-0.5, len(models) - 0.5)
        bar = Line2D([], [], color="black", linewidth=1, marker="_", label="mean ± sd of the folds")
        dashed = [line for axes in grid.flat for line in axes.lines if line.get_linestyle() == "--"]
        figure.legend(handles=[bar, *dashed[:1]], loc="outside upper right", ncols=2)
    return StudyFigure(figure, ["metric", "model", "fold", "value", "mean", "sd"], rows)


def _spread(axes: Axes, metric: str, values: Mapping[str, Mapping[int, float]]) -> list[list[Any]]:
    """Draw one metric, {model: {fold: value}}, and return its rows."""
    rows: list[list[Any]] = []
    folds = sorted({fold for found in values.values() for fold in found})
    beside = dict(zip(folds, np.linspace(-0.24, 0.06, len(folds)), strict=True))
    for fold in folds:
        line = [found.get(fold, np.nan) for found in values.values()]
        spots = np.arange(len(line)) + beside[fold]
        axes.plot(spots, line, color=GREY, linewidth=0.4, alpha=0.6)
    for index, (model, found) in enumerate(values.items()):
        points = list(found.values())
        spots = index + np.array([beside[fold] for fold in found])
        colour, marker = COLOURS[index % len(COLOURS)], MARKERS[index % len(MARKERS)]
        axes.scatter(spots, points, s=14, color=colour, marker=marker, linewidths=0, zorder=3)
        mean = float(np.mean(points)) if points else None
        sd = float(np.std(points, ddof=1)) if len(points) > 1 else None
        if mean is not None:
            axes.errorbar(
                index + 0.24, mean, sd or 0, color="black", marker="_", capsize=2, linewidth=1
            )
        rows += [[metric, model, fold, value, mean, sd] for fold, value in found.items()]
    return rows
