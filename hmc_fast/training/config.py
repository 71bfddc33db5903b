"""Every setting of a training run: default, help and check in one place; the flags of `hmc-fast
train` are made from it."""

import dataclasses
import json
import math
import os
import re
import typing
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from hmc_fast.attention import (
    BACKENDS,
    ENVIRONMENT_VARIABLE,
    asked_backend,
    check_backend,
    device_problem,
)
from hmc_fast.data.protocols import PROTOCOLS
from hmc_fast.errors import InputError
from hmc_fast.models import VARIANTS
from hmc_fast.models.forms import FORMS

AUGMENTED = 200_000  # the paper's variants, read per training fold
CPU_EPOCHS = 5
PRESETS: dict[str, dict[str, Any]] = {
    "quick": {"image_size": 64, "batch_size": 8, "epochs": CPU_EPOCHS},
    "full": {"image_size": 224, "batch_size": 32, "augmented": AUGMENTED},
}


def setting(
    default: Any, help: str, *, choices: tuple | None = None, rule: tuple | None = None
) -> Any:
    """A field with its help; rule = (predicate, what the value must be)."""
    return dataclasses.field(
        default=default, metadata={"help": help, "choices": choices, "rule": rule}
    )


def _at_least(minimum: float, unit: str = "") -> tuple[Callable[[Any], bool], str]:
    return (lambda value: minimum <= value < math.inf, f"at least {minimum}{unit}")


@dataclass(frozen=True)
class TrainConfig:
    """The settings of one run. None means that the preset decides, see `resolve`."""

    data: str = setting("phantom", "phantom, mias:DIR, or DIR with a folder for each class")
    classes: str = setting(
        "normal,benign,malignant", "class folders in order of severity, with commas"
    )
    variant: str = setting("hmc", "network", choices=VARIANTS)
    out: str | None = setting(
        None,
        "folder of the run; default runs/<variant>-<n>",
        rule=(lambda v: bool(v.strip()), "the name of a folder"),
    )
    preset: str | None = setting(
        None,
        "quick: 64 px, batch 8, 5 epochs; full: the paper's 224 px, batch 32, 200000 augmented "
        "images a fold; default: quick on a CPU with the phantom, else full",
        choices=tuple(PRESETS),
    )
    image_size: int | None = setting(
        None,
        "pixels of a side, 64 to 1024",
        rule=(lambda v: 64 <= v <= 1024, "from 64 to 1024 pixels"),
    )
    epochs: int | None = setting(
        None, "passes over the training images of a fold", rule=_at_least(1)
    )
    augmented: int | None = setting(None, "or: augmented images a fold, in all", rule=_at_least(1))
    batch_size: int | None = setting(None, "images a step", rule=_at_least(2))
    lr: float = setting(
        1e-4, "Adam's learning rate", rule=(lambda v: 0 < v < math.inf, "a number above 0")
    )
    folds: int = setting(5, "folds of the cross-validation", rule=_at_least(2))
    protocol: str = setting(
        "patient",
        "what a split keeps apart; image and leaky are for the leak study alone: films of a "
        "patient on both sides, and augmented copies of the test images in training",
        choices=PROTOCOLS,
    )
    only_fold: int | None = setting(
        None, "train this fold alone, counted from 0", rule=_at_least(0)
    )
    seed: int = setting(
        0,
        "of folds, weights, order and augmentation",
        rule=(lambda v: 0 <= v < 2**32, "from 0 to 4294967295"),
    )
    device: str = setting("auto", "auto, cpu, cuda or cuda:N")
    backend: str = setting("auto", "attention backend", choices=BACKENDS)
    amp: str = setting("auto", "low precision", choices=("auto", "bf16", "fp16", "off"))
    compile: bool = setting(
        False, "torch.compile: the whole step on CUDA, the attention blocks on a CPU"
    )
    deterministic: bool = setting(
        False, "bitwise the same result on the same machine; no choice by timing"
    )
    class_weights: str = setting("none", "weights of the loss", choices=("none", "balanced"))
    label: str = setting(
        "first", "MIAS: an image's class is its first or its worst row", choices=("first", "worst")
    )
    reduction: int = setting(
        8, "attention: channels of queries and keys are divided by it", choices=(1, 2, 4, 8)
    )
    scale: float | None = setting(
        None,
        "attention: factor of the scores, default 1/sqrt(d_qk); 1 for Eq. 5",
        rule=(math.isfinite, "a finite number"),
    )
    attention_form: str = setting(
        "auto",
        "attention: reassociated keeps less memory, auto takes the cheaper for each block",
        choices=FORMS,
    )
    weights: str | None = setting(
        None, "ResNet50 checkpoint (.safetensors or .pth) for the backbone"
    )
    validation_fraction: float = setting(
        0.0,
        "share of the training patients held out to choose the epoch; "
        "0: the last step's weights are tested",
        rule=(lambda v: 0 <= v <= 0.5, "from 0 to 0.5"),
    )
    checkpoint_every: float = setting(
        10.0, "minutes between checkpoints; 0: after every step", rule=_at_least(0)
    )
    workers: int = setting(2, "threads that decode images", rule=_at_least(0))

    def __post_init__(self) -> None:
        check_fields(self)
        if self.epochs is not None and self.augmented is not None:
            raise InputError("give --epochs or --augmented, not both")
        if self.protocol != "patient" and self.validation_fraction:
            raise InputError(
                "--validation-fraction holds whole patients out: it needs --protocol patient"
            )
        if self.only_fold is not None and self.only_fold >= self.folds:
            raise InputError(
                f"--only-fold must be from 0 to {self.folds - 1}, got {self.only_fold}"
            )
        if len(set(self.class_names)) < 2 or len(set(self.class_names)) < len(self.class_names):
            raise InputError(
                f"--classes must name two or more different folders, got {self.classes!r}"
            )

    @property
    def pixels(self) -> int:
        """`image_size`, the paper's where no preset has filled it in."""
        return self.image_size or PRESETS["full"]["image_size"]

    @property
    def images_a_step(self) -> int:
        """`batch_size`, the paper's where no preset has filled it in."""
        return self.batch_size or PRESETS["full"]["batch_size"]

    @property
    def passes(self) -> int:
        """`epochs`, those of a CPU where no preset has filled it in."""
        return self.epochs or CPU_EPOCHS

    @property
    def class_names(self) -> tuple[str, ...]:
        """`classes` split at the commas."""
        return tuple(name.strip() for name in self.classes.split(",") if name.strip())


def flag(name: str) -> str:
    """The flag of a field: batch_size is --batch-size."""
    return "--" + name.replace("_", "-")


def check_fields(config: Any) -> None:
    """InputError for the first field of a dataclass of `setting`s that breaks its own rule."""
    for field in dataclasses.fields(config):
        _check(field, getattr(config, field.name))


def _check(field: dataclasses.Field, value: Any) -> None:
    if value is None:
        return
    choices, rule = field.metadata["choices"], field.metadata["rule"]
    if choices and value not in choices:
        known = ", ".join(str(choice) for choice in choices)
        raise InputError(f"{flag(field.name)} must be one of {known}, got {value}")
    if rule and not rule[0](value):
        raise InputError(f"{flag(field.name)} must be {rule[1]}, got {_shown(value)}")


def _shown(value: Any) -> str:
    """Text in quotation marks, so that an empty one is seen."""
    return repr(value) if isinstance(value, str) else str(value)


def config_from_dict(values: dict[str, Any]) -> TrainConfig:
    """A config from a JSON object; InputError names a key or a type that does not belong."""
    fields = {field.name: field for field in dataclasses.fields(TrainConfig)}
    for name, value in values.items():
        if name not in fields:
            raise InputError(f"unknown setting {name!r} in the configuration")
        if not _has_type(value, fields[name].type):
            raise InputError(
                f"setting {name!r} must be {_type_name(fields[name].type)}, got {json.dumps(value)}"
            )
    return TrainConfig(**values)


def _type_name(annotation: Any) -> str:
    """What JSON calls it: `int | None` is "a whole number or null"."""
    words = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
    kinds = typing.get_args(annotation) or (annotation,)
    return " or ".join(words.get(kind, "null") for kind in kinds)


def _has_type(value: Any, annotation: Any) -> bool:
    if isinstance(value, bool):
        return annotation is bool
    if isinstance(value, int) and annotation in (float, float | None):
        return True
    return isinstance(value, annotation)


def resolve_device(device: str) -> torch.device:
    """`auto` is the first CUDA device or the CPU; InputError for one that is not there."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if not re.fullmatch(r"cpu|cuda(:[0-9]{1,3})?", device):
        raise InputError(f"--device must be auto, cpu, cuda or cuda:N, got {_shown(device)}")
    kind, _, number = device.partition(":")
    if kind == "cuda" and int(number or 0) >= torch.cuda.device_count():
        found = f"{torch.cuda.device_count()} CUDA device(s)"
        raise InputError(f"--device {device} asked for, but torch sees {found}; use --device cpu")
    return torch.device(device)


def check_attention(backend: str, device: torch.device) -> None:
    """InputError where --backend or HMC_FAST_BACKEND names no backend, or one that cannot run on
    the device: better now than in the first step."""
    try:
        check_backend(os.environ.get(ENVIRONMENT_VARIABLE, "auto"), ENVIRONMENT_VARIABLE)
        name, source = asked_backend(backend)
    except ValueError as error:
        raise InputError(str(error)) from error
    problem = device_problem(device) if name == "triton" else None
    if problem:
        asked = "--backend triton" if source == "backend" else f"{source}=triton"
        raise InputError(f"{asked} cannot run: {problem}")


def resolve(config: TrainConfig, device: torch.device) -> tuple[TrainConfig, list[str]]:
    """Fill in what the preset decides; returns the full config and sentences that say what was
    chosen and why."""
    on_cpu = device.type == "cpu"
    preset = config.preset or ("quick" if on_cpu and config.data == "phantom" else "full")
    filled = {k: v for k, v in PRESETS[preset].items() if getattr(config, k) is None}
    notes = [
        f"preset {preset} ({_preset_reason(config, on_cpu)}); "
        "change it with --preset or single flags"
    ]
    if config.epochs is not None or config.augmented is not None:
        filled = {k: v for k, v in filled.items() if k not in ("epochs", "augmented")}
    elif "augmented" in filled and on_cpu and config.preset is None:
        del filled["augmented"]
        filled["epochs"] = CPU_EPOCHS
        notes.append(
            f"{CPU_EPOCHS} epochs, because this is a CPU and no budget was given; "
            f"the paper's is --augmented {AUGMENTED}"
        )
    return dataclasses.replace(config, preset=preset, **filled), notes


def _preset_reason(config: TrainConfig, on_cpu: bool) -> str:
    if config.preset:
        return "asked for"
    if not on_cpu:
        return "the default with CUDA"
    return "the default on a CPU" if config.data == "phantom" else "the default for real images"
