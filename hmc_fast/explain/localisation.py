"""How well a map finds a lesion whose place is known.

    iou             |{map >= t max} ∩ M| / |{map >= t max} ∪ M|, t = 0.5 (the paper's)
    pointing_game   whether the largest value lies inside M (Zhang et al., IJCV 126, 2018, without
                    their tolerance of 15 pixels)
    energy_inside   Σ_M map / Σ map (Wang et al., Score-CAM, CVPR Workshops 2020)

A map without any difference points nowhere, and a film without lesion, or with one whose place is
not known, has nowhere to point to. That is neither a hit nor a zero: the figure is None, and
`mean_of` counts how many were left out.
"""

import math
from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np

TIED = 1e-6  # values so near the maximum, as a share of it, differ by rounding alone


class Localisation(NamedTuple):
    """The three figures of one map, each 0 to 1 or None."""

    iou: float | None
    pointing_game: float | None
    energy_inside: float | None


class Mean(NamedTuple):
    """The mean of the figures that exist (None without any), of how many, and how many do not."""

    value: float | None
    defined: int
    left_out: int


def localise(cam: np.ndarray, mask: np.ndarray | None) -> Localisation:
    """iou, pointing_game and energy_inside of one map; mask None: the place is not known."""
    if mask is None:
        return Localisation(None, None, None)
    return Localisation(iou(cam, mask), pointing_game(cam, mask), energy_inside(cam, mask))


def iou(cam: np.ndarray, mask: np.ndarray, *, threshold: float = 0.5) -> float | None:
    """|R ∩ M| / |R ∪ M| with R = {pixels: cam >= threshold * max(cam)}; 0 to 1.

    cam: (H, W), 0 or more; mask: bool (H, W), M; threshold: above 0, up to 1. None for a constant
    map or an empty mask. The whole map counts, not its largest component. Raises ValueError:
    shapes that differ, negative or non-finite values, a threshold out of range.
    """
    if not 0 < threshold <= 1:
        raise ValueError(f"threshold must be above 0 and at most 1, got {threshold}")
    return _if_defined(cam, mask, lambda c, m: _ratio_of(c >= threshold * c.max(), m))


def _ratio_of(region: np.ndarray, mask: np.ndarray) -> float:
    return float((region & mask).sum() / (region | mask).sum())


def pointing_game(cam: np.ndarray, mask: np.ndarray) -> float | None:
    """1 where the largest value of the map lies inside the mask, 0 where it does not.

    Upsampled maps often have it in several pixels: then the share of these inside, which is the
    chance that one drawn of them is a hit. Arguments, None and Raises: as `iou`.
    """
    return _if_defined(cam, mask, lambda c, m: float(m[c >= c.max() * (1 - TIED)].mean()))


def energy_inside(cam: np.ndarray, mask: np.ndarray) -> float | None:
    """Σ of the map inside the mask / Σ of the map; 0 to 1, and the mask's share of the image for a
    map that knows nothing. Arguments, None and Raises: as `iou`."""
    return _if_defined(cam, mask, lambda c, m: float(c[m].sum() / c.sum()))


def is_constant(cam: np.ndarray) -> bool:
    """Whether a map has one value everywhere: it then says nothing."""
    return bool(cam.min() == cam.max())


def mean_of(values: Iterable[float | None]) -> Mean:
    """The mean of what is defined; what is None (or NaN) is counted, not taken as 0."""
    values = list(values)
    defined = [value for value in values if value is not None and not math.isnan(value)]
    mean = float(np.mean(defined)) if defined else None
    return Mean(mean, len(defined), len(values) - len(defined))


def _if_defined(
    cam: np.ndarray, mask: np.ndarray, figure: Callable[[np.ndarray, np.ndarray], float]
) -> float | None:
    cam, mask = np.asarray(cam, np.float64), np.asarray(mask)
    if cam.ndim != 2 or cam.shape != mask.shape or mask.dtype != bool:
        raise ValueError(
            f"cam and mask must be (H, W) of one shape, the mask bool: got {cam.shape} and "
            f"{mask.dtype} {mask.shape}"
        )
    if not np.isfinite(cam).all() or cam.min() < 0:
        raise ValueError(f"cam must be finite and not negative, got {cam.min()} to {cam.max()}")
    return None if is_constant(cam) or not mask.any() else figure(cam, mask)
