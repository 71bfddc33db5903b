"""What the probabilities are worth: reliability, and ROC curves with intervals."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from sklearn.metrics import roc_auc_score, roc_curve

from hmc_fast.evaluation.figure_table import GREY, MARKERS, StudyFigure
from hmc_fast.evaluation.figures import COLUMN, STYLE, line_style, short
from hmc_fast.evaluation.intervals import check_draws, patient_weights, weighted_auc
from hmc_fast.evaluation.metrics import check_predictions

GRID = np.linspace(0, 1, 101)  # 1 - specificity, where the ROC's interval is taken


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
            names.append(f"{short(name)}: ECE {found['ece']:.3f} (if calibrated {chance:.3f})")
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
