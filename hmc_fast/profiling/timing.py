"""Milliseconds of calls, all sides in turn.

A ratio is honest when both sides ran in one process, turn by turn, after a warm-up: a clock that
changes or a neighbour that wakes up then slows both.
"""

import contextlib
import time
from collections.abc import Callable, Hashable, Iterable, Mapping
from typing import TypeVar

import numpy as np
import torch

Call = Callable[[], object]
Timer = Callable[[Call], float]
Name = TypeVar("Name", bound=Hashable)
Result = TypeVar("Result")


def milliseconds(call: Call) -> float:
    """Wall-clock time of one call in ms, until the GPU has finished where one is in use."""
    return timed(call)[1]


def timed(call: Callable[[], Result]) -> tuple[Result, float]:
    """What a call gives, and `milliseconds` of it."""
    synchronize()
    started = time.perf_counter()
    result = call()
    synchronize()
    return result, (time.perf_counter() - started) * 1e3


def event_milliseconds(call: Call) -> float:
    """Time of one call in ms between two events of the current CUDA device, which is idle
    before."""
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    start.record()
    call()
    end.record()
    end.synchronize()
    return start.elapsed_time(end)


def timer_of(device: torch.device) -> Timer:
    """Events on a GPU, the processor's clock elsewhere."""
    return event_milliseconds if device.type == "cuda" else milliseconds


def on_device(device: torch.device) -> contextlib.AbstractContextManager:
    """A context in which the device is the current one: events are recorded on, and `synchronize`
    waits for, the current GPU."""
    return torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext()


def synchronize() -> None:
    """Wait for the GPU if this process uses one."""
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()


def in_turn(
    sides: Mapping[Name, Call],
    rounds: Iterable[int],
    timer: Timer = milliseconds,
) -> dict[Name, list[float]]:
    """Times of each side in ms, one each a round; `rounds` yields their numbers.

    The order turns round every time (a b c, c b a, …): nobody always finds another's warm cache.
    """
    times: dict[Name, list[float]] = {name: [] for name in sides}
    for index in rounds:
        names = list(sides) if index % 2 == 0 else list(sides)[::-1]
        for name in names:
            times[name].append(timer(sides[name]))
    return times


def quantiles(values: Iterable[float]) -> dict[str, float]:
    """The median and the 20 and 80 % quantiles, as the columns q50, q20, q80."""
    q50, q20, q80 = np.quantile(np.fromiter(values, dtype=float), [0.5, 0.2, 0.8])
    return {"q50": float(q50), "q20": float(q20), "q80": float(q80)}
