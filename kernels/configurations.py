"""Which tile each kernel takes on which GPU: one table, `configurations.json`, and a rule for the
rest.

A row of the table holds a kernel, a class of shapes (d_qk and d_v, each rounded up to a power of
two), a dtype and an architecture. `bench/tune.py` measures rows on a GPU; rows that nobody measured
yet are chosen from what the compiler says (registers, spills, order of instructions:
bench/kernel_resources.py) and say so. Nothing is timed when a model runs: one shape, dtype and GPU
always take one tile.

What decides a tile (docs/kernels.md): on mma.sync GPUs (sm_80, 86, 89, 120) the value columns of a
program must not exceed its rows, or Triton lays both products out along one axis and the softmax
goes through shared memory; on Hopper a program needs 128 rows, or L2 bandwidth is the limit.
"""

import json
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import torch

TABLE = Path(__file__).with_name("configurations.json")
# Bytes of shared memory that one block may use, by compute capability.
SHARED_MEMORY = {80: 166912, 86: 101376, 89: 101376, 90: 232448, 100: 232448, 120: 101376}
ARCHITECTURES = tuple(SHARED_MEMORY)
WARPGROUP = (90, 100)  # matrix instructions of a whole warp group; the others have mma.sync
KERNELS = (
    "forward_stream",
    "forward_stream_few",
    "forward_short",
    "backward_scores",
    "backward_queries",
    "backward_values",
    "backward_short",
)
INTERPRETED = 90  # whose tiles the interpreter runs
MOST_D_QK, MOST_D_V = 256, 2048
SHORT_KEYS, SHORT_BYTES = 256, 1 << 16
FP32_COLUMNS = 32


class Tile(NamedTuple):
    """Sizes of a program's tile and how it is compiled.

    rotated: see `attend`. share: forward_stream, the most programs that split the keys of one block
    of rows; forward_short, the most blocks of value columns of one program.
    """

    block_m: int
    block_n: int
    block_dv: int
    num_warps: int
    num_stages: int
    rotated: bool = False
    share: int = 1


class Shape(NamedTuple):
    """Of one call: q (batch, tokens_q, d_qk), k (batch, tokens_k, d_qk), v (…, d_v)."""

    batch: int
    tokens_q: int
    tokens_k: int
    d_qk: int
    d_v: int


class Target(NamedTuple):
    """A GPU: the architecture whose tiles it takes, its multiprocessors, and the bytes of shared
    memory a block may use, 0 for the architecture's."""

    architecture: int
    processors: int
    shared_memory: int = 0

    @property
    def limit(self) -> int:
        return self.shared_memory or SHARED_MEMORY[self.architecture]


def power_of_two(size: int, least: int = 16) -> int:
    """The smallest power of two that is `least` (what a matrix instruction needs) and `size`."""
    return max(least, 1 << (size - 1).bit_length())


def dtype_name(dtype: torch.dtype) -> str:
    """ "float16" of torch.float16, as tables and messages write it."""
    return str(dtype).removeprefix("torch.")


def columns_at_once(d_qk: int, itemsize: int) -> int:
    """Columns of q and k that one product takes: all; in float32, which has no tensor cores without
    TF32, what a thread's registers hold."""
    return min(power_of_two(d_qk), FP32_COLUMNS) if itemsize == 4 else power_of_two(d_qk)


def is_short(tokens_k: int, d_qk: int, itemsize: int) -> bool:
    """Whether one program holds all keys: a function of the shape and dtype alone, because it
    decides what is kept for backward."""
    return (
        tokens_k <= SHORT_KEYS
        and power_of_two(tokens_k) * power_of_two(d_qk) * itemsize <= SHORT_BYTES
    )


def keeps_attended(tokens_k: int, d_qk: int, itemsize: int, has_gamma: bool) -> bool:
    """Whether backward needs A beside the inputs: not for short keys, nor where the result, without
    gamma and residual, is A."""
    return has_gamma and not is_short(tokens_k, d_qk, itemsize)


@cache
def target_of(device: torch.device) -> Target:
    """The GPU behind `device`; a CPU interprets."""
    if device.type != "cuda":
        return Target(INTERPRETED, 132)
    found = torch.cuda.get_device_properties(device)
    return Target(
        nearest_architecture(found.major, found.minor),
        found.multi_processor_count,
        getattr(found, "shared_memory_per_block_optin", 0),
    )


def nearest_architecture(major: int, minor: int) -> int:
    """The architecture in ARCHITECTURES whose matrix instructions this GPU has; the plainest for
    one that is not known yet."""
    exact = 10 * major + minor
    if exact in ARCHITECTURES:
        return exact
    return {8: 86, 9: 90, 10: 100, 11: 100, 12: 120}.get(major, 86)


@cache
def tile_for(kernel: str, sizes: Shape, dtype: torch.dtype, target: Target) -> Tile:
    """The table's tile for the class of shapes, else the rule's first that fits."""
    d_qk, d_v = power_of_two(sizes.d_qk), power_of_two(sizes.d_v)
    for name in (dtype, torch.bfloat16) if dtype.itemsize == 2 else (dtype,):
        key = (kernel, d_qk, d_v, dtype_name(name), target.architecture)
        tile = _table().get(key)
        fits = tile and shared_memory(kernel, tile, d_qk, d_v, sizes, dtype) <= target.limit
        if tile and fits and not _masks_columns(tile, sizes):
            return tile
    return rule(kernel, sizes, dtype, target)


@cache
def _table() -> dict[tuple[str, int, int, str, int], Tile]:
    return {
        (
            row["kernel"],
            power_of_two(row["d_qk"]),
            power_of_two(row["d_v"]),
            row["dtype"],
            row["architecture"],
        ): Tile(*(row[field] for field in Tile._fields))
        for row in rows()
    }


def rows() -> list[dict[str, Any]]:
    """The table as it stands in configurations.json."""
    return json.loads(TABLE.read_text())


def rule(kernel: str, sizes: Shape, dtype: torch.dtype, target: Target) -> Tile:
    """The first candidate whose estimated shared memory the GPU has."""
    d_qk, d_v = power_of_two(sizes.d_qk), power_of_two(sizes.d_v)
    candidates = list(_CANDIDATES[kernel](sizes, d_qk, d_v, dtype.itemsize, target))
    if dtype.itemsize == 2 and _masks_columns(candidates[0], sizes):
        columns = min(d_v, 64)
        small = [t._replace(block_dv=columns) for k, t in _MASKED_COLUMNS if k == kernel]
        candidates = small + candidates
    for tile in candidates:
        if shared_memory(kernel, tile, d_qk, d_v, sizes, dtype) <= target.limit:
            return tile
    return candidates[-1]


def _masks_columns(tile: Tile, sizes: Shape) -> bool:
    return sizes.d_qk < power_of_two(sizes.d_qk) or sizes.d_v % tile.block_dv != 0


def shared_memory(
    kernel: str, tile: Tile, d_qk: int, d_v: int, sizes: Shape, dtype: torch.dtype
) -> int:
    """An upper estimate in bytes of what Triton allocates: operands of matrix products, once for
    each stage of the loop that loads them."""
    rows, keys, columns, _, stages, *_ = tile
    item = dtype.itemsize
    if kernel.startswith("forward_stream"):
        parts = 4 * rows * columns if tile.share > 1 else 0  # of split keys, on their way out
        return max(item * (rows * (d_qk + keys) + stages * keys * (d_qk + columns)), parts)
    if kernel == "forward_short":
        keys = power_of_two(sizes.tokens_k)
        return item * max((rows + keys) * d_qk, rows * keys + stages * keys * columns) + 8192
    if kernel == "backward_values":
        return item * (keys * d_qk + rows * keys + stages * rows * (d_qk + columns)) + 1024
    if kernel == "backward_queries":
        return item * (rows * (d_qk + columns) + rows * keys + stages * keys * (d_qk + columns))
    if kernel == "backward_scores":
        streamed = stages * (rows + keys) * columns  # values and their gradients
        if columns >= d_v:
            streamed = (stages * rows + keys) * columns
        return (
            item * (keys * d_qk + stages * rows * d_qk + rows * keys + streamed) + 4 * rows * d_qk
        )
    keys = power_of_two(sizes.tokens_k)
    return item * (keys * d_qk + rows * keys + stages * (rows + keys) * columns) + 1024


Candidates = Iterator[Tile]


def _forward_stream(sizes: Shape, d_qk: int, d_v: int, item: int, target: Target) -> Candidates:
    if item == 4:  # without tensor cores: small tiles, as operands stand in registers
        yield Tile(64, 32, min(d_v, 64), 8, 2)
        yield Tile(32, 32, min(d_v, 64), 8, 1)
        yield Tile(16, 16, min(d_v, 64), 4, 1)
        return
    wide = d_qk >= 256
    if target.architecture == 90:
        yield Tile(128, 32 if wide else 64, min(d_v, 256), 8, 2, rotated=True)
    yield Tile(128, 32 if wide else 64, min(d_v, 128), 8, 2)
    yield Tile(64, 32, min(d_v, 64), 4, 2)
    yield Tile(32, 32, min(d_v, 32), 4, 1)


def _forward_stream_few(sizes: Shape, d_qk: int, d_v: int, item: int, target: Target) -> Candidates:
    if item == 4:
        yield Tile(64, 32, min(d_v, 64), 8, 2, share=8)
    elif target.architecture == 90 and d_v <= 256 and d_qk <= 64:
        yield Tile(128, 64, d_v, 8, 2, rotated=True, share=8)
    elif target.architecture in WARPGROUP:
        yield Tile(64, 64, min(d_v, 128), 4, 2, share=8)
    else:
        yield Tile(64, 64, min(d_v, 64), 4, 2, share=8)
    yield from _forward_stream(sizes, d_qk, d_v, item, target)


def _forward_short(sizes: Shape, d_qk: int, d_v: int, item: int, target: Target) -> Candidates:
    keys = power_of_two(sizes.tokens_k)
    if item == 4:
        yield Tile(16, keys, min(d_v, 32), 8, 1, share=4)
        return
    warps = 8 if keys > 128 else 4
    if target.architecture in WARPGROUP or keys <= 64:
        yield Tile(64, keys, min(d_v, 64), warps, 2, share=4)
    for rows, columns, stages in ((32, 64, 2), (32, 32, 1), (16, 32, 1), (16, 16, 1)):
        yield Tile(rows, keys, min(d_v, columns), warps, stages, share=4)


def _backward_scores(sizes: Shape, d_qk: int, d_v: int, item: int, target: Target) -> Candidates:
    if item == 4:
        if d_qk <= 32:
            yield Tile(32, 32, min(d_v, 64), 4, 1)
        if d_qk <= (64 if target.architecture == 100 else 128):
            yield Tile(16, 32, min(d_v, 32), 8, 1)
        yield Tile(16, 16, min(d_v, 32), 8, 1)
        return
    if target.architecture == 90 and d_v <= 256 and d_qk <= 64:
        yield Tile(64, 128, d_v, 8, 2)
    if target.architecture in WARPGROUP and d_qk <= 64:
        yield Tile(64, 128, min(d_v, 128), 8, 1)
    if target.architecture in WARPGROUP and d_qk <= 128:
        yield Tile(64, 64, min(d_v, 128), 8, 2)
    rows = max(32, d_qk)  # as wide as dQ's tile, or every product is laid out along one axis
    if d_v <= 256 and d_qk <= 64:
        yield Tile(rows, 64, d_v, 4, 2)
    if d_qk <= 64:
        yield Tile(rows, 64, min(d_v, 128 if d_qk <= 32 else 64), 4, 2)
    yield Tile(32, 32, min(d_v, 64), 8, 2)
    yield Tile(16, 32, min(d_v, 32), 4, 1)


def _backward_queries(sizes: Shape, d_qk: int, d_v: int, item: int, target: Target) -> Candidates:
    if item == 4:
        if d_qk <= 64:
            yield Tile(32, 32, min(d_v, 64), 4, 1)
        yield Tile(16, 16, min(d_v, 32), 8, 1)
        return
    if target.architecture in WARPGROUP and d_v <= 256 and d_qk <= 64:
        yield Tile(128, 64, d_v, 8, 2)
    yield Tile(64, 64, min(d_v, 128 if target.architecture in WARPGROUP else 64), 4, 2)
    yield Tile(64, 32, min(d_v, 64), 4, 2)
    yield Tile(32, 32, min(d_v, 64), 4, 1)


def _backward_values(sizes: Shape, d_qk: int, d_v: int, item: int, target: Target) -> Candidates:
    if item == 4:
        yield Tile(32, 32, min(d_v, 64), 8, 1)
        yield Tile(16, 32, min(d_v, 32), 8, 1)
        return
    if target.architecture in WARPGROUP and d_qk <= 128:
        yield Tile(64, 128, min(d_v, 256), 8, 2, rotated=True)
    if d_qk <= 128:
        yield Tile(64, 128, min(d_v, 128), 8, 2)
    yield Tile(32, 64, min(d_v, 64), 4, 2)
    yield Tile(32, 32, min(d_v, 32), 4, 1)


def _backward_short(sizes: Shape, d_qk: int, d_v: int, item: int, target: Target) -> Candidates:
    keys = power_of_two(sizes.tokens_k)
    if item == 4:
        yield Tile(16, keys, min(d_v, 32), 8, 1)
        return
    warps = 8 if keys > 64 else 4
    rows = 64 if keys <= 64 and target.architecture == 90 else 32
    for columns, stages in ((64, 2), (32, 2), (32, 1), (16, 1)):
        yield Tile(rows, keys, min(d_v, columns), warps, stages)
    yield Tile(16, keys, 16, warps, 1)


# Columns that a tile does not divide are masked, and masks take registers.
_MASKED_COLUMNS = (
    ("forward_stream", Tile(64, 64, 64, 4, 2)),
    ("forward_stream_few", Tile(64, 64, 64, 4, 2, share=8)),
    ("backward_scores", Tile(32, 32, 64, 8, 2)),
    ("backward_queries", Tile(32, 32, 64, 4, 2)),
    ("backward_values", Tile(64, 64, 64, 4, 2)),
)
_CANDIDATES: dict[str, Callable[[Shape, int, int, int, Target], Candidates]] = {
    "forward_stream": _forward_stream,
    "forward_stream_few": _forward_stream_few,
    "forward_short": _forward_short,
    "backward_scores": _backward_scores,
    "backward_queries": _backward_queries,
    "backward_values": _backward_values,
    "backward_short": _backward_short,
}
