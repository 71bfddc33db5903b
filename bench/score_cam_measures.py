"""What the Score-CAM benchmark measures besides time: fidelity, and what share is the network's."""

import functools
import time
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import torch
from torch import Tensor

from common import row
from hmc_fast.explain import score_cam_details
from hmc_fast.explain.masked import MaskedImages
from score_cam_peers import Call, Case

MAX_CHANNELS, TOLERANCES = (64, 256, 1024), (0.05, 0.01)


def agreement(a: Tensor, exact: Tensor) -> dict[str, float]:
    """Of two maps (H, W): Pearson's correlation, IoU of what is at least 0.5, max |Δ|."""
    pearson = torch.corrcoef(torch.stack([a.flatten(), exact.flatten()]).double())[0, 1]
    inside, true = a >= 0.5, exact >= 0.5
    iou = (inside & true).sum() / (inside | true).sum()
    largest = (a - exact).abs().max()
    return {"pearson": float(pearson), "iou": float(iou), "max_difference": float(largest)}


def fidelity_rows(case: Case, dtype: torch.dtype, channels: int) -> Iterator[dict[str, Any]]:
    """The approximations against the exact map, both computed in `dtype`: what differs is not
    rounding."""
    own = None if hasattr(case.model, "dtype") else dtype  # an optimised model has its own

    def explain(**limit: Any) -> Any:
        return score_cam_details(
            case.model, case.image, case.target, layer=case.layer, dtype=own, **limit
        )

    exact = explain().maps[0]
    limits = [{"max_channels": k} for k in MAX_CHANNELS if k < channels]
    for limit in [*limits, *({"tolerance": t} for t in TOLERANCES)]:
        details = explain(**limit)
        name = " ".join(f"{key}={value}" for key, value in limit.items())
        (layer,) = details.layers
        found = agreement(details.maps[0], exact) | {
            "tried": float(layer.tried[0]),
            "distinct": float(layer.distinct[0]),
            "remaining": float(layer.remaining[0]),
        }
        print(f"{name}: " + ", ".join(f"{key} {value:.4g}" for key, value in found.items()))
        for measure, value in found.items():
            yield row(
                "score-cam-fidelity", name, measure, "error", [value], batch=1,
                n=case.image.shape[-1], d_qk=0, d_v=channels, dtype=dtype,
            )  # fmt: skip


def share_in_forward(call: Call) -> float:
    """The part of the engine's time that the network's forward passes take: masks, products and
    bookkeeping are the rest. Folding and the first pass, once a call, are not in it. On a CPU."""
    spent = {"__call__": 0.0, "logits": 0.0}

    def measured(name: str) -> Callable:
        method = getattr(MaskedImages, name)

        @functools.wraps(method)
        def run(*arguments: Any) -> Any:
            started = time.perf_counter()
            result = method(*arguments)
            spent[name] += time.perf_counter() - started
            return result

        return run

    with mock.patch.multiple(MaskedImages, **{name: measured(name) for name in spent}):
        call()
    return spent["logits"] / spent["__call__"]
