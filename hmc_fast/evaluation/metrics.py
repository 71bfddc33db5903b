"""How good a set of predictions is: macro one-vs-rest figures by scikit-learn, ready for JSON.

For class c against the rest, with the counts TP, FP, FN, TN: sensitivity = TP / (TP + FN),
specificity = TN / (TN + FP), precision = TP / (TP + FP), F1 = 2 TP / (2 TP + FP + FN),
accuracy_one_vs_rest = (TP + TN) / n, and AUC = the area under the ROC curve of p_c. The macro
figures are unweighted means over the classes that have images; balanced accuracy is the macro
sensitivity.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from sklearn.metrics import (
    confusion_matrix,
    multilabel_confusion_matrix,
    precision_recall_fscore_support,
    roc_auc_score,
)

METRICS = ("accuracy", "balanced_accuracy", "sensitivity", "specificity", "precision", "f1", "auc")
PER_CLASS_METRICS = ("accuracy_one_vs_rest", "sensitivity", "specificity", "precision", "f1", "auc")


def classification_metrics(
    labels: Any, probabilities: Any, classes: Sequence[str]
) -> dict[str, Any]:
    """METRICS, each class's own figures and the confusion matrix of one set of predictions.

    labels: (n,) int, indices into `classes`; probabilities: (n, C), finite; the largest of a row is
    the predicted class (the first of equals). A class without images has no sensitivity, precision,
    F1 or AUC (None) and stays out of the macro means; a class that has images but is never
    predicted has precision 0 by convention (0/0). Specificity and AUC are None where all images are
    of one class.

    Returns {"n", the names of METRICS, "per_class": {name: {"n", the names of PER_CLASS_METRICS}},
    "confusion": C x C counts with the truth in rows, "classes_without_images": [name, ...]}.

    Raises ValueError: no images, shapes that do not fit, a label outside `classes`, a probability
    that is not finite.
    """
    labels, probabilities = check_predictions(labels, probabilities, classes)
    predicted = probabilities.argmax(axis=1)
    per_class = _per_class(labels, predicted, probabilities, classes)
    present = [values for values in per_class.values() if values["n"]]
    macro = {name: mean_of(values[name] for values in present) for name in PER_CLASS_METRICS[1:]}
    return {
        "n": len(labels),
        "accuracy": float(np.mean(predicted == labels)),
        "balanced_accuracy": macro["sensitivity"],
        **macro,
        "per_class": per_class,
        "confusion": confusion_matrix(labels, predicted, labels=np.arange(len(classes))).tolist(),
        "classes_without_images": [name for name, values in per_class.items() if not values["n"]],
    }


def mean_and_sd(
    per_fold: Sequence[Mapping[str, Any]],
) -> tuple[dict[str, float | None], dict[str, float | None]]:
    """Mean and standard deviation (n - 1) over the folds of each of METRICS.

    Returns (mean, sd); a fold's None is left out, the sd of fewer than two values is None.
    """
    values = {name: [fold[name] for fold in per_fold if fold[name] is not None] for name in METRICS}
    mean = {name: mean_of(found) for name, found in values.items()}
    sd = {
        name: float(np.std(found, ddof=1)) if len(found) > 1 else None
        for name, found in values.items()
    }
    return mean, sd


def majority_metrics(labels: Any, classes: Sequence[str]) -> dict[str, Any]:
    """`classification_metrics` of always predicting the most frequent class of `labels`.

    Returns the same keys and "class", that class's name.
    """
    counts = np.bincount(np.asarray(labels), minlength=len(classes))
    most_frequent = int(counts.argmax())
    always = np.tile(np.eye(len(classes))[most_frequent], (len(labels), 1))
    return {"class": classes[most_frequent], **classification_metrics(labels, always, classes)}


def check_predictions(
    labels: Any, probabilities: Any, classes: Sequence[str]
) -> tuple[np.ndarray, np.ndarray]:
    """`labels` as (n,) int64 and `probabilities` as (n, C) float64.

    Raises ValueError: as `classification_metrics`.
    """
    labels = np.asarray(labels)
    probabilities = np.asarray(probabilities, dtype=np.float64)
    if labels.ndim != 1 or not len(labels) or not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(
            f"labels must be whole numbers, one an image: got {labels.dtype} {labels.shape}"
        )
    if probabilities.shape != (len(labels), len(classes)):
        raise ValueError(
            f"probabilities must have shape ({len(labels)}, {len(classes)}), "
            f"one row an image and one column a class: got {probabilities.shape}"
        )
    if labels.min() < 0 or labels.max() >= len(classes):
        raise ValueError(
            f"labels must lie in 0..{len(classes) - 1}: got {labels.min()} to {labels.max()}"
        )
    broken = int((~np.isfinite(probabilities)).any(axis=1).sum())
    if broken:
        raise ValueError(
            f"probabilities of {broken} of {len(labels)} images are not finite: "
            "the training has diverged"
        )
    return labels.astype(np.int64), probabilities


def mean_of(values: Any) -> float | None:
    """Mean of the values that are not None; None where there is none."""
    found = [value for value in values if value is not None]
    return math.fsum(found) / len(found) if found else None


def _per_class(
    labels: np.ndarray, predicted: np.ndarray, probabilities: np.ndarray, classes: Sequence[str]
) -> dict[str, dict[str, Any]]:
    indices = np.arange(len(classes))
    precision, sensitivity, f1, support = precision_recall_fscore_support(
        labels, predicted, labels=indices, zero_division=0
    )
    one_vs_rest = multilabel_confusion_matrix(labels, predicted, labels=indices)  # (C, 2, 2)
    result = {}
    for index, name in enumerate(classes):
        (true_negative, false_positive), (_, true_positive) = one_vs_rest[index].tolist()
        negatives, has_images = true_negative + false_positive, bool(support[index])
        result[name] = {
            "n": int(support[index]),
            "accuracy_one_vs_rest": (true_positive + true_negative) / len(labels),
            "sensitivity": float(sensitivity[index]) if has_images else None,
            "specificity": true_negative / negatives if negatives else None,
            "precision": float(precision[index]) if has_images else None,
            "f1": float(f1[index]) if has_images else None,
            "auc": _auc(labels == index, probabilities[:, index]),
        }
    return result


def _auc(positive: np.ndarray, probability: np.ndarray) -> float | None:
    if positive.all() or not positive.any():
        return None
    return float(roc_auc_score(positive, probability))
