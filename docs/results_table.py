"""A study's table, read from its CSV, in Markdown: intervals beside their figure, the paper's
columns in italics, as printed."""

import csv
from collections.abc import Sequence
from pathlib import Path

from hmc_fast.evaluation.report.study_cells import shown
from hmc_fast.evaluation.report.wording import ABSENT
from hmc_fast.evaluation.study_table import is_paper

DIGITS = 3
LARGE = 100  # from here on a number needs no decimals
ENDS, ERROR = (" low", " high"), "error"


def markdown(path: Path) -> str:
    """The table of a CSV as GitHub shows it; numbers on the right."""
    with open(path, newline="") as file:
        header, *rows = csv.reader(file)
    values = {place: [row[place] for row in rows] for place in range(len(header))}
    groups = _groups(header)
    columns = [_column([header[i] for i in group], [values[i] for i in group]) for group in groups]
    marks = ["---:" if all(map(_is_number, values[group[0]])) else "---" for group in groups]
    titles, *lines = zip(*columns, strict=True)
    return "".join(f"| {' | '.join(line)} |\n" for line in (titles, marks, *lines))


def _groups(header: Sequence[str]) -> list[list[int]]:
    """The columns that are one on the page: a figure and the two ends of its interval behind it,
    which its standard error may come between."""
    groups: list[list[int]] = []
    for place, title in enumerate(header):
        if not f" {title}".endswith(ENDS):
            groups.append([place])
        elif header[groups[-1][0]] == ERROR:
            groups[-2].append(place)
        else:
            groups[-1].append(place)
    return groups


def _column(titles: Sequence[str], values: Sequence[Sequence[str]]) -> list[str]:
    """Title and cells of a group."""
    first = values[0]
    if is_paper(titles[0]):
        return [f"*{titles[0]}*", *map(_printed, first)]
    if len(titles) > 1:
        cells = [_with_ends(*three) for three in zip(*values, strict=True)]
        return [f"{titles[0]} [low, high]", *cells]
    return [titles[0], *map(_number if all(map(_is_number, first)) else _words, first)]


def _with_ends(value: str, low: str, high: str) -> str:
    return f"{_number(value)} [{_number(low)}, {_number(high)}]" if low else _number(value)


def _words(value: str) -> str:
    return {"": ABSENT, "True": "yes", "False": "no"}.get(value, value.replace("|", r"\|"))


def _number(value: str) -> str:
    """With DIGITS decimals, a whole one as it is."""
    if not value:
        return ABSENT
    if value.lstrip("-").isdecimal():
        return shown(int(value), 0)
    real = float(value)
    return shown(real, 0 if abs(real) >= LARGE else DIGITS)


def _printed(value: str) -> str:
    """A figure of the paper, as it has it; a ratio of two with four digits."""
    return f"*{float(value):.4g}*" if value else ABSENT


def _is_number(value: str) -> bool:
    """Also where it is missing."""
    try:
        float(value or 0)
    except ValueError:
        return False
    return True
