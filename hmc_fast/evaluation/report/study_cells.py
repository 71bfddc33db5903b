"""A table of the study as the page shows it: every cell's text, what it sorts by, whose it is."""

import math
from collections.abc import Container, Sequence
from typing import Any, NamedTuple

import numpy as np

from hmc_fast.evaluation.report.wording import ABSENT, number
from hmc_fast.evaluation.study_table import StudyTable, is_paper, varies

WHOLE, REAL = (int, np.integer), (float, np.floating)
GROUPED = 10_000  # from here on thousands stand apart
LONG = 40  # characters: a column of such text gets room
# rows that sum up, "hmc over resnet50" too: they stay below, however one sorts
ALWAYS, ALL, RATIO = "always ", "all", "over"


class Cell(NamedTuple):
    """text: as shown; value: the unrounded number it sorts by, None for words and for what is
    missing; names: its CSS classes; varies: may differ between runs of the same settings."""

    text: str
    value: str | None
    names: str
    varies: bool


class PageTable(NamedTuple):
    """header: (text, CSS classes) of each column; body, foot: rows of cells, each with the id of
    its anchor or ''; file: the CSV of its numbers, or ''."""

    name: str
    title: str
    header: list[tuple[str, str]]
    body: list[tuple[str, list[Cell]]]
    foot: list[tuple[str, list[Cell]]]
    notes: Sequence[str]
    file: str


def page_table(
    table: StudyTable,
    file: str = "",
    anchors: Sequence[str] = (),
    varying: Container[int] = (),
) -> PageTable:
    """`table` in cells.

    file: the CSV that holds it; anchors: an id for each row, if any; varying: numbers of rows that
    may differ between runs of the same settings, whatever their column.
    """
    columns = list(zip(*table.rows, strict=True)) or [()] * len(table.header)
    names = [
        _names(title, values, table.all_paper)
        for title, values in zip(table.header, columns, strict=True)
    ]
    rows = [
        (
            anchors[place] if anchors else "",
            [
                _cell(value, name, varies(title) or (column > 0 and place in varying), table.digits)
                for column, (value, name, title) in enumerate(
                    zip(row, names, table.header, strict=True)
                )
            ],
        )
        for place, row in enumerate(table.rows)
    ]
    foot = [row for row in rows if _sums_up(row[1][0].text)]
    body = [row for row in rows if not _sums_up(row[1][0].text)]
    header = list(zip(table.header, names, strict=True))
    return PageTable(table.name, table.title, header, body, foot, table.notes, file)


def shown(value: Any, digits: int) -> str:
    """A cell's text: numbers with `digits` decimals, one that would be rounded to zero with its
    first digit, large whole ones in groups of three, a dash for what is missing."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, WHOLE):
        whole = int(value)
        grouped = abs(whole) >= GROUPED
        return f"{whole:,}".replace(",", "\N{NO-BREAK SPACE}") if grouped else str(whole)
    if isinstance(value, REAL):
        real = float(value)
        small = 0 < abs(real) < 0.5 * 10**-digits
        return f"{real:.1g}" if small else number(real, digits)
    return ABSENT if _is_missing(value) else str(value)


def _cell(value: Any, names: str, varying: bool, digits: int) -> Cell:
    missing = _is_missing(value)
    exact = None
    if _is_number(value) and not missing:
        exact = str(int(value) if isinstance(value, WHOLE) else float(value))
    return Cell(shown(value, digits), exact, f"{names} none".strip() if missing else names, varying)


def _is_missing(value: Any) -> bool:
    return value is None or value == "" or (_is_number(value) and not math.isfinite(value))


def _sums_up(heading: str) -> bool:
    words = heading.split()
    ratio = len(words) == 3 and words[1] == RATIO
    return heading == ALL or heading.startswith(ALWAYS) or ratio


def _names(title: str, values: Sequence[Any], all_paper: bool) -> str:
    """The CSS classes of a column: paper; text where a cell is no number; long for sentences."""
    known = [value for value in values if value is not None]
    words = not all(_is_number(value) for value in known)
    paper = all_paper or is_paper(title)
    long = any(isinstance(value, str) and len(value) > LONG for value in known)
    return " ".join(["paper"] * paper + ["text"] * words + ["long"] * long)


def _is_number(value: Any) -> bool:
    return isinstance(value, (*WHOLE, *REAL)) and not isinstance(value, bool)
