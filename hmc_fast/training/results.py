"""From the finished folds to predictions.csv, history.csv, metrics.json and report.html."""

import csv
import dataclasses
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors import SafetensorError, safe_open

from hmc_fast.data.augment import augment, draw_parameters
from hmc_fast.data.dataset import Dataset
from hmc_fast.data.protocols import LEAKS, leak_note
from hmc_fast.errors import InputError
from hmc_fast.evaluation import figures
from hmc_fast.evaluation.report import run_figures, write_report
from hmc_fast.evaluation.summary import metrics_document
from hmc_fast.files import sha256_file, write_csv, write_json
from hmc_fast.models.saved import WEIGHTS
from hmc_fast.training.config import TrainConfig
from hmc_fast.training.fold import HISTORY, PREDICTIONS
from hmc_fast.training.run_folder import CONFIG

METRICS = "metrics.json"
BESIDE = ("image", "patient", "fold", "label", "predicted")
SHEET_IMAGES, SHEET_VARIANTS = 6, 5


class Run(NamedTuple):
    """All that the results are made of; pixels: uint8 (n, S, S); notes: sentences for the
    report."""

    folder: Path
    config: TrainConfig
    dataset: Dataset
    assignment: np.ndarray
    pixels: np.ndarray
    environment: dict[str, Any]
    notes: Sequence[str]
    command: str


def write_results(run: Run, folds: Sequence[int]) -> dict[str, Any]:
    """Write the run's tables, metrics, figures and report from the finished `folds`; returns
    metrics.json's value.

    Raises InputError: a finished fold's file is missing or damaged, or its predictions are not
    finite.
    """
    finished = {fold: read_fold(run, fold) for fold in folds}
    predictions = {name: row for fold in finished.values() for name, row in fold.predictions}
    history = [row for fold in finished.values() for row in fold.history]
    dataset, chosen = run.dataset, np.flatnonzero(np.isin(run.assignment, folds))
    probabilities = np.array([predictions[dataset.images[i]] for i in chosen])
    try:
        metrics = metrics_document(
            dataset.labels[chosen],
            probabilities,
            [dataset.patients[i] for i in chosen],
            run.assignment[chosen],
            dataset.classes,
            seconds=sum(row["seconds"] for row in history),
            gammas={fold: result.gammas for fold, result in finished.items()},
            seed=run.config.seed,
        )
    except ValueError as error:
        raise InputError(f"{run.folder}: {error}; lower --lr or train with --amp off") from error
    if run.config.protocol in LEAKS:
        metrics = {"protocol": run.config.protocol, **metrics}
    _write_predictions(run, chosen, probabilities)
    columns = list(history[0])
    write_csv(run.folder / HISTORY, columns, [[row[c] for c in columns] for row in history])
    write_json(run.folder / METRICS, metrics)
    page = _report(run, folds, chosen, probabilities, history, metrics)
    (run.folder / "figures").mkdir(exist_ok=True)
    drawn = run_figures(page)
    for name, figure in drawn.items():
        figures.save(figure, run.folder / "figures" / f"{name}.png")
    write_report(run.folder / "report.html", page, drawn)
    return metrics


class FoldResult(NamedTuple):
    """What a finished fold left: (image, probabilities) of its test images, history, gammas."""

    predictions: list[tuple[str, list[float]]]
    history: list[dict[str, Any]]
    gammas: dict[str, float]


def read_fold(run: Run, fold: int) -> FoldResult:
    """The files of a finished fold; InputError where one is missing or damaged."""
    folder = run.folder / f"fold{fold}"
    tested = [run.dataset.images[i] for i in np.flatnonzero(run.assignment == fold)]
    try:
        result = FoldResult(read_predictions(folder), read_history(folder), read_gammas(folder))
        if [name for name, _ in result.predictions] != tested:
            raise ValueError(f"{PREDICTIONS} is not of the fold's test images")
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        reason = f"{error.filename}: {error.strerror}" if isinstance(error, OSError) else error
        raise InputError(
            f"{folder} is damaged ({reason}): remove it, and `{resume_command(run.folder)}` "
            "trains it again"
        ) from error
    return result


def read_predictions(folder: Path) -> list[tuple[str, list[float]]]:
    """The rows of a fold's predictions.csv."""
    with open(folder / PREDICTIONS, newline="") as file:
        _, *rows = csv.reader(file)
    return [(name, [float(p) for p in row]) for name, *row in rows]


def read_history(folder: Path) -> list[dict[str, Any]]:
    """The rows of a fold's history.csv; an empty cell is None."""
    with open(folder / HISTORY, newline="") as file:
        rows = list(csv.DictReader(file))
    whole = ("fold", "epoch", "images")
    return [
        {k: None if v == "" else int(v) if k in whole else float(v) for k, v in row.items()}
        for row in rows
    ]


def read_gammas(folder: Path) -> dict[str, float]:
    """Each attention block's gamma in a finished fold's weights."""
    with safe_open(folder / WEIGHTS, "pt") as weights:
        names = [name for name in weights.keys() if name.endswith(".gamma")]  # noqa: SIM118
        return {name.removesuffix(".gamma"): weights.get_tensor(name).item() for name in names}


def predictions_header(classes: Sequence[str]) -> list[str]:
    """The columns of a run's predictions.csv: BESIDE, then the probabilities."""
    return [*BESIDE, *(f"p_{name}" for name in classes)]


def _write_predictions(run: Run, chosen: np.ndarray, probabilities: np.ndarray) -> None:
    dataset, classes = run.dataset, run.dataset.classes
    rows = [
        [
            dataset.images[i], dataset.patients[i], int(run.assignment[i]),
            classes[dataset.labels[i]], classes[int(row.argmax())], *row.tolist(),
        ]
        for i, row in zip(chosen, probabilities, strict=True)
    ]  # fmt: skip
    write_csv(run.folder / PREDICTIONS, predictions_header(classes), rows)


def _report(
    run: Run,
    folds: Sequence[int],
    chosen: np.ndarray,
    probabilities: np.ndarray,
    history: list[dict[str, Any]],
    metrics: dict[str, Any],
) -> dict[str, Any]:
    """What `write_report` takes."""
    config, dataset = run.config, run.dataset
    leak = leak_note(config.protocol)
    files = [
        "config.json",
        "env.json",
        "images.json",
        "folds.csv",
        "history.csv",
        "predictions.csv",
        METRICS,
    ]
    files += [f"fold{fold}/{WEIGHTS}" for fold in folds]
    return {
        "variant": f"{config.variant} (protocol {config.protocol})" if leak else config.variant,
        "dataset": {
            "name": dataset.name,
            "classes": list(dataset.classes),
            "images": len(dataset),
            "patients": len(set(dataset.patients)),
            "counts": dataset.counts,
            "warnings": [*leak, *dataset.warnings],
        },
        "folds_total": config.folds,
        "folds_done": len(folds),
        "predictions": {
            "images": [dataset.images[i] for i in chosen],
            "patients": [dataset.patients[i] for i in chosen],
            "folds": run.assignment[chosen],
            "labels": dataset.labels[chosen],
            "probabilities": probabilities,
        },
        "metrics": metrics,
        "history": history,
        "samples": _samples(run),
        "config": dataclasses.asdict(config),
        "environment": run.environment,
        "command": run.command,
        "next_commands": next_commands(run.folder, config, folds),
        "notes": list(run.notes),
        "files": {name: sha256_file(run.folder / name) for name in files},
    }


def next_commands(folder: Path, config: TrainConfig, done: Sequence[int]) -> list[str]:
    """What a user would run after a training: predict, then the next fold or a variant to compare
    with."""
    missing = [fold for fold in range(config.folds) if fold not in done]
    if missing:
        then = f"{resume_command(folder)} --only-fold {missing[0]}"
    else:
        other = "hmc" if config.variant == "resnet50" else "resnet50"
        settings = shlex.quote(str(folder / CONFIG))
        then = f"hmc-fast train --variant {other} --config {settings}"
    return [f"hmc-fast predict {shlex.quote(str(folder))} IMAGE ...", then]


def resume_command(folder: Path) -> str:
    """How a run goes on."""
    return f"hmc-fast train --resume --out {shlex.quote(str(folder))}"


def _samples(run: Run) -> dict[str, Any]:
    """Inputs of every class and augmented variants of them as the network sees them (the paper's
    Figures 2 and 3)."""
    by_class = [np.flatnonzero(run.dataset.labels == c) for c in range(len(run.dataset.classes))]
    per_class = -(-SHEET_IMAGES // len(by_class))
    chosen = np.concatenate([indices[:per_class] for indices in by_class])[
        : max(SHEET_IMAGES, len(by_class))
    ]
    images = torch.from_numpy(run.pixels[chosen]).unsqueeze(1)
    repeated = images.repeat_interleave(SHEET_VARIANTS, dim=0)
    numbers = np.repeat(chosen, SHEET_VARIANTS).tolist()
    parameters = draw_parameters(run.config.seed, [*range(SHEET_VARIANTS)] * len(chosen), numbers)
    seen = ((augment(repeated, parameters)[:, 0] + 1) * 127.5).round().to(torch.uint8).numpy()
    size = run.pixels.shape[1]
    names = [
        f"{run.dataset.images[i]} {run.dataset.classes[run.dataset.labels[i]]}" for i in chosen
    ]
    return {
        "titles": names,
        "originals": run.pixels[chosen],
        "variants": seen.reshape(len(chosen), SHEET_VARIANTS, size, size),
    }
