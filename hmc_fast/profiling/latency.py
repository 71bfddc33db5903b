"""The time and memory of all sides at one batch size: warm-up, check, rounds in turn."""

from collections.abc import Mapping
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from hmc_fast.profiling.memory import peak_mib
from hmc_fast.profiling.sides import EAGER, Name, Side, calls_on, largest_difference, tolerance
from hmc_fast.profiling.timing import in_turn, timer_of
from hmc_fast.progress import progress, say

BUDGET_SECONDS = 20.0  # of the rounds at one batch size
LEAST_ROUNDS, MOST_ROUNDS = 3, {"cpu": 20, "cuda": 50}


class Latency(NamedTuple):
    """What was measured of a side at one batch size.

    ms: of whole batches, a round each; peak: MiB; difference: max |Δp| against the eager network.
    """

    name: Name
    batch: int
    ms: list[float]
    peak: float
    difference: float

    def ms_an_image(self) -> list[float]:
        """`ms` over the images of a batch."""
        return [value / self.batch for value in self.ms]


def measure(
    sides: Mapping[Name, Side],
    images: Tensor,
    rounds: int | None = None,
    *,
    quiet: bool = False,
) -> list[Latency]:
    """Time all sides on one batch of images, on their device.

    sides: with the eager one of every network; rounds: None for as many as BUDGET_SECONDS allow.
    A side whose probabilities are not those of its eager network is left out, which is said.
    """
    device, batch = images.device, len(images)
    right, differences = right_sides(sides, images, quiet=quiet)
    calls = calls_on(images, right)
    once = in_turn(calls, [0], timer_of(device))  # the second call: nothing is compiled or laid out
    seconds = sum(ms for times in once.values() for ms in times) / 1e3
    rounds = rounds or rounds_within(seconds, device)
    say(f"batch {batch}: {rounds} rounds of about {seconds:.1f} s, all sides in turn", quiet)
    shown = progress(range(rounds), f"batch {batch}", unit="round", quiet=quiet)
    times = in_turn(calls, shown, timer_of(device))
    peaks = {
        name: peak_mib(partial(side.for_memory, images), device) for name, side in right.items()
    }
    return [Latency(n, batch, times[n], peaks[n], differences[n]) for n in right]


def rounds_within(seconds: float, device: torch.device) -> int:
    """How many rounds of so many seconds the budget allows."""
    affordable = int(BUDGET_SECONDS / max(seconds, 1e-6))
    return min(max(LEAST_ROUNDS, affordable), MOST_ROUNDS[device.type])


def right_sides(
    sides: Mapping[Name, Side], images: Tensor, *, quiet: bool = False
) -> tuple[dict[Name, Side], dict[Name, float]]:
    """Call each side once, the first of its warm-up; those that are right, and their max |Δp|
    against the eager side of their network, which stands before them."""
    eager: dict[str, Tensor] = {}
    differences = {}
    for name in progress(sides, f"warming up, batch {len(images)}", unit="side", quiet=quiet):
        logits = sides[name].forward(images)
        if name.provider == EAGER:
            eager[name.network] = logits
        difference = largest_difference(logits, eager[name.network])
        if difference <= tolerance(name, images.device):
            differences[name] = difference
        else:
            say(f"{name} is left out: max |Δp| against eager is {difference:.2g}", quiet)
    return {name: sides[name] for name in differences}, differences
