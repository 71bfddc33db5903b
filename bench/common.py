"""What the benchmarks share: pairs timed in turn, quantiles, the machine in each row, result files.

A ratio is honest when both sides ran in one process, turn by turn, after a warm-up: a clock that
changes or a neighbour that wakes up then slows both. Before it times a pair, a benchmark compares
their results.
"""

from collections.abc import Callable, Hashable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch

from hmc_fast.profiling import rows, timing
from hmc_fast.profiling.rows import COLUMNS, ENVIRONMENT, METRICS
from hmc_fast.profiling.timing import milliseconds, quantiles, synchronize

__all__ = ["COLUMNS", "ENVIRONMENT", "METRICS", "milliseconds", "quantiles", "synchronize"]
RESULTS = Path(__file__).resolve().parent / "results"
Side = Callable[[], object]
Name = TypeVar("Name", bound=Hashable)


def interleave(
    a: Side, b: Side, rounds: int = 20, warmup: int = 3
) -> tuple[list[float], list[float]]:
    """Times of `a` and `b` in ms: `in_turn` for two."""
    times = in_turn({"a": a, "b": b}, rounds, warmup)
    return times["a"], times["b"]


def in_turn(
    sides: Mapping[Name, Side], rounds: int = 20, warmup: int = 3
) -> dict[Name, list[float]]:
    """Times of each side in ms, one each a round, after `warmup` untimed calls of all.

    The order turns round every time (a b c, c b a, …): nobody always finds another's warm cache.
    """
    for _ in range(warmup):
        for side in sides.values():
            side()
    return timing.in_turn(sides, range(rounds), milliseconds)


def record_pair(
    benchmark: Any, name_a: str, a: Side, name_b: str, b: Side, rounds: int = 20, warmup: int = 3
) -> float:
    """Time a pair in turn, tell pytest-benchmark, return how many times faster `a` is than `b`.

    benchmark: the fixture. Its `extra_info` gets medians, quantiles (ms) and the ratio of medians:
    the figures to quote, printed after the tables. The row in pytest-benchmark's table is side `a`
    alone, timed afterwards.
    """
    times = dict(zip((name_a, name_b), interleave(a, b, rounds, warmup), strict=True))
    spread = {name: quantiles(values) for name, values in times.items()}
    ratio = spread[name_b]["q50"] / spread[name_a]["q50"]
    for name, values in spread.items():
        benchmark.extra_info |= {f"{name}_ms_{key}": value for key, value in values.items()}
    benchmark.extra_info["ratio"] = ratio
    benchmark.extra_info["pair"] = (
        f"{describe(name_a, spread[name_a])}, {describe(name_b, spread[name_b])}: {ratio:.2f}x"
    )
    benchmark.pedantic(lambda: milliseconds(a), rounds=min(rounds, 5), warmup_rounds=1)
    return ratio


def describe(name: str, times: Mapping[str, float]) -> str:
    """'chunked 41.2 ms (40.8 to 42.0)'."""
    return f"{name} {times['q50']:.4g} ms ({times['q20']:.4g} to {times['q80']:.4g})"


def matmul_rate(
    dtype: torch.dtype, device: str | None = None, size: int | None = None, rounds: int = 10
) -> float:
    """The median TFLOP/s of a square torch matmul here and now: the ceiling for kernels.

    device: the GPU if there is one; size: 8192 on a GPU, 2048 on a CPU.
    """
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    size = size or (8192 if device.startswith("cuda") else 2048)
    left, right = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    out = torch.empty_like(left)
    times = [milliseconds(lambda: torch.matmul(left, right, out=out)) for _ in range(rounds + 2)]
    return 2 * size**3 / (quantiles(times[2:])["q50"] * 1e-3) / 1e12


def row(
    op: str,
    provider: str,
    mode: str,
    metric: str,
    values: Iterable[float],
    *,
    batch: int,
    n: int,
    d_qk: int,
    d_v: int,
    dtype: torch.dtype,
) -> dict[str, Any]:
    """`rows.row` on the machine's GPU where there is one; mode: forward, backward or step; n:
    tokens."""
    sizes = {"batch": batch, "n": n, "d_qk": d_qk, "d_v": d_v, "dtype": dtype}
    return rows.row(op, provider, mode, metric, values, **sizes, device=_device())  # type: ignore[arg-type]


def environment_columns() -> dict[str, str]:
    """On what a number was measured; `gpu` names the processor where there is no GPU."""
    return rows.environment_columns(_device())


def _device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def write_rows(name: str, lines: Iterable[Mapping[str, Any]], results: Path = RESULTS) -> Path:
    """Replace `results`/`name`.csv by `lines`, one line one number, columns as COLUMNS."""
    results.mkdir(parents=True, exist_ok=True)
    path = results / f"{name}.csv"
    rows.write_rows(path, lines)
    return path
