"""A grid of runs: several networks on the same folds, and one network under the protocols of the
leak study; by one process, or by many that share the folds.

Every fold of every run is a unit of work. A process takes the next fold that is neither done nor
held by another process; a process that dies lets go of its fold, and whoever looks next goes on
from its last checkpoint.
"""

import dataclasses
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch

from hmc_fast.data.protocols import PROTOCOLS
from hmc_fast.errors import InputError
from hmc_fast.models import VARIANTS
from hmc_fast.training.config import (
    TrainConfig,
    check_fields,
    config_from_dict,
    flag,
    resolve,
    setting,
)
from hmc_fast.training.fold import is_done
from hmc_fast.training.loop import Build, build_model, train_shared
from hmc_fast.training.results import METRICS
from hmc_fast.training.run_folder import FREE_TO_CHANGE, word
from hmc_fast.training.study_display import GridProgress

FOUR = ("hmc", "hierarchical", "multiscale", "resnet50")  # the paper's comparison
QUICK_STEPS = 30
NO_LEAK_STUDY = "none"
SECONDS_BETWEEN_LOOKS = 5.0
FREE = FREE_TO_CHANGE | {
    "explain_images",
    "parallel",
    "variants",
    "leak_variant",
    "leak_epochs",
    "leak_augmented",
}
OWN = ("variant", "only_fold", "protocol", "out")  # of TrainConfig, which the grid sets itself


def _positive(value: int) -> bool:
    return value >= 1


@dataclass(frozen=True)
class StudyConfig:
    """What a study has beside the settings that all its runs share."""

    variants: str | None = setting(
        None,
        "networks with commas, or all; default: the paper's four, with CUDA all seven",
        rule=(lambda v: bool(v.strip()), "names of networks with commas, or all"),
    )
    leak_variant: str = setting(
        "hmc",
        "network of the leak study (one network, three protocols), or none",
        choices=(*VARIANTS, NO_LEAK_STUDY),
    )
    leak_epochs: int | None = setting(
        None, "the leak study's own budget in passes", rule=(_positive, "at least 1")
    )
    leak_augmented: int | None = setting(
        None, "or in augmented images a fold, in all", rule=(_positive, "at least 1")
    )
    explain_images: int | None = setting(
        None,
        "films with a known lesion to explain; default: 4 on a CPU, all with CUDA; 0: none",
        rule=(lambda v: v >= 0, "at least 0"),
    )
    parallel: str = setting(
        "none",
        "folds: every process of torchrun, or every one started by hand, takes whole folds",
        choices=("none", "folds"),
    )

    def __post_init__(self) -> None:
        check_fields(self)
        if self.leak_epochs is not None and self.leak_augmented is not None:
            raise InputError("give --leak-epochs or --leak-augmented, not both")


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


class Grid(NamedTuple):
    """runs: every network under the honest protocol; leak: the leak study's three, whose first may
    be one of `runs`, or none."""

    runs: list[Cell]
    leak: list[Cell]

    @property
    def cells(self) -> list[Cell]:
        """Every run once."""
        return list({cell.name: cell for cell in [*self.runs, *self.leak]}.values())


def resolve_study(
    base: TrainConfig, study: StudyConfig, device: torch.device
) -> tuple[TrainConfig, StudyConfig, list[str]]:
    """Fill in what the preset and the device decide; the settings and sentences that say so."""
    quick = base.preset == "quick" or (
        base.preset is None and base.data == "phantom" and device.type == "cpu"
    )
    if quick and base.epochs is None and base.augmented is None:
        steps = QUICK_STEPS * (base.batch_size or 8)
        base = dataclasses.replace(base, preset="quick", augmented=steps)
    base, notes = resolve(base, device)
    if base.amp == "auto" and device.type == "cpu":
        base = dataclasses.replace(base, amp="off")
        notes.append("float32 for all networks: on a CPU --amp auto would choose for each by speed")
    if study.variants is None:
        default = VARIANTS if device.type == "cuda" and base.preset == "full" else FOUR
        study = dataclasses.replace(study, variants=",".join(default))
    return base, study, notes


def chosen_variants(study: StudyConfig) -> list[str]:
    """The networks of a study, the paper's four first; InputError for an unknown name or none."""
    words = [word.strip() for word in (study.variants or "").split(",") if word.strip()]
    if words == ["all"]:
        words = list(VARIANTS)
    unknown = [word for word in words if word not in VARIANTS]
    if unknown or not words:
        got = unknown[0] if unknown else study.variants
        raise InputError(
            f"--variants must name networks of {', '.join(VARIANTS)} with commas, or all, got {got}"
        )
    order = [*FOUR, *(name for name in VARIANTS if name not in FOUR)]
    return [name for name in order if name in words]


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
        """Whether it waits for the others and writes the report."""
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
    resume_with: str,
    command: str = "",
    quiet: bool = False,
    build: Build = build_model,
) -> list[str]:
    """Train what is missing of every run; returns a sentence for each run that failed.

    seconds: by run, what one of its folds is thought to take; resume_with: the command that goes on
    after a stop. The process that leads comes back when all folds are done, or failed, whoever
    trained them; the others when nothing is left to take. Raises Interrupted after a signal.
    """
    failed: dict[str, str] = {}
    with GridProgress(grid.cells, seconds, process.world, quiet or not process.leads) as progress:
        while left := [c for c in grid.cells if c.name not in failed and not c.is_finished()]:
            before = sum(len(cell.missing()) for cell in left)
            for cell in left:
                try:
                    train_shared(
                        cell.config,
                        display=progress.display_of(cell.name),
                        resume_with=resume_with,
                        command=command,
                        build=build,
                    )
                except InputError as error:
                    failed[cell.name] = f"{cell.name}: {error}"
            if not process.leads:
                break
            if before == sum(len(cell.missing()) for cell in left):  # others hold what is left
                time.sleep(SECONDS_BETWEEN_LOOKS)
    return list(failed.values())


def study_settings(base: TrainConfig, study: StudyConfig) -> dict[str, Any]:
    """The value of study.json."""
    shared = {k: v for k, v in dataclasses.asdict(base).items() if k not in OWN}
    return {"training": shared, **dataclasses.asdict(study)}


def settings_from_dict(values: Mapping[str, Any]) -> tuple[TrainConfig, StudyConfig]:
    """The settings in study.json; InputError names a key or a type that does not belong."""
    own = {k: v for k, v in values.items() if k != "training"}
    training = values.get("training", {})
    if not isinstance(training, dict):
        raise InputError("'training' must hold the settings of the runs")
    unknown = set(own) - {field.name for field in dataclasses.fields(StudyConfig)}
    if unknown:
        raise InputError(f"unknown setting {min(unknown)!r} in the study's configuration")
    return config_from_dict(training), StudyConfig(**own)


def changed_settings(before: Mapping[str, Any], base: TrainConfig, study: StudyConfig) -> list[str]:
    """'--lr 0.0001 there, 0.5 here' for each setting that a study may not change when it goes on;
    before: the value of its study.json."""
    then = study_settings(*settings_from_dict(before))
    now = study_settings(base, study)
    pairs = [
        (name, values.get(name), value)
        for values, new in ((then["training"], now["training"]), (then, now))
        for name, value in new.items()
        if name != "training" and name not in FREE and values.get(name) != value
    ]
    return [f"{flag(name)} {word(old)} there, {word(new)} here" for name, old, new in pairs]
