"""Which launches are compiled without a GPU: the network's attention blocks and unusual shapes, in
every dtype and for every architecture, and some of its convolutions."""

from collections.abc import Iterable, Iterator
from math import isqrt
from typing import Any, NamedTuple

import torch

from attention_cases import BLOCKS, REASSOCIATED
from cross_compile import Compilation, specialise
from hmc_fast.kernels.attention_backward import backward_launches
from hmc_fast.kernels.attention_forward import forward_launches
from hmc_fast.kernels.configurations import Target
from hmc_fast.kernels.masked_images import pooled_stem_launch
from hmc_fast.kernels.pointwise import pointwise_launch
from time_model import CARDS

DTYPES = ("bfloat16", "float16", "float32")
LONG = ((65536, 32, 256), (65536, 64, 512))  # too long for partials of dq: another kernel
LONG_FLOAT32 = ((65536, 128, 512), (65536, 128, 1024))  # float32 has rows for these, too
UNUSUAL = (  # no row of the table: the rule chooses their tiles
    (1025, 64, 64), (300, 8, 8), (577, 256, 2048), (1000, 24, 200), (4096, 128, 128),
    (257, 16, 1024), (2000, 40, 320),
)  # fmt: skip
UNUSUAL_ON = ((86, 90), ("bfloat16", "float32"))
POINTWISE = {1: "pointwise", 2: "pointwise stride 2"}  # by stride: 1x1 convolutions
STEMS = {"stem": None, "masked stem": 7}  # the side of the masks


class Case(NamedTuple):
    """A call of the operator. residual: with gamma and x. mode: forward keeps what backward takes,
    inference does not.

    Of a convolution mode says which, tokens are positions of an image or, of the stem, its pixels,
    d_qk and d_v channels in and out; residual: with a residual, bias and ReLU.
    """

    batch: int
    tokens: int
    d_qk: int
    d_v: int
    residual: bool
    mode: str

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.tokens, self.d_qk, self.d_v

    @property
    def is_convolution(self) -> bool:
        return self.mode in (*POINTWISE.values(), *STEMS)


class Row(NamedTuple):
    """One launch of a case on an architecture."""

    case: Case
    dtype: str
    architecture: int
    launch: Any
    compilation: Compilation

    @property
    def kernel(self) -> str:
        return self.compilation.kernel

    @property
    def tile(self) -> str:
        """128x64x256 8w2s rotated: rows, keys, value columns, warps, stages, what is special."""
        a = self.launch.arguments
        sizes = [str(a[name]) for name in TILE if name in a]
        marks = ["rotated"] * a.get("ROTATED", False)
        marks += [f"{what} {a[name]}" for name, what in MARKS.items() if a.get(name, 0) > 1]
        options = f"{self.launch.num_warps}w{self.launch.num_stages}s"
        return " ".join(["x".join(sizes), options, *marks])

    @property
    def name(self) -> tuple[str, ...]:
        """What identifies it, in the order of NAME."""
        return (self.kernel, *map(str, self.case), self.dtype, str(self.architecture))


NAME = ("kernel", *Case._fields, "dtype", "architecture")
TILE = ("BLOCK_M", "BLOCK_N", "BLOCK_DV", "BLOCK_K", "BLOCK")
MARKS = {"TAIL_M": "tail", "SPLITS": "splits", "GROUP": "group", "STRIP": "strip"}


def cases() -> Iterator[Case]:
    """The network's blocks in training and inference, long backward passes, unusual shapes,
    convolutions."""
    blocks = [(shape, True) for shape in (*BLOCKS.values(), *REASSOCIATED.values())]
    blocks += [(shape, False) for shape in REASSOCIATED.values()]
    for shape, residual in blocks:
        for batch, modes in ((32, ("forward", "backward")), (1, ("inference", "backward"))):
            for mode in modes:
                yield Case(batch, *shape, residual, mode)
    for shape in (*LONG, *LONG_FLOAT32):
        yield Case(2, *shape, True, "backward")
    for shape in UNUSUAL:
        for mode in ("forward", "backward"):
            yield Case(2, *shape, True, mode)
    yield from convolutions()


def convolutions() -> Iterator[Case]:
    """The stem, layers with a residual and layers with a stride, of many rows and of few."""
    for mode in STEMS:
        yield Case(32, 224 * 224, 1, 64, False, mode)
    for batch in (32, 1):
        yield Case(batch, 3136, 64, 256, True, POINTWISE[1])
        yield Case(batch, 49, 512, 2048, True, POINTWISE[1])
        yield Case(batch, 784, 256, 512, False, POINTWISE[2])


def applies(case: Case, dtype: str, architecture: int) -> bool:
    """Whether a case is compiled; all but these are, everywhere."""
    if case.is_convolution:
        return dtype != "float16"  # bfloat16's code
    if case.shape in UNUSUAL:
        return architecture in UNUSUAL_ON[0] and dtype in UNUSUAL_ON[1]
    return dtype == "float32" or case.shape not in LONG_FLOAT32


def launches(case: Case, dtype: torch.dtype, target: Target) -> list[Any]:
    """What the operator would start."""
    if case.is_convolution:
        return [convolution_launch(case, dtype, target)]

    def make(width: int) -> torch.Tensor:
        return torch.empty((case.batch, case.tokens, width), dtype=dtype, device="meta")

    q, k, v = make(case.d_qk), make(case.d_qk), make(case.d_v)
    x = make(case.d_v) if case.residual else None
    gamma = torch.empty(1, device="meta") if case.residual else None
    keep = case.mode != "inference"
    forward, outputs = forward_launches(q, k, v, x, gamma, 0.1, keep=keep, target=target)
    if case.mode != "backward":
        return forward
    attended = outputs.attended if outputs.attended.numel() else outputs.out
    return backward_launches(
        make(case.d_v), q, k, v, gamma, attended, outputs.lse, 0.1, target=target
    ).launches


def convolution_launch(case: Case, dtype: torch.dtype, target: Target) -> Any:
    """What the operator of a convolution would start."""

    def make(*shape: int) -> torch.Tensor:
        tensor = torch.empty(shape, dtype=dtype, device="meta")
        return tensor.to(memory_format=torch.channels_last) if len(shape) == 4 else tensor

    channels, side = case.d_v, isqrt(case.tokens)
    if case.mode in STEMS:
        mask = STEMS[case.mode]
        masks = None if mask is None else torch.empty(case.batch, mask, mask, device="meta")
        images = make(1 if mask else case.batch, 1, side, side)
        stem = (images, make(channels, 1, 7, 7), make(channels), masks)
        return pooled_stem_launch(*stem, target=target)[0]
    stride = 2 if case.mode == POINTWISE[2] else 1
    x = make(case.batch, case.d_qk, stride * side, stride * side)
    ending = (make(channels), make(case.batch, channels, side, side)) if case.residual else ()
    how = {"stride": stride, "relu": case.residual}
    return pointwise_launch(x, make(channels, case.d_qk, 1, 1), *ending, **how, target=target)[0]


def rows_of(
    architectures: Iterable[int], dtypes: Iterable[str], chosen: Iterable[Case]
) -> Iterator[Row]:
    """Every launch of the cases."""
    for case in chosen:
        for dtype in dtypes:
            for architecture in architectures:
                if applies(case, dtype, architecture):
                    yield from rows_on(case, dtype, architecture)


def rows_on(case: Case, dtype: str, architecture: int) -> Iterator[Row]:
    """The launches of one case on one architecture."""
    target = Target(architecture, CARDS[architecture].processors)
    for launch in launches(case, getattr(torch, dtype), target):
        yield Row(case, dtype, architecture, launch, specialise(launch, architecture))
