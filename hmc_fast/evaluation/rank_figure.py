"""Mean ranks and the critical difference on one line."""

from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from hmc_fast.evaluation.figure_table import StudyFigure
from hmc_fast.evaluation.figures import COLOURS, COLUMN, STYLE, short
from hmc_fast.evaluation.statistics import critical_difference, rank_groups


def critical_difference_diagram(
    ranks: Any, models: Sequence[str], folds: int, alpha: float = 0.05
) -> StudyFigure:
    """Mean ranks on a line, best on the left, bars over models that Nemenyi's test does not tell
    apart, and the critical difference to scale: the paper's Fig. 11 (Demšar 2006).

    ranks: (models,) by `statistics.average_ranks`.
    Raises ValueError: another number of names than ranks, and as `critical_difference`.
    """
    ranks = np.asarray(ranks, dtype=np.float64)
    if ranks.shape != (len(models),):
        raise ValueError(f"needs a mean rank for each of {len(models)} models: got {ranks.shape}")
    difference = critical_difference(len(models), folds, alpha)
    groups = rank_groups(ranks, difference)
    with matplotlib.rc_context({**STYLE, "axes.grid": False}):
        deepest = 0.7 + 0.16 * len(groups) + 0.42 * ((len(models) - 1) // 2)
        height = 1.0 + 0.45 * deepest
        figure = Figure(figsize=(1.4 * COLUMN, height), layout="constrained")
        axes = figure.subplots()
        right = max(float(len(models)), 1 + difference)
        _rank_line(axes, len(models), difference, alpha)
        for index, group in enumerate(groups):
            level = -0.22 - 0.16 * index
            ends = [ranks[group[0]] - 0.03, ranks[group[-1]] + 0.03]
            axes.plot(ends, [level, level], color=COLOURS[0], linewidth=3.5)
        _rank_labels(axes, ranks, models, 0.3 + 0.16 * len(groups), right)
        axes.set(xlim=(0.2, right + 0.8), ylim=(-deepest - 0.1, 1.15))
        axes.set_axis_off()
    rows = [
        [
            models[i],
            float(ranks[i]),
            " ".join(str(1 + g) for g, group in enumerate(groups) if i in group),
            folds,
            alpha,
            difference,
        ]
        for i in np.argsort(ranks, kind="stable")
    ]
    header = ["model", "average_rank", "groups", "folds", "alpha", "critical_difference"]
    return StudyFigure(figure, header, rows)


def _rank_line(axes: Axes, models: int, difference: float, alpha: float) -> None:
    axes.plot([1, models], [0, 0], color="black", linewidth=1)
    for rank in range(1, models + 1):
        axes.plot([rank, rank], [0, 0.1], color="black", linewidth=1)
        axes.text(rank, 0.16, str(rank), ha="center", va="bottom")
    axes.plot([1, 1 + difference], [0.7, 0.7], color="black", linewidth=1, marker="|")
    axes.text(1 + difference / 2, 0.8, f"CD = {difference:.2f} (α = {alpha:g})", ha="center")


def _rank_labels(
    axes: Axes, ranks: np.ndarray, models: Sequence[str], top: float, right: float
) -> None:
    """Names of the better half on the left, of the others on the right, joined to their ranks."""
    order = np.argsort(ranks, kind="stable")
    half = (len(order) + 1) // 2
    for place, index in enumerate(order):
        on_left = place < half
        depth = -top - 0.42 * (place if on_left else len(order) - 1 - place)
        end = 0.9 if on_left else right + 0.1
        axes.plot(
            [ranks[index], ranks[index], end], [0, depth, depth], color="black", linewidth=0.8
        )
        text = f"{short(models[index])} ({ranks[index]:.2f})"
        axes.text(
            end - 0.05 if on_left else end + 0.05,
            depth,
            text,
            ha="right" if on_left else "left",
            va="center",
        )
