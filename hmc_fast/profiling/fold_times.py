"""The time of a run's models on their own test images, one by one, with and without loading.

The paper's way: each fold's model over the images that it was not trained on, milliseconds an image
from the file to the probabilities. Loading is reading, decoding, resizing and the way to the
device; the files have been read before, so they come from the system's page cache.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

from torch import Tensor

from hmc_fast.kernels.configurations import dtype_name
from hmc_fast.profiling.latency import right_sides
from hmc_fast.profiling.settings import Settings
from hmc_fast.profiling.sides import Name, calls_on, make_sides
from hmc_fast.profiling.tables import aligned, number
from hmc_fast.profiling.timing import in_turn, quantiles, timed, timer_of
from hmc_fast.progress import progress
from hmc_fast.training.opened_run import RunImages


class FoldTimes(NamedTuple):
    """Of one fold: ms of loading each test image, and of each side's forward on it; pixels: of a
    side of what the network sees."""

    fold: int
    pixels: int
    loading: list[float]
    forward: dict[Name, list[float]]

    def with_loading(self, name: Name) -> list[float]:
        """ms of loading and forward together, by image."""
        return [a + b for a, b in zip(self.loading, self.forward[name], strict=True)]


def time_fold(
    images: RunImages, fold: int, settings: Settings, *, quiet: bool = False
) -> FoldTimes:
    """Load each test image of a fold once and give it to all sides in turn.

    A side whose probabilities are not those of the eager model is left out, which is said.
    """
    run, tested = images.run, images.tested(fold)
    device, timer = settings.device, timer_of(settings.device)
    model: Any = run.model(fold, settings.backend).to(device)

    def load(image: int) -> Tensor:
        return model.preprocessing(images.dataset.read(image)).to(device)

    made = make_sides(
        run.config.variant, model, settings.dtypes, batch_size=1, compiled=settings.compiled
    )
    first = load(tested[0])
    sides, _ = right_sides(dict(made), first, quiet=quiet)
    in_turn(calls_on(first, sides), [0])  # the second call, as in latency.py
    times = FoldTimes(fold, run.config.pixels, [], {name: [] for name in sides})
    shown = progress(tested, f"timing fold {fold}", quiet=quiet)
    for turn, image in enumerate(shown):
        loaded, ms = timed(partial(load, image))
        times.loading.append(ms)
        for name, values in in_turn(calls_on(loaded, sides), [turn], timer).items():
            times.forward[name] += values
    return times


def fold_table(folds: Sequence[FoldTimes]) -> list[str]:
    """Lines: the median ms of each side, alone and with loading, a row a fold and one for all
    images."""
    names = list(folds[0].forward)
    header = ["fold", "images", "loading"]
    for name in names:
        header += [f"{name.provider} {dtype_name(name.dtype)}", "with loading"]
    rows = [_row(str(times.fold), times, names) for times in folds]
    return aligned(header, [*rows, _row("all", pooled(folds), names)])


def pooled(folds: Sequence[FoldTimes]) -> FoldTimes:
    """All images of all folds as one, fold -1."""
    names = folds[0].forward
    return FoldTimes(
        -1,
        folds[0].pixels,
        [ms for times in folds for ms in times.loading],
        {name: [ms for times in folds for ms in times.forward[name]] for name in names},
    )


def _row(label: str, times: FoldTimes, names: Sequence[Name]) -> list[str]:
    cells = [label, str(len(times.loading)), _median(times.loading)]
    for name in names:
        cells += [_median(times.forward[name]), _median(times.with_loading(name))]
    return cells


def _median(values: Sequence[float]) -> str:
    return number(quantiles(values)["q50"])
