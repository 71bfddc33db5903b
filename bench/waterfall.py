"""What does each step from the plain network to the optimised one gain, and what does it change?

    python bench/waterfall.py                        phantom images; 10 minutes on 2 CPU cores
    python bench/waterfall.py --data mias:DIR        real images too, for the largest difference
    python bench/waterfall.py --no-compile           without the row that compiles for minutes

hmc at 224 px with every gamma 0.5. The rows build on each other, but for torch.compile: what it
does (fusing, graphs) the later rows do in their own way, so they build on the row before it. All
rows of one batch size are timed in turn in one process. `error` is max |Δp|, the largest difference
of any probability from the float64 network over 64 images of a set; low precision alone moves it,
exact identities must not. `peak_mib` is memory of one call beyond the network and its images.

Writes bench/results/waterfall-<cpu or gpu>.csv: op is the network, provider the step with its
number, d_qk and d_v are 0, ms is of a whole batch, mode of an error is the set of images. The
README's picture is made from it by bench/waterfall_figure.py.
"""

import argparse
import copy
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from command_line import Parser
from common import RESULTS, environment_columns, in_turn, quantiles, row, write_rows
from gpu_timing import slug
from hmc_fast import optimize_for_inference
from hmc_fast.errors import InputError
from hmc_fast.models.folded import fold
from hmc_fast.models.folding import Identities
from hmc_fast.models.optimized import has_fast_bfloat16
from hmc_fast.profiling.memory import peak_mib
from hmc_fast.progress import progress
from image_sets import ImageSet, image_sets, true_probabilities
from inference_cases import SIZE, largest_difference, network, phantom_images, textbook

NAMES = (
    "BatchNorm folded", "pooled before match", "reassociated", "match composed",
    "constants folded", "grey stem", "gamma = 0 dropped", "pooled attention", "HA1's map skipped",
)  # fmt: skip
Call = Callable[[Tensor], Tensor]
Sets = dict[str, tuple[Tensor, Tensor]]  # images and expected probabilities


class Step(NamedTuple):
    """A row: what is new in it, how its network is made, and its numbers' dtype."""

    name: str
    make: Callable[[], Call]
    dtype: torch.dtype


def steps(model: nn.Module, low: torch.dtype | None, batch: int, compiled: bool) -> list[Step]:
    """All rows for a network on its device; low: the low precision, None where there is none."""
    plain, device = textbook(model), next(model.parameters()).device
    dtype = low or torch.float32

    def in_dtype(dtype: torch.dtype) -> nn.Module:
        return copy.deepcopy(plain).to(dtype, memory_format=torch.channels_last)

    def folded(count: int) -> Call:
        return fold(plain, Identities.first(count), dtype=dtype, grayscale=True)

    def optimised(model: nn.Module, batch_size: int | None) -> Call:
        return optimize_for_inference(model, dtype=dtype, grayscale=True, batch_size=batch_size)

    rows = [
        Step("eager", lambda: plain, torch.float32),
        Step("channels last", lambda: in_dtype(torch.float32), torch.float32),
    ]
    if low is not None:
        rows.append(Step(str(low).removeprefix("torch."), lambda: in_dtype(low), dtype))
    if compiled:
        rows.append(Step("torch.compile", lambda: torch.compile(in_dtype(dtype)), dtype))
    for count, name in enumerate(NAMES, 1):
        rows.append(Step(name, lambda count=count: folded(count), dtype))
    rows.append(Step("fused convolutions", lambda: optimised(plain, None), dtype))
    rows.append(Step("fused attention", lambda: optimised(model, None), dtype))
    if device.type == "cuda":
        rows.append(Step("CUDA graph", lambda: optimised(model, batch), dtype))
    return rows


def with_truth(sets: dict[str, ImageSet], model: nn.Module) -> Sets:
    """Their images on the network's device, and what it says of them in float64."""
    device = next(model.parameters()).device
    return {
        name: (images.to(device), true_probabilities(model, images, f"{name}, float64"))
        for name, (_, images) in sets.items()
    }


def differences(step: Step, call: Call, sets: Sets, batch: int) -> Iterator[dict[str, Any]]:
    """A row a set of images: max |Δp| against the float64 network, `batch` images at a time."""
    for name, pairs in sets.items():
        parts = zip(*(values.split(batch) for values in pairs), strict=True)
        largest = max(
            largest_difference(call, expected, prepared(step, images)) for images, expected in parts
        )
        yield line(step.name, name, "error", [largest], batch, step.dtype)


def prepared(step: Step, images: Tensor) -> Tensor:
    """The images as the step's network takes them."""
    layout = torch.contiguous_format if step.name.endswith("eager") else torch.channels_last
    return images.to(step.dtype, memory_format=layout)


def line(
    provider: str, mode: str, metric: str, values: list[float], batch: int, dtype: torch.dtype
) -> dict[str, Any]:
    sizes = {"batch": batch, "n": SIZE, "d_qk": 0, "d_v": 0, "dtype": dtype}
    return row("hmc", provider, mode, metric, values, **sizes)


def measure(
    model: nn.Module, batch: int, low: torch.dtype | None, sets: Sets, args: argparse.Namespace
) -> Iterator[dict[str, Any]]:
    """All rows of one batch size: first differences and memory, then the times, all in turn."""
    device = next(model.parameters()).device
    images, calls = phantom_images(batch).to(device), {}
    chain = steps(model, low, batch, args.compile)
    with torch.inference_mode():
        for number, step in enumerate(progress(chain, f"batch {batch}: differences", unit="step")):
            step = step._replace(name=f"{number:02d} {step.name}")
            call, given = step.make(), prepared(step, images)
            yield from differences(step, call, sets, batch)
            calls[step] = partial(call, given)
            peak = peak_mib(calls[step], device)
            yield line(step.name, "forward", "peak_mib", [peak], batch, step.dtype)
        times = in_turn({step.name: call for step, call in calls.items()}, args.rounds, warmup=2)
    for step in calls:
        print(f"batch {batch}: {step.name:24} {quantiles(times[step.name])['q50'] / batch:8.2f}")
        yield line(step.name, "forward", "ms", times[step.name], batch, step.dtype)


def low_precision() -> torch.dtype | None:
    """bfloat16 where the device is fast in it."""
    return torch.bfloat16 if torch.cuda.is_available() or has_fast_bfloat16() else None


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = Parser(__doc__.splitlines()[0])
    add = parser.add_argument
    add("--data", help="mias:DIR or DIR: real images for the largest difference")
    add("--batch", type=int, nargs="+", help="default: 1 and 8, with CUDA 1 and 32")
    add("--rounds", type=int, default=9, help="timings of each step (default: 9)")
    add("--no-compile", dest="compile", action="store_false", help="leave torch.compile out")
    add("--out", type=Path, default=RESULTS, help="folder of the results")
    args = parser.parse_args(arguments)
    args.batch = args.batch or [1, 32 if torch.cuda.is_available() else 8]
    if min(args.rounds, *args.batch) < 1:
        parser.error("--rounds and --batch must be at least 1")
    try:
        args.sets = image_sets(args.data, SIZE)
    except InputError as error:
        parser.error(str(error))
    return args


def main(arguments: Sequence[str] | None = None) -> int:
    args, low = parse(arguments), low_precision()
    if low is None:
        print("no low precision: this CPU has neither AVX512-BF16 nor AMX")
    model = network("hmc").to("cuda" if torch.cuda.is_available() else "cpu")
    sets = with_truth(args.sets, model)
    rows = [line for batch in args.batch for line in measure(model, batch, low, sets, args)]
    where = slug(environment_columns()["gpu"]) if torch.cuda.is_available() else "cpu"
    print(write_rows(f"waterfall-{where}", rows, args.out))
    return 0


if __name__ == "__main__":
    sys.exit(main())
