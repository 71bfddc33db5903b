"""Times on a GPU: bursts of calls between two CUDA events, all sides in turn, within a budget.

A burst holds so many calls that it lasts about BURST_MS: the gaps of a single launch then weigh
little, and a slow side makes few calls. The GPU is idle when a burst starts. Nothing empties the L2
cache between calls: in a network the layer before has just written the inputs.
"""

import contextlib
import math
import re
from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch

from hmc_fast.profiling import memory

BURST_MS, MOST_CALLS = 2.0, 50
BUDGET_MS, LEAST_ROUNDS = 120.0, 3  # of one side, all its bursts together
CALLS_IN_GRAPH = 10
Timer = Callable[[Callable[[], object], int], float]
Notice = Callable[[str], None]


class Side(NamedTuple):
    """One implementation in one mode: what is timed, and what holds while it is called."""

    call: Callable[[], object]
    context: Callable[[], contextlib.AbstractContextManager] = contextlib.nullcontext


class Broken(RuntimeError):
    """The CUDA context is lost (an illegal memory access, say): this process is of no more use."""


def burst(call: Callable[[], object], calls: int) -> float:
    """Milliseconds of one call, the mean of `calls` in a row."""
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    start.record()
    for _ in range(calls):
        call()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / calls


def bursts_in_turn(
    sides: Mapping[str, Side],
    rounds: int,
    notice: Notice = lambda name: None,
    timer: Timer = burst,
) -> dict[str, list[float] | Exception]:
    """Milliseconds of each side, one burst each a round, after a warm-up of all.

    A side that raises has its exception instead; `notice` hears a side's name before it runs.
    rounds: at most; a slow side has fewer, at least LEAST_ROUNDS.
    """
    plans: dict[str, tuple[int, int]] = {}
    times: dict[str, list[float] | Exception] = {name: [] for name in sides}

    def run(name: str, calls: int) -> float | None:
        notice(name)
        try:
            with sides[name].context():
                return timer(sides[name].call, calls)
        except Exception as error:
            check_alive(error)
            times[name] = error
            return None

    for name in sides:
        if run(name, 3) is not None and (estimate := run(name, 1)) is not None:
            plans[name] = plan(estimate, rounds)
    for index in range(rounds):
        order = list(plans) if index % 2 == 0 else list(reversed(plans))
        for name in order:
            calls, most = plans[name]
            found = times[name]
            if index < most and isinstance(found, list) and (ms := run(name, calls)) is not None:
                found.append(ms)
    return times


def plan(estimate: float, rounds: int) -> tuple[int, int]:
    """Calls of a burst and number of bursts for a side whose call takes `estimate` ms."""
    estimate = max(estimate, 1e-3)
    calls = min(MOST_CALLS, math.ceil(BURST_MS / estimate))
    affordable = int(BUDGET_MS / (calls * estimate))
    return calls, min(rounds, max(LEAST_ROUNDS, affordable))


def check_alive(error: Exception | None = None) -> None:
    """Broken, caused by `error`, where the GPU does not answer any more."""
    try:
        if torch.cuda.is_initialized():
            torch.cuda.synchronize()
    except RuntimeError as lost:
        raise Broken(str(lost)) from error


def captured(side: Side, calls: int = CALLS_IN_GRAPH) -> Side:
    """A side whose call replays a CUDA graph of `calls` calls."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with side.context(), torch.cuda.stream(stream):
        for _ in range(3):
            side.call()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with side.context(), torch.cuda.graph(graph):
        for _ in range(calls):
            side.call()
    return Side(graph.replay)


def peak_mib(side: Side) -> float:
    """Device memory of one call beyond what is allocated before it, at its highest, in MiB.

    The inputs are allocated before; results and everything kept for backward count.
    """
    with side.context():
        return memory.peak_mib(side.call, torch.device("cuda", torch.cuda.current_device()))


def slug(gpu: str) -> str:
    """A GPU's name as part of a file's: 'NVIDIA H200' is 'nvidia-h200'."""
    return re.sub(r"[^a-z0-9]+", "-", gpu.lower()).strip("-")
