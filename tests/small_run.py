"""A training so small that tests can repeat it a hundred times, and what must then be equal."""

import csv
import json
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from hmc_fast.files import sha256_file

CLASSES = ("normal", "benign", "malignant")
IMAGES = (9, 7, 6)  # of each class, every one a patient of its own
TIMES = ("seconds", "images_per_s")
PRESENCE = ("config.json", "env.json", "report.html")  # with times, paths, versions in them


class TinyNet(nn.Module):
    """Two thousand parameters with what makes resuming hard: channels_last convolutions, running
    statistics, dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 8, 5, stride=4), nn.BatchNorm2d(8), nn.ReLU(),
            nn.Conv2d(8, 16, 3, stride=2), nn.ReLU(), nn.Conv2d(16, 8, 1),
            nn.AdaptiveAvgPool2d(2), nn.Flatten(),
        )  # fmt: skip
        self.dropout = nn.Dropout(0.3)
        self.fc = nn.Linear(32, len(CLASSES))

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, S, S) to (B, 3)."""
        return self.fc(self.dropout(self.features(images)))


def write_images(folder: Path, size: int = 64) -> Path:
    """Class folders of noise, brighter from class to class."""
    rng = np.random.default_rng(0)
    for label, (name, count) in enumerate(zip(CLASSES, IMAGES, strict=True)):
        (folder / name).mkdir(parents=True)
        for number in range(count):
            noise = rng.integers(0, 150 + 50 * label, (size, size), dtype=np.uint8)
            Image.fromarray(noise).save(folder / name / f"{number}.png")
    return folder


def outcome(folder: Path) -> dict[str, object]:
    """Every file of a run by name, with what two runs of the same settings must have in common."""
    return {
        str(path.relative_to(folder)): _essence(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def _essence(path: Path) -> object:
    if path.name in PRESENCE or path.suffix == ".png":
        return None
    if path.name == "history.csv":
        with open(path, newline="") as file:
            rows = list(csv.DictReader(file))
        return [{k: v for k, v in row.items() if k not in TIMES} for row in rows]
    if path.name == "metrics.json":
        return {k: v for k, v in json.loads(path.read_text()).items() if k not in TIMES}
    return sha256_file(path)


def same_bits(first: Tensor, second: Tensor) -> bool:
    """Whether two tensors have one dtype, one shape and the same bytes, NaN included."""
    if first.dtype != second.dtype or first.shape != second.shape:
        return False
    first, second = (tensor.contiguous().reshape(-1) for tensor in (first, second))
    return torch.equal(first.view(torch.uint8), second.view(torch.uint8))
