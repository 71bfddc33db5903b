"""What a profile measures, with the defaults of the device and of a run."""

from dataclasses import dataclass, fields
from typing import Any

import torch

from hmc_fast.errors import InputError
from hmc_fast.kernels.configurations import dtype_name
from hmc_fast.models.baselines import BASELINES, PATCH
from hmc_fast.models.optimized import has_fast_bfloat16
from hmc_fast.profiling.counts import Architecture
from hmc_fast.training.config import PRESETS
from hmc_fast.training.opened_run import OpenedRun

VARIANTS = ("resnet50", "hmc", "hierarchical", "multiscale")
BATCHES = {"cpu": (1, 8), "cuda": (1, 32)}
LARGE_BATCH = 32
DTYPES = {"cpu": (torch.float32,), "cuda": (torch.bfloat16,)}


@dataclass(frozen=True)
class Settings:
    """batches: images of a call; dtypes: of compiled and optimised networks; compiled: whether
    torch.compile is timed; rounds: None for what the time budget allows."""

    device: torch.device
    variants: tuple[str, ...]
    batches: tuple[int, ...]
    dtypes: tuple[torch.dtype, ...]
    image_size: int
    num_classes: int
    reduction: int
    compiled: bool
    backend: str = "auto"
    rounds: int | None = None

    def architecture(self, variant: str) -> Architecture:
        """Of one of the variants."""
        return Architecture(variant, self.image_size, self.num_classes, self.reduction)


def fill_in(given: dict[str, Any], device: torch.device, run: OpenedRun | None = None) -> Settings:
    """Settings from what was given, None where the device decides or the run, if there is one.

    Raises InputError: a dtype that is slow on the device, an image size that the ViT cannot cut.
    """
    config = run.config if run else None
    defaults: dict[str, Any] = {
        "variants": tuple(dict.fromkeys(("resnet50", config.variant))) if config else VARIANTS,
        "batches": BATCHES[device.type],
        "dtypes": DTYPES[device.type],
        "image_size": config.pixels if config else PRESETS["full"]["image_size"],
        "num_classes": len(config.class_names) if config else 3,
        "reduction": config.reduction if config else 8,
        "compiled": device.type == "cuda",
    }
    known = {field.name for field in fields(Settings)}
    asked = {name: v for name, v in given.items() if v is not None and name in known}
    settings = Settings(**defaults | asked | {"device": device})
    _check(settings)
    return settings


def _check(settings: Settings) -> None:
    slow = [d for d in settings.dtypes if d not in fast_dtypes(settings.device)]
    if slow:
        fast = " or ".join(dtype_name(dtype) for dtype in fast_dtypes(settings.device))
        raise InputError(
            f"--dtype {dtype_name(slow[0])} is not fast on this {settings.device.type.upper()}: "
            f"use {fast}"
        )
    if "vit_b_16" in settings.variants and settings.image_size % PATCH:
        raise InputError(
            f"vit_b_16 needs an --image-size that is a multiple of {PATCH}, "
            f"got {settings.image_size}"
        )


def fast_dtypes(device: torch.device) -> list[torch.dtype]:
    """Those that an optimised network may have on the device."""
    if device.type == "cuda":
        return [torch.float32, torch.bfloat16, torch.float16]
    return [torch.float32] + [torch.bfloat16] * has_fast_bfloat16()


def left_out(settings: Settings) -> list[str]:
    """What these settings do not measure, each with the flag for it."""
    others = [d for d in fast_dtypes(settings.device) if d not in settings.dtypes]
    baselines = [name for name in BASELINES if name not in settings.variants]
    found = [f"{dtype_name(dtype)} (--dtype {dtype_name(dtype)})" for dtype in others]
    if not settings.compiled:
        found.append("torch.compile, minutes for each network and batch size (--compile)")
    if LARGE_BATCH not in settings.batches:
        found.append(f"batch {LARGE_BATCH} (--batch {LARGE_BATCH})")
    if baselines:
        found.append(f"{', '.join(baselines)} (--variant {','.join(baselines)})")
    return found
