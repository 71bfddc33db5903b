"""A trained model on the disk: model.safetensors with the weights, model.json with all that is
needed to use them."""

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import nn

from hmc_fast.attention import check_backend
from hmc_fast.data.preprocessing import Preprocessing
from hmc_fast.errors import InputError
from hmc_fast.files import sha256_bytes, write_bytes, write_json

WEIGHTS, DESCRIPTION = "model.safetensors", "model.json"
WEIGHTS_SHA256 = "weights_sha256"


def save_model(folder: Path, model: nn.Module, description: dict[str, Any]) -> None:
    """Write weights, then model.json with their SHA-256: it marks a folder with a whole model."""
    weights = {
        name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()
    }
    data = save(weights)
    write_bytes(folder / WEIGHTS, data)
    write_json(folder / DESCRIPTION, description | {WEIGHTS_SHA256: sha256_bytes(data)})


def load_model(run: str | Path, fold: int = 0, *, backend: str = "auto") -> nn.Module:
    """The model that a run trained, in eval mode on the CPU.

    run: a run's folder, or one fold's folder of it; fold: which fold of a run; backend: of its
    attention blocks. Returns the network with `.classes` (names in the order of the logits),
    `.preprocessing` (call it with a file or a uint8 (H, W) array to get the input) and
    `.description` (model.json). Raises InputError: no such run or fold, fold not finished, or a
    damaged file.
    """
    check_backend(backend)
    folder = find_fold(Path(run), fold)
    description = read_description(folder)
    try:
        model = described_network(description, backend)
        data = (folder / WEIGHTS).read_bytes()
        model.load_state_dict(load(data))
        preprocessing = Preprocessing(**description["preprocessing"])
    except RuntimeError as error:
        raise InputError(
            f"{folder / WEIGHTS} does not fit the network that {DESCRIPTION} describes"
        ) from error
    except (SafetensorError, OSError) as error:
        raise InputError(f"cannot load {folder / WEIGHTS}: {error}") from error
    except KeyError as error:
        raise InputError(f"{folder / DESCRIPTION} is damaged: it lacks {error}") from error
    except (TypeError, ValueError) as error:
        raise InputError(f"{folder / DESCRIPTION} is damaged: {error}") from error
    if description.get(WEIGHTS_SHA256) not in (None, sha256_bytes(data)):
        raise InputError(f"{folder / WEIGHTS} is damaged: its SHA-256 is not that in {DESCRIPTION}")
    model.classes = tuple(description["classes"])  # type: ignore[assignment]
    model.preprocessing = preprocessing  # type: ignore[assignment]
    model.description = description  # type: ignore[assignment]
    return model.eval()


def described_network(description: dict[str, Any], backend: str = "auto") -> nn.Module:
    """The network that model.json describes, with weights as drawn; KeyError where it lacks
    something."""
    from hmc_fast.models import create_model

    return create_model(
        description["variant"],
        len(description["classes"]),
        reduction=description["reduction"],
        scale=description["scale"],
        backend=backend,
        image_size=description["image_size"],
    )


def find_fold(run: Path, fold: int) -> Path:
    """The folder of a trained fold: `run` itself where it holds model.json, else run/fold<K>."""
    if not run.is_dir():
        raise InputError(f"no such run: {run}")
    if (run / DESCRIPTION).is_file():
        return run
    folder = run / f"fold{fold}"
    if not (folder / DESCRIPTION).is_file():
        trained = ", ".join(str(k) for k in trained_folds(run)) or "none"
        raise InputError(f"{run} has no trained fold {fold} (trained: {trained})")
    return folder


def trained_folds(run: Path) -> list[int]:
    """Numbers of the finished folds of a run."""
    folders = (path.parent.name for path in run.glob(f"fold*/{DESCRIPTION}"))
    return sorted(int(name[4:]) for name in folders if name[4:].isdigit())


def read_description(folder: Path) -> dict[str, Any]:
    """model.json of a fold's folder."""
    try:
        description = json.loads((folder / DESCRIPTION).read_text())
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read {folder / DESCRIPTION}: {error}") from error
    if not isinstance(description, dict):
        raise InputError(f"{folder / DESCRIPTION} must hold a JSON object")
    return description
