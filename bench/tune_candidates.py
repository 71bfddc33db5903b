"""What a tuning run tries: for each kernel and class of shapes, tiles around the one in use.

Candidates come in the order of their distance from the tile in use and from the rule's, counted in
halvings and doublings; those that cannot fit the GPU are left out before anything is compiled.
"""

import itertools
import math
from collections.abc import Iterator
from typing import NamedTuple

import torch

from attention_cases import BLOCKS, REASSOCIATED, Case
from hmc_fast.kernels.configurations import (
    KERNELS,
    WARPGROUP,
    Shape,
    Target,
    Tile,
    is_short,
    power_of_two,
    rule,
    shared_memory,
    tile_for,
)

MOST_ACCUMULATORS = 224  # float32 numbers a thread may hold; a thread has 255 registers
SHAPES = {**BLOCKS, **REASSOCIATED}
MOST_TOKENS = 65536  # where backward_queries is used


class Job(NamedTuple):
    """One row of the table: a kernel at a class of shapes."""

    kernel: str
    case: Case

    @property
    def sizes(self) -> Shape:
        case = self.case
        return Shape(case.batch, case.n, case.n, case.d_qk, case.d_v)

    def __str__(self) -> str:
        return f"{self.kernel} at {self.case}"


def jobs(dtype: torch.dtype) -> list[Job]:
    """All rows of one dtype, the most important first."""
    batch = 8 if dtype == torch.float32 else 32
    found = []
    for kernel in KERNELS:
        if kernel == "backward_queries":
            cases = [Case("ha1", 1, MOST_TOKENS, *BLOCKS["ha1"][1:], dtype)]
        else:
            many = 1 if kernel.endswith("_few") else batch
            every = [Case(name, many, *sizes, dtype) for name, sizes in SHAPES.items()]
            short = kernel.endswith("_short")
            cases = [c for c in every if is_short(c.n, c.d_qk, dtype.itemsize) == short]
        found += [Job(kernel, case) for case in cases]

    def rank(job: Job) -> tuple[bool, ...]:
        return job.kernel == "backward_queries", job.case.name != "ha1", job.case.name != "ha2"

    return sorted(found, key=rank)


def candidates(job: Job, target: Target, most: int = 48) -> list[Tile]:
    """The tile in use, then others that fit `target`, the nearest first."""
    sizes, dtype = job.sizes, job.case.dtype
    bases = [tile_for(job.kernel, sizes, dtype, target), rule(job.kernel, sizes, dtype, target)]
    fitting = (tile for tile in grid(job) if fits(job, tile, target) and tile not in bases)
    nearest = sorted(fitting, key=lambda tile: (min(distance(tile, base) for base in bases), tile))
    return [*dict.fromkeys(bases), *nearest][:most]


def grid(job: Job) -> Iterator[Tile]:
    """Every tile that the kernel could take."""
    kernel, tokens = job.kernel, power_of_two(job.case.n)
    rows = [size for size in (16, 32, 64, 128) if size <= tokens]
    keys = [tokens] if kernel.endswith("_short") else [16, 32, 64, 128]
    columns = [size for size in (16, 32, 64, 128, 256, 512) if size <= power_of_two(job.case.d_v)]
    rotated = [False, True] if kernel in ROTATING else [False]
    shares = SHARES.get(kernel, [1])
    for sizes in itertools.product(rows, keys, columns, (4, 8), (1, 2, 3, 4), rotated, shares):
        yield Tile(*sizes)


ROTATING = ("forward_stream", "forward_stream_few", "backward_values")
SHARES = {"forward_stream_few": [1, 2, 4, 8, 16], "forward_short": [1, 2, 4, 8]}


def fits(job: Job, tile: Tile, target: Target) -> bool:
    """Shared memory, registers and, on mma.sync GPUs, columns that do not exceed the rows."""
    d_qk, d_v = power_of_two(job.case.d_qk), power_of_two(job.case.d_v)
    needed = shared_memory(job.kernel, tile, d_qk, d_v, job.sizes, job.case.dtype)
    if needed > target.limit:
        return False
    rows, keys, columns = tile.block_m, tile.block_n, tile.block_dv
    accumulators = {
        "backward_values": (keys, columns, keys * columns + rows * keys // 2),
        "backward_scores": (0, 0, rows * keys * 2 + keys * d_qk),
        "backward_queries": (0, 0, rows * keys * 2 + rows * d_qk),
        "backward_short": (0, 0, rows * keys * 2 + rows * d_qk),
    }
    otherwise = (rows, columns, rows * columns + rows * keys)
    owned, wide, numbers = accumulators.get(job.kernel, otherwise)
    trapped = target.architecture not in WARPGROUP and wide > owned
    return not trapped and numbers <= MOST_ACCUMULATORS * 32 * tile.num_warps


def distance(tile: Tile, base: Tile) -> float:
    """In halvings and doublings of a size, steps of stages, and a turn of `rotated`."""
    sizes = ("block_m", "block_n", "block_dv", "num_warps", "share")
    halvings = sum(abs(math.log2(getattr(tile, name) / getattr(base, name))) for name in sizes)
    return halvings + abs(tile.num_stages - base.num_stages) + (tile.rotated != base.rotated)
