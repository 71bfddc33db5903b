"""Chrome traces of calls, to open in chrome://tracing or ui.perfetto.dev."""

import gzip
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from hmc_fast.files import write_bytes
from hmc_fast.profiling.sides import Name, Side
from hmc_fast.profiling.timing import Call, synchronize

LOG_LEVEL = "KINETO_LOG_LEVEL"  # of torch's tracer, whose own lines would stand between ours
SILENT = "6"


def write_trace(path: Path, sides: Mapping[Name, Side], images: Tensor) -> None:
    """Write the trace of one forward each, every one in a span with its side's name; compressed
    where `path` ends in .gz."""

    def forwards() -> None:
        for name, side in sides.items():
            with torch.profiler.record_function(f"{name} batch {len(images)}"):
                side.forward(images)
                synchronize()

    trace = traced(forwards, images.device)
    write_bytes(path, gzip.compress(trace) if path.suffix == ".gz" else trace)


def traced(call: Call, device: torch.device, *, memory: bool = False) -> bytes:
    """The JSON of one call's Chrome trace; memory: with the allocations and what is freed."""
    os.environ.setdefault(LOG_LEVEL, SILENT)
    activities = [torch.profiler.ProfilerActivity.CPU]
    if device.type == "cuda":
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    with torch.profiler.profile(activities=activities, profile_memory=memory) as profiler:
        call()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "trace.json"
        profiler.export_chrome_trace(str(file))
        return file.read_bytes()
