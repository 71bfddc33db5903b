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
    return "\n".join([*lines, "", conditions(rows[0]), ""])


def conditions(row: dict[str, str]) -> str:
    """What stands under a table."""
    return (
        f"Measured on {row['gpu']}, torch {row['torch']}, {row['date']}: medians, the three timed "
        "in turn in one process after their results were compared (`python bench/attention.py`)."
    )


def rewrite(text: str) -> str:
    """The README with its tables made anew."""
    begin, end = BEGIN.format("attention-cpu"), END.format("attention-cpu")
    before, _, rest = text.partition(begin)
    _, marker, after = rest.partition(end)
    if not marker:
        sys.exit(f"README.md must hold {begin.strip()} and {end}")
    return before + begin + attention_table() + end + after


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
