"""How much faster is the optimised network than the one it was made from, and than its peers?

    python bench/inference.py    on a GPU: bf16, batch 1 and 32, beside eager and torch.compile,
                                 under a minute; writes bench/results/inference-<gpu>.csv and prints
                                 the design's targets beside the results (inference_gpu.py)
                                 on a CPU: float32 and bf16, batch 1 and 8, beside eager and, where
                                 they are installed, onnxruntime and OpenVINO; about three minutes;
                                 writes bench/results/inference-cpu.csv
    pytest --benchmark           on a CPU: the pairs that matter, timed in turn

hmc and resnet50 at 224 px, grey phantom images, all gammas 0.5. `eager` is the network as
create_model makes it; `eager-textbook` has the attention as the paper writes it, scores stored. An
optimised network is compared with its origin before it is timed. In rows n is the pixels of a side,
d_qk and d_v are 0, ms is of a whole batch. Machine and versions stand in every row.
"""

import argparse
import copy
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

import inference_gpu
from command_line import Parser
from common import RESULTS, in_turn, quantiles, record_pair, row, write_rows
from hmc_fast import optimize_for_inference
from hmc_fast.kernels.configurations import dtype_name
from hmc_fast.models.optimized import has_fast_bfloat16
from inference_cases import (
    SIZE,
    TOLERANCES,
    largest_difference,
    network,
    phantom_images,
    probabilities,
    textbook,
)
from inference_peers import installed_peers

VARIANTS = ("hmc", "resnet50")
BATCHES = (1, 8)
Call = Callable[[Tensor], Tensor]
needs_bfloat16 = pytest.mark.skipif(
    not has_fast_bfloat16(), reason="this CPU has neither AVX512-BF16 nor AMX"
)


def optimised(variant: str, dtype: torch.dtype, images: Tensor) -> Call:
    """Right, or no timing."""
    model = network(variant)
    fast = optimize_for_inference(model, dtype=dtype, grayscale=True)
    difference = largest_difference(fast, probabilities(model, images), images)
    assert difference <= TOLERANCES[dtype], f"{variant} {dtype}: max |Δp| {difference:.2g}"
    return fast


def side(call: Call, images: Tensor) -> Callable[[], Tensor]:
    """One call without gradients."""

    def run() -> Tensor:
        with torch.no_grad():
            return call(images)

    return run


def compare(benchmark: Any, names: tuple[str, str], calls: tuple[Call, Call], batch: int) -> None:
    images = phantom_images(batch)
    (name_a, name_b), (a, b) = names, (side(call, images) for call in calls)
    record_pair(benchmark, name_a, a, name_b, b, rounds=9 if batch > 1 else 21, warmup=2)


@pytest.mark.parametrize("origin", ["eager", "eager-textbook"])
@pytest.mark.parametrize("batch", BATCHES)
def test_float32_against_eager(benchmark, batch, origin):
    model = network("hmc") if origin == "eager" else textbook(network("hmc"))
    fast = optimised("hmc", torch.float32, phantom_images(batch))
    compare(benchmark, ("optimised", origin), (fast, model), batch)


@needs_bfloat16
@pytest.mark.parametrize("batch", BATCHES)
def test_bfloat16_against_float32_eager(benchmark, batch):
    fast = optimised("hmc", torch.bfloat16, phantom_images(batch))
    compare(benchmark, ("optimised bf16", "eager float32"), (fast, network("hmc")), batch)


@pytest.mark.parametrize(
    "dtype", [torch.float32, pytest.param(torch.bfloat16, marks=needs_bfloat16)]
)
@pytest.mark.parametrize("batch", BATCHES)
def test_resnet50_against_hmc_both_optimised(benchmark, batch, dtype):
    """The ratio is what HMC-Net costs over ResNet50."""
    images = phantom_images(batch)
    calls = tuple(optimised(variant, dtype, images) for variant in ("resnet50", "hmc"))
    compare(benchmark, ("resnet50", "hmc"), calls, batch)


class Case(NamedTuple):
    """Who is timed: the first columns of a row."""

    variant: str
    provider: str
    dtype: torch.dtype


def cpu_calls(variant: str, images: Tensor) -> dict[Case, Call]:
    """Everybody who runs a network here; all are given float32 and convert it themselves."""
    model = network(variant)
    calls: dict[Case, Call] = {Case(variant, "eager", torch.float32): model}
    for dtype in [torch.float32] + [torch.bfloat16] * has_fast_bfloat16():
        calls[Case(variant, "optimised", dtype)] = optimised(variant, dtype, images)
    if has_fast_bfloat16():
        low = copy.deepcopy(model).bfloat16()
        calls[Case(variant, "eager", torch.bfloat16)] = lambda x: low(x.bfloat16())
    others = installed_peers(textbook(model), images)
    if variant == "hmc":
        others["eager-textbook"] = textbook(model)
    return calls | {Case(variant, name, torch.float32): call for name, call in others.items()}


def cpu_rows(rounds: int) -> Iterator[dict[str, Any]]:
    """All networks and providers of one batch size are timed in turn."""
    for batch in BATCHES:
        images, calls = phantom_images(batch), {}
        for variant in VARIANTS:
            calls |= cpu_calls(variant, images)
        times = in_turn({case: side(call, images) for case, call in calls.items()}, rounds)
        for case, values in times.items():
            variant, provider, dtype = case
            ms = quantiles(values)["q50"] / batch
            print(
                f"batch {batch}: {variant:9} {provider:15} {dtype_name(dtype):9} {ms:7.1f} ms/img"
            )
            sizes = {"batch": batch, "n": SIZE, "d_qk": 0, "d_v": 0, "dtype": dtype}
            yield row(variant, provider, "forward", "ms", values, **sizes)


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = Parser(__doc__.splitlines()[0])
    add = parser.add_argument
    add("--rounds", type=int, default=9, help="timings of each side (default: 9)")
    add("--full", action="store_true", help="on a GPU: torch.compile's max-autotune too, minutes")
    add("--out", type=Path, default=RESULTS, help="folder of the results")
    args = parser.parse_args(arguments)
    if args.rounds < 1:
        parser.error(f"--rounds must be at least 1, got {args.rounds}")
    return args


def main() -> int:
    args = parse()
    if torch.cuda.is_available():
        return inference_gpu.main(args)
    print(f"{torch.get_num_threads()} threads")
    print(write_rows("inference-cpu", cpu_rows(args.rounds), args.out))
    return 0


if __name__ == "__main__":
    sys.exit(main())
