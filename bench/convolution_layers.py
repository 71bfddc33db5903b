"""The convolutions of the optimised networks as they are called, and who can compute each."""

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hmc_fast.kernels.configurations import dtype_name
from hmc_fast.kernels.convolution_plans import Layer, able
from hmc_fast.kernels.convolution_reference import pointwise_reference, pooled_stem_reference
from hmc_fast.models import create_model
from hmc_fast.models.convolution import Convolution
from hmc_fast.models.folded import fold
from hmc_fast.models.gpu_convolution import CudaConvolution, CudaStem
from hmc_fast.models.gpu_operators import PROVIDERS

DEVICE = "cuda"
DTYPE = torch.bfloat16
SIZE = 224
VARIANTS = ("resnet50", "hmc")
Call = Callable[[], Tensor]


class Shape(NamedTuple):
    """A convolution as the network calls it, whatever the batch: input channels, height and width,
    output channels, side of the kernel, stride, and what follows. pool: it is the grey stem."""

    channels_in: int
    height: int
    width: int
    channels_out: int
    kernel: int
    stride: int
    bias: bool
    relu: bool
    residual: bool
    pool: bool = False

    @property
    def op(self) -> str:
        return "stem" if self.pool else f"{self.kernel}x{self.kernel}-stride{self.stride}"

    @property
    def mode(self) -> str:
        """bias+relu+residual, for example."""
        endings = [name for name in ("bias", "relu", "residual", "pool") if getattr(self, name)]
        return "+".join(endings) or "alone"

    def layer(self, batch: int) -> Layer:
        """As the table of plans has it."""
        rows = batch * -(-self.height // self.stride) * -(-self.width // self.stride)
        ending = (self.bias, self.relu, self.residual)
        return Layer(rows, self.channels_in, self.channels_out, self.stride, *ending)


def example(variant: str) -> nn.Module:
    """A network in which no bias and no gamma is zero, so that nothing is left out."""
    torch.manual_seed(0)
    model = create_model(variant).eval()
    for name, parameter in model.named_parameters():
        if name.endswith(("gamma", "bias")):
            nn.init.constant_(parameter, 0.5)
    return model


@functools.cache
def shapes(variant: str) -> dict[Shape, int]:
    """The distinct convolutions of one forward pass, in its order, and how often each is called."""
    found: dict[Shape, int] = {}

    def note(module: nn.Module, given: tuple[Any, ...]) -> None:
        pool = isinstance(module, CudaStem)
        conv, residual = module[0] if pool else module, given[1:2] not in ((), (None,))
        ending = (conv.bias is not None, conv.relu, residual, pool)
        sizes = (given[0].shape[2:], conv.weight.shape)
        shape = Shape(
            sizes[1][1], *sizes[0], sizes[1][0], sizes[1][2], conv.geometry.stride[0], *ending
        )
        found[shape] = found.get(shape, 0) + 1

    net = fold(example(variant), grayscale=True, kind=CudaConvolution)
    for module in net.modules():
        if isinstance(module, Convolution | CudaStem):
            module.register_forward_pre_hook(note)
    with torch.no_grad():
        net(torch.zeros(1, 1, SIZE, SIZE).to(memory_format=torch.channels_last))
    return found


def all_shapes() -> dict[Shape, int]:
    """Of every variant; the count is the last one's that has it."""
    return {shape: n for variant in VARIANTS for shape, n in shapes(variant).items()}


def make_inputs(shape: Shape, batch: int) -> dict[str, Tensor | None]:
    """x, weight, bias and residual on DEVICE, in DTYPE, channels last."""
    generator = torch.Generator().manual_seed(0)

    def normal(*sizes: int) -> Tensor:
        tensor = torch.randn(sizes, generator=generator).to(DEVICE, DTYPE)
        return tensor.to(memory_format=torch.channels_last) if len(sizes) == 4 else tensor

    side, out = shape.kernel, shape.channels_out
    size = (-(-shape.height // shape.stride), -(-shape.width // shape.stride))
    return {
        "x": normal(batch, shape.channels_in, shape.height, shape.width),
        "weight": normal(out, shape.channels_in, side, side) / (side * shape.channels_in**0.5),
        "bias": normal(out) if shape.bias else None,
        "residual": normal(batch, out, *size) if shape.residual else None,
    }


def plain(
    shape: Shape, x: Tensor, weight: Tensor, bias: Tensor | None, residual: Tensor | None
) -> Tensor:
    """The layer in plain torch."""
    if shape.pool:
        return pooled_stem_reference(x, weight, bias)
    if shape.kernel == 1:
        return pointwise_reference(x, weight, bias, residual, stride=shape.stride, relu=shape.relu)
    out = F.conv2d(x, weight, bias, shape.stride, shape.kernel // 2)
    return out.relu() if shape.relu else out


def calls(shape: Shape, given: Mapping[str, Any], compile_mode: str | None) -> dict[str, Call]:
    """Who is timed. compile_mode: of inductor, None to leave it out."""
    found: dict[str, Call] = {}
    if shape.pool:
        found = {"cudnn": lambda: cudnn_stem(**given), "triton": lambda: fused_stem(**given)}
    elif shape.kernel == 1:
        for name in able(shape.layer(len(given["x"])), dtype_name(DTYPE)):
            function = functools.partial(PROVIDERS[name], stride=shape.stride, relu=shape.relu)
            found[name] = functools.partial(function, **given)
    else:
        geometry = ([shape.stride] * 2, [shape.kernel // 2] * 2, [1, 1], 1)
        operator = torch.ops.hmc_fast.convolution_relu
        found["cudnn"] = lambda: operator(*given.values(), *geometry)
    if compile_mode is not None:
        compiled = torch.compile(functools.partial(plain, shape), mode=compile_mode, dynamic=False)
        found["inductor"] = functools.partial(compiled, **given)
    return found


def cudnn_stem(x: Tensor, weight: Tensor, bias: Tensor, residual: None) -> Tensor:
    """The fused convolution, then the pool."""
    operator = torch.ops.hmc_fast.convolution_relu
    return F.max_pool2d(operator(x, weight, bias, None, [2, 2], [3, 3], [1, 1], 1), 3, 2, 1)


def fused_stem(x: Tensor, weight: Tensor, bias: Tensor, residual: None) -> Tensor:
    return torch.ops.hmc_fast.pooled_stem(x, weight, bias, None, None)


def describe(shape: Shape) -> str:
    """'1x1-stride1 56x56 64->256 bias+relu'."""
    channels = f"{shape.channels_in}->{shape.channels_out}"
    return f"{shape.op} {shape.height}x{shape.width} {channels} {shape.mode}"
