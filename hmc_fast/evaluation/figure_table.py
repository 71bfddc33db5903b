"""A figure with the table of its numbers, and both on the disk."""

from pathlib import Path
from typing import Any, NamedTuple

from matplotlib.figure import Figure

from hmc_fast.evaluation import figures
from hmc_fast.files import write_csv

MARKERS = ("o", "s", "^", "D", "v", "P", "X")
GREY = "#8a8a8a"


class StudyFigure(NamedTuple):
    """A figure and the table of its numbers: `header` and `rows` of the CSV."""

    figure: Figure
    header: list[str]
    rows: list[list[Any]]


def save(drawn: StudyFigure, folder: Path, name: str) -> None:
    """Write `name`.png, `name`.pdf and `name`.csv into `folder`, which exists."""
    for suffix in (".png", ".pdf"):
        figures.save(drawn.figure, folder / f"{name}{suffix}")
    write_csv(folder / f"{name}.csv", drawn.header, drawn.rows)
