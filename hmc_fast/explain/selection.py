"""Which images are explained, and by which fold's model: never by one that was trained on them.

An image is the run's where its pixels are (images.json): it belongs to the model of its test fold.
Any other image is explained by the fold that the user names.
"""

import csv
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np

from hmc_fast.data.dataset import Dataset, pixel_hash
from hmc_fast.data.folds import HEADER, read_folds
from hmc_fast.data.images import read_image
from hmc_fast.errors import InputError
from hmc_fast.models.saved import DESCRIPTION, read_description, trained_folds
from hmc_fast.training.config import TrainConfig, config_from_dict
from hmc_fast.training.run_folder import CONFIG, FOLDS, IMAGES, read_config, read_json

Item = TypeVar("Item")


@dataclass(frozen=True)
class Run:
    """A run as far as explanations need it.

    folder: of the run; config: its settings; trained: its finished folds; fold: the one that the
    user named; rows: patient, label and test fold of each image; digests: the hash of its pixels.
    """

    folder: Path
    config: TrainConfig
    trained: tuple[int, ...]
    fold: int | None
    rows: dict[str, tuple[str, str, int]]
    digests: dict[str, str]

    def name_of(self, digest: str) -> str | None:
        """The run's image with these pixels."""
        return next((name for name, own in self.digests.items() if own == digest), None)


@dataclass(frozen=True)
class Film:
    """One image to explain.

    name: as in explain.csv; place: the folder of its files, below the output; fold: whose model
    explains it; label: its class by name, None where nobody knows; patient: groups films; own:
    whether it is the run's; read(): uint8 (H, W); mask(): bool (H, W) or None.
    """

    name: str
    place: str
    fold: int
    label: str | None
    patient: str
    own: bool
    read: Callable[[], np.ndarray]
    mask: Callable[[], np.ndarray | None]


def open_run(path: Path, fold: int | None) -> Run:
    """A run's folder, or one fold's folder of it; InputError where it cannot be used as asked."""
    if not path.is_dir():
        raise InputError(f"no such run: {path}")
    if (path / DESCRIPTION).is_file():
        own = read_description(path).get("fold", 0)
        if fold not in (None, own):
            raise InputError(f"{path} is the folder of fold {own}: leave --fold {fold} out")
        path, fold = path.absolute().parent, own
    trained = tuple(trained_folds(path))
    if not trained or (fold is not None and fold not in trained):
        asked = "no trained fold" if fold is None else f"no trained fold {fold}"
        found = f" (trained: {', '.join(map(str, trained))})" if trained else ""
        raise InputError(f"{path} holds {asked}{found}")
    rows, digests = _read_rows(path / FOLDS), read_json(path / IMAGES)
    if rows.keys() != digests.keys():
        raise InputError(f"{path} is damaged: {FOLDS} and {IMAGES} name different images")
    return Run(path, config_from_dict(read_config(path / CONFIG)), trained, fold, rows, digests)


def _read_rows(path: Path) -> dict[str, tuple[str, str, int]]:
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            header, *rows = list(csv.reader(file))
        if header != list(HEADER):
            raise ValueError(f"it must start with {','.join(HEADER)}")
        return {image: (patient, label, int(fold)) for image, patient, label, fold in rows}
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, csv.Error) as error:
        raise InputError(f"{path} is damaged: {error}") from error


def films_of_data(run: Run, dataset: Dataset) -> tuple[list[Film], list[str]]:
    """The films of a data set, by fold, and a sentence for each that cannot be explained.

    The run's own data: those of the trained folds, of the named one alone where one is named.
    Other data: all, by the named fold. Raises InputError: other data, and no fold named.
    """
    try:
        assignment = read_folds(run.folder / FOLDS, dataset)
    except InputError as error:
        if run.fold is None:
            raise InputError(f"{error}; give --fold to explain them by one fold's model") from error
        return _each(range(len(dataset)), lambda i: _film_of_other_data(run, dataset, i))
    folds = run.trained if run.fold is None else (run.fold,)
    chosen = [i for i in range(len(dataset)) if assignment[i] in folds]
    return _each(chosen, lambda i: _film_of_own_data(run, dataset, dataset.images[i]))


def films_of_words(
    run: Run, words: Sequence[str], dataset: Dataset | None
) -> tuple[list[Film], list[str]]:
    """The films that --images names, files or images of the run by name; as `films_of_data`.

    dataset: the run's, for masks and for images by name; None where it is not at hand.
    """
    return _each(words, lambda word: _film_of_word(run, word, dataset))


def _each(items: Iterable[Item], make: Callable[[Item], Film]) -> tuple[list[Film], list[str]]:
    films: dict[str, Film] = {}
    failed = []
    for item in items:
        try:
            film = make(item)
            films.setdefault(film.name, film)
        except InputError as error:
            failed.append(str(error))
    return sorted(films.values(), key=lambda film: film.fold), failed


def _film_of_word(run: Run, word: str, dataset: Dataset | None) -> Film:
    path = Path(word).expanduser()
    if word in run.rows and not path.exists():
        if dataset is None:
            raise InputError(f"{word} is an image of the run, whose data are not at hand")
        return _film_of_own_data(run, dataset, word)

    def read() -> np.ndarray:
        return read_image(path)

    digest = pixel_hash(read())
    name = run.name_of(digest)
    if name is not None:
        return _own_film(run, name, read, _mask_in(dataset, name))
    place, fold = f"{path.stem}-{digest[:8]}", _named_fold(run, word)
    return Film(_unique(run, word, digest), place, fold, None, word, False, read, _no_mask)


def _film_of_own_data(run: Run, dataset: Dataset, name: str) -> Film:
    if name not in dataset.images:
        raise InputError(f"{name} is an image of the run, but not in {dataset.name}")
    i = dataset.images.index(name)

    def read() -> np.ndarray:
        image = dataset.read(i)
        if pixel_hash(image) != run.digests[name]:
            raise InputError(f"{name} has changed since the run in {run.folder} began")
        return image

    return _own_film(run, name, read, _mask_in(dataset, name))


def _film_of_other_data(run: Run, dataset: Dataset, i: int) -> Film:
    """A film of another data set, which may still be one of the run's pictures."""

    def read() -> np.ndarray:
        return dataset.read(i)

    digest, name = pixel_hash(read()), dataset.images[i]
    own = run.name_of(digest)
    if own is not None:
        return _own_film(run, own, read, _mask_in(dataset, name))
    unique, fold = _unique(run, name, digest), _named_fold(run, name)
    label, patient = dataset.classes[dataset.labels[i]], dataset.patients[i]
    return Film(unique, unique, fold, label, patient, False, read, _mask_in(dataset, name))


def _unique(run: Run, name: str, digest: str) -> str:
    """The name of an image that is not the run's, unlike all names in the run."""
    return f"{name}-{digest[:8]}" if name in run.rows else name


def _own_film(
    run: Run,
    name: str,
    read: Callable[[], np.ndarray],
    mask: Callable[[], np.ndarray | None],
) -> Film:
    patient, label, fold = run.rows[name]
    if fold not in run.trained:
        from hmc_fast.training.results import resume_command  # matplotlib comes with it

        raise InputError(
            f"{name} is tested in fold {fold}, which is not trained, and every other fold's model "
            f"was trained on it: run `{resume_command(run.folder)} --only-fold {fold}` first"
        )
    return Film(name, name, fold, label, patient, True, read, mask)


def _mask_in(dataset: Dataset | None, name: str) -> Callable[[], np.ndarray | None]:
    if dataset is None or name not in dataset.images:
        return _no_mask
    return partial(dataset.mask, dataset.images.index(name))


def _no_mask() -> None:
    """Of a film whose lesion's place nobody knows."""


def _named_fold(run: Run, name: str) -> int:
    if run.fold is None:
        raise InputError(f"{name} is no image of the run: give --fold to say whose model explains")
    return run.fold
