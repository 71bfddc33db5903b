"""The job behind `hmc-fast study`: train the grid, explain, and write tables, figures and the
report."""

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from hmc_fast import __version__
from hmc_fast.data.dataset import Dataset
from hmc_fast.data.protocols import split_images
from hmc_fast.errors import InputError
from hmc_fast.files import write_json
from hmc_fast.progress import say
from hmc_fast.sentences import counted
from hmc_fast.study.estimate import PlannedRun, estimate_study
from hmc_fast.study.write import REPORT, write_study
from hmc_fast.training.config import TrainConfig, check_attention, resolve_device
from hmc_fast.training.loop import Build, build_model
from hmc_fast.training.run_data import configured_data
from hmc_fast.training.run_folder import check_free, locked, locked_in_turn, read_json
from hmc_fast.training.study import (
    Grid,
    Process,
    StudyConfig,
    changed_settings,
    make_grid,
    resolve_study,
    study_settings,
    this_process,
    train_grid,
)

SETTINGS, COMMANDS = "study.json", "commands.json"


@dataclass(frozen=True)
class Job:
    """A study that may start: its full settings, runs and images, and this process of it.

    command: the shell command, for the report; again: the one that goes on after a stop.
    """

    folder: Path
    base: TrainConfig
    study: StudyConfig
    grid: Grid
    dataset: Dataset
    device: torch.device
    process: Process
    command: str
    again: str
    quiet: bool

    def say(self, text: str) -> None:
        """One line for the user, from the process that leads."""
        say(text, self.quiet or not self.process.leads)


def run_study(
    base: TrainConfig,
    study: StudyConfig,
    folder: Path,
    *,
    command: str,
    again: str,
    quiet: bool = False,
    build: Build = build_model,
) -> list[str]:
    """Train what is missing, explain films, write the report; returns a sentence for each run that
    failed.

    base: the settings that all runs share; folder: new, empty, or this study's own, which goes on;
    command: the shell command, for the report; again: the one that goes on after a stop; build:
    makes a network (tests give small ones). Raises InputError: bad settings or data, too small a
    disk, or no run could be finished; Interrupted after a signal.
    """
    job = _open(base, study, folder, command, again, quiet)
    alone = job.study.parallel == "none"
    with locked(folder / "runs") if alone else contextlib.nullcontext():
        with locked_in_turn(folder):
            _begin(job)
        failed = train_grid(
            job.grid,
            job.process,
            seconds=_estimate(job, build),
            resume_with=again,
            command=command,
            quiet=quiet,
            build=build,
        )
        if job.process.leads:
            with locked_in_turn(folder):
                _write(job)
    return failed


def _open(
    base: TrainConfig, study: StudyConfig, folder: Path, command: str, again: str, quiet: bool
) -> Job:
    """Check everything that can be checked before a network is built; nothing is written."""
    device = resolve_device(base.device)
    check_attention(base.backend, device)
    base, study, notes = resolve_study(base, study, device)
    process = this_process(study.parallel, device)
    grid = make_grid(base, study, folder)
    if (folder / SETTINGS).is_file():
        _check_same(base, study, folder)
        notes = [f"going on with the study in {folder}"]
    else:
        check_free(folder)
    dataset = configured_data(base)
    for protocol in dict.fromkeys(cell.config.protocol for cell in grid.cells):
        split_images(dataset, base.folds, base.seed, protocol)
    job = Job(folder, base, study, grid, dataset, device, process, command, again, quiet)
    job.say(f"hmc-fast {__version__}: for research, not a medical device")
    for note in [*notes, *(f"note: {warning}" for warning in dataset.warnings)]:
        job.say(note)
    return job


def _check_same(base: TrainConfig, study: StudyConfig, folder: Path) -> None:
    changed = changed_settings(read_json(folder / SETTINGS), base, study)
    if changed:
        raise InputError(
            f"{folder} holds a study with other settings ({', '.join(changed)}): give the same, "
            "or choose another --out"
        )


def _begin(job: Job) -> None:
    """study.json, which marks the folder as a study's, and this command in commands.json."""
    if (job.folder / SETTINGS).is_file():
        _check_same(job.base, job.study, job.folder)  # another process may have been here meanwhile
    path = job.folder / COMMANDS
    before = read_json(path)["commands"] if path.is_file() else []
    if job.process.leads:
        write_json(path, {"commands": [*before, job.command]})
    write_json(job.folder / SETTINGS, study_settings(job.base, job.study))


def _estimate(job: Job, build: Build) -> Mapping[str, float]:
    """Say what time and disk the study will take; seconds of one fold, by run, for the process that
    shows them."""
    if not job.process.leads:
        return {cell.name: 1.0 for cell in job.grid.cells}
    planned = [
        PlannedRun(cell.config, len(cell.missing()), len(job.dataset)) for cell in job.grid.cells
    ]
    estimate = estimate_study(
        planned, job.folder, job.device, processes=job.process.world, build=build
    )
    folds = sum(cell.config.folds for cell in job.grid.cells)
    runs = f"{counted(len(job.grid.cells), 'run')} of {counted(folds, 'fold')} in all"
    job.say(f"{runs} on {job.dataset.name}: {estimate.sentence}")
    return dict(zip((cell.name for cell in job.grid.cells), estimate.each, strict=True))


def _write(job: Job) -> None:
    """Tables, figures, report, and the last lines for the user."""
    findings = write_study(
        job.folder,
        job.grid,
        job.dataset,
        settings=study_settings(job.base, job.study),
        commands=read_json(job.folder / COMMANDS)["commands"],
        device=job.device,
        explain_images=job.study.explain_images,
        quiet=job.quiet,
    )
    for sentence in findings:
        job.say(sentence)
    job.say(f"report: {job.folder / REPORT}")
    first = job.grid.runs[0].folder
    job.say(f"next: hmc-fast explain {first} --method all --table")
