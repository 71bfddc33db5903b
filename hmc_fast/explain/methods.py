"""The three explainers behind one call, with the settings that a user chooses once."""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from hmc_fast.explain import recipes
from hmc_fast.explain.gradients import grad_cam, grad_cam_plus_plus
from hmc_fast.explain.score_cam import score_cam

METHODS = ("grad-cam", "grad-cam++", "score-cam")
RECIPES = {
    "grad-cam": ("original",),
    "grad-cam++": ("original", "printed"),
    "score-cam": tuple(recipes.RECIPES),
}
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class Settings:
    """How maps are made.

    recipes: one a method, the first of RECIPES where it names none; dtype (a key of DTYPES, None
    for the model's own), batch_size, max_channels: of Score-CAM alone.
    """

    recipes: dict[str, str] = field(default_factory=dict)
    dtype: str | None = None
    batch_size: int | None = None
    max_channels: int | None = None

    def recipe(self, method: str) -> str:
        """The recipe of a method."""
        return self.recipes.get(method, RECIPES[method][0])


def explain(
    model: nn.Module,
    images: Tensor,
    target: int,
    method: str,
    layer: str,
    settings: Settings,
    *,
    progress: bool = False,
) -> Tensor:
    """Maps (B, H, W), float32, 0 to 1, by one of METHODS; progress: show Score-CAM's.

    Raises ValueError: as the method.
    """
    recipe = settings.recipe(method)
    if method == "score-cam":
        return score_cam(
            model,
            images,
            target,
            layer=layer,
            recipe=recipe,
            dtype=DTYPES[settings.dtype] if settings.dtype else None,
            batch_size=settings.batch_size,
            max_channels=settings.max_channels,
            progress=progress,
        )
    by_gradients: Callable[..., Tensor] = grad_cam if method == "grad-cam" else grad_cam_plus_plus
    return by_gradients(model, images, target, layer=layer, recipe=recipe)


def map_size(model: nn.Module, images: Tensor, layer: str) -> tuple[int, int]:
    """Height and width of the layer's maps in cells."""
    height, width = grad_cam(model, images[:1], 0, layer=layer, raw=True).shape[1:]
    return int(height), int(width)
