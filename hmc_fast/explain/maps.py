"""From weighted sums of a layer's maps to what is shown: ReLU, the image's size, 0 to 1.

(m - min m) / (max m - min m)    after bilinear upsampling, so that the highest pixel is 1
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

NOISE = 16  # a range of so many roundings of the largest value is none


def finish(
    sums: Sequence[Tensor], size: tuple[int, int], *, raw: bool, relu_last: bool = False
) -> Tensor:
    """Weighted sums (B, h, w), one of each layer, as maps (B, H, W), float32, 0 to 1.

    Several layers: each map by itself, then their mean, from 0 to 1 again. raw: the sum of one
    layer after ReLU, as it is; relu_last: upsample before the ReLU.

    Raises ValueError: a sum that is not finite.
    """
    check_finite(sums)
    if raw:
        return sums[0].relu().float()
    if relu_last:
        each = [normalise(upsample(weighted, size).relu()) for weighted in sums]
    else:
        each = [normalise(upsample(weighted.relu(), size)) for weighted in sums]
    return (each[0] if len(each) == 1 else normalise(torch.stack(each).mean(0))).float()


def check_raw(raw: bool, names: Sequence[str]) -> None:
    """ValueError where the maps of several layers are wanted as they are."""
    if raw and len(names) > 1:
        raise ValueError(f"raw=True gives the map of one layer, got {len(names)}")


def check_finite(sums: Sequence[Tensor]) -> None:
    """ValueError where a value is NaN or infinite; on a GPU this waits for it."""
    if not torch.stack([weighted.isfinite().all() for weighted in sums]).all():
        raise ValueError(
            "the map is not finite: the images hold NaN, or the network overflows in this dtype "
            "(use bfloat16 or float32)"
        )


def upsample(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """(B, h, w) -> (B, H, W), bilinear, align_corners=False."""
    return F.interpolate(maps[:, None], size, mode="bilinear", align_corners=False)[:, 0]


def normalise(maps: Tensor) -> Tensor:
    """Each of (B, H, W) from 0 to 1; a constant one, but for rounding, is 0."""
    low, high = maps.amin((1, 2), keepdim=True), maps.amax((1, 2), keepdim=True)
    span = high - low
    flat = span <= NOISE * torch.finfo(maps.dtype).eps * torch.maximum(high.abs(), low.abs())
    return ((maps - low) / torch.where(flat, 1, span)).masked_fill(flat, 0)


def wide(maps: Tensor) -> Tensor:
    """In the dtype that sums are taken in: float32, or float64 as it is."""
    return maps if maps.dtype == torch.float64 else maps.float()


def weighted_sum(weights: Tensor, maps: Tensor) -> Tensor:
    """Σ_k w_k A_k: weights (B, C), maps (B, C, h, w) -> (B, h, w). No matrix product: TF32 would
    round it."""
    return (weights[:, :, None, None] * maps).sum(1)
