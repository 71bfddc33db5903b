"""Blocks of a Markdown page that a script writes, between the comments `<!-- begin NAME -->` and
`<!-- end NAME -->`."""

import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

BEGIN, END = "<!-- begin {} -->\n", "<!-- end {} -->"


def names(page: Path) -> list[str]:
    """The names of the page's blocks, in its order."""
    return re.findall(BEGIN.format("(.+?)"), page.read_text())


def filled(page: Path, blocks: Mapping[str, Callable[[], str]]) -> str:
    """The page's text with each of `blocks` made anew; exits where comments of one are missing."""
    text = page.read_text()
    for name, make in blocks.items():
        begin, end = BEGIN.format(name), END.format(name)
        before, _, rest = text.partition(begin)
        _, marker, after = rest.partition(end)
        if not marker or text.count(begin) > 1:
            sys.exit(f"{page.name} must hold {begin.strip()} and {end}, once")
        text = before + begin + make() + end + after
    return text


def write_or_check(page: Path, made: str, check: bool, cure: str) -> None:
    """Write `made` to the page; where `check`, exit with `cure` if the page differs instead."""
    if not check:
        page.write_text(made)
    elif made != page.read_text():
        sys.exit(f"{page.name} differs from {cure}")
