"""The tables of the report: plain rows of finished text."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hmc_fast.evaluation.metrics import PER_CLASS_METRICS
from hmc_fast.evaluation.report.wording import ABSENT, interval, number, percent

COLUMNS = {
    "accuracy": "Accuracy",
    "balanced_accuracy": "Balanced accuracy = sensitivity",
    "specificity": "Specificity",
    "precision": "Precision",
    "f1": "F1",
    "auc": "AUC",
}
CLASS_COLUMNS = {**COLUMNS, "accuracy_one_vs_rest": "Accuracy, one-vs-rest"}
CLASS_COLUMNS["sensitivity"] = "Sensitivity"
Row = tuple[str, ...]


@dataclass(frozen=True)
class Table:
    """A table; the first cell of a row is its heading, `foot` holds the rows that sum up.

    kind: "numbers" are set right, "words" left, "settings" may break anywhere to fit a phone.
    """

    caption: str
    header: Row
    rows: Sequence[Row]
    foot: Sequence[Row]
    kind: str = "numbers"


def headline(metrics: Mapping[str, Any]) -> list[dict[str, str]]:
    """The two figures that come first, each with its interval and the majority class's."""
    pooled, majority = metrics["pooled"], metrics["majority"]
    return [
        {
            "name": title,
            "value": number(pooled[name]),
            "level": percent(pooled["bootstrap"]["level"]),
            "interval": interval(pooled["intervals"][name]),
            "majority": number(majority[name]),
        }
        for name, title in (("balanced_accuracy", "Balanced accuracy"), ("accuracy", "Accuracy"))
    ]


def fold_table(metrics: Mapping[str, Any]) -> Table:
    """Every fold; mean ± sd, pooled, interval and majority class below."""
    pooled, majority = metrics["pooled"], metrics["majority"]
    rows = [_figures(f"fold {fold['fold']}", fold) for fold in metrics["per_fold"]]
    spread = (f"{number(metrics['mean'][m])} ± {number(metrics['sd'][m])}" for m in COLUMNS)
    ends = (interval(pooled["intervals"][m]) for m in COLUMNS)
    foot: list[Row] = [
        ("mean ± sd", "", *spread),
        _figures("pooled", pooled),
        (f"{percent(pooled['bootstrap']['level'])} interval", "", *ends),
        _figures(f"always “{majority['class']}”", majority),
    ]
    return Table("Test folds", ("", "Images", *COLUMNS.values()), rows, foot)


def class_table(pooled: Mapping[str, Any], majority: Mapping[str, Any]) -> Table:
    """Each class against the rest, pooled over the folds."""
    header = ("Class", "Images", *(CLASS_COLUMNS[name] for name in PER_CLASS_METRICS))
    rows: Sequence[Row] = [
        (name, str(row["n"]), *(number(row[m]) for m in PER_CLASS_METRICS))
        for name, row in pooled["per_class"].items()
    ]
    always = majority["per_class"][majority["class"]]
    foot: list[Row] = [
        (
            f"{majority['class']}, predicted always",
            str(always["n"]),
            *(number(always[m]) for m in PER_CLASS_METRICS),
        )
    ]
    return Table("Each class against the rest, pooled", header, rows, foot)


def confusion_table(confusion: Sequence[Sequence[int]], classes: Sequence[str]) -> Table:
    """Counts, truth in rows."""
    rows = [(name, *map(str, row)) for name, row in zip(classes, confusion, strict=True)]
    return Table("Images by truth (rows) and prediction (columns)", ("Truth", *classes), rows, [])


def wrong_table(predictions: Mapping[str, Any], classes: Sequence[str], most: int) -> Table:
    """The wrongly predicted images, the most confident first."""
    labels, probabilities = (np.asarray(predictions[m]) for m in ("labels", "probabilities"))
    predicted = probabilities.argmax(axis=1)
    order = np.argsort(-probabilities.max(axis=1), kind="stable")
    wrong = [int(index) for index in order if predicted[index] != labels[index]]
    rows = [
        (
            str(predictions["images"][index]),
            str(predictions["patients"][index]),
            str(predictions["folds"][index]),
            classes[labels[index]],
            classes[predicted[index]],
            number(float(probabilities[index, predicted[index]])),
        )
        for index in wrong[:most]
    ]
    caption = f"The most confident errors: {len(rows)} of {len(wrong)}"
    header = ("Image", "Patient", "Fold", "Truth", "Predicted", "Probability")
    return Table(caption, header, rows, [], "words")


def last_epoch_table(history: Sequence[Mapping[str, Any]]) -> Table:
    """The last row of each fold's history."""
    last = {row["fold"]: row for row in history}
    columns = ("train_loss", "train_accuracy", "test_loss", "test_accuracy")
    rows = [
        (f"fold {fold}", str(row["epoch"]), *(number(row[column]) for column in columns))
        for fold, row in sorted(last.items())
    ]
    header = ("", "Epoch", "Training loss", "Training accuracy", "Test loss", "Test accuracy")
    return Table("Last epoch", header, rows, [])


def gamma_table(per_fold: Sequence[Mapping[str, Any]]) -> Table:
    """Each attention block's gamma by fold."""
    blocks = list(dict.fromkeys(block for fold in per_fold for block in fold["gamma"]))
    header = ("Block", *(f"fold {fold['fold']}" for fold in per_fold))
    rows = [
        (block, *(number(fold["gamma"].get(block), 4) for fold in per_fold)) for block in blocks
    ]
    return Table("Gamma of each attention block after training", header, rows, [])


def counts_table(dataset: Mapping[str, Any]) -> Table:
    """Images of each class."""
    total = dataset["images"]
    rows = [(name, str(n), percent(n / total, 1)) for name, n in dataset["counts"].items()]
    return Table(
        "Classes", ("Class", "Images", "Share"), rows, [("all", str(total), percent(1.0, 1))]
    )


def fold_sizes_table(per_fold: Sequence[Mapping[str, Any]], classes: Sequence[str]) -> Table:
    """What each fold that ran tests."""
    rows = [
        (
            f"fold {fold['fold']}",
            str(fold["n"]),
            str(fold["patients"]),
            *(str(fold["per_class"][name]["n"]) for name in classes),
        )
        for fold in per_fold
    ]
    return Table("Test images of each fold", ("", "Images", "Patients", *classes), rows, [])


def settings_table(caption: str, values: Mapping[str, Any]) -> Table:
    """Names and values; what is nested is named with dots."""
    return Table(caption, ("Name", "Value"), list(_flat(values)), [], "settings")


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", _plain(value)


def _plain(value: Any) -> str:
    if value is None:
        return ABSENT
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.10g}"
    if isinstance(value, (list, tuple)):
        return ", ".join(map(_plain, value)) or ABSENT
    return str(value)


def _figures(title: str, values: Mapping[str, Any]) -> Row:
    return (title, str(values["n"]), *(number(values[m]) for m in COLUMNS))
