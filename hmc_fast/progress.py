"""What long work shows: a bar on a terminal, now and then a plain line elsewhere, nothing when
quiet."""

import sys
import time
from collections.abc import Iterable, Iterator, Sized
from typing import TypeVar

from tqdm import tqdm

Item = TypeVar("Item")
SECONDS_BETWEEN_LINES = 10.0


def say(text: str, quiet: bool = False) -> None:
    """Print one line for the user, above a bar if one is shown."""
    if not quiet:
        tqdm.write(text, file=sys.stdout)
        sys.stdout.flush()


def progress(
    items: Iterable[Item],
    description: str,
    *,
    total: int | None = None,
    unit: str = "image",
    quiet: bool = False,
) -> Iterator[Item]:
    """Iterate over `items` and show how far it is; `total` where `items` has no length."""
    if total is None and isinstance(items, Sized):
        total = len(items)
    if quiet:
        yield from items
    elif sys.stderr.isatty():
        yield from tqdm(
            items, desc=description, total=total, unit=unit, leave=False, file=sys.stderr
        )
    else:
        yield from _lines(items, description, total, unit)


def _lines(items: Iterable[Item], description: str, total: int | None, unit: str) -> Iterator[Item]:
    started = last = time.monotonic()
    for done, item in enumerate(items):
        now = time.monotonic()
        if now - last > SECONDS_BETWEEN_LINES:
            last = now
            of = f" of {total}" if total else ""
            say(f"{description}: {done}{of} {unit}s, {now - started:.0f} s")
        yield item
