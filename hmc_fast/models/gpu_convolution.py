"""Convolutions on an NVIDIA GPU: bias, residual and ReLU without a pass over the result.

    1x1 of stride 1, ReLU, no residual    a GEMM, bias and ReLU in cuBLASLt's epilogue
    1x1 of stride 1, neither              a GEMM, bias in the epilogue
    all others that end in ReLU           cuDNN's fused convolution
    the rest (shortcuts)                  cuDNN's convolution, which has no bias left to add

torch has cuDNN's fused ones as cudnn_convolution_relu and cudnn_convolution_add_relu, but without
what torch.compile needs of an operator: `hmc_fast::convolution_relu` wraps them. On another device
it computes the same with plain torch.
"""

import functools

import torch
import torch.nn.functional as F
from torch import Tensor

from hmc_fast.models.convolution import Convolution, Geometry, is_right

_library = torch.library.Library("hmc_fast", "FRAGMENT")
_library.define(
    "convolution_relu(Tensor x, Tensor weight, Tensor? bias, Tensor? residual, int[] stride,"
    " int[] padding, int[] dilation, int groups) -> Tensor"
)


class CudaConvolution(Convolution):
    """The same parameters and result."""

    saves_arithmetic = False  # a launch costs more

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        if self.norm is not None or (residual is not None and not self.relu):
            return super().forward(x, residual)
        if residual is None and self.bias is not None and self._is_product():
            return self._product(x, self.bias)
        if not self.relu:
            return super().forward(x)
        return torch.ops.hmc_fast.convolution_relu(
            x, self.weight, self.bias, residual, *self.geometry
        )

    def _is_product(self) -> bool:
        return self.weight.shape[2:] == (1, 1) and self.geometry == Geometry()

    def _product(self, x: Tensor, bias: Tensor) -> Tensor:
        """One GEMM over the channels of all positions; x is channels last, so nothing is copied."""
        rows = x.permute(0, 2, 3, 1).flatten(0, 2)  # (B H W, C)
        weight = self.weight.flatten(1).t()
        product = torch._addmm_activation if self.relu else torch.addmm
        out = product(bias, rows, weight)
        return out.unflatten(0, (x.shape[0], *x.shape[2:])).permute(0, 3, 1, 2)


def _convolution_relu(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    residual: Tensor | None,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: int,
) -> Tensor:
    """relu(convolution + bias + residual) in plain torch."""
    out = F.conv2d(x, weight, bias, stride, padding, dilation, groups)
    return (out if residual is None else out.add_(residual)).relu_()


def _cudnn_convolution_relu(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    residual: Tensor | None,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: int,
) -> Tensor:
    settings = (bias, stride, padding, dilation, groups)
    if residual is None:
        return torch.cudnn_convolution_relu(x, weight, *settings)
    return torch.cudnn_convolution_add_relu(x, weight, residual, 1.0, *settings)


def _fake_convolution_relu(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    residual: Tensor | None,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: int,
) -> Tensor:
    """The plain convolution's result, shape and strides."""
    return torch.empty_like(F.conv2d(x, weight, bias, stride, padding, dilation, groups))


_library.impl("convolution_relu", _convolution_relu, "CPU")
_library.impl("convolution_relu", _cudnn_convolution_relu, "CUDA")
torch.library.register_fake("hmc_fast::convolution_relu", _fake_convolution_relu, lib=_library)


@functools.cache
def cudnn_problem(dtype: torch.dtype, device: torch.device) -> str | None:
    """Why CudaConvolution cannot be used for `dtype` on `device`, or None."""
    try:
        right = is_right(CudaConvolution, dtype, device)
    except (AttributeError, NotImplementedError, RuntimeError, TypeError) as error:
        return f"cuDNN's fused convolutions cannot be called: {error}"
    return None if right else "cuDNN's fused convolutions give another result"
