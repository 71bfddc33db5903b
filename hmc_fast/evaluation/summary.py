"""What metrics.json holds: every fold, mean and sd, pooled figures with intervals, the majority."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from hmc_fast.evaluation.intervals import patient_bootstrap
from hmc_fast.evaluation.metrics import classification_metrics, majority_metrics, mean_and_sd

LEVEL = 0.95


def metrics_document(
    labels: Any,
    probabilities: Any,
    patients: Sequence[str],
    folds: Any,
    classes: Sequence[str],
    *,
    seconds: float,
    gammas: Mapping[int, Mapping[str, float]],
    resamples: int = 2000,
    seed: int = 0,
) -> dict[str, Any]:
    """All figures of a run from its out-of-fold predictions, ready for JSON.

    labels, folds: (n,) int; probabilities: (n, C); patients: one name an image; each image stands
    once, predicted by the model of the fold that tests it. seconds: what the training took;
    gammas: {fold: {block: gamma}}, empty without attention blocks; seed: of the bootstrap.

    Returns {"per_fold": [{"fold", "patients", ...classification_metrics, "gamma"}], "mean", "sd",
    "pooled": {"patients", ...classification_metrics, "intervals": {metric: [low, high]},
    "bootstrap": {"level", "resamples", "seed"}}, "majority": majority_metrics, "seconds"}.
    Raises ValueError: as `classification_metrics` and `patient_bootstrap`.
    """
    labels, folds, probabilities = np.asarray(labels), np.asarray(folds), np.asarray(probabilities)
    names = np.asarray(patients)

    def figures(chosen: np.ndarray) -> dict[str, Any]:
        values = classification_metrics(labels[chosen], probabilities[chosen], classes)
        return {"patients": len(np.unique(names[chosen])), **values}

    intervals = patient_bootstrap(
        labels, probabilities, patients, classes, resamples=resamples, level=LEVEL, seed=seed
    )
    per_fold = [
        {"fold": fold, **figures(folds == fold), "gamma": _finite(gammas.get(fold, {}))}
        for fold in np.unique(folds).tolist()
    ]
    mean, sd = mean_and_sd(per_fold)
    bootstrap = {"level": LEVEL, "resamples": resamples, "seed": seed}
    return {
        "per_fold": per_fold,
        "mean": mean,
        "sd": sd,
        "pooled": {
            **figures(np.ones(len(labels), bool)),
            "intervals": intervals,
            "bootstrap": bootstrap,
        },
        "majority": majority_metrics(labels, classes),
        "seconds": float(seconds),
    }


def _finite(gamma: Mapping[str, float]) -> dict[str, float | None]:
    """Each block's gamma as a float; None for one that is not finite, which JSON cannot hold."""
    return {block: float(value) if math.isfinite(value) else None for block, value in gamma.items()}
