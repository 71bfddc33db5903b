"""How long a run has trained, from the history of its folds."""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from hmc_fast.errors import InputError
from hmc_fast.sentences import counted
from hmc_fast.training.fold import HISTORY
from hmc_fast.training.run_folder import ENVIRONMENT, read_json


class FoldTraining(NamedTuple):
    """images: seen in training; seconds: of the steps, without evaluations and checkpoints."""

    fold: int
    images: int
    seconds: float


def read_training(run: Path, folds: Sequence[int]) -> list[FoldTraining]:
    """The training of some trained folds; InputError where a history cannot be read."""
    from hmc_fast.training.results import read_history  # takes the whole report along

    found = []
    for fold in folds:
        folder = run / f"fold{fold}"
        try:
            rows = read_history(folder)
            seconds = sum(row["seconds"] for row in rows)
            found.append(FoldTraining(fold, rows[-1]["images"], seconds))
        except OSError as error:
            raise InputError(f"{folder / HISTORY} cannot be read: {error.strerror}") from error
        except (ValueError, KeyError, TypeError, IndexError, csv.Error) as error:
            raise InputError(f"{folder / HISTORY} is damaged: it is no table of passes") from error
    return found


def training_sentence(run: Path, trained: Sequence[FoldTraining]) -> str:
    """'training: 0.058 h (5 folds, 0.011 to 0.012 h each, 64.1 images/s) on ...'."""
    hours = [fold.seconds / 3600 for fold in trained]
    each = f", {min(hours):.3g} to {max(hours):.3g} h each" if len(hours) > 1 else ""
    rate = sum(fold.images for fold in trained) / max(sum(fold.seconds for fold in trained), 1e-9)
    return (
        f"training: {sum(hours):.3g} h of steps in {counted(len(hours), 'fold')}{each}, "
        f"{rate:.3g} images/s, on {_machine(read_json(run / ENVIRONMENT))}"
    )


def _machine(environment: dict[str, Any]) -> str:
    """The device that env.json names."""
    devices = (environment.get("cuda") or {}).get("devices") or []
    if environment.get("device") == "cuda" and devices:
        return str(devices[0].get("name"))
    return str((environment.get("cpu") or {}).get("model", "a machine that env.json does not name"))
