"""What `hmc-fast explain` was asked for."""

from dataclasses import dataclass
from pathlib import Path

import torch

from hmc_fast.explain.methods import Settings
from hmc_fast.training.opened_run import OpenedRun

PREDICTED, LABEL = "predicted", "label"


@dataclass(frozen=True)
class Request:
    """methods, layers: one or more of each; target: PREDICTED, LABEL or a class by name; out: the
    folder of the explanations; the rest as the flags say."""

    run: OpenedRun
    methods: tuple[str, ...]
    layers: tuple[str, ...]
    settings: Settings
    target: str
    colormap: str
    out: Path
    device: torch.device
    backend: str
    quiet: bool

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """Method and layer of every map of an image."""
        return [(method, layer) for layer in self.layers for method in self.methods]
