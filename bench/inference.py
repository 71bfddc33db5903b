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
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import inference_gpu
from command_line import Parser
from common import RESULTS, in_turn, quantiles, record_pair, row, write_rows
from hmc_fast import optimize_for_inference
from hmc_fast.models.optimized import has_fast_bfloat16
from inference_cases import SIZE, TOLERANCES, largest_difference, network, phantom_images
from inference_peers import installed_peers

VARIANTS = ("hmc", "resnet50")
BATCHES = (1, 8)
Call = Callable[[Tensor], Tensor]
needs_bfloat16 = pytest.mark.skipif(
    not has_fast_bfloat16(), reason="this CPU has neither AVX512-BF16 nor AMX"
)


def textbook(model: nn.Module) -> nn.Module:
    """The same network with the attention as the paper writes it."""
    model = copy.deepcopy(model)
    for module in model.modules():
        if hasattr(module, "backend"):
            module.backend = "reference"
    return model


def optimised(variant: str, dtype: torch.dtype, images: Tensor) -> Call:
    """Right, or no timing."""
    model = network(variant)
    fast = optimize_for_inference(model, dtype=dtype, grayscale=True)
    difference = largest_difference(fast, model, images)
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


def cpu_calls(variant: str, dtype: torch.dtype, images: Tensor) -> dict[str, Call]:
    """Who is timed at one case, by the name of the rows."""
    model = network(variant)
    calls: dict[str, Call] = {"optimised": optimised(variant, dtype, images), "eager": model}
    if dtype != torch.float32:
        calls["eager"] = copy.deepcopy(model).to(dtype)
        return {name: lambda x, call=call: call(x.to(dtype)) for name, call in calls.items()}
    if variant == "hmc":
        calls["eager-textbook"] = textbook(model)
    return calls | installed_peers(textbook(model), images)


def cpu_rows(rounds: int) -> Iterator[dict[str, Any]]:
    dtypes = [torch.float32] + [torch.bfloat16] * has_fast_bfloat16()
    for batch in BATCHES:
        images = phantom_images(batch)
        for dtype in dtypes:
            for variant in VARIANTS:
                calls = cpu_calls(variant, dtype, images)
                times = in_turn({n: side(call, images) for n, call in calls.items()}, rounds)
                medians = {name: quantiles(values)["q50"] / batch for name, values in times.items()}
                line = ", ".join(f"{name} {ms:.1f}" for name, ms in medians.items())
                print(f"{variant} {dtype} batch {batch}, ms an image: {line}", flush=True)
                for name, values in times.items():
                    yield row(
                        variant, name, "forward", "ms", values, batch=batch, n=SIZE, d_qk=0, d_v=0,
                        dtype=dtype,
                    )  # fmt: skip


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
