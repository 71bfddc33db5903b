"""A convolution of the folded networks: relu(W x + b + residual), bias, residual and ReLU optional.

This is its plain form, on any device and in any dtype, which torch.compile and the exports see. On
a CPU cpu_convolution.py does the same in one pass, on a GPU gpu_convolution.py.
"""

import copy
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hmc_fast.models.folding import Affine, Identities, affine, fold_batch_norm


class Geometry(NamedTuple):
    """Of a convolution, as nn.Conv2d has it."""

    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1


ONE_BY_ONE = Geometry()


class Convolution(nn.Module):
    """relu(norm(W x + b) + residual); a bias of zeros is left out.

    norm: a BatchNorm that was not folded, or None; relu: whether it ends in one; overwrite: the
    residual is needed by nobody afterwards, and the result may take its memory.
    """

    bias: nn.Parameter | None
    saves_arithmetic = True  # forms of attention with fewer multiply-adds and more calls pay

    def __init__(
        self,
        conv: Affine,
        geometry: Geometry = ONE_BY_ONE,
        norm: nn.BatchNorm2d | None = None,
        *,
        relu: bool = False,
        overwrite: bool = False,
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(conv.weight, requires_grad=False)
        bias = nn.Parameter(conv.bias, requires_grad=False) if conv.bias.any() else None
        self.register_parameter("bias", bias)
        self.geometry, self.norm, self.relu, self.overwrite = geometry, norm, relu, overwrite

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        """x (B, C, H, W), residual like the result or None -> (B, channels, H', W')."""
        out = F.conv2d(x, self.weight, self.bias, *self.geometry)
        if self.norm is not None:
            out = self.norm(out)
        if residual is not None:
            out = out + residual
        return out.relu() if self.relu else out

    @classmethod
    def pooled(cls, parts: "Parts", pool: nn.MaxPool2d) -> nn.Sequential:
        """Such a convolution with ReLU, and a max-pool like `pool` behind it: a network's stem."""
        return nn.Sequential(cls(*parts, relu=True), copy.deepcopy(pool))

    def extra_repr(self) -> str:
        sizes = "x".join(str(size) for size in self.weight.shape)
        return f"{sizes}, {self.geometry}, relu={self.relu}"


class Parts(NamedTuple):
    """The first three arguments of a Convolution."""

    conv: Affine
    geometry: Geometry
    norm: nn.BatchNorm2d | None


def parts_of(conv: nn.Module, norm: nn.Module, use: Identities) -> Parts:
    """Of a network's convolution and the BatchNorm behind it."""
    assert isinstance(conv, nn.Conv2d)
    assert isinstance(norm, nn.BatchNorm2d)
    geometry = Geometry(conv.stride, conv.padding, conv.dilation, conv.groups)  # type: ignore[arg-type]
    if use.batch_norm:
        return Parts(fold_batch_norm(affine(conv), norm), geometry, None)
    return Parts(affine(conv), geometry, copy.deepcopy(norm))


def is_right(kind: type[Convolution], dtype: torch.dtype, device: torch.device) -> bool:
    """Whether `kind` is as near to float64 as the plain form: by itself, with ReLU, and with
    residual and ReLU, each 3x3 and 1x1."""
    endings = ((False, False), (True, False), (True, True))
    cases = [(size, *ending) for size in (1, 3) for ending in endings]
    return all(_case_is_right(kind, dtype, device, *case) for case in cases)


def _case_is_right(
    kind: type[Convolution],
    dtype: torch.dtype,
    device: torch.device,
    size: int,
    relu: bool,
    residual: bool,
) -> bool:
    generator = torch.Generator().manual_seed(0)
    shapes = (32, 16, size, size), (32,), (2, 16, 6, 6), (2, 32, 6, 6)
    weight, bias, x, added = (
        torch.randn(shape, generator=generator, device="cpu").to(dtype).to(device)
        for shape in shapes
    )

    def result(made_of: type[Convolution], wide: torch.dtype) -> Tensor:
        conv = Affine(weight.to(wide), bias.to(wide))
        geometry = Geometry(padding=(size // 2, size // 2))
        layer = made_of(conv, geometry, relu=relu, overwrite=residual)
        maps = (t.to(wide, memory_format=torch.channels_last, copy=True) for t in (x, added))
        layer = layer.to(memory_format=torch.channels_last)
        return layer(*maps) if residual else layer(next(maps))

    truth = result(Convolution, torch.float64)
    error, allowed = ((result(k, dtype) - truth).norm() for k in (kind, Convolution))
    return bool(error <= 2 * allowed + torch.finfo(dtype).eps * truth.norm())
