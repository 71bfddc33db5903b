"""The masks that Score-CAM has to try: one of each kind.

Channels whose maps differ by a factor and a constant alone have the same mask, and so the same
score: behind a ReLU many maps of 7 x 7 have one active cell. Constant channels have none, or all
the same one.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from hmc_fast.explain.recipes import Recipe

LEFT_OUT = -1


@dataclass(frozen=True)
class Jobs:
    """J distinct masks of B images, those of an image in a row, the largest energy first.

    maps (J, h, w) from 0 to 1 and slack (J,) for Recipe.masks; image (J,): which image it covers;
    job (B, C): the mask of each channel, LEFT_OUT where it has none.
    """

    maps: Tensor
    slack: Tensor
    image: Tensor
    job: Tensor

    def __len__(self) -> int:
        return len(self.image)

    def counts(self) -> list[int]:
        """How many masks each image has."""
        return torch.bincount(self.image, minlength=len(self.job)).tolist()

    def chosen(self, places: Tensor) -> "Jobs":
        """The jobs at these places; `job` still speaks of all."""
        return Jobs(self.maps[places], self.slack[places], self.image[places], self.job)


def find_jobs(activations: Tensor, recipe: Recipe) -> Jobs:
    """activations (B, C, h, w), float32 or float64."""
    low, high = activations.amin((2, 3)), activations.amax((2, 3))
    span = high - low  # (B, C)
    divisor = torch.where(span == 0, 1, span)[..., None, None]
    maps = (activations - low[..., None, None]) / divisor
    slack = recipe.slack(span)
    energy = activations.square().sum((2, 3))
    kept = torch.ones_like(span, dtype=torch.bool) if recipe.constant else span != 0
    parts, start = [], 0
    for image in range(len(maps)):
        part = _of_one_image(maps[image], slack[image], energy[image], kept[image], image, start)
        start += len(part)
        parts.append(part)
    names = ("maps", "slack", "image", "job")
    return Jobs(*(torch.cat([getattr(part, name) for part in parts]) for name in names))


def _of_one_image(
    maps: Tensor, slack: Tensor, energy: Tensor, kept: Tensor, image: int, start: int
) -> Jobs:
    """maps (C, h, w), slack, energy, kept (C,); start: the number of its first job."""
    rows = torch.cat([maps.flatten(1), slack[:, None]], 1)[kept]
    distinct, place = torch.unique(rows, dim=0, return_inverse=True)
    # the largest of equal ones: a sum would depend on the order that a GPU adds in
    largest = energy.new_zeros(len(distinct)).scatter_reduce(0, place, energy[kept], "amax")
    order = largest.argsort(descending=True, stable=True)
    rank = torch.empty_like(order)
    rank[order] = torch.arange(len(order), device=order.device)
    job = torch.full((len(maps),), LEFT_OUT, device=maps.device)
    job[kept] = start + rank[place]
    ordered = distinct[order]
    own = torch.full((len(order),), image, device=maps.device)
    return Jobs(ordered[:, :-1].unflatten(1, maps.shape[1:]), ordered[:, -1], own, job[None])
