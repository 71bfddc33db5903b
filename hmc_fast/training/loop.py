"""The main job: from a configuration to a folder of models, out-of-fold predictions, metrics and a
report."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from hmc_fast import __version__
from hmc_fast.data.cache import load_images
from hmc_fast.data.dataset import Dataset
from hmc_fast.data.folds import check_folds, read_folds, split_validation
from hmc_fast.data.protocols import split_images, training_images
from hmc_fast.errors import InputError
from hmc_fast.models import create_model
from hmc_fast.progress import say
from hmc_fast.training.batches import BatchPlan
from hmc_fast.training.checkpoint import remove_checkpoint
from hmc_fast.training.config import TrainConfig, check_attention, resolve, resolve_device
from hmc_fast.training.display import Display, headline
from hmc_fast.training.fold import CHECKPOINT, Interrupted, Job, Split, is_done, train_fold
from hmc_fast.training.results import METRICS, Run, next_commands, resume_command, write_results
from hmc_fast.training.run_data import configured_data
from hmc_fast.training.run_folder import (
    CONFIG,
    FOLDS,
    InUse,
    check_disk,
    check_free,
    check_not_in_use,
    check_same,
    default_out,
    is_begun,
    locked,
    locked_in_turn,
    read_config,
    run_folder,
)
from hmc_fast.training.session import Build, Session, begin, description, say_plan
from hmc_fast.training.signals import stop_signals
from hmc_fast.training.step import (
    Precision,
    Trainer,
    balanced_class_weights,
    compile_plan,
    deterministic_algorithms,
)


def build_model(config: TrainConfig) -> nn.Module:
    """The network that a configuration asks for; InputError where its parts do not fit together."""
    try:
        return create_model(
            config.variant,
            len(config.class_names),
            reduction=config.reduction,
            scale=config.scale,
            backend=config.backend,
            weights=config.weights,
            image_size=config.pixels,
            attention_form=config.attention_form,
        )
    except ValueError as error:
        raise InputError(str(error)) from error


def train(
    config: TrainConfig,
    *,
    resume: bool = False,
    quiet: bool = False,
    command: str = "",
    build: Build = build_model,
) -> Path:
    """Train and test every fold that is not done yet; returns the run's folder.

    config: the settings, None where the preset decides; resume: go on in config.out, with the same
    settings; command: the shell command, for the report; build: makes the network (tests give a
    small one).
    Raises InputError for bad input; Interrupted after a signal, when the checkpoint is written.
    """
    if not quiet:
        say(f"hmc-fast {__version__}: for research, not a medical device")
    config, device, notes = _resolved(config)
    folder = run_folder(config.out) if config.out else default_out(config.variant)
    check_not_in_use(folder)
    begun = check_start(config, folder, resume)
    if begun:
        notes = [f"going on with the run in {folder}, its settings"]
    elif resume:
        notes = [f"no run has begun in {folder}: starting one", *notes]
    for note in notes:
        say(note, quiet)
    with deterministic_algorithms(config.deterministic):
        session = _open(config, folder, device, begun, build, quiet)
        session.command, session.notes = command, notes
        if not config.out:
            session.folder = default_out(config.variant)  # the name may have been taken meanwhile
        with locked(session.folder):
            check_start(config, session.folder, resume)  # another may have been here meanwhile
            return _run(session)


def train_shared(
    config: TrainConfig,
    *,
    display: Display,
    command: str = "",
    build: Build = build_model,
    quiet: bool = False,
) -> list[int]:
    """Train the folds of config.out that are neither done nor being trained by another process.

    Several processes may call this for one folder: they begin the run one after the other, share
    its folds, and the one that finds all of them done writes the results. Begins the run or goes
    on with it; says nothing but what `display` does, and, unless quiet, that a signal has come.
    Returns the folds that are done. Raises as `train`.
    """
    config, device, notes = _resolved(config)
    if config.out is None:
        raise InputError("a run that processes share needs --out")
    folder = run_folder(config.out)
    with deterministic_algorithms(config.deterministic):
        with locked_in_turn(folder):
            begun = check_start(config, folder, True)
            session = _open(config, folder, device, begun, build, quiet=True)
            session.command, session.notes = command, notes
            session.display, session.shared = display, True
            jobs, facts = _begin(session)
        if any(not is_done(job.folder) for job in jobs):
            with stop_signals(quiet) as stop:
                _train_folds(session, _trainer(session, facts), jobs, stop)
        done = _done(session)
        if len(done) == config.folds:
            with locked_in_turn(folder):
                _write(session, facts, done)
    return done


def _resolved(config: TrainConfig) -> tuple[TrainConfig, torch.device, list[str]]:
    """The full settings, the device, and sentences that say what was chosen."""
    device = resolve_device(config.device)
    check_attention(config.backend, device)
    config, notes = resolve(config, device)
    if config.deterministic and device.type == "cuda" and config.variant.startswith("vgg"):
        raise InputError(
            f"{config.variant} cannot be trained with --deterministic on CUDA: torch has no such "
            "backward of its pooling"
        )
    return config, device, notes


def _open(
    config: TrainConfig,
    folder: Path,
    device: torch.device,
    begun: bool,
    build: Build,
    quiet: bool,
) -> Session:
    """Data, folds, network and decoded images."""
    dataset, assignment = _open_data(config, folder if begun else None, quiet)
    model = build(config)
    images = load_images(dataset, config.pixels, workers=config.workers, quiet=quiet)
    if config.protocol == "patient":
        check_folds(dataset, assignment, images.hashes)
    return Session(config, folder, device, dataset, images, assignment, model, build, quiet)


def check_start(config: TrainConfig, folder: Path, resume: bool) -> bool:
    """Whether a run in `folder` is to go on; InputError where neither that nor a new one may
    be."""
    begun = is_begun(folder)
    if begun and resume:
        check_same(config, read_config(folder / CONFIG), folder)
    else:
        check_free(folder, leftovers=resume)
    return begun


def _open_data(config: TrainConfig, begun: Path | None, quiet: bool) -> tuple[Dataset, np.ndarray]:
    """Data set and folds, those of folds.csv where the run has begun; no image is decoded yet."""
    dataset = configured_data(config)
    for warning in dataset.warnings:
        say(f"note: {warning}", quiet)
    assignment = split_images(dataset, config.folds, config.seed, config.protocol)
    if begun and (begun / FOLDS).is_file():
        assignment = read_folds(begun / FOLDS, dataset)
    return dataset, assignment


def _run(session: Session) -> Path:
    config, folder = session.config, session.folder
    jobs, facts = _begin(session)
    with stop_signals(session.quiet) as stop:
        try:
            _train_folds(session, _trainer(session, facts), jobs, stop)
        except Interrupted:
            say(f"stopped; go on with: {resume_command(folder)}")
            raise
    done = _done(session)
    metrics = _write(session, facts, done)
    for line in headline(metrics, config.folds):
        session.say(line)
    session.say(f"report: {folder / 'report.html'}")
    session.say(f"next: {next_commands(folder, config, done)[0]}")
    return folder


def _begin(session: Session) -> tuple[list[Job], dict[str, Any]]:
    """The folds' work and env.json; all that describes the run is then on the disk."""
    config, folder = session.config, session.folder
    folds = [*range(config.folds)] if config.only_fold is None else [config.only_fold]
    to_do = [fold for fold in folds if not is_done(folder / f"fold{fold}")]
    check_disk(
        folder,
        sum(p.nbytes for p in session.model.parameters()),
        len(to_do),
        config.validation_fraction > 0,
    )
    jobs = _jobs(session, folds)
    facts = begin(session, jobs[0].plan.steps)
    compiled = compile_plan(config.compile, session.model, session.device)[1]
    say_plan(session, jobs, Precision(**facts["precision"]), compiled)
    return jobs, facts


def _trainer(session: Session, facts: dict[str, Any]) -> Trainer:
    config, model = session.config, session.model
    compiled = compile_plan(config.compile, model, session.device)[0]
    return Trainer(model, session.device, Precision(**facts["precision"]), config.lr, compiled)


def _done(session: Session) -> list[int]:
    folds = range(session.config.folds)
    return [fold for fold in folds if is_done(session.folder / f"fold{fold}")]


def _write(session: Session, facts: dict[str, Any], done: list[int]) -> dict[str, Any]:
    """`write_results` of the folds that are done; returns metrics.json's value."""
    return write_results(
        Run(
            session.folder, session.config, session.dataset, session.assignment,
            session.images.pixels, facts, session.notes, session.command,
        ),
        done,
    )  # fmt: skip


def _jobs(session: Session, folds: list[int]) -> list[Job]:
    pixels = torch.from_numpy(session.images.pixels).unsqueeze(1).to(session.device)
    labels = torch.from_numpy(session.dataset.labels).to(session.device)
    return [_job(session, fold, pixels, labels) for fold in folds]


def _job(session: Session, fold: int, pixels: Tensor, labels: Tensor) -> Job:
    config, dataset = session.config, session.dataset
    train = training_images(session.assignment, fold, config.protocol)
    test = np.flatnonzero(session.assignment == fold)
    train, validation = split_validation(dataset, train, config.validation_fraction, config.seed)
    others = int(np.sum(session.assignment != fold))  # a pass of every protocol is as long
    total = config.augmented or config.passes * (others - len(validation))
    return Job(
        fold=fold,
        split=Split(train, validation, test),
        plan=BatchPlan(train, config.images_a_step, total, config.seed, fold),
        images=pixels,
        labels=labels,
        names=dataset.images,
        folder=session.folder / f"fold{fold}",
        seed=config.seed,
        checkpoint_seconds=config.checkpoint_every * 60,
    )


def _train_folds(
    session: Session, trainer: Trainer, jobs: list[Job], stop: Callable[[], bool]
) -> None:
    """Train the folds that are not done; Interrupted after the step or the fold that is under way
    when `stop` says so."""
    for job in jobs:
        try:
            with locked(job.folder, keep=session.shared):
                _train_one(session, trainer, job, stop)
        except InUse:
            if not session.shared:
                raise
        if stop():
            raise Interrupted


def _train_one(session: Session, trainer: Trainer, job: Job, stop: Callable[[], bool]) -> None:
    """Train a fold, unless it is done."""
    config = session.config
    if is_done(job.folder):
        remove_checkpoint(job.folder / CHECKPOINT)
        session.say(f"fold {job.fold + 1}/{config.folds}: done before")
        return
    if session.shared:  # its figures are no longer those of all folds
        (session.folder / METRICS).unlink(missing_ok=True)
    torch.manual_seed(int(np.random.SeedSequence([config.seed, job.fold]).generate_state(1)[0]))
    trainer.reset(session.build(config).state_dict(), _class_weights(config, job))
    model_json = description(session, job.fold)
    with session.display(job.fold, config.folds, job.plan, session.quiet) as display:
        train_fold(trainer, job, model_json, stop=stop, show=display.update, warn=say)


def _class_weights(config: TrainConfig, job: Job) -> Tensor | None:
    if config.class_weights == "none":
        return None
    labels = job.labels[torch.from_numpy(job.split.train).to(job.labels.device)]
    return balanced_class_weights(labels, len(config.class_names))
