"""Who is timed: each network eager, through torch.compile, and optimised."""

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from types import FunctionType
from typing import NamedTuple

import torch
from torch import Tensor, nn

from hmc_fast.kernels.configurations import dtype_name
from hmc_fast.models.network import HMCNet
from hmc_fast.models.optimized import OptimizedModel, optimize_for_inference
from hmc_fast.profiling.timing import Call

EAGER, COMPILED, OPTIMISED = "eager", "compiled", "optimised"
Forward = Callable[[Tensor], Tensor]


class Name(NamedTuple):
    """Of a side; provider: EAGER, COMPILED or OPTIMISED."""

    network: str
    provider: str
    dtype: torch.dtype

    def __str__(self) -> str:
        return f"{self.network} {self.provider} {dtype_name(self.dtype)}"


class Side(NamedTuple):
    """forward: grey images (B, 3, H, W) float32 -> logits (B, classes), without gradients;
    for_memory: the same without a CUDA graph, whose memory is taken once and never seen again."""

    forward: Forward
    for_memory: Forward


def make_sides(
    name: str,
    network: nn.Module,
    dtypes: Sequence[torch.dtype],
    *,
    batch_size: int,
    compiled: bool,
) -> Iterator[tuple[Name, Side]]:
    """The sides of a network, eager first: it stays in float32.

    network: float32, in eval mode, on the device to time; dtypes: of compiled and optimised ones.
    Raises ValueError, with the reason: a dtype that is not fast on the device.
    """
    yield Name(name, EAGER, torch.float32), _side(network)
    for dtype in dtypes if compiled else ():
        yield Name(name, COMPILED, dtype), _side(_compiled(network, dtype))
    for dtype in dtypes if can_optimise(network) else ():
        yield Name(name, OPTIMISED, dtype), _optimised(network, dtype, batch_size)


def calls_on(images: Tensor, sides: Mapping[Name, Side]) -> dict[Name, Call]:
    """One forward of each side on these images, to be timed."""
    return {name: partial(side.forward, images) for name, side in sides.items()}


def can_optimise(network: nn.Module) -> bool:
    """Whether there is an optimised form: of HMC-Net and ResNet50, not of the VGGs and the ViT."""
    return isinstance(network, HMCNet)


def largest_difference(logits: Tensor, others: Tensor) -> float:
    """max |Δp| of two batches of logits (B, classes)."""
    first, second = (values.double().softmax(1) for values in (logits, others))
    return float((first - second).abs().max())


def tolerance(name: Name, device: torch.device) -> float:
    """The largest |Δp| against eager at which a side is timed: differences are reported, this
    refuses nonsense alone. On a GPU the convolutions of float32 are TF32 products."""
    return 1e-3 if name.dtype == torch.float32 and device.type == "cpu" else 0.05


def _side(forward: Forward, for_memory: Forward | None = None) -> Side:
    return Side(torch.no_grad()(forward), torch.no_grad()(for_memory or forward))


def _compiled(network: nn.Module, dtype: torch.dtype) -> Forward:
    """torch.compile keeps its results by code object, and from the ninth of one it runs eager, with
    no more than a line in a log: so every side has a code object of its own."""
    low = copy.deepcopy(network).to(dtype)

    def forward(images: Tensor) -> Tensor:
        return low(images.to(dtype))

    own_code = forward.__code__.replace(co_name=f"forward_{id(low)}")
    alone = FunctionType(own_code, globals(), closure=forward.__closure__)
    return torch.compile(alone, dynamic=False, fullgraph=True)


def _optimised(network: nn.Module, dtype: torch.dtype, batch_size: int) -> Side:
    """One channel of the grey images: nobody waits for the check that they are grey."""
    fast = optimize_for_inference(network, dtype=dtype, grayscale=True, batch_size=batch_size)
    without_graph = OptimizedModel(fast.net, dtype, grayscale=True, batch_size=None)
    return _side(lambda images: fast(images[:, :1]), lambda images: without_graph(images[:, :1]))
