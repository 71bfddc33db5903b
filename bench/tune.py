"""Which tile is fastest for each kernel, class of shapes and dtype on this GPU? Writes the table.

    python bench/tune.py --minutes 8    search, and write kernels/configurations.json
    python bench/tune.py --dry-run      list what would be tried; needs no GPU

Run it on an idle GPU, once for an architecture; a model then takes the table's rows and never times
anything. Candidates (tune_candidates.py) are compiled by several processes at once, each is
compared with float64 and timed alone, and the best of a row are timed in turn with the tile in use,
which stays unless another is more than 2 % faster. A candidate that does not compile, does not fit
or brings its process down is left out (tune_worker.py).
"""

import argparse
import json
import math
import os
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import torch

from command_line import Parser
from hmc_fast.environment import package_version
from hmc_fast.files import write_text
from hmc_fast.kernels.configurations import (
    ARCHITECTURES,
    KERNELS,
    TABLE,
    Target,
    Tile,
    dtype_name,
    power_of_two,
    target_of,
)
from time_model import CARDS
from tune_candidates import Job, candidates, jobs
from tune_search import Search, Times
from tune_worker import Plan

FASTER_BY = 1.02  # a new tile must be, or two runs would give two tables
KEY = ("kernel", "d_qk", "d_v", "dtype", "architecture")
COLUMNS = (*KEY, *Tile._fields, "triton", "date", "evidence")


class Choice(NamedTuple):
    """The tile of a job, its time and how many times faster it is than the one in use."""

    tile: int
    ms: float
    gain: float


def choose(times: Times, in_use: int = 0) -> Choice | None:
    """The fastest; the tile in use unless another is more than 2 % faster. None without times.

    times: of each tile in ms; tiles that could not be timed are not in it.
    """
    if not times:
        return None
    best = min(times, key=lambda tile: (times[tile], tile))
    before = times.get(in_use)
    if before is None:
        return Choice(best, times[best], float("nan"))
    gain = before / times[best]
    return Choice(best, times[best], gain) if gain > FASTER_BY else Choice(in_use, before, 1.0)


def gain_in_words(choice: Choice) -> str:
    if math.isnan(choice.gain):
        return "the tile in use could not be timed"
    return "the tile in use" if choice.gain == 1 else f"{choice.gain:.3f}x the tile in use"


def row_of(job: Job, tile: Tile, architecture: int) -> dict[str, Any]:
    """A line of the table, measured here and now."""
    case = job.case
    key = {
        "kernel": job.kernel,
        "d_qk": power_of_two(case.d_qk),
        "d_v": power_of_two(case.d_v),
        "dtype": dtype_name(case.dtype),
        "architecture": architecture,
    }
    stamp = {
        "triton": package_version("triton") or "none",
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "evidence": "measured",
    }
    return key | tile._asdict() | stamp


def replace_rows(
    rows: Iterable[Mapping[str, Any]], fresh: Sequence[Mapping[str, Any]]
) -> list[Mapping[str, Any]]:
    """The table with `fresh` in place of rows of the same kernel, widths, dtype and architecture;
    by architecture, kernel, widths and dtype."""

    def key(row: Mapping[str, Any]) -> tuple[Any, ...]:
        return tuple(row[name] for name in KEY)

    kept = {key(row): row for row in (*rows, *fresh)}
    order = ("architecture", "kernel", "d_qk", "d_v", "dtype")
    return sorted(kept.values(), key=lambda row: tuple(row[name] for name in order))


def table_text(rows: Iterable[Mapping[str, Any]]) -> str:
    """JSON, one row a line."""
    lines = (json.dumps({name: row[name] for name in COLUMNS}) for row in rows)
    return "[\n" + ",\n".join(lines) + "\n]\n"


def make_plans(args: argparse.Namespace, target: Target) -> list[Plan]:
    chosen = [
        job
        for job in jobs(getattr(torch, args.dtype))
        if (not args.kernel or job.kernel in args.kernel)
        and (not args.shape or job.case.name in args.shape)
    ]
    return [Plan(job, candidates(job, target, args.candidates)) for job in chosen]


def print_plans(plans: Sequence[Plan]) -> None:
    for job, tiles in plans:
        print(f"{job}: {len(tiles)} candidates, the first is in use")
        for tile in tiles:
            print("  " + " ".join(f"{name} {value}" for name, value in tile._asdict().items()))


def tune(args: argparse.Namespace) -> int:
    target = target_of(torch.device("cuda", torch.cuda.current_device()))
    plans = make_plans(args, target)
    with tempfile.TemporaryDirectory() as directory:
        search = Search(plans, Path(directory), args.minutes, args.patience)
        found = search.run(min(12, max(1, (os.cpu_count() or 2) // 2)))
    fresh = []
    for number, (job, tiles) in enumerate(plans):
        choice = choose(found.get(number, {}))
        if choice is None:
            print(f"{job}: nothing could be timed; its row stays")
            continue
        tile = tiles[choice.tile]
        print(f"{job}: {choice.ms:.4g} ms, {gain_in_words(choice)}: {tuple(tile)}")
        fresh.append(row_of(job, tile, target.architecture))
    rows = json.loads(args.out.read_text()) if args.out.exists() else []
    write_text(args.out, table_text(replace_rows(rows, fresh)))
    print(f"{len(fresh)} rows for sm_{target.architecture}: {args.out}")
    return 0 if fresh else 1


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = Parser(__doc__.splitlines()[0])
    add = parser.add_argument
    shapes = sorted({job.case.name for job in jobs(torch.bfloat16)})
    add("--dry-run", action="store_true", help="list the candidates and stop")
    add("--minutes", type=_positive, default=8.0, help="how long to search, about")
    add("--kernel", action="append", choices=KERNELS, help="this one alone; may be given again")
    add("--shape", action="append", choices=shapes, help="likewise")
    add("--dtype", choices=("bfloat16", "float16", "float32"), default="bfloat16")
    add("--candidates", type=int, default=48, help="at most, of a kernel and shape")
    add("--architecture", type=int, choices=ARCHITECTURES, help="of a dry run (90)")
    add("--patience", type=_positive, default=120.0, help="seconds for a silent worker")
    add("--out", type=Path, default=TABLE, help="the table to write")
    args = parser.parse_args(arguments)
    if not args.dry_run:
        parser.need_gpu()
        if args.architecture:
            parser.error("--architecture is for a dry run: a GPU has its own")
    return args


def _positive(text: str) -> float:
    value = float(text)
    if not value > 0:
        raise argparse.ArgumentTypeError(f"must be above 0, got {text}")
    return value


def main(arguments: Sequence[str] | None = None) -> int:
    args = parse(arguments)
    if args.dry_run:
        architecture = args.architecture or 90
        print_plans(make_plans(args, Target(architecture, CARDS[architecture].processors)))
        return 0
    return tune(args)


if __name__ == "__main__":
    sys.exit(main())
