"""Bars of milliseconds an image, one panel a batch size."""

from collections.abc import Sequence

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from hmc_fast.evaluation.figures import COLOURS, PAGE, STYLE
from hmc_fast.profiling.latency import Latency
from hmc_fast.profiling.sides import COMPILED, EAGER, OPTIMISED
from hmc_fast.profiling.tables import number
from hmc_fast.profiling.timing import quantiles

SHADES = {EAGER: (COLOURS[0], ""), COMPILED: (COLOURS[5], "//"), OPTIMISED: (COLOURS[2], "..")}
BAR = 0.19  # inches
ROOM = 1.2  # for the numbers behind the bars


def latency_bars(latencies: Sequence[Latency], title: str) -> Figure:
    """Horizontal bars of the medians with whiskers from the 20 to the 80 % quantile.

    Providers differ in colour and in hatching; title: the machine, above all panels.
    """
    batches = list(dict.fromkeys(found.batch for found in latencies))
    with matplotlib.rc_context({**STYLE, "hatch.linewidth": 0.4}):
        most = max(sum(found.batch == batch for found in latencies) for batch in batches)
        size = (PAGE, 0.9 + BAR * most)
        figure = Figure(figsize=size, layout="constrained")
        panels = figure.subplots(1, len(batches), sharey=True, squeeze=False)[0]
        for axes, batch in zip(panels, batches, strict=True):
            _panel(axes, [found for found in latencies if found.batch == batch])
        panels[0].invert_yaxis()
        figure.suptitle(title, fontsize=7)
    return figure


def _panel(axes: Axes, latencies: Sequence[Latency]) -> None:
    longest = 0.0
    for found in latencies:
        ms = quantiles(found.ms_an_image())
        colour, hatch = SHADES[found.name.provider]
        ends = [[ms["q50"] - ms["q20"]], [ms["q80"] - ms["q50"]]]
        axes.barh(
            str(found.name), ms["q50"], xerr=ends, color=colour, hatch=hatch, edgecolor="white",
            error_kw={"linewidth": 0.9, "capsize": 2},
        )  # fmt: skip
        place = (ms["q80"], str(found.name))
        axes.annotate(f" {number(ms['q50'])}", place, va="center", fontsize=6.5)
        longest = max(longest, ms["q80"])
    axes.set(xlabel="ms an image", title=f"batch {latencies[0].batch}", xlim=(0, ROOM * longest))
    axes.grid(visible=False, axis="y")
