"""What the paper prints, as data with its place there. No figure here is ours.

Fatima et al., HMC-Net, Front. Oncol. 16 (2026) 1787210. Shares are from 0 to 1, as everywhere here;
the paper gives standard deviations of the folds in per cent. A figure that was not at hand is not
here: of Tables 3 to 5 only the row of hmc is.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from hmc_fast.evaluation.statistics import PAPER_Q

SOURCE = "Fatima et al., Front. Oncol. 16 (2026) 1787210, doi 10.3389/fonc.2026.1787210"
MODELS = ("hmc", "hierarchical", "multiscale", "resnet50")
CLASSES = ("normal", "benign", "malignant")
FOLDS, IMAGES, PIXELS = 5, 322, 224
LESIONS = 109  # images of MIAS with a circle that can be used, all of them


class Size(NamedTuple):
    """Parameters in millions, "G FLOPs" (GFLOP, as ResNet50's 8 shows) and ms an image."""

    parameters: float
    gflop: float
    ms: float


class Spread(NamedTuple):
    """Mean and standard deviation over the folds."""

    mean: float
    sd: float


TABLE_2 = {"resnet50": Size(23, 8, 7), "hmc": Size(45, 25, 18)}

# the abstract; Tables 3 (accuracy), 4 (precision, recall, specificity, F1) and 5 (AUC) repeat it
RESULTS = {
    "hmc": {
        "accuracy": Spread(0.9972, 0.0005),
        "precision": Spread(0.9851, 0.0013),
        "sensitivity": Spread(0.9899, 0.0019),
        "specificity": Spread(0.9978, 0.0009),
        "f1": Spread(0.9864, 0.0007),
        "auc": Spread(0.99, 0.01),
    }
}
AUC_ELSEWHERE = Spread(0.9990, 0.0005)  # printed beside the abstract's 0.99 ± 0.01
FOLD_ACCURACY = (0.9968, 0.9980)  # Table 3, hmc: lowest and highest fold

LAYER = "layer4"  # of Table 6 and its maps
TABLE_6 = {"grad-cam": 0.62, "grad-cam++": 0.65, "score-cam": 0.68}  # mean IoU
FIGURE_7 = ((207, 0, 0), (0, 63, 1), (0, 0, 51))  # confusion matrix of hmc, truth in rows

FRIEDMAN_P = 0.002
RANKS = {"hmc": 1.10, "hierarchical": 1.90, "multiscale": 3.00, "resnet50": 4.00}
TABLE_8 = {
    ("hmc", "hierarchical"): 0.7610,
    ("hmc", "multiscale"): 0.0919,
    ("hmc", "resnet50"): 0.0022,
    ("hierarchical", "multiscale"): 0.5327,
    ("hierarchical", "resnet50"): 0.0496,
    ("multiscale", "resnet50"): 0.6111,
}
CRITICAL_DIFFERENCE, Q = 2.41, PAPER_Q  # Figure 11
COHENS_D, COHENS_D_OF_TABLE_3 = 1.2, 8.8  # printed; by hand from the means and sds of Table 3

MISSING = (
    "The paper's rows of the other models in Tables 3 to 5 were not at hand: their cells are "
    "empty, not zero."
)
OTHER_DATA = "These data are others than the paper's, so nothing is compared."


SETTING = (
    f"The paper's figures are of the {IMAGES} images of MIAS at {PIXELS} px with a budget of its "
    "own, 200 000 augmented images a fold"
)


def these_masks(count: int) -> str:
    """'these 4 masks'."""
    return "this one mask" if count == 1 else f"these {count} masks"


def above_bound(bound: float, masks: int) -> str:
    """Which figures of Table 6 are above the mean IoU that a map can reach on some masks of MIAS,
    and what follows, which is little unless they are all; '' where none is above."""
    above = [f"{iou} ({name})" for name, iou in TABLE_6.items() if iou > bound]
    if not above:
        return ""
    found = (
        f"paper's Table 6 has {', '.join(above)}, above what any map of so few cells can reach on "
        f"{these_masks(masks)}"
    )
    if masks != LESIONS:
        return found
    return f"{found}, all that MIAS has: it cannot be the IoU of whole images at half the maximum"


def spread(variant: str, metric: str) -> Spread | None:
    """What the paper prints for a model and a metric; None where it prints or we have none."""
    return RESULTS.get(variant, {}).get(metric)


def nemenyi_p(first: str, second: str) -> float | None:
    """Table 8's p-value of a pair in either order; None for another model."""
    return TABLE_8.get((first, second), TABLE_8.get((second, first)))


def rank_scores() -> np.ndarray:
    """Scores (folds, models) that give the paper's mean ranks: hmc and hierarchical are tied in one
    fold, and otherwise every fold has the same order."""
    orders: Sequence[Sequence[float]] = [[1, 2, 3, 4]] * (FOLDS - 1) + [[1.5, 1.5, 3, 4]]
    return -np.array(orders)


def figure_7_predictions() -> tuple[np.ndarray, np.ndarray]:
    """Labels (322,) and one-hot probabilities (322, 3) that give Figure 7's matrix."""
    counts = np.array(FIGURE_7)
    cells = np.argwhere(counts >= 0).repeat(counts.ravel(), axis=0)
    return cells[:, 0], np.eye(len(counts))[cells[:, 1]]
