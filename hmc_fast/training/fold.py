"""Training of one fold: steps, history, checkpoints, and what is left when it is done."""

import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from hmc_fast.data.augment import draw_parameters
from hmc_fast.errors import InputError
from hmc_fast.files import write_csv
from hmc_fast.models.saved import DESCRIPTION, save_model
from hmc_fast.training.batches import BatchPlan
from hmc_fast.training.checkpoint import load_checkpoint, remove_checkpoint, save_checkpoint
from hmc_fast.training.step import Trainer

CHECKPOINT, HISTORY, PREDICTIONS = "checkpoint", "history.csv", "predictions.csv"
HISTORY_COLUMNS = (
    "fold", "epoch", "images", "train_loss", "train_accuracy", "test_loss", "test_accuracy",
    "seconds", "images_per_s",
)  # fmt: skip
VALIDATION_COLUMNS = ("validation_loss", "validation_accuracy")
EVALUATIONS = 100  # at most this many passes of a long run evaluate the test fold, for the curves


class Split(NamedTuple):
    """Image numbers of one fold."""

    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray


class Job(NamedTuple):
    """One fold's work. images: uint8 (n, 1, S, S) and labels: (n,), all of the data set, on the
    device; names: of the images; checkpoint_seconds: between checkpoints."""

    fold: int
    split: Split
    plan: BatchPlan
    images: Tensor
    labels: Tensor
    names: tuple[str, ...]
    folder: Path
    seed: int
    checkpoint_seconds: float


@dataclass
class State:
    """Where a fold stands; everything of a checkpoint that is no tensor."""

    step: int = 0
    rows: list[dict[str, Any]] = field(default_factory=list)
    loss_sum: float = 0.0
    correct: int = 0
    steps_in_row: int = 0
    seconds: float = 0.0
    best_loss: float | None = None
    best_epoch: int | None = None


class Interrupted(KeyboardInterrupt):
    """The user stopped the run; a checkpoint was written, or the fold is done."""


def is_done(folder: Path) -> bool:
    """Whether a fold's folder holds its finished model."""
    return (folder / DESCRIPTION).is_file()


def train_fold(
    trainer: Trainer,
    job: Job,
    description: dict[str, Any],
    *,
    stop: Callable[[], bool] = lambda: False,
    show: Callable[[int, dict[str, Any] | None], None] = lambda step, row: None,
    warn: Callable[[str], None] = print,
) -> None:
    """Train to the end from the newest checkpoint, or from the trainer's fresh weights.

    description: what model.json will say; stop: asked after every step; show: told the steps done
    and, at the end of a pass, its history row; warn: told of damaged checkpoints. Leaves
    history.csv, predictions.csv, model.safetensors and, last, model.json. Raises Interrupted where
    `stop` said so, InputError where the loss is no longer a number or the checkpoint cannot be
    written.
    """
    state, best = _resume(trainer, job, warn)
    running, last_save = _Running(trainer.device, state), time.monotonic()
    while state.step < job.plan.steps:
        running.add(*_one_step(trainer, job, state.step))
        state.step, state.steps_in_row = state.step + 1, state.steps_in_row + 1
        row = None
        if job.plan.passes_done(state.step) > job.plan.passes_done(state.step - 1):
            running.read_into(state)
            row, best = _close_row(trainer, job, state, best)
            running = _Running(trainer.device, state)
        show(state.step, row)
        due = time.monotonic() - last_save >= job.checkpoint_seconds
        if (due or stop()) and state.step < job.plan.steps:
            running.read_into(state)
            _save(trainer, job, state, best)
            last_save = time.monotonic()
            if stop():
                raise Interrupted
            running = _Running(trainer.device, state)
    _finish(trainer, job, state, best, description)


class _Running:
    """Sums of the row being made, on the device, and the clock of the steps: evaluations and
    checkpoints are not counted."""

    def __init__(self, device: torch.device, state: State) -> None:
        self.loss_sum = torch.tensor(state.loss_sum, dtype=torch.float64, device=device)
        self.correct = torch.tensor(state.correct, device=device)
        self.started = time.monotonic()

    def add(self, loss: Tensor, correct: Tensor) -> None:
        """One step more; nothing waits for the device."""
        self.loss_sum += loss
        self.correct += correct

    def read_into(self, state: State) -> None:
        """Wait for the device and put sums and time into `state`."""
        state.loss_sum, state.correct = self.loss_sum.item(), int(self.correct)
        state.seconds += time.monotonic() - self.started


def _one_step(trainer: Trainer, job: Job, step: int) -> tuple[Tensor, Tensor]:
    images, variants = job.plan.batch(step)
    chosen = torch.from_numpy(images).to(trainer.device, non_blocking=True)
    parameters = draw_parameters(job.seed, variants.tolist(), images.tolist())
    parameters = parameters.to(trainer.device, non_blocking=True)
    return trainer.step(job.images[chosen], parameters, job.labels[chosen])


def _close_row(
    trainer: Trainer, job: Job, state: State, best: dict[str, Tensor] | None
) -> tuple[dict[str, Any], dict[str, Tensor] | None]:
    """The history row of the pass that has just ended; `best` weights are replaced where validation
    says so."""
    epoch = job.plan.passes_done(state.step)
    if not math.isfinite(state.loss_sum):
        raise InputError(
            f"the loss of fold {job.fold} is no longer a number in epoch {epoch}: "
            "lower --lr or train with --amp off"
        )
    images = state.steps_in_row * job.plan.batch_size
    seconds = state.seconds - sum(row["seconds"] for row in state.rows)
    row: dict[str, Any] = {
        "fold": job.fold,
        "epoch": epoch,
        "images": min(state.step * job.plan.batch_size, job.plan.total),
        "train_loss": state.loss_sum / state.steps_in_row,
        "train_accuracy": state.correct / images,
        "test_loss": None,
        "test_accuracy": None,
        "seconds": seconds,
        "images_per_s": images / max(seconds, 1e-9),
    }
    every = -(-job.plan.passes // EVALUATIONS)
    shown = epoch % every == 0 or state.step == job.plan.steps
    if shown:
        row["test_loss"], row["test_accuracy"] = _evaluate(trainer, job, job.split.test)
    if len(job.split.validation):
        loss, accuracy = _evaluate(trainer, job, job.split.validation)
        row |= {"validation_loss": loss, "validation_accuracy": accuracy}
        if state.best_loss is None or loss < state.best_loss:
            state.best_loss, state.best_epoch = loss, epoch
            best = {name: t.detach().clone() for name, t in trainer.model.state_dict().items()}
    state.rows.append(row)
    if shown:
        _write_history(job, state.rows)
    state.loss_sum, state.correct, state.steps_in_row = 0.0, 0, 0
    return row, best


def _logits(trainer: Trainer, job: Job, chosen: np.ndarray) -> Tensor:
    images = job.images[torch.from_numpy(chosen).to(trainer.device)]
    return trainer.predict(images, job.plan.batch_size)


def _evaluate(trainer: Trainer, job: Job, chosen: np.ndarray) -> tuple[float, float]:
    """Mean loss and accuracy on some images, for display and validation."""
    logits = _logits(trainer, job, chosen)
    labels = job.labels[torch.from_numpy(chosen).to(trainer.device)]
    loss = F.cross_entropy(logits, labels).item()
    return loss, (logits.argmax(1) == labels).double().mean().item()


def _finish(
    trainer: Trainer,
    job: Job,
    state: State,
    best: dict[str, Tensor] | None,
    description: dict[str, Any],
) -> None:
    """Predict the test fold and write the results; model.json comes last and marks the fold as
    done."""
    if best is not None:
        trainer.model.load_state_dict(best)
    logits = _logits(trainer, job, job.split.test)
    if not logits.isfinite().all():
        raise InputError(
            f"the predictions of fold {job.fold} are no numbers: lower --lr or train with --amp off"
        )
    probabilities = logits.double().softmax(1).tolist()
    names = [job.names[i] for i in job.split.test]
    classes = description["classes"]
    rows = [[name, *row] for name, row in zip(names, probabilities, strict=True)]
    write_csv(job.folder / PREDICTIONS, ["image", *(f"p_{name}" for name in classes)], rows)
    _write_history(job, state.rows)
    selected = {"selected_epoch": state.best_epoch} if best is not None else {}
    save_model(job.folder, trainer.model, description | selected)
    remove_checkpoint(job.folder / CHECKPOINT)


def _write_history(job: Job, rows: list[dict[str, Any]]) -> None:
    columns = [*HISTORY_COLUMNS, *(VALIDATION_COLUMNS if len(job.split.validation) else ())]
    write_csv(job.folder / HISTORY, columns, [[row[c] for c in columns] for row in rows])


def _save(trainer: Trainer, job: Job, state: State, best: dict[str, Tensor] | None) -> None:
    tensors = {
        "model": dict(trainer.model.state_dict()),
        "optimizer": {
            f"{index}.{name}": tensor
            for index, group in trainer.optimizer.state_dict()["state"].items()
            for name, tensor in group.items()
        },
        "random": {"cpu": torch.get_rng_state()},
    }
    if trainer.device.type == "cuda":
        tensors["random"]["cuda"] = torch.cuda.get_rng_state(trainer.device)
    if best is not None:
        tensors["best"] = best
    scaler = trainer.scaler.state_dict()
    try:
        save_checkpoint(job.folder / CHECKPOINT, tensors, asdict(state) | {"scaler": scaler})
    except OSError as error:
        raise InputError(
            f"cannot write the checkpoint in {job.folder}: {error.strerror or error}; "
            "the one before is kept: make room and go on with --resume"
        ) from error


def _resume(
    trainer: Trainer, job: Job, warn: Callable[[str], None]
) -> tuple[State, dict[str, Tensor] | None]:
    checkpoint, warnings = load_checkpoint(job.folder / CHECKPOINT)
    for sentence in warnings:
        warn(sentence)
    if checkpoint is None:
        if warnings:
            warn(f"no whole checkpoint is left: fold {job.fold} starts again")
        job.folder.mkdir(parents=True, exist_ok=True)
        return State(), None
    trainer.model.load_state_dict(checkpoint.tensors["model"])
    _load_optimizer(trainer.optimizer, checkpoint.tensors["optimizer"])
    torch.set_rng_state(checkpoint.tensors["random"]["cpu"])
    if "cuda" in checkpoint.tensors["random"] and trainer.device.type == "cuda":
        torch.cuda.set_rng_state(checkpoint.tensors["random"]["cuda"], trainer.device)
    values = dict(checkpoint.state)
    trainer.scaler.load_state_dict(values.pop("scaler"))
    return State(**values), checkpoint.tensors.get("best")


def _load_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    """Adam's state by parameter number, in the memory layout of the parameters: the fused step
    walks over both alike."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        index, _, name = key.partition(".")
        like = parameters[int(index)]
        if tensor.shape == like.shape and name != "step":
            tensor = torch.empty_like(like, requires_grad=False).copy_(tensor)
        state.setdefault(int(index), {})[name] = tensor
    optimizer.load_state_dict(
        {"state": state, "param_groups": optimizer.state_dict()["param_groups"]}
    )
