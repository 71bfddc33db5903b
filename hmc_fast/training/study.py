"""A grid of runs: several networks on the same folds, and one network under the protocols of the
leak study; by one process, or by many that share the folds.

Every fold of every run is a unit of work. A process takes the next fold that is neither done nor
held by another process; a process that dies lets go of its fold, and whoever looks next goes on
from its last checkpoint. torchrun itself stops all its processes when one of them dies: each writes
a checkpoint after its step, and the command begun again goes on there (`torchrun --max-restarts 3`
begins it again by itself). Processes started by hand outlive each other.
"""

import dataclasses
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch

from hmc_fast.data.protocols import PROTOCOLS
from hmc_fast.errors import InputError
from hmc_fast.progress import say
from hmc_fast.training.config import TrainConfig
from hmc_fast.training.fold import is_done
from hmc_fast.training.loop import Build, build_model, train_shared
from hmc_fast.training.results import METRICS
from hmc_fast.training.run_folder import (
    CONFIG,
    InUse,
    different_settings,
    is_begun,
    is_held,
    read_config,
)
from hmc_fast.training.study_config import NO_LEAK_STUDY, StudyConfig, chosen_variants
from hmc_fast.training.study_display import GridProgress

SECONDS_BETWEEN_LOOKS = 5.0


class Cell(NamedTuple):
    """One run of the grid: its folder's name below runs/, and its settings."""

    name: str
    config: TrainConfig

    @property
    def folder(self) -> Path:
        """Of the run."""
        assert self.config.out is not None
        return Path(self.config.out)

    def missing(self) -> list[int]:
        """The folds that are not trained yet."""
        return [k for k in range(self.config.folds) if not is_done(self.folder / f"fold{k}")]

    def is_finished(self) -> bool:
        """Whether all folds are trained and the results are written."""
        return not self.missing() and (self.folder / METRICS).is_file()

    def can_go_on(self) -> bool:
        """Whether a fold, or the results alone, wait for a process that has time for them."""
        missing = self.missing()
        return not missing or any(not is_held(self.folder / f"fold{k}") for k in missing)

    def check_settings(self) -> None:
        """InputError where the run has begun with other settings than these."""
        if is_begun(self.folder):
            changed = different_settings(self.config, read_config(self.folder / CONFIG))
            if changed:
                raise InputError(
                    f"{self.folder} was trained with other settings ({changed}): give the same, or "
                    "move it away, and the study trains it again"
                )


class Grid(NamedTuple):
    """runs: every network under the honest protocol; leak: the leak study's three, whose first may
    be one of `runs`, or none."""

    runs: list[Cell]
    leak: list[Cell]

    @property
    def cells(self) -> list[Cell]:
        """Every run once."""
        return list({cell.name: cell for cell in [*self.runs, *self.leak]}.values())


def make_grid(base: TrainConfig, study: StudyConfig, folder: Path) -> Grid:
    """The runs of a study in `folder`; base, study: as `resolve_study` gives them."""

    def cell(name: str, **changes: Any) -> Cell:
        out = str(folder / "runs" / name)
        return Cell(name, dataclasses.replace(base, out=out, **changes))

    runs = [cell(variant, variant=variant) for variant in chosen_variants(study)]
    if study.leak_variant == NO_LEAK_STUDY:
        return Grid(runs, [])
    variant = study.leak_variant
    budget: dict[str, Any] = {}
    if study.leak_epochs is not None or study.leak_augmented is not None:
        budget = {"epochs": study.leak_epochs, "augmented": study.leak_augmented}
    leak = [
        cell(f"{variant}-{protocol}", variant=variant, protocol=protocol, **budget)
        for protocol in PROTOCOLS
    ]
    shared = next((run for run in runs if run.config.variant == variant and not budget), None)
    return Grid(runs, [shared or leak[0], *leak[1:]])


class Process(NamedTuple):
    """This process among those of the study."""

    rank: int
    world: int

    @property
    def leads(self) -> bool:
        """Whether it speaks, waits for the others and writes the report."""
        return self.rank == 0


def this_process(parallel: str, device: torch.device) -> Process:
    """Rank and number of processes that torchrun says; each takes a GPU of its own.

    Raises InputError: torchrun started several processes, and --parallel folds was not given.
    """
    rank, world = (int(os.environ.get(name, n)) for name, n in (("RANK", "0"), ("WORLD_SIZE", "1")))
    if world > 1 and parallel == "none":
        raise InputError(
            f"torchrun started {world} processes: give --parallel folds, which gives each of them "
            "whole folds"
        )
    if device.type == "cuda" and device.index is None and world > 1:
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())
    return Process(rank, world)


def train_grid(
    grid: Grid,
    process: Process,
    *,
    seconds: Mapping[str, float],
    command: str = "",
    quiet: bool = False,
    build: Build = build_model,
) -> list[str]:
    """Train what is missing of every run; returns a sentence for each run that failed.

    seconds: by run, what one of its folds is thought to take. The process that leads comes back
    when all folds are done, or failed, whoever trained them; the others when nothing is left to
    take. Raises Interrupted after a signal.
    """
    quiet = quiet or not process.leads
    failed: dict[str, str] = {}
    with GridProgress(grid.cells, seconds, process.world, quiet) as progress:
        while left := [c for c in grid.cells if c.name not in failed and not c.is_finished()]:
            free = [cell for cell in left if cell.can_go_on()]
            before = sum(len(cell.missing()) for cell in left)
            for cell in free:
                try:
                    train_shared(
                        cell.config,
                        display=progress.display_of(cell.name),
                        command=command,
                        build=build,
                        quiet=quiet,
                    )
                except InUse:  # `hmc-fast train` goes on with it, or another process prepares it
                    continue
                except InputError as error:
                    failed[cell.name] = f"{cell.name}: {error}"
                    say(f"{failed[cell.name]}; the other runs go on", quiet)
            if not process.leads:
                break
            if before == sum(len(cell.missing()) for cell in left):  # others hold what is left
                progress.wait()
                time.sleep(SECONDS_BETWEEN_LOOKS)
    return list(failed.values())
