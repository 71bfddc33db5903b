"""One profile from end to end: networks made, every batch size measured, a run's folds timed."""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from hmc_fast.errors import InputError
from hmc_fast.profiling.counts import Counts, count
from hmc_fast.profiling.fold_times import FoldTimes, time_fold
from hmc_fast.profiling.latency import Latency, measure, rounds_within
from hmc_fast.profiling.networks import phantom_images, settled_network
from hmc_fast.profiling.settings import Settings
from hmc_fast.profiling.sides import COMPILED, Name, Side, calls_on, make_sides
from hmc_fast.profiling.timing import in_turn, quantiles
from hmc_fast.profiling.trace import write_trace
from hmc_fast.progress import progress, say
from hmc_fast.training.opened_run import RunImages

BESIDE_ROUNDS = 3  # rounds' worth of other calls: warm-up, estimate, memory
WORTH_SAYING = 30  # seconds


def count_all(settings: Settings, *, quiet: bool = False) -> dict[str, Counts]:
    """The counts of every variant."""
    shown = progress(settings.variants, "counting", unit="network", quiet=quiet)
    device, dtype = settings.device, settings.dtypes[0]
    return {name: count(settings.architecture(name), device, dtype) for name in shown}


def measure_all(
    settings: Settings, trace: Path | None = None, *, quiet: bool = False
) -> list[Latency]:
    """Every side at every batch size; trace: file for one forward each at the first of them.

    Raises InputError where the memory does not suffice.
    """
    networks = {
        name: settled_network(settings.architecture(name), settings.backend).to(settings.device)
        for name in progress(settings.variants, "making", unit="network", quiet=quiet)
    }
    found: list[Latency] = []
    for batch in settings.batches:
        images = phantom_images(batch, settings.image_size).to(settings.device)
        with _input_errors(batch):
            sides = _sides(settings, networks, batch)
            _announce(settings, found, sides, images, quiet)
            found += measure(sides, images, settings.rounds, quiet=quiet)
        if trace is not None and batch == settings.batches[0]:
            write_trace(trace, sides, images)
    return found


def time_folds(settings: Settings, images: RunImages, *, quiet: bool = False) -> list[FoldTimes]:
    """Each trained fold's model on its own test images."""
    with _input_errors(1):
        return [time_fold(images, fold, settings, quiet=quiet) for fold in images.run.folds]


def _sides(settings: Settings, networks: Mapping[str, nn.Module], batch: int) -> dict[Name, Side]:
    return {
        name: side
        for variant, network in networks.items()
        for name, side in make_sides(
            variant, network, settings.dtypes, batch_size=batch, compiled=settings.compiled
        )
    }


def _announce(
    settings: Settings,
    before: Sequence[Latency],
    sides: Mapping[Name, Side],
    images: Tensor,
    quiet: bool,
) -> None:
    """Say how long a batch size will take, by the one before it or by single images, where that is
    long."""
    batch = len(images)
    if before:
        last = [found for found in before if found.batch == before[-1].batch]
        an_image = sum(quantiles(found.ms_an_image())["q50"] for found in last) / 1e3
    elif settings.device.type == "cpu" and batch > 1:
        quick = {name: side for name, side in sides.items() if name.provider != COMPILED}
        times = in_turn(calls_on(images[:1], quick), [0])
        an_image = sum(ms for values in times.values() for ms in values) / 1e3
    else:
        return
    seconds = an_image * batch
    rounds = settings.rounds or rounds_within(seconds, settings.device)
    total = seconds * (rounds + BESIDE_ROUNDS)
    if total > WORTH_SAYING:
        say(f"batch {batch} will take about {total / 60:.1f} minutes", quiet)


@contextlib.contextmanager
def _input_errors(batch: int) -> Iterator[None]:
    """InputError for what the network refuses (a backend that cannot take a dtype) and where torch
    could not allocate: on a CPU it raises a plain RuntimeError."""
    try:
        yield
    except ValueError as error:
        raise InputError(str(error)) from error
    except RuntimeError as error:
        if isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error):
            raise InputError(
                f"not enough memory at batch {batch}: lower --batch or --image-size"
            ) from error
        raise
