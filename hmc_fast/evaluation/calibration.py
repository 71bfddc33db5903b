"""Do the probabilities mean what they say? Reliability curve, calibration error, Brier score.

    Brier = mean Σ_c (p_c - [label = c])², 0 to 2                              (Brier 1950)
    ECE   = Σ_b n_b / n |share right in bin b - mean probability in bin b|     (Guo et al. 2017)

over bins of equal width of the predicted class's probability; a bin holds its upper end. With few
images the ECE of a perfectly calibrated model is not 0: what chance alone gives for the very same
probabilities stands beside it, and an interval by resampling is too high for the same reason.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from hmc_fast.evaluation.intervals import check_draws, patient_weights
from hmc_fast.evaluation.metrics import check_predictions

CHANCE_DRAWS = 1000


def calibration(
    labels: Any,
    probabilities: Any,
    patients: Sequence[str],
    classes: Sequence[str],
    *,
    bins: int = 10,
    resamples: int = 2000,
    level: float = 0.95,
    seed: int = 0,
) -> dict[str, Any]:
    """How well the probabilities fit what was seen, with patient-bootstrap intervals.

    labels: (n,) int, indices into `classes`, which stand in order of severity; probabilities:
    (n, C), 0 to 1, rows that sum to 1; patients: one name an image.

    Returns {"brier", "brier_interval", "brier_of_shares" (of always giving the shares of the
    classes), "brier_skill" (1 - brier / brier_of_shares, None where that is 0), "ece",
    "ece_interval", "ece_by_chance" {"mean", "high"} (of calibrated predictions, high: its `level`
    quantile), "mean_confidence", "accuracy", "curve", "per_class": {class: {"ece", "curve"}}}, the
    curves as `reliability_curve`.
    Raises ValueError: as `patient_bootstrap`, what are no probabilities, or no bins.
    """
    labels, probabilities = check_predictions(labels, probabilities, classes)
    check_draws(labels, patients, resamples, level)
    check_probabilities(probabilities)
    confidence = probabilities.max(axis=1)
    right = (probabilities.argmax(axis=1) == labels).astype(np.float64)
    of_images = brier_of_images(labels, probabilities)
    shares = np.bincount(labels, minlength=len(classes)) / len(labels)
    of_shares = float(brier_of_images(labels, np.tile(shares, (len(labels), 1))).mean())
    gaps = _gaps(right, confidence, bins)
    draws = [
        (weights @ of_images / weights.sum(axis=1), _error(weights, gaps))
        for weights in patient_weights(labels, patients, resamples=resamples, seed=seed)
    ]
    ends = [(1 - level) / 2, (1 + level) / 2]
    brier, errors = (np.concatenate(values) for values in zip(*draws, strict=True))
    per_class = {
        name: {
            "ece": expected_calibration_error(labels == index, probabilities[:, index], bins),
            "curve": reliability_curve(labels == index, probabilities[:, index], bins),
        }
        for index, name in enumerate(classes)
    }
    return {
        "brier": float(of_images.mean()),
        "brier_interval": np.quantile(brier, ends).tolist(),
        "brier_of_shares": of_shares,
        "brier_skill": 1 - float(of_images.mean()) / of_shares if of_shares else None,
        "ece": expected_calibration_error(right, confidence, bins),
        "ece_interval": np.quantile(errors, ends).tolist(),
        "ece_by_chance": _ece_by_chance(confidence, bins, level, seed),
        "mean_confidence": float(confidence.mean()),
        "accuracy": float(right.mean()),
        "curve": reliability_curve(right, confidence, bins),
        "per_class": per_class,
    }


def reliability_curve(outcome: Any, probability: Any, bins: int = 10) -> list[dict[str, Any]]:
    """Mean probability and share of outcomes in each bin that holds images.

    outcome: (n,) bool or 0 and 1; probability: (n,), 0 to 1.
    Returns rows of "low", "high" (the bin is above low, up to high), "n", "probability", "share".
    """
    outcome, probability = np.asarray(outcome, dtype=np.float64), np.asarray(probability)
    edges, bin_of = np.linspace(0, 1, bins + 1), _bin_of(probability, bins)
    return [
        {
            "low": float(edges[index]),
            "high": float(edges[index + 1]),
            "n": int((bin_of == index).sum()),
            "probability": float(probability[bin_of == index].mean()),
            "share": float(outcome[bin_of == index].mean()),
        }
        for index in np.unique(bin_of)
    ]


def expected_calibration_error(outcome: Any, probability: Any, bins: int = 10) -> float:
    """ECE of (n,) outcomes, bool or 0 and 1, and their (n,) probabilities, 0 to 1."""
    outcome, probability = np.asarray(outcome, dtype=np.float64), np.asarray(probability)
    return float(_error(np.ones((1, len(outcome))), _gaps(outcome, probability, bins))[0])


def brier_of_images(labels: Any, probabilities: Any) -> np.ndarray:
    """Σ_c (p_c - [label = c])² of each image: labels (n,) int, probabilities (n, C) → (n,)."""
    probabilities = np.asarray(probabilities, dtype=np.float64)
    truth = np.eye(probabilities.shape[1])[np.asarray(labels)]
    return ((probabilities - truth) ** 2).sum(axis=1)


def check_probabilities(probabilities: np.ndarray) -> None:
    """Raises ValueError where a row is not of 0 to 1 or does not sum to 1 within 0.001."""
    sums = probabilities.sum(axis=1)
    wrong = (np.abs(sums - 1) > 1e-3) | (probabilities < 0).any(axis=1)
    if wrong.any():
        row = int(np.flatnonzero(wrong)[0])
        raise ValueError(
            f"probabilities must be 0 to 1 and each row must sum to 1: row {row} has the sum "
            f"{sums[row]:.4g} and the smallest value {probabilities[row].min():.4g}"
        )


def _bin_of(probability: np.ndarray, bins: int) -> np.ndarray:
    if bins < 1:
        raise ValueError(f"bins must be 1 or more: got {bins}")
    return np.searchsorted(np.linspace(0, 1, bins + 1)[1:-1], probability)


def _gaps(outcome: np.ndarray, probability: np.ndarray, bins: int) -> np.ndarray:
    """outcome - probability of each image in the column of its bin: (n, bins)."""
    return np.eye(bins)[_bin_of(probability, bins)] * (outcome - probability)[:, None]


def _error(weights: np.ndarray, gaps: np.ndarray) -> np.ndarray:
    """ECE for every row of `weights` (draws, n): Σ_b |Σ_(i in b) w_i gap_i| / Σ_i w_i."""
    return np.abs(weights @ gaps).sum(axis=1) / weights.sum(axis=1)


def _ece_by_chance(confidence: np.ndarray, bins: int, level: float, seed: int) -> dict[str, float]:
    """ECE where each image is right with the very probability given for it."""
    random = np.random.default_rng(seed)
    in_bin = np.eye(bins)[_bin_of(confidence, bins)]
    errors = [
        np.abs(((random.random(len(confidence)) < confidence) - confidence) @ in_bin).sum()
        for _ in range(CHANCE_DRAWS)
    ]
    shares = np.array(errors) / len(confidence)
    return {"mean": float(shares.mean()), "high": float(np.quantile(shares, level))}
