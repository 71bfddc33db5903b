"""The networks: `create_model` makes one, `load_model` gives a trained one back."""

from pathlib import Path

from torch import nn

from hmc_fast.models.backbone import load_backbone
from hmc_fast.models.baselines import BASELINES, create_baseline
from hmc_fast.models.network import HMCNet
from hmc_fast.models.saved import load_model

__all__ = ["VARIANTS", "create_model", "load_model"]

_SWITCHES = {  # hierarchical, multiscale
    "hmc": (True, True),
    "hierarchical": (True, False),
    "multiscale": (False, True),
    "resnet50": (False, False),
}
VARIANTS = (*_SWITCHES, *BASELINES)


def create_model(
    variant: str = "hmc",
    num_classes: int = 3,
    *,
    reduction: int = 8,
    scale: float | None = None,
    backend: str = "auto",
    weights: str | Path | None = None,
    image_size: int = 224,
    attention_form: str = "auto",
) -> nn.Module:
    """A network with fresh weights from torch's random state, in training mode.

    variant: one of VARIANTS; num_classes: at least 2; reduction: 1, 2, 4 or 8, channels of queries
    and keys are divided by it; scale: None for 1 / sqrt(d_qk), 1.0 for the paper's Eq. 5; backend:
    see `spatial_attention`; weights: a torchvision ResNet50 checkpoint (.safetensors, or .pth read
    with weights_only=True) for the backbone; image_size: pixels, of the ViT alone: every other
    model takes any size from 64 to 1024; attention_form: "auto", "direct" or "reassociated", which
    keeps less memory in training (models/forms.py).

    Raises ValueError for anything else, InputError (a ValueError) for a checkpoint that does not
    fit.
    """
    if variant not in VARIANTS:
        raise ValueError(f"variant must be one of {', '.join(VARIANTS)}, got {variant!r}")
    if num_classes < 2:
        raise ValueError(f"num_classes must be at least 2, got {num_classes}")
    if reduction not in (1, 2, 4, 8):
        raise ValueError(f"reduction must be 1, 2, 4 or 8, got {reduction}")
    if variant in BASELINES:
        if weights is not None:
            raise ValueError(f"weights are a ResNet50's; {variant} is trained from scratch")
        return create_baseline(variant, num_classes, image_size)
    hierarchical, multiscale = _SWITCHES[variant]
    model = HMCNet(
        num_classes,
        hierarchical=hierarchical,
        multiscale=multiscale,
        reduction=reduction,
        scale=scale,
        backend=backend,
        attention_form=attention_form,
    )
    if weights is not None:
        load_backbone(model, Path(weights))
    return model
