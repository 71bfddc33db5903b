"""Draws the pictures of docs/kernels.md: `python docs/make_kernel_figures.py`, in a few seconds.

The order of instructions in `kernels-rotation.png` was read from the machine code that
bench/kernel_resources.py compiles (ORDERS says which); everything else is geometry and counting.
"""

import heapq
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
from matplotlib import pyplot
from matplotlib.patches import Rectangle

DOTS_PER_INCH = 110
BLUE, LIGHT_BLUE, ORANGE, LIGHT_ORANGE = "#2f6db3", "#c3d8ee", "#d97a1f", "#f6d9b8"
GREEN, LIGHT_GREEN, GREY, LIGHT_GREY, INK = "#3f9163", "#cfe8d8", "#8a8f98", "#eceef1", "#22262b"
RUNS = ("#2f6db3", "#d97a1f", "#3f9163", "#8e5ea8")
PALE_RUNS = (LIGHT_BLUE, LIGHT_ORANGE, LIGHT_GREEN, "#e2d3ea")
PROCESSORS = 132  # of an H200


class Order(NamedTuple):
    """Where things stand in the inner loop of one compiled kernel, by instruction number.

    rescale: the first and last of the multiplications of the sums; stored: of P, to shared memory.
    """

    title: str
    length: int
    scores: tuple[int, ...]  # HGMMA of Q Kᵀ
    scores_wait: int
    values: tuple[int, ...]  # HGMMA of P V
    values_wait: int  # below `values[0]` where it stands in the next iteration
    exponentials: tuple[int, ...]
    rescale: tuple[int, int]
    stored: tuple[int, ...] = ()


# forward_stream at 3136 tokens, d_qk 32, d_v 256, batch 32, bfloat16, sm_90, tile 128x64x256 with 8
# warps and 2 stages; Triton 3.8.0, 2026-11-25.
ORDERS = (
    Order(
        "usual order: scores, exponentials, P V",
        404,
        (29, 38),
        46,
        (354, 365, 368, 370),
        46,
        (
            103, 104, 107, 115, 123, 131, 139, 147, 170, 178, 186, 194, 202, 210, 218, 226, 234,
            242, 250, 258, 266, 274, 282, 290, 298, 306, 314, 320, 326, 330, 336, 338, 342, 343,
        ),
        (108, 276),
    ),
    Order(
        "rotated: P V of the previous block is issued before the exponentials of this one",
        395,
        (26, 30),
        44,
        (63, 127, 202, 245),
        246,
        (
            102, 107, 109, 110, 111, 114, 117, 138, 146, 150, 154, 157, 160, 161, 165, 166, 169,
            170, 174, 178, 182, 183, 188, 191, 194, 195, 199, 201, 205, 206, 210, 211, 214, 215,
        ),
        (248, 392),
        (0, 3, 6, 9),
    ),
)  # fmt: skip


def box(axis: Any, x: float, y: float, width: float, height: float, **style: Any) -> None:
    """A rectangle by its lower left corner."""
    style = {"facecolor": "white", "edgecolor": INK, "linewidth": 0.8} | style
    axis.add_patch(Rectangle((x, y), width, height, **style))


def bare(axis: Any, title: str, width: float, height: float) -> None:
    """A canvas without axes, in units of its own, equal in both directions."""
    axis.set(xlim=(0, width), ylim=(0, height), aspect="equal")
    axis.set_title(title, fontsize=11, color=INK, loc="left")
    axis.set_axis_off()


def label(axis: Any, x: float, y: float, text: str, **style: Any) -> None:
    """Text, centred unless told."""
    style = {"ha": "center", "va": "center", "fontsize": 9, "color": INK} | style
    axis.text(x, y, text, **style)


def arrow(axis: Any, start: tuple[float, float], end: tuple[float, float], **style: Any) -> None:
    """From start to end."""
    style = {"arrowstyle": "->", "color": INK, "linewidth": 1.2} | style
    axis.annotate("", xy=end, xytext=start, arrowprops=style)


def attention_canvas(axis: Any, title: str, band: tuple[float, float]) -> None:
    """Q at the left, K above, the scores between, V above A at the right; `band`: the rows of one
    program, from the bottom and their height."""
    bare(axis, title, 21.5, 15.6)
    bottom, height = band
    box(axis, 0.6, 1.2, 1, 8)
    box(axis, 0.6, bottom, 1, height, facecolor=BLUE)
    box(axis, 2, 9.6, 8, 1)
    box(axis, 2, 1.2, 8, 8, facecolor="none", linestyle=(0, (3, 2)), edgecolor=GREY)
    box(axis, 11, 1.2, 8, 8)
    label(axis, 1.1, 0.5, "Q")
    label(axis, 6, 0.5, "scores: never stored", color=GREY)
    label(axis, 15, 0.5, "A, out")
    label(axis, 1.3, 10.1, "Kᵀ", ha="right")


def draw_stream(axis: Any) -> None:
    """One program of forward_stream in the middle of its keys."""
    attention_canvas(axis, "forward_stream: keys stream past a tile of rows", (5.2, 2))
    shades = (LIGHT_GREY, LIGHT_GREY, BLUE, "white", "white")
    for block, shade in enumerate(shades):
        box(axis, 2 + 1.75 * block, 9.6, min(1.75, 8 - 1.75 * block), 1, facecolor=shade)
        box(axis, 2 + 1.75 * block, 5.2, min(1.75, 8 - 1.75 * block), 2, facecolor=shade)
    box(axis, 9, 5.2, 1, 2, hatch="////", edgecolor=GREY)
    box(axis, 9, 9.6, 1, 1, hatch="////", edgecolor=GREY)
    label(axis, 6.4, 6.2, "$P_j$", color="white", fontsize=11)
    box(axis, 11, 5.2, 4, 2, facecolor=ORANGE)
    label(axis, 13, 6.2, "sums +=\n$P_j\\,V_j$", color="white")
    box(axis, 11, 10.4, 8, 4)
    box(axis, 11, 11.9, 4, 0.9, facecolor=BLUE)
    label(axis, 10.8, 12.35, "$V_j$", ha="right")
    label(axis, 15, 15, "V")
    arrow(axis, (13, 11.8), (13, 7.3))
    arrow(axis, (5.6, 11.2), (8.8, 11.2))
    label(axis, 7.2, 11.7, "j = 0, 1, …")
    label(axis, 9.9, 8.2, "last block,\nmasked", fontsize=8, color=GREY, ha="right")
    label(axis, 6, 3.4, "BLOCK_M rows x\nBLOCK_N keys at a time", fontsize=8, color=GREY)
    label(axis, 15, 3.4, "BLOCK_DV columns; other\ncolumns: other programs", fontsize=8, color=GREY)


def draw_splits(axis: Any) -> None:
    """The keys of one tile of rows cut over three programs."""
    attention_canvas(axis, "few programs: keys are split, then joined", (5.2, 2))
    for split in range(3):
        x, width = 2 + 8 / 3 * split, 8 / 3
        box(axis, x, 9.6, width, 1, facecolor=PALE_RUNS[split])
        box(axis, x, 5.2, width, 2, facecolor=PALE_RUNS[split])
        label(axis, x + width / 2, 6.2, f"split {split}", fontsize=8)
        box(axis, 11.6, 10.4 + 1.6 * split, 4, 1.2, facecolor=PALE_RUNS[split])
        label(axis, 13.6, 11 + 1.6 * split, "sums, float32", fontsize=8)
        label(axis, 15.9, 11 + 1.6 * split, "max, sum", fontsize=8, ha="left")
        arrow(axis, (x + width / 2, 7.3), (11.5, 11 + 1.6 * split), color=RUNS[split])
    box(axis, 11, 5.2, 4, 2, facecolor=ORANGE)
    label(axis, 13, 6.2, "combine_splits", color="white", fontsize=8)
    arrow(axis, (13.3, 10.3), (13.3, 7.3))
    label(axis, 13.6, 8.3, "always 0, 1, 2", ha="left", fontsize=8, color=GREY)


def draw_short(axis: Any) -> None:
    """forward_short: all keys in one block, then a loop over value columns."""
    attention_canvas(axis, "forward_short: up to 256 keys, the row at once", (5.2, 2))
    box(axis, 2, 9.6, 8, 1, facecolor=BLUE)
    box(axis, 2, 5.2, 8, 2, facecolor=BLUE)
    label(axis, 6, 6.2, "P, once", color="white", fontsize=11)
    for block, shade in enumerate((ORANGE, ORANGE, LIGHT_ORANGE, LIGHT_ORANGE)):
        box(axis, 11 + block, 5.2, 1, 2, facecolor=shade)
        box(axis, 11 + block, 10.4, 1, 4, facecolor=LIGHT_BLUE if block != 1 else BLUE)
    box(axis, 15, 10.4, 4, 4)
    label(axis, 15, 15, "V")
    arrow(axis, (12.5, 10.3), (12.5, 7.3))
    arrow(axis, (11.2, 4.7), (15, 4.7))
    label(axis, 11.2, 3.9, "GROUP blocks, in turn", fontsize=8, color=GREY, ha="left")
    label(axis, 17.2, 6.2, "other\nprograms", fontsize=8, color=GREY)


def draw_tail(axis: Any) -> None:
    """The rows of one sample of HA2, cut into tiles."""
    bare(axis, "tail tile: 784 rows = 6 x 128 + 16", 21.5, 15.6)
    sizes = ((2, "one tile", [128] * 7), (11.5, "tail tile", [128] * 6 + [16]))
    for x, name, tiles in sizes:
        y = 13.6
        label(axis, x + 3, 14.5, name)
        for number, rows in enumerate(tiles):
            height = rows / 128 * 1.7
            y -= height
            shade = ORANGE if rows < 128 else LIGHT_BLUE
            box(axis, x, y, 6, height, facecolor=shade)
            if x < 10 and number == 6:
                box(axis, x, y, 6, height * 7 / 8, hatch="////", edgecolor=GREY)
    label(axis, 8.2, 2.4, "112 rows\nof nothing", fontsize=8, color=GREY, ha="left")
    label(axis, 17.7, 3.3, "its programs\ncome last", fontsize=8, color=GREY, ha="left")


def draw_forward() -> Any:
    figure, axes = pyplot.subplots(2, 2, figsize=(10, 7.4))
    draws = (draw_stream, draw_short, draw_splits, draw_tail)
    for axis, draw in zip(axes.flat, draws, strict=True):
        draw(axis)
    figure.subplots_adjust(0.005, 0.005, 0.995, 0.96, wspace=0.03, hspace=0.09)
    return figure


def draw_order(axis: Any, order: Order) -> None:
    """One loop from left to right, a lane for each kind of instruction."""
    lanes = {"exponentials": 0, "rescale of the sums": 1, "P V": 2, "Q Kᵀ": 3}
    axis.set(xlim=(-4, 405), ylim=(-0.6, 3.6), yticks=range(4), yticklabels=list(lanes))
    axis.set_title(order.title, fontsize=11, color=INK, loc="left")
    end = order.values_wait if order.values_wait > order.values[0] else order.length
    pieces = [(order.values[0], end)]
    if order.values_wait < order.values[0]:  # awaited in the next iteration
        pieces.append((0, order.values_wait))
    for first, last in pieces:
        axis.axvspan(first, last, color=LIGHT_ORANGE, zorder=0)
        axis.barh(2, last - first, left=first, height=0.5, color=ORANGE, alpha=0.45)
    axis.barh(
        3, order.scores_wait - order.scores[0], left=order.scores[0], height=0.5, color=LIGHT_BLUE
    )
    ticks = ((order.exponentials, 0, GREEN), (order.values, 2, ORANGE), (order.scores, 3, BLUE))
    for places, lane, colour in ticks:
        axis.vlines(places, lane - 0.3, lane + 0.3, color=colour, linewidth=1.8)
    axis.barh(1, order.rescale[1] - order.rescale[0], left=order.rescale[0], height=0.5, color=GREY)
    axis.vlines(order.stored, 1.7, 2.3, color=INK, linewidth=1.2)
    if order.stored:
        label(axis, 13, 2.25, "P to shared memory", fontsize=8, ha="left")
    axis.vlines(order.length, -0.6, 3.6, color=INK, linewidth=1)
    axis.spines[["top", "right"]].set_visible(False)
    axis.tick_params(labelsize=9)


def draw_rotation() -> Any:
    figure, axes = pyplot.subplots(2, 1, figsize=(11, 5.2), sharex=True)
    for axis, order in zip(axes, ORDERS, strict=True):
        draw_order(axis, order)
    axes[1].set_xlabel(
        "instruction of the inner loop (one warp, in the order of the machine code; not time). "
        "Shaded: from the first HGMMA of P V to the wait for it",
        fontsize=9,
    )
    figure.subplots_adjust(0.125, 0.1, 0.99, 0.94, hspace=0.28)
    return figure


class Piece(NamedTuple):
    """A program on a processor, from when to when, in programs of a whole tile."""

    processor: int
    start: float
    end: float
    tail: bool


def schedule(whole: int, tails: int, tail_cost: float) -> list[Piece]:
    """Programs in the order of their ids, each on the processor that is free first."""
    free = [(0.0, processor) for processor in range(PROCESSORS)]
    pieces = []
    for number in range(whole + tails):
        start, processor = heapq.heappop(free)
        end = start + (1 if number < whole else tail_cost)
        pieces.append(Piece(processor, start, end, number >= whole))
        heapq.heappush(free, (end, processor))
    return pieces


def draw_schedule(axis: Any, title: str, whole: int, tails: int = 0, cost: float = 1) -> None:
    """Processors from bottom to top, time from left to right."""
    for piece in schedule(whole, tails, cost):
        colour = ORANGE if piece.tail else BLUE
        place = (piece.start + 0.01, piece.processor, piece.end - piece.start - 0.02, 1)
        box(axis, *place, facecolor=colour, edgecolor=colour, linewidth=0.3)
    axis.set(xlim=(0, 7.2), ylim=(0, PROCESSORS), xticks=range(8), yticks=(0, PROCESSORS))
    axis.set_title(title, fontsize=10, color=INK, loc="left")
    axis.spines[["top", "right"]].set_visible(False)
    axis.tick_params(labelsize=9)


def draw_waves() -> Any:
    figure, axes = pyplot.subplots(2, 2, figsize=(11, 4.6), sharex=True, sharey=True)
    draw_schedule(axes[0, 0], "784 = 6 x 128 + 16, one tile: 448 programs", 448)
    draw_schedule(axes[0, 1], "784, tail tiles of 16 rows: 384 + 64", 384, 64, 16 / 128)
    draw_schedule(axes[1, 0], "3136 = 24 x 128 + 64, one tile: 800 programs", 800)
    draw_schedule(axes[1, 1], "3136, tail tiles of 64 rows: 768 + 32", 768, 32, 64 / 128)
    for axis in axes[1]:
        axis.set_xlabel("time, in programs of 128 rows", fontsize=9)
    for axis in axes[:, 0]:
        axis.set_ylabel(f"{PROCESSORS} processors", fontsize=9)
    figure.subplots_adjust(0.06, 0.11, 0.99, 0.93, hspace=0.28, wspace=0.06)
    return figure


def draw_runs(axis: Any) -> None:
    """backward_scores: runs of key blocks, a partial of dQ for each, added up in order."""
    bare(axis, "backward_scores: dK, and dQ through partials in a fixed order", 21, 14.5)
    label(axis, 5.6, 13.6, "queries stream, for each key block anew")
    arrow(axis, (2.2, 12.9), (9, 12.9))
    for run in range(4):
        for block in range(2):
            y = 11 - 2.5 * run - 1.2 * block
            box(axis, 2, y, 7.2, 1.1, facecolor=PALE_RUNS[run])
            box(axis, 0.6, y, 1, 1.1, facecolor=PALE_RUNS[run])
            label(axis, 1.1, y + 0.55, "dK", fontsize=8)
        y = 11 - 2.5 * run
        label(axis, 5.6, y + 0.55, f"run {run}: opens its partial", fontsize=8)
        label(axis, 5.6, y - 0.65, "the next key block adds to it", fontsize=8)
        box(axis, 11.2, y - 0.6, 5, 1, facecolor=PALE_RUNS[run])
        label(axis, 13.7, y - 0.1, f"partial {run}, float32", fontsize=8)
        arrow(axis, (9.3, y - 0.05), (11.1, y - 0.1), color=RUNS[run])
        arrow(axis, (16.3, y - 0.1), (18.1, 7.2 if run < 2 else 6.8), color=RUNS[run])
    box(axis, 18.2, 6.3, 2.4, 1.4, facecolor=ORANGE)
    label(axis, 19.4, 7, "dQ", color="white")
    label(axis, 19.4, 5.4, "sum_partials:\n0, 1, 2, 3", fontsize=8, color=GREY)
    label(axis, 0.6, 0.9, "one program a run; no two programs write one address", color=GREY,
          ha="left")  # fmt: skip


def draw_values(axis: Any) -> None:
    """backward_values: one program of dV."""
    bare(axis, "backward_values: dV, scores computed again", 21, 14.5)
    box(axis, 0.6, 2.4, 1, 8)
    box(axis, 0.6, 6.4, 1, 2, facecolor=BLUE)
    label(axis, 1.1, 1.7, "K")
    box(axis, 2, 2.4, 8, 8, facecolor="none", linestyle=(0, (3, 2)), edgecolor=GREY)
    for block in range(5):
        shade = (LIGHT_GREY, LIGHT_GREY, BLUE, "white", "white")[block]
        box(axis, 2 + 1.6 * block, 6.4, 1.6, 2, facecolor=shade)
        box(axis, 2 + 1.6 * block, 10.8, 1.6, 1, facecolor=shade)
    label(axis, 6, 7.4, "$P_i^T$", color="white", fontsize=11)
    label(axis, 1.8, 11.3, "Qᵀ", ha="right")
    arrow(axis, (5.2, 12.4), (9, 12.4))
    label(axis, 7, 13, "queries stream")
    box(axis, 11, 2.4, 8, 8)
    box(axis, 11, 6.4, 4, 2, facecolor=ORANGE)
    label(axis, 13, 7.4, "dV += $P_i^T\\,dOut_i$", color="white", fontsize=8.5)
    label(axis, 15, 1.7, "dV, times gamma at the end")
    box(axis, 11, 11, 8, 2.4)
    box(axis, 11, 11.8, 4, 0.8, facecolor=BLUE)
    label(axis, 17, 12.2, "dOut", fontsize=9)
    arrow(axis, (13, 11.7), (13, 8.5))
    text = "BLOCK_DV columns; P does\nnot depend on them: other\nprograms take the others"
    label(axis, 15, 4.4, text, fontsize=8, color=GREY)


def draw_backward() -> Any:
    figure, axes = pyplot.subplots(1, 2, figsize=(11, 4.1))
    draw_runs(axes[0])
    draw_values(axes[1])
    figure.subplots_adjust(0.005, 0.005, 0.995, 0.94, wspace=0.02)
    return figure


FIGURES = {
    "kernels-forward": draw_forward,
    "kernels-rotation": draw_rotation,
    "kernels-waves": draw_waves,
    "kernels-backward": draw_backward,
}


def main() -> None:
    matplotlib.use("Agg")
    for name, draw in FIGURES.items():
        figure = draw()
        target = Path(__file__).with_name(f"{name}.png")
        figure.savefig(target, dpi=DOTS_PER_INCH, facecolor="white", metadata={"Software": None})
        pyplot.close(figure)


if __name__ == "__main__":
    main()
