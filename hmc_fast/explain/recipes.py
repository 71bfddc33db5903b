"""The recipes of Score-CAM: what differs between the paper, its authors' code and two libraries.

                masks                              weight of a channel         map
    paper       min-max, then upsampled            logit                       ReLU(Σ w A)
    official    upsampled, then min-max            probability                 ReLU(Σ w upsampled A)
    torchcam    min-max, then upsampled            softmax over channels of    ReLU(Σ w A)
                                                   the logit
    grad-cam    upsampled (corners aligned),       softmax over channels of    ReLU(Σ w A)
                then min-max                       the logit

The first two leave constant channels out. Bilinear upsampling throughout; every map is upsampled
and brought to 0 to 1 in the same way afterwards (maps.py). Sources: Fatima et al. 2026, Eq. 28 to
31; haofanwang/Score-CAM d312f14; torchcam 0.5.0; grad-cam 1.5.7.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

NO_INFLUENCE = 1e-6  # epsilon over the range of a map: below it, a mask is what it is without


class Recipe(NamedTuple):
    """upsample_first: min-max after upsampling, not before; epsilon: added to the range in min-max;
    probability: of the class, not its logit; softmax: of the weights over the channels; constant:
    constant channels count, their mask is 0; relu_last: the weighted sum is upsampled before the
    ReLU."""

    upsample_first: bool = False
    align_corners: bool = False
    epsilon: float = 0.0
    probability: bool = False
    softmax: bool = False
    constant: bool = False
    relu_last: bool = False

    def masks(self, maps: Tensor, slack: Tensor, size: tuple[int, int]) -> Tensor:
        """maps (n, h, w) from 0 to 1, slack (n,) as `slack` gives it -> masks (n, 1, H, W)."""
        slack = slack[:, None, None, None]
        if not self.upsample_first:
            return self._upsampled(maps, size) / (1 + slack)
        masks = self._upsampled(maps, size)
        low, high = masks.amin((2, 3), keepdim=True), masks.amax((2, 3), keepdim=True)
        span = (high - low + slack).clamp_min(torch.finfo(maps.dtype).tiny)
        return (masks - low) / span

    def slack(self, span: Tensor) -> Tensor:
        """epsilon / span, the part of epsilon where maps are first brought from 0 to 1; 0 where it
        is too small to be seen, so that equal masks are exactly equal."""
        slack = self.epsilon / span.clamp_min(torch.finfo(span.dtype).tiny)
        return torch.where(slack < NO_INFLUENCE, 0, slack)

    def scores(self, logits: Tensor, target: Tensor) -> Tensor:
        """logits (n, classes), target (n,) -> (n,), what a channel's weight is made of."""
        wide = logits.double() if logits.dtype == torch.float64 else logits.float()
        values = wide.softmax(1) if self.probability else wide
        return values.gather(1, target[:, None])[:, 0]

    def _upsampled(self, maps: Tensor, size: tuple[int, int]) -> Tensor:
        return F.interpolate(maps[:, None], size, mode="bilinear", align_corners=self.align_corners)


RECIPES = {
    "paper": Recipe(),
    "official": Recipe(upsample_first=True, probability=True, relu_last=True),
    "torchcam": Recipe(epsilon=1e-8, softmax=True, constant=True),
    "grad-cam": Recipe(
        upsample_first=True, align_corners=True, epsilon=1e-8, softmax=True, constant=True
    ),
}


def find_recipe(name: str) -> Recipe:
    """ValueError for a name that there is not."""
    if name not in RECIPES:
        raise ValueError(f"recipe must be one of {', '.join(RECIPES)}, got {name!r}")
    return RECIPES[name]
