"""What was counted and measured as rows of a result file (rows.py)."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch

from hmc_fast.profiling.counts import Counts
from hmc_fast.profiling.fold_times import FoldTimes
from hmc_fast.profiling.latency import Latency
from hmc_fast.profiling.rows import row
from hmc_fast.profiling.settings import Settings
from hmc_fast.profiling.sides import EAGER

Row = dict[str, Any]


def result_rows(
    settings: Settings,
    counts: Mapping[str, Counts],
    latencies: Sequence[Latency],
    folds: Sequence[FoldTimes],
) -> Iterator[Row]:
    """All numbers as rows of a result file; ms is of a whole batch, as in bench/results."""
    for name, found in counts.items():
        yield from _count_rows(name, found, settings)
    for latency in latencies:
        yield from _latency_rows(latency, settings)
    for times in folds:
        yield from _fold_rows(times, settings)


def _count_rows(name: str, found: Counts, settings: Settings) -> Iterator[Row]:
    values = {("textbook", "parameters"): found.parameters, ("textbook", "gmac"): found.gmac}
    if found.executed is not None:
        values["optimised", "gmac"] = found.executed / 1e9
    for (provider, metric), value in values.items():
        yield row(
            name, provider, "forward", metric, [value], batch=1, n=settings.image_size,
            dtype=torch.float32, device=settings.device,
        )  # fmt: skip


def _latency_rows(found: Latency, settings: Settings) -> Iterator[Row]:
    network, provider, dtype = found.name
    values = {"ms": found.ms, "peak_mib": [found.peak]}
    values |= {} if provider == EAGER else {"error": [found.difference]}
    for metric, numbers in values.items():
        yield row(
                network, provider, "forward", metric, numbers, batch=found.batch,
                n=settings.image_size, dtype=dtype, device=settings.device,
            )  # fmt: skip


def _fold_rows(times: FoldTimes, settings: Settings) -> Iterator[Row]:
    for name, forward in times.forward.items():
        modes = {"": forward, "-with-loading": times.with_loading(name)}
        for ending, ms in modes.items():
            yield row(
                name.network, name.provider, f"fold{times.fold}{ending}", "ms", ms, batch=1,
                n=times.pixels, dtype=name.dtype, device=settings.device,
            )  # fmt: skip
