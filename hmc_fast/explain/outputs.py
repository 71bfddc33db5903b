"""What layers give for some images, and the logits, without gradients; optimised models too."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from hmc_fast.explain.calls import as_input, check_images, check_maps, logits_of
from hmc_fast.explain.layers import (
    check_called,
    find_layers,
    recorded,
    uncompiled,
    unknown_layer,
    unwrapped,
)
from hmc_fast.explain.maps import wide
from hmc_fast.models.optimized import OptimizedModel, in_parts, inference_settings


def layer_outputs(
    model: nn.Module, images: Tensor, names: Sequence[str]
) -> tuple[list[Tensor], Tensor]:
    """Maps (B, C, h, w) of each layer, float32 or float64, and logits (B, classes).

    Raises ValueError: no such layer, or one that gives no maps.
    """
    parts = [_outputs(model, part, names) for part in in_parts(check_images(images))]
    maps = [wide(torch.cat(each)) for each in zip(*(found for found, _ in parts), strict=True)]
    for name, each in zip(names, maps, strict=True):
        check_maps(each, name, images)
    return maps, torch.cat([logits for _, logits in parts])


def _outputs(model: nn.Module, images: Tensor, names: Sequence[str]) -> tuple[list[Tensor], Tensor]:
    if not isinstance(model, OptimizedModel):
        return _of_network(model, images, names)
    for name in names:
        if name not in model.net.names:
            raise ValueError(unknown_layer(name, model.net.names))
    return [model.activations(images, name) for name in names], model(images)


def _of_network(
    model: nn.Module, images: Tensor, names: Sequence[str]
) -> tuple[list[Tensor], Tensor]:
    """As written, eagerly, in its own dtype."""
    model = unwrapped(model)
    layers = find_layers(model, names)
    with uncompiled(model), inference_settings(images.device), recorded(layers) as outputs:
        logits = logits_of(model(as_input(model, images)), images)
    check_called(names, outputs)
    return [outputs[name] for name in names], logits
