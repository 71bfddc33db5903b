"""The mini-MIAS mammograms: 322 films of 161 patients with the list `Info.txt`.

What the list does not say plainly, and this reader settles: an image may have several rows (its
label is the first row's class, or the worst one's); images 2k-1 and 2k are one patient; circles
count y from the bottom, so the array's row is 1023 - y; some abnormal images have no coordinates,
and those of mdb212 and mdb214 lie outside the breast.
"""

import os
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hmc_fast.data.dataset import Dataset
from hmc_fast.data.images import read_image
from hmc_fast.errors import InputError
from hmc_fast.files import sha256_file
from hmc_fast.sentences import some

CLASSES = ("normal", "benign", "malignant")
SIDE = 1024
LIST = "Info.txt"
LABELS = ("first", "worst")
UNTRUSTED = ("mdb212", "mdb214")
TISSUES = ("F", "G", "D")
ABNORMALITIES = ("CALC", "CIRC", "SPIC", "MISC", "ARCH", "ASYM")
SEVERITIES = ("B", "M")
ROW = re.compile(r"\s*mdb\d", re.IGNORECASE)
IMAGE = re.compile(r"mdb(?!000)\d{3}")


@dataclass(frozen=True)
class Row:
    """One line of the list; label: index into CLASSES, circle: (x, y from the bottom, radius)."""

    image: str
    tissue: str
    kind: str
    label: int
    circle: tuple[int, int, int] | None
    line: int


@dataclass(frozen=True)
class Mias:
    """A folder's list and images: `rows[image]` in the list's order, `files[image]`; sorted."""

    directory: Path
    rows: dict[str, tuple[Row, ...]]
    files: dict[str, Path]

    def first(self, image: str) -> int:
        """The class of the image's first row."""
        return self.rows[image][0].label

    def worst(self, image: str) -> int:
        """The class of the image's worst row."""
        return max(row.label for row in self.rows[image])

    def strata(self) -> dict[str, int]:
        """The worst class over all rows of both films, by patient."""
        strata: dict[str, int] = {}
        for image in self.rows:
            patient = patient_of(image)
            strata[patient] = max(strata.get(patient, 0), self.worst(image))
        return strata

    def circles(self, image: str) -> list[tuple[int, int, int]] | None:
        """The usable circles; None where a lesion's place is unknown or not trusted."""
        abnormal = [row.circle for row in self.rows[image] if row.label]
        known = [circle for circle in abnormal if circle is not None]
        return known if len(known) == len(abnormal) and image not in UNTRUSTED else None

    def mixed(self) -> list[str]:
        """Images whose rows are not all of one class."""
        return [image for image, rows in self.rows.items() if len({row.label for row in rows}) > 1]


def open_mias(directory: str | Path, *, label: str = "first") -> Dataset:
    """The MIAS images of a folder with Info.txt and, beside it or in images/, mdbNNN.pgm or .png.

    label: "first" takes the class of an image's first row (207, 64, 51 images), "worst" that of its
    worst row (207, 63, 52). Strata are worst classes of patients in both cases. Nothing is decoded
    yet; `read` refuses an image that is not 1024 x 1024.

    Raises InputError: no such directory, no or a malformed Info.txt (line named), images without
    row, rows without image.
    """
    if label not in LABELS:
        raise InputError(f"label {label!r} is unknown: take first or worst")
    mias = read_mias(directory)
    images, strata = tuple(mias.files), mias.strata()
    label_of = mias.first if label == "first" else mias.worst
    return Dataset(
        name=f"mias:{mias.directory}",
        classes=CLASSES,
        images=images,
        patients=tuple(patient_of(image) for image in images),
        labels=np.array([label_of(image) for image in images], np.int64),
        strata=np.array([strata[patient_of(image)] for image in images], np.int64),
        read=lambda i: read_film(mias.files[images[i]]),
        mask=lambda i: draw_mask(mias.circles(images[i])),
        content=lambda i: sha256_file(mias.files[images[i]]),
        warnings=tuple(_mixed_warning(image, mias, label_of(image)) for image in mias.mixed()),
    )


def _mixed_warning(image: str, mias: Mias, label: int) -> str:
    names = " and ".join(CLASSES[row.label] for row in mias.rows[image])
    return (
        f"{image} has rows of several classes ({names}) and counts as {CLASSES[label]} "
        "(--label first or worst)"
    )


def read_mias(directory: str | Path) -> Mias:
    """The list and the image files of a folder, checked against each other."""
    directory = Path(os.path.expanduser(directory)).resolve()
    if not directory.is_dir():
        raise InputError(f"no such directory: {directory}")
    rows = read_list(directory / LIST)
    files = find_images(directory)
    without_row = [path.name for image, path in files.items() if image not in rows]
    if without_row:
        raise InputError(f"{directory / LIST} has no row for {some(without_row)}")
    without_image = [image for image in rows if image not in files]
    if without_image:
        raise InputError(
            f"{directory} has no .pgm or .png for {some(without_image)}, which {LIST} lists"
        )
    return Mias(directory, {image: rows[image] for image in files}, files)


def read_list(path: Path) -> dict[str, tuple[Row, ...]]:
    """The rows of an Info.txt by image, without the prose around them; LF or CRLF line ends."""
    if not path.is_file():
        raise InputError(f"{path} is missing: a MIAS folder holds {LIST} beside the images")
    rows: dict[str, list[Row]] = {}
    for number, line in enumerate(path.read_bytes().decode("utf-8-sig", "replace").split("\n"), 1):
        if ROW.match(line):
            try:
                row = _parse_row(line.split(), number)
                _check_repetition(row, rows.setdefault(row.image, []))
            except ValueError as error:
                raise InputError(f"{path}, line {number}: {error}") from None
            rows[row.image].append(row)
    if not rows:
        raise InputError(f"{path} has no row of the form 'mdb001 G CIRC B 535 425 197'")
    return {image: tuple(rows[image]) for image in sorted(rows)}


def _parse_row(fields: list[str], line: int) -> Row:
    image, *rest = fields
    if not IMAGE.fullmatch(image):
        raise ValueError(f"{image!r} is no image name like mdb001")
    if len(rest) < 2:
        raise ValueError(f"{image} lacks tissue and kind of abnormality")
    tissue, kind, *rest = rest
    if tissue not in TISSUES:
        raise ValueError(f"tissue {tissue!r} is not one of {', '.join(TISSUES)}")
    if kind == "NORM":
        if rest:
            raise ValueError(
                f"a normal row ends after NORM, this one goes on with {' '.join(rest)!r}"
            )
        return Row(image, tissue, kind, 0, None, line)
    if kind not in ABNORMALITIES:
        raise ValueError(f"class {kind!r} is not one of {', '.join((*ABNORMALITIES, 'NORM'))}")
    if not rest or rest[0] not in SEVERITIES:
        raise ValueError(f"severity {rest[0] if rest else ''!r} is not B or M")
    return Row(image, tissue, kind, 1 + SEVERITIES.index(rest[0]), _parse_circle(rest[1:]), line)


def _parse_circle(fields: list[str]) -> tuple[int, int, int] | None:
    if not fields or fields[0] == "*NOTE":
        return None
    if len(fields) != 3 or not all(re.fullmatch(r"\d+", field, re.ASCII) for field in fields):
        raise ValueError(f"x, y and radius should be three whole numbers, not {' '.join(fields)!r}")
    x, y, radius = map(int, fields)
    if x >= SIDE or y >= SIDE or not 0 < radius < SIDE:
        raise ValueError(f"the circle {x} {y} {radius} does not lie in an image of {SIDE} x {SIDE}")
    return x, y, radius


def _check_repetition(row: Row, earlier: list[Row]) -> None:
    for other in earlier:
        if row.kind == "NORM" or other.kind == "NORM":
            raise ValueError(f"{row.image} is normal and has a second row (line {other.line})")
        if (row.kind, row.label, row.circle) == (other.kind, other.label, other.circle):
            raise ValueError(f"{row.image} repeats line {other.line}")


def find_images(directory: Path) -> dict[str, Path]:
    """mdbNNN.pgm and mdbNNN.png in the folder and in images/ below it, by image name, sorted."""
    found: dict[str, Path] = {}
    present = [
        path
        for folder in (directory, directory / "images")
        if folder.is_dir()
        for path in folder.iterdir()
    ]
    for path in sorted(present):
        image = path.stem.lower()
        if not IMAGE.fullmatch(image) or path.suffix.lower() not in (".pgm", ".png"):
            continue
        if image in found:
            raise InputError(f"{image} is there twice ({found[image]}, {path}): keep one")
        found[image] = path
    if not found:
        packed = any(path.suffix == ".webp" for path in present)
        hint = (
            "only .webp files: write the PGM files with its unpack.py"
            if packed
            else "none in images/ either"
        )
        raise InputError(f"{directory} has no mdb001.pgm or mdb001.png ({hint})")
    return dict(sorted(found.items()))


def patient_of(image: str) -> str:
    """Images 2k-1 and 2k are patient k, "001" to "161"."""
    return f"{(int(image[3:]) + 1) // 2:03d}"


def read_film(path: Path) -> np.ndarray:
    """The film, uint8 (1024, 1024)."""
    film = read_image(path)
    if film.shape != (SIDE, SIDE):
        raise InputError(
            f"{path} has {film.shape[1]} x {film.shape[0]} pixels: MIAS films have {SIDE} x {SIDE}"
        )
    return film


def draw_mask(circles: list[tuple[int, int, int]] | None) -> np.ndarray | None:
    """The discs of all circles, bool (1024, 1024); None for None."""
    if circles is None:
        return None
    mask = np.zeros((SIDE, SIDE), bool)
    rows, columns = np.ogrid[:SIDE, :SIDE]
    for x, y, radius in circles:
        mask |= (columns - x) ** 2 + (rows - (SIDE - 1 - y)) ** 2 <= radius**2
    return mask


def published_sums() -> dict[str, str]:
    """SHA-256 of the archive's PGM files by image."""
    lines = Path(__file__).with_name("mias_sha256.txt").read_text().splitlines()
    return {Path(name).stem: digest for digest, name in map(str.split, lines)}
