"""The operator `spatial_attention`: arguments checked once, a backend chosen once, the work done in
`kernels`.

    out = gamma * softmax(scale * q kᵀ, over keys) v + x

with one head (Fatima et al. 2026, Eq. 11 to 15).

Backends: `reference` stores the scores (the specification); `chunked` walks over blocks of query
rows and computes the scores again in backward; `sdpa` calls torch's scaled_dot_product_attention.
`auto` asks `choose_backend`.
"""

import functools
import logging
import math
import os
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.utils.flop_counter import register_flop_formula

from hmc_fast.kernels.chunked import chunked_backward, chunked_forward
from hmc_fast.kernels.reference import attention_reference

BACKENDS = ("auto", "reference", "chunked", "sdpa")
AUTOCAST_DEVICES = ("cpu", "cuda")
ENVIRONMENT_VARIABLE = "HMC_FAST_BACKEND"
DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)

logger = logging.getLogger("hmc_fast")


def spatial_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    x: Tensor,
    gamma: Tensor,
    scale: float | None = None,
    backend: str = "auto",
) -> Tensor:
    """gamma * softmax(scale * q kᵀ) v + x for one head; only `reference` and `sdpa` may store the
    scores.

    q: (B, Nq, Dk); k: (B, Nk, Dk); v: (B, Nk, Dv); x: (B, Nq, Dv): float16, bfloat16, float32 or
    float64, one dtype and one device; autocast casts them, float64 excepted. gamma: (1,), the same
    dtype or float32. scale: None for 1 / sqrt(Dk). backend: one of BACKENDS; "auto" takes
    HMC_FAST_BACKEND if it is set, else the fastest for the shape.

    Returns (B, Nq, Dv) in the dtype of x. Differentiable once in q, k, v, x and gamma (`reference`:
    twice). Raises ValueError: names the argument, what it got and the rule.
    """
    device = q.device.type
    autocast = device in AUTOCAST_DEVICES and torch.is_autocast_enabled(device)
    if autocast and q.dtype != torch.float64:  # which autocast leaves alone
        dtype = torch.get_autocast_dtype(device)
        q, k, v, x = q.to(dtype), k.to(dtype), v.to(dtype), x.to(dtype)
    _check_arguments(q, k, v, x, gamma)
    scale = _check_scale(scale, q.shape[2])
    needs_grad = torch.is_grad_enabled() and any(t.requires_grad for t in (q, k, v, x, gamma))
    shape = Shape(q.shape[0], q.shape[1], k.shape[1], q.shape[2], v.shape[2])
    choice = choose_backend(backend, q.device, q.dtype, shape, needs_grad)
    if not torch.compiler.is_compiling():
        _log_once(choice)
    return _IMPLEMENTATIONS[choice.backend](q, k, v, x, gamma, scale)


class Choice(NamedTuple):
    """A backend's name and, for the log, why it was taken."""

    backend: str
    reason: str


class Shape(NamedTuple):
    """Sizes of one call."""

    batch: int
    tokens_q: int
    tokens_k: int
    d_qk: int
    d_v: int


def choose_backend(
    backend: str, device: torch.device, dtype: torch.dtype, shape: Shape, needs_grad: bool
) -> Choice:
    """The backend for a call: the argument, else HMC_FAST_BACKEND, else the fastest measured for
    the shape.

    device: "cpu", "cuda" or another type. The figures behind the rules stand in
    bench/results/attention-cpu.csv.
    """
    if check_backend(backend) != "auto":
        return Choice(backend, "asked for")
    from_environment = os.environ.get(ENVIRONMENT_VARIABLE, "auto")
    if check_backend(from_environment, ENVIRONMENT_VARIABLE) != "auto":
        return Choice(from_environment, f"{ENVIRONMENT_VARIABLE} is set")
    many = shape.batch * shape.tokens_q * shape.tokens_k >= _many_scores(dtype, needs_grad)
    if device.type == "cuda":
        if many:
            return Choice("sdpa", "too many scores to store on a GPU")
        return Choice("reference", "few enough scores for plain products on a GPU")
    if many:
        return Choice(
            "chunked", "many scores: on a CPU blocks of rows are faster than storing them"
        )
    return Choice("reference", "few enough scores for plain products on a CPU")


def _many_scores(dtype: torch.dtype, needs_grad: bool) -> int:
    """From here on storing the scores costs more than blocks of rows (measured on a CPU)."""
    if dtype.itemsize > 2:
        return 1 << 22
    return 1 << 25 if needs_grad else 1 << 23  # 16 bits: half the memory, and fast plain products


def check_backend(backend: str, source: str = "backend") -> str:
    """`backend` itself; ValueError where it is unknown."""
    if backend not in BACKENDS:
        raise ValueError(f"{source} must be one of {', '.join(BACKENDS)}, got {backend!r}")
    return backend


@functools.cache
def _log_once(choice: Choice) -> None:
    logger.info("attention backend %s: %s", *choice)


def _check_arguments(q: Tensor, k: Tensor, v: Tensor, x: Tensor, gamma: Tensor) -> None:
    for name, tensor in (("q", q), ("k", k), ("v", v), ("x", x)):
        if tensor.dim() != 3:
            raise ValueError(
                f"{name} must have 3 dimensions (B, N, D), got shape {tuple(tensor.shape)}"
            )
        if tensor.dtype != q.dtype or tensor.dtype not in DTYPES:
            raise ValueError(
                f"{name} must be a float tensor of q's dtype {q.dtype}, got {tensor.dtype}"
            )
        if tensor.device != q.device:
            raise ValueError(f"{name} must be on q's device {q.device}, got {tensor.device}")
    batch, tokens_q, d_qk = q.shape
    tokens_k, d_v = v.shape[1:]
    rules = {
        "k": (k, (batch, tokens_k, d_qk), "(B, Nk, Dk) with q's B and Dk and v's Nk"),
        "v": (v, (batch, tokens_k, d_v), "(B, Nk, Dv) with q's B"),
        "x": (x, (batch, tokens_q, d_v), "(B, Nq, Dv) with q's B and Nq and v's Dv"),
    }
    for name, (tensor, shape, rule) in rules.items():
        if tuple(tensor.shape) != shape:
            raise ValueError(f"{name} must be {rule}, here {shape}, got {tuple(tensor.shape)}")
    if not (tokens_k and d_qk):
        raise ValueError(f"k must hold at least one key of one channel, got shape {tuple(k.shape)}")
    if tuple(gamma.shape) != (1,) or gamma.device != q.device:
        raise ValueError(
            f"gamma must have shape (1,) on {q.device}, got {tuple(gamma.shape)} on {gamma.device}"
        )
    if gamma.dtype not in (q.dtype, torch.float32):
        raise ValueError(f"gamma must be {q.dtype} or torch.float32, got {gamma.dtype}")


def _check_scale(scale: float | None, d_qk: int) -> float:
    if scale is None:
        return 1 / math.sqrt(d_qk)
    if not math.isfinite(scale):
        raise ValueError(f"scale must be a finite number or None for 1 / sqrt(Dk), got {scale}")
    return float(scale)


def _sdpa(q: Tensor, k: Tensor, v: Tensor, x: Tensor, gamma: Tensor, scale: float) -> Tensor:
    """Four dimensions, or torch does not consider its memory-efficient kernel."""
    q, k, v = q.unsqueeze(1), k.unsqueeze(1), v.unsqueeze(1)
    attended = F.scaled_dot_product_attention(q, k, v, scale=scale).squeeze(1)
    return gamma.to(x.dtype) * attended + x


# Registration: an operator that returns one tensor, whose Autograd kernel is the Function below,
# so that torch.compile keeps it whole and never traces the loop over blocks.
_library = torch.library.Library("hmc_fast", "DEF")
_library.define(
    "chunked_attention(Tensor q, Tensor k, Tensor v, Tensor x, Tensor gamma, float scale) -> Tensor"
)
_library.define(
    "chunked_attention_backward(Tensor dout, Tensor q, Tensor k, Tensor v, Tensor gamma,"
    " float scale) -> (Tensor, Tensor, Tensor, Tensor)"
)


class _ChunkedAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx, q, k, v, x, gamma, scale):  # type: ignore[no-untyped-def]
        ctx.save_for_backward(q, k, v, gamma)
        ctx.scale = scale
        with torch._C._AutoDispatchBelowAutograd():
            return torch.ops.hmc_fast.chunked_attention(q, k, v, x, gamma, scale)

    @staticmethod
    @once_differentiable
    def backward(ctx, dout):  # type: ignore[no-untyped-def]
        gradients = torch.ops.hmc_fast.chunked_attention_backward(
            dout, *ctx.saved_tensors, ctx.scale
        )
        dq, dk, dv, dgamma = gradients
        return dq, dk, dv, dout, dgamma, None


def _fake_forward(
    q: Tensor, k: Tensor, v: Tensor, x: Tensor, gamma: Tensor, scale: float
) -> Tensor:
    return torch.empty(x.shape, dtype=x.dtype, device=x.device)


def _fake_backward(
    dout: Tensor, q: Tensor, k: Tensor, v: Tensor, gamma: Tensor, scale: float
) -> tuple[Tensor, ...]:
    return tuple(torch.empty(t.shape, dtype=t.dtype, device=t.device) for t in (q, k, v, gamma))


for _device in ("CPU", "CUDA"):
    _library.impl("chunked_attention", chunked_forward, _device)
    _library.impl("chunked_attention_backward", chunked_backward, _device)
_library.impl("chunked_attention", _ChunkedAttention.apply, "Autograd")
torch.library.register_fake("hmc_fast::chunked_attention", _fake_forward, lib=_library)
torch.library.register_fake("hmc_fast::chunked_attention_backward", _fake_backward, lib=_library)


@register_flop_formula(torch.ops.hmc_fast.chunked_attention)
def _forward_flops(q, k, v, x, gamma, scale, *, out_shape=None):  # type: ignore[no-untyped-def]
    """Two products: 2 B Nq Nk (Dk + Dv), as the textbook form."""
    (batch, tokens_q, d_qk), (_, tokens_k, d_v) = q, v
    return 2 * batch * tokens_q * tokens_k * (d_qk + d_v)


@register_flop_formula(torch.ops.hmc_fast.chunked_attention_backward)
def _backward_flops(dout, q, k, v, gamma, scale, *, out_shape=None):  # type: ignore[no-untyped-def]
    """Four products of the textbook form (dV, dP, dQ, dK); the scores' second computation is not
    counted."""
    return 2 * _forward_flops(q, k, v, dout, gamma, scale)


_IMPLEMENTATIONS: dict[str, Callable[..., Tensor]] = {
    "reference": attention_reference,
    "chunked": torch.ops.hmc_fast.chunked_attention,
    "sdpa": _sdpa,
}
