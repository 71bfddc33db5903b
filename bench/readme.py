"""Write the tables of the README and of docs/ from bench/results: figures are never typed.

python bench/readme.py            rewrite the tables between the markers
python bench/readme.py --check    exit 1 where a page differs from the results
"""

import argparse
import csv
from pathlib import Path

from markers import filled, write_or_check

RESULTS = Path(__file__).resolve().parent / "results"
ROOT = Path(__file__).resolve().parents[1]
BLOCKS = {"ha1": "HA1, 3136 tokens", "ha2": "HA2, 784 tokens"}
MODES = {"forward": "forward", "step": "forward and backward"}
NETWORKS = {"hmc": "HMC-Net", "resnet50": "ResNet50"}
DTYPES = ("float64", "float32", "bfloat16")
PROVIDERS = [  # columns of the inference table behind the first
    ("float32", "onnxruntime"), ("float32", "openvino"), ("float32", "optimised"),
    ("bfloat16", "optimised"),
]  # fmt: skip


def read(name: str) -> list[dict[str, str]]:
    """The rows of bench/results/`name`.csv."""
    with open(RESULTS / f"{name}.csv", newline="") as file:
        return list(csv.DictReader(file))


def attention_table() -> str:
    """HA1 and HA2 on a CPU: three backends side by side."""
    rows = [r for r in read("attention-cpu") if r["metric"] == "ms" and r["dtype"] == "float32"]
    found = {(r["op"], r["batch"], r["mode"], r["provider"]): float(r["q50"]) for r in rows}
    lines = [
        "| attention block, fp32 | textbook | torch SDPA | `chunked` | against textbook |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    for op, title in BLOCKS.items():
        for batch in ("1", "8"):
            for mode, words in MODES.items():
                plain, sdpa, ours = (
                    found[op, batch, mode, name] for name in ("reference", "sdpa", "chunked")
                )
                lines.append(
                    f"| {title}, batch {batch}, {words} | {plain:.3g} ms | {sdpa:.3g} ms "
                    f"| {ours:.3g} ms | {plain / ours:.2f}x |"
                )
    return finished(lines, rows[0], "attention.py", "the three timed in turn")


def inference_table() -> str:
    """Networks and peers on a CPU, milliseconds an image."""
    rows = [r for r in read("inference-cpu") if r["metric"] == "ms"]
    found = {
        (r["op"], r["batch"], r["dtype"], r["provider"]): float(r["q50"]) / int(r["batch"])
        for r in rows
    }
    lines = [
        "| inference, ms an image | eager | onnxruntime | OpenVINO | optimised | bfloat16 |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for network, title in NETWORKS.items():
        for batch in ("1", "8"):
            eager = found[network, batch, "float32", "eager"]
            cells = [f"{eager:.0f}"]
            for dtype, provider in PROVIDERS:
                ms = found.get((network, batch, dtype, provider))
                cells.append("-" if ms is None else f"{ms:.0f} ({eager / ms:.2f}x)")
            lines.append(f"| {title}, batch {batch} | {' | '.join(cells)} |")
    costs = [
        f"{dtype}, batch {batch}: {found['hmc', *rest] / found['resnet50', *rest]:.2f}x"
        for dtype in ("float32", "bfloat16")
        for batch in ("1", "8")
        if ("hmc", *(rest := (batch, dtype, "optimised"))) in found
    ]
    text = finished(lines, rows[0], "inference.py", "float32 but for the last column, all in turn")
    return f"{text}What HMC-Net costs over ResNet50, both optimised: {'; '.join(costs)}.\n"


def finished(lines: list[str], row: dict[str, str], script: str, how: str) -> str:
    """A table and, under it, its conditions."""
    conditions = (
        f"Measured on {row['gpu']}, torch {row['torch']}, {row['date']}: medians, {how} in one "
        f"process after their results were compared (`python bench/{script}`)."
    )
    return "\n".join([*lines, "", conditions, ""])


def agreement_table() -> str:
    """max |Δp| from the original in float64."""
    rows = read("agreement-cpu")
    found = {(r["mode"], r["provider"], r["dtype"]): float(r["q50"]) for r in rows}
    lines = [
        "| 64 images | the original in float32 | optimised, float64 | float32 | bfloat16 |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    for name in dict.fromkeys(r["mode"] for r in rows):
        columns = [("eager", "float32"), *(("optimised", d) for d in DTYPES)]
        cells = (f"{found[name, *column]:.2g}" for column in columns if (name, *column) in found)
        lines.append(f"| {name} | {' | '.join(cells)} |")
    row = rows[0]
    conditions = f"{row['gpu']}, torch {row['torch']}, {row['date']} (`python bench/agreement.py`)."
    return "\n".join([*lines, "", conditions, ""])


def fidelity_table() -> str:
    """Score-CAM's approximations beside the exact map."""
    rows = [r for r in read("score_cam-cpu") if r["op"] == "score-cam-fidelity"]
    found = {(r["provider"], r["mode"]): float(r["q50"]) for r in rows}
    lines = [
        "| | masks tried | Pearson | IoU at 0.5 | largest difference | said to be missing |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for name in dict.fromkeys(r["provider"] for r in rows):
        tried, distinct = (found[name, column] for column in ("tried", "distinct"))
        figures = (found[name, column] for column in ("pearson", "iou", "max_difference"))
        cells = [f"{tried:.0f} of {distinct:.0f}", *(f"{value:.3f}" for value in figures)]
        lines.append(f"| `{name}` | {' | '.join(cells)} | {found[name, 'remaining']:.3f} |")
    row = rows[0]
    conditions = (
        f"hmc with random weights, a phantom image of {row['n']} px, the {row['d_v']} channels of "
        f"`layer4`, exact and approximate in {row['dtype']}; {row['gpu']}, {row['date']}."
    )
    return "\n".join([*lines, "", conditions, ""])


PAGES = {
    ROOT / "README.md": {"attention-cpu": attention_table, "inference-cpu": inference_table},
    ROOT / "docs" / "inference.md": {"agreement": agreement_table},
    ROOT / "docs" / "explain.md": {"fidelity": fidelity_table},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="compare, write nothing")
    check = parser.parse_args().check
    for page, tables in PAGES.items():
        made = filled(page, tables)
        write_or_check(page, made, check, "bench/results: run python bench/readme.py")


if __name__ == "__main__":
    main()
