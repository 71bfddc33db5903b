"""Peak memory of one call, beyond what was in use before it."""

import json

import torch

from hmc_fast.profiling.timing import Call
from hmc_fast.profiling.trace import traced

MEASURES = {
    "cuda": "torch's allocations on the GPU in one call beyond those before it, at their highest "
    "(max_memory_allocated; an optimised network without its CUDA graph)",
    "cpu": "torch's allocations in one call, at their highest (its profiler; scratch memory that "
    "oneDNN takes for itself is not seen)",
}


def peak_mib(call: Call, device: torch.device) -> float:
    """MiB of one call of a side that has run before, results included."""
    peak = _peak_on_gpu(call, device) if device.type == "cuda" else _peak_on_cpu(call, device)
    return peak / 2**20


def _peak_on_gpu(call: Call, device: torch.device) -> int:
    call()  # libraries take their workspaces
    torch.cuda.synchronize(device)
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    result = call()
    torch.cuda.synchronize(device)
    del result
    return torch.cuda.max_memory_allocated(device) - before


def _peak_on_cpu(call: Call, device: torch.device) -> int:
    """By the sizes of what is allocated and freed. The process's resident memory would say more
    than a call needs: it depends on what the C library keeps of earlier calls, and moved from 192
    to 260 MiB for one and the same call."""
    events = json.loads(traced(call, device, memory=True))["traceEvents"]
    in_use = peak = 0
    for event in sorted((e for e in events if e["name"] == "[memory]"), key=lambda e: e["ts"]):
        in_use += event["args"]["Bytes"]
        peak = max(peak, in_use)
    return peak
