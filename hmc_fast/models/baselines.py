"""The paper's baselines, from torchvision, trained from scratch under the same settings."""

from torch import nn
from torchvision.models import vgg16, vgg19, vit_b_16

PATCH = 16  # pixels of a ViT-B/16 patch
_VGG = {"vgg16": vgg16, "vgg19": vgg19}
BASELINES = (*_VGG, "vit_b_16")


def create_baseline(variant: str, num_classes: int, image_size: int) -> nn.Module:
    """`variant` of BASELINES with `num_classes` logits; image_size (pixels) matters to the ViT
    alone.

    Raises ValueError where the ViT cannot cut image_size into patches of 16 x 16.
    """
    if variant in _VGG:
        return _VGG[variant](weights=None, num_classes=num_classes)
    if image_size % PATCH:
        raise ValueError(
            f"vit_b_16 needs an image size that is a multiple of {PATCH}, got {image_size}"
        )
    return vit_b_16(weights=None, num_classes=num_classes, image_size=image_size)
