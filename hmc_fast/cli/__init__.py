"""`hmc-fast`: one subcommand a file; here they are put together and errors become a sentence and an
exit code."""

import sys
from collections.abc import Sequence

from hmc_fast import __version__
from hmc_fast.cli import data, env, predict, train
from hmc_fast.cli.arguments import Parser
from hmc_fast.errors import InputError

SUBCOMMANDS = (train, predict, data, env)


def build_parser() -> Parser:
    """The parser of `hmc-fast` with all its subcommands."""
    parser = Parser(
        prog="hmc-fast",
        description="HMC-Net on mammograms: train, predict and check. "
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
    args = build_parser().parse_args(argv)
    try:
        return args.run(args)
    except InputError as error:
        print(f"hmc-fast: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("hmc-fast: interrupted", file=sys.stderr)
        return 130
