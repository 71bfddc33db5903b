"""Score-CAM: every channel's map as a mask on the image, weighted by what the network then says.

    map = ReLU(Σ_k s_k A_k),  s_k = S(image ∘ mask_k)          Wang et al. 2020; recipes.py

Exact, unless `max_channels` or `tolerance` ask for less: one forward pass for each different mask.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from hmc_fast.explain.approximate import Scores, channel_weights, remaining_change
from hmc_fast.explain.calls import Target, given_targets, resolve_targets
from hmc_fast.explain.distinct import Jobs, find_jobs
from hmc_fast.explain.layers import evaluating, layer_names
from hmc_fast.explain.maps import check_finite, check_raw, finish, weighted_sum
from hmc_fast.explain.masked import MaskedImages, fastest_form, known_classes
from hmc_fast.explain.outputs import layer_outputs
from hmc_fast.explain.recipes import find_recipe
from hmc_fast.explain.sharding import agree_on, gather, is_shared, own_share
from hmc_fast.explain.stream import try_masks
from hmc_fast.progress import say


class LayerScores(NamedTuple):
    """What the Score-CAM of one layer took.

    weights (B, C): of the channels; distinct, tried: masks of each image, and how many of them were
    tried; remaining (B,): by how much the others could still change the map, an estimate
    (approximate.py), 0 where there are none.
    """

    layer: str
    weights: Tensor
    distinct: list[int]
    tried: list[int]
    remaining: Tensor


class ScoreCam(NamedTuple):
    """maps (B, H, W) as `score_cam` returns them; target (B,): the class of each; layers: one
    LayerScores a layer."""

    maps: Tensor
    target: Tensor
    layers: tuple[LayerScores, ...]


@dataclass(frozen=True)
class Options:
    """The keyword arguments of `score_cam`, checked."""

    layer: str | Sequence[str] = "layer4"
    recipe: str = "paper"
    dtype: torch.dtype | None = None
    batch_size: int | None = None
    max_channels: int | None = None
    tolerance: float | None = None
    raw: bool = False
    progress: bool = False

    def __post_init__(self) -> None:
        find_recipe(self.recipe)
        check_raw(self.raw, self.names)
        for name in ("batch_size", "max_channels"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1 or None, got {value}")
        lower = self.dtype
        if lower is not None and not (isinstance(lower, torch.dtype) and lower.is_floating_point):
            raise ValueError(f"dtype must be a torch dtype of floats or None, got {lower!r}")
        if self.tolerance is not None and not 0 < self.tolerance < 1:
            raise ValueError(f"tolerance must be between 0 and 1 or None, got {self.tolerance}")
        if self.tolerance is not None and is_shared():
            raise ValueError("tolerance works in one process: leave it out under torchrun")

    @property
    def names(self) -> list[str]:
        """Of the layers."""
        return layer_names(self.layer)


def score_cam(
    model: nn.Module,
    images: Tensor,
    target: Target = None,
    *,
    layer: str | Sequence[str] = "layer4",
    recipe: str = "paper",
    dtype: torch.dtype | None = None,
    batch_size: int | None = None,
    max_channels: int | None = None,
    tolerance: float | None = None,
    raw: bool = False,
    progress: bool = False,
) -> Tensor:
    """Score-CAM: map = ReLU(Σ_k s_k A_k), s_k the target's logit of the image under the mask that
    channel k makes (Wang et al. 2020).

    model: any network from images to logits (B, classes), compiled or optimised ones too; nothing
    of it is changed. images: (B, C, H, W), on its device; their masks share one stream of batches.
    target: the class to explain, None for the predicted one, or one an image. layer: a module's
    name (of an optimised model, a stage's), or several, whose maps are averaged. recipe: "paper",
    "official", "torchcam" or "grad-cam", see recipes.py. dtype: of the masked forward passes, None
    for the model's own; autocast is off in them. batch_size: of these, None for what suits the
    device. max_channels: try so many masks an image, those of the largest energy first. tolerance:
    stop where the estimated change that is still to come is below it, of a map from 0 to 1. raw:
    the map at the layer's size, after the ReLU, not normalised. progress: show it.

    Returns (B, H, W) float32 from 0 to 1, 1 the most important; raw: (B, h, w). A constant map is
    0. Raises ValueError: unknown layer (close names are given), class or recipe, a layer whose
    output is no map, a map that is not finite, a dtype that is slow on the device.
    """
    options = Options(layer, recipe, dtype, batch_size, max_channels, tolerance, raw, progress)
    return _explain(model, images, target, options).maps


def score_cam_details(
    model: nn.Module, images: Tensor, target: Target = None, **options: Any
) -> ScoreCam:
    """`score_cam`, same arguments, with the weights of the channels and how many masks it took."""
    return _explain(model, images, target, Options(**options))


@torch.no_grad()
def _explain(model: nn.Module, images: Tensor, target: Target, options: Options) -> ScoreCam:
    recipe = find_recipe(options.recipe)
    with evaluating(model), torch.autocast(images.device.type, enabled=False):
        activations, targets = _maps_and_targets(model, images, target, options.names)
        form = fastest_form(model, images, options.dtype, logits_only=True)
        masked = MaskedImages(form, images.detach(), recipe, options.batch_size)
        sums, layers = [], []
        for name, maps in zip(options.names, activations, strict=True):
            weighted, scores = _explain_layer(masked, name, maps, targets, options)
            sums.append(weighted)
            layers.append(scores)
            say(_sentence(scores), quiet=not options.progress or scores.tried == scores.distinct)
        size = (images.shape[2], images.shape[3])
        shown = finish(sums, size, raw=options.raw, relu_last=recipe.relu_last)
    return ScoreCam(shown, targets, tuple(layers))


def _maps_and_targets(
    model: nn.Module, images: Tensor, target: Target, names: Sequence[str]
) -> tuple[list[Tensor], Tensor]:
    """What masks are made of (B, C, h, w), of each layer, and the class of each image (B,). Nothing
    behind the layers is computed where the classes are given and the network is known."""
    classes = None if target is None else known_classes(model)
    activations, logits = layer_outputs(model, images, names, whole=classes is None)
    check_finite(activations)
    if target is None or classes is None:
        assert logits is not None
        return activations, resolve_targets(target, logits)
    return activations, given_targets(target, len(images), classes, images.device)


def _explain_layer(
    masked: MaskedImages, name: str, maps: Tensor, targets: Tensor, options: Options
) -> tuple[Tensor, LayerScores]:
    """The weighted sum (B, h, w) of maps (B, C, h, w), and what it took."""
    agree_on(maps, targets)
    jobs = find_jobs(maps, masked.recipe)
    scores = Scores.none(jobs)
    counts = jobs.counts()
    most = [min(count, options.max_channels or count) for count in counts]
    places = _first_places(counts, most, maps.device)
    if options.tolerance is None:
        share = own_share(torch.cat(places))
        try_masks(masked, jobs, share, targets, scores, quiet=not options.progress)
        gather(scores)
    else:
        for image, own in enumerate(places):
            enough = _Enough(masked, jobs, maps, image, options.tolerance)
            try_masks(masked, jobs, own, targets, scores, quiet=not options.progress, enough=enough)
    weights = channel_weights(jobs, scores, masked.recipe)
    weighted = weighted_sum(weights, maps)
    remaining = remaining_change(jobs, scores, weights, maps, weighted)
    tried = torch.bincount(jobs.image[scores.tried], minlength=len(maps)).tolist()
    return weighted, LayerScores(name, weights, counts, tried, remaining)


def _sentence(scores: LayerScores) -> str:
    """What an approximation took."""
    return (
        f"score-cam of {scores.layer}: {sum(scores.tried)} of {sum(scores.distinct)} masks tried; "
        f"an estimate: the others could still change a map by {scores.remaining.max():.2g}"
    )


def _first_places(counts: list[int], most: list[int], device: torch.device) -> list[Tensor]:
    """For each image, the places of the first `most` of its `counts` jobs."""
    starts = [sum(counts[:image]) for image in range(len(counts))]
    return [
        torch.arange(start, start + n, device=device) for start, n in zip(starts, most, strict=True)
    ]


@dataclass
class _Enough:
    """Whether the masks that one image has left would change its map by less than `tolerance`."""

    masked: MaskedImages
    jobs: Jobs
    maps: Tensor
    image: int
    tolerance: float

    def __call__(self, scores: Scores) -> bool:
        one = slice(self.image, self.image + 1)
        jobs, maps = replace(self.jobs, job=self.jobs.job[one]), self.maps[one]
        weights = channel_weights(jobs, scores, self.masked.recipe)
        weighted = weighted_sum(weights, maps)
        return remaining_change(jobs, scores, weights, maps, weighted).item() < self.tolerance
