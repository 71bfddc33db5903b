"""The exact identities of inference, a small function each, and a switch for each of them.

    1  batch_norm        BN(W x) = W' x + b': statistics and affine parameters into the convolution
    2  pool_first        resize(Wm y + bm) = Wm resize(y) + bm: bilinear weights sum to 1
    3  reassociate       softmax(S) (Y Wvᵀ + bv) = (softmax(S) Y) Wvᵀ + bv: so do rows of softmax
    4  compose_match     Wk (Wm y + bm) + bk = (Wk Wm) y + (Wk bm + bk), and so for the values
    5  fold_constants    scale into the queries' weights, gamma into the values', one convolution
                         for queries, keys and values
    6  grey_stem         three equal input channels: one, its weights their sum; where asked for
    7  drop_zero_gamma   gamma = 0: the block is the identity
    8  pool_attention    mean_i sum_j A_ij y_j = sum_j (mean_i A_ij) y_j: logits need one vector of
                         the last block, and the classifier is multiplied into its projection
    9  skip_map          HA1's map is read by two 1x1 convolutions alone: attend over what they make
                         of it (attended_bottleneck.py)

log2 e is not folded into the queries: the kernels take it into the factor of the multiply-add that
subtracts a row's maximum, where it is free.
"""

from dataclasses import dataclass, fields
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class Identities:
    """Which identities are used; each holds alone."""

    batch_norm: bool = True
    pool_first: bool = True  # where the match is composed, always
    reassociate: bool = True  # of cross-scale blocks: HA1 and HA2 would gain nothing
    compose_match: bool = True
    fold_constants: bool = True
    grey_stem: bool = True  # only with grayscale=True
    drop_zero_gamma: bool = True
    pool_attention: bool = True
    skip_map: bool = True  # needs batch_norm and fold_constants

    @classmethod
    def first(cls, count: int) -> "Identities":
        """The first `count` of them, 0 to 9: the steps of a waterfall."""
        names = [field.name for field in fields(cls)]
        return cls(**{name: index < count for index, name in enumerate(names)})


class Affine(NamedTuple):
    """A convolution's weight (out, in, kh, kw), or a linear layer's (out, in), and bias (out,);
    float64 while they are folded."""

    weight: Tensor
    bias: Tensor


def affine(layer: nn.Conv2d | nn.Linear) -> Affine:
    """A layer's own parameters in float64; a missing bias is zero."""
    weight, bias = layer.weight.detach().double(), layer.bias
    bias = weight.new_zeros(weight.shape[0]) if bias is None else bias.detach().double()
    return Affine(weight, bias)


def fold_batch_norm(conv: Affine, norm: nn.BatchNorm2d) -> Affine:
    """Identity 1: factor = weight / sqrt(variance + eps); W' = factor W, b' = factor (b - mean) +
    bias."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    factor = torch.rsqrt(norm.running_var.double() + norm.eps)
    factor = factor if norm.weight is None else factor * norm.weight.detach()
    bias = factor * (conv.bias - norm.running_mean)
    bias = bias if norm.bias is None else bias + norm.bias.detach()
    return Affine(conv.weight * factor[:, None, None, None], bias)


def resize_to(target: Tensor, feature_map: Tensor) -> Tensor:
    """Identity 2 calls it before a 1x1 convolution: bilinear, to the height and width of target."""
    return F.interpolate(feature_map, target.shape[2:], mode="bilinear", align_corners=False)


def compose(outer: Affine, inner: Affine) -> Affine:
    """Identity 4: the 1x1 convolution `outer` after the 1x1 convolution `inner`, as one."""
    after = outer.weight.flatten(1)
    weight = after @ inner.weight.flatten(1)
    return Affine(weight[:, :, None, None], torch.addmv(outer.bias, after, inner.bias))


def scaled(conv: Affine, factor: float | Tensor) -> Affine:
    """Identity 5: the convolution whose result is `factor` times this one's."""
    return Affine(conv.weight * factor, conv.bias * factor)


def concatenated(*convs: Affine) -> Affine:
    """Identity 5: convolutions of one map as a single one, their channels in this order."""
    weights, biases = zip(*convs, strict=True)
    return Affine(torch.cat(weights), torch.cat(biases))


def without_bias(conv: Affine) -> Affine:
    """The same without its bias, which stands elsewhere."""
    return conv._replace(bias=torch.zeros_like(conv.bias))


def grey(conv: Affine) -> Affine:
    """Identity 6: for an image of three equal channels, given as one."""
    return Affine(conv.weight.sum(dim=1, keepdim=True), conv.bias)


def is_grey(images: Tensor) -> bool:
    """Whether all channels of images (B, C, H, W) are equal; on a GPU this waits for it."""
    if images.stride(1) == 0:  # one channel, expanded
        return True
    return all(torch.equal(images[:, 0], images[:, i]) for i in range(1, images.shape[1]))


def tokens(feature_map: Tensor) -> Tensor:
    """(B, C, H, W) -> (B, H * W, C), a view where the map is channels last."""
    return feature_map.permute(0, 2, 3, 1).flatten(1, 2)


def as_map(sequence: Tensor, like: Tensor) -> Tensor:
    """(B, H * W, C) -> (B, C, H, W), a view, channels last; H and W of `like`.

    Permuted last: the strides of a single image are then those of channels last too.
    """
    return sequence.unflatten(1, like.shape[2:]).permute(0, 3, 1, 2)


def mean_attended(q: Tensor, k: Tensor, y: Tensor, scale: float) -> Tensor:
    """Identity 8: q (B, Nq, Dk), k (B, Nk, Dk), y (B, Nk, C) -> (B, C), the mean over queries of
    softmax(scale q kᵀ) y."""
    scores = torch.bmm(q * scale if scale != 1 else q, k.transpose(1, 2))  # (B, Nq, Nk)
    column_means = torch.softmax(scores, dim=-1).mean(dim=1, keepdim=True)  # (B, 1, Nk)
    return torch.bmm(column_means, y).squeeze(1)


def compose_classifier(classifier: nn.Linear, gamma: Tensor, *before: Affine) -> Affine:
    """Identity 8: what the mean attended vector adds to the logits, weight (classes, C') and bias;
    the classifier's own bias stays with the mean of x.

    gamma (1,) and before it, the last first, the 1x1 convolutions: what leads from an attended
    vector to its addition to x. One after another, so that all products have few rows, the classes.
    """
    weight = classifier.weight.detach().double() * gamma
    added = Affine(weight, weight.new_zeros(len(weight)))
    for conv in before:
        added = compose(added, conv)
    return Affine(added.weight.flatten(1), added.bias)
