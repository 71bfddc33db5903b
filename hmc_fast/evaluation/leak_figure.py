"""What leakage does: one network under three protocols, two of which let the test into training."""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from hmc_fast.evaluation.figure_table import StudyFigure
from hmc_fast.evaluation.figures import COLOURS, COLUMN, STYLE

LEAK_METRICS = {"balanced_accuracy": "balanced\naccuracy", "accuracy": "accuracy", "auc": "AUC"}
HONEST = "patient"
WORDS = {
    HONEST: "whole patients apart",
    "image": "films of one patient on both sides (not an estimate)",
    "leaky": "copies of test images in training (not an estimate)",
}
SHADES = {HONEST: (COLOURS[0], ""), "image": (COLOURS[5], "///"), "leaky": (COLOURS[1], "xxx")}
BAR = 0.26  # of the distance between two metrics
HEADER = ["protocol", "run", "estimate", "metric", "value", "low", "high", "level", "majority"]


def leak_figure(runs: Sequence[Mapping[str, Any]]) -> StudyFigure:
    """Balanced accuracy, accuracy and AUC under each protocol, as bars with patient-bootstrap
    intervals; dashed: always giving the most frequent class.

    runs: one a protocol (patient, image, leaky), of one network and one budget: dicts of "name",
    "protocol" and "metrics", the value of `summary.metrics_document`. What is no estimate of the
    accuracy on new patients is hatched and says so. A figure that is undefined has no bar.
    Raises ValueError: no run, or two of one protocol.
    """
    protocols = [run["protocol"] for run in runs]
    if not runs or len(set(protocols)) < len(runs) or not set(protocols) <= set(WORDS):
        raise ValueError(
            f"needs runs of different protocols of {', '.join(WORDS)}: got {protocols}"
        )
    rows = [_row(run, metric) for run in runs for metric in LEAK_METRICS]
    with matplotlib.rc_context({**STYLE, "hatch.linewidth": 0.6, "axes.grid.axis": "y"}):
        figure = Figure(figsize=(COLUMN + 0.4, 3.1 + 0.16 * len(runs)), layout="constrained")
        axes = figure.subplots()
        handles = [
            _bars(axes, protocol, rows, place - (len(runs) - 1) / 2)
            for place, protocol in enumerate(protocols)
        ]
        handles.append(_majority(axes, rows))
        axes.set_xticks(range(len(LEAK_METRICS)), LEAK_METRICS.values())
        axes.tick_params(axis="x", length=0)
        axes.set(ylim=(0, 1.08), xlim=(-0.55, len(LEAK_METRICS) - 0.45))
        axes.set_axisbelow(True)
        axes.set_yticks(np.linspace(0, 1, 6))
        figure.legend(handles=handles, loc="outside upper left", ncols=1, fontsize=7)
    return StudyFigure(figure, HEADER, rows)


def _row(run: Mapping[str, Any], metric: str) -> list[Any]:
    pooled, protocol = run["metrics"]["pooled"], run["protocol"]
    low, high = pooled["intervals"][metric] or (None, None)
    return [
        protocol, run["name"], protocol == HONEST, metric, pooled[metric], low, high,
        pooled["bootstrap"]["level"], run["metrics"]["majority"][metric],
    ]  # fmt: skip


def _bars(axes: Axes, protocol: str, rows: Sequence[Sequence[Any]], beside: float) -> Any:
    colour, hatch = SHADES[protocol]
    bars = None
    for place, metric in enumerate(LEAK_METRICS):
        value, low, high = next(r[4:7] for r in rows if (r[0], r[3]) == (protocol, metric))
        x = place + beside * BAR
        bars = axes.bar(
            x, value or 0, 0.92 * BAR, facecolor="white" if hatch else colour, edgecolor=colour,
            hatch=hatch,
        )  # fmt: skip
        if value is None:
            continue
        top = value
        if low is not None:
            axes.plot([x, x], [low, high], color="black", linewidth=1, marker="_", markersize=4)
            top = max(value, high)
        axes.text(x, top + 0.015, f"{value:.2f}", ha="center", va="bottom", fontsize=6.5)
    assert bars is not None
    bars.set_label(f"{protocol}: {WORDS[protocol]}")
    return bars


def _majority(axes: Axes, rows: Sequence[Sequence[Any]]) -> Any:
    """A dashed line over each group, at the figure of the first run's majority."""
    line = None
    for place, metric in enumerate(LEAK_METRICS):
        height = next(row[8] for row in rows if row[3] == metric)
        if height is not None:
            ends = [place - 0.46, place + 0.46]
            (line,) = axes.plot(ends, [height, height], "--", color="black", linewidth=0.9)
    assert line is not None
    line.set_label("most frequent class alone")
    return line
