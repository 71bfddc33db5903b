"""How much the network's answer depends on what a map calls important.

With p(x) the softmax probability of the target class, Y = p(image) and O = p(image * map):

    average_drop   max(0, Y - O) / Y     less is better (Chattopadhay et al., Grad-CAM++, WACV 2018)
    increase       1 where O > Y, else 0 more is better (same place)
    deletion       area under p while pixels go, the most important first: less is better
    insertion      area under p while pixels come, the most important first: more is better
                   (both Petsiuk et al., RISE, BMVC 2018)

These are the figures of one image, as shares of 1; a data set's is their mean. What a map hides
and what deletion removes becomes 0 of the normalised image, mid-grey, as in Score-CAM; insertion
starts from a blurred image. A constant map ranks nothing: all figures are None, and so is the drop
where Y is 0.
"""

from collections.abc import Callable, Iterator
from itertools import chain
from typing import NamedTuple

import torch
from torch import Tensor
from torchvision.transforms.v2 import functional

STEPS = 20
BATCH_SIZE = 8
# an upsampled map of few cells has many pixels that differ by rounding alone
STEPS_OF_VALUE = 10_000
BLUR = (11 / 224, 5 / 224)  # kernel and standard deviation of RISE's blur, as shares of the side
Network = Callable[[Tensor], Tensor]


class Faithfulness(NamedTuple):
    """The four figures of one map, each 0 to 1 or None."""

    average_drop: float | None
    increase: float | None
    insertion: float | None
    deletion: float | None


UNDEFINED = Faithfulness(None, None, None, None)


@torch.no_grad()
def faithfulness(
    network: Network,
    image: Tensor,
    cam: Tensor,
    target: int,
    *,
    steps: int = STEPS,
    batch_size: int = BATCH_SIZE,
) -> Faithfulness:
    """All four figures from 2 * steps + 4 forward passes, `batch_size` images at a time.

    network: images (B, C, H, W) -> logits (B, classes), in eval mode; image: (C, H, W), normalised;
    cam: (H, W), 0 to 1; target: the class.

    Raises ValueError: shapes that do not fit, a cam outside 0 to 1 or not finite, a target that the
    logits do not have, steps or batch_size below 1.
    """
    _check(image, cam, steps, batch_size)
    if cam.min() == cam.max():
        return UNDEFINED
    order, start = importance_order(cam), blurred(image)
    images = chain(
        (image, image * cam.to(image)),
        revealed(start, image, order, steps),
        revealed(image, torch.zeros_like(image), order, steps),
    )
    probability = target_probability(network, images, target, batch_size)
    with_all, with_map = probability[:2].tolist()
    insertion, deletion = probability[2:].split(steps + 1)
    return Faithfulness(
        average_drop=max(0.0, with_all - with_map) / with_all if with_all else None,
        increase=float(with_map > with_all),
        insertion=area_under(insertion),
        deletion=area_under(deletion),
    )


def importance_order(cam: Tensor) -> Tensor:
    """(H, W) int64: a pixel's place when all are sorted by importance, 0 the most important; pixels
    of one value, to STEPS_OF_VALUE, in the order of rows and columns: rounding decides nothing."""
    steps = (cam.flatten().double() * STEPS_OF_VALUE).round()
    order = torch.argsort(steps, descending=True, stable=True)
    places = torch.empty_like(order)
    places[order] = torch.arange(len(order), device=order.device)
    return places.view(cam.shape)


def revealed(before: Tensor, after: Tensor, order: Tensor, steps: int) -> Iterator[Tensor]:
    """(C, H, W) each: `before`, then with the first pixels of `order` taken from `after`, in
    `steps` equal steps up to all of them."""
    for step in range(steps + 1):
        yield torch.where(order < round(step / steps * order.numel()), after, before)


def blurred(image: Tensor) -> Tensor:
    """Where insertion starts: RISE's blur, 11 pixels of standard deviation 5 at 224 pixels."""
    side, shortest = max(image.shape[-2:]), min(image.shape[-2:])
    radius = min(max(1, round(BLUR[0] * side / 2 - 0.5)), shortest - 1)  # the border is mirrored
    kernel = 2 * radius + 1
    return functional.gaussian_blur(image, [kernel, kernel], [BLUR[1] * side] * 2)


def area_under(curve: Tensor) -> float:
    """∫ p over the share of pixels from 0 to 1, by the trapezoidal rule."""
    return torch.trapezoid(curve, dx=1 / (len(curve) - 1)).item()


def target_probability(
    network: Network, images: Iterator[Tensor], target: int, batch_size: int
) -> Tensor:
    """softmax(network(x))[target] of each image (C, H, W), float64 (n,)."""
    parts = []
    for batch in _batches(images, batch_size):
        logits = network(batch).double()
        if not 0 <= target < logits.shape[1]:
            raise ValueError(f"target must be from 0 to {logits.shape[1] - 1}, got {target}")
        parts.append(logits.softmax(dim=1)[:, target])
    return torch.cat(parts)


def _batches(images: Iterator[Tensor], batch_size: int) -> Iterator[Tensor]:
    batch: list[Tensor] = []
    for image in images:
        batch.append(image)
        if len(batch) == batch_size:
            yield torch.stack(batch)
            batch = []
    if batch:
        yield torch.stack(batch)


def _check(image: Tensor, cam: Tensor, steps: int, batch_size: int) -> None:
    if image.dim() != 3 or cam.shape != image.shape[1:]:
        raise ValueError(
            f"image must be (C, H, W) and cam (H, W) of its size, got {tuple(image.shape)} and "
            f"{tuple(cam.shape)}"
        )
    if not (cam.min() >= 0 and cam.max() <= 1):  # false for NaN too
        raise ValueError(f"cam must be from 0 to 1, got {cam.min():.4g} to {cam.max():.4g}")
    if steps < 1 or batch_size < 1:
        raise ValueError(f"steps and batch_size must be 1 or more, got {steps} and {batch_size}")
