"""Class folders: DIR/<class>/<image>, the patients in DIR/patients.csv where they are known."""

import csv
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from hmc_fast.data.dataset import Dataset
from hmc_fast.data.images import read_image
from hmc_fast.errors import InputError
from hmc_fast.files import sha256_file
from hmc_fast.sentences import counted, some

SUFFIXES = (".png", ".pgm", ".jpg", ".jpeg", ".tif", ".tiff")
UNREAD_SUFFIXES = (".dcm", ".dicom", ".webp", ".bmp", ".gif", ".jp2", ".ppm", ".heic", ".avif")
PATIENTS = "patients.csv"
COLUMNS = ("image", "patient_id")


def open_folder(directory: str | Path, *, classes: Sequence[str]) -> Dataset:
    """The images in DIR/<class>/ (png, pgm, jpg, tif), named "<class>/<file>"; none is decoded yet.

    classes: two or more folder names in order of severity. DIR/patients.csv (image,patient_id) says
    which images belong together, an image given as "<class>/<file>" or, where only one class has
    it, as "<file>". Without it each image is a patient of its own and a warning says so. Lesion
    masks are unknown (None).

    Raises InputError: no such directory, a class folder missing or without images, a patients.csv
    that does not fit.
    """
    directory = Path(os.path.expanduser(directory)).resolve()
    check_classes(classes)
    _check_directory(directory, classes)
    label_of = {
        f"{name}/{file}": label
        for label, name in enumerate(classes)
        for file in _list(directory / name)
    }
    images = tuple(sorted(label_of))
    known = (directory / PATIENTS).exists()
    patients = read_patients(directory / PATIENTS, images) if known else images
    labels = np.array([label_of[image] for image in images], np.int64)
    return Dataset(
        name=str(directory),
        classes=tuple(classes),
        images=images,
        patients=patients,
        labels=labels,
        strata=_worst_of_patient(patients, labels),
        read=lambda i: read_image(directory / images[i]),
        mask=lambda i: None,
        content=lambda i: sha256_file(directory / images[i]),
        warnings=tuple(_warnings(directory, classes, known)),
    )


def check_classes(classes: Sequence[str]) -> None:
    """Two or more different folder names, or InputError."""
    given = ",".join(classes)
    if len(classes) < 2 or len(set(classes)) < len(classes):
        raise InputError(f"two or more different classes are needed, got {given!r}")
    for name in classes:
        if not name or name != name.strip() or name.startswith(".") or "/" in name:
            raise InputError(f"class {name!r} is no name of a folder (classes {given!r})")


def _check_directory(directory: Path, classes: Sequence[str]) -> None:
    if not directory.is_dir():
        raise InputError(f"no such directory: {directory} (data is phantom, mias:DIR or a folder)")
    missing = [name for name in classes if not (directory / name).is_dir()]
    if missing and (directory / "Info.txt").is_file():
        raise InputError(
            f"{directory} has no folder {some(missing)}, but an Info.txt: "
            f"did you mean mias:{directory}?"
        )
    if missing:
        present = some([path.name for path in _folders(directory)]) or "none"
        raise InputError(
            f"{directory} has no folder {some(missing)}; folders there: {present} (see --classes)"
        )


def _folders(directory: Path) -> list[Path]:
    return sorted(
        path for path in directory.iterdir() if path.is_dir() and not path.name.startswith(".")
    )


def _visible(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if not path.name.startswith("."))


def _list(folder: Path) -> list[str]:
    """Names of the readable images in a class folder, at least one."""
    names = [
        path.name for path in _visible(folder) if path.suffix.lower() in SUFFIXES and path.is_file()
    ]
    if not names:
        others = Counter(path.suffix.lower() or path.name for path in _visible(folder))
        found = f", only {some(list(others))}" if others else ""
        raise InputError(f"class folder {folder} has no .png, .pgm, .jpg or .tif image{found}")
    for name in names:
        if not name.isprintable():
            raise InputError(f"the file name {name!r} in {folder} is no printable text: rename it")
    return names


def _worst_of_patient(patients: Sequence[str], labels: np.ndarray) -> np.ndarray:
    worst: dict[str, int] = {}
    for patient, label in zip(patients, labels.tolist(), strict=True):
        worst[patient] = max(worst.get(patient, 0), label)
    return np.array([worst[patient] for patient in patients], np.int64)


def _warnings(directory: Path, classes: Sequence[str], patients_known: bool) -> list[str]:
    warnings = []
    if not patients_known:
        warnings.append(
            f"{directory} has no {PATIENTS}, so each image counts as a patient of its own: if a "
            "patient has several images, training and test overlap and the results are too good"
        )
    unread = Counter(
        path.suffix.lower()
        for name in classes
        for path in _visible(directory / name)
        if path.suffix.lower() in UNREAD_SUFFIXES
    )
    if unread:
        kinds = ", ".join(f"{number} {suffix}" for suffix, number in sorted(unread.items()))
        warnings.append(
            f"{counted(unread.total(), 'file')} in {directory} of a kind that is not read: {kinds}"
        )
    others = [path.name for path in _folders(directory) if path.name not in classes]
    if others:
        warnings.append(
            f"folders of {directory} that are not among the classes are left out: {some(others)}"
        )
    return warnings


def read_patients(path: Path, images: Sequence[str]) -> tuple[str, ...]:
    """The patient of each image, by a CSV with image and patient_id, a row for every image."""
    patients: dict[str, str] = {}
    names = _names(images)
    for line, image, patient in _rows(path):
        where = f"{path}, line {line}"
        if not image or not patient:
            raise InputError(f"{where}: image and patient_id must both be given")
        matches = names.get(image, [])
        if len(matches) != 1:
            reason = (
                f"{some(matches)} all have this name: write class/file"
                if matches
                else "no such image"
            )
            raise InputError(f"{where}: {image}: {reason}")
        if matches[0] in patients:
            raise InputError(f"{where}: {image} has a row already")
        patients[matches[0]] = patient
    missing = [image for image in images if image not in patients]
    if missing:
        raise InputError(f"{path} has no row for {some(missing)}")
    return tuple(patients[image] for image in images)


def _names(images: Sequence[str]) -> dict[str, list[str]]:
    """The images a row may mean: "class/file" is one, a bare "file" may be in several classes."""
    names: dict[str, list[str]] = {}
    for image in images:
        names.setdefault(image, []).append(image)
        names.setdefault(image.split("/")[1], []).append(image)
    return names


def _rows(path: Path) -> list[tuple[int, str, str]]:
    """(line, image, patient) of every row that is not empty; further columns are ignored."""
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, strict=True)
            header = [cell.strip() for cell in next(reader, [])]
            if not set(COLUMNS) <= set(header):
                raise InputError(
                    f"{path}, line 1: the header should be image,patient_id, "
                    f"not {','.join(header)!r}"
                )
            at = [header.index(column) for column in COLUMNS]
            rows = [(reader.line_num, row) for row in reader if any(cell.strip() for cell in row)]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path} cannot be read as CSV in UTF-8 ({error})") from None
    return [(line, _cell(row, at[0]), _cell(row, at[1])) for line, row in rows]


def _cell(row: list[str], column: int) -> str:
    return row[column].strip() if column < len(row) else ""
