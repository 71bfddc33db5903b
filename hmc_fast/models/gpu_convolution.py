"""Convolutions on an NVIDIA GPU: bias, residual and ReLU without a pass over the result.

    1x1, either stride           one product, whatever follows it in its epilogue: by cuBLASLt,
                                 cuDNN or a kernel of ours, per layer (convolution_plans.py)
    all others that end in ReLU  cuDNN's fused convolution
    the grey stem                convolution, ReLU and max-pool in one kernel

Not used: programmatic dependent launch. It would start a kernel while the one before it drains; the
libraries' kernels take no part in it, and what ours would gain between two of them cannot be seen
without a GPU.
"""

import copy
import functools

import torch
from torch import Tensor, nn

import hmc_fast.models.gpu_operators  # noqa: F401  (registers the operators)
from hmc_fast.kernels.convolution_reference import (
    KERNEL,
    PADDING,
    POOL_KERNEL,
    POOL_PADDING,
    POOL_STRIDE,
    STRIDE,
)
from hmc_fast.models.convolution import Convolution, Geometry, Parts, is_right

STEM = Geometry((STRIDE, STRIDE), (PADDING, PADDING))


class CudaConvolution(Convolution):
    """The same parameters and result."""

    saves_arithmetic = False  # a launch costs more

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        operators = torch.ops.hmc_fast
        if self.norm is not None:
            return super().forward(x, residual)
        if self.is_pointwise():
            stride = self.geometry.stride[0]
            return operators.pointwise_convolution(
                x, self.weight, self.bias, residual, stride, self.relu
            )
        if not self.relu:
            return super().forward(x, residual)
        return operators.convolution_relu(x, self.weight, self.bias, residual, *self.geometry)

    def is_pointwise(self) -> bool:
        """Whether it is a product of channels at single positions."""
        stride = self.geometry.stride[0]
        return self.weight.shape[2:] == (1, 1) and self.geometry == Geometry((stride, stride))

    @classmethod
    def pooled(cls, parts: Parts, pool: nn.MaxPool2d) -> nn.Sequential:
        sizes = (pool.kernel_size, pool.stride, pool.padding, pool.dilation, pool.ceil_mode)
        fits = parts.geometry == STEM and parts.conv.weight.shape[1:] == (1, KERNEL, KERNEL)
        usual = sizes == (POOL_KERNEL, POOL_STRIDE, POOL_PADDING, 1, False)
        if parts.norm is not None or not fits or not usual:
            return super().pooled(parts, pool)
        return CudaStem(cls(*parts, relu=True), copy.deepcopy(pool))


class CudaStem(nn.Sequential):
    """The stem of one-channel images in one call."""

    def forward(
        self, images: Tensor, masks: Tensor | None = None, image_index: Tensor | None = None
    ) -> Tensor:
        """images (B, 1, H, W) -> (B, C, H / 4, W / 4), rounded up; with masks (M, h, w) the stem of
        each image under its mask, (M, C, …): see kernels/masked_images.py."""
        conv = self[0]
        return torch.ops.hmc_fast.pooled_stem(images, conv.weight, conv.bias, masks, image_index)


@functools.cache
def cudnn_problem(dtype: torch.dtype, device: torch.device) -> str | None:
    """Why CudaConvolution cannot be used for `dtype` on `device`, or None."""
    try:
        right = is_right(CudaConvolution, dtype, device)
    except (AttributeError, NotImplementedError, RuntimeError, TypeError) as error:
        return f"cuDNN's fused convolutions cannot be called: {error}"
    return None if right else "cuDNN's fused convolutions give another result"
