"""What does each kernel take on each GPU? No GPU is needed: it is compiled, and read.

    python bench/kernel_resources.py                    every kernel, shape, dtype and architecture
    python bench/kernel_resources.py --check            exit 1 where a kernel breaks a rule
    python bench/kernel_resources.py --write-golden     keep these figures, to compare with later

A row: shared memory; registers; spills, loads and stores (LDL, STL), and of these in the inner
loop; the inner loop's matrix instructions and exponentials; on sm_90 the exponentials under a
product of the warp group, and those after its last instruction; a time from a MODEL, which of a
convolution is that of its memory traffic alone.

Rules: shared memory that the GPU has; no product of 64 rows or more laid out as [1, warps] (its
softmax would go through shared memory); no spills in the inner loop; on sm_90 HGMMA, and not one
wait for each. Warnings are spills at unusual shapes, which no row of the table serves, and more
registers or spills, or less overlap, than bench/golden/ holds for this version of Triton.
"""

import argparse
import csv
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import triton

from compile_matrix import DTYPES, NAME, UNUSUAL, Case, Row, cases, rows_of
from cross_compile import Resources, compile_all
from hmc_fast.cli.arguments import Parser
from hmc_fast.files import write_csv
from hmc_fast.kernels.configurations import ARCHITECTURES, SHARED_MEMORY
from hmc_fast.progress import progress, say
from time_model import CARDS, estimate

GOLDEN = Path(__file__).resolve().parent / "golden"
FIGURES = (
    "tile", "shared", "registers", "loads", "stores", "products", "number", "exponentials", "under",
    "after",
)  # fmt: skip
LEAST_OVERLAP = 0.8  # of the golden file's
HEADER = (
    "sm", "dtype", "batch", "shape", "mode", "kernel", "tile", "shared", "registers", "spills",
    "in loop", "products", "EX2", "under", "after", "model us", "of peak",
)  # fmt: skip


def failures(found: Resources, architecture: int, dtype: str, sass: bool = True) -> list[str]:
    """The rules that a compiled kernel breaks."""
    if found.error:
        return [f"does not compile: {found.error}"]
    broken = []
    if found.shared > SHARED_MEMORY[architecture]:
        broken.append(f"shared memory {found.shared} of {SHARED_MEMORY[architecture]} bytes")
    for dot in found.dots:
        if dot.version == 2 and dot.rows >= 64 and dot.warps[0] == 1 < dot.warps[1]:
            broken.append(f"{dot.rows}x{dot.columns} product laid out as {list(dot.warps)}")
    if found.dots and sass:
        broken += loop_failures(found, architecture, dtype)
    return list(dict.fromkeys(broken))


def loop_failures(found: Resources, architecture: int, dtype: str) -> list[str]:
    """The rules of the inner loop."""
    loop = found.loop
    if loop is None:
        return ["no loop with products and exponentials"]
    broken = []
    if loop.loads or loop.stores:
        broken.append(f"spills in the inner loop: {loop.loads} LDL, {loop.stores} STL")
    if architecture == 90 and dtype != "float32" and max(dot.rows for dot in found.dots) >= 64:
        if loop.products != "HGMMA":
            broken.append("no HGMMA in the inner loop")
        elif loop.warpgroup >= 2 * loop.number:
            broken.append(f"serialised: {loop.warpgroup} WARPGROUP for {loop.number} HGMMA")
    return broken


def warnings(row: Row, found: Resources, kept: dict[str, str] | None) -> list[str]:
    """Spills for the last rows, and what got worse than the golden file; another tile there is
    another kernel."""
    tail = found.loop.tail_spills if found.loop else 0
    worse = [f"{tail} spills in the loop of the last rows"] if tail else []
    if kept is None or kept["tile"] != row.tile or found.error:
        return worse
    now = dict(zip(FIGURES, figures(row, found), strict=True))
    for name in ("registers", "loads", "stores"):
        if int(now[name]) > int(kept[name]):
            worse.append(f"{name} {now[name]}, were {kept[name]}")
    if int(now["under"] or 0) < LEAST_OVERLAP * int(kept["under"] or 0):
        worse.append(f"{now['under']} exponentials under a product, were {kept['under']}")
    return worse


def figures(row: Row, found: Resources) -> tuple[str, ...]:
    """What the golden file keeps, in the order of FIGURES."""
    loop = found.loop
    inner: tuple[str, ...] = ("",) * 5
    if loop:
        inner = (loop.products, *map(str, (loop.number, loop.exponentials, loop.under, loop.after)))
    sizes = (found.shared, found.registers, found.loads, found.stores)
    return (row.tile, *map(str, sizes), *inner)


def golden_file() -> Path:
    return GOLDEN / f"kernel_resources-{triton.__version__}.csv"


def read_golden() -> dict[tuple[str, ...], dict[str, str]]:
    """The figures kept for this version of Triton, by name; none where there is no file."""
    if not golden_file().exists():
        return {}
    with open(golden_file(), newline="") as file:
        return {tuple(line[name] for name in NAME): line for line in csv.DictReader(file)}


def write_golden(rows: Sequence[Row], found: Sequence[Resources], complete: bool) -> Path:
    """Write these rows; unless they are complete, those of other names stay. Kernels that do not
    compile have none."""
    GOLDEN.mkdir(exist_ok=True)
    lines = {} if complete else {name: tuple(old.values()) for name, old in read_golden().items()}
    for row, one in zip(rows, found, strict=True):
        if not one.error:
            lines[row.name] = (*row.name, *figures(row, one))
    write_csv(golden_file(), (*NAME, *FIGURES), list(lines.values()))
    return golden_file()


def cells(row: Row, found: Resources) -> tuple[str, ...]:
    """One row of the table, in the order of HEADER."""
    case, loop = row.case, found.loop
    no_gamma = not (case.residual or case.is_convolution)
    mode = f"{case.mode}, no gamma" if no_gamma else case.mode
    what = (str(row.architecture), row.dtype, str(case.batch), str(case.shape), mode)
    if found.error:
        return (*what, row.kernel, row.tile, found.error)
    spills = f"{found.loads}/{found.stores}"
    inner: tuple[str, ...] = ("",) * 5
    if loop:
        overlap = (str(loop.under), str(loop.after)) if row.architecture == 90 else ("", "")
        products = f"{loop.number} {loop.products}"
        inner = (f"{loop.loads}/{loop.stores}", products, str(loop.exponentials), *overlap)
    time = estimate(row.launch, loop, found.registers, found.shared, CARDS[row.architecture])
    model = (f"{time.seconds * 1e6:.1f}", f"{time.share:.0%}" if time.share else "")
    sizes = (str(found.shared), str(found.registers), spills)
    return (*what, row.kernel, row.tile, *sizes, *inner, *model)


def print_table(lines: Sequence[Sequence[str]]) -> None:
    """Aligned columns."""
    full = [line for line in lines if len(line) == len(HEADER)]
    widths = [max(len(line[column]) for line in full) for column in range(len(HEADER))]
    for line in lines:
        padded = [cell.ljust(width) for cell, width in zip(line, widths, strict=False)]
        print("  ".join(padded).rstrip())


def compile_rows(rows: Sequence[Row], jobs: int, sass: bool) -> dict[str, Resources]:
    """Resources by the compilation's key, with progress."""
    unique = {row.compilation.key: row.compilation for row in rows}
    say(f"{len(rows)} launches, {len(unique)} different kernels, Triton {triton.__version__}")
    ready = compile_all(unique.values(), jobs, sass)
    return dict(progress(ready, "compiled", total=len(unique), unit="kernel"))


def is_tolerated(text: str, row: Row) -> bool:
    """Whether it is a spill at an unusual shape: there the rule's tile must run, not be fast."""
    return text.startswith("spills") and row.case.shape in UNUSUAL


def report(rows: Sequence[Row], resources: dict[str, Resources], sass: bool) -> int:
    """Print failures and warnings, a line each; how many failures."""
    golden, number, missing = read_golden(), 0, 0
    for row in rows:
        found, kept = resources[row.compilation.key], golden.get(row.name)
        missing += kept is None or kept["tile"] != row.tile
        broken = failures(found, row.architecture, row.dtype, sass)
        notes = [("warning" if is_tolerated(text, row) else "FAILURE", text) for text in broken]
        number += sum(kind == "FAILURE" for kind, _ in notes)
        notes += [("warning", text) for text in (warnings(row, found, kept) if sass else [])]
        for kind, text in notes:
            print(f"{kind}: {' '.join(cells(row, found)[:7])}: {text}")
    if sass and missing:
        print(f"{missing} of {len(rows)} rows have no golden figures in {golden_file().name}")
    return number


def build_parser() -> Parser:
    parser = Parser(prog="kernel_resources.py", description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="exit 1 where a rule is broken")
    parser.add_argument("--write-golden", action="store_true", help="keep the figures")
    parser.add_argument("--compile-only", action="store_true", help="do not read machine code")
    parser.add_argument(
        "--architecture", type=int, nargs="+", choices=ARCHITECTURES, default=ARCHITECTURES
    )
    parser.add_argument("--dtype", nargs="+", choices=DTYPES, default=DTYPES)
    parser.add_argument("--kernel", help="this one only: forward_stream, for example")
    parser.add_argument("--shape", help="this one only: 3136,32,256, for example")
    parser.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)))
    return parser


def choose(parser: Parser, args: argparse.Namespace) -> list[Row]:
    """The rows asked for."""
    if triton.knobs.runtime.interpret:
        parser.error("TRITON_INTERPRET is set: kernels are interpreted or compiled, never both")
    if args.jobs < 1:
        parser.error(f"--jobs is at least 1, not {args.jobs}")
    if args.compile_only and args.write_golden:
        parser.error("--write-golden needs the machine code that --compile-only does not read")
    chosen: list[Case] = list(cases())
    if args.shape:
        chosen = [case for case in chosen if ",".join(map(str, case.shape)) == args.shape]
    rows = [
        row
        for row in rows_of(args.architecture, args.dtype, chosen)
        if args.kernel in (None, row.kernel)
    ]
    if not rows:
        parser.error("no kernel of these cases has that shape and name")
    return rows


def main(arguments: Sequence[str] | None = None) -> int:
    parser = build_parser()
    args = parser.parse_args(arguments)
    rows = choose(parser, args)
    sass = not args.compile_only
    resources = compile_rows(rows, args.jobs, sass)
    found = [resources[row.compilation.key] for row in rows]
    if sass:
        print_table([HEADER, *map(cells, rows, found)])
        print("model us and of peak are estimates from the machine code, not measurements (±25 %)")
    broken = report(rows, resources, sass)
    print(f"{broken} failures")
    if args.write_golden:
        asked = (args.architecture, args.dtype, args.kernel, args.shape)
        print(write_golden(rows, found, asked == (ARCHITECTURES, DTYPES, None, None)))
    return 1 if args.check and broken else 0


if __name__ == "__main__":
    sys.exit(main())
