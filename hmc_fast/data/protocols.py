"""Who stands on which side of a split: the honest protocol, and two that leak, for the leak study.

`patient`: a patient's films have one fold; nothing of a test patient is trained on. `image`: films
are split one by one, so a patient's other film is usually trained on. `leaky`: split as `image`,
and augmented copies of the test films are trained on too, as happens to those who augment first and
split afterwards. Figures under the last two estimate nothing; they show what leakage does.
"""

import numpy as np

from hmc_fast.data.dataset import Dataset
from hmc_fast.data.folds import make_folds
from hmc_fast.errors import InputError

PROTOCOLS = ("patient", "image", "leaky")
LEAKS = {
    "image": "protocol image: films of one patient stand on both sides of the split; "
    "its figures estimate nothing",
    "leaky": "protocol leaky: augmented copies of the test images were trained on; "
    "its figures estimate nothing",
}


def leak_note(protocol: str) -> list[str]:
    """The sentence about a protocol that leaks, none about the honest one."""
    return [LEAKS[protocol]] if protocol in LEAKS else []


def split_images(dataset: Dataset, folds: int, seed: int, protocol: str) -> np.ndarray:
    """The test fold of every image under a protocol.

    folds: 2 or more; seed: 0 to 2**32 - 1. Returns (n,) int64, values 0 to folds - 1; for `image`
    and `leaky` by scikit-learn's StratifiedKFold of the labels, patients ignored.
    Raises InputError: too few folds, or patients (images) of a class for so many.
    """
    if protocol == "patient":
        return make_folds(dataset, folds, seed)
    from sklearn.model_selection import StratifiedKFold

    if folds < 2:
        raise InputError(f"cross-validation needs 2 folds or more, got {folds}")
    for name, images in dataset.counts.items():
        if images < folds:
            raise InputError(f"class {name} has {images} images, too few for {folds} folds")
    assignment = np.full(len(dataset), -1, np.int64)
    splitter = StratifiedKFold(n_splits=folds, shuffle=True, random_state=seed)
    for fold, (_, test) in enumerate(splitter.split(np.zeros(len(dataset)), dataset.labels)):
        assignment[test] = fold
    return assignment


def training_images(assignment: np.ndarray, fold: int, protocol: str) -> np.ndarray:
    """Numbers of the images that a fold trains on: all others, under `leaky` its own too."""
    return np.flatnonzero(assignment != (-1 if protocol == "leaky" else fold))
