"""Sets of images that an optimised network is compared on, and what the original says of them."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from hmc_fast.data import open_dataset
from hmc_fast.data.preprocessing import Preprocessing
from hmc_fast.progress import progress
from inference_cases import probabilities, textbook

IMAGES = 64  # of each set
PART = 8  # of them at once


class ImageSet(NamedTuple):
    """names of the images and the images themselves (IMAGES, 3, H, W), preprocessed."""

    names: list[str]
    images: Tensor


def image_set(spec: str, size: int) -> ImageSet:
    """IMAGES of a data set, spread over it; all of them where it has no more."""
    dataset, preprocessing = open_dataset(spec), Preprocessing(size)
    count = min(IMAGES, len(dataset))
    chosen = sorted({round(i * (len(dataset) - 1) / max(1, count - 1)) for i in range(count)})
    images = [preprocessing(dataset.read(i)) for i in chosen]
    return ImageSet([dataset.images[i] for i in chosen], torch.cat(images))


def image_sets(data: str | None, size: int) -> dict[str, ImageSet]:
    """The phantom's and, if given, those of `data`, by name."""
    specs = ["phantom", *([] if data is None else [data])]
    return {spec.partition(":")[0]: image_set(spec, size) for spec in specs}


def true_probabilities(model: nn.Module, images: Tensor, title: str) -> Tensor:
    """Of the plain network in float64, (B, classes)."""
    truth = textbook(model).double()
    parts = images.to(next(truth.parameters()).device).split(PART)
    return torch.cat([probabilities(truth, part) for part in progress(parts, title, unit="part")])
