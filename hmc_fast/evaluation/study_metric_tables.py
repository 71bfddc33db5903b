"""Tables 3, 4 and 5: how good the models are, fold by fold and pooled, with the paper's beside."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from hmc_fast.evaluation import paper
from hmc_fast.evaluation.intervals import patient_weights, weighted_auc
from hmc_fast.evaluation.metrics import PER_CLASS_METRICS, mean_of
from hmc_fast.evaluation.report.wording import interval_note
from hmc_fast.evaluation.study_runs import Run, Study, of_fold, word
from hmc_fast.evaluation.study_table import StudyTable

TABLE_4 = ("precision", "sensitivity", "specificity", "f1")
PAPER_COLUMNS = ["paper", "paper sd"]
PAPER_NOTE = f"Columns of the paper: {paper.SOURCE}. {paper.MISSING}"
DIGITS = 4  # the paper's standard deviations are of 0.0005


def accuracy_table(study: Study) -> StudyTable:
    """Table 3: each fold, mean, sd, pooled with interval, balanced accuracy, and the majority."""
    runs = study["runs"]
    folds = sorted({row["fold"] for run in runs for row in run["metrics"]["per_fold"]})
    header = ["model", *(f"fold {fold}" for fold in folds), "mean", "sd", "pooled", "low", "high"]
    header += ["balanced accuracy", "balanced low", "balanced high", *PAPER_COLUMNS]
    rows = [_accuracy_row(run, folds) for run in runs]
    return StudyTable(
        "table3_accuracy",
        "Table 3. Accuracy over the test folds",
        header,
        [*rows, _majority_row(runs[0], folds)],
        [*_interval_notes(study), PAPER_NOTE, _resolution(runs[0])],
        DIGITS,
    )


def macro_table(study: Study) -> StudyTable:
    """Table 4: precision, sensitivity, specificity and F1, means over the classes."""
    rows = []
    for run in study["runs"]:
        for metric in TABLE_4:
            majority = run["metrics"]["majority"][metric]
            rows.append([run["name"], word(metric), *_figures(run, metric), majority])
            rows[-1] += _printed(run, metric)
    header = ["model", "metric", "mean", "sd", "pooled", "low", "high", "majority class"]
    return StudyTable(
        "table4_macro",
        "Table 4. Precision, sensitivity, specificity and F1",
        [*header, *PAPER_COLUMNS],
        rows,
        [
            "Unweighted means over the classes, one against the rest; sensitivity is then the "
            "balanced accuracy.",
            *_interval_notes(study),
            PAPER_NOTE,
        ],
        DIGITS,
    )


def auc_table(study: Study) -> StudyTable:
    """Table 5: the area under the ROC curve, of all classes and of each against the rest."""
    rows = []
    for run in study["runs"]:
        rows.append([run["name"], "mean of the classes", *_figures(run, "auc")])
        rows[-1] += _printed(run, "auc")
        ends = class_auc_intervals(run, study["dataset"]["classes"])
        for name, found in run["metrics"]["pooled"]["per_class"].items():
            folds = [row["per_class"][name]["auc"] for row in run["metrics"]["per_fold"]]
            rows.append([run["name"], name, *_mean_and_sd(folds), found["auc"], *ends[name]])
            rows[-1] += [None, None]
    return StudyTable(
        "table5_auc",
        "Table 5. Area under the ROC curve, one class against the rest",
        ["model", "class", "mean", "sd", "pooled", "low", "high", *PAPER_COLUMNS],
        rows,
        [
            "Pooled areas compare probabilities of different folds' networks, which need not be on "
            "one scale; the mean is over the areas within each fold.",
            *_interval_notes(study),
            PAPER_NOTE,
        ],
        DIGITS,
    )


def class_table(study: Study) -> StudyTable:
    """Every class of every model against the rest, pooled."""
    rows = [
        [run["name"], name, found["n"], *(found[metric] for metric in PER_CLASS_METRICS)]
        for run in study["runs"]
        for name, found in run["metrics"]["pooled"]["per_class"].items()
    ]
    return StudyTable(
        "class_figures",
        "Each class against the rest, pooled over the folds",
        ["model", "class", "images", *(word(metric) for metric in PER_CLASS_METRICS)],
        rows,
        ["A class that is never predicted has precision 0 by convention (0/0)."],
    )


def class_auc_intervals(run: Run, classes: Sequence[str]) -> dict[str, list[float | None]]:
    """{class: [low, high]} of its pooled AUC, from the same draws as the run's other intervals;
    [None, None] where the AUC is undefined in every draw."""
    labels, probabilities = np.asarray(run["labels"]), np.asarray(run["probabilities"])
    bootstrap = run["metrics"]["pooled"]["bootstrap"]
    draws = list(
        patient_weights(
            labels, run["patients"], resamples=bootstrap["resamples"], seed=bootstrap["seed"]
        )
    )
    ends = [(1 - bootstrap["level"]) / 2, (1 + bootstrap["level"]) / 2]
    found: dict[str, list[float | None]] = {}
    for index, name in enumerate(classes):
        positive, score = labels == index, probabilities[:, index]
        areas = np.concatenate([weighted_auc(positive, score, weights) for weights in draws])
        areas = areas[np.isfinite(areas)]
        found[name] = np.quantile(areas, ends).tolist() if len(areas) else [None, None]
    return found


def _accuracy_row(run: Run, folds: Sequence[int]) -> list[Any]:
    each = [of_fold(run, fold, "accuracy") for fold in folds]
    balanced = run["metrics"]["pooled"]["balanced_accuracy"]
    row = [run["name"], *each, *_figures(run, "accuracy"), balanced]
    return [*row, *_ends(run, "balanced_accuracy"), *_printed(run, "accuracy")]


def _majority_row(run: Run, folds: Sequence[int]) -> list[Any]:
    """Always predicting the most frequent class, in every fold."""
    majority, labels = run["metrics"]["majority"], np.asarray(run["labels"])
    most = int(np.bincount(labels).argmax())
    chosen = [labels[np.asarray(run["folds"]) == fold] for fold in folds]
    each = [float((of_fold == most).mean()) if len(of_fold) else None for of_fold in chosen]
    row = [f"always “{majority['class']}”", *each, *_mean_and_sd(each), majority["accuracy"]]
    return [*row, None, None, majority["balanced_accuracy"], None, None, None, None]


def _figures(run: Run, metric: str) -> list[float | None]:
    """Mean, sd, pooled, low, high."""
    metrics = run["metrics"]
    spread = [metrics["mean"][metric], metrics["sd"][metric]]
    return [*spread, metrics["pooled"][metric], *_ends(run, metric)]


def _ends(run: Run, metric: str) -> list[float | None]:
    return list(run["metrics"]["pooled"]["intervals"][metric] or [None, None])


def _printed(run: Run, metric: str) -> list[float | None]:
    """The paper's mean and sd of this model."""
    found = paper.spread(run["variant"], metric)
    return list(found) if found else [None, None]


def _mean_and_sd(values: Sequence[float | None]) -> list[float | None]:
    defined = [value for value in values if value is not None]
    return [mean_of(values), float(np.std(defined, ddof=1)) if len(defined) > 1 else None]


def _interval_notes(study: Study) -> list[str]:
    return [interval_note(study["runs"][0]["metrics"])]


def _resolution(run: Run) -> str:
    """How much one image is worth."""
    images = [row["n"] for row in run["metrics"]["per_fold"]]
    steps = dict.fromkeys((f"{100 / max(images):.2f}", f"{100 / min(images):.2f}"))
    sizes = dict.fromkeys((str(min(images)), str(max(images))))
    return (
        f"A test fold has {' to '.join(sizes)} images: one error moves its accuracy by "
        f"{' to '.join(steps)} points of a hundred."
    )
