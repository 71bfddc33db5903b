"""Convolutions of inference as operators of torch: a fake and one node each for torch.compile.

    hmc_fast::convolution_relu         relu(W x + b + residual), any kernel: cuDNN's fused ones
    hmc_fast::pointwise_convolution    1x1, every ending optional: by convolution_plans.py
    hmc_fast::pooled_stem              the grey stem, over masked images too (masked_images.py)

torch has cuDNN's fused convolutions as cudnn_convolution_relu and cudnn_convolution_add_relu, but
without what torch.compile needs. On a CPU all compute the same with plain torch. None has a
gradient. Results are fresh and channels last.
"""

import functools
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from hmc_fast.attention import device_problem
from hmc_fast.kernels.configurations import dtype_name, target_of
from hmc_fast.kernels.convolution_plans import HALF, Layer, provider_for
from hmc_fast.kernels.convolution_reference import (
    PADDING,
    POOL_KERNEL,
    POOL_PADDING,
    POOL_STRIDE,
    STRIDE,
    check_stem,
    pointwise_reference,
    pooled_stem_reference,
    stem_sizes,
)
from hmc_fast.operators import product_precision

_library = torch.library.Library("hmc_fast", "FRAGMENT")
_library.define(
    "convolution_relu(Tensor x, Tensor weight, Tensor? bias, Tensor? residual, int[] stride,"
    " int[] padding, int[] dilation, int groups) -> Tensor"
)
_library.define(
    "pointwise_convolution(Tensor x, Tensor weight, Tensor? bias, Tensor? residual, int stride,"
    " bool relu) -> Tensor"
)
_library.define(
    "pooled_stem(Tensor images, Tensor weight, Tensor? bias, Tensor? masks, Tensor? image_index)"
    " -> Tensor"
)
Maybe = Tensor | None


def _convolution_relu(
    x: Tensor, weight: Tensor, bias: Maybe, residual: Maybe, *geometry: Any
) -> Tensor:
    """relu(convolution + bias + residual) in plain torch."""
    out = F.conv2d(x, weight, bias, *geometry)
    return (out if residual is None else out.add_(residual)).relu_()


def _cudnn_convolution_relu(
    x: Tensor, weight: Tensor, bias: Maybe, residual: Maybe, *geometry: Any
) -> Tensor:
    if residual is None:
        return torch.cudnn_convolution_relu(x, weight, bias, *geometry)
    return torch.cudnn_convolution_add_relu(x, weight, residual, 1.0, bias, *geometry)


def _fake_convolution_relu(
    x: Tensor, weight: Tensor, bias: Maybe, residual: Maybe, *geometry: Any
) -> Tensor:
    """The plain convolution's result, shape and strides."""
    return torch.empty_like(F.conv2d(x, weight, bias, *geometry))


def _pointwise(
    x: Tensor, weight: Tensor, bias: Maybe, residual: Maybe, stride: int, relu: bool
) -> Tensor:
    out = pointwise_reference(x, weight, bias, residual, stride=stride, relu=relu)
    return out.contiguous(memory_format=torch.channels_last)


def _cuda_pointwise(
    x: Tensor, weight: Tensor, bias: Maybe, residual: Maybe, stride: int, relu: bool
) -> Tensor:
    target, layer = target_of(x.device), layer_of(x, weight, bias, residual, stride, relu)
    triton = kernels_problem(x.dtype, x.device) is None
    gpu = (target.architecture, target.processors)
    provider = provider_for(layer, dtype_name(x.dtype), *gpu, triton=triton)
    return PROVIDERS[provider](x, weight, bias, residual, stride, relu)


def layer_of(
    x: Tensor, weight: Tensor, bias: Maybe, residual: Maybe, stride: int, relu: bool
) -> Layer:
    """The layer as the table of plans has it."""
    height, width = (-(-side // stride) for side in x.shape[2:])
    rows, ending = x.shape[0] * height * width, (bias is not None, relu, residual is not None)
    return Layer(rows, weight.shape[1], weight.shape[0], stride, *ending)


def _cublaslt(
    x: Tensor, weight: Tensor, bias: Maybe, residual: None, stride: int, relu: bool
) -> Tensor:
    """One GEMM over the channels of all positions; x is channels last, so nothing is copied."""
    rows, columns = x.permute(0, 2, 3, 1).flatten(0, 2), weight.flatten(1).t()  # (B H W, C)
    if bias is None:
        out = torch.mm(rows, columns)
    else:
        out = (torch._addmm_activation if relu else torch.addmm)(bias, rows, columns)
    return out.unflatten(0, (x.shape[0], *x.shape[2:])).permute(0, 3, 1, 2)


def _cudnn(
    x: Tensor, weight: Tensor, bias: Maybe, residual: Maybe, stride: int, relu: bool
) -> Tensor:
    if not relu:
        return F.conv2d(x, weight, None, stride)
    geometry = ((stride, stride), (0, 0), (1, 1), 1)
    return _cudnn_convolution_relu(x, weight, bias, residual, *geometry)


def _triton(
    x: Tensor, weight: Tensor, bias: Maybe, residual: Maybe, stride: int, relu: bool
) -> Tensor:
    """The kernel is imported when it is first used: triton may be missing."""
    from hmc_fast.kernels.pointwise import pointwise

    with torch.cuda.device_of(x):
        precision = product_precision(x.dtype)
        return pointwise(x, weight, bias, residual, stride=stride, relu=relu, precision=precision)


PROVIDERS: dict[str, Callable[..., Tensor]] = {
    "cublaslt": _cublaslt,
    "cudnn": _cudnn,
    "triton": _triton,
    "plain": _pointwise,
}


def _fake_pointwise(
    x: Tensor, weight: Tensor, bias: Maybe, residual: Maybe, stride: int, relu: bool
) -> Tensor:
    height, width = ((side + stride - 1) // stride for side in x.shape[2:])
    out = x.new_empty((x.shape[0], height, width, weight.shape[0]))
    return out.permute(0, 3, 1, 2)


def _pooled_stem(
    images: Tensor, weight: Tensor, bias: Maybe, masks: Maybe, image_index: Maybe
) -> Tensor:
    out = pooled_stem_reference(images, weight, bias, masks, image_index)
    return out.contiguous(memory_format=torch.channels_last)


def _cuda_pooled_stem(
    images: Tensor, weight: Tensor, bias: Maybe, masks: Maybe, image_index: Maybe
) -> Tensor:
    if dtype_name(weight.dtype) in HALF and kernels_problem(weight.dtype, weight.device) is None:
        from hmc_fast.kernels.masked_images import pooled_stem

        with torch.cuda.device_of(weight):
            return pooled_stem(images, weight, bias, masks, image_index)
    if masks is not None:
        return _pooled_stem(images, weight, bias, masks, image_index)
    geometry = ((STRIDE,) * 2, (PADDING,) * 2, (1, 1), 1)
    out = _cudnn_convolution_relu(images.to(weight.dtype), weight, bias, None, *geometry)
    return F.max_pool2d(out, POOL_KERNEL, POOL_STRIDE, POOL_PADDING)


def _fake_pooled_stem(
    images: Tensor, weight: Tensor, bias: Maybe, masks: Maybe, image_index: Maybe
) -> Tensor:
    samples = check_stem(images, weight, bias, masks, image_index)
    _, size = stem_sizes(images)
    return weight.new_empty((samples, *size, weight.shape[0])).permute(0, 3, 1, 2)


def _register(name: str, cpu: Any, cuda: Any, fake: Any) -> None:
    _library.impl(name, cpu, "CPU")
    _library.impl(name, cuda, "CUDA")
    torch.library.register_fake(f"hmc_fast::{name}", fake, lib=_library)


_register("convolution_relu", _convolution_relu, _cudnn_convolution_relu, _fake_convolution_relu)
_register("pointwise_convolution", _pointwise, _cuda_pointwise, _fake_pointwise)
_register("pooled_stem", _pooled_stem, _cuda_pooled_stem, _fake_pooled_stem)


@functools.cache
def kernels_problem(dtype: torch.dtype, device: torch.device) -> str | None:
    """Why the Triton kernels of this file cannot be used for `dtype` on `device`, or None: they are
    tried once, when a network is built."""
    problem = device_problem(device)
    if problem or dtype == torch.float64:
        return problem or "the kernels do not take float64"
    try:
        right = kernels_are_right(dtype, device)
    except Exception as error:  # of many kinds, from four compilers
        return f"the kernels cannot be started: {type(error).__name__}: {error}"
    return None if right else "the kernels give another result"


def kernels_are_right(dtype: torch.dtype, device: torch.device) -> bool:
    """Whether both are as near to float64 as plain torch in `dtype`, on small problems."""
    from hmc_fast.kernels.masked_images import pooled_stem
    from hmc_fast.kernels.pointwise import pointwise

    generator = torch.Generator().manual_seed(0)

    def make(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator).to(device, dtype)

    image, taps, bias = make(1, 1, 9, 6), make(16, 1, 7, 7), make(16)
    x, weight, residual = make(2, 16, 5, 6), make(16, 16, 1, 1), make(2, 16, 3, 3)
    stem = (image, taps, bias, torch.rand((2, 3, 3), generator=generator).to(device))
    pairs: list[tuple[Callable[..., Tensor], Callable[..., Tensor], tuple[Tensor, ...]]] = [
        (pooled_stem, pooled_stem_reference, stem),
        (
            functools.partial(pointwise, stride=2, relu=True),
            functools.partial(pointwise_reference, stride=2, relu=True),
            (x, weight, bias, residual),
        ),
    ]
    for kernel, reference, arguments in pairs:
        truth = reference(*(tensor.double() for tensor in arguments))
        allowed = 2 * (reference(*arguments).double() - truth).norm()
        error = (kernel(*arguments).double() - truth).norm()
        if not error <= allowed + torch.finfo(dtype).eps * truth.norm():
            return False
    return True
