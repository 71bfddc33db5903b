"""Whom the attention is timed against on a GPU, one way to call all of them.

A peer has the operator, gamma * softmax(scale * q kᵀ) v + x, and where it is a library's kernel the
attention alone, softmax(scale * q kᵀ) v: no library adds gamma and x in its kernel, so ratios
against libraries compare the attention alone. Building a peer raises what is missing.
"""

import importlib
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from attention_cases import Case
from hmc_fast.attention import attend as fused_attention
from hmc_fast.attention import spatial_attention
from hmc_fast.kernels.reference import attention_reference
from hmc_fast.operators import ATOMICS_VARIABLE

Attend = Callable[[Tensor, Tensor, Tensor, float], Tensor]
OPERATOR_MODES = ("forward", "backward", "step")
MODES = ("forward", "attention", "backward", "attention_backward", "step")
FA3_D_QK = 64  # the narrowest queries its kernels take
FLEX_TILES = {  # by d_v: what fits 227 KiB of shared memory and the registers of 8 warps
    256: {"BLOCK_M": 128, "BLOCK_N": 64, "backward": (32, 64, 64, 32), "stages": 2},
    512: {"BLOCK_M": 64, "BLOCK_N": 32, "backward": (32, 32, 32, 32), "stages": 2},
    1024: {"BLOCK_M": 32, "BLOCK_N": 32, "backward": (16, 16, 16, 16), "stages": 1},
    2048: {"BLOCK_M": 16, "BLOCK_N": 16, "backward": (16, 16, 16, 16), "stages": 1},
}


class Peer(NamedTuple):
    """One implementation. `attend` None: it cannot be called without gamma and x.

    prepare: called once on q and k, not timed. context: holds while it is called. leaves: what
    `operator` is differentiated by where that is not its arguments (a module's parameters).
    """

    operator: Callable[..., Tensor]
    attend: Attend | None = None
    modes: tuple[str, ...] = MODES
    context: Callable[[], AbstractContextManager] = nullcontext
    prepare: Callable[[Tensor], Tensor] = lambda tensor: tensor
    leaves: tuple[Tensor, ...] | None = None


def with_residual(attend: Attend) -> Callable[..., Tensor]:
    """The operator from the attention alone; gamma and the residual in one more kernel."""

    def operator(q: Tensor, k: Tensor, v: Tensor, x: Tensor, gamma: Tensor, scale: float) -> Tensor:
        return torch.addcmul(x, attend(q, k, v, scale), gamma.to(x.dtype))

    return operator


def textbook(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
    """Plain products; all scores are stored."""
    return attention_reference(q, k, v, None, None, scale)


def _reference(case: Case) -> Peer:
    return Peer(attention_reference, textbook)


def _compiled(case: Case) -> Peer:
    compiled = torch.compile(attention_reference, dynamic=False, fullgraph=True)
    return Peer(compiled, modes=OPERATOR_MODES)


def _sdpa(case: Case, backend: SDPBackend) -> Peer:
    def attend(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
        one_head = (tensor.unsqueeze(1) for tensor in (q, k, v))
        return F.scaled_dot_product_attention(*one_head, scale=scale).squeeze(1)

    return Peer(with_residual(attend), attend, context=lambda: sdpa_kernel(backend))


def _flex(case: Case) -> Peer:
    """FlexAttention with tiles given: its own choice looks at d_qk alone, and does not fit."""
    flex = importlib.import_module("torch.nn.attention.flex_attention").flex_attention
    compiled = torch.compile(flex, dynamic=False, fullgraph=True)
    options = flex_options(case.d_v)

    def attend(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
        one_head = (tensor.unsqueeze(1) for tensor in (q, k, v))
        return compiled(*one_head, scale=scale, kernel_options=options).squeeze(1)

    return Peer(with_residual(attend), attend)


def flex_options(d_v: int) -> dict[str, Any]:
    """Of the smallest entry of FLEX_TILES that holds d_v, as FlexAttention takes them."""
    wide = min((width for width in FLEX_TILES if width >= d_v), default=max(FLEX_TILES))
    tiles = FLEX_TILES[wide]
    names = ("bwd_BLOCK_M1", "bwd_BLOCK_N1", "bwd_BLOCK_M2", "bwd_BLOCK_N2")
    return {
        "FORCE_USE_FLEX_ATTENTION": True,
        "fwd_BLOCK_M": tiles["BLOCK_M"],
        "fwd_BLOCK_N": tiles["BLOCK_N"],
        **dict(zip(names, tiles["backward"], strict=True)),
        "num_stages": tiles["stages"],
        "num_warps": 8,
    }


def _fa3(case: Case) -> Peer:
    """FlashAttention-3's forward (wheel fa3-fwd); q and k are padded once, in `prepare`."""
    importlib.import_module("fa3_fwd._C")  # registers torch.ops.fa3_fwd

    def attend(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
        one_head = (tensor.unsqueeze(2) for tensor in (q, k, v))  # (B, N, 1, D)
        return torch.ops.fa3_fwd.fwd(*one_head, softmax_scale=scale)[0].squeeze(2)

    def prepare(tensor: Tensor) -> Tensor:
        return F.pad(tensor, (0, max(0, FA3_D_QK - tensor.shape[2])))

    return Peer(with_residual(attend), attend, modes=("forward", "attention"), prepare=prepare)


def _cudnn(case: Case) -> Peer:
    attend = importlib.import_module("cudnn_peer").make_attend(case)
    return Peer(with_residual(attend), attend)


def _triton(case: Case) -> Peer:
    operator = partial(spatial_attention, backend="triton")
    return Peer(operator, partial(fused_attention, backend="triton"))


def _triton_atomics(case: Case) -> Peer:
    """Ours with dQ added by atomics; its forward is the same."""
    operator = partial(spatial_attention, backend="triton")
    return Peer(operator, modes=("backward", "step"), context=atomics)


@contextmanager
def atomics() -> Iterator[None]:
    """Ask for atomics by the environment variable, and put back what was there."""
    before = os.environ.get(ATOMICS_VARIABLE)
    os.environ[ATOMICS_VARIABLE] = "1"
    try:
        yield
    finally:
        del os.environ[ATOMICS_VARIABLE]
        if before is not None:
            os.environ[ATOMICS_VARIABLE] = before


PEERS: dict[str, Callable[[Case], Peer]] = {
    "reference": _reference,
    "reference-compiled": _compiled,
    "sdpa-flash": partial(_sdpa, backend=SDPBackend.FLASH_ATTENTION),
    "sdpa-efficient": partial(_sdpa, backend=SDPBackend.EFFICIENT_ATTENTION),
    "sdpa-cudnn": partial(_sdpa, backend=SDPBackend.CUDNN_ATTENTION),
    "sdpa-math": partial(_sdpa, backend=SDPBackend.MATH),
    "flex": _flex,
    "fa3": _fa3,
    "cudnn": _cudnn,
    "triton": _triton,
    "triton-atomics": _triton_atomics,
}
