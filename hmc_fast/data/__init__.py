"""Images, labels and patients: one function opens every kind of data set."""

from collections.abc import Sequence

from hmc_fast.data.dataset import Dataset
from hmc_fast.data.folder import open_folder
from hmc_fast.data.mias import CLASSES, open_mias
from hmc_fast.errors import InputError

__all__ = ["Dataset", "open_dataset"]

PHANTOM_SIZE = 256


def open_dataset(
    spec: str,
    *,
    classes: Sequence[str] = CLASSES,
    label: str = "first",
    seed: int = 0,
    image_size: int = 224,
    phantom_patients: int = 100,
) -> Dataset:
    """The data set that `--data` names: "phantom", "mias:DIR" or the path of class folders.

    classes: of a class folder, in order of severity; label: "first" or "worst" row of a MIAS image;
    seed, image_size and phantom_patients: of the phantom, whose films have 256 pixels a side, or
    image_size where that is more.

    Raises InputError: the data cannot be used as asked; the sentence says why.
    """
    kind, _, directory = spec.partition(":")
    if spec == "phantom" or kind == "mias":
        _refuse_classes(spec, classes)
    if spec == "phantom":
        from hmc_fast.data.phantom import open_phantom

        return open_phantom(phantom_patients, seed=seed, size=max(PHANTOM_SIZE, image_size))
    if kind == "mias":
        if not directory:
            raise InputError(
                f"--data {spec} names no directory: write mias:DIR, the folder with Info.txt"
            )
        return open_mias(directory, label=label)
    if not spec:
        raise InputError("--data is empty: give phantom, mias:DIR or a folder of class folders")
    return open_folder(spec, classes=classes)


def _refuse_classes(spec: str, classes: Sequence[str]) -> None:
    if tuple(classes) != CLASSES:
        raise InputError(
            f"--classes is for class folders; {spec} has the classes {', '.join(CLASSES)}"
        )
