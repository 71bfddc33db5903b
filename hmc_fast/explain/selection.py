"""Which images are explained, and by which fold's model: never by one that was trained on them.

An image is the run's where its pixels are (images.json): it belongs to the model of its test fold.
Any other image is explained by the fold that the user names.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np

from hmc_fast.data.dataset import Dataset, pixel_hash
from hmc_fast.data.folds import read_folds
from hmc_fast.data.images import read_image
from hmc_fast.errors import InputError
from hmc_fast.training.opened_run import OpenedRun
from hmc_fast.training.run_folder import FOLDS

Item = TypeVar("Item")


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


def films_of_data(run: OpenedRun, dataset: Dataset) -> tuple[list[Film], list[str]]:
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
    chosen = [i for i in range(len(dataset)) if assignment[i] in run.folds]
    return _each(chosen, lambda i: _film_of_own_data(run, dataset, dataset.images[i]))


def films_of_words(
    run: OpenedRun, words: Sequence[str], dataset: Dataset | None
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


def _film_of_word(run: OpenedRun, word: str, dataset: Dataset | None) -> Film:
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


def _film_of_own_data(run: OpenedRun, dataset: Dataset, name: str) -> Film:
    if name not in dataset.images:
        raise InputError(f"{name} is an image of the run, but not in {dataset.name}")
    i = dataset.images.index(name)

    def read() -> np.ndarray:
        image = dataset.read(i)
        if pixel_hash(image) != run.digests[name]:
            raise InputError(f"{name} has changed since the run in {run.folder} began")
        return image

    return _own_film(run, name, read, _mask_in(dataset, name))


def _film_of_other_data(run: OpenedRun, dataset: Dataset, i: int) -> Film:
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


def _unique(run: OpenedRun, name: str, digest: str) -> str:
    """The name of an image that is not the run's, unlike all names in the run."""
    return f"{name}-{digest[:8]}" if name in run.rows else name


def _own_film(
    run: OpenedRun,
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


def _named_fold(run: OpenedRun, name: str) -> int:
    if run.fold is None:
        raise InputError(f"{name} is no image of the run: give --fold to say whose model explains")
    return run.fold
