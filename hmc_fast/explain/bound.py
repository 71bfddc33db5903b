"""What IoU a map of few cells can reach at best: two figures to read every IoU against.

A layer's map of h x w cells is upsampled bilinearly to the image, min-max normalised, and the
region is where it is at least half its maximum (localisation.iou). However the cells are set, that
region cannot be small: around the centre of the largest cell it is always filled. At 7 x 7 cells
for 224 x 224 pixels that are 580 pixels or more, where the median lesion of MIAS has 293. (Not so
for a recipe that upsamples before its ReLU, Score-CAM's `official`, where cells are negative.)

    highest_iou   no map can pass it: a proof, for each mask
    fitted_iou    a map that was fitted to the mask itself reaches it: an example, for each mask

What is best lies between the two.
"""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

FIT_STEPS = 120
MASKS_AT_ONCE = 16


def highest_iou(masks: Sequence[np.ndarray], cells: tuple[int, int]) -> np.ndarray:
    """The IoU at half the maximum that no map of `cells` (h, w) can pass, for each mask.

    masks: bool (H, W), one shape, none empty; H >= h, W >= w. Returns (n,) float64.

    Let the normalised map run from 0 to 1, a be its largest cell (a >= 1, as no pixel passes it)
    and e the share that the other cells have at most at the pixel next to a cell's centre. The
    smallest cell is at least -k a with k = e / (1 - e), else that pixel would be below 0. A pixel
    where the weight of the largest cell is v has then at least v a - (1 - v) k a, which is 1/2 or
    more wherever v >= (1/2 + k) / (1 + k): these pixels, R_c, are in the region whatever the other
    cells are. So with a mask M

        IoU = |M ∩ region| / |M ∪ region| <= max_c |M| / |M ∪ R_c|

    Raises ValueError: a mask of another shape, an empty one, or more cells than pixels.
    """
    stack = _checked(masks, cells)
    down, across = (bilinear(p, c) for p, c in zip(stack.shape[1:], cells, strict=True))
    share = 1 - down.max(dim=0).values.min() * across.max(dim=0).values.min()
    others = share / (1 - share)
    needed = (0.5 + others) / (1 + others)
    size = stack.sum(dim=(1, 2))
    best = torch.zeros(len(stack), dtype=torch.float64)
    for row in down.T:
        filled = (row[None, :, None] * across.T[:, None, :] >= needed).double()  # (w, H, W)
        inside = torch.einsum("chw,nhw->nc", filled, stack)
        union = size[:, None] + filled.sum(dim=(1, 2)) - inside
        best = torch.maximum(best, (size[:, None] / union).amax(dim=1))
    return best.numpy()


def smallest_region(pixels: tuple[int, int], cells: tuple[int, int]) -> int:
    """The pixels in the region of a map with one cell of 1 among zeros, where it is smallest."""
    down, across = (bilinear(p, c) for p, c in zip(pixels, cells, strict=True))
    maps = torch.einsum("hr,wc->rchw", down, across).flatten(0, 1)
    return int((maps >= 0.5 * maps.amax(dim=(1, 2), keepdim=True)).sum(dim=(1, 2)).min())


def fitted_iou(
    masks: Sequence[np.ndarray], cells: tuple[int, int], *, steps: int = FIT_STEPS
) -> np.ndarray:
    """The IoU at half the maximum of a map of `cells` (h, w) that was fitted to the mask.

    masks: as `highest_iou`. Returns (n,) float64: the best IoU met on the way from two starts (the
    share of each cell that the mask covers; the cell it covers most alone) by Adam on a soft IoU,

        Σ s m / Σ (s + m - s m),   s = sigmoid(sharpness (map / max - 1/2))

    while the sharpness grows from 10 to 100. No optimum is claimed, only that it can be reached.
    """
    stack = _checked(masks, cells).float()
    parts = stack.split(MASKS_AT_ONCE)
    return torch.cat([_fit(part, cells, steps) for part in parts]).double().numpy()


def _fit(masks: Tensor, cells: tuple[int, int], steps: int) -> Tensor:
    """The best IoU of each mask (n, H, W) over both starts."""
    covered = F.adaptive_avg_pool2d(masks, cells)
    most = covered.amax(dim=(1, 2), keepdim=True)
    starts = torch.cat([covered / most, (covered == most).float()])
    masks, down, across = masks.repeat(2, 1, 1), *_matrices(masks, cells)
    values = (starts + 0.02).requires_grad_()
    optimiser = torch.optim.Adam([values], lr=0.05)
    best = torch.zeros(len(masks))
    for step in range(steps):
        maps = down @ values.clamp(min=1e-3) @ across.T
        maps = maps / maps.amax(dim=(1, 2), keepdim=True)
        best = torch.maximum(best, _overlap((maps >= 0.5).float(), masks))
        soft = torch.sigmoid(10 * 10 ** (step / steps) * (maps - 0.5))
        optimiser.zero_grad()
        (1 - _overlap(soft, masks)).sum().backward()
        optimiser.step()
    return best.detach().view(2, -1).amax(dim=0)


def _overlap(region: Tensor, masks: Tensor) -> Tensor:
    """Σ r m / Σ (r + m - r m) of each pair (n, H, W)."""
    both = (region * masks).sum(dim=(1, 2))
    return both / (region.sum(dim=(1, 2)) + masks.sum(dim=(1, 2)) - both)


def _matrices(masks: Tensor, cells: tuple[int, int]) -> tuple[Tensor, Tensor]:
    down, across = (bilinear(p, c) for p, c in zip(masks.shape[1:], cells, strict=True))
    return down.to(masks.dtype), across.to(masks.dtype)


def bilinear(pixels: int, cells: int) -> Tensor:
    """(pixels, cells) float64: the weight of each cell in each pixel along one side, as
    F.interpolate(mode="bilinear", align_corners=False) has them."""
    units = torch.eye(cells, dtype=torch.float64)[None]
    return F.interpolate(units, size=pixels, mode="linear", align_corners=False)[0].T.contiguous()


def _checked(masks: Sequence[np.ndarray], cells: tuple[int, int]) -> Tensor:
    """The masks as float64 (n, H, W)."""
    shapes = {np.shape(mask) for mask in masks}
    if len(shapes) != 1 or len(next(iter(shapes))) != 2:
        raise ValueError(f"masks must be (H, W) arrays of one shape, got {sorted(shapes)}")
    if not all(np.any(mask) for mask in masks):
        raise ValueError("an empty mask has no IoU: leave it out")
    stack = torch.from_numpy(np.stack([np.asarray(mask, bool) for mask in masks])).double()
    if min(cells) < 1 or cells[0] > stack.shape[1] or cells[1] > stack.shape[2]:
        size = " x ".join(map(str, stack.shape[1:]))
        raise ValueError(f"cells must be from 1 x 1 to the {size} of the masks, got {cells}")
    return stack
