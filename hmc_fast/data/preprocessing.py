"""From a decoded grey image to the network's input: resize, three equal channels, [-1, 1]."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hmc_fast.data.augment import normalise
from hmc_fast.data.images import read_image, resize


@dataclass(frozen=True)
class Preprocessing:
    """What a trained model expects; the paper's: resize to a square (bilinear, antialias), then (x
    - 0.5) / 0.5.

    image_size: pixels of a side; the aspect ratio is not kept.
    """

    image_size: int = 224
    resize: str = "bilinear, antialias"
    channels: int = 3
    mean: float = 0.5
    std: float = 0.5

    def __call__(self, image: str | Path | np.ndarray) -> Tensor:
        """A file or a uint8 (H, W) grey image -> float32 (1, 3, S, S) in [-1, 1]."""
        grey = image if isinstance(image, np.ndarray) else read_image(Path(image))
        return normalise(torch.from_numpy(resize(grey, self.image_size))[None, None])

    def to_dict(self) -> dict[str, Any]:
        """As it stands in model.json."""
        return asdict(self)
