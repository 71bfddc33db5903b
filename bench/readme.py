"""Write the README's tables from bench/results: figures are never typed.

python bench/readme.py            rewrite the tables between the markers
python bench/readme.py --check    exit 1 where the README differs from the results
"""

import argparse
import csv
import sys
from pathlib import Path

RESULTS = Path(__file__).resolve().parent / "results"
README = Path(__file__).resolve().parents[1] / "README.md"
BEGIN, END = "<!-- begin {} -->\n", "<!-- end {} -->"
BLOCKS = {"ha1": "HA1, 3136 tokens", "ha2": "HA2, 784 tokens"}
MODES = {"forward": "forward", "step": "forward and backward"}
NETWORKS = {"hmc": "HMC-Net", "resnet50": "ResNet50"}
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
    return finished(lines, rows[0], "inference.py", "float32 but for the last column, all in turn")


def finished(lines: list[str], row: dict[str, str], script: str, how: str) -> str:
    """A table and, under it, its conditions."""
    conditions = (
        f"Measured on {row['gpu']}, torch {row['torch']}, {row['date']}: medians, {how} in one "
        f"process after their results were compared (`python bench/{script}`)."
    )
    return "\n".join([*lines, "", conditions, ""])


TABLES = {"attention-cpu": attention_table, "inference-cpu": inference_table}


def rewrite(text: str) -> str:
    """The README with its tables made anew."""
    for name, table in TABLES.items():
        begin, end = BEGIN.format(name), END.format(name)
        before, _, rest = text.partition(begin)
        _, marker, after = rest.partition(end)
        if not marker:
            sys.exit(f"README.md must hold {begin.strip()} and {end}")
        text = before + begin + table() + end + after
    return text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="compare, write nothing")
    check = parser.parse_args().check
    text = README.read_text()
    made = rewrite(text)
    if check and made != text:
        sys.exit("README.md differs from bench/results: run python bench/readme.py")
    if not check:
        README.write_text(made)


if __name__ == "__main__":
    main()
