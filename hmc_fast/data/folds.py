"""Folds of whole patients: made, checked, written to folds.csv and read back.

A patient's images are never on both sides of a split. Patients are spread over the folds by their
stratum (their worst class), so that every fold has patients of every stratum.
"""

import csv
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from hmc_fast.data.dataset import Dataset
from hmc_fast.errors import InputError
from hmc_fast.files import write_csv
from hmc_fast.sentences import counted

HEADER = ("image", "patient", "label", "fold")


class FoldRow(NamedTuple):
    """What folds.csv says of an image; label: by name; fold: the one that tests it."""

    patient: str
    label: str
    fold: int


def make_folds(dataset: Dataset, folds: int, seed: int) -> np.ndarray:
    """The test fold of every image, by scikit-learn's StratifiedGroupKFold with patients as groups.

    folds: 2 or more; seed: 0 to 2**32 - 1, the order of patients among equals.
    Returns (n,) int64, values 0 to folds - 1.
    Raises InputError: folds < 2, or a stratum with fewer patients than folds.
    """
    from sklearn.model_selection import StratifiedGroupKFold

    if folds < 2:
        raise InputError(f"cross-validation needs 2 folds or more, got {folds}")
    _check_strata(dataset, folds)
    assignment = np.full(len(dataset), -1, np.int64)
    splitter = StratifiedGroupKFold(n_splits=folds, shuffle=True, random_state=seed)
    splits = splitter.split(np.zeros(len(dataset)), dataset.strata, np.array(dataset.patients))
    for fold, (_, test) in enumerate(splits):
        assignment[test] = fold
    _check_spread(dataset, assignment, folds)
    return assignment


def _check_strata(dataset: Dataset, folds: int) -> None:
    for stratum, patients in _patients_by_stratum(dataset, range(len(dataset))).items():
        if len(patients) < folds:
            name = dataset.classes[stratum]
            fewer = f"use --folds {len(patients)} or " if len(patients) > 1 else ""
            raise InputError(
                f"class {name} has {counted(len(patients), 'patient')} (by their worst image), "
                f"too few for {folds} folds: {fewer}add patients of that class"
            )


def _check_spread(dataset: Dataset, assignment: np.ndarray, folds: int) -> None:
    """The splitter balances images: beside a patient with thousands it can leave a fold without."""
    for stratum in np.unique(dataset.strata):
        missing = set(range(folds)) - set(assignment[dataset.strata == stratum].tolist())
        if missing:
            raise InputError(
                f"no patient of class {dataset.classes[stratum]} falls into fold {min(missing)}: "
                "one patient has most of the images; ask for fewer folds or leave images of it out"
            )


def check_folds(dataset: Dataset, assignment: np.ndarray, hashes: Sequence[str]) -> None:
    """Refuse a split that leaks; call it on what is about to be trained.

    assignment: (n,) the fold of every image; hashes: the `pixel_hash` of every image.
    Raises InputError: a patient, or an identical image, is in two folds (both images are named).
    """
    _refuse_shared(
        dataset,
        assignment,
        dataset.patients,
        lambda patient, first, second: (
            f"patient {patient} is in two folds ({first}, {second}): "
            "all images of a patient must have one fold"
        ),
    )
    _refuse_shared(
        dataset,
        assignment,
        hashes,
        lambda _, first, second: (
            f"the same picture is in two folds ({first}, {second}): remove one, "
            "or give both one patient in patients.csv"
        ),
    )


def _refuse_shared(
    dataset: Dataset,
    assignment: np.ndarray,
    keys: Sequence[str],
    sentence: Callable[[str, str, str], str],
) -> None:
    first_with: dict[str, int] = {}
    for i, key in enumerate(keys):
        first = first_with.setdefault(key, i)
        if assignment[first] != assignment[i]:
            places = [f"{dataset.images[j]} in fold {assignment[j]}" for j in (first, i)]
            raise InputError(sentence(key, *places))


def write_folds(path: Path, dataset: Dataset, assignment: np.ndarray) -> None:
    """folds.csv: image,patient,label,fold, the label by name, a row an image."""
    write_csv(path, HEADER, zip(*_columns(dataset), assignment.tolist(), strict=True))


def read_rows(path: Path) -> dict[str, FoldRow]:
    """The rows of a folds.csv by image, in its order.

    Raises InputError: no such file, no such table, or an image that stands there twice.
    """
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            header, *lines = [line for line in csv.reader(file) if line] or [[]]
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path} is no table of folds ({error})") from None
    if header != list(HEADER):
        raise InputError(
            f"{path} must start with {','.join(HEADER)}, not with {','.join(header)!r}"
        )
    rows: dict[str, FoldRow] = {}
    for number, line in enumerate(lines, 1):
        image, row = _checked_line(f"{path}, row {number}", line)
        if image in rows:
            raise InputError(f"{path}, row {number}: {image} stands there twice")
        rows[image] = row
    return rows


def _checked_line(where: str, line: list[str]) -> tuple[str, FoldRow]:
    if len(line) != len(HEADER):
        raise InputError(f"{where}: {len(line)} fields instead of {len(HEADER)}")
    image, patient, label, fold = line
    if not (fold.isascii() and fold.isdigit() and len(fold) < 10):
        raise InputError(f"{where}: fold is {fold!r}, not a number from 0")
    return image, FoldRow(patient, label, int(fold))


def read_folds(path: Path, dataset: Dataset) -> np.ndarray:
    """The folds of a folds.csv that was written for these images.

    Returns (n,) int64. Raises InputError: as `read_rows`, the first row that does not fit the data
    set (images, patients or labels), or folds that are not 0, 1, 2 to the last.
    """
    rows = read_rows(path)
    _check_same(path, rows, dataset)
    _check_all_used(path, rows)
    return np.array([row.fold for row in rows.values()], np.int64)


def _check_same(path: Path, rows: Mapping[str, FoldRow], dataset: Dataset) -> None:
    pairs = zip(rows.items(), zip(*_columns(dataset), strict=True), strict=False)
    for number, ((image, row), expected) in enumerate(pairs, 1):
        for column, got, wanted in zip(HEADER, (image, *row[:2]), expected, strict=False):
            if got != wanted:
                of = "" if column == "image" else f" of {image}"
                raise InputError(
                    f"{path}, row {number}: {column}{of} is {got}, "
                    f"in {dataset.name} it is {wanted}; these folds belong to other data"
                )
    if len(rows) != len(dataset):
        raise InputError(
            f"{path} has {counted(len(rows), 'image')}, {dataset.name} has {len(dataset)}; "
            "these folds belong to other data"
        )


def _check_all_used(path: Path, rows: Mapping[str, FoldRow]) -> None:
    present = sorted({row.fold for row in rows.values()})
    if len(present) < 2 or present[-1] != len(present) - 1:
        raise InputError(f"{path} has folds {present}: they must be 0, 1 and so on, all used")


def _columns(dataset: Dataset) -> tuple[tuple[str, ...], ...]:
    """What the table says of every image before its fold."""
    labels = tuple(dataset.classes[label] for label in dataset.labels)
    return dataset.images, dataset.patients, labels


def split_validation(
    dataset: Dataset, train_indices: np.ndarray, fraction: float, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Take whole patients out of the training images, the same share of every stratum.

    train_indices: images of the training folds; fraction: of their patients, from 0 up to below 1.
    Returns (training, validation) indices in the given order; a stratum gives at least one patient
    and keeps at least one; fraction 0 gives no validation images.
    Raises InputError: fraction out of range, or a stratum with a single patient.
    """
    if not 0 <= fraction < 1:
        raise InputError(f"the validation fraction must be 0 or more and below 1, got {fraction}")
    train_indices = np.asarray(train_indices, np.int64)
    chosen: set[str] = set()
    if fraction:
        for stratum, patients in _patients_by_stratum(dataset, train_indices).items():
            if len(patients) < 2:
                raise InputError(
                    f"class {dataset.classes[stratum]} has one patient in the training folds: "
                    "a validation part needs a second one; leave --validation-fraction out"
                )
            count = min(max(1, round(fraction * len(patients))), len(patients) - 1)
            rng = np.random.default_rng([seed, stratum])
            chosen.update(rng.permutation(patients)[:count].tolist())
    held_out = np.array([dataset.patients[i] in chosen for i in train_indices], bool)
    return train_indices[~held_out], train_indices[held_out]


def _patients_by_stratum(
    dataset: Dataset, indices: Sequence[int] | np.ndarray | range
) -> dict[int, list[str]]:
    """The patients of these images, sorted, by stratum, in order of severity."""
    found: dict[int, set[str]] = {}
    for i in indices:
        found.setdefault(int(dataset.strata[i]), set()).add(dataset.patients[i])
    return {stratum: sorted(found[stratum]) for stratum in sorted(found)}
