"""A run opened again: its settings, its trained folds, which fold tests which image, and where they
are wanted the images themselves."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import nn

from hmc_fast.data.dataset import Dataset, pixel_hash
from hmc_fast.data.folds import FoldRow, read_folds, read_rows
from hmc_fast.data.protocols import leak_note
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
    """What a run's folder says without its images.

    folder: of the run; config: its settings; trained: its finished folds; fold: the one that was
    asked for, None for all; rows: of folds.csv by image; digests: the `pixel_hash` of each image.
    """

    folder: Path
    config: TrainConfig
    trained: tuple[int, ...]
    fold: int | None
    rows: dict[str, FoldRow]
    digests: dict[str, str]

    @property
    def folds(self) -> tuple[int, ...]:
        """The trained folds that were asked for."""
        return self.trained if self.fold is None else (self.fold,)

    def name_of(self, digest: str) -> str | None:
        """The run's image with these pixels."""
        return next((name for name, own in self.digests.items() if own == digest), None)

    def model(self, fold: int, backend: str = "auto") -> nn.Module:
        """A trained fold's model in eval mode on the CPU, see `load_model`."""
        return load_model(self.folder, fold, backend=backend)


@dataclass(frozen=True)
class RunImages:
    """A run with its images; assignment: (n,) the fold that tests each of the data set."""

    run: OpenedRun
    dataset: Dataset
    assignment: np.ndarray

    def tested(self, fold: int) -> list[int]:
        """Numbers of the fold's test images."""
        return np.flatnonzero(self.assignment == fold).tolist()


def open_run(path: Path, fold: int | None = None) -> OpenedRun:
    """The run in a folder, or with one fold alone: the one that is named, or whose folder it is.

    Raises InputError: no run, the fold is not trained or none is, or a file is damaged.
    """
    if not path.is_dir():
        raise InputError(f"no such run: {path}")
    if (path / DESCRIPTION).is_file():
        own = read_description(path).get("fold", 0)
        if fold not in (None, own):
            raise InputError(f"{path} is the folder of fold {own}: leave --fold {fold} out")
        path, fold = path.absolute().parent, own
    if not is_begun(path):
        raise InputError(f"{path} is no run: it has no {CONFIG}, which hmc-fast train writes")
    config = config_from_dict(read_config(path / CONFIG))
    trained = tuple(trained_folds(path))
    if not trained or (fold is not None and fold not in trained):
        asked = "no trained fold" if fold is None else f"no trained fold {fold}"
        found = f" (trained: {', '.join(map(str, trained))})" if trained else ""
        raise InputError(f"{path} holds {asked}{found}")
    rows, digests = read_rows(path / FOLDS), read_json(path / IMAGES)
    if rows.keys() != digests.keys():
        raise InputError(f"{path} is damaged: {FOLDS} and {IMAGES} name different images")
    opened = OpenedRun(path, config, trained, fold, rows, digests)
    for wanted in opened.folds:
        read_description(path / f"fold{wanted}")  # a damaged one now, not after hours
    return opened


def open_images(run: OpenedRun, data: str | None = None) -> RunImages:
    """The run's images, where its settings say or at `data`; nothing is decoded.

    Raises InputError: they are not there, or do not fit folds.csv.
    """
    dataset = data_again(run.config, data)
    return RunImages(run, dataset, read_folds(run.folder / FOLDS, dataset))


def check_images(images: RunImages, *, quiet: bool = False) -> None:
    """Decode the test images of the folds that were asked for once; InputError where one is not
    what the run was trained with."""
    run, dataset = images.run, images.dataset
    tested = [i for fold in run.folds for i in images.tested(fold)]
    for i in progress(tested, "checking images", quiet=quiet):
        name = dataset.images[i]
        if pixel_hash(dataset.read(i)) != run.digests.get(name):
            raise InputError(
                f"{name} of {dataset.name} is not the image that the run in {run.folder} was "
                "trained with: restore it, or name the right images with --data"
            )


def protocol_note(protocol: str) -> list[str]:
    """A sentence for the user of a run's models where its splits leak, else none."""
    return [f"note: trained with {sentence}" for sentence in leak_note(protocol)]
