"""The operators behind `spatial_attention`, registered with torch.library.

    hmc_fast::spatial_attention    the Triton kernels
    hmc_fast::chunked_attention    blocks of query rows in plain torch

Each returns one fresh tensor and has an `autograd.Function` as its Autograd kernel, so that
torch.compile keeps it whole, torch.export sees one node and the flop counters have a name to count.
Below autograd stand the inner operators, forward with what backward needs, and backward. x and
gamma may be None: then the result is softmax(scale * q kᵀ) v alone.
"""

import os
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.utils.flop_counter import register_flop_formula

from hmc_fast.kernels.chunked import chunked_backward, chunked_forward
from hmc_fast.kernels.configurations import keeps_attended

INPUTS = "Tensor q, Tensor k, Tensor v, Tensor? x, Tensor? gamma, float scale"
ATOMICS_VARIABLE = "HMC_FAST_ATOMICS"
FP32_VARIABLE = "HMC_FAST_FP32"
FP32_PRECISIONS = ("ieee", "tf32", "tf32x3")

_library = torch.library.Library("hmc_fast", "DEF")
_library.define(f"spatial_attention({INPUTS}) -> Tensor")
_library.define(f"spatial_attention_forward({INPUTS}) -> (Tensor, Tensor, Tensor)")
_library.define(
    "spatial_attention_backward(Tensor dout, Tensor q, Tensor k, Tensor v, Tensor? gamma,"
    " Tensor attended, Tensor lse, float scale) -> (Tensor, Tensor, Tensor, Tensor)"
)
_library.define(f"chunked_attention({INPUTS}) -> Tensor")
_library.define(
    "chunked_attention_backward(Tensor dout, Tensor q, Tensor k, Tensor v, Tensor? gamma,"
    " float scale) -> (Tensor, Tensor, Tensor, Tensor)"
)
_operators = torch.ops.hmc_fast


class _SpatialAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx, q, k, v, x, gamma, scale):  # type: ignore[no-untyped-def]
        with torch._C._AutoDispatchBelowAutograd():
            out, attended, lse = _operators.spatial_attention_forward(q, k, v, x, gamma, scale)
        attended = out if gamma is None else attended
        ctx.save_for_backward(q, k, v, gamma, attended, lse)
        ctx.scale = scale
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, dout):  # type: ignore[no-untyped-def]
        saved = ctx.saved_tensors  # once: checkpointing gives them out only once
        gradients = _operators.spatial_attention_backward(dout, *saved, ctx.scale)
        return _of_inputs(gradients, dout, saved[3])


class _ChunkedAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx, q, k, v, x, gamma, scale):  # type: ignore[no-untyped-def]
        ctx.save_for_backward(q, k, v, gamma)
        ctx.scale = scale
        with torch._C._AutoDispatchBelowAutograd():
            return _operators.chunked_attention(q, k, v, x, gamma, scale)

    @staticmethod
    @once_differentiable
    def backward(ctx, dout):  # type: ignore[no-untyped-def]
        saved = ctx.saved_tensors
        gradients = _operators.chunked_attention_backward(dout, *saved, ctx.scale)
        return _of_inputs(gradients, dout, saved[3])


def _of_inputs(
    gradients: tuple[Tensor, ...], dout: Tensor, gamma: Tensor | None
) -> tuple[Tensor | None, ...]:
    """What an inner backward gives, as gradients of q, k, v, x, gamma and scale."""
    dq, dk, dv, dgamma = gradients
    return (dq, dk, dv, None, None, None) if gamma is None else (dq, dk, dv, dout, dgamma, None)


def _triton(
    q: Tensor, k: Tensor, v: Tensor, x: Tensor | None, gamma: Tensor | None, scale: float
) -> Tensor:
    return _triton_outputs(q, k, v, x, gamma, scale, keep=False)[0]


def _triton_forward(
    q: Tensor, k: Tensor, v: Tensor, x: Tensor | None, gamma: Tensor | None, scale: float
) -> tuple[Tensor, ...]:
    return _triton_outputs(q, k, v, x, gamma, scale, keep=True)


def _triton_outputs(q: Tensor, *others: Any, keep: bool) -> tuple[Tensor, ...]:
    """The kernels are imported when they are first used: triton may be missing."""
    from hmc_fast.kernels.attention_forward import attention_forward

    with torch.cuda.device_of(q):
        return attention_forward(q, *others, keep=keep, precision=product_precision(q.dtype))


def _triton_backward(
    dout: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    gamma: Tensor | None,
    attended: Tensor,
    lse: Tensor,
    scale: float,
) -> tuple[Tensor, ...]:
    from hmc_fast.kernels.attention_backward import attention_backward

    with torch.cuda.device_of(q):
        dq, dk, dv, dgamma = attention_backward(
            dout, q, k, v, gamma, attended, lse, scale,
            atomics=_atomics(), precision=product_precision(q.dtype),
        )  # fmt: skip
    return dq, dk, dv, q.new_empty(0) if dgamma is None else dgamma


def product_precision(dtype: torch.dtype) -> str:
    """Of float32 products: ieee, unless HMC_FAST_FP32 or torch's own switch asks for less."""
    if dtype != torch.float32:
        return "ieee"
    asked = os.environ.get(FP32_VARIABLE)
    if asked:
        if asked not in FP32_PRECISIONS:
            raise ValueError(
                f"{FP32_VARIABLE} must be one of {', '.join(FP32_PRECISIONS)}, got {asked!r}"
            )
        return asked
    return "tf32" if torch.backends.cuda.matmul.fp32_precision == "tf32" else "ieee"


def _atomics() -> bool:
    """Whether dQ may be summed in any order: asked for by HMC_FAST_ATOMICS=1, and never where torch
    is asked for determinism."""
    asked = os.environ.get(ATOMICS_VARIABLE) == "1"
    return asked and not torch.are_deterministic_algorithms_enabled()


def _like(tensor: Tensor) -> Tensor:
    return torch.empty(tensor.shape, dtype=tensor.dtype, device=tensor.device)


def _fake_out(
    q: Tensor, k: Tensor, v: Tensor, x: Tensor | None, gamma: Tensor | None, scale: float
) -> Tensor:
    return q.new_empty((q.shape[0], q.shape[1], v.shape[2]))


def _fake_forward(
    q: Tensor, k: Tensor, v: Tensor, x: Tensor | None, gamma: Tensor | None, scale: float
) -> tuple[Tensor, ...]:
    out = _fake_out(q, k, v, x, gamma, scale)
    kept = keeps_attended(k.shape[1], q.shape[2], q.dtype.itemsize, gamma is not None)
    lse = q.new_empty(q.shape[:2], dtype=torch.float32)
    return out, _like(out) if kept else q.new_empty(0), lse


def _fake_backward(
    dout: Tensor, q: Tensor, k: Tensor, v: Tensor, gamma: Tensor | None, *_: Any
) -> tuple[Tensor, ...]:
    return _like(q), _like(k), _like(v), q.new_empty(0) if gamma is None else _like(gamma)


def _register(
    name: str, implementation: Callable[..., Any], fake: Callable[..., Any], autograd: Any = None
) -> None:
    for device in ("CPU", "CUDA"):
        _library.impl(name, implementation, device)
    torch.library.register_fake(f"hmc_fast::{name}", fake, lib=_library)
    if autograd is not None:
        _library.impl(name, autograd.apply, "Autograd")


_register("spatial_attention", _triton, _fake_out, _SpatialAttention)
_register("spatial_attention_forward", _triton_forward, _fake_forward)
_register("spatial_attention_backward", _triton_backward, _fake_backward)
_register("chunked_attention", chunked_forward, _fake_out, _ChunkedAttention)
_register("chunked_attention_backward", chunked_backward, _fake_backward)


@register_flop_formula(
    [
        _operators.spatial_attention,
        _operators.spatial_attention_forward,
        _operators.chunked_attention,
    ]
)
def _forward_flops(q, k, v, x, gamma, scale, *, out_shape=None):  # type: ignore[no-untyped-def]
    """Two products: 2 B Nq Nk (Dk + Dv), as the textbook form."""
    (batch, tokens_q, d_qk), (_, tokens_k, d_v) = q, v
    return 2 * batch * tokens_q * tokens_k * (d_qk + d_v)


@register_flop_formula(
    [_operators.spatial_attention_backward, _operators.chunked_attention_backward]
)
def _backward_flops(dout, q, k, v, *_, out_shape=None):  # type: ignore[no-untyped-def]
    """Four products of the textbook form (dV, dP, dQ, dK); the scores' second computation is not
    counted."""
    return 2 * _forward_flops(q, k, v, None, None, None)


def _fvcore_macs(inputs: list[Any], outputs: list[Any]) -> int:
    """fvcore counts a multiply-add once."""
    q, k, v = (value.type().sizes() for value in inputs[:3])
    return _forward_flops(q, k, v, None, None, None) // 2


FVCORE_HANDLES = {
    "hmc_fast::spatial_attention": _fvcore_macs,
    "hmc_fast::chunked_attention": _fvcore_macs,
}
