"""Augmentation of a whole batch in one pass on the images' device.

Variant i of image j is a pure function of (seed, i, j): batch size, order and workers do not
matter. The chain is flip, rotate, brightness, contrast, normalise, each step with the values of
torchvision.transforms.v2.functional applied image by image on float32 in [0, 1].
"""

from collections.abc import Sequence
from typing import overload

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import grid_sample

FLIP_PROBABILITY = 0.5
MAX_DEGREES = 15.0
MAX_CHANGE = 0.2  # of brightness and of contrast
PARAMETERS = 4  # columns: flip, degrees, brightness, contrast


def draw_parameters(seed: int, variants: Sequence[int], images: Sequence[int]) -> Tensor:
    """What is done to variant `variants[b]` of image `images[b]`, by these and `seed` alone.

    All numbers are integers >= 0; an image is its index in the data set, not in the batch.
    Returns (B, 4) float32 on the CPU: flip 0 or 1 (probability 0.5), degrees counter-clockwise
    U(-15, 15), factor of brightness U(0.8, 1.2), factor of contrast U(0.8, 1.2).
    Raises ValueError: the two sequences differ in length, or a number is negative.
    """
    if len(variants) != len(images):
        raise ValueError(
            "draw_parameters needs one variant for each image, "
            f"got {len(variants)} variants and {len(images)} images"
        )
    bits = np.empty((len(images), PARAMETERS), np.uint64)
    for row, (variant, image) in enumerate(zip(variants, images, strict=True)):
        sequence = np.random.SeedSequence([int(seed), int(variant), int(image)])
        bits[row] = sequence.generate_state(PARAMETERS, np.uint64)
    uniform = (bits >> np.uint64(11)) * 2.0**-53  # [B, 4] doubles in [0, 1)
    parameters = 2 * uniform - 1  # [-1, 1)
    parameters[:, 0] = uniform[:, 0] < FLIP_PROBABILITY
    parameters[:, 1] *= MAX_DEGREES
    parameters[:, 2:] = 1 + MAX_CHANGE * parameters[:, 2:]
    return torch.from_numpy(parameters.astype(np.float32))


@overload
def augment(images: Tensor, parameters: Tensor, masks: None = None) -> Tensor: ...
@overload
def augment(images: Tensor, parameters: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]: ...
def augment(
    images: Tensor, parameters: Tensor, masks: Tensor | None = None
) -> Tensor | tuple[Tensor, Tensor]:
    """Flip, rotate about the centre, change brightness and contrast (about the mean), (x-0.5)/0.5.

    images: (B, 1, H, W) uint8; parameters: (B, 4) of `draw_parameters`, any device;
    masks: (B, 1, H, W) bool, on the images' device.
    Returns (B, 3, H, W) float32 in [-1, 1] with three equal channels; with masks also the moved
    masks: as pictures of 0 and 1 they take the same flip and bilinear rotation, True from 0.5 on.
    Raises ValueError: a tensor has the wrong shape or dtype.
    """
    _check(images, parameters, masks)
    flip, degrees, brightness, contrast = parameters.to(images.device, non_blocking=True).unbind(1)
    grey = images.float() / 255
    planes = [grey, torch.ones_like(grey)]
    if masks is not None:
        planes.append(masks.float())
    moved = rotate(flip_rows(torch.cat(planes, dim=1), flip), degrees)  # [B, 2 or 3, H, W]
    # torchvision's fill=0 multiplies by the rotated frame: edges darken twice, here too
    grey = moved[:, :1] * moved[:, 1:2]
    grey = (grey * _per_image(brightness)).clamp(0, 1)
    mean = grey.mean(dim=(1, 2, 3), keepdim=True)
    factor = _per_image(contrast)
    output = _to_network((grey * factor + mean * (1 - factor)).clamp(0, 1))
    return output if masks is None else (output, moved[:, 2:] >= 0.5)


def normalise(images: Tensor) -> Tensor:
    """What the network sees without augmentation: x/255, then (x-0.5)/0.5.

    images: (B, 1, H, W) uint8. Returns (B, 3, H, W) float32 in [-1, 1] with three equal channels.
    Raises ValueError: wrong shape or dtype.
    """
    _check_images(images)
    return _to_network(images.float() / 255)


def flip_rows(planes: Tensor, flip: Tensor) -> Tensor:
    """Mirror left and right where `flip` (B,) is 1; planes: (B, C, H, W)."""
    return torch.where(_per_image(flip) > 0.5, planes.flip(-1), planes)


def rotate(planes: Tensor, degrees: Tensor) -> Tensor:
    """Turn each image of (B, C, H, W) counter-clockwise about its centre; bilinear, outside is 0.

    degrees: (B,). With x, y from the centre and y down, output pixel (x, y) is the input's
    (x cos a - y sin a, x sin a + y cos a). The grid is made without a matrix product: that would
    run in TF32 or bfloat16 where those are allowed.
    """
    height, width = planes.shape[-2:]
    angle = torch.deg2rad(degrees.double())
    cos, sin = torch.cos(angle)[:, None, None], torch.sin(angle)[:, None, None]  # [B, 1, 1]
    x = _from_centre(width, planes)  # [W]
    y = _from_centre(height, planes)[:, None]  # [H, 1]
    per_x, per_y = 2 / width, 2 / height  # grid units a pixel: -1 and 1 are the edges of the image
    source_x = (cos * per_x).to(x) * x - (sin * per_x).to(x) * y  # [B, H, W]
    source_y = (sin * per_y).to(x) * x + (cos * per_y).to(x) * y
    grid = torch.stack((source_x, source_y), dim=-1)
    return grid_sample(planes, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


def _from_centre(pixels: int, like: Tensor) -> Tensor:
    return torch.arange(pixels, device=like.device, dtype=like.dtype) - (pixels - 1) / 2


def _to_network(grey: Tensor) -> Tensor:
    return ((grey - 0.5) / 0.5).expand(-1, 3, -1, -1).contiguous()


def _per_image(values: Tensor) -> Tensor:
    return values.view(-1, 1, 1, 1)


def _check(images: Tensor, parameters: Tensor, masks: Tensor | None) -> None:
    _check_images(images)
    if parameters.shape != (images.shape[0], PARAMETERS):
        raise ValueError(
            f"parameters must be ({images.shape[0]}, {PARAMETERS}) for {images.shape[0]} images, "
            f"got {tuple(parameters.shape)}"
        )
    if masks is not None and (masks.shape != images.shape or masks.dtype != torch.bool):
        raise ValueError(
            f"masks must be bool {tuple(images.shape)} like the images, "
            f"got {masks.dtype} {tuple(masks.shape)}"
        )


def _check_images(images: Tensor) -> None:
    if images.dim() != 4 or images.shape[1] != 1 or images.dtype != torch.uint8:
        raise ValueError(
            f"images must be uint8 (B, 1, H, W), got {images.dtype} {tuple(images.shape)}"
        )
