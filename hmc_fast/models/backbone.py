"""Load a torchvision ResNet50 checkpoint into the backbone of an HMC-Net."""

from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from hmc_fast.errors import InputError


def load_backbone(model: nn.Module, path: Path) -> None:
    """Copy a ResNet50 state dict into `model`; its classifier too where the number of classes
    agrees.

    path: .safetensors, or .pth / .pt that torch.load reads with weights_only=True (bare or under
    "state_dict"). Raises InputError: unreadable file, missing, unknown or misshapen parameters
    (named).
    """
    weights = _read(path)
    own = model.state_dict()
    for name in ("fc.weight", "fc.bias"):
        if name in weights and weights[name].shape != own["fc" + name[2:]].shape:
            del weights[name]  # another number of classes: the classifier stays fresh
    wanted = {name for name in own if not name.startswith(("fc.", "ha", "ca", "match_ca"))}
    wanted = {
        name for name in wanted if not name.endswith("num_batches_tracked")
    }  # absent from old ones
    problems = {
        "missing": sorted(wanted - weights.keys()),
        "unknown": sorted(weights.keys() - own.keys()),
        "of another shape": sorted(
            n for n in weights.keys() & own.keys() if weights[n].shape != own[n].shape
        ),
    }
    for problem, names in problems.items():
        if names:
            more = f" and {len(names) - 3} more" if len(names) > 3 else ""
            raise InputError(
                f"{path} is no ResNet50 checkpoint: {problem}: {', '.join(names[:3])}{more}"
            )
    model.load_state_dict(weights, strict=False)


def _read(path: Path) -> dict[str, Tensor]:
    """The state dict in `path`; nothing in the file is executed."""
    if not path.is_file():
        raise InputError(f"no such weights file: {path}")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # on damaged files the two readers raise nearly everything
        raise InputError(
            f"cannot read weights from {path}: it is no whole .safetensors file, and no .pth file "
            "that torch.load reads with weights_only=True"
        ) from error
    weights = loaded.get("state_dict", loaded) if isinstance(loaded, dict) else {}
    if not weights or not all(isinstance(value, Tensor) for value in weights.values()):
        raise InputError(f"{path} holds no state dict (a dictionary of tensors)")
    return dict(weights)
