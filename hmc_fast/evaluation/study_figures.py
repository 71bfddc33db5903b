"""The figures of a study, each with the numbers that it shows; arrays in, a StudyFigure out.

Style, colours and sizes are those of `figures`: Okabe and Ito's colours, dashes and markers beside
them, a column or a page wide. `save` writes a PNG of 300 dpi, a PDF and a CSV of one name.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from hmc_fast.evaluation import figures
from hmc_fast.evaluation.architecture_figure import architecture
from hmc_fast.evaluation.figure_table import StudyFigure, save
from hmc_fast.evaluation.heatmap_figure import heatmap_panels
from hmc_fast.evaluation.leak_figure import leak_figure
from hmc_fast.evaluation.probability_figures import reliability_diagram, roc_with_intervals
from hmc_fast.evaluation.rank_figure import critical_difference_diagram
from hmc_fast.evaluation.spread_figure import SPREAD_METRICS, metric_spread

__all__ = [
    "SPREAD_METRICS",
    "StudyFigure",
    "architecture",
    "confusion",
    "critical_difference_diagram",
    "curves",
    "heatmap_panels",
    "leak_figure",
    "metric_spread",
    "reliability_diagram",
    "roc_with_intervals",
    "save",
]


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
