"""From films to breasts or patients: one row of probabilities for each.

A patient's label is the worst of her films' labels, so the films' probabilities are joined in the
same sense: the chance that the worst film is of class c or worse is taken to be the largest such
chance of any film. `mean` is there for comparison.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from hmc_fast.evaluation.metrics import check_predictions

RULES = ("worst", "mean")


class Units(NamedTuple):
    """One row a unit, in the order of `names`.

    names: what the units were called; labels: (u,) int64; probabilities: (u, C) float64; images:
    (u,) how many films each has; first: (u,) index of the first one, to look up patient or fold.
    """

    names: list[str]
    labels: np.ndarray
    probabilities: np.ndarray
    images: np.ndarray
    first: np.ndarray


def by_unit(
    labels: Any,
    probabilities: Any,
    units: Sequence[str],
    classes: Sequence[str],
    *,
    rule: str = "worst",
) -> Units:
    """The films of each unit (patient, or patient and side) joined to one row.

    labels: (n,) int, indices into `classes`, which stand in order of severity; probabilities:
    (n, C), rows that sum to 1; units: one name a film. `worst`: P(c or worse) is the largest of the
    films; `mean`: the mean of the films. The label is the worst in both.
    Raises ValueError: as `classification_metrics`, another number of names than films, or another
    rule.
    """
    labels, probabilities = check_predictions(labels, probabilities, classes)
    if len(units) != len(labels):
        raise ValueError(f"units must be one name a film: got {len(units)} for {len(labels)} films")
    if rule not in RULES:
        raise ValueError(f"rule must be one of {', '.join(RULES)}: got {rule!r}")
    names, first, unit, images = np.unique(
        np.asarray(units), return_index=True, return_inverse=True, return_counts=True
    )
    worst = np.zeros(len(names), dtype=np.int64)
    np.maximum.at(worst, unit, labels)
    joined = np.zeros((len(names), len(classes)))
    if rule == "mean":
        np.add.at(joined, unit, probabilities)
        joined /= images[:, None]
    else:
        at_least = probabilities[:, ::-1].cumsum(axis=1)[:, ::-1]  # P(class c or worse)
        np.maximum.at(joined, unit, at_least)
        joined[:, :-1] -= joined[:, 1:]
    return Units([str(name) for name in names], worst, joined, images, first)


def check_one_row_a_patient(labels: Any, patients: Sequence[str]) -> None:
    """Raises ValueError where `patients` is not one different name a row."""
    if len(patients) != len(labels) or len(set(patients)) != len(labels):
        raise ValueError(
            f"every row must be another patient: got {len(labels)} rows of {len(set(patients))} "
            "patients; join their films by hmc_fast.evaluation.units.by_unit"
        )
