"""What the runs were: size of the networks, folds, budget, gamma, and where the maps look."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from hmc_fast.evaluation import paper
from hmc_fast.evaluation.report.wording import gamma_sentence
from hmc_fast.evaluation.study_runs import Run, Study, every_run
from hmc_fast.evaluation.study_table import StudyTable

# columns of explain's table.csv
TABLE_6 = (
    "method", "layer", "figure", "images", "left_out", "mean", "low", "high",
    "bound", "fitted", "paper",
)  # fmt: skip
FIGURE = TABLE_6.index("figure")
SIZE = {
    "parameters": "parameters",
    "gmac": "GMAC",
    "gflop": "GFLOP",
    "ms": "batch 1 ms",
    "optimised_ms": "optimised, batch 1 ms",
}


def complexity_table(study: Study) -> StudyTable | str:
    """Table 2: parameters, operations and time an image, the paper's in columns of their own."""
    found = study["complexity"]
    if not found:
        return "Table 2 (size and speed): nothing was counted."
    rows = [[name, *_size(one), *_printed_size(name)] for name, one in found.items()]
    machine = study.get("timing_machine") or "this machine"
    if {"hmc", "resnet50"} <= found.keys():
        rows.append(_ratio_row(found))
    return StudyTable(
        "table2_complexity",
        "Table 2. Size and speed",
        ["model", *SIZE.values(), "paper million parameters", "paper GFLOP", "paper ms"],
        rows,
        [
            "Counted for one image of the paper's 224 x 224 pixels: convolutions, linear layers "
            f"and the attention products; 1 MAC is 2 FLOP. ms: measured on {machine} at batch 1, "
            "the network as it is in float32 and optimised for inference, empty where not "
            "measured; the paper's are of its own machine.",
            f"Columns of the paper: {paper.SOURCE}, Table 2; other models are not in it.",
        ],
    )


def localisation_table(study: Study) -> StudyTable | str:
    """Table 6: where the maps look, with the IoU that maps of so few cells can reach at all."""
    explanations = study["explanations"]
    if explanations is None or not explanations["table"]:
        return "Table 6 (localisation): no explanations were made."
    rows = [[row[column] for column in TABLE_6] for row in explanations["table"]]
    for row in rows:
        row[FIGURE] = "IoU" if row[FIGURE] == "iou" else row[FIGURE].replace("_", " ")
    return StudyTable(
        "table6_localisation",
        f"Table 6. Localisation and faithfulness of the explanations of {explanations['variant']}",
        [column.replace("_", " ") for column in TABLE_6],
        rows,
        [
            "Intervals: 95 %, draws of whole patients. Bound: no map of so many cells can pass "
            "this mean IoU on these masks; fitted: what maps fitted to each mask reach.",
            *explanations["notes"],
        ],
    )


def gamma_table(study: Study) -> StudyTable | str:
    """Gamma of each attention block by run and fold."""
    runs = every_run(study)
    found = [(run, fold) for run in runs for fold in run["metrics"]["per_fold"] if fold["gamma"]]
    if not found:
        return "Gamma: no model of this study has an attention block."
    blocks = list(dict.fromkeys(block for _, fold in found for block in fold["gamma"]))
    rows = [
        [run["name"], fold["fold"], *(fold["gamma"].get(block) for block in blocks)]
        for run, fold in found
    ]
    # without the leak study's: no variant is compared there
    sentences = [(run["name"], gamma_sentence(run["metrics"]["per_fold"])) for run in study["runs"]]
    return StudyTable(
        "gamma",
        "Gamma of each attention block: 0 switches it off",
        ["model", "fold", *blocks],
        rows,
        [f"{name}: {sentence}" for name, sentence in sentences if sentence],
        digits=4,
    )


def training_table(study: Study) -> StudyTable:
    """What each run was trained on and how long it took."""
    rows = []
    for run in every_run(study):
        images = sum(_last(run, "images").values())
        seconds = sum(row["seconds"] for row in run["history"])
        folds, steps = len(_last(run, "images")), sorted(set(run["steps"]))
        rows.append([run["name"], run["protocol"], folds, _range(steps), images, seconds])
        rows[-1].append(images / max(seconds, 1e-9))
    return StudyTable(
        "training",
        "Training",
        ["model", "protocol", "folds", "steps a fold", "images seen", "training s", "images/s"],
        rows,
        [
            "Seconds of steps, without evaluations and checkpoints; all folds together. Other jobs "
            "may have run beside: this is no benchmark."
        ],
        digits=1,
    )


def fold_table(study: Study) -> StudyTable:
    """Images, patients and classes of each test fold."""
    run, classes = study["runs"][0], study["dataset"]["classes"]
    labels, folds = np.asarray(run["labels"]), np.asarray(run["folds"])
    patients = np.asarray(run["patients"])
    rows = []
    for fold in np.unique(folds).tolist():
        chosen = folds == fold
        counts = np.bincount(labels[chosen], minlength=len(classes)).tolist()
        people = len(np.unique(patients[chosen]))
        rows.append([f"fold {fold}", int(chosen.sum()), people, *counts, 1 / int(chosen.sum())])
    shared = all(np.array_equal(other["folds"], folds) for other in study["runs"])
    counts = np.bincount(labels, minlength=len(classes)).tolist()
    rows.append(["all", len(labels), len(np.unique(patients)), *counts, 1 / len(labels)])
    return StudyTable(
        "folds",
        "Test folds",
        ["fold", "images", "patients", *classes, "one error costs"],
        rows,
        [
            "The same folds for every model." if shared else f"The folds of {run['name']}.",
            "One error costs: of the fold's accuracy.",
        ],
        digits=4,
    )


def _size(found: Mapping[str, Any]) -> list[Any]:
    return [found.get(key) for key in SIZE]


def _printed_size(variant: str) -> list[float | None]:
    printed = paper.TABLE_2.get(variant)
    return list(printed) if printed else [None, None, None]


def _ratio_row(found: Mapping[str, Mapping[str, Any]]) -> list[Any]:
    """hmc over resnet50, ours and the paper's each by themselves."""
    pairs = list(zip(_size(found["hmc"]), _size(found["resnet50"]), strict=True))
    ours = [None if None in pair else pair[0] / pair[1] for pair in pairs]
    printed = zip(paper.TABLE_2["hmc"], paper.TABLE_2["resnet50"], strict=True)
    return ["hmc over resnet50", *ours, *(above / below for above, below in printed)]


def _last(run: Run, column: str) -> dict[int, Any]:
    """{fold: the last value of a column of the history}."""
    return {row["fold"]: row[column] for row in run["history"]}


def _range(values: list[int]) -> str:
    ends = dict.fromkeys((values[0], values[-1])) if values else {}
    return " to ".join(map(str, ends))
