"""The operator `spatial_attention`: arguments checked once, a backend chosen once, the work done in
`kernels`.

    out = gamma * softmax(scale * q kᵀ, over keys) v + x

with one head (Fatima et al. 2026, Eq. 11 to 15).

Backends: `triton` is the fused kernels, on NVIDIA GPUs from sm_80 on; `reference` stores the
scores (the specification); `chunked` walks over blocks of query rows and computes the scores again
in backward; `sdpa` calls torch's scaled_dot_product_attention. `auto` asks `choose_backend`.
"""

import functools
import importlib.util
import logging
import math
import os
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

import hmc_fast.operators  # noqa: F401  registers torch.ops.hmc_fast
from hmc_fast.kernels.configurations import MOST_D_QK, MOST_D_V, Shape, dtype_name
from hmc_fast.kernels.reference import attention_reference

BACKENDS = ("auto", "reference", "chunked", "sdpa", "triton")
AUTOCAST_DEVICES = ("cpu", "cuda")
ENVIRONMENT_VARIABLE = "HMC_FAST_BACKEND"
TRITON_DTYPES = (torch.float16, torch.bfloat16, torch.float32)
DTYPES = (*TRITON_DTYPES, torch.float64)

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
    HMC_FAST_BACKEND if it is set, else the fastest for the shape. "triton" takes float16, bfloat16
    and float32, Dk up to 256 and Dv up to 2048.

    Returns (B, Nq, Dv) in the dtype of x. Differentiable once in q, k, v, x and gamma (`reference`:
    twice). Raises ValueError: names the argument, what it got and the rule.
    """
    q, k, v, x = _autocast(q, k, v, x)
    _check_queries_keys_values(q, k, v)
    _check_residual(q, v, x, gamma)
    return _run(q, k, v, x, gamma, scale, backend)


def attend(
    q: Tensor, k: Tensor, v: Tensor, scale: float | None = None, backend: str = "auto"
) -> Tensor:
    """softmax(scale * q kᵀ) v: `spatial_attention` without gamma and residual, for the reassociated
    form, whose projection takes them (models/spatial_attention.py).

    Arguments and errors as there. Returns (B, Nq, Dv).
    """
    q, k, v = _autocast(q, k, v)
    _check_queries_keys_values(q, k, v)
    return _run(q, k, v, None, None, scale, backend)


def _autocast(*tensors: Tensor) -> tuple[Tensor, ...]:
    """What torch's own matrix products do under autocast; float64 is left alone."""
    device = tensors[0].device.type
    autocast = device in AUTOCAST_DEVICES and torch.is_autocast_enabled(device)
    if not autocast or tensors[0].dtype == torch.float64:
        return tensors
    dtype = torch.get_autocast_dtype(device)
    return tuple(tensor.to(dtype) for tensor in tensors)


def _run(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    x: Tensor | None,
    gamma: Tensor | None,
    scale: float | None,
    backend: str,
) -> Tensor:
    scale = _check_scale(scale, q.shape[2])
    given = [t for t in (q, k, v, x, gamma) if t is not None]
    needs_grad = torch.is_grad_enabled() and any(t.requires_grad for t in given)
    shape = Shape(q.shape[0], q.shape[1], k.shape[1], q.shape[2], v.shape[2])
    choice = choose_backend(backend, q.device, q.dtype, shape, needs_grad)
    if not torch.compiler.is_compiling():
        _log_once(choice)
    return _IMPLEMENTATIONS[choice.backend](q, k, v, x, gamma, scale)


class Choice(NamedTuple):
    """A backend's name and, for the log, why it was taken."""

    backend: str
    reason: str


def choose_backend(
    backend: str, device: torch.device, dtype: torch.dtype, shape: Shape, needs_grad: bool
) -> Choice:
    """The backend for a call: the argument, else HMC_FAST_BACKEND, else the fastest measured for
    the shape.

    device: "cpu", "cuda" or another type. The figures behind the rules stand in
    bench/results/attention-cpu.csv.
    """
    name, source = asked_backend(backend)
    if name != "auto":
        problem = triton_problem(device, dtype, shape) if name == "triton" else None
        if problem:
            raise ValueError(f"{source} triton cannot run: {problem}")
        return Choice(name, "asked for" if source == "backend" else f"{source} is set")
    if device.type == "cuda":
        return _choose_on_gpu(device, dtype, shape, needs_grad)
    if _many(dtype, shape, needs_grad):
        return Choice(
            "chunked", "many scores: on a CPU blocks of rows are faster than storing them"
        )
    return Choice("reference", "few enough scores for plain products on a CPU")


def asked_backend(backend: str) -> tuple[str, str]:
    """The backend that the argument, else HMC_FAST_BACKEND names, and which of the two did; "auto"
    where both leave it open."""
    if check_backend(backend) != "auto":
        return backend, "backend"
    from_environment = os.environ.get(ENVIRONMENT_VARIABLE, "auto")
    return check_backend(from_environment, ENVIRONMENT_VARIABLE), ENVIRONMENT_VARIABLE


def _choose_on_gpu(
    device: torch.device, dtype: torch.dtype, shape: Shape, needs_grad: bool
) -> Choice:
    problem = triton_problem(device, dtype, shape)
    if problem is None:
        return Choice("triton", "the fused kernels run on this GPU")
    if _many(dtype, shape, needs_grad):
        return Choice("sdpa", f"not triton: {problem}; too many scores to store")
    return Choice("reference", f"not triton: {problem}; few enough scores for plain products")


def triton_problem(device: torch.device, dtype: torch.dtype, shape: Shape) -> str | None:
    """Why the fused kernels cannot take a call, and what does; None where they can."""
    problem = device_problem(device)
    if problem is not None:
        return problem
    if dtype not in TRITON_DTYPES:
        return f"it takes float16, bfloat16 and float32, not {dtype_name(dtype)}"
    if dtype == torch.bfloat16 and device.type == "cpu":
        return "Triton's interpreter computes bfloat16 products wrongly; use float16 or float32"
    if shape.d_qk > MOST_D_QK:
        return f"q must have at most {MOST_D_QK} channels, got {shape.d_qk}"
    if shape.d_v > MOST_D_V:
        return f"v must have at most {MOST_D_V} channels, got {shape.d_v}"
    return None


@torch.compiler.assume_constant_result
def device_problem(device: torch.device) -> str | None:
    """`triton_problem` of the device alone; torch.compile takes the answer as it is."""
    if importlib.util.find_spec("triton") is None:
        return "triton is not installed (pip install triton)"
    if device.type == "cpu":
        return _interpreter_problem()
    if device.type != "cuda" or torch.version.hip:
        return f"it needs an NVIDIA GPU, not {'ROCm' if torch.version.hip else device.type}"
    major, minor = torch.cuda.get_device_capability(device)
    if major < 8:
        return f"it needs compute capability 8.0, this GPU has {major}.{minor}"
    return None


def _interpreter_problem() -> str | None:
    import numpy
    import triton

    if not triton.knobs.runtime.interpret:
        return "it needs an NVIDIA GPU; set TRITON_INTERPRET=1 to interpret it on a CPU, slowly"
    if (
        triton.__version__.startswith("3.6.")
        and numpy.lib.NumpyVersion(numpy.__version__) >= "2.4.0"
    ):
        return "the interpreter of Triton 3.6 needs an older numpy (pip install 'numpy<2.4')"
    return None


def _many(dtype: torch.dtype, shape: Shape, needs_grad: bool) -> bool:
    """Whether storing the scores costs more than blocks of rows (measured on a CPU)."""
    return shape.batch * shape.tokens_q * shape.tokens_k >= _many_scores(dtype, needs_grad)


def _many_scores(dtype: torch.dtype, needs_grad: bool) -> int:
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


def _check_queries_keys_values(q: Tensor, k: Tensor, v: Tensor) -> None:
    for name, tensor in (("q", q), ("k", k), ("v", v)):
        _check_tensor(name, tensor, q)
    tokens_k, d_v = v.shape[1:]
    _check_shape("k", k, (q.shape[0], tokens_k, q.shape[2]), "q's B and Dk and v's Nk")
    _check_shape("v", v, (q.shape[0], tokens_k, d_v), "q's B")
    if not (tokens_k and q.shape[2]):
        raise ValueError(f"k must hold at least one key of one channel, got shape {tuple(k.shape)}")
    if not d_v:
        raise ValueError(f"v must have at least one channel, got shape {tuple(v.shape)}")


def _check_residual(q: Tensor, v: Tensor, x: Tensor, gamma: Tensor) -> None:
    _check_tensor("x", x, q)
    _check_shape("x", x, (q.shape[0], q.shape[1], v.shape[2]), "q's B and Nq and v's Dv")
    if tuple(gamma.shape) != (1,) or gamma.device != q.device:
        raise ValueError(
            f"gamma must have shape (1,) on {q.device}, got {tuple(gamma.shape)} on {gamma.device}"
        )
    if gamma.dtype not in (q.dtype, torch.float32):
        raise ValueError(f"gamma must be {q.dtype} or torch.float32, got {gamma.dtype}")


def _check_tensor(name: str, tensor: Tensor, q: Tensor) -> None:
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


def _check_shape(name: str, tensor: Tensor, shape: tuple[int, ...], rule: str) -> None:
    sizes = {"k": "(B, Nk, Dk)", "v": "(B, Nk, Dv)", "x": "(B, Nq, Dv)"}[name]
    if tuple(tensor.shape) != shape:
        raise ValueError(
            f"{name} must be {sizes} with {rule}, here {shape}, got {tuple(tensor.shape)}"
        )


def _check_scale(scale: float | None, d_qk: int) -> float:
    if scale is None:
        return 1 / math.sqrt(d_qk)
    if not math.isfinite(scale):
        raise ValueError(f"scale must be a finite number or None for 1 / sqrt(Dk), got {scale}")
    return float(scale)


def _sdpa(
    q: Tensor, k: Tensor, v: Tensor, x: Tensor | None, gamma: Tensor | None, scale: float
) -> Tensor:
    """Four dimensions, or torch does not consider its memory-efficient kernel."""
    q, k, v = q.unsqueeze(1), k.unsqueeze(1), v.unsqueeze(1)
    attended = F.scaled_dot_product_attention(q, k, v, scale=scale).squeeze(1)
    return attended if x is None or gamma is None else gamma.to(x.dtype) * attended + x


_IMPLEMENTATIONS: dict[str, Callable[..., Tensor]] = {
    "reference": attention_reference,
    "chunked": torch.ops.hmc_fast.chunked_attention,
    "sdpa": _sdpa,
    "triton": torch.ops.hmc_fast.spatial_attention,
}
