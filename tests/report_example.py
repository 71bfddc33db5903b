"""A small run whose figures can be worked out by hand, and a reader of its page."""

from html.parser import HTMLParser

import numpy as np

from hmc_fast.evaluation.summary import metrics_document

CLASSES = ("normal", "benign", "malignant")
LABELS = np.repeat(np.arange(3), 8)
RIGHT = np.array([True] * 4 + [True, True, False, False] + [True] * 4 + [False] * 4 + [True] * 8)
VOID = {"meta", "link", "img"}
DASH = "\N{EN DASH}"


class Page(HTMLParser):
    """Tags with attributes, the rows of each table by id, the text; tags that do not nest fail."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.open, self.tables, self.text = [], [], {}, ""
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "table":
            self.rows = self.tables[dict(attrs)["id"]] = []
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] in ("td", "th"):
            self.rows[-1][-1] += data
        if "style" not in self.open:
            self.text += data

    def attributes(self, name):
        return [attributes[name] for _, attributes in self.tags if name in attributes]

    def row(self, table, heading):
        (found,) = [row for row in self.tables[table] if row and row[0] == heading]
        return found[1:]


def make_run(*, classes=CLASSES, right=RIGHT, gamma=0.2, folds=(0, 1), **changes):
    """12 patients with 2 films each, the odd patients in fold 1; wrong films get the next class."""
    labels = LABELS % len(classes) if len(classes) < 3 else LABELS
    predicted = np.where(right, labels, (labels + 1) % len(classes))
    fold = np.arange(24) // 2 % 2
    chosen = np.isin(fold, folds)
    probabilities = 0.1 + 0.7 * np.eye(len(classes))[predicted[chosen]]
    patients = np.array([f"p{index // 2:02d}" for index in range(24)])[chosen].tolist()
    gammas = {k: {"ha1": gamma, "ca34": -gamma / 2} for k in folds} if gamma is not None else {}
    predictions = {
        "images": [f"film{index:02d}" for index in np.flatnonzero(chosen)],
        "patients": patients,
        "folds": fold[chosen],
        "labels": labels[chosen],
        "probabilities": probabilities,
    }
    metrics = metrics_document(
        *(predictions[name] for name in ("labels", "probabilities", "patients", "folds")),
        classes,
        seconds=125,
        gammas=gammas,
        resamples=100,
    )
    counts = {name: int(n) for name, n in zip(classes, np.bincount(labels), strict=True)}
    run = {
        "variant": "hmc",
        "dataset": {
            "name": "phantom",
            "classes": list(classes),
            "images": 24,
            "patients": 12,
            "counts": counts,
            "warnings": ["One film is odd."],
        },
        "folds_total": 2,
        "folds_done": len(folds),
        "predictions": predictions,
        "metrics": metrics,
        "history": [history_row(k, epoch) for k in folds for epoch in (1, 2)],
        "samples": None,
        "config": {"lr": 1e-4, "augmented": None, "compile": True, "data": {"size": 64}},
        "environment": {"torch": "2.14.1"},
        "command": "python train.py --seed 0",
        "next_commands": ["hmc-fast predict --run runs/hmc-1"],
        "notes": ["A note."],
        "files": {"predictions.csv": "ab" * 32},
    }
    return {**run, **changes}


def history_row(fold, epoch):
    losses = {"train_loss": 1 / epoch, "test_loss": None}
    return {
        "fold": fold,
        "epoch": epoch,
        "train_accuracy": 0.5,
        "test_accuracy": 0.25 * epoch,
        **losses,
    }
