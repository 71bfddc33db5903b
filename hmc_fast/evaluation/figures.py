"""The pictures of a run: curves, confusion matrix, ROC, sheets of images; arrays in, a Figure out.

Colours are Okabe and Ito's, told apart with every kind of colour vision; lines differ in dashes
too. Sizes are those of a column (88 mm) or a page (180 mm), so that saved files go to print as
they are. No pyplot: nothing global is opened and left behind.
"""

import base64
import io
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import MaxNLocator
from PIL import Image
from sklearn.metrics import auc, roc_curve

from hmc_fast.files import write_bytes

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
DASHES = ("-", "--", "-.", ":")
COLUMN, PAGE = 3.46, 7.09  # inches
CSS_DPI = 96
PNG_BYTES = 150_000
STYLE = {
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e4e4e4",
    "legend.frameon": False,
    "text.parse_math": False,
    "pdf.fonttype": 42,
    "svg.hashsalt": "hmc-fast",
}


def learning_curves(history: Sequence[Mapping[str, Any]]) -> Figure:
    """Loss and accuracy by epoch: a thin line a fold, a thick one for the mean of the folds.

    history: rows with fold, epoch, train_loss, train_accuracy, test_loss, test_accuracy (0 to 1);
    a test value may be None.
    """
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(COLUMN + 0.9, 4.4), layout="constrained")
        loss, accuracy = figure.subplots(2, 1, sharex=True)
        for axes, name in ((loss, "loss"), (accuracy, "accuracy")):
            _curves(axes, history, f"train_{name}", COLOURS[0], "-", "training")
            _curves(axes, history, f"test_{name}", COLOURS[1], "--", "test (display only)")
            axes.set_ylabel("cross-entropy loss" if name == "loss" else "accuracy")
        loss.set_ylim(0, 1.08 * max(loss.dataLim.y1, 1e-9))
        accuracy.set_ylim(0, 1.02)
        last = max((row["epoch"] for row in history), default=1)
        accuracy.set(xlabel="epoch", xlim=(0.5, last + 0.5))
        accuracy.xaxis.set_major_locator(MaxNLocator(8, integer=True, min_n_ticks=1))
        figure.legend(*loss.get_legend_handles_labels(), loc="outside upper center", ncols=2)
    return figure


def confusion_matrix(counts: Any, classes: Sequence[str]) -> Figure:
    """Counts and the share of each true class; counts: (C, C), rows = truth."""
    counts = np.asarray(counts)
    images = counts.sum(axis=1, keepdims=True)
    share = np.divide(counts, images, out=np.zeros(counts.shape), where=images > 0)
    with matplotlib.rc_context({**STYLE, "axes.grid": False}):
        figure = Figure(figsize=(COLUMN, 3.1), layout="constrained")
        axes = figure.subplots()
        axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
        for (row, column), count in np.ndenumerate(counts):
            percent = f"{100 * share[row, column]:.0f} %" if images[row, 0] else "\N{EN DASH}"
            colour = "white" if share[row, column] > 0.5 else "black"
            axes.text(column, row, f"{count}\n{percent}", ha="center", va="center", color=colour)
        ticks = np.arange(len(classes))
        axes.set_xticks(ticks, [short(name) for name in classes])
        axes.set_yticks(ticks, [short(name) for name in classes], rotation=90, va="center")
        axes.set(xlabel="predicted", ylabel="truth")
        axes.tick_params(length=0)
    return figure


def roc_curves(labels: Any, probabilities: Any, classes: Sequence[str]) -> Figure:
    """One-vs-rest ROC curves with their AUC; labels: (n,) int; probabilities: (n, C).

    A class without images, or with all of them, has no curve; the legend says so.
    """
    labels, probabilities = np.asarray(labels), np.asarray(probabilities, dtype=np.float64)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(COLUMN, 3.5), layout="constrained")
        axes = figure.subplots()
        axes.plot([0, 1], [0, 1], color="#8a8a8a", linewidth=0.8)
        lines, names = [], []
        for index, name in enumerate(classes):
            positive = labels == index
            false, true, text = [], [], "no curve"
            if positive.any() and not positive.all():
                false, true, _ = roc_curve(positive, probabilities[:, index])
                text = f"AUC {auc(false, true):.3f}"
            lines += axes.plot(false, true, **line_style(index))
            names.append(f"{short(name)}: {text}")
        axes.set(xlabel="1 - specificity", ylabel="sensitivity", aspect="equal")
        axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
        axes.legend(lines, names, loc="lower right")
    return figure


def sample_sheet(images: np.ndarray, titles: Sequence[str]) -> Figure:
    """Grey images beside each other, six a row; images: (k, H, W) uint8."""
    columns = min(6, max(1, len(images)))
    figure, grid = _sheet(-(-len(images) // columns), columns)
    for axes, image, title in zip(grid.flat, images, titles, strict=False):
        _show(axes, image, title)
    return figure


def augmentation_sheet(
    originals: np.ndarray, variants: np.ndarray, titles: Sequence[str]
) -> Figure:
    """A row an image: the original, then its variants; (k, H, W) and (k, m, H, W) uint8."""
    figure, grid = _sheet(len(originals), 1 + variants.shape[1])
    for row, (original, title) in enumerate(zip(originals, titles, strict=True)):
        _show(grid[row, 0], original, title)
        for column, variant in enumerate(variants[row], start=1):
            _show(grid[row, column], variant, f"variant {column}" if row == 0 else "")
    return figure


def save(figure: Figure, path: Path) -> None:
    """Write `figure` as .png, .pdf or .svg, by the suffix; the same figure gives the same bytes."""
    write_bytes(path, _render(figure, path.suffix[1:], dpi=300))


def png_data_uri(figure: Figure) -> str:
    """`figure` as a PNG in a data URI, with twice the pixels of `css_size`.

    256 colours, 64 where that takes more than PNG_BYTES, 32 where that still does.
    """
    image = Image.open(io.BytesIO(_render(figure, "png", dpi=2 * CSS_DPI))).convert("RGB")
    for colours in (256, 64, 32):
        buffer = io.BytesIO()
        image.quantize(colours, dither=Image.Dither.NONE).save(buffer, "png", optimize=True)
        if buffer.tell() <= PNG_BYTES:
            break
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def jpeg_data_uri(figure: Figure) -> str:
    """`figure` as a JPEG in a data URI, with twice the pixels of `css_size`: for films and maps,
    whose tones a palette breaks into steps."""
    image = Image.open(io.BytesIO(_render(figure, "png", dpi=2 * CSS_DPI))).convert("RGB")
    buffer = io.BytesIO()
    image.save(buffer, "jpeg", quality=90, subsampling=0, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def css_size(figure: Figure) -> tuple[int, int]:
    """Width and height of `figure` on a page in CSS pixels."""
    width, height = figure.get_size_inches()
    return round(width * CSS_DPI), round(height * CSS_DPI)


def _render(figure: Figure, kind: str, dpi: int) -> bytes:
    nothing_that_changes = {
        "png": {"Software": None},
        "pdf": {"CreationDate": None, "Producer": None, "Creator": None},
        "svg": {"Date": None, "Creator": None},
    }
    buffer = io.BytesIO()
    with matplotlib.rc_context(STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font")  # a box is drawn instead
        figure.draw_without_rendering()
        figure.set_layout_engine("none")  # each drawing would move things a little further
        figure.savefig(buffer, format=kind, dpi=dpi, metadata=nothing_that_changes[kind])
    return buffer.getvalue()


def _curves(
    axes: Axes,
    history: Sequence[Mapping[str, Any]],
    column: str,
    colour: str,
    dashes: str,
    label: str,
) -> None:
    """The folds' lines of one column and their mean over the epochs that every fold has."""
    folds: dict[int, dict[int, float]] = {}
    for row in history:
        values = folds.setdefault(row["fold"], {})
        if row[column] is not None:
            values[row["epoch"]] = row[column]
    shared = sorted(set.intersection(*(set(values) for values in folds.values()))) if folds else []
    mean = [float(np.mean([values[epoch] for values in folds.values()])) for epoch in shared]
    marker = "o" if len(shared) == 1 else None
    if len(folds) > 1:
        for values in folds.values():
            axes.plot(*_sorted(values), dashes, color=colour, linewidth=0.6, alpha=0.45)
    axes.plot(shared, mean, dashes, color=colour, linewidth=1.6, label=label, marker=marker)


def _sorted(values: Mapping[int, float]) -> tuple[list[int], list[float]]:
    epochs = sorted(values)
    return epochs, [values[epoch] for epoch in epochs]


def line_style(index: int) -> dict[str, Any]:
    return {
        "color": COLOURS[index % len(COLOURS)],
        "linestyle": DASHES[index % len(DASHES)],
        "linewidth": 1.5,
    }


def _sheet(rows: int, columns: int) -> tuple[Figure, np.ndarray]:
    cell = PAGE / 6
    with matplotlib.rc_context(STYLE):
        height = max(1, rows) * (cell + 0.16)
        tight = ConstrainedLayoutEngine(w_pad=0.02, h_pad=0.02, wspace=0, hspace=0)
        figure = Figure(figsize=(columns * cell, height), layout=tight)
        grid = figure.subplots(max(1, rows), columns, squeeze=False)
        for axes in grid.flat:
            axes.set_axis_off()
    return figure, grid


def _show(axes: Axes, image: np.ndarray, title: str) -> None:
    axes.imshow(image, cmap="gray", vmin=0, vmax=255)
    axes.set_title(short(title, 24), fontsize=6.5, pad=2, parse_math=False)


def short(text: str, longest: int = 18) -> str:
    return text if len(text) <= longest else text[: longest - 1] + "…"
