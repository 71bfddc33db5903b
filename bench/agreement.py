"""Do the optimised and the original network say the same of 64 images, and where not quite?

    python bench/agreement.py                        phantom images; 2 minutes on 2 CPU cores
    python bench/agreement.py --data mias:DIR        real images too
    python bench/agreement.py --run RUN              a trained network instead of a random one

For each dtype that the device is fast in: max |Δp| from the original in float64 over 64 images of a
set, how many have another class, and the borderline ones by name: those whose two most probable
classes are no further apart than twice that difference. A class that changes elsewhere is a fault:
exit code 1. The original in float32 stands beside, with rounding of its own. Writes
bench/results/agreement-<cpu or gpu>.csv: mode is the set of images.
"""

import argparse
import copy
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from command_line import Parser
from common import RESULTS, environment_columns, row, write_rows
from gpu_timing import slug
from hmc_fast import load_model, optimize_for_inference
from hmc_fast.errors import InputError
from hmc_fast.models.optimized import has_fast_bfloat16
from image_sets import PART, ImageSet, image_sets, true_probabilities
from inference_cases import network, probabilities


def dtypes(device: str) -> list[torch.dtype]:
    """What `optimize_for_inference` takes on a device, the most exact first."""
    low = [torch.bfloat16] if device == "cuda" or has_fast_bfloat16() else []
    return [torch.float64, torch.float32, *low, *([torch.float16] if device == "cuda" else [])]


def network_probabilities(model: nn.Module, images: Tensor, dtype: torch.dtype) -> Tensor:
    """Of the network as it is, in `dtype`."""
    plain = copy.deepcopy(model).to(dtype)
    parts = images.to(next(model.parameters()).device).split(PART)
    return torch.cat([probabilities(plain, part) for part in parts])


def optimised_probabilities(model: nn.Module, images: Tensor, dtype: torch.dtype) -> Tensor:
    """Of the optimised network: float64 is made from the network in float64."""
    origin = copy.deepcopy(model).double() if dtype == torch.float64 else model
    fast = optimize_for_inference(origin, dtype=dtype, grayscale=True)
    parts = images.to(next(model.parameters()).device).split(PART)
    own = torch.float64 if dtype == torch.float64 else torch.float32
    return torch.cat([fast(part.to(own)).double().softmax(1) for part in parts])


class Comparison(NamedTuple):
    """difference: max |Δp|; changed, borderline: indices of images."""

    difference: float
    changed: list[int]
    borderline: list[int]

    @property
    def faults(self) -> list[int]:
        """Where the class changed although it was clear."""
        return [i for i in self.changed if i not in self.borderline]


def compare(got: Tensor, expected: Tensor) -> Comparison:
    """Two sets of probabilities (B, classes): how far apart, and whose class may or did change."""
    difference = (got - expected).abs().max().item()
    first, second = expected.topk(2, dim=1).values.T
    changed = got.argmax(1) != expected.argmax(1)
    borderline = first - second <= 2 * difference
    indices = (mask.nonzero().flatten().tolist() for mask in (changed, borderline))
    return Comparison(difference, *indices)


def describe(name: str, dtype: torch.dtype, found: Comparison, names: list[str]) -> str:
    """One line, then the borderline images."""
    kind = str(dtype).removeprefix("torch.")
    line = f"{name:18} {kind:9} max |Δp| {found.difference:.3g}, {len(names)} images"
    line += f", {len(found.changed)} of another class, {len(found.borderline)} borderline"
    listed = [f"{names[i]} (changed)" if i in found.changed else names[i] for i in found.borderline]
    line += f": {', '.join(listed)}" if listed else ""
    return line + "".join(f"\n  FAULT: {names[i]} changed its class" for i in found.faults)


def compared(
    model: nn.Module, sets: dict[str, ImageSet]
) -> Iterator[tuple[dict[str, Any], Comparison]]:
    """A row of the result file each set and dtype, and what it came from; prints as it goes."""
    device = next(model.parameters()).device.type
    for name, (names, images) in sets.items():
        expected = true_probabilities(model, images, name)
        plain = partial(network_probabilities, model, images)
        fast = partial(optimised_probabilities, model, images)
        for provider, call, dtype in [
            ("eager", plain, torch.float32),
            *(("optimised", fast, dtype) for dtype in dtypes(device)),
        ]:
            found = compare(call(dtype), expected)
            print(describe(f"{name} {provider}", dtype, found, names), flush=True)
            sizes = {"batch": PART, "n": images.shape[-1], "d_qk": 0, "d_v": 0, "dtype": dtype}
            yield row("hmc", provider, name, "error", [found.difference], **sizes), found


def prepare(arguments: Sequence[str] | None) -> tuple[argparse.Namespace, nn.Module, Any]:
    """Arguments, network and images; one sentence where they cannot be had."""
    parser = Parser(__doc__.splitlines()[0])
    add = parser.add_argument
    add("--data", help="mias:DIR or DIR: real images beside the phantom's")
    add("--run", type=Path, help="a run whose first fold's network is taken")
    add("--out", type=Path, default=RESULTS, help="folder of the results")
    args = parser.parse_args(arguments)
    try:
        model = network("hmc") if args.run is None else load_model(args.run)
        size = 224 if args.run is None else model.preprocessing.image_size
        return args, model, image_sets(args.data, size)
    except InputError as error:
        parser.error(str(error))


def main(arguments: Sequence[str] | None = None) -> int:
    args, model, sets = prepare(arguments)
    rows, found = zip(*compared(model.to(device()), sets), strict=True)
    where = slug(environment_columns()["gpu"]) if device() == "cuda" else "cpu"
    print(write_rows(f"agreement-{where}", rows, args.out))
    return int(any(comparison.faults for comparison in found))


def device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


if __name__ == "__main__":
    sys.exit(main())
