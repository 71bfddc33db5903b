"""Whole attention blocks as benchmark cases: projections, `match` and interpolation included.

The plain forms match the finer map and interpolate, as the paper writes it. Ours interpolate first,
and come in two forms (hmc_fast/models/forms.py): direct, and reassociated. All hold the same
weights.
"""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attention_cases import Case
from hmc_fast.models.spatial_attention import SpatialAttention2d
from peers import Peer
from problem import Problem

CROSS_SCALE = ("ca23", "ca34")  # keys and values from the map before, twice as high and wide


class Block(nn.Module):
    """HA1, HA2, CA23 or CA34 as in the network, gamma 0.5. form None: as the paper writes it."""

    def __init__(self, case: Case, backend: str, form: str | None = None) -> None:
        super().__init__()
        cross = case.name.removesuffix("-block") in CROSS_SCALE
        self.as_written = form is None
        self.attention = SpatialAttention2d(case.d_v, backend=backend, form=form or "direct")
        self.match = nn.Conv2d(case.d_v // 2, case.d_v, kernel_size=1) if cross else None
        nn.init.constant_(self.attention.gamma, 0.5)

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        if self.match is None or y is None:
            return self.attention(x)
        if self.as_written:
            return self.attention(x, resized(self.match(y), x))
        return self.attention(x, resized(y, x), self.match)


def resized(feature_map: Tensor, target: Tensor) -> Tensor:
    return F.interpolate(feature_map, size=target.shape[2:], mode="bilinear", align_corners=False)


def make_maps(case: Case, device: str) -> list[Tensor]:
    """x and, for a cross-scale block, y; channels last, seeded, leaves that want gradients."""
    generator = torch.Generator(device).manual_seed(0)
    side = math.isqrt(case.n)
    shapes = [(case.batch, case.d_v, side, side)]
    if case.name.removesuffix("-block") in CROSS_SCALE:
        shapes.append((case.batch, case.d_v // 2, 2 * side, 2 * side))
    maps = (torch.randn(shape, generator=generator, device=device) for shape in shapes)
    return [
        m.to(case.dtype).contiguous(memory_format=torch.channels_last).requires_grad_()
        for m in maps
    ]


def block_problem(case: Case, device: str = "cuda") -> Problem:
    """Maps, the block's float64 truth, and the block with each backend, all with one state."""
    torch.manual_seed(0)
    maps = make_maps(case, device)
    state = Block(case, "reference").to(device, case.dtype).state_dict()
    dout = torch.randn_like(maps[0])

    def block(backend: str, form: str | None = None, dtype: torch.dtype = case.dtype) -> Block:
        made = Block(case, backend, form).to(device, dtype)
        made.load_state_dict(state)
        return made.to(memory_format=torch.channels_last)

    wide = [m.detach().double().requires_grad_() for m in maps]
    out = block("reference", None, torch.float64)(*wide)
    gradients = list(torch.autograd.grad(out, wide, dout.double()))
    truth = {"forward": [out.detach()], "step": gradients}
    return Problem({"operator": tuple(maps)}, dout, truth, {}, peers_of(block))


def peers_of(block: Callable[..., Block]) -> dict[str, Callable[[], Peer]]:
    """The block by each backend; gradients of its parameters are part of a step."""

    def peer(*kind: str, compiled: bool = False) -> Peer:
        made = block(*kind)
        operator = torch.compile(made, dynamic=False, fullgraph=True) if compiled else made
        return Peer(operator, modes=("forward", "step"), leaves=tuple(made.parameters()))

    return {
        "reference": lambda: peer("reference"),
        "reference-compiled": lambda: peer("reference", compiled=True),
        "sdpa": lambda: peer("sdpa"),
        "triton": lambda: peer("triton", "direct"),
        "triton-reassociated": lambda: peer("triton", "reassociated"),
    }
