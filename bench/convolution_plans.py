"""Who is fastest at each convolution of the networks: cuDNN, cuBLASLt, our kernel, inductor?

    python bench/convolution_plans.py            on a GPU, under a minute: every distinct 1x1 and
                                                 the stem of hmc and resnet50 at 224 px, bf16,
                                                 batch 32 and 1; writes
                                                 bench/results/convolutions-<gpu>.csv
    python bench/convolution_plans.py --full     3x3 and torch.compile too, several minutes
    python bench/convolution_plans.py --write    keep the fastest of each 1x1 in the table that the
                                                 networks follow, kernels/convolution_plans.json
    python bench/convolution_plans.py --list     the layers and who takes them now; needs no GPU

Each provider is compared with float64 before it is timed, as ten calls in a CUDA graph. In rows n
is the rows of the product (samples x height x width of the result), d_qk and d_v are the channels
in and out, mode says what follows the convolution; ms is of one call. `inductor` is torch.compile
of the plain layer: compared, but never in the table, as no network can take it.
"""

import argparse
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
import triton

from command_line import Parser
from common import RESULTS, environment_columns, row, write_rows
from convolution_layers import (
    DEVICE,
    DTYPE,
    Shape,
    all_shapes,
    calls,
    describe,
    make_inputs,
    plain,
)
from gpu_timing import CALLS_IN_GRAPH, Side, bursts_in_turn, captured, check_alive, slug
from hmc_fast.files import write_text
from hmc_fast.kernels.configurations import ARCHITECTURES, dtype_name, target_of
from hmc_fast.kernels.convolution_plans import KEY, TABLE, Layer, provider_for
from hmc_fast.models.gpu_operators import PROVIDERS
from problem import TOLERANCES
from time_model import CARDS

BATCHES = (32, 1)


def right_calls(shape: Shape, batch: int, compile_mode: str | None) -> dict[str, Side]:
    """Those that run and are as near to float64 as problem.py asks, captured in CUDA graphs."""
    given, found = make_inputs(shape, batch), {}
    wide = {name: None if t is None else t.double() for name, t in given.items()}
    truth = plain(shape, **wide)  # type: ignore[arg-type]
    for name, call in calls(shape, given, compile_mode).items():
        try:
            error = float((call().double() - truth).norm() / truth.norm())
            if not error <= TOLERANCES[DTYPE]:
                raise ArithmeticError(f"its relative error is {error:.2g}")
            found[name] = captured(Side(call, torch.inference_mode))
        except Exception as problem:
            check_alive(problem)
            first = str(problem).partition("\n")[0]
            print(f"{shape.op} {name}: {type(problem).__name__}: {first}", flush=True)
    return found


def rows_of(shape: Shape, batch: int, rounds: int, compile_mode: str | None) -> list[dict]:
    """A row for each provider that is right."""
    layer, rows = shape.layer(batch), []
    sides = right_calls(shape, batch, compile_mode)
    sizes = {"batch": batch, "n": layer.rows, "d_qk": layer.channels_in, "d_v": layer.channels_out}
    for name, values in bursts_in_turn(sides, rounds).items():
        if isinstance(values, Exception):
            print(f"{shape.op} {name}: {values}")
            continue
        single = [value / CALLS_IN_GRAPH for value in values]
        rows.append(row(shape.op, name, shape.mode, "ms", single, **sizes, dtype=DTYPE))
    medians = {line["provider"]: 1e3 * line["q50"] for line in rows}
    line = ", ".join(f"{name} {us:.1f}" for name, us in medians.items())
    print(f"batch {batch} {describe(shape)}, us: {line}", flush=True)
    return rows


def fastest(rows: Iterable[Mapping[str, Any]]) -> str | None:
    """The provider of the least median among those that a network can take."""
    known = [line for line in rows if line["provider"] in PROVIDERS]
    return min(known, key=lambda line: line["q50"])["provider"] if known else None


def table_row(layer: Layer, provider: str, architecture: int) -> dict[str, Any]:
    """A row of the table of plans, with what it was measured on."""
    place = dict(zip(KEY, (architecture, dtype_name(DTYPE), *layer.group), strict=True))
    columns = environment_columns()
    stamp = {name: columns[name] for name in ("gpu", "torch")}
    date = datetime.now(UTC).strftime("%Y-%m-%d")
    stamp |= {"triton": triton.__version__, "date": date, "evidence": "measured"}
    return place | {"provider": provider} | stamp


def write_table(path: Path, fresh: Iterable[Mapping[str, Any]]) -> None:
    """`fresh` in place of rows of the same layers; JSON, one row a line."""
    kept = json.loads(path.read_text()) if path.exists() else []
    rows = {tuple(line[name] for name in KEY): line for line in (*kept, *fresh)}
    lines = ",\n".join(json.dumps(rows[key]) for key in sorted(rows))
    write_text(path, f"[\n{lines}\n]\n")


def print_list(architecture: int) -> None:
    """Every layer and its provider, at each batch size."""
    processors = CARDS[architecture].processors
    for shape, count in all_shapes().items():
        plans = []
        for batch in BATCHES if shape.kernel == 1 else ():
            layer = shape.layer(batch)
            chosen = provider_for(layer, dtype_name(DTYPE), architecture, processors)
            plans.append(f"batch {batch} {chosen}")
        print(f"{count:2d} x {describe(shape):50s} {', '.join(plans)}".rstrip())


def measure(args: argparse.Namespace) -> int:
    """All layers; 1 where one has no provider."""
    architecture, rows, fresh, missing = target_of(torch.device(DEVICE)).architecture, [], [], 0
    mode = ("max-autotune-no-cudagraphs" if args.autotune else "default") if args.full else None
    name = f"convolutions-{slug(environment_columns()['gpu'])}"
    for batch in BATCHES:
        for shape in all_shapes():
            if not args.full and shape.kernel == 3:  # nobody else takes it
                continue
            found = rows_of(shape, batch, args.rounds, mode)
            rows += found
            best = fastest(found)
            missing += best is None
            if best and shape.kernel == 1:
                fresh.append(table_row(shape.layer(batch), best, architecture))
        path = write_rows(name, rows, args.out)  # a time-out costs the second batch size alone
    if args.write:
        write_table(args.write, fresh)
        print(f"{len(fresh)} rows for sm_{architecture}: {args.write}")
    print(path)
    return int(missing > 0)


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = Parser(__doc__.splitlines()[0])
    add = parser.add_argument
    add("--list", action="store_true", help="the layers and who takes them, and stop")
    add("--architecture", type=int, choices=ARCHITECTURES, help="of --list (90)")
    add("--full", action="store_true", help="inductor and 3x3 too: several minutes")
    add("--autotune", action="store_true", help="with --full: inductor's max-autotune")
    add("--rounds", type=int, default=3, help="timings of each side (default: 3)")
    add("--write", type=Path, nargs="?", const=TABLE, help="write the table of plans")
    add("--out", type=Path, default=RESULTS, help="folder of the results")
    args = parser.parse_args(arguments)
    if args.rounds < 1:
        parser.error(f"--rounds must be at least 1, got {args.rounds}")
    if args.architecture and not args.list:
        parser.error("--architecture is for --list: a GPU has its own")
    if not args.list:
        parser.need_gpu()
    return args


def main(arguments: Sequence[str] | None = None) -> int:
    args = parse(arguments)
    if args.list:
        print_list(args.architecture or 90)
        return 0
    return measure(args)


if __name__ == "__main__":
    sys.exit(main())
