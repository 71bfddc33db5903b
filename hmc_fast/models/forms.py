"""Two ways to compute one attention block, equal in exact arithmetic, and which is the cheaper.

    direct           A = softmax(S) (Y Wvᵀ + bv)          out = gamma A + X       Eq. 13 to 15
    reassociated     A' = softmax(S) Y                    out = A' (gamma Wv)ᵀ + (X + gamma bv)

Rows of softmax(S) sum to 1, so the values' projection moves behind the attention, its bias too. The
kernels then attend over the map itself: V is not kept for backward, and where the context still has
to pass a matching convolution (CA23, CA34), that one is multiplied into the projections of keys and
values, and the attention is as wide as the raw map, half of the values.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

FORMS = ("auto", "direct", "reassociated")


class FormChoice(NamedTuple):
    """A form's name and why it was taken."""

    form: str
    reason: str


class BlockSizes(NamedTuple):
    """Of one block in one step: samples, tokens, channels of queries, of the map and, where a
    matching convolution is still to come, of the raw context, else 0."""

    batch: int
    tokens_q: int
    tokens_k: int
    d_qk: int
    channels: int
    raw_channels: int = 0


def check_form(form: str) -> str:
    """`form` itself; ValueError where it is unknown."""
    if form not in FORMS:
        raise ValueError(f"attention_form must be one of {', '.join(FORMS)}, got {form!r}")
    return form


def choose_form(form: str, training: bool, sizes: BlockSizes) -> FormChoice:
    """The form of a block: the argument, else in training the one with fewer multiply-adds.

    Without a matching convolution both take as many, and direct moves less memory: one product
    less, gamma and residual in the attention kernel. Ask for "reassociated" to keep one map of the
    block's size less until backward. Inference is direct; its folded forms are another matter.
    """
    if check_form(form) != "auto":
        return FormChoice(form, "asked for")
    if not training or not sizes.raw_channels:
        return FormChoice("direct", "as much arithmetic, less traffic")
    direct, reassociated = multiply_adds(sizes)
    words = f"{direct / 1e9:.2f} against {reassociated / 1e9:.2f} GMAC, direct and reassociated"
    return FormChoice("direct" if direct <= reassociated else "reassociated", words)


def multiply_adds(sizes: BlockSizes) -> tuple[int, int]:
    """Of a cross-scale block in forward, direct and reassociated; queries, equal in both, are left
    out. The matching convolution is taken behind the interpolation, with which it commutes."""
    batch, tokens_q, tokens_k, d_qk, channels, raw = sizes
    keys, queries = batch * tokens_k, batch * tokens_q
    direct = keys * channels * (raw + d_qk + channels) + queries * tokens_k * (d_qk + channels)
    composed = (d_qk + channels) * channels * raw  # the weights' own product, once a step
    attention = keys * raw * d_qk + queries * tokens_k * (d_qk + raw)
    return direct, composed + attention + queries * raw * channels


def composed(outer: nn.Conv2d, inner: nn.Conv2d | None) -> tuple[Tensor, Tensor]:
    """Weight (out, in) and bias (out,) of the 1x1 convolution `outer` after `inner`, as one."""
    weight, bias = outer.weight.flatten(1), outer.bias
    assert bias is not None
    if inner is None:
        return weight, bias
    assert inner.bias is not None
    return weight @ inner.weight.flatten(1), torch.addmv(bias, weight, inner.bias)


def project(attended: Tensor, x: Tensor, gamma: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """attended (B, N, Cy) (gamma weight)ᵀ + (x + gamma bias): (B, N, C), one product."""
    residual = x + (gamma * bias).to(x.dtype)
    out = torch.addmm(
        residual.flatten(0, 1), attended.flatten(0, 1), (gamma * weight).t().to(attended.dtype)
    )
    return out.unflatten(0, x.shape[:2])
