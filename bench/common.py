"""What the benchmarks share: pairs timed in turn, quantiles, the machine in each row, result files.

A ratio is honest when both sides ran in one process, turn by turn, after a warm-up: a clock that
changes or a neighbour that wakes up then slows both. Before it times a pair, a benchmark compares
their results.
"""

import time
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hmc_fast.environment import commit, environment, package_version
from hmc_fast.files import write_csv
from hmc_fast.kernels.configurations import dtype_name

RESULTS = Path(__file__).resolve().parent / "results"
METRICS = ("ms", "tflops", "gbps", "peak_mib", "error")
ENVIRONMENT = ("gpu", "torch", "triton", "commit", "date")
COLUMNS = (
    *("op", "provider", "mode", "batch", "n", "d_qk", "d_v", "dtype"),
    *("metric", "q50", "q20", "q80"),
    *ENVIRONMENT,
)
Side = Callable[[], object]


def milliseconds(function: Side) -> float:
    """The time of one call in ms, until the GPU has finished where one is in use."""
    synchronize()
    started = time.perf_counter()
    function()
    synchronize()
    return (time.perf_counter() - started) * 1e3


def synchronize() -> None:
    """Wait for the GPU if this process uses one."""
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()


def interleave(
    a: Side, b: Side, rounds: int = 20, warmup: int = 3
) -> tuple[list[float], list[float]]:
    """Times of `a` and `b` in ms: `in_turn` for two."""
    times = in_turn({"a": a, "b": b}, rounds, warmup)
    return times["a"], times["b"]


def in_turn(sides: Mapping[str, Side], rounds: int = 20, warmup: int = 3) -> dict[str, list[float]]:
    """Times of each side in ms, one each a round, after `warmup` untimed calls of all.

    The order turns round every time (a b c, c b a, …): nobody always finds another's warm cache.
    """
    for _ in range(warmup):
        for side in sides.values():
            side()
    times: dict[str, list[float]] = {name: [] for name in sides}
    for index in range(rounds):
        names = list(sides) if index % 2 == 0 else list(reversed(sides))
        for name in names:
            times[name].append(milliseconds(sides[name]))
    return times


def quantiles(values: Iterable[float]) -> dict[str, float]:
    """The median and the 20 and 80 % quantiles, as the columns q50, q20, q80."""
    q50, q20, q80 = np.quantile(np.fromiter(values, dtype=float), [0.5, 0.2, 0.8])
    return {"q50": float(q50), "q20": float(q20), "q80": float(q80)}


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
    """One number as a line of a result file: what ran, quantiles of `values`, and on what.

    mode: forward, backward or step. metric: one of METRICS. n: tokens.
    """
    if metric not in METRICS:
        raise ValueError(f"metric is one of {', '.join(METRICS)}, not {metric!r}")
    what = {"op": op, "provider": provider, "mode": mode, "batch": batch, "n": n}
    sizes = {"d_qk": d_qk, "d_v": d_v, "dtype": dtype_name(dtype)}
    return what | sizes | {"metric": metric} | quantiles(values) | environment_columns()


@cache
def environment_columns() -> dict[str, str]:
    """On what a number was measured; `gpu` names the processor where there is no GPU."""
    found = environment()
    processor = f"{found['cpu']['model']}, {found['cpu']['threads']} threads"
    gpus = [device["name"] for device in found["cuda"]["devices"]]
    return {
        "gpu": gpus[0] if gpus else processor,
        "torch": torch.__version__,
        "triton": package_version("triton") or "none",
        "commit": commit() or "none",
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
    }


def write_rows(name: str, rows: Iterable[Mapping[str, Any]], results: Path = RESULTS) -> Path:
    """Replace `results`/`name`.csv by `rows`, one line one number, columns as COLUMNS."""
    results.mkdir(parents=True, exist_ok=True)
    path = results / f"{name}.csv"
    write_csv(path, COLUMNS, [[_cell(line[column]) for column in COLUMNS] for line in rows])
    return path


def _cell(value: Any) -> Any:
    return f"{value:.6g}" if isinstance(value, float) else value
