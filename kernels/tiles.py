"""Steps on tiles that the attention kernels share, and how a kernel is launched.

A tile is a block of rows and columns in registers. Sizes in capitals are compile-time constants and
powers of two; a mask hides what lies outside the tensor. Row offsets are int64: a batch of maps
passes 2³¹ elements.
"""

from typing import Any, NamedTuple

import triton
import triton.language as tl
from torch import Tensor

FARTHEST_ROWS = 1 << 23
LOG2_E = tl.constexpr(1.4426950408889634)
LN_2 = tl.constexpr(0.6931471805599453)


class Launch(NamedTuple):
    """One kernel with everything it takes: it can be run, or compiled for another GPU.

    arguments: by name, tensors, numbers and constants alike.
    """

    kernel: Any
    programs: int
    arguments: dict[str, Any]
    num_warps: int
    num_stages: int

    def run(self) -> None:
        """Start it; nothing to do where there are no programs."""
        if self.programs:
            self.kernel[(self.programs,)](
                **self.arguments, num_warps=self.num_warps, num_stages=self.num_stages
            )


def rows_apart(tensor: Tensor) -> Tensor:
    """`tensor` (B, N, D), copied only where the elements of a row are not neighbours or rows lie so
    far apart that offsets inside a tile would pass 2³¹."""
    near = tensor.stride(2) == 1 or tensor.shape[2] == 1
    return tensor if near and tensor.stride(1) < FARTHEST_ROWS else tensor.contiguous()


def batch_and_row_strides(**tensors: Tensor) -> dict[str, int]:
    """The arguments `q_batch_stride`, `q_stride`, … of tensors (B, N, D), in elements."""
    strides = {}
    for name, tensor in tensors.items():
        strides[f"{name}_batch_stride"], strides[f"{name}_stride"] = tensor.stride()[:2]
    return strides


def scale_arguments(scale: float) -> dict[str, Any]:
    """scale by its size, for exponentials to base 2, and its sign. Never 0, which would turn the
    -inf of a mask into NaN."""
    return {"scale_log2": max(abs(scale) * LOG2_E.value, 1e-37), "NEGATIVE_SCALE": scale < 0}


@triton.jit
def load_tile(
    base,  # of one sample
    first_row,
    rows,
    row_stride,
    first_column,
    COLUMNS: tl.constexpr,  # of the tensor
    ROWS_IN_TILE: tl.constexpr,
    COLUMNS_IN_TILE: tl.constexpr,
    MASK_ROWS: tl.constexpr,
):
    """[ROWS_IN_TILE, COLUMNS_IN_TILE] from (rows, COLUMNS), zero outside. COLUMNS that the tile
    divides need no mask."""
    row = tl.arange(0, ROWS_IN_TILE)
    column = tl.arange(0, COLUMNS_IN_TILE)
    start = base + tl.cast(first_row, tl.int64) * row_stride + first_column
    pointers = start + row[:, None] * row_stride + column[None, :]
    if COLUMNS % COLUMNS_IN_TILE == 0:
        if MASK_ROWS:
            return tl.load(pointers, mask=(first_row + row < rows)[:, None], other=0.0)
        return tl.load(pointers)
    inside = (first_column + column < COLUMNS)[None, :]
    if MASK_ROWS:
        inside = inside & (first_row + row < rows)[:, None]
    return tl.load(pointers, mask=inside, other=0.0)


@triton.jit
def store_tile(
    base,
    tile,
    first_row,
    rows,
    row_stride,
    first_column,
    COLUMNS: tl.constexpr,
    ROWS_IN_TILE: tl.constexpr,
    COLUMNS_IN_TILE: tl.constexpr,
):
    """Write a tile into (rows, COLUMNS) in the tensor's dtype; what lies outside stays as it is."""
    row = tl.arange(0, ROWS_IN_TILE)
    column = tl.arange(0, COLUMNS_IN_TILE)
    start = base + tl.cast(first_row, tl.int64) * row_stride + first_column
    pointers = start + row[:, None] * row_stride + column[None, :]
    inside = (first_row + row < rows)[:, None] & (first_column + column < COLUMNS)[None, :]
    tl.store(pointers, tile.to(base.dtype.element_ty), mask=inside)


@triton.jit
def row_products(
    a_tile,  # [ROWS_A, CHUNK], all of a's columns; not used where CHUNK < COLUMNS
    a_base, first_a, rows_a, a_stride,
    b_base, first_b, rows_b, b_stride,
    COLUMNS: tl.constexpr, ROWS_A: tl.constexpr, ROWS_B: tl.constexpr, CHUNK: tl.constexpr,
    MASK_B: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """[ROWS_A, ROWS_B] of a bᵀ: at once, or CHUNK columns of both at a time."""
    if CHUNK >= COLUMNS:
        b_tile = load_tile(b_base, first_b, rows_b, b_stride, 0, COLUMNS, ROWS_B, CHUNK, MASK_B)
        return tl.dot(a_tile, tl.trans(b_tile), input_precision=PRECISION)
    total = tl.zeros([ROWS_A, ROWS_B], tl.float32)
    for column in tl.range(0, COLUMNS, CHUNK):
        a_part = load_tile(a_base, first_a, rows_a, a_stride, column, COLUMNS, ROWS_A, CHUNK, True)
        b_part = load_tile(
            b_base, first_b, rows_b, b_stride, column, COLUMNS, ROWS_B, CHUNK, MASK_B
        )
        total = tl.dot(a_part, tl.trans(b_part), total, input_precision=PRECISION)
    return total


@triton.jit
def scores_of(
    q_tile,  # [BLOCK_M, BLOCK_DK], all of q's columns; not used where BLOCK_DK < D_QK
    q_base, first_row, tokens_q, q_stride,
    k_base, first_key, end_key, k_stride,
    D_QK: tl.constexpr, BLOCK_DK: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
    MASK_KEYS: tl.constexpr, NEGATIVE_SCALE: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """[BLOCK_M, BLOCK_N] of q kᵀ, -inf at keys that do not exist; the sign of the scale is taken
    in here, so that a row's largest score is also its largest scaled score.

    float32 without tensor cores sums over BLOCK_DK columns at a time: a thread holds whole rows of
    its operands, and more columns do not fit its registers.
    """
    scores = row_products(
        q_tile, q_base, first_row, tokens_q, q_stride, k_base, first_key, end_key, k_stride,
        D_QK, BLOCK_M, BLOCK_N, BLOCK_DK, MASK_KEYS, PRECISION,
    )  # fmt: skip
    if NEGATIVE_SCALE:
        scores = -scores
    if MASK_KEYS:
        exists = first_key + tl.arange(0, BLOCK_N) < end_key
        scores = tl.where(exists[None, :], scores, float("-inf"))
    return scores


@triton.jit
def online_softmax(
    scores,  # [BLOCK_M, BLOCK_N], not scaled
    row_max,  # [BLOCK_M], scaled, of the keys before
    row_sum,  # [BLOCK_M]
    scale_log2,
    dtype: tl.constexpr,
):
    """The weights 2^(scale_log2 * scores - new maximum) in `dtype`, the factor for the sums so
    far, and the new maximum and sum of each row.

    A row whose scores are all -inf keeps the sum 0 instead of NaN: later keys may be finite.
    """
    new_max = tl.maximum(row_max, tl.max(scores, 1) * scale_log2)
    subtracted = tl.where(new_max == float("-inf"), 0.0, new_max)
    rescale = tl.math.exp2(row_max - subtracted)
    weights = tl.math.exp2(scores * scale_log2 - subtracted[:, None])
    row_sum = row_sum * rescale + tl.sum(weights, 1)
    return weights.to(dtype), rescale, new_max, row_sum
