"""Inference on a GPU in bf16: hmc and resnet50 optimised, beside eager and torch.compile.

    optimised            optimize_for_inference with a CUDA graph
    optimised-eager      the same without the graph
    eager                the network as create_model makes it, channels last, bf16
    compile              torch.compile of that, default mode
    compile-graph        mode reduce-overhead: CUDA graphs
    compile-autotune     mode max-autotune, with --full: it compiles for minutes

Rows are written after each network and batch size: a time-out costs what is left. All are compared
with the float32 network before they are timed; max |Δp| is printed. In the end the kernels of one
optimised forward, beside the design's gate (inference_kernels.py).
"""

import argparse
import contextlib
import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from attention_gpu import INTERNALS, merge_rows, read_rows
from attention_targets import Missing, Results, Target, table
from common import environment_columns, quantiles, row
from gpu_timing import Side, bursts_in_turn, check_alive, peak_mib, slug
from hmc_fast import optimize_for_inference
from inference_cases import (
    SIZE,
    TOLERANCES,
    largest_difference,
    network,
    phantom_images,
    probabilities,
)
from inference_kernels import kernels_of, table_of, write_kernels

DEVICE = "cuda"
BATCHES = (32, 1)
DTYPE = torch.bfloat16
MODES = {
    "compile": "default",
    "compile-graph": "reduce-overhead",
    "compile-autotune": "max-autotune",
}
COMPILED = tuple(MODES)
Call = Callable[[Tensor], Tensor]


def plain(model: nn.Module) -> nn.Module:
    """The network in bf16, channels last."""
    return copy.deepcopy(model).to(DTYPE, memory_format=torch.channels_last)


def compiled(model: nn.Module, mode: str) -> Call:
    return torch.compile(plain(model), mode=mode, dynamic=False)


def providers(variant: str, batch: int, full: bool) -> dict[str, Callable[[nn.Module], Call]]:
    """Who is timed, and how each is made from the float32 network."""

    def fast(model: nn.Module, batch_size: int | None) -> Call:
        return optimize_for_inference(model, dtype=DTYPE, grayscale=True, batch_size=batch_size)

    found: dict[str, Callable[[nn.Module], Call]] = {
        "optimised": lambda model: fast(model, batch),
        "optimised-eager": lambda model: fast(model, None),
        "eager": plain,
    }
    if variant == "hmc":
        for name, mode in MODES.items():
            if full or name != "compile-autotune":
                found[name] = lambda model, mode=mode: compiled(model, mode)
    return found


def sides(variant: str, batch: int, full: bool) -> dict[str, Side]:
    """Those that run and are right. One channel each image: nobody waits for the check."""
    model, images = network(variant).to(DEVICE), phantom_images(batch).to(DEVICE)
    expected, found = probabilities(model, images), {}
    low = images.to(DTYPE, memory_format=torch.channels_last)
    for name, make in providers(variant, batch, full).items():
        given = low[:, :1] if name.startswith("optimised") else low
        try:
            call = make(model)
            difference = largest_difference(call, expected, given)
            print(f"{variant} batch {batch} {name}: max |Δp| {difference:.2g}", flush=True)
            if not difference <= TOLERANCES[DTYPE]:
                raise AssertionError(f"max |Δp| is {difference:.2g}")
            found[name] = Side(lambda c=call, x=given: c(x), torch.inference_mode)
        except Exception as error:
            check_alive(error)
            first = INTERNALS.sub("", str(error)).partition("\n")[0]
            print(f"{variant} batch {batch} {name}: {type(error).__name__}: {first}", flush=True)
    return found


def rows_of(variant: str, batch: int, rounds: int, full: bool) -> list[dict[str, Any]]:
    """Milliseconds and memory of each side, all in turn."""
    called = sides(variant, batch, full)
    sizes = {"batch": batch, "n": SIZE, "d_qk": 0, "d_v": 0, "dtype": DTYPE}
    rows = []
    for name, values in bursts_in_turn(called, rounds).items():
        if isinstance(values, Exception):
            print(f"{variant} batch {batch} {name}: {values}")
            continue
        ms = quantiles(values)["q50"]
        print(f"{variant} batch {batch} {name}: {ms:.3f} ms, {1e3 * batch / ms:.0f} images/s")
        rows.append(row(variant, name, "forward", "ms", values, **sizes))
        memory = [peak_mib(called[name])]
        rows.append(row(variant, name, "forward", "peak_mib", memory, **sizes))
    return rows


def ms(results: Results, variant: str, provider: str, batch: int) -> float:
    return results.get(variant, provider, "forward", batch, "ms", SIZE)


def cost(batch: int) -> Callable[[Results], float]:
    """hmc over resnet50, both optimised."""
    return lambda r: ms(r, "hmc", "optimised", batch) / ms(r, "resnet50", "optimised", batch)


def rate(variant: str) -> Callable[[Results], float]:
    """Images a second at batch 32."""
    return lambda r: 32e3 / ms(r, variant, "optimised", 32)


def over_compile(batch: int, names: tuple[str, ...] = COMPILED) -> Callable[[Results], float]:
    """The fastest of these modes, of those that were measured, over ours."""

    def value(results: Results) -> float:
        found = []
        for name in names:
            with contextlib.suppress(Missing):
                found.append(ms(results, "hmc", name, batch))
        if not found:
            raise Missing("torch.compile was not timed")
        return min(found) / ms(results, "hmc", "optimised", batch)

    return value


TARGETS = [
    Target("hmc over resnet50, optimised, batch 1", cost(1), 1.25, 1.15, most=True),
    Target("hmc over resnet50, optimised, batch 32", cost(32), 1.45, 1.35, most=True),
    Target("resnet50, images/s, batch 32 (H200)", rate("resnet50"), 18_000, 22_000),
    Target("hmc, images/s, batch 32 (H200)", rate("hmc"), 13_000, 16_000),
    Target("x the best torch.compile, batch 1", over_compile(1), 1.4, 1.8),
    Target("x the best torch.compile, batch 32", over_compile(32), 1.5, 1.8),
    Target("x torch.compile's default, batch 32", over_compile(32, ("compile",)), 2.0),
]


def list_kernels(folder: Path) -> Path:
    """Print and write what one optimised forward runs."""
    found = {}
    for batch in BATCHES:
        images = phantom_images(batch)[:, :1].to(DEVICE)
        for variant in ("resnet50", "hmc"):
            model = network(variant).to(DEVICE)
            fast = optimize_for_inference(model, dtype=DTYPE, grayscale=True)
            prepared = fast._prepare(images)
            found[variant, batch] = kernels_of(lambda f=fast, x=prepared: f.net(x))
            print("\n".join(table_of(variant, batch, found[variant, batch])))
    return write_kernels(found, folder)


def main(args: argparse.Namespace) -> int:
    """Measure, write, print targets; 1 where the optimised networks did not run."""
    name, found = f"inference-{slug(environment_columns()['gpu'])}", set()
    for batch in BATCHES:
        for variant in ("resnet50", "hmc"):  # the quick one first
            rows = rows_of(variant, batch, args.rounds, args.full)
            found |= {(variant, batch) for line in rows if line["provider"] == "optimised"}
            merge_rows(name, rows, args.out)
    print("\n".join(table(read_rows(name, args.out), TARGETS)))
    print(args.out / f"{name}.csv")
    print(list_kernels(args.out))
    return int(len(found) < 2 * len(BATCHES))
