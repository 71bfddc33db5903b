"""What a training shows: a bar for each fold on a terminal, a line for each pass elsewhere, and the
result."""

import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Any, Protocol, Self

from tqdm import tqdm

from hmc_fast.data.protocols import leak_note
from hmc_fast.progress import say
from hmc_fast.training.batches import BatchPlan

LINES = 20  # about so many for each fold; a long run does not print every pass


class Shown(Protocol):
    """What a fold's training tells about its steps."""

    def update(self, step: int, row: dict[str, Any] | None) -> None:
        """After a step; `row` is the history row of a pass that has just ended."""


Display = Callable[[int, int, BatchPlan, bool], AbstractContextManager[Shown]]  # fold, folds, quiet


class Bar:
    """A bar of tqdm, and a context that closes it whatever happens."""

    bar: tqdm

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.bar.close()


class FoldDisplay(Bar):
    """Shows the steps and passes of one fold."""

    def __init__(self, fold: int, folds: int, plan: BatchPlan, quiet: bool) -> None:
        self.title = f"fold {fold + 1}/{folds}"
        self.plan, self.quiet = plan, quiet
        self.every = max(1, plan.passes // LINES)
        self.bar = tqdm(
            total=plan.steps, desc=self.title, unit="step", leave=False, file=sys.stderr,
            disable=quiet or not sys.stderr.isatty(),
        )  # fmt: skip
        self.last = time.monotonic()

    def update(self, step: int, row: dict[str, Any] | None) -> None:
        """After a step; `row` is the history row of a pass that has just ended."""
        self.bar.update(step - self.bar.n)
        if row and (row["epoch"] % self.every == 0 or step == self.plan.steps):
            self._say(self._line(row))
        elif self.bar.disable and time.monotonic() - self.last > 60:
            self._say(f"{self.title}  step {step} of {self.plan.steps}")

    def _say(self, line: str) -> None:
        say(line, self.quiet)
        self.last = time.monotonic()

    def _line(self, row: dict[str, Any]) -> str:
        line = (
            f"{self.title}  pass {row['epoch']}/{self.plan.passes}  "
            f"train loss {row['train_loss']:.3f} accuracy {row['train_accuracy']:.3f}"
        )
        if row.get("validation_loss") is not None:
            line += f"  validation loss {row['validation_loss']:.3f}"
            line += f" accuracy {row['validation_accuracy']:.3f}"
        if row["test_loss"] is not None:
            line += f"  test loss {row['test_loss']:.3f} accuracy {row['test_accuracy']:.3f}"
        return f"{line}  {row['images_per_s']:.1f} images/s"


def headline(metrics: dict[str, Any], folds: int) -> list[str]:
    """The result in two lines: pooled figures with their intervals, beside the majority class's."""
    pooled, majority, done = metrics["pooled"], metrics["majority"], len(metrics["per_fold"])
    parts = []
    for name in ("balanced_accuracy", "accuracy", "f1", "auc"):
        ends = pooled["intervals"].get(name)
        interval = f" [{ends[0]:.3f}, {ends[1]:.3f}]" if ends else ""
        parts.append(f"{name.replace('_', ' ')} {_number(pooled[name])}{interval}")
    return [
        *leak_note(metrics.get("protocol", "")),
        f"out of fold, {done} of {folds} folds, {pooled['n']} images "
        f"(95 % intervals, patients resampled): {', '.join(parts)}",
        f"always the majority class: balanced accuracy {_number(majority['balanced_accuracy'])}, "
        f"accuracy {_number(majority['accuracy'])}, f1 {_number(majority['f1'])}",
    ]


def _number(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.3f}"
