"""A table of the study: what it is called, its cells, and its file.

A figure of the paper never stands in a column with ours: such a column's header begins with
"paper". What two runs of the same settings may not share, times above all, stands in columns whose
header ends with " s", " ms" or "images/s".
"""

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from hmc_fast.files import write_csv

PAPER = "paper"
VARYING = (" s", " ms", "images/s")


class StudyTable(NamedTuple):
    """One table, unrounded.

    name: the file's name without .csv, and the anchor on the page; title: with its number, where
    the paper has one; header: plain words; rows: str, int, float, bool or None, the first cell
    names the row; notes: sentences under the table; digits: decimals on the page, the CSV has all;
    all_paper: no figure in it is ours.
    """

    name: str
    title: str
    header: list[str]
    rows: list[list[Any]]
    notes: list[str]
    digits: int = 3
    all_paper: bool = False


def is_paper(header: str) -> bool:
    """Whether a column of this header holds the paper's own figures."""
    return header == PAPER or header.startswith(f"{PAPER} ")


def varies(header: str) -> bool:
    """Whether two runs of the same settings may differ in a column of this header."""
    return header.endswith(VARYING) and not is_paper(header)


def write_tables(tables: Iterable[StudyTable], folder: Path) -> list[Path]:
    """Write `folder`/NAME.csv for each table, full precision, empty cells for None; the paths."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for table in tables:
        paths.append(folder / f"{table.name}.csv")
        write_csv(paths[-1], table.header, [[_cell(value) for value in row] for row in table.rows])
    return paths


def _cell(value: Any) -> Any:
    """None for what is undefined: a CSV reader would take "nan" for a word."""
    return None if isinstance(value, float) and not math.isfinite(value) else value
