"""A process that times one group of attention cases on the GPU, and may be lost: `supervise` starts
it again without the peer that brought it down."""

import argparse
import importlib
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

import attention_gpu
from command_line import Parser
from gpu_timing import Broken
from supervise import LOST_GPU, Culprit, note_in, outlive


def supervise(group: str, rounds: int, args: argparse.Namespace) -> str | None:
    """Run a group's worker to its end, without the peers that bring it down; its name where that
    failed."""
    with tempfile.TemporaryDirectory() as directory:
        journal = Path(directory) / "journal"

        def command(culprits: list[Culprit]) -> list[str]:
            words = [sys.executable, __file__, group, "--journal", str(journal)]
            words += ["--rounds", str(rounds), "--out", str(args.out)]
            words += ["--quick"] * (not args.full)
            words += [word for name in args.provider or () for word in ("--provider", name)]
            for index, (task, reason) in enumerate(culprits):
                case, peer, *mode = task.split()
                words += ["--skip", f"{peer}={' '.join(mode)}: the process {reason}"]
                if index == len(culprits) - 1:
                    words += ["--first", case]
            return words

        try:
            outlive(command, journal, args.patience)
        except RuntimeError as error:
            print(f"{group}: {error}", file=sys.stderr, flush=True)
            return group
    return None


def work(args: argparse.Namespace) -> int:
    """One group's cases, in this process; rows are written after each case."""
    config = importlib.import_module("torch._functorch.config")
    config.donated_buffer = False  # backward is timed many times on one graph
    name, code = attention_gpu.results_name(), 0
    if args.rounds and not args.first:
        attention_gpu.merge_rows(name, [attention_gpu.matmul_row(args.group)], args.out)
    for index, one in enumerate(attention_gpu.works(args.group, args.full)):
        chosen = tuple(n for n in one.peers if not args.provider or n in args.provider)
        if index < args.first or not chosen:
            continue
        try:
            rows = rows_of_case(index, one._replace(peers=chosen), args)
        except Broken as error:
            print(f"{one.case}: {error}", file=sys.stderr, flush=True)
            return LOST_GPU
        except torch.cuda.OutOfMemoryError as error:  # where the truth is computed
            print(f"{one.case}: {error}", file=sys.stderr, flush=True)
            code = 1
            continue
        if args.rounds:
            attention_gpu.merge_rows(name, rows, args.out)
    return code


def rows_of_case(
    index: int, one: attention_gpu.Work, args: argparse.Namespace
) -> list[dict[str, Any]]:
    note = note_in(args.journal)
    skip = dict(words.split("=", 1) for words in args.skip)
    return attention_gpu.run(one, args.rounds, lambda task: note(f"{index} {task}"), skip)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = Parser(__doc__.splitlines()[0])
    add = parser.add_argument
    add("group", choices=attention_gpu.GROUPS)
    add("--provider", action="append", help="this one alone; may be given again")
    add("--rounds", type=int, required=True, help="0: compile and compare, time nothing")
    add("--out", type=Path, required=True)
    add("--quick", dest="full", action="store_false")
    add("--journal", type=Path, help="where to note what is about to be tried")
    add("--first", type=int, default=0, help="number of the case to begin with")
    add("--skip", action="append", default=[], metavar="PROVIDER=REASON")
    args = parser.parse_args(arguments)
    parser.need_gpu()
    return work(args)


if __name__ == "__main__":
    sys.exit(main())
