"""Maps to look at: one over its image with a colour bar, or several methods beside each other.

What looks brighter is more, in grey print and with every kind of colour vision too, but for jet
(colormaps.py). The lesion's outline is drawn where its place is known.
"""

from collections.abc import Mapping

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from hmc_fast.evaluation.figures import PAGE, STYLE
from hmc_fast.evaluation.heatmap_figure import colour_bar, draw_map
from hmc_fast.explain.colormaps import COLORMAPS
from hmc_fast.explain.localisation import is_constant

BAR = {"fraction": 0.05, "pad": 0.02}  # the colour bar beside its pictures
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
        colour_bar(figure, draw_map(axes, image, cam, mask, colormap), ax=axes, **BAR)
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
        draw_map(first, image, None, mask, colormap)
        first.set_title("image")
        for axes, (name, cam) in zip(others, cams.items(), strict=True):
            drawn = draw_map(axes, image, cam, mask, colormap)
            axes.set_title(_short(f"{name} (constant)" if is_constant(cam) else name))
        colour_bar(figure, drawn, ax=others, **BAR)
        figure.suptitle(_short(title, 100), fontsize=8)
    return figure


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
