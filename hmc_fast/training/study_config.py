"""The settings of a study: what it has beside those of its runs, and study.json."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from hmc_fast.errors import InputError
from hmc_fast.models import VARIANTS
from hmc_fast.training.config import (
    TrainConfig,
    check_fields,
    config_from_dict,
    flag,
    resolve,
    setting,
)
from hmc_fast.training.run_folder import FREE_TO_CHANGE, read_json, word

FOUR = ("hmc", "hierarchical", "multiscale", "resnet50")  # the paper's comparison
QUICK_STEPS = 30
NO_LEAK_STUDY = "none"
FREE = FREE_TO_CHANGE | {
    "explain_images",
    "parallel",
    "variants",
    "leak_variant",
    "leak_epochs",
    "leak_augmented",
}
OWN = ("variant", "only_fold", "protocol", "out")  # of TrainConfig, which the grid sets itself


def _positive(value: int) -> bool:
    return value >= 1


@dataclass(frozen=True)
class StudyConfig:
    """What a study has beside the settings that all its runs share."""

    variants: str | None = setting(
        None,
        "networks with commas, or all; default: the paper's four, with CUDA all seven",
        rule=(lambda v: bool(v.strip()), "names of networks with commas, or all"),
    )
    leak_variant: str = setting(
        "hmc",
        "network of the leak study (one network, three protocols), or none",
        choices=(*VARIANTS, NO_LEAK_STUDY),
    )
    leak_epochs: int | None = setting(
        None, "the leak study's own budget in passes", rule=(_positive, "at least 1")
    )
    leak_augmented: int | None = setting(
        None, "or in augmented images a fold, in all", rule=(_positive, "at least 1")
    )
    explain_images: int | None = setting(
        None,
        "films with a known lesion to explain; default: 4 on a CPU, all with CUDA; 0: none",
        rule=(lambda v: v >= 0, "at least 0"),
    )
    parallel: str = setting(
        "none",
        "folds: every process of torchrun, or every one started by hand, takes whole folds",
        choices=("none", "folds"),
    )

    def __post_init__(self) -> None:
        check_fields(self)
        if self.leak_epochs is not None and self.leak_augmented is not None:
            raise InputError("give --leak-epochs or --leak-augmented, not both")


def resolve_study(
    base: TrainConfig, study: StudyConfig, device: torch.device
) -> tuple[TrainConfig, StudyConfig, list[str]]:
    """Fill in what the preset and the device decide; the settings and sentences that say so."""
    quick = base.preset == "quick" or (
        base.preset is None and base.data == "phantom" and device.type == "cpu"
    )
    if quick and base.epochs is None and base.augmented is None:
        steps = QUICK_STEPS * (base.batch_size or 8)
        base = dataclasses.replace(base, preset="quick", augmented=steps)
    base, notes = resolve(base, device)
    if base.amp == "auto" and device.type == "cpu":
        base = dataclasses.replace(base, amp="off")
        notes.append("float32 for all networks: on a CPU --amp auto would choose for each by speed")
    if study.variants is None:
        default = VARIANTS if device.type == "cuda" and base.preset == "full" else FOUR
        study = dataclasses.replace(study, variants=",".join(default))
    return base, study, notes


def chosen_variants(study: StudyConfig) -> list[str]:
    """The networks of a study, the paper's four first; InputError for an unknown name or none."""
    words = [word.strip() for word in (study.variants or "").split(",") if word.strip()]
    if words == ["all"]:
        words = list(VARIANTS)
    unknown = [word for word in words if word not in VARIANTS]
    if unknown or not words:
        got = unknown[0] if unknown else study.variants
        raise InputError(
            f"--variants must name networks of {', '.join(VARIANTS)} with commas, or all, got {got}"
        )
    order = [*FOUR, *(name for name in VARIANTS if name not in FOUR)]
    return [name for name in order if name in words]


def study_settings(base: TrainConfig, study: StudyConfig) -> dict[str, Any]:
    """The value of study.json."""
    shared = {k: v for k, v in dataclasses.asdict(base).items() if k not in OWN}
    return {"training": shared, **dataclasses.asdict(study)}


def settings_from_dict(values: Mapping[str, Any]) -> tuple[TrainConfig, StudyConfig]:
    """The settings in study.json; InputError names a key or a type that does not belong."""
    own = {k: v for k, v in values.items() if k != "training"}
    training = values.get("training", {})
    if not isinstance(training, dict):
        raise InputError("'training' must hold the settings of the runs")
    unknown = set(own) - {field.name for field in dataclasses.fields(StudyConfig)}
    if unknown:
        raise InputError(f"unknown setting {min(unknown)!r} in the study's configuration")
    try:
        return config_from_dict(training), StudyConfig(**own)
    except (AttributeError, TypeError) as error:  # a rule met a value of another type
        raise InputError("a setting of the study has a value of another type") from error


def read_study(path: Path) -> tuple[TrainConfig, StudyConfig]:
    """The settings in a study.json; InputError names the file and what is wrong with it."""
    values = read_json(path)
    try:
        return settings_from_dict(values)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


def changed_settings(before: Mapping[str, Any], base: TrainConfig, study: StudyConfig) -> list[str]:
    """'--lr 0.0001 there, 0.5 here' for each setting that a study may not change when it goes on;
    before: the value of its study.json."""
    then = study_settings(*settings_from_dict(before))
    now = study_settings(base, study)
    pairs = [
        (name, values.get(name), value)
        for values, new in ((then["training"], now["training"]), (then, now))
        for name, value in new.items()
        if name != "training" and name not in FREE and values.get(name) != value
    ]
    return [f"{flag(name)} {word(old)} there, {word(new)} here" for name, old, new in pairs]
