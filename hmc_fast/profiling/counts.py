"""Parameters and multiply-adds of a network, counted by three independent ways.

    closed form      written by hand from the architecture (closed_form.py)
    flop_counter     torch.utils.flop_counter on meta tensors: every product that is dispatched
    fvcore           traces a run of the network and counts the nodes of the graph

A MAC is a multiplication with its addition, so 2 FLOP. The attention backend changes nothing: each
computes the two products of the textbook form. What the optimised network executes is another
count, of its folded form (models/folded.py).
"""

import contextlib
import warnings
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from hmc_fast.models import create_model
from hmc_fast.models.baselines import BASELINES
from hmc_fast.models.convolution import Convolution
from hmc_fast.models.folded import fold
from hmc_fast.models.optimized import fastest_convolution
from hmc_fast.operators import FVCORE_HANDLES
from hmc_fast.profiling.closed_form import closed_form

COUNTED_BACKEND = "chunked"  # stores no scores; whatever HMC_FAST_BACKEND says, nothing else runs
FVCORE_PIXELS = 512  # fvcore runs the network: HA1's scores at 1024 px would take minutes


class Architecture(NamedTuple):
    """What decides the arithmetic of a network."""

    variant: str
    image_size: int = 224
    num_classes: int = 3
    reduction: int = 8

    def network(self, backend: str = "auto") -> nn.Module:
        """In eval mode, with fresh weights on torch's default device."""
        return create_model(
            self.variant, self.num_classes, reduction=self.reduction, backend=backend,
            image_size=self.image_size,
        ).eval()  # fmt: skip

    def image(self) -> torch.Tensor:
        """(1, 3, S, S) zeros on torch's default device."""
        return torch.zeros(1, 3, self.image_size, self.image_size)


class Counts(NamedTuple):
    """Of one image; MACs by each way, None where a way was not taken.

    executed: of the folded network, None where there is none.
    """

    parameters: int
    closed_form: int
    flop_counter: int
    fvcore: int | None
    executed: int | None

    @property
    def gmac(self) -> float:
        """The closed form in GMAC."""
        return self.closed_form / 1e9

    @property
    def gflop(self) -> float:
        """1 MAC = 2 FLOP."""
        return 2 * self.gmac

    @property
    def agree(self) -> bool:
        """Whether all ways that were taken give the same number."""
        return len({self.closed_form, self.flop_counter, self.fvcore} - {None}) == 1


def count(architecture: Architecture, device: torch.device, dtype: torch.dtype) -> Counts:
    """All counts of a network; device and dtype: of the optimised one, whose form they decide."""
    by_hand = closed_form(
        architecture.variant, architecture.image_size, num_classes=architecture.num_classes,
        reduction=architecture.reduction,
    )  # fmt: skip
    traced = architecture.image_size <= FVCORE_PIXELS
    return Counts(
        parameters(architecture),
        sum(by_hand.values()),
        flop_counter_macs(architecture)[""],
        fvcore_macs(architecture)[""] if traced else None,
        executed_macs(architecture, device, dtype),
    )


def parameters(architecture: Architecture) -> int:
    """Of all layers, the classifier included."""
    with torch.device("meta"):
        return sum(p.numel() for p in architecture.network().parameters())


def flop_counter_macs(architecture: Architecture, backend: str = COUNTED_BACKEND) -> dict[str, int]:
    """MACs of every module by its name, "" for the whole network; nothing is computed."""
    with torch.device("meta"):
        return dispatched_macs(architecture.network(backend), architecture.image())


def dispatched_macs(network: nn.Module, images: torch.Tensor) -> dict[str, int]:
    """What a call of `network` dispatches: MACs of every module by its name, "" for all of it."""
    with plain_attention(), torch.no_grad(), FlopCounterMode(display=False) as counter:
        network(images)
    macs = {"": counter.get_total_flops() // 2}
    for path, flops in counter.get_flop_counts().items():
        _, _, name = path.partition(".")  # after the name of the network's class
        if name:
            macs[name] = sum(flops.values()) // 2
    return macs


def fvcore_macs(architecture: Architecture, backend: str = COUNTED_BACKEND) -> dict[str, int]:
    """As `flop_counter_macs`, by fvcore, which traces a run on the CPU."""
    with warnings.catch_warnings(), plain_attention(), torch.no_grad(), torch.device("cpu"):
        warnings.filterwarnings("ignore", r".*torch\.jit\.")  # what fvcore uses is deprecated
        from fvcore.nn import FlopCountAnalysis

        analysis = FlopCountAnalysis(architecture.network(backend), architecture.image())
        analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
        analysis.tracer_warnings("none").clear_op_handles().set_op_handle(**_products())
        return {name: int(macs) for name, macs in analysis.by_module().items()}


def executed_macs(
    architecture: Architecture, device: torch.device, dtype: torch.dtype
) -> int | None:
    """MACs that the optimised network executes on grey images, every gamma not 0; None where the
    network cannot be folded.

    The fused convolutions are no operators that a counter knows: plain ones stand in, in the form
    of attention that the fused ones would have.
    """
    if architecture.variant in BASELINES:
        return None

    class Counted(Convolution):
        saves_arithmetic = fastest_convolution(dtype, device).saves_arithmetic

    with torch.device("cpu"):
        network = architecture.network(COUNTED_BACKEND)
    set_gammas(network, 1.0)
    folded = fold(network, grayscale=True, kind=Counted).to("meta")
    with torch.device("meta"):
        return dispatched_macs(folded, architecture.image())[""]


@torch.no_grad()
def set_gammas(network: nn.Module, value: float) -> None:
    """Give all attention blocks this gamma: with the 0 they start with, a folded network leaves
    them out."""
    for name, parameter in network.named_parameters():
        if name.endswith("gamma"):
            parameter.fill_(value)


@contextlib.contextmanager
def plain_attention() -> Iterator[None]:
    """The ViT's attention as single products: its fast path is one operator that nobody counts."""
    enabled = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(enabled)


def _products() -> dict[str, Any]:
    """fvcore's handles for products alone: it would count norms and interpolation as well."""
    from fvcore.nn import jit_handles

    return FVCORE_HANDLES | {
        "aten::_convolution": jit_handles.conv_flop_jit,
        "aten::linear": jit_handles.linear_flop_jit,
        "aten::addmm": jit_handles.addmm_flop_jit,
        "aten::matmul": jit_handles.matmul_flop_jit,
        "aten::bmm": jit_handles.bmm_flop_jit,
        "aten::baddbmm": jit_handles.bmm_flop_jit,
        "aten::scaled_dot_product_attention": _sdpa_macs,
    }


def _sdpa_macs(inputs: list[Any], outputs: list[Any]) -> int:
    """q (..., Nq, Dk), k (..., Nk, Dk), v (..., Nk, Dv)."""
    (*lead, tokens_q, d_qk), k, v = (value.type().sizes() for value in inputs[:3])
    return torch.Size(lead).numel() * tokens_q * k[-2] * (d_qk + v[-1])
