"""The main job: from a configuration to a folder with models, out-of-fold predictions, metrics and a report."""

import dataclasses
import json
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import torch
from torch import nn

from hmc_fast import __version__
from hmc_fast.attention import Shape, choose_backend
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
from hmc_fast.training.config import TrainConfig, resolve, resolve_device
from hmc_fast.training.display import FoldDisplay, headline
from hmc_fast.training.fold import CHECKPOINT, Interrupted, Job, Split, is_done, train_fold
from hmc_fast.training.results import Run, next_commands, write_results
from hmc_fast.training.run_folder import (
    CONFIG,
    check_disk,
    check_free,
    check_same,
    default_out,
    locked,
    read_config,
)
from hmc_fast.training.step import (
    Precision,
    Trainer,
    balanced_class_weights,
    choose_precision,
    compile_plan,
    deterministic_algorithms,
)

FOLDS, ENVIRONMENT, IMAGES = "folds.csv", "env.json", "images.json"
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
            image_size=config.image_size or 224,
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

    config: the settings, None where the preset decides; resume: go on in config.out, with the same settings; command: the
    shell command, for the report; build: makes the network (tests give a small one).
    Raises InputError for bad input, Interrupted after a signal, when the checkpoint is written.
    """
    device = resolve_device(config.device)
    config, notes = resolve(config, device)
    folder = Path(config.out) if config.out else default_out(config.variant)
    begun = resume and (folder / CONFIG).is_file()
    if begun:
        check_same(config, read_config(folder / CONFIG), folder)
    elif not (resume and _only_leftovers(folder)):
        check_free(folder)
    with deterministic_algorithms(config.deterministic):
        dataset, images, assignment = _load_data(config, folder if begun else None, quiet)
        model = build(config)
        with locked(folder):
            return _run(config, folder, device, dataset, images, assignment, model, notes, quiet, command, build)


def _only_leftovers(folder: Path) -> bool:
    """Whether a run was killed in `folder` before it wrote its configuration."""
    return not folder.is_dir() or all(p.name.startswith(".") or p.name in (FOLDS, ENVIRONMENT, IMAGES) for p in folder.iterdir())


def _load_data(config: TrainConfig, begun: Path | None, quiet: bool) -> tuple[Dataset, Images, np.ndarray]:
    """Data set, pixels and folds, with the guarantee that no patient and no picture is on both sides."""
    size = config.image_size or 224
    dataset = open_dataset(
        config.data, classes=config.class_names, label=config.label, seed=config.seed, image_size=size
    )
    for warning in dataset.warnings:
        say(f"note: {warning}", quiet)
    assignment = make_folds(dataset, config.folds, config.seed)
    images = load_images(dataset, size, workers=config.workers, quiet=quiet)
    if begun and (begun / FOLDS).is_file():
        assignment = read_folds(begun / FOLDS, dataset)
    check_folds(dataset, assignment, images.hashes)
    return dataset, images, assignment


def _run(
    config: TrainConfig,
    folder: Path,
    device: torch.device,
    dataset: Dataset,
    images: Images,
    assignment: np.ndarray,
    model: nn.Module,
    notes: list[str],
    quiet: bool,
    command: str,
    build: Build,
) -> Path:
    folds = [config.only_fold] if config.only_fold is not None else list(range(config.folds))
    check_disk(folder, sum(p.numel() * p.element_size() for p in model.parameters()), len(folds))
    pixels = torch.from_numpy(images.pixels).unsqueeze(1).to(device)
    labels = torch.from_numpy(dataset.labels).to(device)
    jobs = {fold: _job(config, fold, folder, dataset, assignment, pixels, labels) for fold in folds}
    hashes = _check_images(config, folder, dataset, images.hashes)
    facts = _environment(config, folder, device, model, jobs[folds[0]].plan.steps)
    write_folds(folder / FOLDS, dataset, assignment)
    write_json(folder / IMAGES, hashes)
    write_json(folder / ENVIRONMENT, facts)
    write_json(folder / CONFIG, dataclasses.asdict(config))
    notes = [*notes, *_say_plan(config, folder, device, dataset, model, facts, jobs, quiet)]
    trainer = Trainer(model, device, Precision(**facts["precision"]), config.lr, config.compile)
    for fold, job in jobs.items():
        _train_one(trainer, job._replace(description=_described(job, folder)), config, build, quiet)
    done = [fold for fold in range(config.folds) if is_done(folder / f"fold{fold}")]
    run = Run(folder, config, dataset, assignment, images.pixels, facts, notes, command)
    metrics = write_results(run, done)
    for line in [*headline(metrics, config.folds), f"report: {folder / 'report.html'}", "next:"]:
        say(line, quiet)
    for line in next_commands(folder)[:1]:
        say(f"  {line}", quiet)
    return folder


def _job(
    config: TrainConfig,
    fold: int,
    folder: Path,
    dataset: Dataset,
    assignment: np.ndarray,
    pixels: torch.Tensor,
    labels: torch.Tensor,
) -> Job:
    train, test = np.flatnonzero(assignment != fold), np.flatnonzero(assignment == fold)
    validation = np.array([], np.int64)
    if config.validation_fraction:
        train, validation = split_validation(dataset, train, config.validation_fraction, config.seed)
    total = config.augmented or (config.epochs or 1) * len(train)
    plan = BatchPlan(train, config.batch_size or 32, total, config.seed, fold)
    size = config.image_size or 224
    description = {
        "variant": config.variant,
        "reduction": config.reduction,
        "scale": config.scale,
        "classes": list(dataset.classes),
        "image_size": size,
        "preprocessing": Preprocessing(size).to_dict(),
        "fold": fold,
        "seed": config.seed,
        "version": __version__,
    }
    split = Split(train, validation, test)
    return Job(
        fold, split, plan, pixels, labels, dataset.images, folder / f"fold{fold}", config.seed, description,
        config.checkpoint_every * 60,
    )  # fmt: skip


def _described(job: Job, folder: Path) -> dict[str, Any]:
    return job.description | {"folds_sha256": sha256_file(folder / FOLDS)}


def _environment(
    config: TrainConfig, folder: Path, device: torch.device, model: nn.Module, steps: int
) -> dict[str, Any]:
    """env.json: machine, versions, and the precision, which a resumed run takes from there."""
    if (folder / ENVIRONMENT).is_file():
        return read_json(folder / ENVIRONMENT)
    size = config.image_size or 224
    precision = choose_precision(
        config.amp, model, device, size, deterministic=config.deterministic, steps=steps
    )
    return environment() | {"device": str(device), "precision": precision._asdict()}


def _check_images(config: TrainConfig, folder: Path, dataset: Dataset, hashes: tuple[str, ...]) -> dict[str, str]:
    """Name and hash of every image; InputError where they are not those that the run began with."""
    now = dict(zip(dataset.images, hashes, strict=True))
    if (folder / IMAGES).is_file():
        before = read_json(folder / IMAGES)
        changed = sorted(name for name in now.keys() | before.keys() if now.get(name) != before.get(name))
        if changed:
            raise InputError(
                f"{config.data} has changed since the run in {folder} began: {changed[0]}"
                + (f" and {len(changed) - 1} more" if len(changed) > 1 else "")
            )
    return now


def _say_plan(
    config: TrainConfig,
    folder: Path,
    device: torch.device,
    dataset: Dataset,
    model: nn.Module,
    facts: dict[str, Any],
    jobs: dict[int, Job],
    quiet: bool,
) -> list[str]:
    """Tell the user what is about to happen; returns the sentences that the report repeats."""
    job = next(iter(jobs.values()))
    counts = ", ".join(f"{n} {name}" for name, n in dataset.counts.items())
    precision = facts["precision"]
    lines = [
        f"{config.variant} on {dataset.name}: {len(dataset)} images of {len(set(dataset.patients))} patients ({counts})",
        f"{config.image_size} px, batch {config.batch_size}, {job.plan.steps} steps a fold "
        f"({job.plan.passes} passes), {len(jobs)} of {config.folds} folds, seed {config.seed}",
        f"device {device}; amp {precision['amp']} ({precision['reason']})",
        compile_plan(config.compile, model, device),
        *_backends(model, config, device),
    ]
    for line in lines:
        say(line, quiet)
    say(f"writing to {folder}", quiet)
    return lines[2:]


def _backends(model: nn.Module, config: TrainConfig, device: torch.device) -> list[str]:
    """Which attention backend each block takes in training, and why."""
    if not isinstance(model, HMCNet) or not model.attention_blocks():
        return []
    lines = []
    for name, stride in {"ha1": 4, "ha2": 8, "ca23": 16, "ca34": 32}.items():
        if block := model.attention_blocks().get(name):
            tokens = (-(-(config.image_size or 224) // stride)) ** 2
            shape = Shape(config.batch_size or 32, tokens, tokens, block.query.out_channels, block.value.out_channels)
            choice = choose_backend(block.backend, device.type, torch.float32, shape, needs_grad=True)
            lines.append(f"{name}: {choice.backend} ({choice.reason})")
    return ["attention " + "; ".join(lines)]


def _train_one(trainer: Trainer, job: Job, config: TrainConfig, build: Build, quiet: bool) -> None:
    if is_done(job.folder):
        remove_checkpoint(job.folder / CHECKPOINT)
        say(f"fold {job.fold}: done before", quiet)
        return
    torch.manual_seed(int(np.random.SeedSequence([config.seed, job.fold]).generate_state(1)[0]))
    trainer.reset(build(config).state_dict(), _class_weights(config, job))
    display = FoldDisplay(job.fold, config.folds, job.plan, quiet)
    with display, stop_signals(quiet) as stop:
        try:
            train_fold(trainer, job, stop=stop, show=display.update, warn=lambda text: say(text))
        except Interrupted:
            say(f"stopped; go on with: hmc-fast train --resume --out {job.folder.parent}")
            raise


def _class_weights(config: TrainConfig, job: Job) -> torch.Tensor | None:
    if config.class_weights == "none":
        return None
    labels = job.labels[torch.from_numpy(job.split.train).to(job.labels.device)]
    return balanced_class_weights(labels, len(config.class_names))


@contextmanager
def stop_signals(quiet: bool) -> Iterator[Callable[[], bool]]:
    """While inside, SIGINT and SIGTERM ask for a stop after the step; a second one stops at once."""
    asked: list[int] = []

    def ask(number: int, frame: FrameType | None) -> None:
        if asked:
            raise KeyboardInterrupt
        asked.append(number)
        say("stopping after this step, with a checkpoint; once more stops at once", quiet)

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: bool(asked)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
