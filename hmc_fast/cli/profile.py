"""`hmc-fast profile`: what the networks cost in parameters, arithmetic, time and memory."""

import argparse
import shlex
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from hmc_fast import __version__
from hmc_fast.attention import BACKENDS
from hmc_fast.cli.arguments import check_out
from hmc_fast.errors import InputError
from hmc_fast.models import VARIANTS
from hmc_fast.profiling import report, session
from hmc_fast.profiling.counts import Counts
from hmc_fast.profiling.fold_times import FoldTimes
from hmc_fast.profiling.latency import Latency
from hmc_fast.profiling.networks import GAMMA
from hmc_fast.profiling.paper import PIXELS
from hmc_fast.profiling.results import result_rows
from hmc_fast.profiling.rows import machine, write_rows
from hmc_fast.profiling.settings import Settings, fill_in, left_out
from hmc_fast.profiling.timing import on_device
from hmc_fast.profiling.training_time import read_training
from hmc_fast.progress import say
from hmc_fast.training.config import check_attention, resolve_device
from hmc_fast.training.opened_run import RunImages, check_images, open_images, open_run
from hmc_fast.training.step import compiler_lacks

DESCRIPTION = (
    "Parameters, MACs and FLOPs (1 MAC = 2 FLOP), latency and peak memory of the networks, beside "
    "the paper's Table 2. With RUN also the time of its test folds, with and without loading the "
    "images, and its hours of training. Without arguments under two minutes on two CPU cores."
)
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
OUTPUTS = {"csv": (".csv",), "trace": (".json", ".json.gz"), "plot": (".png", ".svg", ".pdf")}


def add_parser(subparsers: Any) -> None:
    """Add `profile` to the subcommands."""
    parser = subparsers.add_parser(
        "profile",
        help="parameters, FLOPs, latency and memory",
        description=DESCRIPTION,
        formatter_class=argparse.HelpFormatter,  # defaults depend on device and run
    )
    parser.add_argument(
        "run_folder",
        metavar="RUN",
        nargs="?",
        type=Path,
        help="folder of a run, or of one of its folds",
    )
    parser.add_argument("--data", help="where the run's images are now, as for train")
    _add_what(parser)
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    parser.add_argument("--backend", default="auto", choices=BACKENDS, help="attention backend")
    parser.add_argument("--csv", type=Path, help="write all numbers as rows of a result file")
    parser.add_argument("--trace", type=Path, help="write a Chrome trace, a forward of each side")
    parser.add_argument("--plot", type=Path, help="draw ms an image as bars: .png, .svg or .pdf")
    parser.add_argument("--quiet", action="store_true", help="print errors and tables only")
    parser.set_defaults(run=run)


def _add_what(parser: argparse.ArgumentParser) -> None:
    """The flags that choose what is measured."""
    add = parser.add_argument
    add(
        "--variant",
        dest="variants",
        type=_listed(_variant),
        metavar="V,...",
        help="networks; default: resnet50,hmc,hierarchical,multiscale, or the run's and resnet50",
    )
    add(
        "--batch",
        dest="batches",
        type=_listed(_at_least_one),
        metavar="N,...",
        help="images of a call; default: 1,8 on a CPU, 1,32 on a GPU",
    )
    add(
        "--dtype",
        dest="dtypes",
        type=_listed(_dtype),
        metavar="D,...",
        help="float32, bfloat16, float16 of optimised and compiled networks (eager is float32); "
        "default: float32 on a CPU, bfloat16 on a GPU",
    )
    add(
        "--image-size", type=_pixels, help="pixels of a side, 64 to 1024; default: 224 or the run's"
    )
    add("--reduction", type=int, choices=(1, 2, 4, 8), help="of the attention; default: 8")
    add(
        "--rounds",
        type=_at_least_one,
        help="timings of each side; default: what 20 s a batch size allow, at least 3",
    )
    add(
        "--compile",
        dest="compiled",
        action=argparse.BooleanOptionalAction,
        help="time torch.compile too; default: on a GPU, where it takes minutes; on a CPU longer",
    )
    add("--modules", action="store_true", help="parameters and GMAC of every module")
    add("--counts-only", action="store_true", help="count, and time nothing")


def _listed(one: Callable[[str], Any]) -> Callable[[str], tuple]:
    """A flag's words, separated by commas, each once."""

    def parse(text: str) -> tuple:
        return tuple(dict.fromkeys(one(word.strip()) for word in text.split(",")))

    return parse


def _variant(word: str) -> str:
    return _choice(word, VARIANTS)


def _dtype(word: str) -> torch.dtype:
    return DTYPES[_choice(word, tuple(DTYPES))]


def _choice(word: str, known: Sequence[str]) -> str:
    """As argparse words it, so that the hint names the nearest."""
    if word not in known:
        raise argparse.ArgumentTypeError(
            f"invalid choice: {word!r} (choose from {', '.join(known)})"
        )
    return word


def _at_least_one(word: str) -> int:
    return _whole_number(word, 1, None, "a whole number of at least 1")


def _pixels(word: str) -> int:
    return _whole_number(word, 64, 1024, "from 64 to 1024 pixels")


def _whole_number(word: str, least: int, most: int | None, rule: str) -> int:
    if not word.isascii() or not word.isdigit() or int(word) < least or int(word) > (most or 10**6):
        raise argparse.ArgumentTypeError(f"must be {rule}, got {word!r}")
    return int(word)


def run(args: argparse.Namespace) -> int:
    """Count, measure, print and write; returns 0."""
    _check_outputs(args)
    device = resolve_device(args.device)
    check_attention(args.backend, device)
    opened = _open(args)
    settings = fill_in(vars(args), device, opened.run if opened else None)
    _check_compiler(settings)
    training = read_training(opened.run.folder, opened.run.folds) if opened else []
    if opened and not args.counts_only:
        check_images(opened, quiet=args.quiet)
    _say_header(settings, args)
    counts = session.count_all(settings, quiet=args.quiet)
    report.print_counts(counts, settings, modules=args.modules)
    latencies: list[Latency] = []
    folds: list[FoldTimes] = []
    with on_device(device):
        if not args.counts_only:
            latencies = session.measure_all(settings, args.trace, quiet=args.quiet)
            report.print_latencies(latencies, settings)
        if settings.image_size == PIXELS:
            report.print_table_two(counts, latencies)
        if opened and not args.counts_only:
            folds = session.time_folds(settings, opened, quiet=args.quiet)
    if opened:
        report.print_run(opened, folds, training)
    _write(args, settings, counts, latencies, folds)
    _say_end(args)
    return 0


def _check_outputs(args: argparse.Namespace) -> None:
    """Better now than when all is measured: suffixes, and whether the folders can be written."""
    for name, suffixes in OUTPUTS.items():
        path: Path | None = getattr(args, name)
        if path is None:
            continue
        if not path.name.endswith(suffixes):
            raise InputError(f"--{name} must end in {' or '.join(suffixes)}, got {str(path)!r}")
        check_out(path)
        try:
            tempfile.TemporaryFile(dir=path.parent).close()
        except OSError as error:
            raise InputError(f"cannot write {path}: {error.strerror or error}") from error
        if args.counts_only and name != "csv":
            raise InputError(f"--{name} needs timings: leave --counts-only out")


def _open(args: argparse.Namespace) -> RunImages | None:
    if args.run_folder is None:
        if args.data is not None:
            raise InputError("--data says where a run's images are: give the run's folder too")
        return None
    return open_images(open_run(args.run_folder), args.data)


def _check_compiler(settings: Settings) -> None:
    lacking = compiler_lacks() if settings.compiled and settings.device.type == "cpu" else None
    if lacking:
        raise InputError(f"--compile needs {lacking} (Debian: apt install g++ python3-dev)")


def _say_header(settings: Settings, args: argparse.Namespace) -> None:
    """On what, with what, and what is not measured."""
    say(f"hmc-fast {__version__}: for research, not a medical device", args.quiet)
    print(
        f"{machine(settings.device)}, torch {torch.__version__}; networks with weights as drawn, "
        f"every gamma {GAMMA}, on grey phantom images of {settings.image_size} px"
    )
    missing = left_out(settings)
    if missing and not args.counts_only:
        say(f"left out: {'; '.join(missing)}", args.quiet)


def _write(
    args: argparse.Namespace,
    settings: Settings,
    counts: dict[str, Counts],
    latencies: list[Latency],
    folds: list[FoldTimes],
) -> None:
    try:
        if args.csv:
            write_rows(args.csv, result_rows(settings, counts, latencies, folds))
        if args.plot:
            from hmc_fast.evaluation.figures import save
            from hmc_fast.profiling.figure import latency_bars

            save(
                latency_bars(latencies, f"{machine(settings.device)}, {settings.image_size} px"),
                args.plot,
            )
    except OSError as error:
        raise InputError(f"cannot write {error.filename}: {error.strerror or error}") from error


def _say_end(args: argparse.Namespace) -> None:
    """Where the results are, and the next command."""
    written = [str(path) for path in (args.csv, args.trace, args.plot) if path]
    say(f"results: {', '.join(written) or 'above; --csv FILE keeps them'}", args.quiet)
    if args.run_folder:
        say(f"next: hmc-fast predict {shlex.quote(str(args.run_folder))} IMAGE ...", args.quiet)
    else:
        say("next: hmc-fast profile RUN, for a run's test folds and hours of training", args.quiet)
