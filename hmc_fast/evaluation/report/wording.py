"""The sentences of the report, made from its numbers."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from hmc_fast.sentences import counted, duration

ABSENT = "\N{EN DASH}"
ATTENTION_OFF = 0.05
ROUNDING = 1e-9


def number(value: float | None, digits: int = 3) -> str:
    """`value` with `digits` decimals; a dash for None and for what is not finite."""
    if value is None or not math.isfinite(value):
        return ABSENT
    return f"{round(value, digits) + 0.0:.{digits}f}"  # + 0.0: no minus before a zero


def percent(share: float, digits: int = 0) -> str:
    """'95 %'."""
    return f"{100 * share:.{digits}f} %"


def interval(ends: Sequence[float] | None) -> str:
    """'0.512 to 0.701'."""
    return ABSENT if ends is None else f"{number(ends[0])} to {number(ends[1])}"


def facts(run: Mapping[str, Any]) -> list[str]:
    """What was run, in a few words each."""
    dataset = run["dataset"]
    return [
        f"{counted(dataset['images'], 'image')} of {counted(dataset['patients'], 'patient')}",
        f"{run['folds_done']} of {counted(run['folds_total'], 'fold')}",
        f"training took {duration(run['metrics']['seconds'])}",
    ]


def folds_missing(run: Mapping[str, Any]) -> str:
    """Which part of the data the figures rest on, where some folds were not run; else ''."""
    if run["folds_done"] == run["folds_total"]:
        return ""
    metrics = run["metrics"]
    folds = ", ".join(str(fold["fold"]) for fold in metrics["per_fold"])
    return (
        f"Only {run['folds_done']} of {counted(run['folds_total'], 'fold')} ran (fold {folds}): "
        f"every figure below rests on the {counted(metrics['pooled']['n'], 'test image')} of "
        f"{counted(metrics['pooled']['patients'], 'patient')}, not on the whole data set."
    )


def shared_patients(predictions: Mapping[str, Any]) -> list[str]:
    """A warning where the test images of more than one fold show the same patient."""
    pairs = set(zip(predictions["patients"], map(int, predictions["folds"]), strict=True))
    folds_of_patient = Counter(patient for patient, _ in pairs)
    shared = sorted(str(patient) for patient, folds in folds_of_patient.items() if folds > 1)
    if not shared:
        return []
    return [
        f"Images of {counted(len(shared), 'patient')} stand in more than one test fold "
        f"({shared[0]} first): the others of them were trained on, and the figures are too good."
    ]


def verdict(metrics: Mapping[str, Any]) -> str:
    """Whether the interval of the balanced accuracy lies above the majority class's figure."""
    pooled, chance = metrics["pooled"], metrics["majority"]["balanced_accuracy"]
    low = pooled["intervals"]["balanced_accuracy"][0]
    compared = f"The lower end of the balanced accuracy's interval, {number(low)}, is"
    majority = f"the {number(chance)} of always predicting “{metrics['majority']['class']}”"
    if low > chance + ROUNDING:
        return f"{compared} above {majority}: this run learned more than the majority class."
    sentence = (
        f"{compared} not above {majority}: this run did not learn more than the majority class"
    )
    if pooled["balanced_accuracy"] > chance + ROUNDING:
        return f"{sentence} by any margin that {counted(pooled['patients'], 'patient')} can show."
    name = only_class(pooled)
    return f"{sentence}." + (f" It predicts “{name}” for every image." if name else "")


def interval_note(metrics: Mapping[str, Any]) -> str:
    """What the interval is."""
    bootstrap = metrics["pooled"]["bootstrap"]
    return (
        f"Intervals: {percent(bootstrap['level'])}, percentile bootstrap, {bootstrap['resamples']} "
        "draws of whole patients, stratified by the patient's worst class. They hold the trained "
        "models fixed: another seed or other training patients are not in them."
    )


def absent_classes(metrics: Mapping[str, Any]) -> list[str]:
    """A sentence for each fold that tests no image of some class."""
    return [
        f"Fold {fold['fold']} has no image of {', '.join(fold['classes_without_images'])}: "
        "its averages are over the other classes."
        for fold in metrics["per_fold"]
        if fold["classes_without_images"]
    ]


def gamma_sentence(per_fold: Sequence[Mapping[str, Any]]) -> str:
    """What the gammas of all blocks and folds let one say of attention; '' without a block."""
    found = [
        (value, block, fold["fold"]) for fold in per_fold for block, value in fold["gamma"].items()
    ]
    if not found:
        return ""
    if any(value is None for value, _, _ in found):
        return "Some gammas are not finite: the training has diverged."
    value, block, fold = max(found, key=lambda entry: abs(entry[0]))
    if abs(value) < ATTENTION_OFF:
        return (
            f"Every |gamma| is below {ATTENTION_OFF}: attention is practically off, and no variant "
            "can be called better than another."
        )
    return f"The largest |gamma| is {number(abs(value))} ({block}, fold {fold})."


def alternatives(run: Mapping[str, Any]) -> dict[str, str]:
    """What each picture shows, for those who cannot see it."""
    pooled = run["metrics"]["pooled"]
    areas = (f"{name} {number(row['auc'])}" for name, row in pooled["per_class"].items())
    samples = ", ".join(run["samples"]["titles"]) if run["samples"] else ""
    return {
        "learning_curves": "Loss and accuracy by epoch on training and test images; the last "
        "epoch's values stand in the table beside.",
        "confusion_matrix": f"Confusion matrix of {counted(pooled['n'], 'image')}; its counts "
        "stand in the table below.",
        "roc_curves": f"One-vs-rest ROC curves with the area under each: {', '.join(areas)}.",
        "samples": f"Input images: {samples}.",
        "augmentations": f"Each input image and its augmented variants: {samples}.",
    }


def only_class(pooled: Mapping[str, Any]) -> str | None:
    """The class that is predicted for every image; None where more than one is."""
    columns = [sum(column) for column in zip(*pooled["confusion"], strict=True)]
    predicted = [name for name, n in zip(pooled["per_class"], columns, strict=True) if n]
    return predicted[0] if len(predicted) == 1 else None
