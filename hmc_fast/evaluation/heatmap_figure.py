"""Heatmaps beside each other: a row an image, a column a method (the paper's Figures 9 and 10).

What looks brighter is more, in grey print and with every kind of colour vision too. The lesion's
outline is drawn where its place is known.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage

from hmc_fast.evaluation.figure_table import StudyFigure
from hmc_fast.evaluation.figures import PAGE, STYLE, short

COLOURMAP = "inferno"  # its lightness rises evenly
OPACITY = 0.5
SMALLEST, TALLEST = 1.2, 8.4  # inches: of one picture, of all rows
LEFT, RIGHT, TOP, GAP, BAR = 0.55, 0.75, 0.25, 0.05, 0.12  # inches beside and between them
OUTLINE = "#00E5FF"  # in none of the colour maps but jet, where it is the least bad
HEADER = [
    "image", "label", "predicted", "method", "height", "width", "mean", "highest_row",
    "highest_column", "highest_is_inside", "share_inside", "mask_share",
]  # fmt: skip


def heatmap_panels(
    panels: Sequence[Mapping[str, Any]], methods: Sequence[str] | None = None
) -> StudyFigure:
    """Each image with the outline of its mask, and each method's map over it, with one colour bar.

    panels: one an image: "image", "label", "predicted" (names), "film" ((H, W) uint8, or None where
    it may not be shown: then the maps stand alone), "mask" ((H, W) bool or None) and "maps"
    ({method: (H, W), 0 to 1}); methods: which of them, in this order, None for the first panel's.

    Its table says of each map where it is highest (the first of equals, counted from 0 at the top
    left) and which share of it lies inside the mask, beside the mask's share of the image; a map
    that is constant has neither.
    Raises ValueError: no panel, no method, a method that a panel lacks, shapes that do not fit, a
    map outside 0 to 1.
    """
    methods = list(panels[0]["maps"] if panels and methods is None else methods or [])
    _check(panels, methods)
    shown = any(panel["film"] is not None for panel in panels)
    columns = len(methods) + shown
    with matplotlib.rc_context({**STYLE, "axes.grid": False}):
        figure, grid = _grid(len(panels), columns)
        drawn = [
            _draw_row(row, panel, methods, shown) for row, panel in zip(grid, panels, strict=True)
        ]
        heads = ["image", *methods] if shown else methods
        for axes, head in zip(grid[0], heads, strict=True):
            axes.set_title(short(head))
        colour_bar(figure, drawn[-1], cax=figure.axes[-1])
    rows = [_row(panel, method) for panel in panels for method in methods]
    return StudyFigure(figure, HEADER, rows)


def draw_map(
    axes: Axes,
    image: np.ndarray | None,
    cam: np.ndarray | None,
    mask: np.ndarray | None,
    colormap: str = COLOURMAP,
) -> AxesImage:
    """The image, the map over it and the outline of the mask; returns the last picture.

    image: uint8 (H, W) or (H, W, 3), cam: (h, w), 0 to 1, stretched over it, one of them not None;
    a map without an image is opaque; mask: bool (H, W).
    """
    seen = image if image is not None else mask if mask is not None else cam
    assert seen is not None
    height, width = seen.shape[:2]
    drawn = None
    if image is not None:
        drawn = axes.imshow(image, cmap="gray", vmin=0, vmax=255)  # which colour images do not heed
    if cam is not None:
        drawn = axes.imshow(
            cam, cmap=colormap, vmin=0, vmax=1, alpha=1 if image is None else OPACITY,
            extent=(-0.5, width - 0.5, height - 0.5, -0.5), interpolation="bilinear",
        )  # fmt: skip
    assert drawn is not None
    if mask is not None and mask.any() and not mask.all():
        axes.contour(mask.astype(float), levels=[0.5], colors=[OUTLINE], linewidths=0.9)
    axes.set_axis_off()
    return drawn


def colour_bar(figure: Figure, drawn: AxesImage, **place: Any) -> None:
    """A bar from 0 to 1 in the colours of `drawn`; place: as `Figure.colorbar` takes it."""
    bar = figure.colorbar(drawn, ticks=[0, 0.5, 1], **place)
    if bar.solids is not None:
        bar.solids.set_alpha(1)
    bar.set_label("importance")


def _grid(rows: int, columns: int) -> tuple[Figure, np.ndarray]:
    """A figure with axes for the pictures, and last one for the colour bar."""
    size = max(SMALLEST, min((PAGE - LEFT - RIGHT) / max(columns, 4), TALLEST / rows) - GAP)
    width, height = LEFT + columns * (size + GAP) + RIGHT, TOP + rows * (size + GAP) + GAP
    figure = Figure(figsize=(width, height))
    ends = {
        "left": LEFT / width, "right": 1 - (RIGHT + GAP) / width, "bottom": 2 * GAP / height,
        "top": 1 - TOP / height,
    }  # fmt: skip
    between = {"wspace": GAP / size, "hspace": GAP / size}
    grid = figure.subplots(rows, columns, squeeze=False, gridspec_kw={**ends, **between})
    tall = ends["top"] - ends["bottom"]
    figure.add_axes((1 - (RIGHT - GAP) / width, ends["bottom"], BAR / width, tall))
    return figure, grid


def _draw_row(
    row: Sequence[Axes], panel: Mapping[str, Any], methods: Sequence[str], shown: bool
) -> AxesImage:
    film, mask = panel["film"], panel["mask"]
    if shown and film is not None:
        draw_map(row[0], film, None, mask)
    elif shown:
        row[0].set_axis_off()
        _write(row[0], 0.5, "not shown")
    for axes, method in zip(row[int(shown) :], methods, strict=True):
        drawn = draw_map(axes, film, panel["maps"][method], mask)
        if _is_constant(panel["maps"][method]):
            _write(axes, 0.08, "constant", color=OUTLINE)
    words = (panel["image"], f"truth: {panel['label']}", f"predicted: {panel['predicted']}")
    text = "\n".join(short(word, 22) for word in words)
    row[0].text(
        -0.05, 0.5, text, rotation=90, ha="right", va="center", fontsize=6.5, linespacing=1.3,
        transform=row[0].transAxes,
    )  # fmt: skip
    return drawn


def _write(axes: Axes, height: float, text: str, **style: Any) -> None:
    axes.text(0.5, height, text, ha="center", va="center", transform=axes.transAxes, **style)


def _row(panel: Mapping[str, Any], method: str) -> list[Any]:
    cam, mask = np.asarray(panel["maps"][method], dtype=np.float64), panel["mask"]
    names = [panel["image"], panel["label"], panel["predicted"], method]
    figures: list[Any] = [*cam.shape, float(cam.mean()), None, None, None, None, None]
    if not _is_constant(cam):
        highest = np.unravel_index(int(cam.argmax()), cam.shape)
        figures[3:5] = map(int, highest)
        if mask is not None and mask.any():
            figures[5:7] = bool(mask[highest]), float(cam[mask].sum() / cam.sum())
    if mask is not None and mask.any():
        figures[7] = float(mask.mean())
    return [*names, *figures]


def _is_constant(cam: np.ndarray) -> bool:
    """Whether a map says nothing about places."""
    return bool(cam.min() == cam.max())


def _check(panels: Sequence[Mapping[str, Any]], methods: Sequence[str]) -> None:
    if not panels or not methods:
        raise ValueError(
            f"needs a panel and a method or more: got {len(panels)} and {len(methods)}"
        )
    for panel in panels:
        for method in methods:
            cam = panel["maps"].get(method)
            if cam is None:
                raise ValueError(f"{panel['image']} has no map by {method}")
            if cam.ndim != 2 or not (cam.min() >= 0 and cam.max() <= 1):  # false for NaN too
                raise ValueError(f"{method} of {panel['image']} must be (H, W) from 0 to 1")
            for name in ("film", "mask"):
                other = panel[name]
                if other is not None and other.shape != cam.shape:
                    raise ValueError(
                        f"{name} of {panel['image']} must have the shape of its maps, {cam.shape}: "
                        f"got {other.shape}"
                    )
