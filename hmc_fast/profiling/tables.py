"""Tables as lines of text."""

from collections.abc import Iterable, Sequence

from hmc_fast.profiling.timing import quantiles

NOTHING = "-"


def aligned(header: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """A line a row, columns as wide as they must be: the first one to the left, numbers to the
    right."""
    table = [list(header), *map(list, rows)]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    return [_line(cells, widths) for cells in table]


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    first, *others = (
        cell.rjust(width) if place else cell.ljust(width)
        for place, (cell, width) in enumerate(zip(cells, widths, strict=True))
    )
    return "  ".join([first, *others]).rstrip()


def spread(values: Sequence[float]) -> str:
    """'41.2 (40.8 to 42.0)': median, 20 and 80 % quantiles."""
    found = quantiles(values)
    return f"{number(found['q50'])} ({number(found['q20'])} to {number(found['q80'])})"


def number(value: float | None) -> str:
    """Three digits, no exponent: 0.0123, 1.23, 12.3, 123, 1234; '-' where there is none."""
    if value is None:
        return NOTHING
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:#.3g}".rstrip(".")
