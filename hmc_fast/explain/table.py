"""The paper's Table 6 for a run: the mean of every figure by method and layer, with intervals, and
beside the IoU what a map of that size can reach at all."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from hmc_fast.evaluation.intervals import patient_weights
from hmc_fast.evaluation.paper import TABLE_6 as PAPER_IOU
from hmc_fast.evaluation.paper import above_bound, these_masks
from hmc_fast.evaluation.report.wording import ROUNDING
from hmc_fast.explain.bound import fitted_iou, highest_iou, smallest_region
from hmc_fast.explain.localisation import mean_of

COLUMNS = (
    "method", "layer", "figure", "images", "left_out", "mean", "low", "high",
    "bound", "fitted", "paper",
)  # fmt: skip
RESAMPLES = 2000
LEVEL = 0.95
FEWEST_PATIENTS = 10  # that an interval is given of


class Bound(NamedTuple):
    """Of maps of `cells` (h, w) on `masks` masks: the mean IoU that none can pass, and that fitted
    ones reach; pixels of the smallest region, and of the median mask."""

    cells: tuple[int, int]
    masks: int
    highest: float
    fitted: float
    smallest: int
    median: float


def bound_on(masks: Sequence[np.ndarray], cells: tuple[int, int]) -> Bound:
    """The means of bound.py over these masks, one or more, none of them empty."""
    highest, fitted = highest_iou(masks, cells), fitted_iou(masks, cells)
    height, width = masks[0].shape
    return Bound(
        cells,
        len(masks),
        float(highest.mean()),
        float(fitted.mean()),
        smallest_region((height, width), cells),
        float(np.median([mask.sum() for mask in masks])),
    )


def table_rows(
    figures: Mapping[tuple[str, str], Sequence[Mapping[str, float | None]]],
    labels: Sequence[int],
    patients: Sequence[str],
    bounds: Mapping[str, Bound],
    paper: bool,
) -> list[dict[str, Any]]:
    """Rows of COLUMNS: one a method, layer and figure.

    figures: by (method, layer), the figures of each image; labels, patients: of the same images,
    for the intervals, labels in order of severity; bounds: by layer, where there is one; paper:
    whether its data were the same.
    """
    rows = []
    for (method, layer), each in figures.items():
        for name in each[0] if each else ():
            values = [image[name] for image in each]
            mean, (low, high) = mean_of(values), interval(values, labels, patients)
            row = dict.fromkeys(COLUMNS) | {"method": method, "layer": layer, "figure": name}
            row |= {"images": mean.defined, "left_out": mean.left_out, "mean": mean.value}
            row |= {"low": low, "high": high}
            if name == "iou":
                bound = bounds.get(layer)
                row |= {"bound": bound and bound.highest, "fitted": bound and bound.fitted}
                row["paper"] = PAPER_IOU[method] if paper else None
            rows.append(row)
    return rows


def interval(
    values: Sequence[float | None], labels: Sequence[int], patients: Sequence[str]
) -> tuple[float | None, float | None]:
    """The percentile interval (95 %) of the mean of the defined values over draws of whole
    patients, within their worst class (evaluation/intervals.py).

    values, labels (n,), patients: of one image each. (None, None) for fewer than FEWEST_PATIENTS
    with a defined value, whose draws are too much alike, and where every draw gives the same.
    """
    defined = np.array([value is not None for value in values], bool)
    numbers = np.array([value for value in values if value is not None])
    chosen = [patient for patient, there in zip(patients, defined, strict=True) if there]
    if len(set(chosen)) < FEWEST_PATIENTS:
        return None, None
    strata = np.asarray(labels)[defined]
    draws = patient_weights(strata, chosen, resamples=RESAMPLES, seed=0)
    means = [weights @ numbers / weights.sum(axis=1) for weights in draws]
    low, high = np.quantile(np.concatenate(means), [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return (float(low), float(high)) if high - low > ROUNDING else (None, None)


def table_lines(rows: Sequence[Mapping[str, Any]], bounds: Mapping[str, Bound]) -> list[str]:
    """The table in words: a line a method and layer, and what to hold against it."""
    lines = []
    for method, layer in dict.fromkeys((row["method"], row["layer"]) for row in rows):
        own = [row for row in rows if (row["method"], row["layer"]) == (method, layer)]
        lines.append(f"{method}, {layer}: {'; '.join(_words(row) for row in own)}")
    if any(row["mean"] is not None and row["low"] is None for row in rows):
        lines.append(
            f"a mean of fewer than {FEWEST_PATIENTS} patients, or that is the same in every draw "
            "of patients, has no interval"
        )
    for layer, bound in bounds.items():
        height, width = bound.cells
        lines.append(
            f"{layer} has {height} x {width} cells: its smallest region has {bound.smallest} "
            f"pixels, the median of {these_masks(bound.masks)} {bound.median:.0f}. No map of so "
            "many cells, upsampled after its ReLU, can pass a mean IoU of "
            f"{bound.highest:.2f} on them; maps fitted to each mask reach {bound.fitted:.2f}"
        )
        given = any(row["paper"] for row in rows if row["layer"] == layer)
        if given and (above := above_bound(bound.highest, bound.masks)):
            lines.append(f"the {above}")
    return lines


def _words(row: Mapping[str, Any]) -> str:
    name = "IoU" if row["figure"] == "iou" else row["figure"].replace("_", " ")
    if row["mean"] is None:
        return f"{name} undefined"
    ends = "" if row["low"] is None else f" [{row['low']:.3f}, {row['high']:.3f}]"
    total = row["images"] + row["left_out"]
    return f"{name} {row['mean']:.3f}{ends} ({row['images']} of {total})"
