"""From the folders of finished runs to the arrays that tables, figures and the report are made
of."""

import csv
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from hmc_fast.data.dataset import Dataset
from hmc_fast.errors import InputError
from hmc_fast.files import sha256_file
from hmc_fast.models.saved import DESCRIPTION, WEIGHTS, WEIGHTS_SHA256
from hmc_fast.training.fold import HISTORY, PREDICTIONS
from hmc_fast.training.results import BESIDE, METRICS, predictions_header, read_history
from hmc_fast.training.run_folder import CONFIG, ENVIRONMENT, FOLDS, IMAGES, read_json
from hmc_fast.training.study import Cell

RESULTS_AGAIN = f"remove its {METRICS}, and the study makes the results again from its folds"
FOLD_AGAIN = "remove it, and the study trains this fold again"


def collect_run(cell: Cell, dataset: Dataset) -> dict[str, Any]:
    """One finished run: its predictions out of fold in the data set's order, metrics, history.

    Returns {"name", "variant", "protocol", "folder", "images", "patients", "folds", "labels",
    "probabilities", "breasts", "metrics", "history", "config", "environment", "steps"}.
    Raises InputError: a file is missing or damaged, or the predictions are of other images.
    """
    with _sound(cell.folder, RESULTS_AGAIN):
        rows = _read_predictions(cell.folder / PREDICTIONS, dataset)
        probabilities = np.array([[float(p) for p in row[len(BESIDE) :]] for row in rows])
        metrics = read_json(cell.folder / METRICS)
        history = read_history(cell.folder)
        if {row["fold"] for row in history} != set(range(cell.config.folds)):
            raise ValueError(f"{HISTORY} does not hold {cell.config.folds} folds")
    config = read_json(cell.folder / CONFIG)
    return {
        "name": cell.name,
        "variant": cell.config.variant,
        "protocol": cell.config.protocol,
        "folder": f"runs/{cell.name}",
        "images": list(dataset.images),
        "patients": list(dataset.patients),
        "folds": np.array([int(row[2]) for row in rows]),
        "labels": dataset.labels,
        "probabilities": probabilities,
        "breasts": list(dataset.images) if is_mias(dataset) else None,  # a film of each
        "metrics": metrics,
        "history": history,
        "config": config,
        "environment": read_json(cell.folder / ENVIRONMENT),
        "steps": _steps(history, config["batch_size"]),
    }


@contextmanager
def _sound(folder: Path, remedy: str) -> Iterator[None]:
    """InputError that names a folder with a damaged file, and the remedy."""
    try:
        yield
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{folder} is damaged ({error}): {remedy}") from error


def _read_predictions(path: Path, dataset: Dataset) -> list[list[str]]:
    with open(path, newline="") as file:
        header, *rows = csv.reader(file)
    expected = predictions_header(dataset.classes)
    if header != expected:
        raise ValueError(f"{path.name} must start with {','.join(expected)}")
    if [row[0] for row in rows] != list(dataset.images):
        raise ValueError(f"{path.name} does not hold the images of {dataset.name}")
    return rows


def _steps(history: Sequence[dict[str, Any]], batch_size: int) -> list[int]:
    """The steps of each fold, in their order, from the images of its last pass."""
    last = {row["fold"]: row["images"] for row in history}
    return [-(-images // batch_size) for _, images in sorted(last.items())]


def is_mias(dataset: Dataset) -> bool:
    """Whether the images are those of the paper."""
    return dataset.name.startswith("mias:")


def about_dataset(dataset: Dataset) -> dict[str, Any]:
    """What the report says of the images."""
    return {
        "name": dataset.name,
        "classes": list(dataset.classes),
        "images": len(dataset),
        "patients": len(set(dataset.patients)),
        "counts": dataset.counts,
        "warnings": list(dataset.warnings),
        "mias": is_mias(dataset),
    }


def files_of(cells: Sequence[Cell], root: Path) -> dict[str, str]:
    """SHA-256 by name of the files that the tables are made from; that of a model is the one that
    model.json has."""
    found: dict[str, str] = {}
    for cell in cells:
        names = [CONFIG, ENVIRONMENT, IMAGES, FOLDS, HISTORY, PREDICTIONS, METRICS]
        paths = [cell.folder / name for name in names]
        found |= {str(path.relative_to(root)): sha256_file(path) for path in paths}
        for fold in range(cell.config.folds):
            folder = cell.folder / f"fold{fold}"
            with _sound(folder, FOLD_AGAIN):
                digest = read_json(folder / DESCRIPTION).get(WEIGHTS_SHA256, "")
            found[str((folder / WEIGHTS).relative_to(root))] = digest
    return found
