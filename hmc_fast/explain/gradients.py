"""Grad-CAM and Grad-CAM++: one forward pass, one backward pass of what follows the layer.

    map = ReLU(Σ_k w_k A_k),  g = ∂S/∂A, S the target's logit

    Grad-CAM      w_k = mean_ij g_ij                          Selvaraju et al. 2017, Eq. 1 and 2
    Grad-CAM++    w_k = Σ_{g>0} g / (2 + g ΣA_k)              `original`
                  w_k = Σ_{g≠0} 1 / (2 + g ΣA_k)              `printed` in the HMC-Net paper, Eq. 24

`original` is Chattopadhyay et al. 2018, Eq. 19, for Y = exp(S) and S linear in A:
α = g² / (2 g² + g³ ΣA), w = Σ α ReLU(exp(S) g), without the powers of g that underflow, and without
exp(S) > 0, which the map's normalisation takes out. Where 2 + g ΣA <= 0, which takes negative maps,
the weight is 0.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from hmc_fast.explain.calls import Target, as_input, check_maps, logits_of, resolve_targets
from hmc_fast.explain.layers import (
    check_called,
    evaluating,
    find_layers,
    layer_names,
    recorded,
    uncompiled,
    unwrapped,
)
from hmc_fast.explain.maps import check_raw, finish, weighted_sum, wide
from hmc_fast.models.optimized import OptimizedModel

Reshape = Callable[[Tensor], Tensor]
Weights = Callable[[Tensor, Tensor], Tensor]  # maps, gradients (B, C, h, w) -> weights (B, C)
HALF_SCALE = 1024.0  # of gradients in float16, whose smallest would be 0


def grad_cam(
    model: nn.Module,
    images: Tensor,
    target: Target = None,
    *,
    layer: str | Sequence[str] = "layer4",
    recipe: str = "original",
    raw: bool = False,
    reshape: Reshape | None = None,
) -> Tensor:
    """Grad-CAM: w_k = mean_ij ∂S/∂A_kij, map = ReLU(Σ_k w_k A_k) (Selvaraju et al. 2017).

    model: any network from images to logits (B, classes), in any mode, frozen or not; nothing of it
    is changed, and no parameter gets a gradient. images: (B, C, H, W), on its device. target: the
    class to explain, None for the predicted one, or one an image. layer: a module's name, or
    several, whose maps are averaged. recipe: "original" is the only one. raw: the map at the
    layer's size, after the ReLU, not normalised. reshape: makes maps (B, C, h, w) of the layer's
    output where it has another shape, tokens (B, N, C) say.

    Returns (B, H, W) float32 from 0 to 1, 1 the most important; raw: (B, h, w). A constant map is
    0. Raises ValueError: unknown layer (close names are given), class or recipe, a layer whose
    output is no map or has no influence on the logits, a map that is not finite.
    """
    weights = _choose({"original": mean_gradient}, recipe)
    return _explain(model, images, target, layer_names(layer), weights, raw, reshape)


def grad_cam_plus_plus(
    model: nn.Module,
    images: Tensor,
    target: Target = None,
    *,
    layer: str | Sequence[str] = "layer4",
    recipe: str = "original",
    raw: bool = False,
    reshape: Reshape | None = None,
) -> Tensor:
    """Grad-CAM++ in its stable closed form: w_k = Σ_{g>0} g / (2 + g ΣA_k), g = ∂S/∂A_k
    (Chattopadhyay et al. 2018, Eq. 19), exact where the logits are linear after the layer.

    recipe: "original", or "printed" as in the HMC-Net paper. Everything else as for `grad_cam`.
    """
    weights = _choose({"original": original_weights, "printed": printed_weights}, recipe)
    return _explain(model, images, target, layer_names(layer), weights, raw, reshape)


def mean_gradient(maps: Tensor, gradients: Tensor) -> Tensor:
    """Grad-CAM's weights (B, C)."""
    return gradients.mean((2, 3))


def original_weights(maps: Tensor, gradients: Tensor) -> Tensor:
    """Grad-CAM++'s weights (B, C), Σ_{g>0} g / (2 + g ΣA)."""
    return _over_denominator(maps, gradients, gradients.relu())


def printed_weights(maps: Tensor, gradients: Tensor) -> Tensor:
    """The HMC-Net paper's, Σ_{g≠0} 1 / (2 + g ΣA)."""
    return _over_denominator(maps, gradients, (gradients != 0).to(gradients.dtype))


def _over_denominator(maps: Tensor, gradients: Tensor, numerator: Tensor) -> Tensor:
    denominator = 2 + gradients * maps.sum((2, 3), keepdim=True)
    valid = denominator > 0
    return torch.where(valid, numerator / torch.where(valid, denominator, 1), 0).sum((2, 3))


def _choose(recipes: dict[str, Weights], recipe: str) -> Weights:
    if recipe not in recipes:
        raise ValueError(f"recipe must be one of {', '.join(recipes)}, got {recipe!r}")
    return recipes[recipe]


def _explain(
    model: nn.Module,
    images: Tensor,
    target: Target,
    names: list[str],
    weights: Weights,
    raw: bool,
    reshape: Reshape | None,
) -> Tensor:
    """Maps of `images` with these weights of the channels."""
    check_raw(raw, names)
    pairs = maps_and_gradients(model, images, target, names)
    with torch.no_grad(), torch.autocast(images.device.type, enabled=False):
        sums = []
        for name, pair in zip(names, pairs, strict=True):
            shaped = pair if reshape is None else [reshape(tensor) for tensor in pair]
            maps, gradients = (check_maps(tensor, name, images) for tensor in shaped)
            sums.append(weighted_sum(weights(maps, gradients), maps))
        return finish(sums, (images.shape[2], images.shape[3]), raw=raw)


def maps_and_gradients(
    model: nn.Module, images: Tensor, target: Target, names: Sequence[str]
) -> list[tuple[Tensor, Tensor]]:
    """Each layer's output and the gradient of the targets' logits by it, float32 or float64."""
    if isinstance(model, OptimizedModel):
        raise ValueError(
            "an optimised model has no gradients: give grad_cam the model that it was made from"
        )
    model = unwrapped(model)
    layers = find_layers(model, names)
    with torch.inference_mode(False), torch.no_grad(), evaluating(model), uncompiled(model):
        with recorded(layers, differentiable=True) as outputs:
            logits = logits_of(model(as_input(model, images)), images)
        check_called(names, outputs)
        targets = resolve_targets(target, logits)
        maps = [outputs[name] for name in names]
        return _with_gradients(logits.gather(1, targets[:, None]), maps, names)


def _with_gradients(
    scores: Tensor, maps: list[Tensor], names: Sequence[str]
) -> list[tuple[Tensor, Tensor]]:
    """Small gradients in float16 would be 0: they are computed HALF_SCALE times as large."""
    scale = HALF_SCALE if any(each.dtype == torch.float16 for each in maps) else 1.0
    found: Sequence[Tensor | None] = [None] * len(maps)
    if scores.requires_grad:
        with torch.autocast(scores.device.type, enabled=False):
            seed = torch.full_like(scores, scale)
            found = torch.autograd.grad(scores, maps, seed, allow_unused=True)
    for name, gradient in zip(names, found, strict=True):
        if gradient is None:
            raise ValueError(
                f"the logits do not depend on layer {name!r}, or the model's forward pass switches "
                "gradients off"
            )
    return [
        (wide(each.detach()), wide(gradient) / scale)
        for each, gradient in zip(maps, found, strict=True)
        if gradient is not None
    ]
