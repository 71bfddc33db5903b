"""Draw docs/score_cam.png from bench/results/score_cam-cpu.csv: seconds an explanation.

python bench/score_cam_figure.py [--results FILE] [--out FILE]
"""

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes

from waterfall_figure import BLUE, GREY, Row, arguments, finish, read

NAMES = {
    "torchcam": "torchcam 0.5.0",
    "grad-cam": "grad-cam 1.5.7",
    "torchcam-best": "torchcam, batch 8,\ndenormals flushed",
    "ours": "hmc-fast, float32",
    "ours-bf16": "hmc-fast, bfloat16",
}


def draw(axes: Axes, rows: list[Row], metric: str, scale: float, label: str) -> None:
    """A bar a provider; the value at its end."""
    found = {r["provider"]: r for r in rows if r["op"] == "score-cam" and r["metric"] == metric}
    names = [name for name in NAMES if name in found]
    for place, name in enumerate(names):
        q50, q20, q80 = (float(found[name][q]) * scale for q in ("q50", "q20", "q80"))
        colour = BLUE if name.startswith("ours") else GREY
        axes.barh(place, q50, xerr=[[q50 - q20], [q80 - q50]], color=colour, ecolor="black")
        axes.text(
            q80, place, f"  {q50:.0f}" if q50 > 100 else f"  {q50:.1f}", va="center", fontsize=8
        )
    axes.set_yticks(range(len(names)), [NAMES[name] for name in names])
    axes.margins(x=0.15)
    axes.set_xlabel(label)
    axes.spines[["top", "right"]].set_visible(False)


def conditions(rows: list[Row]) -> str:
    """What stands under the figure."""
    row = next(r for r in rows if r["op"] == "score-cam")
    return (
        f"Exact Score-CAM of one image, HMC-Net, {row['d_v']} channels of layer1, {row['n']} px; "
        f"{row['gpu']}, torch {row['torch']}, {row['date']}.\nMedians and 20 to 80 % bars, all "
        "timed in turn after the float32 maps agreed to 1e-4. Memory: a process's own, without its "
        "libraries' files."
    )


def main() -> None:
    args = arguments(__doc__.splitlines()[0], "score_cam")
    rows = read(args.results)
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 2.8), layout="constrained", sharey=True)
    draw(left, rows, "ms", 1e-3, "seconds an image")
    draw(right, rows, "peak_mib", 1.0, "peak memory, MiB")
    left.invert_yaxis()  # they share it
    finish(figure, conditions(rows), args.out)


if __name__ == "__main__":
    main()
