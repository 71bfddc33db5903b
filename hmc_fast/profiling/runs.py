"""A run opened again: its images, which fold tests which, its models."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from hmc_fast.data.dataset import Dataset, pixel_hash
from hmc_fast.data.folds import read_folds
from hmc_fast.errors import InputError
from hmc_fast.models.saved import DESCRIPTION, load_model, read_description, trained_folds
from hmc_fast.progress import progress
from hmc_fast.training.config import TrainConfig, config_from_dict
from hmc_fast.training.run_data import data_again
from hmc_fast.training.run_folder import (
    CONFIG,
    FOLDS,
    IMAGES,
    is_begun,
    read_config,
    read_json,
)


@dataclass(frozen=True)
class OpenedRun:
    """folds: those that are trained; assignment: (n,) the fold that tests each image."""

    folder: Path
    config: TrainConfig
    dataset: Dataset
    assignment: np.ndarray
    folds: tuple[int, ...]

    def tested(self, fold: int) -> list[int]:
        """Numbers of the fold's test images."""
        return np.flatnonzero(self.assignment == fold).tolist()

    def model(self, fold: int, backend: str) -> nn.Module:
        """The fold's model in eval mode on the CPU."""
        return load_model(self.folder, fold, backend=backend)


def open_run(folder: Path, data: str | None = None) -> OpenedRun:
    """The run in `folder`, its images where its config.json says, or at `data`.

    Raises InputError: no run, no trained fold, images that are not there or do not fit folds.csv.
    """
    config = config_from_dict(_settings(folder))
    folds = tuple(trained_folds(folder))
    if not folds:
        raise InputError(f"{folder} holds no trained fold")
    for fold in folds:
        read_description(folder / f"fold{fold}")  # a damaged one now, not after the timings
    dataset = data_again(config, data)
    assignment = read_folds(folder / FOLDS, dataset)
    config = config if data is None else dataclasses.replace(config, data=data)
    return OpenedRun(folder, config, dataset, assignment, folds)


def _settings(folder: Path) -> dict[str, Any]:
    """config.json; InputError for what is no run's folder, with the run's where it is a fold's."""
    if not folder.is_dir():
        raise InputError(f"no such run: {folder}")
    if (folder / DESCRIPTION).is_file():
        raise InputError(f"{folder} is one fold of a run: give the run's folder, {folder.parent}")
    if not is_begun(folder):
        raise InputError(f"{folder} is no run: it has no {CONFIG}, which hmc-fast train writes")
    return read_config(folder / CONFIG)


def check_images(run: OpenedRun, *, quiet: bool = False) -> None:
    """Decode the test images of the trained folds once; InputError where one is not what the run
    was trained with."""
    before = read_json(run.folder / IMAGES)
    tested = [i for fold in run.folds for i in run.tested(fold)]
    for i in progress(tested, "checking images", quiet=quiet):
        name = run.dataset.images[i]
        if pixel_hash(run.dataset.read(i)) != before.get(name):
            raise InputError(
                f"{name} of {run.dataset.name} is not the image that the run in {run.folder} was "
                "trained with: restore it, or name the right images with --data"
            )
