"""Draw docs/waterfall.png from bench/results/waterfall-cpu.csv: the README's picture.

    python bench/waterfall_figure.py [--results FILE] [--out FILE]

A bar a step: milliseconds an image, from the plain network down to the optimised one; beside it
how much faster than the first it is and, below the figure, what was measured and where.
"""

import argparse
import csv
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from command_line import Parser
from common import RESULTS

DOCS = Path(__file__).resolve().parents[1] / "docs"
BLUE, GREY = "#0072B2", "#999999"  # Okabe and Ito's, told apart by everybody
ASIDE = "torch.compile"  # the rows after it do not build on it
Row = dict[str, str]


def read(path: Path) -> list[Row]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def draw(axes: Axes, rows: list[Row], batch: str) -> None:
    """The steps of one batch size, the first on top."""
    times = {r["provider"]: r for r in rows if r["metric"] == "ms" and r["batch"] == batch}
    first = float(next(iter(times.values()))["q50"])
    for place, (step, row) in enumerate(times.items()):
        q50, q20, q80 = (float(row[name]) / int(batch) for name in ("q50", "q20", "q80"))
        colour = GREY if step.endswith(ASIDE) else BLUE
        axes.barh(place, q50, xerr=[[q50 - q20], [q80 - q50]], color=colour, ecolor="black")
        axes.text(q80, place, f"  {first / float(row['q50']):.2f}x", va="center", fontsize=8)
    axes.set_yticks(range(len(times)), [step.partition(" ")[2] for step in times])
    axes.margins(x=0.18)
    axes.set_xlabel("ms an image")
    axes.set_title(f"batch {batch}", fontsize=10)
    axes.spines[["top", "right"]].set_visible(False)


def conditions(rows: list[Row]) -> str:
    """What stands under the figure."""
    row = rows[-1]
    worst = {
        name: max(float(r["q50"]) for r in rows if r["metric"] == "error" and r["mode"] == name)
        for name in sorted({r["mode"] for r in rows if r["metric"] == "error"})
    }
    words = ", ".join(f"{value:.2g} on {name}" for name, value in worst.items())
    return (
        f"HMC-Net, {row['n']} px, {row['gpu']}, torch {row['torch']}, {row['date']}; medians and 20"
        " to 80 % bars, all steps timed in turn.\nLargest difference of any probability from "
        f"float64 in any row: {words}. The grey row is aside: nothing builds on it."
    )


def arguments(title: str, name: str) -> argparse.Namespace:
    """Rows of bench/`name`.py on a CPU and the picture's place, of a figure's command line."""
    parser = Parser(title)
    add = parser.add_argument
    add("--results", type=Path, default=RESULTS / f"{name}-cpu.csv", help=f"rows of {name}.py")
    add("--out", type=Path, default=DOCS / f"{name}.png", help="the picture")
    args = parser.parse_args()
    if not args.results.is_file():
        parser.error(f"{args.results} does not exist: run bench/{name}.py first")
    return args


def finish(figure: Figure, words: str, out: Path) -> None:
    """Conditions below the figure; save it."""
    figure.supxlabel(words, fontsize=7, x=0.01, ha="left")
    figure.savefig(out, dpi=130)
    print(out)


def main() -> None:
    args = arguments(__doc__.splitlines()[0], "waterfall")
    rows = read(args.results)
    batches = sorted({r["batch"] for r in rows}, key=int)
    figure, axes = plt.subplots(
        1, len(batches), figsize=(5 * len(batches), 4.6), layout="constrained", squeeze=False,
        sharey=True,
    )  # fmt: skip
    for place, batch in zip(axes[0], batches, strict=True):
        draw(place, rows, batch)
    axes[0, 0].invert_yaxis()  # they share it
    finish(figure, conditions(rows), args.out)


if __name__ == "__main__":
    main()
