"""What pointwise.py and masked_images.py compute, in plain torch, for any device and dtype: their
twins in tests, and what a CPU takes."""

import torch
import torch.nn.functional as F
from torch import Tensor

KERNEL, STRIDE, PADDING = 7, 2, 3  # of the stem's convolution
POOL_KERNEL, POOL_STRIDE, POOL_PADDING = 3, 2, 1  # and of its max-pool


def pointwise_reference(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    residual: Tensor | None = None,
    *,
    stride: int = 1,
    relu: bool = False,
) -> Tensor:
    """x (B, C, H, W), weight (C', C, 1, 1), residual like the result -> (B, C', H', W')."""
    out = F.conv2d(x, weight, bias, stride)
    out = out if residual is None else out + residual
    return out.relu() if relu else out


def pooled_stem_reference(
    images: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    masks: Tensor | None = None,
    image_index: Tensor | None = None,
) -> Tensor:
    """images (B, 1, H, W), weight (C, 1, 7, 7) -> (B or M, C, H', W'); arguments and errors as
    masked_images.pooled_stem has them."""
    check_stem(images, weight, bias, masks, image_index)
    if masks is not None:
        images = masked_images(images, masks, image_index)
    out = F.conv2d(images.to(weight.dtype), weight, bias, STRIDE, PADDING).relu()
    return F.max_pool2d(out, POOL_KERNEL, POOL_STRIDE, POOL_PADDING)


def masked_images(images: Tensor, masks: Tensor, image_index: Tensor | None = None) -> Tensor:
    """images (B, 1, H, W), masks (M, h, w) -> (M, 1, H, W) in float32 or wider: image times mask,
    the mask upsampled bilinearly (align_corners=False)."""
    wide = torch.promote_types(torch.promote_types(images.dtype, masks.dtype), torch.float32)
    upsampled = F.interpolate(masks[:, None].to(wide), images.shape[2:], mode="bilinear")
    return upsampled * (images if image_index is None else images[image_index])


def stem_sizes(images: Tensor) -> tuple[tuple[int, int], tuple[int, int]]:
    """Height and width of the convolution's map and of the pooled one."""
    height, width = images.shape[2:]
    conv = _size(height, KERNEL, STRIDE, PADDING), _size(width, KERNEL, STRIDE, PADDING)
    pool = (POOL_KERNEL, POOL_STRIDE, POOL_PADDING)
    return conv, (_size(conv[0], *pool), _size(conv[1], *pool))


def _size(side: int, kernel: int, stride: int, padding: int) -> int:
    return (side + 2 * padding - kernel) // stride + 1


def check_stem(
    images: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    masks: Tensor | None,
    image_index: Tensor | None,
) -> int:
    """How many samples the result has."""
    if images.dim() != 4 or images.shape[1] != 1:
        raise ValueError(f"images must be (B, 1, H, W), got {tuple(images.shape)}")
    if tuple(weight.shape[1:]) != (1, KERNEL, KERNEL):
        raise ValueError(f"weight must be (C, 1, 7, 7), got {tuple(weight.shape)}")
    if bias is not None and bias.shape != weight.shape[:1]:
        raise ValueError(f"bias must be ({len(weight)},), got {tuple(bias.shape)}")
    if masks is None:
        if image_index is not None:
            raise ValueError("image_index says which image each mask is for: give masks as well")
        return len(images)
    if masks.dim() != 3 or 0 in masks.shape[1:]:
        raise ValueError(f"masks must be (M, h, w), got {tuple(masks.shape)}")
    if image_index is None and len(images) not in (1, len(masks)):
        raise ValueError(
            f"{len(masks)} masks over {len(images)} images need image_index, the image of each mask"
        )
    if image_index is not None and image_index.shape != masks.shape[:1]:
        raise ValueError(
            f"image_index must be ({len(masks)},), one for each mask, got "
            f"{tuple(image_index.shape)}"
        )
    return len(masks)
