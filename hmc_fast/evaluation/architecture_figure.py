"""A network drawn from what it is made of: the paper's Fig. 4, with the numbers of every part.

From top to bottom in the order of the forward pass: the way of the image on the left, what is
computed beside it on a second lane, and on the right the map that each part gives, its parameters
and its multiply-adds, with bars to scale.
"""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import matplotlib
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from hmc_fast.evaluation.figure_table import GREY, StudyFigure
from hmc_fast.evaluation.figures import COLOURS, COLUMN, STYLE, short

SMALL = ("norm", "activation", "pooling")  # drawn with the convolution that they follow
SHADES = {
    "convolution": COLOURS[4],
    "stage": COLOURS[0],
    "self-attention": COLOURS[1],
    "cross-attention": COLOURS[2],
}
ROW, BOX = 0.31, 0.245  # inches: from row to row, height of a box
MAIN, SIDE = (0.04, 1.0), (1.09, 1.75)  # inches: left and right end of the boxes of a lane
MAP, PARAMETERS, GMAC, LONGEST_BAR = 1.83, 3.0, 3.42, 0.36  # left, right, right end; inches
HEADER = ["name", "kind", "detail", "channels", "size", "parameters", "gmac", "inputs"]


class Box(NamedTuple):
    """A part, or a convolution with the small parts that follow it."""

    names: list[str]
    kind: str
    detail: str
    extent: str
    parameters: int
    gmac: float
    inputs: list[str]


def architecture(stages: Sequence[Mapping[str, Any]]) -> StudyFigure:
    """A network as boxes and arrows: what `models.outline.outline` read off it.

    stages: dicts of "name", "kind", "detail", "channels", "size" (a list of positions),
    "parameters", "gmac" and "inputs" (names), in the order of the forward pass.
    Raises ValueError: no stage.
    """
    if not stages:
        raise ValueError("needs a stage or more: got none")
    boxes = _boxes(stages)
    with matplotlib.rc_context({**STYLE, "axes.grid": False}):
        height = ROW * (len(boxes) + 2)
        figure = Figure(figsize=(COLUMN, height))
        axes = figure.add_axes((0, 0, 1, 1), xlim=(0, COLUMN), ylim=(height, 0))
        axes.set_axis_off()
        main = _main_lane(boxes)
        _arrows(axes, boxes, main)
        for index, box in enumerate(boxes):
            _draw(axes, box, MAIN if index in main else SIDE, _y(index))
        _numbers(axes, boxes)
    rows = [
        [*(s[name] for name in HEADER[:4]), _by(s["size"]), s["parameters"], s["gmac"],
         " ".join(s["inputs"])]
        for s in stages
    ]  # fmt: skip
    return StudyFigure(figure, HEADER, rows)


def _boxes(stages: Sequence[Mapping[str, Any]]) -> list[Box]:
    boxes: list[Box] = []
    for stage in stages:
        box = Box(
            [stage["name"]], stage["kind"], stage["detail"],
            _extent(stage["channels"], stage["size"]), stage["parameters"], stage["gmac"],
            list(stage["inputs"]),
        )  # fmt: skip
        before = boxes[-1] if boxes else None
        follows = before and before.kind == "convolution" and box.inputs == before.names[-1:]
        if before and follows and box.kind in SMALL:
            boxes[-1] = before._replace(
                names=[*before.names, *box.names],
                extent=box.extent,
                parameters=before.parameters + box.parameters,
                gmac=before.gmac + box.gmac,
            )
        else:
            boxes.append(box)
    return boxes


def _main_lane(boxes: Sequence[Box]) -> list[int]:
    """Indices of the boxes on the way of the image, from the last one back by first inputs."""
    made_by = {name: index for index, box in enumerate(boxes) for name in box.names}
    lane = [len(boxes) - 1]
    while True:
        sources = [made_by[name] for name in boxes[lane[0]].inputs]
        onward = [index for index in sources if boxes[index].inputs] or sources
        if not onward:
            return lane
        lane.insert(0, onward[0])


def _arrows(axes: Axes, boxes: Sequence[Box], main: Sequence[int]) -> None:
    """Down the main lane straight, everything else by way of the side lane's middle."""
    made_by = {name: index for index, box in enumerate(boxes) for name in box.names}
    middle, steps = sum(SIDE) / 2, set(pairwise(main))
    for target, box in enumerate(boxes):
        for source in (made_by[name] for name in box.inputs):
            if (source, target) in steps:
                x = sum(MAIN) / 2
                points = [(x, _y(source) + BOX / 2), (x, _y(target) - BOX / 2)]
            else:
                out, into = _y(source) + BOX / 4, _y(target) - BOX / 4
                leaves = [(MAIN[1], out), (middle, out)]
                arrives = [(middle, into), (MAIN[1], into)]
                points = leaves if source in main else [(middle, _y(source) + BOX / 2)]
                points += arrives if target in main else [(middle, _y(target) - BOX / 2)]
            axes.plot(*zip(*points[:-1], strict=True), color="black", linewidth=0.8)
            arrow = {"arrowstyle": "-|>", "linewidth": 0.8, "mutation_scale": 6, "color": "black"}
            axes.annotate(
                "", points[-1], points[-2], arrowprops={**arrow, "shrinkA": 0, "shrinkB": 0}
            )


def _draw(axes: Axes, box: Box, lane: tuple[float, float], y: float) -> None:
    colour = SHADES.get(box.kind, GREY)
    tint = tuple(0.8 + 0.2 * part for part in to_rgb(colour))
    left, width = lane[0], lane[1] - lane[0]
    axes.add_patch(
        Rectangle((left, y - BOX / 2), width, BOX, facecolor=tint, edgecolor=colour, linewidth=0.8)
    )
    name = box.names[0] if len(box.names) == 1 else f"{box.names[0]} … {box.names[-1]}"
    shown = [name] if box.kind in (name, "parameter") else [name, box.kind]
    for line, text in enumerate(shown):
        place = y + (0.105 * line - 0.05 if len(shown) > 1 else 0)
        weight = "bold" if line == 0 else "normal"
        axes.text(
            left + width / 2, place, short(text, 17), ha="center", va="center", fontsize=6,
            fontweight=weight,
        )  # fmt: skip


def _numbers(axes: Axes, boxes: Sequence[Box]) -> None:
    """The columns on the right, with their heads above and the sums below."""
    most = max(box.gmac for box in boxes) or 1
    _row(axes, 0, "map", "parameters", "GMAC", fontweight="bold")
    for index, box in enumerate(boxes):
        y = _y(index)
        bar = LONGEST_BAR * box.gmac / most
        axes.add_patch(Rectangle((GMAC - bar, y + 0.065), bar, 0.04, color=COLOURS[5], linewidth=0))
        parameters = f"{box.parameters:,}" if box.parameters else ""
        _row(axes, index + 1, box.extent, parameters, _number(box.gmac))
        axes.text(MAP, y + 0.09, box.detail, va="center", fontsize=6, color="#555555")
    sums = f"{sum(box.parameters for box in boxes):,}", f"{sum(box.gmac for box in boxes):.3f}"
    _row(axes, len(boxes) + 1, "all", *sums, fontweight="bold")


def _row(axes: Axes, row: int, extent: str, parameters: str, gmac: str, **style: Any) -> None:
    y = _y(row - 1)
    columns = ((MAP, extent, "left"), (PARAMETERS, parameters, "right"), (GMAC, gmac, "right"))
    for x, text, side in columns:
        axes.text(x, y - 0.015, text, ha=side, va="center", fontsize=6.5, **style)


def _y(index: int) -> float:
    """Inches from the top to the middle of a box; a row for the heads comes before the first."""
    return ROW * (index + 1.5)


def _extent(channels: int, size: Sequence[int]) -> str:
    """'256 × 56²', '768 × 197', and '3' for a vector or a single position."""
    if len(size) == 2 and size[0] == size[1]:
        return f"{channels} × {size[0]}²" if size[0] > 1 else str(channels)
    return " × ".join(str(number) for number in (channels, *size))


def _by(size: Sequence[int]) -> str:
    return "x".join(str(number) for number in size)


def _number(gmac: float) -> str:
    if not gmac:
        return ""
    return f"{gmac:.3f}" if gmac >= 0.0005 else "< 0.001"
