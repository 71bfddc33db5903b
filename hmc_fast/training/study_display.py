"""One progress line for a whole grid of runs, with an estimate of its end."""

import sys
import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Protocol

from tqdm import tqdm

from hmc_fast.progress import say
from hmc_fast.sentences import duration
from hmc_fast.training.batches import BatchPlan
from hmc_fast.training.config import TrainConfig
from hmc_fast.training.display import Bar, Display

SECONDS_BETWEEN_LINES = 30.0


class Run(Protocol):
    """What the display asks of a run of the grid."""

    @property
    def name(self) -> str:
        """Of the run."""

    @property
    def config(self) -> TrainConfig:
        """Its settings."""

    def missing(self) -> list[int]:
        """The folds that are not trained yet."""


class GridProgress(Bar):
    """Shows how much of all folds' work is done.

    seconds: by run, what one of its folds is thought to take: the weight of its steps, and the
    estimate until the first steps are measured; processes: how many share the work.
    """

    def __init__(
        self, runs: Sequence[Run], seconds: Mapping[str, float], processes: int, quiet: bool
    ) -> None:
        self.runs, self.seconds, self.processes, self.quiet = runs, seconds, processes, quiet
        self.total = sum(run.config.folds * seconds[run.name] for run in runs)
        self.current, self.now = 0.0, "beginning"
        self.worked, self.took = 0.0, 0.0  # in the steps of this process: work, and its seconds
        self.last = time.monotonic()
        self.bar = tqdm(
            total=round(self.total, 1), unit="s", leave=False, file=sys.stderr,
            disable=quiet or not sys.stderr.isatty(),
            bar_format="study: {desc}{percentage:3.0f} %{postfix} |{bar}|",  # ", about 2 h left"
        )  # fmt: skip

    def display_of(self, name: str) -> Display:
        """What a run of the grid shows its folds with."""
        return lambda fold, folds, plan, quiet: GridFold(self, name, fold, folds, plan)

    def line(self) -> str:
        """'study: 7 of 30 folds, 31 % of the work, now in hmc fold 3/5, about 14 min left'."""
        folds = sum(run.config.folds for run in self.runs)
        done = folds - sum(len(run.missing()) for run in self.runs)
        share = min(1.0, (self._finished() + self.current) / max(self.total, 1e-9))
        left = "" if done == folds else f", about {duration(self.seconds_left())} left"
        return f"study: {done} of {folds} folds, {100 * share:.0f} % of the work, {self.now}{left}"

    def seconds_left(self) -> float:
        """By the speed of this process's steps so far, shared by all processes."""
        left = max(0.0, self.total - self._finished() - self.current)
        pace = self.took / self.worked if self.worked > 0 else 1.0
        return left * pace / self.processes

    def add(self, work: float, seconds: float, current: float) -> None:
        """Steps took so many seconds for so much work; the fold under way stands at `current`."""
        self.worked, self.took, self.current = self.worked + work, self.took + seconds, current

    def show(self, name: str, ended: bool) -> None:
        """A fold of a run, with its number, goes on or has ended."""
        self.now = f"{name} is done" if ended else f"now in {name}"
        now = time.monotonic()
        if not self.bar.disable:
            self.bar.n = round(min(self.total, self._finished() + self.current), 1)
            self.bar.set_description(name, refresh=False)
            self.bar.set_postfix_str(f"about {duration(self.seconds_left())} left")
        elif ended or now - self.last > SECONDS_BETWEEN_LINES:
            say(self.line(), self.quiet)
            self.last = now

    def wait(self) -> None:
        """Nothing is left to take: other processes train the last folds."""
        waiting = "waiting for other processes"
        if self.now != waiting:
            self.now = waiting
            say(self.line(), self.quiet)

    def _finished(self) -> float:
        """The work of the folds that are done, whoever trained them."""
        return sum(
            (run.config.folds - len(run.missing())) * self.seconds[run.name] for run in self.runs
        )


class GridFold:
    """One fold, as a part of the grid's line."""

    def __init__(
        self, grid: GridProgress, name: str, fold: int, folds: int, plan: BatchPlan
    ) -> None:
        self.grid, self.plan = grid, plan
        self.title, self.work = f"{name} fold {fold + 1}/{folds}", grid.seconds[name]
        self.done, self.clock = 0, 0.0

    def __enter__(self) -> "GridFold":
        self.clock = time.monotonic()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.grid.current = 0.0
        if kind is None:
            self.grid.show(self.title, ended=True)

    def update(self, step: int, row: dict[str, Any] | None) -> None:
        """After a step; the first may follow on a checkpoint."""
        now = time.monotonic()
        steps = step - self.done if self.done else 1
        a_step = self.work / self.plan.steps
        self.grid.add(steps * a_step, now - self.clock, step * a_step)
        self.done, self.clock = step, now
        self.grid.show(self.title, ended=False)
