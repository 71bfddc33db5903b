"""One fold's network, checked against its run and against what is asked of it before the first
image."""

import dataclasses
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hmc_fast.errors import InputError
from hmc_fast.explain.faithfulness import Network
from hmc_fast.explain.masked import fastest_form
from hmc_fast.explain.methods import Settings, explain, map_size
from hmc_fast.files import sha256_file
from hmc_fast.models.optimized import OptimizedModel
from hmc_fast.training.opened_run import OpenedRun
from hmc_fast.training.run_folder import FOLDS


@dataclass(frozen=True)
class FoldModel:
    """model: the network with its classes and preprocessing; network: its fastest exact form, for
    grey images of one channel; cells: (h, w) of each layer's maps."""

    fold: int
    model: Any
    network: Network
    cells: dict[str, tuple[int, int]]


def load_fold(
    run: OpenedRun,
    fold: int,
    layers: tuple[str, ...],
    *,
    device: torch.device,
    backend: str = "auto",
) -> FoldModel:
    """The model of a run's fold; InputError where it was not trained with the run's folds.csv, or
    where one of the layers is not there or gives no maps."""
    model: Any = run.model(fold, backend)
    trained_with = model.description.get("folds_sha256")
    if trained_with not in (None, sha256_file(run.folder / FOLDS)):
        raise InputError(
            f"{run.folder / FOLDS} is not the one that fold {fold} was trained with: which images "
            "it was trained on is not known"
        )
    model = model.to(device).to(memory_format=torch.channels_last)
    size = model.preprocessing.image_size
    black = torch.full((1, 3, size, size), -1.0, device=device)
    try:
        cells = {layer: map_size(model, black, layer) for layer in layers}
    except ValueError as error:
        raise InputError(f"--layer: {error}") from error
    return FoldModel(fold, model, grey_network(model, black), cells)


def grey_network(model: Any, images: Tensor) -> Network:
    """`model` for images of one channel (B, 1, H, W), folded where it can be."""
    fastest = fastest_form(model, images, None, logits_only=True)
    takes_one = isinstance(fastest, OptimizedModel) and fastest.grayscale
    return lambda grey: fastest(grey if takes_one else grey.expand(-1, 3, -1, -1))


def check_settings(fold_model: FoldModel, method: str, settings: Settings) -> None:
    """InputError where the method refuses its settings: tried on noise, with one channel."""
    size = fold_model.model.preprocessing.image_size
    device = next(fold_model.model.parameters()).device
    noise = torch.rand(1, 1, size, size, generator=torch.Generator().manual_seed(0)) * 2 - 1
    images = noise.expand(-1, 3, -1, -1).to(device)
    quick = dataclasses.replace(settings, max_channels=1)
    try:
        explain(fold_model.model, images, 0, method, next(iter(fold_model.cells)), quick)
    except ValueError as error:
        raise InputError(f"{method}: {error}") from error
