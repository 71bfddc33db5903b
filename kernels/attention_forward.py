"""Spatial attention forward, fused: the N x N scores never exist.

    A = softmax(scale * Q Kᵀ, over keys) V,   out = gamma * A + X     Fatima et al. 2026, Eq. 11-15

Queries and keys are narrow (Dk, 8 to 256), values wide (Dv = 8 Dk, up to 2048). Kernels:

    forward_stream     a program owns BLOCK_M rows and BLOCK_DV value columns and streams the keys,
                       softmax by running maximum and sum (Milakov and Gimelshein 2018; Dao 2022)
    combine_splits     small batches: the keys of forward_stream are split over programs, and joined
    forward_short      up to 256 keys: the whole row of probabilities once, then value columns

Kept for backward: A in the input's dtype and lse, the natural logarithm of the row's sum of
exponentials. gamma starts at 0, so A cannot be had back from out. After forward_short only lse.

`forward_launches` lists the launches; `attention_forward` runs them.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from hmc_fast.kernels.configurations import (
    WARPGROUP,
    Shape,
    Target,
    Tile,
    columns_at_once,
    is_short,
    keeps_attended,
    power_of_two,
    target_of,
    tile_for,
)
from hmc_fast.kernels.tiles import (
    LN_2,
    Launch,
    batch_and_row_strides,
    load_tile,
    online_softmax,
    rows_apart,
    scale_arguments,
    scores_of,
    store_tile,
)


@triton.jit
def attend_block(
    sums, row_max, row_sum,  # of the keys before
    q_tile, q_base, first_row, tokens_q, q_stride,
    k_base, k_stride, v_base, v_stride, key, end_key, first_column, scale_log2,
    D_QK: tl.constexpr, D_V: tl.constexpr, BLOCK_DK: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_DV: tl.constexpr,
    MASK_KEYS: tl.constexpr, NEGATIVE_SCALE: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """`attend` with one more block of keys, in the usual order."""
    scores = scores_of(
        q_tile, q_base, first_row, tokens_q, q_stride, k_base, key, end_key, k_stride,
        D_QK, BLOCK_DK, BLOCK_M, BLOCK_N, MASK_KEYS, NEGATIVE_SCALE, PRECISION,
    )  # fmt: skip
    weights, rescale, row_max, row_sum = online_softmax(
        scores, row_max, row_sum, scale_log2, v_base.dtype.element_ty
    )
    v_tile = load_tile(
        v_base, key, end_key, v_stride, first_column, D_V, BLOCK_N, BLOCK_DV, MASK_KEYS
    )
    sums = sums * rescale[:, None]
    return tl.dot(weights, v_tile, sums, input_precision=PRECISION), row_max, row_sum


@triton.jit
def attend(
    q_base, k_base, v_base,  # of one sample
    q_stride, k_stride, v_stride,
    first_row, tokens_q, first_key, end_key, first_column, scale_log2,
    D_QK: tl.constexpr, D_V: tl.constexpr, BLOCK_DK: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_DV: tl.constexpr,
    ROTATED: tl.constexpr, NEGATIVE_SCALE: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Stream keys first_key to end_key past BLOCK_M rows: sums [BLOCK_M, BLOCK_DV] of values, not
    yet divided by row_sum, and row_max, row_sum [BLOCK_M].

    The first block opens the running softmax and the last is masked, so that the loop between holds
    whole blocks only. ROTATED: the loop carries the weights of one block and issues the next
    scores before the product with the last values: on Hopper the tensor cores then work through
    that product while the exponentials of the next block are computed.
    """
    dtype: tl.constexpr = v_base.dtype.element_ty
    q_tile = load_tile(
        q_base, first_row, tokens_q, q_stride, 0, D_QK, BLOCK_M, BLOCK_DK, True
    )  # [BLOCK_M, BLOCK_DK]
    row_max = tl.full([BLOCK_M], float("-inf"), tl.float32)
    row_sum = tl.zeros([BLOCK_M], tl.float32)
    sums = tl.zeros([BLOCK_M, BLOCK_DV], tl.float32)
    whole_end = first_key + (end_key - first_key) // BLOCK_N * BLOCK_N
    if ROTATED:
        scores = scores_of(
            q_tile, q_base, first_row, tokens_q, q_stride, k_base, first_key, end_key, k_stride,
            D_QK, BLOCK_DK, BLOCK_M, BLOCK_N, True, NEGATIVE_SCALE, PRECISION,
        )  # fmt: skip
        weights, rescale, row_max, row_sum = online_softmax(
            scores, row_max, row_sum, scale_log2, dtype
        )
        for key in tl.range(first_key + BLOCK_N, whole_end, BLOCK_N):
            scores = scores_of(
                q_tile, q_base, first_row, tokens_q, q_stride, k_base, key, end_key, k_stride,
                D_QK, BLOCK_DK, BLOCK_M, BLOCK_N, False, NEGATIVE_SCALE, PRECISION,
            )  # fmt: skip
            v_tile = load_tile(
                v_base, key - BLOCK_N, end_key, v_stride, first_column, D_V, BLOCK_N, BLOCK_DV,
                False,
            )  # fmt: skip
            sums = tl.dot(weights, v_tile, sums, input_precision=PRECISION)
            weights, rescale, row_max, row_sum = online_softmax(
                scores, row_max, row_sum, scale_log2, dtype
            )
            sums = sums * rescale[:, None]
        last = tl.maximum(whole_end - BLOCK_N, first_key)  # whose weights are carried
        v_tile = load_tile(
            v_base, last, end_key, v_stride, first_column, D_V, BLOCK_N, BLOCK_DV, True
        )
        sums = tl.dot(weights, v_tile, sums, input_precision=PRECISION)
        rest = tl.maximum(whole_end, first_key + BLOCK_N)
    else:
        for key in tl.range(first_key, whole_end, BLOCK_N):
            sums, row_max, row_sum = attend_block(
                sums, row_max, row_sum, q_tile, q_base, first_row, tokens_q, q_stride,
                k_base, k_stride, v_base, v_stride, key, end_key, first_column, scale_log2,
                D_QK, D_V, BLOCK_DK, BLOCK_M, BLOCK_N, BLOCK_DV, False, NEGATIVE_SCALE, PRECISION,
            )  # fmt: skip
        rest = whole_end
    if rest < end_key:
        sums, row_max, row_sum = attend_block(
            sums, row_max, row_sum, q_tile, q_base, first_row, tokens_q, q_stride,
            k_base, k_stride, v_base, v_stride, rest, end_key, first_column, scale_log2,
            D_QK, D_V, BLOCK_DK, BLOCK_M, BLOCK_N, BLOCK_DV, True, NEGATIVE_SCALE, PRECISION,
        )  # fmt: skip
    return sums, row_max, row_sum


@triton.jit
def write_rows(
    sums, row_max, row_sum,  # from `attend`
    x_ptr, gamma_ptr, out_ptr, attended_ptr, lse_ptr,
    x_batch_stride, x_stride,
    sample, first_row, first_column, tokens_q,
    D_V: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_DV: tl.constexpr,
    RESIDUAL: tl.constexpr, KEEP_ATTENDED: tl.constexpr, KEEP_LSE: tl.constexpr,
):  # fmt: skip
    """gamma A + X (or A itself without RESIDUAL), and what backward needs. Only the first value
    program of a row stores lse."""
    attended = sums / row_sum[:, None]
    place = sample * tokens_q * D_V
    if KEEP_ATTENDED:
        store_tile(
            attended_ptr + place, attended, first_row, tokens_q, D_V, first_column, D_V,
            BLOCK_M, BLOCK_DV,
        )  # fmt: skip
    if KEEP_LSE and first_column == 0:
        row = first_row + tl.arange(0, BLOCK_M)
        lse = (row_max + tl.log2(row_sum)) * LN_2
        tl.store(lse_ptr + sample * tokens_q + row, lse, mask=row < tokens_q)
    if RESIDUAL:
        x_tile = load_tile(
            x_ptr + sample * x_batch_stride, first_row, tokens_q, x_stride, first_column, D_V,
            BLOCK_M, BLOCK_DV, True,
        )  # fmt: skip
        attended = attended * tl.load(gamma_ptr).to(tl.float32) + x_tile.to(tl.float32)
    store_tile(
        out_ptr + place, attended, first_row, tokens_q, D_V, first_column, D_V, BLOCK_M, BLOCK_DV
    )


@triton.jit(do_not_specialize=["batch"])  # as the constant 1 it would change the order of the loop
def forward_stream(
    q_ptr, k_ptr, v_ptr,  # (B, Nq, Dk), (B, Nk, Dk), (B, Nk, Dv)
    x_ptr, gamma_ptr, out_ptr, attended_ptr, lse_ptr,  # (B, Nq, Dv), (1), 2 x (B, Nq, Dv), (B, Nq)
    sums_ptr, statistics_ptr,  # where SPLITS > 1: (SPLITS, B, Nq, Dv), (SPLITS, 2, B, Nq), float32
    q_batch_stride, q_stride, k_batch_stride, k_stride, v_batch_stride, v_stride,
    x_batch_stride, x_stride,
    batch, tokens_q, tokens_k, keys_per_split, scale_log2,
    D_QK: tl.constexpr, D_V: tl.constexpr, BLOCK_DK: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_DV: tl.constexpr, TAIL_M: tl.constexpr,
    SPLITS: tl.constexpr, ROTATED: tl.constexpr, NEGATIVE_SCALE: tl.constexpr,
    RESIDUAL: tl.constexpr, KEEP_ATTENDED: tl.constexpr, KEEP_LSE: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """A program: BLOCK_M rows, BLOCK_DV value columns and one split of the keys of one sample.

    TAIL_M > 0: the rows after the last whole block have programs of their own with a tile of TAIL_M
    rows; they come last, and fill the gaps of the last wave.
    """
    value_blocks: tl.constexpr = (D_V + BLOCK_DV - 1) // BLOCK_DV
    shares: tl.constexpr = value_blocks * SPLITS  # programs that share a block of rows
    program = tl.program_id(0).to(tl.int64)
    row_blocks = tokens_q // BLOCK_M if TAIL_M > 0 else tl.cdiv(tokens_q, BLOCK_M)
    whole = batch * row_blocks * shares
    if TAIL_M == 0 or program < whole:
        sample = program // (row_blocks * shares)
        share = program % shares
        first_row = program // shares % row_blocks * BLOCK_M
        stream_keys(
            q_ptr, k_ptr, v_ptr, x_ptr, gamma_ptr, out_ptr, attended_ptr, lse_ptr,
            sums_ptr, statistics_ptr, q_batch_stride, q_stride, k_batch_stride, k_stride,
            v_batch_stride, v_stride, x_batch_stride, x_stride,
            batch, tokens_q, tokens_k, keys_per_split, scale_log2,
            sample, first_row, share // value_blocks, share % value_blocks * BLOCK_DV,
            D_QK, D_V, BLOCK_DK, BLOCK_M, BLOCK_N, BLOCK_DV, SPLITS, ROTATED, NEGATIVE_SCALE,
            RESIDUAL, KEEP_ATTENDED, KEEP_LSE, PRECISION,
        )  # fmt: skip
    else:
        sample = (program - whole) // shares
        share = (program - whole) % shares
        stream_keys(
            q_ptr, k_ptr, v_ptr, x_ptr, gamma_ptr, out_ptr, attended_ptr, lse_ptr,
            sums_ptr, statistics_ptr, q_batch_stride, q_stride, k_batch_stride, k_stride,
            v_batch_stride, v_stride, x_batch_stride, x_stride,
            batch, tokens_q, tokens_k, keys_per_split, scale_log2,
            sample, row_blocks.to(tl.int64) * BLOCK_M,
            share // value_blocks, share % value_blocks * BLOCK_DV,
            D_QK, D_V, BLOCK_DK, TAIL_M, BLOCK_N, BLOCK_DV, SPLITS, False, NEGATIVE_SCALE,
            RESIDUAL, KEEP_ATTENDED, KEEP_LSE, PRECISION,
        )  # fmt: skip


@triton.jit
def stream_keys(
    q_ptr, k_ptr, v_ptr, x_ptr, gamma_ptr, out_ptr, attended_ptr, lse_ptr,
    sums_ptr, statistics_ptr, q_batch_stride, q_stride, k_batch_stride, k_stride,
    v_batch_stride, v_stride, x_batch_stride, x_stride,
    batch, tokens_q, tokens_k, keys_per_split, scale_log2,
    sample, first_row, split, first_column,
    D_QK: tl.constexpr, D_V: tl.constexpr, BLOCK_DK: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_DV: tl.constexpr,
    SPLITS: tl.constexpr, ROTATED: tl.constexpr, NEGATIVE_SCALE: tl.constexpr,
    RESIDUAL: tl.constexpr, KEEP_ATTENDED: tl.constexpr, KEEP_LSE: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """The work of one program of `forward_stream`, for a tile of any number of rows."""
    first_key = split * keys_per_split
    end_key = tl.minimum(first_key + keys_per_split, tokens_k)
    sums, row_max, row_sum = attend(
        q_ptr + sample * q_batch_stride, k_ptr + sample * k_batch_stride,
        v_ptr + sample * v_batch_stride, q_stride, k_stride, v_stride,
        first_row, tokens_q, first_key, end_key, first_column, scale_log2,
        D_QK, D_V, BLOCK_DK, BLOCK_M, BLOCK_N, BLOCK_DV, ROTATED, NEGATIVE_SCALE, PRECISION,
    )  # fmt: skip
    if SPLITS == 1:
        write_rows(
            sums, row_max, row_sum, x_ptr, gamma_ptr, out_ptr, attended_ptr, lse_ptr,
            x_batch_stride, x_stride, sample, first_row, first_column, tokens_q,
            D_V, BLOCK_M, BLOCK_DV, RESIDUAL, KEEP_ATTENDED, KEEP_LSE,
        )  # fmt: skip
    else:
        part = split * batch + sample
        store_tile(
            sums_ptr + part * tokens_q * D_V, sums, first_row, tokens_q, D_V, first_column,
            D_V, BLOCK_M, BLOCK_DV,
        )  # fmt: skip
        if first_column == 0:
            row = first_row + tl.arange(0, BLOCK_M)
            place = statistics_ptr + (2 * split * batch + sample) * tokens_q + row
            tl.store(place, row_max, mask=row < tokens_q)
            tl.store(place + batch * tokens_q, row_sum, mask=row < tokens_q)


@triton.jit
def combine_splits(
    sums_ptr, statistics_ptr,  # (SPLITS, B, Nq, Dv), (SPLITS, 2, B, Nq), float32
    x_ptr, gamma_ptr, out_ptr, attended_ptr, lse_ptr,
    x_batch_stride, x_stride, batch, tokens_q,
    D_V: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_DV: tl.constexpr, SPLITS: tl.constexpr,
    RESIDUAL: tl.constexpr, KEEP_ATTENDED: tl.constexpr, KEEP_LSE: tl.constexpr,
):  # fmt: skip
    """A program joins BLOCK_M rows and BLOCK_DV columns of all splits, always in the same order."""
    value_blocks: tl.constexpr = (D_V + BLOCK_DV - 1) // BLOCK_DV
    program = tl.program_id(0).to(tl.int64)
    row_blocks = tl.cdiv(tokens_q, BLOCK_M)
    sample = program // (row_blocks * value_blocks)
    first_row = program // value_blocks % row_blocks * BLOCK_M
    first_column = program % value_blocks * BLOCK_DV
    row = first_row + tl.arange(0, BLOCK_M)
    joined = tl.zeros([BLOCK_M, BLOCK_DV], tl.float32)
    joined_max = tl.full([BLOCK_M], float("-inf"), tl.float32)
    joined_sum = tl.zeros([BLOCK_M], tl.float32)
    for split in tl.static_range(SPLITS):
        place = statistics_ptr + (2 * split * batch + sample) * tokens_q + row
        row_max = tl.load(place, mask=row < tokens_q, other=0.0)
        row_sum = tl.load(place + batch * tokens_q, mask=row < tokens_q, other=1.0)
        sums = load_tile(
            sums_ptr + (split * batch + sample) * tokens_q * D_V, first_row, tokens_q, D_V,
            first_column, D_V, BLOCK_M, BLOCK_DV, True,
        )  # fmt: skip
        new_max = tl.maximum(joined_max, row_max)
        subtracted = tl.where(new_max == float("-inf"), 0.0, new_max)
        before, here = tl.math.exp2(joined_max - subtracted), tl.math.exp2(row_max - subtracted)
        joined = joined * before[:, None] + sums * here[:, None]
        joined_sum = joined_sum * before + row_sum * here
        joined_max = new_max
    write_rows(
        joined, joined_max, joined_sum, x_ptr, gamma_ptr, out_ptr, attended_ptr, lse_ptr,
        x_batch_stride, x_stride, sample, first_row, first_column, tokens_q,
        D_V, BLOCK_M, BLOCK_DV, RESIDUAL, KEEP_ATTENDED, KEEP_LSE,
    )  # fmt: skip


@triton.jit
def forward_short(
    q_ptr, k_ptr, v_ptr, x_ptr, gamma_ptr, out_ptr, attended_ptr, lse_ptr,
    q_batch_stride, q_stride, k_batch_stride, k_stride, v_batch_stride, v_stride,
    x_batch_stride, x_stride,
    tokens_q, tokens_k, scale_log2,
    D_QK: tl.constexpr, D_V: tl.constexpr, BLOCK_DK: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_DV: tl.constexpr, GROUP: tl.constexpr,
    NEGATIVE_SCALE: tl.constexpr,
    RESIDUAL: tl.constexpr, KEEP_ATTENDED: tl.constexpr, KEEP_LSE: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """A program: BLOCK_M rows and GROUP blocks of BLOCK_DV value columns; BLOCK_N holds all keys,
    so the probabilities are computed once and need no rescaling."""
    value_groups: tl.constexpr = (D_V + BLOCK_DV * GROUP - 1) // (BLOCK_DV * GROUP)
    program = tl.program_id(0).to(tl.int64)
    row_blocks = tl.cdiv(tokens_q, BLOCK_M)
    sample = program // (row_blocks * value_groups)
    first_row = program // value_groups % row_blocks * BLOCK_M
    first_column = program % value_groups * GROUP * BLOCK_DV
    q_base = q_ptr + sample * q_batch_stride
    q_tile = load_tile(
        q_base, first_row, tokens_q, q_stride, 0, D_QK, BLOCK_M, BLOCK_DK, True
    )  # [BLOCK_M, BLOCK_DK]
    scores = scores_of(
        q_tile, q_base, first_row, tokens_q, q_stride,
        k_ptr + sample * k_batch_stride, 0, tokens_k, k_stride,
        D_QK, BLOCK_DK, BLOCK_M, BLOCK_N, True, NEGATIVE_SCALE, PRECISION,
    )  # fmt: skip
    row_max = tl.full([BLOCK_M], float("-inf"), tl.float32)
    row_sum = tl.zeros([BLOCK_M], tl.float32)
    weights, _, row_max, row_sum = online_softmax(
        scores, row_max, row_sum, scale_log2, v_ptr.dtype.element_ty
    )  # [BLOCK_M, BLOCK_N]
    for column in tl.range(
        first_column, tl.minimum(first_column + GROUP * BLOCK_DV, D_V), BLOCK_DV
    ):
        v_tile = load_tile(
            v_ptr + sample * v_batch_stride, 0, tokens_k, v_stride, column, D_V, BLOCK_N, BLOCK_DV,
            True,
        )  # fmt: skip
        sums = tl.dot(weights, v_tile, input_precision=PRECISION)  # [BLOCK_M, BLOCK_DV]
        write_rows(
            sums, row_max, row_sum, x_ptr, gamma_ptr, out_ptr, attended_ptr, lse_ptr,
            x_batch_stride, x_stride, sample, first_row, column, tokens_q,
            D_V, BLOCK_M, BLOCK_DV, RESIDUAL, KEEP_ATTENDED, KEEP_LSE,
        )  # fmt: skip


class Outputs(NamedTuple):
    """out (B, Nq, Dv), and what backward takes: attended (B, Nq, Dv), empty where it is not needed,
    and lse (B, Nq), float32."""

    out: Tensor
    attended: Tensor
    lse: Tensor


def attention_forward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    x: Tensor | None,
    gamma: Tensor | None,
    scale: float,
    *,
    keep: bool,
    precision: str = "ieee",
) -> Outputs:
    """q (B, Nq, Dk), k (B, Nk, Dk), v (B, Nk, Dv), x (B, Nq, Dv), gamma (1,) -> Outputs.

    x = gamma = None: out is A. keep: attended and lse are wanted. precision: of float32 products,
    "ieee", "tf32" or "tf32x3".
    """
    return _forward(
        q, k, v, x, gamma, scale, keep, target_of(q.device), None, precision, Launch.run
    )


def forward_launches(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    x: Tensor | None,
    gamma: Tensor | None,
    scale: float,
    *,
    keep: bool,
    target: Target,
    tile: Tile | None = None,
    precision: str = "ieee",
) -> tuple[list[Launch], Outputs]:
    """The launches of `attention_forward` on `target`, not started, and the tensors they fill."""
    launches: list[Launch] = []
    outputs = _forward(q, k, v, x, gamma, scale, keep, target, tile, precision, launches.append)
    return launches, outputs


def _forward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    x: Tensor | None,
    gamma: Tensor | None,
    scale: float,
    keep: bool,
    target: Target,
    tile: Tile | None,
    precision: str,
    start: Callable[[Launch], None],
) -> Outputs:
    q, k, v = rows_apart(q), rows_apart(k), rows_apart(v)
    x = None if x is None else rows_apart(x)
    sizes = Shape(q.shape[0], q.shape[1], k.shape[1], q.shape[2], v.shape[2])
    rows = (sizes.batch, sizes.tokens_q)
    kept = keep and keeps_attended(sizes.tokens_k, sizes.d_qk, q.element_size(), gamma is not None)
    outputs = Outputs(
        torch.empty((*rows, sizes.d_v), dtype=q.dtype, device=q.device),
        torch.empty((*rows, sizes.d_v) if kept else (0,), dtype=q.dtype, device=q.device),
        torch.empty(rows if keep else (0,), dtype=torch.float32, device=q.device),
    )
    inputs = {"q": q, "k": k, "v": v}
    arguments: dict[str, Any] = {f"{name}_ptr": tensor for name, tensor in inputs.items()}
    arguments |= batch_and_row_strides(**inputs) | scale_arguments(scale)
    arguments |= {
        "D_QK": sizes.d_qk, "BLOCK_DK": columns_at_once(sizes.d_qk, q.element_size()),
        "PRECISION": precision, "tokens_k": sizes.tokens_k,
    }  # fmt: skip
    epilogue = _epilogue(x, gamma, outputs, sizes)
    if is_short(sizes.tokens_k, sizes.d_qk, q.element_size()):
        tile = tile or tile_for("forward_short", sizes, q.dtype, target)
        start(_short_launch(arguments | epilogue, sizes, tile, target))
    else:
        tile = tile or _stream_tile(sizes, q.dtype, target)
        _stream(arguments, epilogue, sizes, tile, target, q.device, start)
    return outputs


def _epilogue(
    x: Tensor | None, gamma: Tensor | None, outputs: Outputs, sizes: Shape
) -> dict[str, Any]:
    """What `write_rows` takes; tensors that are not used are stood in for by `out`."""
    out = outputs.out
    return {
        "x_ptr": out if x is None else x,
        "gamma_ptr": out if gamma is None else gamma,
        "out_ptr": out,
        "attended_ptr": outputs.attended if outputs.attended.numel() else out,
        "lse_ptr": outputs.lse if outputs.lse.numel() else out,
        "tokens_q": sizes.tokens_q,
        "D_V": sizes.d_v,
        "RESIDUAL": x is not None,
        "KEEP_ATTENDED": outputs.attended.numel() > 0,
        "KEEP_LSE": outputs.lse.numel() > 0,
    } | batch_and_row_strides(x=out if x is None else x)


def _stream_tile(sizes: Shape, dtype: torch.dtype, target: Target) -> Tile:
    """The large tile where its programs fill most of the GPU, else one for split keys."""
    tile = tile_for("forward_stream", sizes, dtype, target)
    if _stream_programs(sizes, tile) >= 0.75 * target.processors:
        return tile
    return tile_for("forward_stream_few", sizes, dtype, target)


def _stream_programs(sizes: Shape, tile: Tile) -> int:
    value_blocks = triton.cdiv(sizes.d_v, tile.block_dv)
    return sizes.batch * triton.cdiv(sizes.tokens_q, tile.block_m) * value_blocks


def _short_launch(arguments: dict[str, Any], sizes: Shape, tile: Tile, target: Target) -> Launch:
    """Fewer value blocks a program, down to one, until the programs fill the GPU."""
    rows = sizes.batch * triton.cdiv(sizes.tokens_q, tile.block_m)
    group = tile.share
    while group > 1 and rows * triton.cdiv(sizes.d_v, tile.block_dv * group) < target.processors:
        group //= 2
    constants = {
        "BLOCK_M": tile.block_m, "BLOCK_N": power_of_two(sizes.tokens_k),
        "BLOCK_DV": tile.block_dv, "GROUP": group,
    }  # fmt: skip
    programs = rows * triton.cdiv(sizes.d_v, tile.block_dv * group)
    return Launch(forward_short, programs, arguments | constants, tile.num_warps, tile.num_stages)


def _stream(
    arguments: dict[str, Any],
    epilogue: dict[str, Any],
    sizes: Shape,
    tile: Tile,
    target: Target,
    device: torch.device,
    start: Callable[[Launch], None],
) -> None:
    """One launch, or with split keys two."""
    programs = _stream_programs(sizes, tile)
    splits, keys_per_split = split_keys(sizes.tokens_k, tile, programs, target.processors)
    out = epilogue["out_ptr"]
    sums = statistics = out
    if splits > 1:
        rows = (sizes.batch, sizes.tokens_q)
        sums = torch.empty((splits, *rows, sizes.d_v), dtype=torch.float32, device=device)
        statistics = torch.empty((splits, 2, *rows), dtype=torch.float32, device=device)
    parts = {"sums_ptr": sums, "statistics_ptr": statistics, "batch": sizes.batch}
    tail = tail_rows(sizes.tokens_q, tile.block_m, target)
    constants = {
        "keys_per_split": keys_per_split,
        "BLOCK_M": tile.block_m, "BLOCK_N": tile.block_n, "BLOCK_DV": tile.block_dv,
        "TAIL_M": tail, "SPLITS": splits, "ROTATED": tile.rotated,
    }  # fmt: skip
    start(
        Launch(
            forward_stream,
            programs * splits,
            arguments | epilogue | parts | constants,
            tile.num_warps,
            tile.num_stages,
        )
    )
    if splits > 1:
        rows_in_tile, columns = 16, min(64, power_of_two(sizes.d_v))
        programs = triton.cdiv(sizes.tokens_q, rows_in_tile) * triton.cdiv(sizes.d_v, columns)
        constants = {"BLOCK_M": rows_in_tile, "BLOCK_DV": columns, "SPLITS": splits}
        start(Launch(combine_splits, sizes.batch * programs, epilogue | parts | constants, 4, 1))


def tail_rows(tokens_q: int, block_m: int, target: Target) -> int:
    """Rows of the tile for what the whole blocks leave over, 0 for another whole block. With
    mma.sync a tile of half the rows would be laid out along the columns, which costs what it saves.
    """
    rest = tokens_q % block_m
    tail = power_of_two(rest) if rest else 0
    most = block_m // 2 if target.architecture in WARPGROUP else block_m // 4
    return tail if tail <= most else 0


def split_keys(tokens_k: int, tile: Tile, programs: int, processors: int) -> tuple[int, int]:
    """(splits, keys of each): as many as the GPU has room for, at least four blocks of keys each
    and none empty."""
    blocks = triton.cdiv(tokens_k, tile.block_n)
    wanted = max(1, min(tile.share, processors // max(1, programs), blocks // 4))
    keys = triton.cdiv(blocks, wanted) * tile.block_n
    return triton.cdiv(tokens_k, keys), keys
