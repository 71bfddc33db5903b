"""What runs on the GPU in one optimised forward: its kernels, and whether the design's gate holds.

The gate: at most 75 nodes; no pointwise kernel over a map, which is a convolution's output; no copy
that changes a layout; no cast but that of the vector that CA34 adds to the logits, (B, classes).
The forward is the network's own without a CUDA graph, whose nodes are the same: preparing the
images and the copies in and out of a graph are not in it.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from common import ENVIRONMENT, environment_columns
from gpu_timing import slug
from hmc_fast.files import write_csv

MOST_NODES = 75
CASTS = 1
MAP_DIMS = 4
LAYOUT = re.compile(r"nchwtonhwc|nhwctonchw|transpose|catarray", re.I)
COPY = re.compile(r"direct_copy|copy_kernel|memcpy", re.I)
POINTWISE = re.compile(r"elementwise|triton_poi", re.I)
HEADER = ("variant", "batch", "kernel", "operator", "dims", "count", "us", *ENVIRONMENT)
LONGEST = 70  # letters of a kernel's name that are printed


class Kernel(NamedTuple):
    """Launches of one kernel by one operator. dims: of the operator's widest input, 0 where the
    profiler does not say; us: of all launches together."""

    name: str
    operator: str
    dims: int
    count: int
    us: float


def gate(kernels: Iterable[Kernel]) -> list[str]:
    """What breaks the gate, a sentence each; none where it holds."""
    kernels = list(kernels)
    nodes, casts, broken = sum(kernel.count for kernel in kernels), 0, []
    if nodes > MOST_NODES:
        broken.append(f"{nodes} nodes, at most {MOST_NODES}")
    for kernel in kernels:
        what = f"{kernel.count} x {kernel.name[:LONGEST]} ({kernel.operator})"
        unknown = kernel.dims == 0
        if LAYOUT.search(kernel.name):
            broken.append(f"copies a layout: {what}")
        elif COPY.search(kernel.name):
            casts += kernel.count
            if unknown or kernel.dims >= MAP_DIMS:
                broken.append(f"copies or casts a map: {what}")
        elif POINTWISE.search(kernel.name) and (unknown or kernel.dims >= MAP_DIMS):
            broken.append(f"a pass over a map: {what}")
    if casts > CASTS:
        broken.append(f"{casts} copies or casts, at most {CASTS} is explained")
    return broken


def kernels_of(call: Callable[[], Any]) -> list[Kernel]:
    """The kernels of one call, after another one that warms up; the longest first."""
    activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    with torch.inference_mode():
        call()
        torch.cuda.synchronize()
        with torch.profiler.profile(activities=activities, record_shapes=True) as profile:
            call()
            torch.cuda.synchronize()
    return summed(profile.events())


def summed(events: Iterable[Any]) -> list[Kernel]:
    """The profiler's events on the GPU, those of one kernel and operator together.

    An operator's event names the kernels that it launched; what none names has no operator.
    """
    events = list(events)
    on_gpu = [e for e in events if e.device_type == torch.autograd.DeviceType.CUDA]
    launched: dict[str, list[tuple[str, int]]] = defaultdict(list)
    for event in events:
        dims = max((len(shape) for shape in event.input_shapes or () if shape), default=0)
        for kernel in event.kernels or ():
            launched[kernel.name].append((event.name, dims))
    counts: Counter[tuple[str, str, int]] = Counter()
    times: dict[tuple[str, str, int], float] = defaultdict(float)
    for event in on_gpu:
        operators = launched[event.name]
        key = (event.name, *(operators.pop(0) if operators else ("", 0)))
        counts[key] += 1
        times[key] += event.time_range.elapsed_us()
    found = [Kernel(*key, count, times[key]) for key, count in counts.items()]
    return sorted(found, key=lambda kernel: -kernel.us)


def table_of(variant: str, batch: int, kernels: Sequence[Kernel]) -> list[str]:
    """Lines: a kernel each, the sum, and the gate."""
    lines = [f"{variant} batch {batch}, kernels of one forward"]
    for kernel in kernels:
        where = f"{kernel.operator} {kernel.dims}d" if kernel.operator else "?"
        lines.append(f"{kernel.us:9.1f} us {kernel.count:3d} x {kernel.name[:LONGEST]}  {where}")
    nodes, us = sum(k.count for k in kernels), sum(k.us for k in kernels)
    lines.append(f"{us:9.1f} us {nodes:3d}   in all")
    broken = gate(kernels)
    return lines + ([f"gate missed: {what}" for what in broken] or ["gate met"])


def write_kernels(found: dict[tuple[str, int], list[Kernel]], folder: Path) -> Path:
    """inference-kernels-<gpu>.csv, a row a kernel and operator."""
    columns = environment_columns()
    stamp = [columns[name] for name in ENVIRONMENT]
    path = folder / f"inference-kernels-{slug(columns['gpu'])}.csv"
    folder.mkdir(parents=True, exist_ok=True)
    rows = [
        [variant, batch, *kernel[:4], f"{kernel.us:.6g}", *stamp]
        for (variant, batch), kernels in found.items()
        for kernel in kernels
    ]
    write_csv(path, HEADER, rows)
    return path
