"""The grey stem in one kernel, with or without a mask over the image: neither the masked image nor
the convolution's map exists.

    out = max-pool_3x3/2( relu( W *_7x7/2 (I x upsampled(mask)) + b ) )      Fatima et al., Eq. 29

Score-CAM computes it for one image under each of a layer's thousands of masks. A mask is a small
map, upsampled bilinearly (align_corners=False) at every tap that is read.

Layout: an implicit product, patches [positions, taps] times weights [taps, channels], on tensor
cores: as multiply-adds on FFMA the arithmetic would take longer than the memory traffic that is
saved. The 7x7 taps are padded to 64, 8 lines of 8: a product has whole steps, and line and column
of a tap are a shift and a mask. A load's lanes are neighbouring positions, 4 pixels apart; lanes
along the taps would reach into eight lines of the image. Products are taken one shift at a time in
a loop that is not unrolled: unrolled, it spills (94 to 145 loads a turn, compiled, sm_80 to 120).

Recomputation: pools overlap. A program walks down the convolution's lines and carries every second
line's maximum to the next pool, so only the first line of its strip is computed twice; of every
line it takes the columns 2j - 1, 2j and 2j + 1 as products of their own, 3 instead of 2, as a shift
between lanes would go through shared memory. A strip of S pooled lines computes 1.5 (1 + 1 / 2S)
times the convolution: 1.6 in strips of 8; 2.25 in strips of 1, which fill the GPU at batch 1.

Bias and ReLU come after the pool: both are monotone, so the result is the same to the bit.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from hmc_fast.kernels.configurations import Target, power_of_two, target_of
from hmc_fast.kernels.convolution_reference import (
    KERNEL,
    PADDING,
    STRIDE,
    check_stem,
    stem_sizes,
)
from hmc_fast.kernels.tiles import Launch

STRIPS = (8, 4, 2, 1)  # pooled lines of a program
MOST_POSITIONS = 64  # pooled columns of a program
PADDED_TAPS = tl.constexpr(64)  # 7 lines of 8, and a line of zeros
SIDE = tl.constexpr(KERNEL)
STEP, BEFORE = tl.constexpr(STRIDE), tl.constexpr(PADDING)


@triton.jit
def upsampled(mask_base, line, column, mask_height, mask_width, line_scale, column_scale):
    """The mask at pixels (line, column), as torch interpolates; a scale is mask over image size."""
    y = tl.maximum((line.to(tl.float32) + 0.5) * line_scale - 0.5, 0.0)
    x = tl.maximum((column.to(tl.float32) + 0.5) * column_scale - 0.5, 0.0)
    top = tl.minimum(y.to(tl.int32), mask_height - 1)
    left = tl.minimum(x.to(tl.int32), mask_width - 1)
    right = tl.minimum(left + 1, mask_width - 1)
    down, along = y - top, x - left
    upper, lower = top * mask_width, tl.minimum(top + 1, mask_height - 1) * mask_width
    above = tl.load(mask_base + upper + left) * (1 - along)
    above += tl.load(mask_base + upper + right) * along
    below = tl.load(mask_base + lower + left) * (1 - along)
    below += tl.load(mask_base + lower + right) * along
    return above * (1 - down) + below * down


@triton.jit
def weight_taps(
    weight_ptr, channel, channels, first_tap, BLOCK_N: tl.constexpr, TAPS: tl.constexpr
):
    """[TAPS, BLOCK_N], zeros at taps that only pad."""
    tap = first_tap + tl.arange(0, TAPS)
    line, column = tap // 8, tap % 8
    exists = (line < SIDE) & (column < SIDE)
    pointers = weight_ptr + channel[None, :] * (SIDE * SIDE) + (line * SIDE + column)[:, None]
    return tl.load(pointers, mask=exists[:, None] & (channel < channels)[None, :], other=0.0)


@triton.jit
def patches(
    image_base, mask_base,  # of one sample
    line, columns,  # of the convolution: a number, [BLOCK_M]
    height, width, row_stride, column_stride,
    mask_height, mask_width, line_scale, column_scale, first_tap,
    MASKED: tl.constexpr, TAPS: tl.constexpr,
):  # fmt: skip
    """[BLOCK_M, TAPS]: what the taps see at positions of one line, zero outside the image."""
    tap = first_tap + tl.arange(0, TAPS)
    y = (tap // 8 + line * STEP - BEFORE)[None, :]
    x = columns[:, None] * STEP - BEFORE + (tap % 8)[None, :]
    inside = (y >= 0) & (y < height) & (x >= 0) & (x < width)
    inside &= ((tap // 8 < SIDE) & (tap % 8 < SIDE))[None, :]
    seen = tl.load(image_base + y * row_stride + x * column_stride, mask=inside, other=0.0)
    if MASKED:
        factors = upsampled(mask_base, y, x, mask_height, mask_width, line_scale, column_scale)
        seen = tl.where(inside, seen.to(tl.float32) * factors, 0.0)
    return seen


@triton.jit
def largest_of_line(
    weight_tile,  # [TAPS, BLOCK_N], all taps; not used where TAPS < PADDED_TAPS
    weight_ptr, channel, channels, image_base, mask_base, line, first_column,
    height, width, conv_height, conv_width, row_stride, column_stride,
    mask_height, mask_width, line_scale, column_scale,
    MASKED: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, TAPS: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """[BLOCK_M, BLOCK_N]: the convolution's largest value in one line at the columns of each pooled
    position, without bias; -inf where the line does not exist."""
    dtype: tl.constexpr = weight_ptr.dtype.element_ty
    best = tl.full([BLOCK_M, BLOCK_N], float("-inf"), tl.float32)
    for shift in tl.range(0, 3):
        columns = (first_column + tl.arange(0, BLOCK_M)) * 2 - 1 + shift
        sums = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
        for tap in tl.range(0, PADDED_TAPS, TAPS):
            if TAPS < PADDED_TAPS:
                weight_tile = weight_taps(weight_ptr, channel, channels, tap, BLOCK_N, TAPS)
            seen = patches(
                image_base, mask_base, line, columns, height, width, row_stride, column_stride,
                mask_height, mask_width, line_scale, column_scale, tap, MASKED, TAPS,
            )  # fmt: skip
            sums = tl.dot(seen.to(dtype), weight_tile, sums, input_precision=PRECISION)
        exists = (columns >= 0) & (columns < conv_width) & (line >= 0) & (line < conv_height)
        sums = tl.where(exists[:, None], sums, float("-inf"))
        best = tl.maximum(best, sums, propagate_nan=tl.PropagateNan.ALL)
    return best


@triton.jit
def pooled_stem_kernel(
    image_ptr, weight_ptr, bias_ptr, mask_ptr, index_ptr, out_ptr,
    height, width, conv_height, conv_width, pooled_height, pooled_width, channels,
    image_stride, row_stride, column_stride,  # of the images
    mask_height, mask_width, line_scale, column_scale,
    MASKED: tl.constexpr, INDEXED: tl.constexpr, BIAS: tl.constexpr, STRIP: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, TAPS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """A program: BLOCK_M pooled columns of STRIP pooled lines of one sample, BLOCK_N channels."""
    program = tl.program_id(0).to(tl.int64)
    column_blocks, strips = tl.cdiv(pooled_width, BLOCK_M), tl.cdiv(pooled_height, STRIP)
    channel_blocks = tl.cdiv(channels, BLOCK_N)
    block, program = (program % channel_blocks).to(tl.int32), program // channel_blocks
    first_column = (program % column_blocks).to(tl.int32) * BLOCK_M
    program = program // column_blocks
    first_line = (program % strips).to(tl.int32) * STRIP
    sample = program // strips
    channel = block * BLOCK_N + tl.arange(0, BLOCK_N)
    column = first_column + tl.arange(0, BLOCK_M)
    image = tl.load(index_ptr + sample).to(tl.int64) if INDEXED else sample
    image_base = image_ptr + image * image_stride
    mask_base = mask_ptr + sample * mask_height * mask_width
    out_base = out_ptr + sample * pooled_height * pooled_width * channels
    weight_tile = weight_taps(weight_ptr, channel, channels, 0, BLOCK_N, TAPS)
    bias = tl.zeros([BLOCK_N], tl.float32)
    if BIAS:
        bias += tl.load(bias_ptr + channel, mask=channel < channels, other=0.0).to(tl.float32)
    end = tl.minimum(first_line + STRIP, pooled_height)
    best = tl.full([BLOCK_M, BLOCK_N], float("-inf"), tl.float32)
    for line in tl.range(first_line * 2 - 1, end * 2):  # of the convolution
        largest = largest_of_line(
            weight_tile, weight_ptr, channel, channels, image_base, mask_base, line, first_column,
            height, width, conv_height, conv_width, row_stride, column_stride,
            mask_height, mask_width, line_scale, column_scale,
            MASKED, BLOCK_M, BLOCK_N, TAPS, PRECISION,
        )  # fmt: skip
        best = tl.maximum(best, largest, propagate_nan=tl.PropagateNan.ALL)
        if line % 2 != 0:  # the last of one pooled line and the first of the next
            if line > first_line * 2:
                result = tl.maximum(
                    best + bias[None, :], 0.0, propagate_nan=tl.PropagateNan.ALL
                ).to(out_ptr.dtype.element_ty)
                position = line // 2 * pooled_width + column
                places = out_base + position[:, None] * channels + channel[None, :]
                inside = (column < pooled_width)[:, None] & (channel < channels)[None, :]
                tl.store(places, result, mask=inside)
            best = largest


def pooled_stem(
    images: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    masks: Tensor | None = None,
    image_index: Tensor | None = None,
    *,
    precision: str = "ieee",
) -> Tensor:
    """The stem of a grey image, of each image under a mask, or of each mask over an image.

    images: (B, 1, H, W), a float dtype; weight: (C, 1, 7, 7), float16, bfloat16 or float32, the
    result's dtype; bias: (C,) or None. masks: (M, h, w) float32, or None; image_index: (M,) int64
    on the same device, 0 to B - 1 (not checked: that would wait for the GPU), the image of each
    mask; None where M = B, or B = 1. precision: of float32 products.
    Returns (M, C, H', W'), B for M without masks, channels last; H' as torch's: H / 4 rounded up.

    Raises ValueError: shapes that do not fit each other.
    """
    launch, out = pooled_stem_launch(images, weight, bias, masks, image_index, precision=precision)
    launch.run()
    return out


def pooled_stem_launch(
    images: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    masks: Tensor | None = None,
    image_index: Tensor | None = None,
    *,
    precision: str = "ieee",
    target: Target | None = None,
    strip: int | None = None,
) -> tuple[Launch, Tensor]:
    """The launch of `pooled_stem` on `target`, not started, and the tensor that it fills."""
    samples = check_stem(images, weight, bias, masks, image_index)
    target, channels, half = target or target_of(images.device), len(weight), weight.itemsize == 2
    conv_size, (height, width) = stem_sizes(images)
    out = torch.empty((samples, height, width, channels), dtype=weight.dtype, device=images.device)
    block_m = min(power_of_two(width), MOST_POSITIONS if half else 32)
    block_n = min(power_of_two(channels), 64 if half else 32)
    blocks = samples * -(-width // block_m) * -(-channels // block_n)
    strip = strip or strip_of(blocks, height, target)
    mask_size = (1, 1) if masks is None else masks.shape[1:]
    arguments: dict[str, Any] = {
        "image_ptr": images, "weight_ptr": weight.contiguous(),
        "bias_ptr": out if bias is None else bias,
        "mask_ptr": out if masks is None else masks.float().contiguous(),
        "index_ptr": out if image_index is None else image_index, "out_ptr": out,
        "height": images.shape[2], "width": images.shape[3],
        "conv_height": conv_size[0], "conv_width": conv_size[1],
        "pooled_height": height, "pooled_width": width, "channels": channels,
        "image_stride": 0 if len(images) == 1 else images.stride(0),
        "row_stride": images.stride(2), "column_stride": images.stride(3),
        "mask_height": mask_size[0], "mask_width": mask_size[1],
        "line_scale": mask_size[0] / images.shape[2],
        "column_scale": mask_size[1] / images.shape[3],
        "MASKED": masks is not None, "INDEXED": image_index is not None,
        "BIAS": bias is not None, "STRIP": strip, "BLOCK_M": block_m, "BLOCK_N": block_n,
        "TAPS": PADDED_TAPS.value if half else 16, "PRECISION": precision,
    }  # fmt: skip
    programs = blocks * -(-height // strip)
    warps = 8 if half else 4
    return Launch(pooled_stem_kernel, programs, arguments, warps, 1), out.permute(0, 3, 1, 2)


def strip_of(blocks: int, height: int, target: Target) -> int:
    """The longest strip of pooled lines whose programs occupy every multiprocessor twice."""
    enough = (s for s in STRIPS if blocks * -(-height // s) >= 2 * target.processors)
    return next(enough, STRIPS[-1])
