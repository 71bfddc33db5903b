"""Lesions for the tiny class folders, which have none of their own."""

import dataclasses

import numpy as np

from hmc_fast.data.dataset import Dataset

SQUARE = np.zeros((16, 16), bool)
SQUARE[4:9, 6:12] = True


def mask_of(label: str) -> np.ndarray | None:
    """Of malignant images a square, of normal ones nothing, of benign ones nobody knows."""
    return {"malignant": SQUARE, "normal": np.zeros_like(SQUARE), "benign": None}[label]


def with_masks(dataset: Dataset) -> Dataset:
    """The data set with `mask_of` each label."""
    names = [dataset.classes[label] for label in dataset.labels]
    return dataclasses.replace(dataset, mask=lambda i: mask_of(names[i]))
