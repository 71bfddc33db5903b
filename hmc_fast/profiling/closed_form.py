"""The multiply-adds of a network by hand, from its architecture alone; nothing is run.

One image, textbook form: convolutions, linear layers and the two products of every attention, as
the paper writes them. A product of (rows, depth) and (depth, columns) is rows * depth * columns.
Not counted, as nobody counts them: norms, activations, pooling, interpolation, softmax, biases.

    convolution      positions * in * out * k²
    SpatialAttention Wq: n C C/r   Wk: n C C/r   Wv: n C C   Q Kᵀ: n n C/r   A V: n n C
    cross-scale      the same, and its match at the finer map's size, before the interpolation
"""

from hmc_fast.models import VARIANTS
from hmc_fast.models.baselines import PATCH

STAGES = (("layer1", 64, 3), ("layer2", 128, 4), ("layer3", 256, 6), ("layer4", 512, 3))
EXPANSION = 4  # a bottleneck's output has so many times its width in channels
VGG = {  # convolutions and their channels in each stage, a 2 x 2 pool behind each
    "vgg16": ((2, 64), (2, 128), (3, 256), (3, 512), (3, 512)),
    "vgg19": ((2, 64), (2, 128), (4, 256), (4, 512), (4, 512)),
}
VGG_POOLED, VGG_HIDDEN = 7, 4096
VIT_LAYERS, VIT_WIDTH, VIT_HIDDEN = 12, 768, 3072


def closed_form(
    variant: str, image_size: int = 224, *, num_classes: int = 3, reduction: int = 8
) -> dict[str, int]:
    """MACs of one square image by the network's top-level modules, in the order of the forward
    pass.

    variant: one of VARIANTS; image_size: pixels of a side; reduction: of HMC-Net's attention.
    """
    assert variant in VARIANTS
    if variant in VGG:
        return _vgg(VGG[variant], image_size, num_classes)
    if variant == "vit_b_16":
        return _vit(image_size, num_classes)
    return _hmc(variant, image_size, num_classes, reduction)


def _hmc(variant: str, size: int, num_classes: int, reduction: int) -> dict[str, int]:
    hierarchical = variant in ("hmc", "hierarchical")
    multiscale = variant in ("hmc", "multiscale")
    size = _half(size)
    macs = {"conv1": size**2 * 3 * 64 * 7**2}
    size, channels, finer = _half(size), 64, 0
    for number, (layer, width, blocks) in enumerate(STAGES, start=1):
        entered, before, size = size, channels, size if number == 1 else _half(size)
        macs[layer] = _stage(entered**2, size**2, before, width, blocks)
        channels = EXPANSION * width
        if number <= 2 and hierarchical:
            macs[f"ha{number}"] = _attention(size**2, channels, reduction)
        if number > 2 and multiscale:
            pair = f"{number - 1}{number}"
            macs[f"match_ca{pair}"] = finer * before * channels
            macs[f"ca{pair}"] = _attention(size**2, channels, reduction)
        finer = size**2
    return macs | {"fc": channels * num_classes}


def _stage(entered: int, left: int, channels: int, width: int, blocks: int) -> int:
    """Bottlenecks 1x1, 3x3, 1x1; the first one's 3x3 and shortcut take the map from `entered`
    positions to `left`."""
    out = EXPANSION * width
    first = entered * channels * width + left * (9 * width * width + width * out + channels * out)
    return first + (blocks - 1) * left * (out * width + 9 * width * width + width * out)


def _attention(positions: int, channels: int, reduction: int) -> int:
    """Queries and keys have as many positions: the context is interpolated to the queries' map."""
    d_qk = channels // reduction
    projections = positions * channels * (2 * d_qk + channels)
    return projections + positions**2 * (d_qk + channels)


def _vgg(stages: tuple[tuple[int, int], ...], size: int, num_classes: int) -> dict[str, int]:
    features, channels = 0, 3
    for convolutions, width in stages:
        for _ in range(convolutions):
            features += size**2 * channels * width * 9
            channels = width
        size //= 2
    hidden = VGG_HIDDEN * (channels * VGG_POOLED**2 + VGG_HIDDEN + num_classes)
    return {"features": features, "classifier": hidden}


def _vit(size: int, num_classes: int) -> dict[str, int]:
    patches, width = (size // PATCH) ** 2, VIT_WIDTH
    tokens = patches + 1  # the class token
    projections = tokens * width * (3 * width + width)
    products = 2 * tokens**2 * width  # all heads together
    perceptron = 2 * tokens * width * VIT_HIDDEN
    return {
        "conv_proj": patches * 3 * PATCH**2 * width,
        "encoder": VIT_LAYERS * (projections + products + perceptron),
        "heads": width * num_classes,
    }


def _half(size: int) -> int:
    """Of the 7x7, 3x3 and 1x1 convolutions of stride 2 and the max-pool: rounded up."""
    return -(-size // 2)
