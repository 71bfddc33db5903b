"""The figures of a study, each with the numbers that it shows; arrays in, a StudyFigure out.

Style, colours and sizes are those of `figures`: Okabe and Ito's colours, dashes and markers beside
them, a column or a page wide. `save` writes a PNG of 300 dpi, a PDF and a CSV of one name.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from sklearn.metrics import roc_auc_score, roc_curve

from hmc_fast.evaluation import figures
from hmc_fast.evaluation.figures import COLOURS, COLUMN, PAGE, STYLE, line_style, short
from hmc_fast.evaluation.intervals import check_draws, patient_weights, weighted_auc
from hmc_fast.evaluation.metrics import check_predictions
from hmc_fast.evaluation.statistics import critical_difference, rank_groups
from hmc_fast.files import write_csv

SPREAD_METRICS = ("accuracy", "sensitivity", "specificity", "precision", "f1", "auc")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
GREY = "#8a8a8a"
GRID = np.linspace(0, 1, 101)  # 1 - specificity, where the ROC's interval is taken


class StudyFigure(NamedTuple):
    """A figure and the table of its numbers: `header` and `rows` of the CSV."""

    figure: Figure
    header: list[str]
    rows: list[list[Any]]


def save(drawn: StudyFigure, folder: Path, name: str) -> None:
    """Write `name`.png, `name`.pdf and `name`.csv into `folder`, which exists."""
    for suffix in (".png", ".pdf"):
        figures.save(drawn.figure, folder / f"{name}{suffix}")
    write_csv(folder / f"{name}.csv", drawn.header, drawn.rows)


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
        columns = min(3, len(metrics))
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
            axes.set_title(metric)
            axes.set_xticks(range(len(models)), [short(m, 14) for m in models])
            for label in axes.get_xticklabels() if len(models) > 3 else []:
                label.set(rotation=30, ha="right", rotation_mode="anchor")
            axes.set_xlim(-0.5, len(models) - 0.5)
        dashed = [line for axes in grid.flat for line in axes.lines if line.get_linestyle() == "--"]
        if dashed:
            figure.legend(handles=dashed[:1], loc="outside upper right")
    return StudyFigure(figure, ["metric", "model", "fold", "value", "mean", "sd"], rows)


def confusion(counts: Any, classes: Sequence[str]) -> StudyFigure:
    """`figures.confusion_matrix`, the paper's Fig. 7; counts: (C, C), rows = truth."""
    counts = np.asarray(counts)
    rows = [
        [truth, predicted, int(counts[i, j]), int(counts[i].sum())]
        for i, truth in enumerate(classes)
        for j, predicted in enumerate(classes)
    ]
    header = ["truth", "predicted", "images", "images_of_truth"]
    return StudyFigure(figures.confusion_matrix(counts, classes), header, rows)


def curves(history: Sequence[Mapping[str, Any]]) -> StudyFigure:
    """`figures.learning_curves`, the paper's Fig. 8; history: rows as history.csv."""
    header = ["fold", "epoch", "train_loss", "train_accuracy", "test_loss", "test_accuracy"]
    rows = [[row[name] for name in header] for row in history]
    return StudyFigure(figures.learning_curves(history), header, rows)


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


def reliability_diagram(models: Mapping[str, Mapping[str, Any]]) -> StudyFigure:
    """Share of right predictions against the probability given for them, and how many images.

    models: {name: what `calibration.calibration` returns}. The legend has each model's ECE and, in
    brackets, what chance alone would give perfectly calibrated predictions.
    """
    rows: list[list[Any]] = []
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(COLUMN + 0.6, 4.4 + 0.16 * len(models)), layout="constrained")
        above, below = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
        above.plot([0, 1], [0, 1], color=GREY, linewidth=0.8)
        handles, names = [], []
        for index, (name, found) in enumerate(models.items()):
            bins = found["curve"]
            marker = MARKERS[index % len(MARKERS)]
            x, y = [row["probability"] for row in bins], [row["share"] for row in bins]
            handles += above.plot(x, y, **line_style(index), marker=marker, markersize=4)
            below.plot(
                x, [row["n"] for row in bins], **line_style(index), marker=marker, markersize=4
            )
            chance = found["ece_by_chance"]["mean"]
            names.append(f"{short(name)}: ECE {found['ece']:.3f} (chance {chance:.3f})")
            rows += [[name, *row.values()] for row in bins]
        above.set(ylabel="share right", ylim=(-0.02, 1.02), xlim=(-0.02, 1.02))
        below.set(xlabel="probability of the predicted class", ylabel="images")
        below.set_ylim(bottom=0)
        figure.legend(handles, names, loc="outside upper center", ncols=1)
    return StudyFigure(figure, ["model", "low", "high", "n", "probability", "share"], rows)


def roc_with_intervals(
    labels: Any,
    probabilities: Any,
    patients: Sequence[str],
    classes: Sequence[str],
    *,
    resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> StudyFigure:
    """One-vs-rest ROC curves with pointwise intervals and that of the AUC, by drawing patients.

    labels: (n,) int; probabilities: (n, C); patients: one name an image. A class without images, or
    with all of them, has no curve; the legend says so.
    Raises ValueError: as `patient_bootstrap`.
    """
    labels, probabilities = check_predictions(labels, probabilities, classes)
    check_draws(labels, patients, resamples, level)
    ends = [(1 - level) / 2, (1 + level) / 2]
    rows: list[list[Any]] = []
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(COLUMN + 0.4, 3.9), layout="constrained")
        axes = figure.subplots()
        axes.plot([0, 1], [0, 1], color=GREY, linewidth=0.8)
        handles, names = [], []
        for index, name in enumerate(classes):
            positive, score = labels == index, probabilities[:, index]
            if positive.all() or not positive.any():
                handles += axes.plot([], [], **line_style(index))
                names.append(f"{short(name)}: no curve")
                continue
            false, true, _ = roc_curve(positive, score, drop_intermediate=False)
            blocks = patient_weights(labels, patients, resamples=resamples, seed=seed)
            low, high, auc_ends = _roc_ends(positive, score, blocks, ends)
            auc = float(roc_auc_score(positive, score))
            axes.fill_between(
                GRID, low, high, color=line_style(index)["color"], alpha=0.15, linewidth=0
            )
            handles += axes.plot(false, true, **line_style(index))
            names.append(f"{short(name)}: AUC {auc:.3f} ({auc_ends[0]:.3f} to {auc_ends[1]:.3f})")
            at_grid = np.interp(GRID, false, true)
            columns = np.stack([GRID, at_grid, low, high], axis=1).tolist()
            rows += [[name, *row, auc, *auc_ends.tolist()] for row in columns]
        axes.set(xlabel="1 - specificity", ylabel="sensitivity", aspect="equal")
        axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
        figure.legend(handles, names, loc="outside upper center", ncols=1)
    header = ["class", "one_minus_specificity", "sensitivity", "low", "high"]
    return StudyFigure(figure, [*header, "auc", "auc_low", "auc_high"], rows)


def _spread(axes: Axes, metric: str, values: Mapping[str, Mapping[int, float]]) -> list[list[Any]]:
    """Draw one metric, {model: {fold: value}}, and return its rows."""
    rows: list[list[Any]] = []
    folds = sorted({fold for found in values.values() for fold in found})
    beside = dict(zip(folds, np.linspace(-0.14, 0.14, len(folds)), strict=True))
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
                index, mean, sd or 0, color="black", marker="_", capsize=3, linewidth=1, zorder=4
            )
        rows += [[metric, model, fold, value, mean, sd] for fold, value in found.items()]
    return rows


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


def _roc_ends(
    positive: np.ndarray, score: np.ndarray, blocks: Iterable[np.ndarray], ends: Sequence[float]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Quantiles `ends` over all draws, blocks of (draws, n) weights: of the sensitivity at GRID,
    one array an end, and of the AUC."""
    sensitivity, areas = [], []
    for weights in blocks:
        sensitivity += _sensitivities(positive, score, weights)
        areas.append(weighted_auc(positive, score, weights))
    drawn = np.concatenate(areas)
    low, high = np.quantile(sensitivity, ends, axis=0)
    return low, high, np.quantile(drawn[np.isfinite(drawn)], ends)


def _sensitivities(
    positive: np.ndarray, score: np.ndarray, weights: np.ndarray
) -> list[np.ndarray]:
    """Sensitivity at GRID for every row of `weights` (draws, n) with both kinds of images."""
    order = np.argsort(-score, kind="stable")
    last_of_ties = np.flatnonzero(np.diff(score[order], append=-np.inf))
    drawn = weights[:, order]
    true = (drawn * positive[order]).cumsum(axis=1)[:, last_of_ties]  # (draws, thresholds)
    false = (drawn * ~positive[order]).cumsum(axis=1)[:, last_of_ties]
    both = (true[:, -1] > 0) & (false[:, -1] > 0)
    return [
        np.interp(GRID, np.append(0, f / f[-1]), np.append(0, t / t[-1]))
        for f, t in zip(false[both], true[both], strict=True)
    ]
