"""What every reader gives: names, patients, labels, and functions that decode an image and its
lesion mask."""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from hmc_fast.files import sha256_bytes


@dataclass(frozen=True)
class Dataset:
    """Grey images of patients with one class each; images are sorted by name and decoded on demand.

    images, patients: one string an image; labels: (n,) int64, an index into `classes`, which stand
    in order of severity; strata: (n,) int64, the worst class of the image's patient; read(i): uint8
    (H, W) at full size; mask(i): bool (H, W), all False on a film without lesion, None where the
    place is unknown or not trusted; content(i): SHA-256 of what image i is made from (the file's
    bytes), cheap and without decoding; warnings: sentences that the user should see.
    """

    name: str
    classes: tuple[str, ...]
    images: tuple[str, ...]
    patients: tuple[str, ...]
    labels: np.ndarray
    strata: np.ndarray
    read: Callable[[int], np.ndarray]
    mask: Callable[[int], np.ndarray | None]
    content: Callable[[int], str]
    warnings: tuple[str, ...] = field(default=())

    def __len__(self) -> int:
        return len(self.images)

    @property
    def counts(self) -> dict[str, int]:
        """Images of each class."""
        counts = np.bincount(self.labels, minlength=len(self.classes))
        return {name: int(count) for name, count in zip(self.classes, counts, strict=True)}


def pixel_hash(image: np.ndarray) -> str:
    """SHA-256 of an image's shape and pixels: equal for equal pictures, whatever the file."""
    return sha256_bytes(repr(image.shape).encode() + np.ascontiguousarray(image).tobytes())
