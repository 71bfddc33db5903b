"""`hmc-fast data`: check a data set before training, fetch the public one."""

import argparse
from pathlib import Path
from typing import Any

from hmc_fast.data.check import check
from hmc_fast.data.mias import CLASSES
from hmc_fast.progress import say


def add_parser(subparsers: Any) -> None:
    """Add `data check` and `data fetch mias`."""
    parser = subparsers.add_parser(
        "data", help="check or fetch data", description="Check or fetch data sets."
    )
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    _add_check(actions)
    _add_fetch(actions)


def _add_check(actions: Any) -> None:
    parser = actions.add_parser(
        "check",
        help="decode every image, count, and name odd cases",
        description="Decode every image, count labels and patients, compare MIAS with the "
        "archive's checksums, and name the odd cases. Exit code 0 with odd cases too; 2 for "
        "missing or damaged files.",
    )
    parser.add_argument(
        "spec", metavar="SPEC", help="phantom, mias:DIR or a folder of class folders"
    )
    parser.add_argument(
        "--classes", default=",".join(CLASSES), help="class folders in order of severity"
    )
    parser.add_argument("--quiet", action="store_true", help="no progress, only the report")
    parser.set_defaults(run=run_check)


def _add_fetch(actions: Any) -> None:
    parser = actions.add_parser(
        "fetch", help="download a public data set", description="Download a public data set."
    )
    sets = parser.add_subparsers(dest="dataset", required=True, metavar="DATASET")
    mias = sets.add_parser(
        "mias",
        help="the mini-MIAS mammograms, 322 images",
        description="Download the mini-MIAS archive and check every file. For research use only: "
        "see its licence.",
    )
    mias.add_argument(
        "--url", default=argparse.SUPPRESS, help="where the archive is (default: the public server)"
    )
    mias.add_argument(
        "--out", type=Path, metavar="DIR", default=Path("mias"), help="folder for the files"
    )
    mias.add_argument("--quiet", action="store_true", help="no progress")
    mias.set_defaults(run=run_fetch)


def run_check(args: argparse.Namespace) -> int:
    """Print the report of `hmc_fast.data.check`."""
    for line in check(args.spec, classes=tuple(args.classes.split(",")), quiet=args.quiet):
        say(line)
    return 0


def run_fetch(args: argparse.Namespace) -> int:
    """Download the archive; where it lies and what to do next is said by `fetch_mias`."""
    from hmc_fast.data import fetch

    url = {"url": args.url} if "url" in args else {}
    fetch.fetch_mias(args.out, quiet=args.quiet, **url)
    return 0
