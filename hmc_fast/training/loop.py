"""The main job: from a configuration to a folder of models, out-of-fold predictions, metrics and a
report."""

import dataclasses
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from hmc_fast import __version__
from hmc_fast.attention import Choice, Shape, choose_backend
from hmc_fast.data import open_dataset
from hmc_fast.data.cache import Images, load_images
from hmc_fast.data.dataset import Dataset
from hmc_fast.data.folds import check_folds, make_folds, read_folds, split_validation, write_folds
from hmc_fast.data.preprocessing import Preprocessing
from hmc_fast.environment import environment
from hmc_fast.errors import InputError
from hmc_fast.files import sha256_file, write_json
from hmc_fast.models import create_model
from hmc_fast.models.network import HMCNet
from hmc_fast.progress import say
from hmc_fast.training.batches import BatchPlan
from hmc_fast.training.checkpoint import remove_checkpoint
from hmc_fast.training.config import TrainConfig, check_environment, resolve, resolve_device
from hmc_fast.training.display import FoldDisplay, headline
from hmc_fast.training.fold import CHECKPOINT, Interrupted, Job, Split, is_done, train_fold
from hmc_fast.training.results import Run, next_commands, resume_command, write_results
from hmc_fast.training.run_folder import (
    CONFIG,
    ENVIRONMENT,
    FOLDS,
    IMAGES,
    check_disk,
    check_free,
    check_not_in_use,
    check_same,
    default_out,
    is_begun,
    locked,
    read_config,
    read_json,
    run_folder,
)
from hmc_fast.training.step import (
    AMP_DTYPES,
    Precision,
    Trainer,
    balanced_class_weights,
    choose_precision,
    compile_plan,
    deterministic_algorithms,
)

Build = Callable[[TrainConfig], nn.Module]


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
    check_environment()
    device = resolve_device(config.device)
    config, notes = resolve(config, device)
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
        dataset, assignment = _open_data(config, folder if begun else None, quiet)
        model = build(config)
        images = load_images(dataset, config.pixels, workers=config.workers, quiet=quiet)
        check_folds(dataset, assignment, images.hashes)
        if not config.out:
            folder = default_out(config.variant)  # the name may have been taken meanwhile
        with locked(folder):
            check_start(config, folder, resume)  # another process may have been here meanwhile
            return _run(
                Session(
                    config, folder, device, dataset, images, assignment, model, build, quiet,
                    command, notes,
                )
            )  # fmt: skip


def check_start(config: TrainConfig, folder: Path, resume: bool) -> bool:
    """Whether a run in `folder` is to go on; InputError where neither that nor a new one may
    be."""
    begun = is_begun(folder)
    if begun and resume:
        check_same(config, read_config(folder / CONFIG), folder)
    else:
        check_free(folder, leftovers=resume)
    return begun


@dataclass
class Session:
    """What a run works with; notes: sentences for the report."""

    config: TrainConfig
    folder: Path
    device: torch.device
    dataset: Dataset
    images: Images
    assignment: np.ndarray
    model: nn.Module
    build: Build
    quiet: bool
    command: str
    notes: list[str]

    def say(self, text: str) -> None:
        """One line for the user."""
        say(text, self.quiet)


def _open_data(config: TrainConfig, begun: Path | None, quiet: bool) -> tuple[Dataset, np.ndarray]:
    """Data set and folds, those of folds.csv where the run has begun; no image is decoded yet."""
    dataset = open_dataset(
        config.data,
        classes=config.class_names,
        label=config.label,
        seed=config.seed,
        image_size=config.pixels,
    )
    for warning in dataset.warnings:
        say(f"note: {warning}", quiet)
    assignment = make_folds(dataset, config.folds, config.seed)
    if begun and (begun / FOLDS).is_file():
        assignment = read_folds(begun / FOLDS, dataset)
    return dataset, assignment


def _run(session: Session) -> Path:
    config, folder = session.config, session.folder
    folds = [*range(config.folds)] if config.only_fold is None else [config.only_fold]
    to_do = [fold for fold in folds if not is_done(folder / f"fold{fold}")]
    check_disk(folder, sum(p.nbytes for p in session.model.parameters()), len(to_do))
    jobs = _jobs(session, folds)
    facts = _begin(session, jobs[0].plan.steps)
    precision = Precision(**facts["precision"])
    _say_plan(session, jobs, precision)
    trainer = Trainer(session.model, session.device, precision, config.lr, config.compile)
    _train_folds(session, trainer, jobs)
    done = [fold for fold in range(config.folds) if is_done(folder / f"fold{fold}")]
    metrics = write_results(
        Run(
            folder, config, session.dataset, session.assignment, session.images.pixels, facts,
            session.notes, session.command,
        ),
        done,
    )  # fmt: skip
    for line in headline(metrics, config.folds):
        session.say(line)
    session.say(f"report: {folder / 'report.html'}")
    session.say(f"next: {next_commands(folder, config, done)[0]}")
    return folder


def _begin(session: Session, steps: int) -> dict[str, Any]:
    """Write the files that describe the run; config.json comes last and marks it as begun.

    Returns env.json: machine, versions, and the precision, which a resumed run takes from there.
    """
    config, folder = session.config, session.folder
    begun = is_begun(folder)
    _check_images(session, begun)
    if not (begun and (folder / FOLDS).is_file()):
        write_folds(folder / FOLDS, session.dataset, session.assignment)
    folds_sha256 = sha256_file(folder / FOLDS)
    if begun:
        facts = read_json(folder / ENVIRONMENT)
        if facts.get("folds_sha256") != folds_sha256:
            raise InputError(f"{folder / FOLDS} was changed since the run began: start a new run")
    else:
        precision = choose_precision(
            config.amp, session.model, session.device, config.pixels,
            deterministic=config.deterministic, steps=steps,
        )  # fmt: skip
        facts = environment() | {
            "device": str(session.device),
            "precision": precision._asdict(),
            "folds_sha256": folds_sha256,
        }
    write_json(folder / ENVIRONMENT, facts)
    write_json(folder / CONFIG, dataclasses.asdict(config))
    return facts


def _check_images(session: Session, begun: bool) -> None:
    """Write images.json (name: hash of the pixels), or compare with what the run began with."""
    path = session.folder / IMAGES
    now = dict(zip(session.dataset.images, session.images.hashes, strict=True))
    before = read_json(path) if begun else now
    changed = sorted(n for n in now.keys() | before.keys() if now.get(n) != before.get(n))
    if changed:
        more = f" and {len(changed) - 1} more" if len(changed) > 1 else ""
        raise InputError(
            f"{session.config.data} has changed since the run in {session.folder} began: "
            f"{changed[0]}{more}; restore the images or start a new run"
        )
    write_json(path, now)


def _jobs(session: Session, folds: list[int]) -> list[Job]:
    pixels = torch.from_numpy(session.images.pixels).unsqueeze(1).to(session.device)
    labels = torch.from_numpy(session.dataset.labels).to(session.device)
    return [_job(session, fold, pixels, labels) for fold in folds]


def _job(session: Session, fold: int, pixels: Tensor, labels: Tensor) -> Job:
    config, dataset = session.config, session.dataset
    train = np.flatnonzero(session.assignment != fold)
    test = np.flatnonzero(session.assignment == fold)
    train, validation = split_validation(dataset, train, config.validation_fraction, config.seed)
    total = config.augmented or (config.epochs or 1) * len(train)
    return Job(
        fold=fold,
        split=Split(train, validation, test),
        plan=BatchPlan(train, config.batch_size or 32, total, config.seed, fold),
        images=pixels,
        labels=labels,
        names=dataset.images,
        folder=session.folder / f"fold{fold}",
        seed=config.seed,
        checkpoint_seconds=config.checkpoint_every * 60,
    )


def _description(session: Session, fold: int) -> dict[str, Any]:
    """model.json of a fold."""
    config = session.config
    return {
        "variant": config.variant,
        "reduction": config.reduction,
        "scale": config.scale,
        "classes": list(session.dataset.classes),
        "image_size": config.pixels,
        "preprocessing": Preprocessing(config.pixels).to_dict(),
        "fold": fold,
        "folds_sha256": sha256_file(session.folder / FOLDS),
        "seed": config.seed,
        "version": __version__,
    }


def _say_plan(session: Session, jobs: list[Job], precision: Precision) -> None:
    """Tell the user what is about to happen; the report repeats the choices."""
    config, dataset, plan = session.config, session.dataset, jobs[0].plan
    counts = ", ".join(f"{n} {name}" for name, n in dataset.counts.items())
    session.say(
        f"{config.variant} on {dataset.name}: {len(dataset)} images of "
        f"{len(set(dataset.patients))} patients ({counts})"
    )
    session.say(
        f"{len(jobs)} of {config.folds} folds, {plan.steps} steps each ({plan.passes} passes), "
        f"{config.pixels} px, batch {config.batch_size}, seed {config.seed}"
    )
    choices = [
        f"device {session.device}; amp {precision.amp} ({precision.reason})",
        compile_plan(config.compile, session.model, session.device),
        *_backends(session, AMP_DTYPES.get(precision.amp, torch.float32)),
    ]
    session.notes = [*session.notes, *choices]
    for line in [*choices, f"writing to {session.folder}"]:
        session.say(line)


def _backends(session: Session, dtype: torch.dtype) -> list[str]:
    """Which attention backend each block takes in training, and why."""
    if not isinstance(session.model, HMCNet):
        return []
    blocks: dict[Choice, list[str]] = {}
    for name, block in session.model.attention_blocks().items():
        tokens = (-(-session.config.pixels // STRIDES[name])) ** 2
        d_qk, d_v = block.query.out_channels, block.value.out_channels
        shape = Shape(session.config.batch_size or 32, tokens, tokens, d_qk, d_v)
        kind = session.device.type
        choice = choose_backend(block.backend, kind, dtype, shape, needs_grad=True)
        blocks.setdefault(choice, []).append(name)
    return [
        f"attention in {', '.join(names)}: {choice.backend} ({choice.reason})"
        for choice, names in blocks.items()
    ]


STRIDES = {"ha1": 4, "ha2": 8, "ca23": 16, "ca34": 32}  # of each block's map in the image


def _train_folds(session: Session, trainer: Trainer, jobs: list[Job]) -> None:
    """Train the folds that are not done; a signal at any moment stops after the step or the fold
    that is under way."""
    with stop_signals(session.quiet) as stop:
        try:
            for job in jobs:
                _train_one(session, trainer, job, stop)
                if stop():
                    raise Interrupted
        except Interrupted:
            say(f"stopped; go on with: {resume_command(session.folder)}")
            raise


def _train_one(session: Session, trainer: Trainer, job: Job, stop: Callable[[], bool]) -> None:
    """Train a fold, unless it is done."""
    config = session.config
    if is_done(job.folder):
        remove_checkpoint(job.folder / CHECKPOINT)
        session.say(f"fold {job.fold + 1}/{config.folds}: done before")
        return
    torch.manual_seed(int(np.random.SeedSequence([config.seed, job.fold]).generate_state(1)[0]))
    trainer.reset(session.build(config).state_dict(), _class_weights(config, job))
    description = _description(session, job.fold)
    display = FoldDisplay(job.fold, config.folds, job.plan, session.quiet)
    with display:
        train_fold(trainer, job, description, stop=stop, show=display.update, warn=say)


def _class_weights(config: TrainConfig, job: Job) -> Tensor | None:
    if config.class_weights == "none":
        return None
    labels = job.labels[torch.from_numpy(job.split.train).to(job.labels.device)]
    return balanced_class_weights(labels, len(config.class_names))


@contextmanager
def stop_signals(quiet: bool) -> Iterator[Callable[[], bool]]:
    """While inside, SIGINT and SIGTERM ask for a stop after the step; a second one stops at
    once."""
    asked: list[int] = []

    def ask(number: int, frame: FrameType | None) -> None:
        if asked:
            raise KeyboardInterrupt
        asked.append(number)
        with suppress(RuntimeError):  # the signal came in the middle of a print
            say("stopping after this step, with a checkpoint; once more stops at once", quiet)

    if threading.current_thread() is not threading.main_thread():  # where none can be taken
        yield lambda: False
        return
    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: bool(asked)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
