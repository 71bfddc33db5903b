"""Lines of a result file: one number each, with what ran and on what."""

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

import torch

from hmc_fast.environment import commit, cpu, package_version
from hmc_fast.files import write_csv
from hmc_fast.kernels.configurations import dtype_name
from hmc_fast.profiling.timing import quantiles

METRICS = ("ms", "tflops", "gbps", "peak_mib", "error", "parameters", "gmac")
ENVIRONMENT = ("gpu", "torch", "triton", "commit", "date")
COLUMNS = (
    *("op", "provider", "mode", "batch", "n", "d_qk", "d_v", "dtype"),
    *("metric", "q50", "q20", "q80"),
    *ENVIRONMENT,
)


def row(
    op: str,
    provider: str,
    mode: str,
    metric: str,
    values: Iterable[float],
    *,
    batch: int,
    n: int,
    dtype: torch.dtype,
    device: torch.device,
    d_qk: int = 0,
    d_v: int = 0,
) -> dict[str, Any]:
    """One number as a line of a result file: what ran, quantiles of `values`, and on what.

    metric: one of METRICS; n: tokens, or for a whole network pixels of a side, with d_qk and d_v 0.
    Raises ValueError for another metric.
    """
    if metric not in METRICS:
        raise ValueError(f"metric is one of {', '.join(METRICS)}, not {metric!r}")
    what = {"op": op, "provider": provider, "mode": mode, "batch": batch, "n": n}
    sizes = {"d_qk": d_qk, "d_v": d_v, "dtype": dtype_name(dtype)}
    return what | sizes | {"metric": metric} | quantiles(values) | environment_columns(device)


@cache
def environment_columns(device: torch.device) -> dict[str, str]:
    """On what a number was measured; `gpu` names the processor where the device is none."""
    return {
        "gpu": machine(device),
        "torch": torch.__version__,
        "triton": package_version("triton") or "none",
        "commit": commit() or "none",
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
    }


def machine(device: torch.device) -> str:
    """The GPU's name, or the processor's with torch's threads."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    found = cpu()
    return f"{found['model']}, {found['threads']} threads"


def write_rows(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Replace `path` by `rows`, columns as COLUMNS."""
    write_csv(path, COLUMNS, [[_cell(line[column]) for column in COLUMNS] for line in rows])


def _cell(value: Any) -> Any:
    """Whole numbers keep all their digits: counts are exact."""
    if not isinstance(value, float):
        return value
    return int(value) if value.is_integer() else f"{value:.6g}"
