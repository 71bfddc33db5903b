"""What `hmc-fast data check` prints: counts of images, labels, patients, and odd cases by name."""

import shlex
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from hmc_fast.data import open_dataset
from hmc_fast.data.dataset import Dataset
from hmc_fast.data.folder import PATIENTS
from hmc_fast.data.images import Grey, read_grey
from hmc_fast.data.mias import (
    CLASSES,
    LIST,
    UNTRUSTED,
    Mias,
    open_mias,
    published_sums,
    read_mias,
)
from hmc_fast.data.survey import class_counts, line, named, odd_cases, patient_counts, survey
from hmc_fast.errors import InputError
from hmc_fast.files import sha256_bytes, sha256_file
from hmc_fast.sentences import some

PGM_HEADER = b"P5\n1024 1024\n255\n"
LIST_SHA256 = "78821d5ff471c27364d429424370b846a6e3fe06f470936776858103c05fbddd"
FILM_WIDTHS = (400, 512, 650, 1000)
SMALL_RADIUS, LARGE_RADIUS = 10, 100


def check(spec: str, *, classes: Sequence[str] = CLASSES, quiet: bool = False) -> list[str]:
    """The lines of a report on the data set `spec`; the last one is the next command to run.

    Raises InputError: the data cannot be opened, images of the published archive are missing, or
    images cannot be decoded (the first are named).
    """
    dataset = open_dataset(spec, classes=classes)
    if dataset.name.startswith("mias:"):
        lines = _check_mias(dataset, read_mias(dataset.name.removeprefix("mias:")), quiet)
    elif dataset.name == "phantom":
        lines = _check_phantom(dataset, quiet)
    else:
        lines = _check_folder(dataset, Path(dataset.name), quiet)
    return [line("data", dataset.name), *lines, _next_command(dataset)]


def _next_command(dataset: Dataset) -> str:
    names = shlex.quote(",".join(dataset.classes))
    classes = "" if dataset.classes == CLASSES else f" --classes {names}"
    return f"next: hmc-fast train --data {shlex.quote(dataset.name)}{classes}"


def _check_folder(dataset: Dataset, root: Path, quiet: bool) -> list[str]:
    found = survey(
        dataset, lambda i: read_grey(root / dataset.images[i]), lambda i, pixels: None, quiet
    )
    known = (root / PATIENTS).exists()
    odd = list(dataset.warnings)
    if len(found.whites) > 1:
        odd.append("the images differ in depth, and each is scaled by its own")
    return [
        line("images", f"{len(dataset)}: {class_counts(dataset.labels, dataset.classes)}"),
        line("patients", patient_counts(dataset) if known else f"unknown: no {PATIENTS}"),
        line("sizes", found.size_text()),
        line("depth", found.depth_text()),
        *odd_cases([*odd, *named({"identical pixels": found.duplicates()})]),
    ]


def _check_phantom(dataset: Dataset, quiet: bool) -> list[str]:
    lesions = 0

    def look(i: int, pixels: np.ndarray) -> None:
        nonlocal lesions
        mask = dataset.mask(i)
        lesions += mask is not None and bool(mask.any())

    found = survey(dataset, lambda i: Grey(dataset.read(i), 255), look, quiet)
    return [
        line("images", f"{len(dataset)}: {class_counts(dataset.labels, dataset.classes)}"),
        line("patients", patient_counts(dataset)),
        line("sizes", found.size_text()),
        line("lesion masks", f"in {lesions} images"),
        *odd_cases([*dataset.warnings, *named({"identical pixels": found.duplicates()})]),
    ]


def _check_mias(dataset: Dataset, mias: Mias, quiet: bool) -> list[str]:
    sums = published_sums()
    if missing := sorted(sums.keys() - set(dataset.images)):
        raise InputError(
            f"{mias.directory} lacks {len(missing)} of the archive's {len(sums)} images and their "
            f"rows: {some(missing)}; fetch it again with: hmc-fast data fetch mias"
        )
    states: dict[str, str] = {}
    widths: Counter[int] = Counter()

    def look(i: int, pixels: np.ndarray) -> None:
        image = dataset.images[i]
        states[image] = compare_film(mias.files[image], pixels, sums.get(image))
        widths[film_width(pixels)] += 1

    found = survey(dataset, lambda i: Grey(dataset.read(i), 255), look, quiet)
    odd = [*_odd_rows(mias), *_odd_files(mias, states)]
    return [
        line("images", f"{len(dataset)} of {found.size_text()}"),
        line("patients", patient_counts(dataset)),
        *_label_lines(dataset, mias),
        line("lesion masks", _circle_text(mias)),
        line("checksums", _checksum_text(list(states.values()))),
        line("film widths", ", ".join(f"about {w}: {widths[w]}" for w in FILM_WIDTHS if widths[w])),
        *odd_cases([*odd, *named({"identical pixels": found.duplicates()})]),
    ]


def _label_lines(dataset: Dataset, mias: Mias) -> list[str]:
    worst = open_mias(mias.directory, label="worst").labels
    rows = np.array([row.label for rows in mias.rows.values() for row in rows])
    return [
        line("labels", f"{class_counts(dataset.labels, CLASSES)} (first row, the default)"),
        line("", f"{class_counts(worst, CLASSES)} (worst row, --label worst)"),
        line("", f"{class_counts(rows, CLASSES)} (all {len(rows)} rows)"),
    ]


def _circle_text(mias: Mias) -> str:
    circles = [len(mias.circles(image) or []) for image in mias.files]
    return f"{sum(circles)} usable circles in {sum(number > 0 for number in circles)} images"


def _checksum_text(states: list[str]) -> str:
    matching = states.count("same") + states.count("re-headed")
    share = f"all {matching}" if matching == len(states) else f"{matching} of {len(states)}"
    return f"{share} images have the archive's pixels"


def compare_film(path: Path, film: np.ndarray, published: str | None) -> str:
    """How a film stands to the archive's, by the archive's SHA-256: "same" (a PNG of its pixels
    too), "re-headed" (another PGM header), "differs" (other pixels) or "unlisted" (no sum known).
    """
    if published is None:
        return "unlisted"
    if sha256_file(path) == published:
        return "same"
    if sha256_bytes(PGM_HEADER + film.tobytes()) != published:
        return "differs"
    return "same" if path.suffix.lower() == ".png" else "re-headed"


def film_width(film: np.ndarray) -> int:
    """The nearest usual width of a film in its black padding, in which stray pixels do not count:
    columns more than 2 % of which are non-zero.
    """
    width = int((np.count_nonzero(film, axis=0) > 0.02 * film.shape[0]).sum())
    return min(FILM_WIDTHS, key=lambda usual: abs(usual - width))


def _odd_rows(mias: Mias) -> list[str]:
    abnormal = {image: rows for image, rows in mias.rows.items() if rows[0].label}
    unplaced = [image for image, rows in abnormal.items() if any(not row.circle for row in rows)]
    radii = [(row.circle[2], i) for i, rows in abnormal.items() for row in rows if row.circle]
    small = [f"{image} ({size})" for size, image in sorted(radii) if size <= SMALL_RADIUS]
    large = [f"{image} ({size})" for size, image in sorted(radii) if size >= LARGE_RADIUS]
    return named(
        {
            "several rows": [image for image, rows in mias.rows.items() if len(rows) > 1],
            "rows of different classes": [_mixed_text(mias, image) for image in mias.mixed()],
            "abnormal without coordinates, no mask": unplaced,
            "coordinates outside the breast, no mask": [i for i in UNTRUSTED if i in abnormal],
            f"radius of at most {SMALL_RADIUS} pixels": small,
            f"radius of at least {LARGE_RADIUS} pixels": large,
        }
    )


def _mixed_text(mias: Mias, image: str) -> str:
    return f"{image} ({' and '.join(CLASSES[row.label] for row in mias.rows[image])})"


def _odd_files(mias: Mias, states: dict[str, str]) -> list[str]:
    def files(state: str) -> list[str]:
        return [mias.files[image].name for image, found in states.items() if found == state]

    stored = (mias.directory / LIST).read_bytes()
    text = stored.replace(b"\r\n", b"\n")
    original = sha256_bytes(text) == LIST_SHA256
    return named(
        {
            "pixels differ from the archive": files("differs"),
            "re-headed copies, same pixels": files("re-headed"),
            "not in the archive": files("unlisted"),
            "CRLF line ends, same text": [LIST] if original and text != stored else [],
            "text differs from the archive": [] if original else [LIST],
        }
    )
