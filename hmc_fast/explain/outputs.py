"""What layers give for some images, and the logits, without gradients; optimised models too."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from hmc_fast.explain.calls import as_input, check_images, check_maps, logits_of
from hmc_fast.explain.layers import (
    check_called,
    cut_short,
    find_layers,
    recorded,
    uncompiled,
    unknown_layer,
    unwrapped,
)
from hmc_fast.explain.maps import wide
from hmc_fast.models.optimized import OptimizedModel, in_parts, inference_settings


def layer_outputs(
    model: nn.Module, images: Tensor, names: Sequence[str], *, whole: bool = True
) -> tuple[list[Tensor], Tensor | None]:
    """Maps (B, C, h, w) of each layer, float32 or float64, and logits (B, classes).

    whole: False where the logits are not needed, and are None, and the forward pass may end behind
    the layers: `model` is optimised or could be.

    Raises ValueError: no such layer, or one that gives no maps.
    """
    parts = [_outputs(model, part, names, whole) for part in in_parts(check_images(images))]
    maps = [wide(torch.cat(each)) for each in zip(*(found for found, _ in parts), strict=True)]
    for name, each in zip(names, maps, strict=True):
        check_maps(each, name, images)
    logits = [each for _, each in parts if each is not None]
    return maps, torch.cat(logits) if logits else None


def _outputs(
    model: nn.Module, images: Tensor, names: Sequence[str], whole: bool
) -> tuple[list[Tensor], Tensor | None]:
    if not isinstance(model, OptimizedModel):
        return _of_network(model, images, names, whole)
    for name in names:
        if name not in model.net.names:
            raise ValueError(unknown_layer(name, model.net.names))
    maps = [model.activations(images, name) for name in names]
    return maps, model(images) if whole else None


def _of_network(
    model: nn.Module, images: Tensor, names: Sequence[str], whole: bool
) -> tuple[list[Tensor], Tensor | None]:
    """As written, eagerly, in its own dtype."""
    model, logits = unwrapped(model), None
    layers = find_layers(model, names)
    with uncompiled(model), inference_settings(images.device), recorded(layers) as outputs:
        inputs = as_input(model, images)
        if whole:
            logits = logits_of(model(inputs), images)
        else:
            with cut_short(model, layers):
                model(inputs)
    check_called(names, outputs)
    return [outputs[name] for name in names], logits
