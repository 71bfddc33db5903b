"""A run's ingredients, the files that say what it began with, and the lines that tell the user."""

import dataclasses
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from hmc_fast import __version__
from hmc_fast.attention import ENVIRONMENT_VARIABLE, Choice, Shape, choose_backend
from hmc_fast.data.cache import Images
from hmc_fast.data.dataset import Dataset
from hmc_fast.data.folds import write_folds
from hmc_fast.data.preprocessing import Preprocessing
from hmc_fast.data.protocols import LEAKS, leak_note
from hmc_fast.environment import environment, package_version
from hmc_fast.errors import InputError
from hmc_fast.files import sha256_file, write_json
from hmc_fast.models.forms import BlockSizes, FormChoice, choose_form
from hmc_fast.models.network import STRIDES, HMCNet
from hmc_fast.progress import say
from hmc_fast.training.config import TrainConfig
from hmc_fast.training.display import Display, FoldDisplay
from hmc_fast.training.fold import Job
from hmc_fast.training.run_folder import (
    CONFIG,
    ENVIRONMENT,
    FOLDS,
    IMAGES,
    is_begun,
    read_json,
)
from hmc_fast.training.step import AMP_DTYPES, Precision, choose_precision

Build = Callable[[TrainConfig], nn.Module]
CHANGED = {
    "device": "the device",
    ENVIRONMENT_VARIABLE: ENVIRONMENT_VARIABLE,
    "weights_sha256": "the file of --weights",
    "folds_sha256": FOLDS,
}


@dataclass
class Session:
    """What a run works with; notes: sentences for the report; shared: other processes train folds
    of it too."""

    config: TrainConfig
    folder: Path
    device: torch.device
    dataset: Dataset
    images: Images
    assignment: np.ndarray
    model: nn.Module
    build: Build
    quiet: bool
    command: str = ""
    notes: list[str] = field(default_factory=list)
    display: Display = FoldDisplay
    shared: bool = False

    def say(self, text: str) -> None:
        """One line for the user."""
        say(text, self.quiet)


def begin(session: Session, steps: int) -> dict[str, Any]:
    """Write the files that describe the run; config.json comes last and marks it as begun.

    Returns env.json: machine, versions, and the precision, which a resumed run takes from there.
    Raises InputError where a run that goes on meets other images, folds, weights or another device.
    """
    config, folder = session.config, session.folder
    begun = is_begun(folder)
    _check_images(session, begun)
    if not (begun and (folder / FOLDS).is_file()):
        write_folds(folder / FOLDS, session.dataset, session.assignment)
    now = _identity(session)
    if begun:
        facts = read_json(folder / ENVIRONMENT)
        _check_identity(session, facts, now)
    else:
        precision = choose_precision(
            config.amp,
            session.model,
            session.device,
            (config.images_a_step, config.pixels),
            deterministic=config.deterministic,
            steps=steps,
        )
        facts = environment() | now | {"precision": precision._asdict()}
    write_json(folder / ENVIRONMENT, facts)
    write_json(folder / CONFIG, dataclasses.asdict(config))
    return facts


def _identity(session: Session) -> dict[str, Any]:
    """What a resumed run must have in common with its beginning, beside settings and images."""
    weights = session.config.weights
    return {
        "device": session.device.type,
        ENVIRONMENT_VARIABLE: os.environ.get(ENVIRONMENT_VARIABLE),
        "weights_sha256": sha256_file(Path(weights)) if weights else None,
        "folds_sha256": sha256_file(session.folder / FOLDS),
    }


def _check_identity(session: Session, before: dict[str, Any], now: dict[str, Any]) -> None:
    """InputError that names what differs; another torch is allowed and said."""
    changed = [key for key, value in now.items() if before.get(key) != value]
    if changed:
        key = changed[0]
        pair = "" if key.endswith("sha256") else f" ({before.get(key)} there, {now[key]} here)"
        raise InputError(
            f"{CHANGED[key]} of the run in {session.folder} changed since it began{pair}: "
            "restore it or start a new run"
        )
    torch_before = (before.get("packages") or {}).get("torch")
    if torch_before != package_version("torch"):
        session.say(
            f"note: the run began with torch {torch_before}, this is {package_version('torch')}: "
            "its numbers may differ from those of an unbroken run"
        )


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


def description(session: Session, fold: int) -> dict[str, Any]:
    """What model.json says of a fold."""
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
        **({"protocol": config.protocol} if config.protocol in LEAKS else {}),
    }


def say_plan(session: Session, jobs: list[Job], precision: Precision, compiled: str) -> None:
    """Tell the user what is about to happen; the report repeats the choices."""
    config, dataset, plan = session.config, session.dataset, jobs[0].plan
    counts = ", ".join(f"{n} {name}" for name, n in dataset.counts.items())
    session.say(
        f"{config.variant} on {dataset.name}: {len(dataset)} images of "
        f"{len(set(dataset.patients))} patients ({counts})"
    )
    session.say(
        f"{len(jobs)} of {config.folds} folds, {_steps(jobs)} each ({plan.passes} passes), "
        f"{config.pixels} px, batch {config.batch_size}, seed {config.seed}"
    )
    choices = [
        f"device {session.device}; amp {precision.amp} ({precision.reason})",
        compiled,
        *_attention(session, AMP_DTYPES.get(precision.amp, torch.float32)),
    ]
    session.notes = [*session.notes, *choices]
    for line in [*leak_note(config.protocol), *choices, f"writing to {session.folder}"]:
        session.say(line)


def _attention(session: Session, dtype: torch.dtype) -> list[str]:
    """Which backend and form each attention block takes in training, and why."""
    if not isinstance(session.model, HMCNet):
        return []
    backends: dict[Choice, list[str]] = {}
    forms: dict[FormChoice, list[str]] = {}
    raw_channels = session.model.raw_channels()
    for name, block in session.model.attention_blocks().items():
        tokens = (-(-session.config.pixels // STRIDES[name])) ** 2
        batch, d_qk = session.config.images_a_step, block.query.out_channels
        sizes = BlockSizes(
            batch, tokens, tokens, d_qk, block.value.out_channels, raw_channels.get(name, 0)
        )
        form = choose_form(block.form, True, sizes)
        wide = sizes.channels if form.form == "direct" else sizes.raw_channels or sizes.channels
        shape = Shape(batch, tokens, tokens, d_qk, wide)
        try:
            choice = choose_backend(block.backend, session.device, dtype, shape, needs_grad=True)
        except ValueError as error:
            raise InputError(str(error)) from error
        backends.setdefault(choice, []).append(name)
        forms.setdefault(form, []).append(name)
    return [
        f"attention in {', '.join(names)}: {choice[0]} ({choice[1]})"
        for choice, names in [*backends.items(), *forms.items()]
    ]


def _steps(jobs: list[Job]) -> str:
    """The steps of a fold; folds differ in size."""
    steps = [job.plan.steps for job in jobs]
    fewest, most = min(steps), max(steps)
    return f"{most} steps" if fewest == most else f"{fewest} to {most} steps"
