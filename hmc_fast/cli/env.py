"""`hmc-fast env`: what a bug report and a reader of numbers need to know of a machine."""

import argparse
import json
from collections.abc import Iterator
from typing import Any

from hmc_fast.environment import environment


def add_parser(subparsers: Any) -> None:
    """Add `env` to the subcommands."""
    parser = subparsers.add_parser(
        "env",
        help="show versions, processor, GPUs and the attention backends that can run here",
        description="Show versions, processor, GPUs and the attention backends that can run here.",
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of lines")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print the environment."""
    found = environment()
    if args.json:
        print(json.dumps(found, indent=2))
        return 0
    for name, value in rows(found):
        print(f"{name:<18} {value}")
    print("next: hmc-fast train")
    return 0


def rows(values: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """A nested dictionary as (dotted name, text) pairs, in order."""
    for key, value in values.items():
        name = f"{prefix}{key}"
        if isinstance(value, dict):
            yield from rows(value, "" if key == "packages" else f"{name}.")
        elif isinstance(value, list) and value and isinstance(value[0], dict):
            for index, item in enumerate(value):
                yield name, f"{index}: " + ", ".join(f"{k} {v}" for k, v in item.items())
        else:
            yield name, text(value)


def text(value: Any) -> str:
    """None and an empty list read 'none'."""
    if isinstance(value, list):
        value = ", ".join(map(str, value))
    return "none" if value is None or value == "" else str(value)
