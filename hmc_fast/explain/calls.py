"""What every explainer asks of a network: images in its dtype, logits, and a class for each image.

A target is None for the predicted class, a number for all images, or one number an image.
"""

import operator
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from hmc_fast.explain.layers import first_tensor

Target = int | Sequence[int] | Tensor | None


def check_images(images: Tensor) -> Tensor:
    """images themselves; ValueError where they are not (B, C, H, W) of a float dtype."""
    if images.dim() != 4 or not len(images) or not images.is_floating_point():
        raise ValueError(
            "images must be (B, C, H, W) of a float dtype, at least one, got "
            f"{tuple(images.shape)} of {images.dtype}"
        )
    return images.detach()


def as_input(model: nn.Module, images: Tensor) -> Tensor:
    """images (B, C, H, W) as `model` takes them: in its dtype, except under autocast.

    Raises ValueError: images of another shape or device, or of integers.
    """
    images = check_images(images)
    own = first_parameter(model)
    if own is not None and own.device != images.device:
        raise ValueError(f"images are on {images.device}, the model is on {own.device}")
    if images.is_inference() and not torch.is_inference_mode_enabled():
        images = images.clone()  # autograd may save no inference tensor
    if own is None or torch.is_autocast_enabled(images.device.type):
        return images
    return images.to(own.dtype)


def first_parameter(model: nn.Module) -> Tensor | None:
    """The one that tells a network's dtype and device."""
    return next((p for p in model.parameters() if p.is_floating_point()), None)


def logits_of(output: Any, images: Tensor) -> Tensor:
    """A network's output as (B, classes); ValueError for another shape."""
    logits = first_tensor(output, "the model")
    if logits.dim() != 2 or len(logits) != len(images):
        raise ValueError(
            f"the model must give logits (B, classes), got {tuple(logits.shape)} for "
            f"{len(images)} images"
        )
    return logits


def resolve_targets(target: Target, logits: Tensor) -> Tensor:
    """The class of each image, (B,) int64 on the device of `logits` (B, classes).

    Raises ValueError: a class that the model does not have, or another count than of images;
    TypeError: no whole numbers.
    """
    if target is None:
        return logits.argmax(1)
    images, classes = logits.shape
    return given_targets(target, images, classes, logits.device)


def given_targets(
    target: int | Sequence[int] | Tensor, images: int, classes: int, device: torch.device
) -> Tensor:
    """`resolve_targets` where the classes are named: no logits are needed, only how many."""
    given: Any = target.tolist() if hasattr(target, "tolist") else target  # tensors, arrays
    each = list(given) if isinstance(given, Sequence) else [given] * images
    if len(each) != images:
        raise ValueError(f"target must be one class or one an image, got {len(each)} for {images}")
    try:
        numbers = [operator.index(number) for number in each]
    except TypeError as error:
        raise TypeError(f"target must be a class number or one an image, got {target!r}") from error
    for number in numbers:
        if not 0 <= number < classes:
            raise ValueError(f"target must be a class from 0 to {classes - 1}, got {number}")
    return torch.tensor(numbers, device=device)


def check_maps(activations: Tensor, name: str, images: Tensor) -> Tensor:
    """A layer's output, where it is maps (B, C, h, w) of these images; ValueError otherwise."""
    if activations.dim() != 4 or len(activations) != len(images):
        raise ValueError(
            f"layer {name!r} gives {tuple(activations.shape)}, which are no maps (B, C, H, W) of "
            f"{len(images)} images; name another layer, or give reshape= to grad_cam"
        )
    return activations
