"""Every image of a data set decoded once: sizes, depths, identical pictures; report lines."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from hmc_fast.data.dataset import Dataset, pixel_hash
from hmc_fast.data.images import Grey
from hmc_fast.errors import InputError
from hmc_fast.progress import progress
from hmc_fast.sentences import counted, some

NAMED = 20


@dataclass
class Survey:
    """How many images have each size (height, width) and white; which images have which pixels."""

    sizes: Counter[tuple[int, int]] = field(default_factory=Counter)
    whites: Counter[int] = field(default_factory=Counter)
    pictures: dict[str, list[str]] = field(default_factory=dict)

    def size_text(self) -> str:
        """Width x height, of the smallest and of the largest image where they differ."""
        ordered = sorted(self.sizes, key=lambda size: size[0] * size[1])
        low, high = (f"{width} x {height}" for height, width in (ordered[0], ordered[-1]))
        return f"{low} pixels" if len(ordered) == 1 else f"{low} to {high} pixels"

    def depth_text(self) -> str:
        """How many images have which largest grey value."""
        depths = sorted(self.whites.items())
        return ", ".join(f"{number} with grey values to {white}" for white, number in depths)

    def duplicates(self) -> list[str]:
        """The groups of images with identical pixels."""
        return [" = ".join(images) for images in self.pictures.values() if len(images) > 1]


def survey(
    dataset: Dataset,
    read: Callable[[int], Grey],
    look: Callable[[int, np.ndarray], None],
    quiet: bool,
) -> Survey:
    """Decode every image by `read(i)` and show it to `look(i, pixels)`.

    Raises InputError: images cannot be decoded; the first five sentences stand in one.
    """
    found, failures = Survey(), []
    for i in progress(range(len(dataset)), "checking", quiet=quiet):
        try:
            pixels, white = read(i)
        except InputError as error:
            failures.append(str(error))
            continue
        look(i, pixels)
        found.sizes[pixels.shape[0], pixels.shape[1]] += 1
        found.whites[white] += 1
        found.pictures.setdefault(pixel_hash(pixels), []).append(dataset.images[i])
    if failures:
        number = f"{counted(len(failures), 'image')} of {len(dataset)} cannot be used"
        raise InputError(f"{number}: {some(failures)}")
    return found


def line(head: str, text: str) -> str:
    """One line of a report."""
    return f"{head:<13} {text}"


def named(cases: dict[str, list[str]]) -> list[str]:
    """A line a case that occurs: "several rows: mdb005, mdb132"."""
    return [f"{case}: {some(names, NAMED)}" for case, names in cases.items() if names]


def odd_cases(cases: Sequence[str]) -> list[str]:
    """The odd cases under a heading."""
    return ["odd cases", *(f"  {case}" for case in cases)] if cases else ["no odd cases"]


def class_counts(labels: np.ndarray, classes: Sequence[str]) -> str:
    """The labels counted: "207 normal, 64 benign, 51 malignant"."""
    counts = np.bincount(labels, minlength=len(classes))
    return ", ".join(f"{count} {name}" for count, name in zip(counts, classes, strict=True))


def patient_counts(dataset: Dataset) -> str:
    """The patients counted by their worst class."""
    strata = dict(zip(dataset.patients, dataset.strata.tolist(), strict=True))
    counts = class_counts(np.array(list(strata.values())), dataset.classes)
    return f"{len(strata)}, by worst class {counts}"
