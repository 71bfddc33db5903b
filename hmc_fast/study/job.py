"""The job behind `hmc-fast study`: train the grid, explain, and write tables, figures and the
report."""

import contextlib
import math
import signal
import threading
from collections.abc import Iterator, Mapping, Sequence
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
from hmc_fast.study.estimate import PlannedRun, check_study_disk, estimate_study
from hmc_fast.study.write import FINDINGS, REPORT, write_study
from hmc_fast.training.config import TrainConfig, check_attention, resolve_device
from hmc_fast.training.loop import Build, build_model
from hmc_fast.training.run_data import configured_data
from hmc_fast.training.run_folder import check_free, locked, locked_in_turn, read_json
from hmc_fast.training.study import Grid, Process, make_grid, this_process, train_grid
from hmc_fast.training.study_config import (
    StudyConfig,
    changed_settings,
    read_study,
    resolve_study,
    study_settings,
)

SETTINGS, COMMANDS = "study.json", "commands.json"
SAID = 3  # findings that the terminal shows


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
    job = _open(base, study, folder, command, again, quiet, build)
    with contextlib.ExitStack() as held:
        held.enter_context(_stoppable(job))
        with locked_in_turn(folder):
            _begin(job, held)
        failed = train_grid(
            job.grid,
            job.process,
            seconds=_estimate(job, build),
            command=command,
            quiet=quiet,
            build=build,
        )
        if not job.process.leads:  # the one that leads meets the same failures and reports them
            return []
        with locked_in_turn(folder, math.inf):  # explanations of all films take hours
            _write(job, failed)
    return failed


@contextlib.contextmanager
def _stoppable(job: Job) -> Iterator[None]:
    """SIGTERM stops at every moment what SIGINT stops, and the user is told how to go on."""

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    in_main = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGTERM, stop) if in_main else None
    try:
        yield
    except KeyboardInterrupt:
        if job.process.leads:
            say(f"stopped; go on with: {job.again}")
        raise
    finally:
        if in_main:
            signal.signal(signal.SIGTERM, before)


def _open(
    base: TrainConfig,
    study: StudyConfig,
    folder: Path,
    command: str,
    again: str,
    quiet: bool,
    build: Build,
) -> Job:
    """Check everything that can be checked before a step is trained; nothing is written."""
    device = resolve_device(base.device)
    check_attention(base.backend, device)
    base, study, notes = resolve_study(base, study, device)
    process = this_process(study.parallel, device)
    grid = make_grid(base, study, folder)
    if _goes_on(base, study, folder) and (folder / COMMANDS).is_file():
        notes = [f"going on with the study in {folder}"]
    for cell in grid.cells:
        cell.check_settings()
    dataset = configured_data(base)
    for protocol in dict.fromkeys(cell.config.protocol for cell in grid.cells):
        split_images(dataset, base.folds, base.seed, protocol)
    job = Job(folder, base, study, grid, dataset, device, process, command, again, quiet)
    to_do = [run for run in _planned(job) if run.folds]
    check_study_disk(to_do, folder, processes=process.world, build=build)
    job.say(f"hmc-fast {__version__}: for research, not a medical device")
    for note in [*notes, *(f"note: {warning}" for warning in dataset.warnings)]:
        job.say(note)
    return job


def _goes_on(base: TrainConfig, study: StudyConfig, folder: Path) -> bool:
    """Whether a study has begun in `folder`; InputError where it is another one, or something
    else lies there."""
    if not (folder / SETTINGS).is_file():
        try:
            check_free(folder)
            return False
        except InputError:
            if not (folder / SETTINGS).is_file():  # no other process began it at this moment
                raise
    changed = changed_settings(study_settings(*read_study(folder / SETTINGS)), base, study)
    if changed:
        raise InputError(
            f"{folder} holds a study with other settings ({', '.join(changed)}): give the same, "
            "or choose another --out"
        )
    return True


def _begin(job: Job, held: contextlib.ExitStack) -> None:
    """Write study.json, first of all: it marks the folder as a study's; then the command.

    held: takes the lock of a study whose folds are not shared, until that ends.
    """
    settings = study_settings(job.base, job.study)
    before = _commands(job.folder)
    if not _goes_on(job.base, job.study, job.folder):  # another process may have been here
        write_json(job.folder / SETTINGS, settings)
    if job.study.parallel == "none":
        held.enter_context(locked(job.folder / "runs"))
    write_json(job.folder / SETTINGS, settings)
    if job.process.leads:
        write_json(job.folder / COMMANDS, {"commands": [*before, job.command]})


def _commands(folder: Path) -> list[str]:
    """Those that made the study so far; InputError where their file is damaged."""
    path = folder / COMMANDS
    commands = read_json(path).get("commands") if path.is_file() else []
    if not isinstance(commands, list) or not all(isinstance(word, str) for word in commands):
        raise InputError(f"{path} is damaged: remove it, and the report names later commands alone")
    return commands


def _planned(job: Job) -> list[PlannedRun]:
    """Every run with the number of its folds that are not trained yet."""
    cells = job.grid.cells
    return [PlannedRun(cell.config, len(cell.missing()), len(job.dataset)) for cell in cells]


def _estimate(job: Job, build: Build) -> Mapping[str, float]:
    """Say what time and disk the study will take; seconds of one fold, by run, for the process that
    shows them."""
    if not job.process.leads:
        return {cell.name: 1.0 for cell in job.grid.cells}
    estimate = estimate_study(
        _planned(job), job.folder, job.device, processes=job.process.world, build=build
    )
    folds = sum(cell.config.folds for cell in job.grid.cells)
    runs = f"{counted(len(job.grid.cells), 'run')} of {counted(folds, 'fold')} in all"
    job.say(f"{runs} on {job.dataset.name}: {estimate.sentence}")
    return dict(zip((cell.name for cell in job.grid.cells), estimate.each, strict=True))


def _write(job: Job, failed: Sequence[str]) -> None:
    """Tables, figures, report, and the last lines for the user."""
    if not any(cell.is_finished() for cell in job.grid.runs):
        raise InputError(f"no run of the study is finished: {'; '.join(failed)}")
    findings = write_study(
        job.folder,
        job.grid,
        job.dataset,
        settings=study_settings(job.base, job.study),
        commands=_commands(job.folder),
        device=job.device,
        explain_images=job.study.explain_images,
        quiet=job.quiet,
    )
    for sentence in findings[:SAID]:
        job.say(sentence)
    if len(findings) > SAID:
        job.say(f"{len(findings) - SAID} more findings: {job.folder / FINDINGS}")
    job.say(f"report: {job.folder / REPORT}")
    first = job.grid.runs[0].folder
    job.say(f"next: hmc-fast explain {first} --method all --table")
