"""The paper's Table 2 beside what its equations give and what was measured here."""

import math
from collections.abc import Mapping

from hmc_fast.evaluation.paper import TABLE_2 as PAPER
from hmc_fast.profiling.closed_form import closed_form
from hmc_fast.profiling.counts import Architecture, Counts, parameters
from hmc_fast.profiling.tables import aligned, number

PIXELS = 224
REDUCTIONS = (8, 4, 2, 1)
BESIDE = "paper"


def table_two(counts: Mapping[str, Counts], ms: Mapping[str, Mapping[str, float]]) -> list[str]:
    """Lines: parameters, GFLOP and ms an image of every network, the paper's in columns of their
    own, and what hmc costs over resnet50.

    ms: median at batch 1 by side and network; no side where nothing was timed.
    """
    header = [
        "",
        "M parameters",
        BESIDE,
        "GFLOP",
        BESIDE,
        *(f"ms {side}" for side in ms),
        "paper ms",
    ]
    rows = [_row(name, found, ms) for name, found in counts.items()]
    if all(name in times for times in ms.values() for name in PAPER):
        rows += [_ratios(counts, ms)] if set(PAPER) <= counts.keys() else []
    return aligned(header, rows)


def _row(name: str, found: Counts, ms: Mapping[str, Mapping[str, float]]) -> list[str]:
    printed = PAPER.get(name)
    values = [found.parameters / 1e6, found.gflop]
    beside = [f"{value:g}" for value in printed] if printed else ["-"] * 3
    times = [number(times.get(name)) for times in ms.values()]
    return [name, number(values[0]), beside[0], number(values[1]), beside[1], *times, beside[2]]


def _ratios(counts: Mapping[str, Counts], ms: Mapping[str, Mapping[str, float]]) -> list[str]:
    """hmc over resnet50 in every column."""
    hmc, resnet50 = counts["hmc"], counts["resnet50"]
    paper = [a / b for a, b in zip(PAPER["hmc"], PAPER["resnet50"], strict=True)]
    ours = [hmc.parameters / resnet50.parameters, hmc.gflop / resnet50.gflop]
    ours += [times["hmc"] / times["resnet50"] for times in ms.values()]
    in_order = [ours[0], paper[0], ours[1], paper[1], *ours[2:], paper[2]]
    return ["hmc over resnet50", *(f"{value:.2f}x" for value in in_order)]


def size_sentence() -> str:
    """What the equations give instead of the paper's 45 M and 25 G, and the reduction that comes
    closest; all computed."""
    found = {reduction: sizes(reduction) for reduction in REDUCTIONS}
    printed = PAPER["hmc"]
    nearest = min(found, key=lambda reduction: _distance(found[reduction], printed[:2]))
    (millions, gflop), (closest_millions, closest_gflop) = found[8], found[nearest]
    return (
        f"{printed.parameters} M / {printed.gflop} G does not follow from the paper's equations: "
        f"C/8 channels of queries and keys give {millions:.1f} M, {gflop:.1f} GFLOP; "
        f"reduction={nearest} comes closest: {closest_millions:.1f} M, {closest_gflop:.1f} GFLOP"
    )


def sizes(reduction: int) -> tuple[float, float]:
    """Millions of parameters and GFLOP of hmc at the paper's image size, 3 classes."""
    macs = sum(closed_form("hmc", PIXELS, reduction=reduction).values())
    return parameters(Architecture("hmc", PIXELS, reduction=reduction)) / 1e6, 2 * macs / 1e9


def _distance(found: tuple[float, float], wanted: tuple[float, float]) -> float:
    """The sum of relative differences, of logarithms."""
    return sum(abs(math.log(a / b)) for a, b in zip(found, wanted, strict=True))
