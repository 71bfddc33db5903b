"""Maps to look at: one over its image with a colour bar, or several methods beside each other.

What looks brighter is more, in grey print and with every kind of colour vision too, but for jet
(colormaps.py). The lesion's outline is drawn where its place is known.
"""

from collections.abc import Mapping

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage

from hmc_fast.evaluation.figures import PAGE, STYLE
from hmc_fast.explain.colormaps import COLORMAPS
from hmc_fast.explain.localisation import is_constant

OPACITY = 0.5
OUTLINE = "#00E5FF"  # in none of the colour maps but jet, where it is the least bad
LONGEST_TITLE = 40


def overlay(
    image: np.ndarray,
    cam: np.ndarray,
    *,
    mask: np.ndarray | None = None,
    colormap: str = COLORMAPS[0],
    title: str = "",
) -> Figure:
    """One map over its image, with a colour bar from 0 to 1.

    image: uint8 (H, W) grey or (H, W, 3) colour; cam: (h, w), 0 to 1, stretched over the image;
    mask: bool (H, W), whose outline is drawn, or None; colormap: one of COLORMAPS.

    Raises ValueError: another shape or dtype, a map outside 0 to 1, an unknown colour map.
    """
    _check(image, {"cam": cam}, mask, colormap)
    with matplotlib.rc_context({**STYLE, "axes.grid": False}):
        figure = Figure(figsize=(3.2, 2.9), layout="constrained")
        axes = figure.subplots()
        _colour_bar(figure, axes, _draw(axes, image, cam, mask, colormap))
        axes.set_title(_short(title))
    return figure


def panel(
    image: np.ndarray,
    cams: Mapping[str, np.ndarray],
    *,
    mask: np.ndarray | None = None,
    colormap: str = COLORMAPS[0],
    title: str = "",
) -> Figure:
    """The image and each map over it, side by side, with one colour bar (the paper's Figures 9 and
    10).

    cams: the maps by name, one or more, as in `overlay`; the rest, and Raises: as there.
    """
    _check(image, cams, mask, colormap)
    with matplotlib.rc_context({**STYLE, "axes.grid": False}):
        columns = 1 + len(cams)
        size = PAGE / max(columns, 4)
        figure = Figure(figsize=(columns * size + 0.5, size + 0.45), layout="constrained")
        first, *others = figure.subplots(1, columns, squeeze=False)[0]
        _draw(first, image, None, mask, colormap)
        first.set_title("image")
        for axes, (name, cam) in zip(others, cams.items(), strict=True):
            drawn = _draw(axes, image, cam, mask, colormap)
            axes.set_title(_short(f"{name} (constant)" if is_constant(cam) else name))
        _colour_bar(figure, others, drawn)
        figure.suptitle(_short(title, 100), fontsize=8)
    return figure


def _draw(
    axes: Axes, image: np.ndarray, cam: np.ndarray | None, mask: np.ndarray | None, colormap: str
) -> AxesImage:
    """The image, the map over it and the outline; returns the last of the two that is there."""
    height, width = image.shape[:2]
    extent = (-0.5, width - 0.5, height - 0.5, -0.5)
    drawn = axes.imshow(image, cmap="gray", vmin=0, vmax=255)  # which colour images do not heed
    if cam is not None:
        drawn = axes.imshow(
            cam, cmap=colormap, vmin=0, vmax=1, alpha=OPACITY, extent=extent,
            interpolation="bilinear",
        )  # fmt: skip
    if mask is not None and mask.any() and not mask.all():
        axes.contour(mask.astype(float), levels=[0.5], colors=[OUTLINE], linewidths=0.9)
    axes.set_axis_off()
    return drawn


def _colour_bar(figure: Figure, axes: Axes | list[Axes], drawn: AxesImage) -> None:
    bar = figure.colorbar(drawn, ax=axes, fraction=0.05, pad=0.02, ticks=[0, 0.5, 1])
    if bar.solids is not None:
        bar.solids.set_alpha(1)
    bar.set_label("importance")


def _short(text: str, longest: int = LONGEST_TITLE) -> str:
    return text if len(text) <= longest else text[: longest - 1] + "…"


def _check(
    image: np.ndarray, cams: Mapping[str, np.ndarray], mask: np.ndarray | None, colormap: str
) -> None:
    if image.dtype != np.uint8 or not (image.ndim == 2 or image.shape[2:] == (3,)):
        raise ValueError(
            f"image must be uint8 (H, W) or (H, W, 3), got {image.dtype} {image.shape}"
        )
    if not cams:
        raise ValueError("cams must hold one map or more")
    for name, cam in cams.items():
        if cam.ndim != 2 or not (cam.min() >= 0 and cam.max() <= 1):  # false for NaN too
            raise ValueError(f"{name} must be (h, w) from 0 to 1, got {cam.shape}")
    if mask is not None and (mask.dtype != bool or mask.shape != image.shape[:2]):
        raise ValueError(
            f"mask must be bool {image.shape[:2]} or None, got {mask.dtype} {mask.shape}"
        )
    if colormap not in COLORMAPS:
        raise ValueError(f"colormap must be one of {', '.join(COLORMAPS)}, got {colormap!r}")
