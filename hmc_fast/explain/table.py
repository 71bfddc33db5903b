"""The paper's Table 6 for a run: the mean of every figure by method and layer, with intervals, and
beside the IoU what a map of that size can reach at all."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from hmc_fast.evaluation.intervals import patient_weights
from hmc_fast.evaluation.paper import TABLE_6 as PAPER_IOU
from hmc_fast.explain.bound import fitted_iou, highest_iou, smallest_region
from hmc_fast.explain.localisation import mean_of

COLUMNS = (
    "method", "layer", "figure", "images", "left_out", "mean", "low", "high",
    "bound", "fitted", "paper",
)  # fmt: skip
RESAMPLES = 2000
LEVEL = 0.95


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

    values, labels (n,), patients: of one image each. (None, None) where no class has two patients
    with a defined value, as nothing could then be drawn differently.
    """
    defined = np.array([value is not None for value in values], bool)
    worst: dict[str, int] = {}
    for patient, label, there in zip(patients, labels, defined, strict=True):
        if there:
            worst[patient] = max(label, worst.get(patient, 0))
    if len(set(worst.values())) == len(worst):
        return None, None
    numbers = np.array([value for value in values if value is not None])
    chosen = [patient for patient, there in zip(patients, defined, strict=True) if there]
    strata = np.asarray(labels)[defined]
    draws = patient_weights(strata, chosen, resamples=RESAMPLES, seed=0)
    means = [weights @ numbers / weights.sum(axis=1) for weights in draws]
    low, high = np.quantile(np.concatenate(means), [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def table_lines(rows: Sequence[Mapping[str, Any]], bounds: Mapping[str, Bound]) -> list[str]:
    """The table in words: a line a method and layer, and what to hold against it."""
    lines = []
    for method, layer in dict.fromkeys((row["method"], row["layer"]) for row in rows):
        own = [row for row in rows if (row["method"], row["layer"]) == (method, layer)]
        lines.append(f"{method}, {layer}: {'; '.join(_words(row) for row in own)}")
    for layer, bound in bounds.items():
        height, width = bound.cells
        lines.append(
            f"{layer} has {height} x {width} cells: its smallest region has {bound.smallest} "
            f"pixels, the median of these {bound.masks} masks {bound.median:.0f}. No map of so "
            "many cells, upsampled after its ReLU, can pass a mean IoU of "
            f"{bound.highest:.2f} on them; maps fitted to each mask reach {bound.fitted:.2f}"
        )
        lines += _above(rows, layer, bound)
    return lines


def _above(rows: Sequence[Mapping[str, Any]], layer: str, bound: Bound) -> list[str]:
    """The sentence about the paper's figures, where they are above the bound."""
    given = [row["paper"] for row in rows if row["layer"] == layer and row["paper"]]
    if not given or min(given) <= bound.highest:
        return []
    return [
        "the paper's Table 6 has 0.62 (Grad-CAM), 0.65 (Grad-CAM++) and 0.68 (Score-CAM), above "
        "this bound: it cannot be the IoU of whole images at half the maximum"
    ]


def _words(row: Mapping[str, Any]) -> str:
    name = "IoU" if row["figure"] == "iou" else row["figure"].replace("_", " ")
    if row["mean"] is None:
        return f"{name} undefined"
    ends = "" if row["low"] is None else f" [{row['low']:.3f}, {row['high']:.3f}]"
    total = row["images"] + row["left_out"]
    return f"{name} {row['mean']:.3f}{ends} ({row['images']} of {total})"
