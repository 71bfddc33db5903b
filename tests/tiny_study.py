"""A made-up study: 40 patients with two films each, five folds, seven models of known strength."""

from typing import Any

import numpy as np

from hmc_fast.evaluation.summary import metrics_document

CLASSES = ("normal", "benign", "malignant", "other")
PATIENTS, FILMS, FOLDS, EPOCHS, SIZE = 40, 2, 5, 2, 16
BLOCKS = {
    "hmc": ("ha1", "ha2", "ca23", "ca34"),
    "hierarchical": ("ha1", "ha2"),
    "multiscale": ("ca23", "ca34"),
}
# how far the true class's logit stands above the others, in their standard deviation
STRENGTH = {
    "hmc": 1.8,
    "hierarchical": 1.3,
    "multiscale": 1.0,
    "resnet50": 0.5,
    "vgg16": 0.4,
    "vgg19": 0.3,
    "vit_b_16": 0.0,
}
LEAK_STRENGTH = {"patient": 1.8, "image": 2.5, "leaky": 8.0}
METHODS = ("grad-cam", "grad-cam++", "score-cam")


def tiny_study(
    runs: int = 4,
    leak: bool = True,
    explanations: bool = True,
    classes: int = 3,
    seed: int = 0,
    gamma: float = 0.2,
    strength: float = 1.0,
) -> dict[str, Any]:
    """The `study` dict of `runs` (1 to 7) models, with or without leak study and explanations.

    classes: 2 to 4; gamma: of every attention block; strength: factor of what the models know, 0
    for nothing.
    """
    random, names = np.random.default_rng(seed), list(CLASSES[:classes])
    labels = film_labels(classes)
    made = [
        make_run(variant, labels, names, random, known * strength, gamma=gamma)
        for variant, known in list(STRENGTH.items())[:runs]
    ]
    leaks = [
        made[0]
        if protocol == "patient"
        else make_run("hmc", labels, names, random, known * strength, protocol, gamma)
        for protocol, known in LEAK_STRENGTH.items()
    ]
    return {
        "dataset": {
            "name": "made up",
            "classes": names,
            "images": len(labels),
            "patients": PATIENTS,
            "counts": dict(zip(names, np.bincount(labels).tolist(), strict=True)),
            "warnings": ["One film is odd."],
            "mias": False,
        },
        "runs": made,
        "leak": leaks if leak else [],
        "complexity": {name: complexity(place) for place, name in enumerate(list(STRENGTH)[:runs])},
        "explanations": explained(random) if explanations else None,
        "config": {"data": "made up", "seed": seed, "epochs": EPOCHS, "image_size": 64, "folds": 5},
        "environment": made[0]["environment"],
        "commands": ["hmc-fast study --data phantom --out study"],
        "files": {f"runs/{run['name']}/predictions.csv": "ab" * 32 for run in made},
    }


def film_labels(classes: int) -> np.ndarray:
    """(n,) int: half of the patients of class 0, the others dealt to the rest; of a sick patient in
    four the other film is of class 0."""
    patient = np.arange(PATIENTS)
    worst = np.where(patient % 2 == 0, 0, 1 + patient // 2 % (classes - 1))
    labels = np.repeat(worst, FILMS)
    labels[1::8] = 0
    return labels


def make_run(variant, labels, names, random, known, protocol="patient", gamma=0.2):
    """A finished run whose true logit stands `known` standard deviations above the others."""
    patient = np.repeat(np.arange(PATIENTS), FILMS)
    films = np.arange(len(labels))
    folds = patient // 2 % FOLDS if protocol == "patient" else films % FOLDS
    logits = random.standard_normal((len(labels), len(names)))
    logits += known * np.eye(len(names))[labels] + 0.5 * (np.arange(len(names)) == 0)
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    patients = [f"p{number:02d}" for number in patient]
    blocks = BLOCKS.get(variant, ())
    gammas = {fold: {block: gamma - 0.01 * fold for block in blocks} for fold in range(FOLDS)}
    metrics = metrics_document(
        labels,
        probabilities,
        patients,
        folds,
        names,
        seconds=50.0,
        gammas=gammas if blocks else {},
        resamples=200,
    )
    name = variant if protocol == "patient" else f"{variant}-{protocol}"
    return {
        "name": name,
        "variant": variant,
        "protocol": protocol,
        "folder": f"runs/{name}",
        "images": [f"film{number:02d}" for number in films],
        "patients": patients,
        "folds": folds,
        "labels": labels,
        "probabilities": probabilities,
        "breasts": [f"{patients[i]} {'left' if i % 2 else 'right'}" for i in films],
        "metrics": metrics,
        "history": [row for fold in range(FOLDS) for row in history(fold)],
        "config": {"variant": variant, "protocol": protocol, "folds": FOLDS, "image_size": 64},
        "environment": {"torch": "2.14.1", "commit": "0" * 12, "device": "cpu"},
        "steps": [8 * EPOCHS] * FOLDS,
    }


def history(fold):
    """The rows of a fold's history: 64 images and 5 seconds an epoch."""
    return [
        {
            "fold": fold,
            "epoch": epoch,
            "images": 64 * epoch,
            "train_loss": 1 / epoch,
            "train_accuracy": 0.3 * epoch,
            "test_loss": 1.1 / epoch if epoch == EPOCHS else None,
            "test_accuracy": 0.25 * epoch if epoch == EPOCHS else None,
            "seconds": 5.0,
            "images_per_s": 12.8,
        }
        for epoch in range(1, EPOCHS + 1)
    ]


def complexity(place):
    """Made-up sizes of the network at a place in the list; the last ones were not timed."""
    gmac = 9.0 - place
    ms = 50.0 - place if place < 4 else None
    times = {"ms": ms, "optimised_ms": ms and ms / 2}
    return {"parameters": 33_000_000 - place, "gmac": gmac, "gflop": 2 * gmac, **times}


def explained(random):
    """Explanations of three films, with a bound of 0.51 for the IoU."""
    table = []
    for place, method in enumerate(METHODS):
        row = {"method": method, "layer": "layer4", "images": 3, "left_out": 0, "paper": None}
        iou = {"figure": "iou", "mean": 0.1 + 0.1 * place, "low": 0.05, "high": 0.4}
        hits = {"figure": "pointing_game", "mean": 0.5, "low": None, "high": None}
        table.append({**row, **iou, "bound": 0.51, "fitted": 0.48})
        table.append({**row, **hits, "bound": None, "fitted": None})
    panels = []
    for number, label in enumerate(("benign", "malignant", "malignant")):
        mask = np.zeros((SIZE, SIZE), dtype=bool)
        mask[4:9, 3 + number : 9 + number] = True
        maps = {name: random.random((SIZE, SIZE)).astype(np.float32) for name in METHODS}
        film = (200 * random.random((SIZE, SIZE))).astype(np.uint8)
        panels.append(
            {
                "image": f"film{number:02d}",
                "label": label,
                "predicted": "benign",
                "film": None if number == 2 else film,
                "mask": mask,
                "maps": maps,
            }
        )
    rows = [
        {"image": p["image"], "label": p["label"], "method": m, "layer": "layer4", "iou": 0.2}
        for p in panels
        for m in METHODS
    ]
    notes = ["Three films, chosen by a seed."]
    return {"variant": "hmc", "rows": rows, "table": table, "panels": panels, "notes": notes}
