"""What the study's networks cost: parameters and arithmetic, computed, and milliseconds an image,
measured once and kept."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from hmc_fast.files import write_json
from hmc_fast.profiling.closed_form import closed_form
from hmc_fast.profiling.counts import Architecture, parameters
from hmc_fast.profiling.latency import Latency
from hmc_fast.profiling.paper import PIXELS
from hmc_fast.profiling.rows import machine
from hmc_fast.profiling.session import measure_all
from hmc_fast.profiling.settings import Settings, fill_in
from hmc_fast.profiling.sides import EAGER, OPTIMISED
from hmc_fast.profiling.timing import on_device, quantiles
from hmc_fast.training.run_folder import read_json

LATENCY = "latency.json"


def complexity(
    variants: Sequence[str], classes: int = 3, reduction: int = 8
) -> dict[str, dict[str, Any]]:
    """Parameters, GMAC and GFLOP (1 MAC = 2 FLOP) of one image of the paper's 224 px, by variant.

    classes: of the classifier; reduction: of the attention. Nothing is run. Returns
    {variant: {"parameters": int, "gmac": float, "gflop": float, "ms": None}}.
    """
    found: dict[str, dict[str, Any]] = {}
    for variant in variants:
        gmac = sum(closed_form(variant, PIXELS, num_classes=classes, reduction=reduction).values())
        found[variant] = {
            "parameters": parameters(Architecture(variant, PIXELS, classes, reduction)),
            "gmac": gmac / 1e9,
            "gflop": 2 * gmac / 1e9,
            "ms": None,
        }
    return found


def timed_complexity(
    variants: Sequence[str],
    out: Path,
    device: torch.device,
    *,
    classes: int = 3,
    reduction: int = 8,
    backend: str = "auto",
    rounds: int | None = None,
    quiet: bool = False,
) -> dict[str, dict[str, Any]]:
    """`complexity` with "ms" of one image at batch 1, eager in float32, and "optimised_ms", None
    where a network has no optimised form.

    The times are those in out/latency.json where it holds just these networks: a study that goes on
    does not time again. rounds: None for what 20 s allow. Raises InputError: a damaged
    latency.json, or too little memory.
    """
    given = {
        "variants": tuple(variants),
        "batches": (1,),
        "image_size": PIXELS,
        "num_classes": classes,
        "reduction": reduction,
        "compiled": False,
        "backend": backend,
        "rounds": rounds,
    }
    times = _times(fill_in(given, device), out / LATENCY, quiet=quiet)
    counted = complexity(variants, classes, reduction)
    return {name: counted[name] | times[name] for name in variants}


def _times(settings: Settings, path: Path, *, quiet: bool) -> dict[str, dict[str, float | None]]:
    networks = {
        "variants": list(settings.variants),
        "image_size": settings.image_size,
        "classes": settings.num_classes,
        "reduction": settings.reduction,
    }
    kept = read_json(path) if path.is_file() else {}
    if kept.get("networks") != networks:
        with on_device(settings.device):
            latencies = measure_all(settings, quiet=quiet)
        times = {name: _medians(name, latencies) for name in settings.variants}
        kept = {"networks": networks, "machine": machine(settings.device), "times": times}
        write_json(path, kept)
    return kept["times"]


def _medians(variant: str, latencies: Sequence[Latency]) -> dict[str, float | None]:
    """Of the eager and the optimised side of a network."""
    found = {
        latency.name.provider: quantiles(latency.ms)["q50"]
        for latency in latencies
        if latency.name.network == variant
    }
    return {"ms": found.get(EAGER), "optimised_ms": found.get(OPTIMISED)}
