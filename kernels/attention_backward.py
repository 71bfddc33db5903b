"""Spatial attention backward, fused: gradients of q, k, v and gamma; that of x is dout itself.

With P = softmax(scale * Q Kᵀ), A = P V and dP = dOut Vᵀ:

    delta = rowsum(dOut ∘ A) = rowsum(P ∘ dP),   dgamma = Σ delta,   dS = gamma P ∘ (dP - delta)
    dV = gamma Pᵀ dOut,   dQ = scale dS K,   dK = scale dSᵀ Q        no division by gamma, which
                                                                     starts at 0
Kernels:

    row_statistics       delta, its sum per block of rows, and lse in base 2, padded so that the
                         kernels below load both without a mask
    backward_scores      a program owns a run of key blocks of one sample and streams the queries:
                         dK in registers, dQ added to its own float32 partial in a fixed order
    backward_values      a program owns BLOCK_N keys and BLOCK_DV value columns and streams the
                         queries: dV. The scores are computed again, which wide values make cheap
                         (+5 %), so that no program holds both wide accumulators (FlashAttention-2's
                         one kernel would)
    sum_partials         dQ = scale * the partials, always in the same order
    backward_queries     dQ alone, where partials would take too much memory
    backward_short       up to 256 keys: P and dS once, dQ at once; dV and dK are then two plain
                         batched products

Everything is summed in a fixed order: two runs are bitwise equal. `atomics` adds dQ with atomics
instead of partials, for those who do not need that.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from hmc_fast.kernels.configurations import (
    Shape,
    Target,
    Tile,
    columns_at_once,
    is_short,
    power_of_two,
    target_of,
    tile_for,
)
from hmc_fast.kernels.tiles import (
    LOG2_E,
    Launch,
    batch_and_row_strides,
    load_tile,
    row_products,
    rows_apart,
    scale_arguments,
    scores_of,
    store_tile,
)

ROWS_PADDED_TO = 128  # every BLOCK_M of the kernels divides it
PARTIAL_BYTES = 64 << 20  # of dQ: as much as dV takes, or this


@triton.jit
def row_statistics(
    dout_ptr, attended_ptr, lse_ptr, gamma_ptr,  # (B, Nq, Dv), (B, Nq, Dv), (B, Nq), (1)
    lse_log2_ptr, delta_ptr, dgamma_ptr,  # (B, padded), (B, padded), one number a program
    dout_batch_stride, dout_stride, tokens_q, padded,
    D_V: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_DV: tl.constexpr, HAS_GAMMA: tl.constexpr,
):  # fmt: skip
    """A program: BLOCK_M rows. Rows past the last get lse = +inf, hence P = 0, and delta = 0;
    delta is stored multiplied by gamma, as it is used."""
    program = tl.program_id(0).to(tl.int64)
    row_blocks = padded // BLOCK_M
    sample = program // row_blocks
    first_row = program % row_blocks * BLOCK_M
    row = first_row + tl.arange(0, BLOCK_M)
    delta = tl.zeros([BLOCK_M], tl.float32)
    for column in tl.range(0, D_V, BLOCK_DV):
        dout = load_tile(
            dout_ptr + sample * dout_batch_stride, first_row, tokens_q, dout_stride, column, D_V,
            BLOCK_M, BLOCK_DV, True,
        )  # fmt: skip
        attended = load_tile(
            attended_ptr + sample * tokens_q * D_V, first_row, tokens_q, D_V, column, D_V,
            BLOCK_M, BLOCK_DV, True,
        )  # fmt: skip
        delta += tl.sum(dout.to(tl.float32) * attended.to(tl.float32), 1)
    lse = tl.load(lse_ptr + sample * tokens_q + row, mask=row < tokens_q, other=float("inf"))
    tl.store(lse_log2_ptr + sample * padded + row, lse * LOG2_E)
    if HAS_GAMMA:
        tl.store(dgamma_ptr + program, tl.sum(delta, 0))
        delta *= tl.load(gamma_ptr).to(tl.float32)
    tl.store(delta_ptr + sample * padded + row, delta)


@triton.jit
def transposed_scores(
    q_base, first_row, tokens_q, q_stride,
    k_tile,  # [BLOCK_N, BLOCK_DK], all of k's columns; not used where BLOCK_DK < D_QK
    k_base, first_key, tokens_k, k_stride,
    D_QK: tl.constexpr, BLOCK_DK: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
    MASK_ROWS: tl.constexpr, NEGATIVE_SCALE: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """[BLOCK_N, BLOCK_M] of k qᵀ, with the sign of the scale: keys are rows, so that dV and dK take
    the probabilities from registers. Any number at keys that do not exist."""
    scores = row_products(
        k_tile, k_base, first_key, tokens_k, k_stride, q_base, first_row, tokens_q, q_stride,
        D_QK, BLOCK_N, BLOCK_M, BLOCK_DK, MASK_ROWS, PRECISION,
    )  # fmt: skip
    if NEGATIVE_SCALE:
        scores = -scores
    return scores


@triton.jit
def transposed_probabilities(
    scores,  # [BLOCK_N, BLOCK_M], from `transposed_scores`
    lse_log2, first_row, tokens_q, scale_log2, BLOCK_M: tl.constexpr, MASK_ROWS: tl.constexpr,
):  # fmt: skip
    """Pᵀ [BLOCK_N, BLOCK_M], 0 at rows that do not exist: they are zeros, but zero times an
    infinite key is NaN."""
    probabilities = tl.math.exp2(scores * scale_log2 - lse_log2[None, :])
    if MASK_ROWS:
        exists = first_row + tl.arange(0, BLOCK_M) < tokens_q
        probabilities = tl.where(exists[None, :], probabilities, 0.0)
    return probabilities


@triton.jit
def backward_values(
    q_ptr, k_ptr, dout_ptr, gamma_ptr, lse_log2_ptr, dv_ptr,
    q_batch_stride, q_stride, k_batch_stride, k_stride, dout_batch_stride, dout_stride,
    tokens_q, tokens_k, padded, scale_log2,
    D_QK: tl.constexpr, D_V: tl.constexpr, BLOCK_DK: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_DV: tl.constexpr,
    ROTATED: tl.constexpr, NEGATIVE_SCALE: tl.constexpr, HAS_GAMMA: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """A program: dV of BLOCK_N keys and BLOCK_DV columns. Each column of dV needs the probabilities
    alone, so columns may be split over programs."""
    dtype: tl.constexpr = dout_ptr.dtype.element_ty
    value_blocks: tl.constexpr = (D_V + BLOCK_DV - 1) // BLOCK_DV
    program = tl.program_id(0).to(tl.int64)
    key_blocks = tl.cdiv(tokens_k, BLOCK_N)
    sample = program // (key_blocks * value_blocks)
    first_key = program // value_blocks % key_blocks * BLOCK_N
    first_column = program % value_blocks * BLOCK_DV
    q_base = q_ptr + sample * q_batch_stride
    k_base = k_ptr + sample * k_batch_stride
    dout_base = dout_ptr + sample * dout_batch_stride
    lse_base = lse_log2_ptr + sample * padded + tl.arange(0, BLOCK_M)
    k_tile = load_tile(k_base, first_key, tokens_k, k_stride, 0, D_QK, BLOCK_N, BLOCK_DK, True)
    dv = tl.zeros([BLOCK_N, BLOCK_DV], tl.float32)
    whole_end = tokens_q // BLOCK_M * BLOCK_M
    if ROTATED:
        scores = transposed_scores(
            q_base, 0, tokens_q, q_stride, k_tile, k_base, first_key, tokens_k, k_stride,
            D_QK, BLOCK_DK, BLOCK_M, BLOCK_N, True, NEGATIVE_SCALE, PRECISION,
        )  # fmt: skip
        probabilities = transposed_probabilities(
            scores, tl.load(lse_base), 0, tokens_q, scale_log2, BLOCK_M, True
        ).to(dtype)
        for row in tl.range(BLOCK_M, whole_end, BLOCK_M):
            scores = transposed_scores(
                q_base, row, tokens_q, q_stride, k_tile, k_base, first_key, tokens_k, k_stride,
                D_QK, BLOCK_DK, BLOCK_M, BLOCK_N, False, NEGATIVE_SCALE, PRECISION,
            )  # fmt: skip
            dout = load_tile(
                dout_base, row - BLOCK_M, tokens_q, dout_stride, first_column, D_V, BLOCK_M,
                BLOCK_DV, False,
            )  # fmt: skip
            dv = tl.dot(probabilities, dout, dv, input_precision=PRECISION)
            probabilities = transposed_probabilities(
                scores, tl.load(lse_base + row), row, tokens_q, scale_log2, BLOCK_M, False
            ).to(dtype)
        last = tl.maximum(whole_end - BLOCK_M, 0)  # whose probabilities are carried
        dout = load_tile(
            dout_base, last, tokens_q, dout_stride, first_column, D_V, BLOCK_M, BLOCK_DV, True
        )
        dv = tl.dot(probabilities, dout, dv, input_precision=PRECISION)
        rest = tl.maximum(whole_end, BLOCK_M)
    else:
        for row in tl.range(0, whole_end, BLOCK_M):
            scores = transposed_scores(
                q_base, row, tokens_q, q_stride, k_tile, k_base, first_key, tokens_k, k_stride,
                D_QK, BLOCK_DK, BLOCK_M, BLOCK_N, False, NEGATIVE_SCALE, PRECISION,
            )  # fmt: skip
            probabilities = transposed_probabilities(
                scores, tl.load(lse_base + row), row, tokens_q, scale_log2, BLOCK_M, False
            ).to(dtype)
            dout = load_tile(
                dout_base, row, tokens_q, dout_stride, first_column, D_V, BLOCK_M, BLOCK_DV, False
            )
            dv = tl.dot(probabilities, dout, dv, input_precision=PRECISION)
        rest = whole_end
    if rest < tokens_q:
        scores = transposed_scores(
            q_base, rest, tokens_q, q_stride, k_tile, k_base, first_key, tokens_k, k_stride,
            D_QK, BLOCK_DK, BLOCK_M, BLOCK_N, True, NEGATIVE_SCALE, PRECISION,
        )  # fmt: skip
        probabilities = transposed_probabilities(
            scores, tl.load(lse_base + rest), rest, tokens_q, scale_log2, BLOCK_M, True
        ).to(dtype)
        dout = load_tile(
            dout_base, rest, tokens_q, dout_stride, first_column, D_V, BLOCK_M, BLOCK_DV, True
        )
        dv = tl.dot(probabilities, dout, dv, input_precision=PRECISION)
    if HAS_GAMMA:
        dv *= tl.load(gamma_ptr).to(tl.float32)
    store_tile(
        dv_ptr + sample * tokens_k * D_V, dv, first_key, tokens_k, D_V, first_column, D_V,
        BLOCK_N, BLOCK_DV,
    )  # fmt: skip


@triton.jit
def add_to_dq(
    dq_base, dq,  # (Nq, Dk) float32, [BLOCK_M, BLOCK_DK]
    first_row, tokens_q, later,
    D_QK: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_DK: tl.constexpr, ATOMICS: tl.constexpr,
):  # fmt: skip
    """Add a tile to this program's own partial, which its first key block opens."""
    row = first_row + tl.arange(0, BLOCK_M)
    column = tl.arange(0, BLOCK_DK)
    inside = (row < tokens_q)[:, None] & (column < D_QK)[None, :]
    place = dq_base + row[:, None].to(tl.int64) * D_QK + column[None, :]
    if ATOMICS:
        tl.atomic_add(place, dq, mask=inside, sem="relaxed")
    else:
        before = tl.load(place, mask=inside & later, other=0.0)
        tl.store(place, before + dq, mask=inside)


@triton.jit
def backward_scores(
    q_ptr, k_ptr, v_ptr, dout_ptr, gamma_ptr, lse_log2_ptr, delta_ptr,
    dk_ptr, dq_ptr,  # (B, Nk, Dk), partials (runs, B, Nq, Dk) float32
    q_batch_stride, q_stride, k_batch_stride, k_stride, v_batch_stride, v_stride,
    dout_batch_stride, dout_stride,
    batch, tokens_q, tokens_k, padded, blocks_per_run, scale, scale_log2,
    D_QK: tl.constexpr, D_V: tl.constexpr, BLOCK_DK: tl.constexpr, WIDTH_DK: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_DV: tl.constexpr,
    MASK_ROWS: tl.constexpr, MASK_KEYS: tl.constexpr, DQ: tl.constexpr,
    NEGATIVE_SCALE: tl.constexpr, HAS_GAMMA: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """A program: a run of key blocks of one sample, one after the other; dK of each, and its part
    of dQ. DQ: "partials", one for each run; "atomics", all programs add to one; "none"."""
    program = tl.program_id(0).to(tl.int64)
    key_blocks = tl.cdiv(tokens_k, BLOCK_N)
    runs = tl.cdiv(key_blocks, blocks_per_run)
    sample = program // runs
    run = program % runs
    gamma = 1.0
    if HAS_GAMMA:
        gamma = tl.load(gamma_ptr).to(tl.float32)
    q_base = q_ptr + sample * q_batch_stride
    k_base = k_ptr + sample * k_batch_stride
    v_base = v_ptr + sample * v_batch_stride
    dout_base = dout_ptr + sample * dout_batch_stride
    statistics = sample * padded + tl.arange(0, BLOCK_M)
    part = run if DQ == "partials" else 0
    dq_base = dq_ptr + (part * batch + sample) * tokens_q * D_QK
    first_block = run * blocks_per_run
    for key_block in tl.range(
        first_block, tl.minimum(first_block + blocks_per_run, key_blocks), num_stages=1
    ):
        key = key_block * BLOCK_N
        k_tile = load_tile(k_base, key, tokens_k, k_stride, 0, D_QK, BLOCK_N, WIDTH_DK, True)
        v_tile = load_tile(v_base, key, tokens_k, v_stride, 0, D_V, BLOCK_N, BLOCK_DV, True)
        exists = key + tl.arange(0, BLOCK_N) < tokens_k
        dk = tl.zeros([BLOCK_N, WIDTH_DK], tl.float32)
        for row in tl.range(0, tokens_q, BLOCK_M):
            scores = transposed_scores(
                q_base, row, tokens_q, q_stride, k_tile, k_base, key, tokens_k, k_stride,
                D_QK, BLOCK_DK, BLOCK_M, BLOCK_N, MASK_ROWS, NEGATIVE_SCALE, PRECISION,
            )  # fmt: skip
            lse_log2 = tl.load(lse_log2_ptr + statistics + row)
            probabilities = transposed_probabilities(
                scores, lse_log2, row, tokens_q, scale_log2, BLOCK_M, MASK_ROWS
            )
            if MASK_KEYS:  # their score 0 may be far above lse; infinity times k = 0 would be NaN
                probabilities = tl.where(exists[:, None], probabilities, 0.0)
            dprobabilities = row_products(  # of every value column: delta is of whole rows
                v_tile, v_base, key, tokens_k, v_stride, dout_base, row, tokens_q, dout_stride,
                D_V, BLOCK_N, BLOCK_M, BLOCK_DV, MASK_ROWS, PRECISION,
            )  # fmt: skip
            delta = tl.load(delta_ptr + statistics + row)
            dscores = probabilities * (gamma * dprobabilities - delta[None, :])
            dscores = dscores.to(q_ptr.dtype.element_ty)  # [BLOCK_N, BLOCK_M]
            q_tile = load_tile(
                q_base, row, tokens_q, q_stride, 0, D_QK, BLOCK_M, WIDTH_DK, MASK_ROWS
            )
            dk = tl.dot(dscores, q_tile, dk, input_precision=PRECISION)
            if DQ != "none":
                add_to_dq(
                    dq_base, tl.dot(tl.trans(dscores), k_tile, input_precision=PRECISION),
                    row, tokens_q, key_block > first_block, D_QK, BLOCK_M, WIDTH_DK,
                    DQ == "atomics",
                )  # fmt: skip
        store_tile(
            dk_ptr + sample * tokens_k * D_QK, dk * scale, key, tokens_k, D_QK, 0, D_QK,
            BLOCK_N, WIDTH_DK,
        )  # fmt: skip
        tl.debug_barrier()  # the next key block reads the partial that this one wrote


@triton.jit
def backward_queries(
    q_ptr, k_ptr, v_ptr, dout_ptr, gamma_ptr, lse_log2_ptr, delta_ptr, dq_ptr,
    q_batch_stride, q_stride, k_batch_stride, k_stride, v_batch_stride, v_stride,
    dout_batch_stride, dout_stride,
    tokens_q, tokens_k, padded, scale, scale_log2,
    D_QK: tl.constexpr, D_V: tl.constexpr, BLOCK_DK: tl.constexpr, WIDTH_DK: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_DV: tl.constexpr,
    MASK_KEYS: tl.constexpr,
    NEGATIVE_SCALE: tl.constexpr, HAS_GAMMA: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """A program: dQ of BLOCK_M rows, streaming the keys. It computes dS once more, and needs no
    partials: for sequences whose partials would take too much memory."""
    program = tl.program_id(0).to(tl.int64)
    row_blocks = tl.cdiv(tokens_q, BLOCK_M)
    sample = program // row_blocks
    first_row = program % row_blocks * BLOCK_M
    gamma = 1.0
    if HAS_GAMMA:
        gamma = tl.load(gamma_ptr).to(tl.float32)
    q_base = q_ptr + sample * q_batch_stride
    k_base = k_ptr + sample * k_batch_stride
    v_base = v_ptr + sample * v_batch_stride
    dout_base = dout_ptr + sample * dout_batch_stride
    q_tile = load_tile(q_base, first_row, tokens_q, q_stride, 0, D_QK, BLOCK_M, BLOCK_DK, True)
    dout = load_tile(dout_base, first_row, tokens_q, dout_stride, 0, D_V, BLOCK_M, BLOCK_DV, True)
    statistics = sample * padded + first_row + tl.arange(0, BLOCK_M)
    lse_log2, delta = tl.load(lse_log2_ptr + statistics), tl.load(delta_ptr + statistics)
    dq = tl.zeros([BLOCK_M, WIDTH_DK], tl.float32)
    for key in tl.range(0, tokens_k, BLOCK_N):
        scores = scores_of(
            q_tile, q_base, first_row, tokens_q, q_stride, k_base, key, tokens_k, k_stride,
            D_QK, BLOCK_DK, BLOCK_M, BLOCK_N, MASK_KEYS, NEGATIVE_SCALE, PRECISION,
        )  # fmt: skip
        probabilities = tl.math.exp2(scores * scale_log2 - lse_log2[:, None])
        dprobabilities = row_products(
            dout, dout_base, first_row, tokens_q, dout_stride, v_base, key, tokens_k, v_stride,
            D_V, BLOCK_M, BLOCK_N, BLOCK_DV, MASK_KEYS, PRECISION,
        )  # fmt: skip
        dscores = probabilities * (gamma * dprobabilities - delta[:, None])
        k_tile = load_tile(k_base, key, tokens_k, k_stride, 0, D_QK, BLOCK_N, WIDTH_DK, MASK_KEYS)
        dq = tl.dot(dscores.to(q_ptr.dtype.element_ty), k_tile, dq, input_precision=PRECISION)
    store_tile(
        dq_ptr + sample * tokens_q * D_QK, dq * scale, first_row, tokens_q, D_QK, 0, D_QK, BLOCK_M,
        WIDTH_DK,
    )  # fmt: skip


@triton.jit
def sum_partials(
    partial_ptr, dq_ptr,  # (runs, elements) float32, (elements)
    elements, runs, scale,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """A program: BLOCK elements of dQ, over the runs in order."""
    place = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    total = tl.zeros([BLOCK], tl.float32)
    for run in tl.range(0, runs):
        start = partial_ptr + tl.cast(run, tl.int64) * elements
        total += tl.load(start + place, mask=place < elements, other=0.0)
    tl.store(dq_ptr + place, (total * scale).to(dq_ptr.dtype.element_ty), mask=place < elements)


@triton.jit
def backward_short(
    q_ptr, k_ptr, v_ptr, dout_ptr, gamma_ptr,
    dq_ptr, probabilities_ptr, dscores_ptr, dgamma_ptr,  # (B, Nq, Dk), 2 x (B, Nq, PADDED), sums
    q_batch_stride, q_stride, k_batch_stride, k_stride, v_batch_stride, v_stride,
    dout_batch_stride, dout_stride,
    tokens_q, tokens_k, scale, scale_log2,
    D_QK: tl.constexpr, D_V: tl.constexpr, PADDED: tl.constexpr,
    BLOCK_DK: tl.constexpr, WIDTH_DK: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_DV: tl.constexpr,
    NEGATIVE_SCALE: tl.constexpr, HAS_GAMMA: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """A program: BLOCK_M rows against all keys: dQ, gamma P and scale dS, and its part of
    dgamma. delta = rowsum(P ∘ dP), so A is not needed."""
    program = tl.program_id(0).to(tl.int64)
    row_blocks = tl.cdiv(tokens_q, BLOCK_M)
    sample = program // row_blocks
    first_row = program % row_blocks * BLOCK_M
    q_base = q_ptr + sample * q_batch_stride
    k_base = k_ptr + sample * k_batch_stride
    q_tile = load_tile(q_base, first_row, tokens_q, q_stride, 0, D_QK, BLOCK_M, BLOCK_DK, True)
    scores = scores_of(
        q_tile, q_base, first_row, tokens_q, q_stride, k_base, 0, tokens_k, k_stride,
        D_QK, BLOCK_DK, BLOCK_M, BLOCK_N, True, NEGATIVE_SCALE, PRECISION,
    )  # fmt: skip
    scores *= scale_log2
    weights = tl.math.exp2(scores - tl.max(scores, 1)[:, None])
    probabilities = weights / tl.sum(weights, 1)[:, None]  # [BLOCK_M, BLOCK_N]
    rows_exist = first_row + tl.arange(0, BLOCK_M) < tokens_q
    probabilities = tl.where(rows_exist[:, None], probabilities, 0.0)
    dout_base = dout_ptr + sample * dout_batch_stride
    dout = load_tile(dout_base, first_row, tokens_q, dout_stride, 0, D_V, BLOCK_M, BLOCK_DV, True)
    dprobabilities = row_products(
        dout, dout_base, first_row, tokens_q, dout_stride,
        v_ptr + sample * v_batch_stride, 0, tokens_k, v_stride,
        D_V, BLOCK_M, BLOCK_N, BLOCK_DV, True, PRECISION,
    )  # fmt: skip
    delta = tl.sum(probabilities * dprobabilities, 1)  # 0 at rows past the last: their dout is 0
    gamma = 1.0
    if HAS_GAMMA:
        gamma = tl.load(gamma_ptr).to(tl.float32)
        tl.store(dgamma_ptr + program, tl.sum(delta, 0))
    dscores = (gamma * scale) * (probabilities * (dprobabilities - delta[:, None]))
    dscores = dscores.to(q_ptr.dtype.element_ty)
    k_tile = load_tile(k_base, 0, tokens_k, k_stride, 0, D_QK, BLOCK_N, WIDTH_DK, True)
    dq = tl.dot(dscores, k_tile, input_precision=PRECISION)
    store_tile(
        dq_ptr + sample * tokens_q * D_QK, dq, first_row, tokens_q, D_QK, 0, D_QK, BLOCK_M, WIDTH_DK
    )
    place = sample * tokens_q * PADDED
    store_tile(
        probabilities_ptr + place, gamma * probabilities, first_row, tokens_q, PADDED, 0, PADDED,
        BLOCK_M, BLOCK_N,
    )  # fmt: skip
    store_tile(
        dscores_ptr + place, dscores, first_row, tokens_q, PADDED, 0, PADDED, BLOCK_M, BLOCK_N
    )


class Gradients(NamedTuple):
    """dq, dk, dv like q, k, v; dgamma (1,) like gamma, or None."""

    dq: Tensor
    dk: Tensor
    dv: Tensor
    dgamma: Tensor | None


class Planned(NamedTuple):
    """The launches of one backward pass, not started, and tensors of the gradients' shapes."""

    launches: list[Launch]
    gradients: Gradients


class Plan(NamedTuple):
    """What the steps of one backward pass share."""

    arguments: dict[str, Any]
    sizes: Shape
    target: Target
    tiles: Mapping[str, Tile]
    start: Callable[[Launch], None]

    def tile(self, kernel: str) -> Tile:
        dtype = self.arguments["q_ptr"].dtype
        return self.tiles.get(kernel) or tile_for(kernel, self.sizes, dtype, self.target)

    def launch(self, kernel: Any, programs: int, tile: Tile, **arguments: Any) -> None:
        """`kernel` with those of its arguments that all share, and its own."""
        shared = {n: self.arguments[n] for n in kernel.arg_names if n in self.arguments}
        self.start(Launch(kernel, programs, shared | arguments, tile.num_warps, tile.num_stages))


def attention_backward(
    dout: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    gamma: Tensor | None,
    attended: Tensor,
    lse: Tensor,
    scale: float,
    *,
    atomics: bool = False,
    precision: str = "ieee",
) -> Gradients:
    """dout (B, Nq, Dv), the forward's inputs, A and lse -> dq, dk, dv and dgamma; dx is dout.

    Where gamma is None, attended is the forward's out. atomics: dQ without partials, in an order
    that differs from run to run.
    """
    return _backward(
        dout, q, k, v, gamma, attended, lse, scale, atomics, precision, target_of(q.device), {},
        Launch.run,
    )  # fmt: skip


def backward_launches(
    dout: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    gamma: Tensor | None,
    attended: Tensor,
    lse: Tensor,
    scale: float,
    *,
    target: Target,
    tiles: Mapping[str, Tile] | None = None,
    atomics: bool = False,
    precision: str = "ieee",
) -> Planned:
    """The launches of `attention_backward` on `target`, to be compiled: torch's own sums and
    products between them have run already, so the gradients are of no use."""
    launches: list[Launch] = []
    gradients = _backward(
        dout, q, k, v, gamma, attended, lse, scale, atomics, precision, target, tiles or {},
        launches.append,
    )  # fmt: skip
    return Planned(launches, gradients)


def _backward(
    dout: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    gamma: Tensor | None,
    attended: Tensor,
    lse: Tensor,
    scale: float,
    atomics: bool,
    precision: str,
    target: Target,
    tiles: Mapping[str, Tile],
    start: Callable[[Launch], None],
) -> Gradients:
    inputs = {name: rows_apart(t) for name, t in {"q": q, "k": k, "v": v, "dout": dout}.items()}
    sizes = Shape(q.shape[0], q.shape[1], k.shape[1], q.shape[2], v.shape[2])
    arguments: dict[str, Any] = {f"{name}_ptr": tensor for name, tensor in inputs.items()}
    arguments |= batch_and_row_strides(**inputs) | scale_arguments(scale)
    arguments |= {
        "gamma_ptr": q if gamma is None else gamma, "HAS_GAMMA": gamma is not None,
        "batch": sizes.batch, "tokens_q": sizes.tokens_q, "tokens_k": sizes.tokens_k,
        "D_QK": sizes.d_qk, "D_V": sizes.d_v,
        "BLOCK_DK": columns_at_once(sizes.d_qk, q.element_size()),
        "WIDTH_DK": power_of_two(sizes.d_qk),
        "scale": scale, "PRECISION": precision,
    }  # fmt: skip
    plan = Plan(arguments, sizes, target, tiles, start)
    if is_short(sizes.tokens_k, sizes.d_qk, q.element_size()):
        return _short(plan, dout, q, gamma)
    dgamma = _row_statistics(plan, attended, lse, gamma)
    dk = torch.empty(k.shape, dtype=k.dtype, device=k.device)
    dq = _scores(plan, dk, atomics)  # its workspace is free again before dV is made
    return Gradients(dq, dk, _values(plan), dgamma)


def _row_statistics(
    plan: Plan, attended: Tensor, lse: Tensor, gamma: Tensor | None
) -> Tensor | None:
    """delta and lse into the arguments that all share; dgamma."""
    tile = Tile(16, 0, min(128, power_of_two(plan.sizes.d_v)), 4, 1)
    padded = triton.cdiv(plan.sizes.tokens_q, ROWS_PADDED_TO) * ROWS_PADDED_TO
    programs = plan.sizes.batch * padded // tile.block_m
    shape, device = (plan.sizes.batch, padded), lse.device
    lse_log2, delta = (torch.empty(shape, dtype=torch.float32, device=device) for _ in range(2))
    sums = torch.empty(programs, dtype=torch.float32, device=device)
    plan.arguments.update(lse_log2_ptr=lse_log2, delta_ptr=delta, padded=padded)
    plan.launch(
        row_statistics, programs, tile, attended_ptr=attended, lse_ptr=lse, dgamma_ptr=sums,
        BLOCK_M=tile.block_m, BLOCK_DV=tile.block_dv,
    )  # fmt: skip
    return None if gamma is None else sums.sum(0, keepdim=True).to(gamma.dtype)


def _scores(plan: Plan, dk: Tensor, atomics: bool) -> Tensor:
    """dK into `dk`; dQ."""
    sizes, tile = plan.sizes, plan.tile("backward_scores")
    q = plan.arguments["q_ptr"]
    key_blocks = triton.cdiv(sizes.tokens_k, tile.block_n)
    bytes_of_dq = 4 * sizes.batch * sizes.tokens_q * sizes.d_qk
    bytes_of_dv = q.element_size() * sizes.batch * sizes.tokens_k * sizes.d_v
    most = max(bytes_of_dv, PARTIAL_BYTES) // max(1, bytes_of_dq)
    mode, runs = choose_runs(sizes.batch, key_blocks, plan.target.processors, most)
    if atomics:
        mode, runs = "atomics", key_blocks
    blocks_per_run = triton.cdiv(key_blocks, runs)
    runs = triton.cdiv(key_blocks, blocks_per_run)
    dq = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    partial = _partial(mode, runs, dq)
    plan.launch(
        backward_scores, sizes.batch * runs, tile, dk_ptr=dk, dq_ptr=partial,
        blocks_per_run=blocks_per_run, DQ=mode,
        BLOCK_M=tile.block_m, BLOCK_N=tile.block_n, BLOCK_DV=tile.block_dv,
        MASK_ROWS=sizes.tokens_q % tile.block_m != 0, MASK_KEYS=sizes.tokens_k % tile.block_n != 0,
    )  # fmt: skip
    if mode == "none":
        _queries(plan, dq)
    else:
        _sum(plan, partial, dq)
    return dq


def choose_runs(batch: int, key_blocks: int, processors: int, most: int) -> tuple[str, int]:
    """How dQ is added up, and into how many runs the key blocks of a sample are cut.

    One program at a time on a processor: the fewest runs, and so partials, that come within a tenth
    of the shortest time. No more than `most` partials may exist; where that costs more than another
    pass for dQ would (four fifths of the time), there are none.
    """

    def rounds(runs: int) -> int:
        return triton.cdiv(batch * runs, processors) * triton.cdiv(key_blocks, runs)

    candidates = range(1, min(key_blocks, processors) + 1)
    best = min(rounds(runs) for runs in candidates)
    affordable = [runs for runs in candidates if runs <= most]
    shortest = min((rounds(runs) for runs in affordable), default=0)
    if not affordable or shortest > 1.8 * best:
        return "none", next(runs for runs in candidates if rounds(runs) <= 1.1 * best)
    return "partials", next(runs for runs in affordable if rounds(runs) <= 1.1 * shortest)


def _partial(mode: str, runs: int, dq: Tensor) -> Tensor:
    if mode == "none":
        return dq
    make = torch.zeros if mode == "atomics" else torch.empty
    return make(
        (1 if mode == "atomics" else runs, *dq.shape), dtype=torch.float32, device=dq.device
    )


def _sum(plan: Plan, partial: Tensor, dq: Tensor) -> None:
    tile, block = Tile(0, 0, 0, 4, 1), 1024
    plan.launch(
        sum_partials, triton.cdiv(dq.numel(), block), tile, partial_ptr=partial, dq_ptr=dq,
        elements=dq.numel(), runs=partial.shape[0], BLOCK=block,
    )  # fmt: skip


def _queries(plan: Plan, dq: Tensor) -> None:
    tile = plan.tile("backward_queries")
    programs = plan.sizes.batch * triton.cdiv(plan.sizes.tokens_q, tile.block_m)
    plan.launch(
        backward_queries, programs, tile, dq_ptr=dq,
        BLOCK_M=tile.block_m, BLOCK_N=tile.block_n, BLOCK_DV=tile.block_dv,
        MASK_KEYS=plan.sizes.tokens_k % tile.block_n != 0,
    )  # fmt: skip


def _values(plan: Plan) -> Tensor:
    sizes, tile = plan.sizes, plan.tile("backward_values")
    v = plan.arguments["v_ptr"]
    dv = torch.empty(v.shape, dtype=v.dtype, device=v.device)
    key_blocks = triton.cdiv(sizes.tokens_k, tile.block_n)
    programs = sizes.batch * key_blocks * triton.cdiv(sizes.d_v, tile.block_dv)
    plan.launch(
        backward_values, programs, tile, dv_ptr=dv,
        BLOCK_M=tile.block_m, BLOCK_N=tile.block_n, BLOCK_DV=tile.block_dv, ROTATED=tile.rotated,
    )  # fmt: skip
    return dv


def _short(plan: Plan, dout: Tensor, q: Tensor, gamma: Tensor | None) -> Gradients:
    """One kernel for P, dS and dQ, two batched products for dV and dK."""
    sizes, tile = plan.sizes, plan.tile("backward_short")
    row_blocks = triton.cdiv(sizes.tokens_q, tile.block_m)
    padded = triton.cdiv(sizes.tokens_k, 8) * 8  # rows of 16 bytes, for the products
    dq = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    shape = (sizes.batch, sizes.tokens_q, padded)
    probabilities, dscores = (torch.empty(shape, dtype=q.dtype, device=q.device) for _ in range(2))
    sums = torch.empty(sizes.batch * row_blocks, dtype=torch.float32, device=q.device)
    plan.launch(
        backward_short, sizes.batch * row_blocks, tile, dq_ptr=dq,
        probabilities_ptr=probabilities, dscores_ptr=dscores, dgamma_ptr=sums, PADDED=padded,
        BLOCK_M=tile.block_m, BLOCK_N=power_of_two(sizes.tokens_k), BLOCK_DV=tile.block_dv,
    )  # fmt: skip
    dv = torch.bmm(probabilities.transpose(1, 2)[:, : sizes.tokens_k], dout)
    dk = torch.bmm(dscores.transpose(1, 2)[:, : sizes.tokens_k], q)
    dgamma = None if gamma is None else sums.sum(0, keepdim=True).to(gamma.dtype)
    return Gradients(dq, dk, dv, dgamma)
