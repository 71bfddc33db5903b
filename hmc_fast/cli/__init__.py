"""`hmc-fast`: one subcommand a file; here they are put together and errors become a sentence and an
exit code."""

import errno
import os
import shlex
import sys
from collections.abc import Sequence

import torch

from hmc_fast import __version__
from hmc_fast.cli import data, env, explain, export, predict, profile, study, train
from hmc_fast.cli.arguments import Parser
from hmc_fast.errors import InputError

SUBCOMMANDS = (train, study, predict, explain, profile, export, data, env)
DISK_ERRORS = {  # what a disk may answer at any time; everything else is our own mistake
    errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO, errno.EACCES, errno.EPERM,
    errno.ENAMETOOLONG,
}  # fmt: skip


def build_parser() -> Parser:
    """The parser of `hmc-fast` with all its subcommands."""
    parser = Parser(
        prog="hmc-fast",
        description="HMC-Net on mammograms: train, predict, explain and check. "
        "For research; not a medical device.",
    )
    parser.add_argument("--version", action="version", version=f"hmc-fast {__version__}")
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for subcommand in SUBCOMMANDS:
        subcommand.add_parser(subparsers)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one subcommand and give its exit code.

    0 done, 1 some inputs failed, 2 bad use or bad input, 130 interrupted.
    """
    words = sys.argv[1:] if argv is None else list(argv)
    args = build_parser().parse_args(words)
    args.command_line = shlex.join(["hmc-fast", *words])
    try:
        return args.run(args)
    except InputError as error:
        return _fail(str(error))
    except BrokenPipeError:  # the reader of our output, `head` perhaps, has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        if error.errno not in DISK_ERRORS:
            raise
        where = f": {error.filename}" if error.filename else ""
        return _fail(f"{error.strerror}{where}")
    except torch.OutOfMemoryError as error:
        reason = str(error).partition(". ")[0]
        return _fail(f"{reason}: lower --batch-size or --image-size")
    except KeyboardInterrupt:
        print("hmc-fast: interrupted", file=sys.stderr)
        return 130


def _fail(sentence: str) -> int:
    print("hmc-fast:", sentence.replace("\n", " "), file=sys.stderr)
    return 2
