"""Write the tables and figures of docs/results.md from finished studies: no number is typed.

python docs/make_results.py STUDY NAME    copy from the folder of a study, then write the page
python docs/make_results.py               write the page from what was copied
python docs/make_results.py --check       exit 1 where the page differs from what was copied

NAME says data and budget. What stands between `<!-- begin NAME:BLOCK -->` and `<!-- end … -->` on
the page is made from docs/results/NAME/, BLOCK being one of TABLES, FIGURES, `settings` and
`findings`. Only these are copied: the films of MIAS may not be published, nor may heatmaps of them.
"""

import argparse
import csv
import json
import re
import shlex
import shutil
import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from PIL import Image
from results_table import markdown

from hmc_fast.evaluation.report.study_wording import hardware
from hmc_fast.files import write_csv

ROOT = Path(__file__).resolve().parents[1]
sys.path.append(str(ROOT / "bench"))
from markers import filled, names, write_or_check  # noqa: E402

PAGE, RESULTS = ROOT / "docs" / "results.md", ROOT / "docs" / "results"
SOURCES = ("study.json", "commands.json", "findings.txt", "tables")  # of a finished study
SETTINGS, FINDINGS = "settings", "findings"
TABLES = {  # what is missing where a study has no such table
    "table2_complexity": "size and speed",
    "table3_accuracy": "accuracy",
    "table4_macro": "precision, sensitivity, specificity and F1",
    "table5_auc": "area under the ROC curve",
    "table6_localisation": "explanations of films with a known lesion",
    "table8_nemenyi": "ranks of two networks or more",
    "table9_pairwise": "ranks of two networks or more",
    "pairs_by_patients": "comparison of two networks or more",
    "leak_study": "the leak study",
    "leak_differences": "the leak study",
    "ranks": "ranks of two networks or more",
    "friedman": "Friedman's test of three networks or more",
    "critical_difference": "ranks of two networks or more",
    "power": "power of the test of three networks or more",
    "corrected_t": "corrected t-test of two networks or more",
    "calibration": "calibration",
    "units": "figures per image and per patient",
    "gamma": "a network with attention",
    "folds": "test folds",
    "training": "training",
    "paper_against_itself": "the paper against itself",
}
FIGURES = {  # without a pixel of any film
    "fig5_metric_spread": "Accuracy, balanced accuracy and AUC of every fold and network",
    "fig11_critical_difference": "Mean ranks of the networks and the critical difference",
    "leak": "Balanced accuracy, accuracy and AUC under the three protocols of the leak study",
}
WIDTH, COLOURS = 1100, 128  # of a copied figure
SHORT = 12  # digits of a commit
PLACES = {"--data", "--out"}  # flags whose value says where files lie


def copy_study(study: Path, name: str) -> None:
    """Copy what the page shows of a study into RESULTS/name, in place of what is there."""
    wanted = [block for of, block in blocks_of_page() if of == name]
    if not wanted:
        sys.exit(f"{PAGE.name} has no block of {name}: <!-- begin {name}:{SETTINGS} --> is one")
    missing = [name for name in SOURCES if not (study / name).exists()]
    if missing:
        sys.exit(
            f"{study} holds no finished study ({missing[0]} is missing): `hmc-fast study --resume "
            f"--out {study}` trains what is left and writes its pages"
        )
    folder, rows = RESULTS / name, settings(study).items()
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    write_csv(folder / f"{SETTINGS}.csv", ["setting", "value"], rows)
    shutil.copyfile(study / "findings.txt", folder / f"{FINDINGS}.txt")
    for block in wanted:
        table, figure = study / "tables" / f"{block}.csv", study / "figures" / f"{block}.png"
        if block in TABLES and table.is_file():
            shutil.copyfile(table, folder / table.name)
        if block in FIGURES and figure.is_file():
            copy_figure(figure, folder / figure.name)


def copy_figure(source: Path, target: Path) -> None:
    """A smaller PNG of a figure's."""
    with Image.open(source) as figure:
        width = min(WIDTH, figure.width)
        size = width, round(figure.height * width / figure.width)
        small = figure.convert("RGB").resize(size, Image.Resampling.LANCZOS)
    small.quantize(COLOURS).save(target, optimize=True)


def settings(study: Path) -> dict[str, Any]:
    """What was run and where, in words, without the folders that files lie in."""
    values, commands = json_of(study / "study.json"), json_of(study / "commands.json")["commands"]
    training = values["training"]
    whole = rows_of(study / "tables" / "folds.csv")[-1]
    first = rows_of(study / "tables" / "table3_accuracy.csv")[0]["model"]
    environment = json_of(study / "runs" / first / "env.json")
    return {
        "images": f"{whole['images']} of {whole['patients']} patients, {kind(training['data'])}",
        "networks": values["variants"].replace(",", ", "),
        "pixels of a side": training["image_size"],
        "budget of a fold": budget(training, ""),
        "batch": training["batch_size"],
        "learning rate": training["lr"],
        "folds": training["folds"],
        "seed": training["seed"],
        "weights of the loss": training["class_weights"],
        "low precision": environment["precision"]["amp"],
        "network of the leak study": values["leak_variant"],
        "its budget, where it has its own": budget(values, "leak_"),
        "machine": hardware(environment).removeprefix("on "),
        "versions": f"torch {environment['packages']['torch']}, hmc-fast {environment['hmc_fast']}",
        "commits of the runs": commits(study),
        "commands": "; ".join(dict.fromkeys(map(public, commands))),
    }


def commits(study: Path) -> str:
    """Which run was trained by which commit: 'abc: hmc, resnet50; def: hmc-leaky'."""
    runs: dict[str, list[str]] = {}
    for path in sorted((study / "runs").glob("*/env.json")):
        commit = json_of(path)["commit"] or "unknown"
        changed = "-dirty" if commit.endswith("-dirty") else ""
        name = commit.removesuffix("-dirty")[:SHORT] + changed
        runs.setdefault(name, []).append(path.parent.name)
    return "; ".join(f"{commit}: {', '.join(names)}" for commit, names in runs.items())


def kind(data: str) -> str:
    """'phantom', 'mias' or 'a folder'."""
    return data.partition(":")[0] if data == "phantom" or data.startswith("mias:") else "a folder"


def budget(values: Mapping[str, Any], prefix: str) -> str:
    """'10 epochs' or '200000 augmented images'; '' where neither is given."""
    forms = {"epochs": "{} epochs", "augmented": "{} augmented images"}
    found = [form.format(n) for name, form in forms.items() if (n := values[f"{prefix}{name}"])]
    return ", ".join(found)


def public(command: str) -> str:
    """A command with DIR for every place where files lie."""
    words = shlex.split(re.sub(r"(--[a-z-]+)=", r"\1 ", command))
    for place, word in enumerate(words[1:], start=1):
        if words[place - 1] in PLACES and word != "phantom":
            words[place] = "mias:DIR" if word.startswith("mias:") else "DIR"
    return shlex.join(words)


def json_of(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text())


def rows_of(path: Path) -> list[dict[str, str]]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def blocks_of_page() -> list[tuple[str, str]]:
    """NAME and BLOCK of every pair of comments; exits for a block that nothing makes."""
    known = {*TABLES, *FIGURES, SETTINGS, FINDINGS}
    found = [name.rpartition(":")[::2] for name in names(PAGE)]
    for name, block in found:
        if not re.fullmatch("[a-z0-9-]+", name) or block not in known:
            sys.exit(
                f"{PAGE.name}: {name}:{block} must be NAME:BLOCK, NAME of a-z, 0-9 and -, BLOCK "
                f"one of {', '.join(sorted(known))}"
            )
    return found


def block_text(name: str, block: str) -> str:
    """What stands between the comments, or why there is nothing."""
    folder = RESULTS / name
    if not folder.is_dir():
        return f"*Not run yet: `docs/results/{name}` holds no study.*\n"
    if block == FINDINGS:
        lines = (folder / f"{FINDINGS}.txt").read_text().splitlines()
        return "".join(f"- {line}\n" for line in lines)
    if block in FIGURES:
        picture = f"![{FIGURES[block]}]({RESULTS.name}/{name}/{block}.png)\n"
        what = FIGURES[block][0].lower() + FIGURES[block][1:]
        return picture if (folder / f"{block}.png").is_file() else left_out(what)
    path = folder / f"{block}.csv"
    return markdown(path) if path.is_file() else left_out(TABLES[block])


def left_out(what: str) -> str:
    return f"*Not part of this study: {what}.*\n"


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("study", nargs="?", type=Path, help="folder of a finished study")
    parser.add_argument("name", nargs="?", help="says data and budget: mias-64px-10-epochs")
    parser.add_argument("--check", action="store_true", help="compare, write nothing")
    args = parser.parse_args(words)
    if (args.study is None) != (args.name is None) or (args.study and args.check):
        parser.error("give STUDY and NAME, or nothing, or --check alone")
    if args.study:
        copy_study(args.study, args.name)
    made = {f"{of}:{block}": partial(block_text, of, block) for of, block in blocks_of_page()}
    write_or_check(
        PAGE, filled(PAGE, made), args.check, "docs/results: run python docs/make_results.py"
    )


if __name__ == "__main__":
    main()
