"""A 1x1 convolution of any stride over a channels-last map: one product, and all that follows it.

    out[r, :] = relu(W x[gather(r), :] + b + residual[r, :])      b, residual and ReLU optional

A row r is an output position (sample, i, j); its input lies at (sample, stride i, stride j). So a
stride, or a map that is a slice of a wider one, costs a division for each row and no copy. Products
sum in float32, and the result is rounded once.

    pointwise_convolution    a program owns BLOCK_M rows and BLOCK_N output channels and streams the
                             input channels; neighbours share rows, as these are more than weights

Sizes: any number of rows and channels. There is no split of the input channels over programs: sums
have one order, and the layers of few rows have 512 input channels or more, eight turns of the loop.
Plain twin: convolution_reference.py.
"""

from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from hmc_fast.kernels.configurations import WARPGROUP, Target, power_of_two, target_of
from hmc_fast.kernels.tiles import Launch


class PointwiseTile(NamedTuple):
    """Rows, output channels and input channels of a step, and how the kernel is compiled."""

    block_m: int
    block_n: int
    block_k: int
    num_warps: int
    num_stages: int


@triton.jit
def input_offsets(
    row,  # [BLOCK_M] int64
    height, width, batch_stride, row_stride, column_stride, STRIDE: tl.constexpr,
    DENSE: tl.constexpr,
):  # fmt: skip
    """[BLOCK_M] int64: where the inputs of output positions lie. DENSE: every row is a position of
    the input, `column_stride` elements after the one before."""
    if DENSE:
        return row * column_stride
    column, line = row % width, row // width
    sample, line = line // height, line % height
    offsets = line * STRIDE * row_stride + column * STRIDE * column_stride
    return sample * batch_stride + offsets


@triton.jit
def pointwise_convolution(
    x_ptr, weight_ptr, bias_ptr, residual_ptr, out_ptr,
    rows, height, width,  # of the result: rows = samples * height * width
    channels_in, channels_out,
    batch_stride, row_stride, column_stride,  # of x
    STRIDE: tl.constexpr, DENSE: tl.constexpr, BIAS: tl.constexpr, RESIDUAL: tl.constexpr,
    RELU: tl.constexpr, MASK_IN: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """One block of rows and output channels; MASK_IN: BLOCK_K does not divide channels_in."""
    column_blocks = tl.cdiv(channels_out, BLOCK_N)
    program = tl.program_id(0).to(tl.int64)
    row = program // column_blocks * BLOCK_M + tl.arange(0, BLOCK_M)
    channel = (program % column_blocks * BLOCK_N).to(tl.int32) + tl.arange(0, BLOCK_N)
    depth = tl.arange(0, BLOCK_K)
    row_valid, channel_valid = row < rows, channel < channels_out
    positions = input_offsets(
        row, height, width, batch_stride, row_stride, column_stride, STRIDE, DENSE
    )
    x_pointers = x_ptr + positions[:, None] + depth[None, :]
    weight_pointers = weight_ptr + channel[:, None] * channels_in + depth[None, :]
    sums = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
    for first in tl.range(0, channels_in, BLOCK_K):
        x_mask, weight_mask = row_valid[:, None], channel_valid[:, None]
        if MASK_IN:
            inside = (first + depth < channels_in)[None, :]
            x_mask, weight_mask = x_mask & inside, weight_mask & inside
        x_tile = tl.load(x_pointers + first, mask=x_mask, other=0.0)  # [BLOCK_M, BLOCK_K]
        weight = tl.load(weight_pointers + first, mask=weight_mask, other=0.0)  # [BLOCK_N, BLOCK_K]
        sums = tl.dot(x_tile, tl.trans(weight), sums, input_precision=PRECISION)
    if BIAS:
        sums += tl.load(bias_ptr + channel, mask=channel_valid, other=0.0).to(tl.float32)[None, :]
    places = row[:, None] * channels_out + channel[None, :]
    mask = row_valid[:, None] & channel_valid[None, :]
    if RESIDUAL:
        sums += tl.load(residual_ptr + places, mask=mask, other=0.0).to(tl.float32)
    if RELU:
        sums = tl.maximum(sums, 0.0, propagate_nan=tl.PropagateNan.ALL)
    tl.store(out_ptr + places, sums.to(out_ptr.dtype.element_ty), mask=mask)


def pointwise_tile(
    rows: int, channels_in: int, channels_out: int, dtype: torch.dtype, target: Target
) -> PointwiseTile:
    """The largest tile whose programs occupy every multiprocessor, else the smallest."""
    candidates = _candidates(dtype, target)
    for tile in candidates:
        block_n = min(tile.block_n, power_of_two(channels_out))
        programs = -(-rows // tile.block_m) * -(-channels_out // block_n)
        if programs >= target.processors or tile is candidates[-1]:
            break
    return tile._replace(block_n=block_n, block_k=min(tile.block_k, power_of_two(channels_in)))


def _candidates(dtype: torch.dtype, target: Target) -> list[PointwiseTile]:
    if dtype.itemsize == 4:  # without tensor cores: a thread holds whole rows of its operands
        return [PointwiseTile(64, 64, 16, 8, 2), PointwiseTile(32, 32, 16, 4, 2)]
    small = [PointwiseTile(64, 64, 64, 4, 3), PointwiseTile(32, 32, 128, 4, 3)]
    if target.architecture in WARPGROUP:
        return [PointwiseTile(128, 128, 64, 8, 3), *small]
    return [PointwiseTile(128, 128, 32, 8, 3), *small]


def pointwise(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    residual: Tensor | None = None,
    *,
    stride: int = 1,
    relu: bool = False,
    precision: str = "ieee",
) -> Tensor:
    """relu(W x + b + residual) of a 1x1 convolution; the result is channels last.

    x: (B, C, H, W), float16, bfloat16 or float32, read in place where its channels are neighbours;
    weight: (C', C, 1, 1); bias: (C',) or None; residual: like the result, or None. stride: of rows
    and columns. precision: of float32 products, "ieee", "tf32" or "tf32x3".
    Returns (B, C', H', W'), H' = ceil(H / stride), in x's dtype.

    Raises ValueError: a weight, bias or residual of another shape.
    """
    launch, out = pointwise_launch(
        x, weight, bias, residual, stride=stride, relu=relu, precision=precision
    )
    launch.run()
    return out


def pointwise_launch(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    residual: Tensor | None = None,
    *,
    stride: int = 1,
    relu: bool = False,
    precision: str = "ieee",
    target: Target | None = None,
    tile: PointwiseTile | None = None,
) -> tuple[Launch, Tensor]:
    """The launch of `pointwise` on `target`, not started, and the tensor that it fills."""
    x = x if x.stride(1) == 1 else x.contiguous(memory_format=torch.channels_last)
    batch, channels_in, *size = x.shape
    channels_out = weight.shape[0]
    height, width = (-(-side // stride) for side in size)
    out = torch.empty((batch, height, width, channels_out), dtype=x.dtype, device=x.device)
    expected = {
        "weight": (weight, (channels_out, channels_in, 1, 1)), "bias": (bias, (channels_out,)),
        "residual": (residual, (batch, channels_out, height, width)),
    }  # fmt: skip
    for name, (tensor, shape) in expected.items():
        if tensor is not None and tuple(tensor.shape) != shape:
            raise ValueError(f"{name} must be {shape}, got {tuple(tensor.shape)}")
    rows = batch * height * width
    target = target or target_of(x.device)
    tile = tile or pointwise_tile(rows, channels_in, channels_out, x.dtype, target)
    arguments: dict[str, Any] = {
        "x_ptr": x, "weight_ptr": weight.reshape(channels_out, channels_in).contiguous(),
        "bias_ptr": out if bias is None else bias,
        "residual_ptr": out if residual is None else _rows_of(residual), "out_ptr": out,
        "rows": rows, "height": height, "width": width,
        "channels_in": channels_in, "channels_out": channels_out,
        "batch_stride": x.stride(0), "row_stride": x.stride(2), "column_stride": x.stride(3),
        "STRIDE": stride, "DENSE": stride == 1 and _is_dense(x),
        "BIAS": bias is not None, "RESIDUAL": residual is not None, "RELU": relu,
        "MASK_IN": channels_in % tile.block_k != 0,
        "BLOCK_M": tile.block_m, "BLOCK_N": tile.block_n, "BLOCK_K": tile.block_k,
        "PRECISION": precision,
    }  # fmt: skip
    programs = -(-rows // tile.block_m) * -(-channels_out // tile.block_n)
    launch = Launch(pointwise_convolution, programs, arguments, tile.num_warps, tile.num_stages)
    return launch, out.permute(0, 3, 1, 2)


def _is_dense(x: Tensor) -> bool:
    """Whether all positions of a map lie equally far apart."""
    batch, _, height, width = x.shape
    rows_apart = height == 1 or x.stride(2) == width * x.stride(3)
    return rows_apart and (batch == 1 or x.stride(0) == height * width * x.stride(3))


def _rows_of(feature_map: Tensor) -> Tensor:
    """(B, C, H, W) -> (B, H, W, C), dense."""
    return feature_map.permute(0, 2, 3, 1).contiguous()
