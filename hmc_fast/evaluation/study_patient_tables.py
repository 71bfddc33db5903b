"""What rests on patients: differences of models, DeLong's areas, exact counts, calibration.

Folds share most of their training images and are few; patients are independent. So a model may be
called better by the first of these tables alone.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from hmc_fast.evaluation.calibration import calibration
from hmc_fast.evaluation.delong import patient_aucs
from hmc_fast.evaluation.intervals import exact_intervals, patient_bootstrap
from hmc_fast.evaluation.metrics import classification_metrics
from hmc_fast.evaluation.report.wording import percent
from hmc_fast.evaluation.study_comparisons import FIRST_METRICS, LEVEL, RESAMPLES
from hmc_fast.evaluation.study_runs import Run, Study, ends_of, pair_of, word
from hmc_fast.evaluation.study_table import StudyTable
from hmc_fast.evaluation.units import Units, by_unit

# without sensitivity: its mean over the classes is the balanced accuracy
OTHER_METRICS = ("specificity", "precision", "f1", "brier")
UNIT_METRICS = ("accuracy", "balanced_accuracy", "auc")
JOINED = (
    "Films are joined to one row by the worst: the chance of a class or a worse one is the largest "
    "of the films; the label is the worst too."
)


def pair_table(pairs: Sequence[dict[str, Any]], first: bool) -> StudyTable:
    """Differences on the same patients; pairs: `model_pairs`; first: of FIRST_METRICS, else the
    other metrics."""
    rows = []
    for metric in FIRST_METRICS if first else OTHER_METRICS:
        for row in (row for row in pairs if row["metric"] == metric):
            figures = [row["difference"], *ends_of(row), row["p_value"], row["p_holm"]]
            rows.append([pair_of(row), word(metric), *figures, row["better"]])
    return StudyTable(
        "pairs_by_patients" if first else "pairs_by_patients_other_metrics",
        f"Differences on the same patients{'' if first else ', other metrics'}",
        ["pair", "metric", "difference", "low", "high", "p", "p, Holm", "better"],
        rows,
        [
            f"First model minus the second, pooled out-of-fold predictions; {percent(LEVEL)} "
            f"intervals by {RESAMPLES} draws of whole patients, both models on the same ones. "
            "Better: p by Holm over the pairs of a metric is below 0.05 (a lower Brier score is "
            "better); never a pair with a model whose attention is off. The trained networks are "
            "held fixed: another seed may move a difference by more."
        ],
    )


def delong_tables(study: Study) -> list[StudyTable]:
    """AUCs of patients with DeLong's intervals, and their differences, within the folds."""
    joined = {run["name"]: _patients(run, study) for run in study["runs"]}
    units = next(iter(joined.values()))
    found = patient_aucs(
        units.labels,
        {name: one.probabilities for name, one in joined.items()},
        units.names,
        study["dataset"]["classes"],
        folds=np.asarray(study["runs"][0]["folds"])[units.first],
        level=LEVEL,
    )
    note = (
        f"One row a patient, compared with patients of the same fold only; {percent(LEVEL)} "
        f"intervals by DeLong's variance. {JOINED}"
    )
    rows = [
        [model, name, of_class["positives"], figures["auc"], figures["error"], *ends_of(figures)]
        for name, of_class in found.items()
        for model, figures in of_class["models"].items()
    ]
    header = ["model", "class", "patients of it", "AUC", "error", "low", "high"]
    areas = StudyTable("delong", "AUC of patients, within the folds", header, rows, [note])
    pairs = [
        [pair_of(row), name, row["difference"], *ends_of(row), row["p_value"], row["p_holm"]]
        for name, of_class in found.items()
        for row in of_class["pairs"]
    ]
    header = ["pair", "class", "difference", "low", "high", "p", "p, Holm"]
    differences = StudyTable(
        "delong_pairs", "Differences of the patients' AUC, within the folds", header, pairs, [note]
    )
    return [areas, differences] if pairs else [areas]


def exact_table(study: Study) -> StudyTable | str:
    """Clopper-Pearson intervals where nobody or everybody is right: the bootstrap has no width."""
    rows = []
    for run in study["runs"]:
        units, classes = _patients(run, study), study["dataset"]["classes"]
        found = exact_intervals(units.labels, units.probabilities, units.names, classes)
        for row in found:
            if row["at_end"]:
                figures = [row["count"], row["total"], row["value"], *row["interval"]]
                rows.append([run["name"], row["metric"], row["class"], *figures])
    if not rows:
        return "Exact intervals: no count of patients is at its end (nobody or everybody)."
    return StudyTable(
        "exact_intervals",
        "Exact intervals where nobody or everybody is right",
        ["model", "metric", "class", "patients right", "of", "share", "low", "high"],
        rows,
        [
            "Clopper and Pearson, 95 %, of patients. Here draws of patients would give an interval "
            f"without width. {JOINED}"
        ],
    )


def unit_table(study: Study) -> StudyTable:
    """The figures per image, per breast where that is not the same, and per patient."""
    rows, classes = [], study["dataset"]["classes"]
    for run in study["runs"]:
        pooled = run["metrics"]["pooled"]
        rows.append([run["name"], "image", pooled["n"], *_triples(pooled, pooled["intervals"])])
        for unit, names in (("breast", run["breasts"]), ("patient", run["patients"])):
            if names is not None and len(set(names)) < pooled["n"]:
                rows.append(
                    [run["name"], unit, *_of_unit(run, by_unit_of(run, names, classes), classes)]
                )
    header = ["model", "unit", "units"]
    for metric in UNIT_METRICS:
        header += [word(metric), f"{word(metric)} low", f"{word(metric)} high"]
    notes = [JOINED]
    if study["runs"][0]["breasts"] is None:
        notes.append("Which breast an image shows is not known in these data.")
    elif not any(row[1] == "breast" for row in rows):
        notes.append("Every image shows another breast: per breast is per image.")
    return StudyTable("units", "Per image, per breast and per patient", header, rows, notes)


def calibration_table(study: Study) -> StudyTable:
    """Brier score and calibration error, and what chance alone gives."""
    rows = []
    for run in study["runs"]:
        found = calibration(
            run["labels"], run["probabilities"], run["patients"], study["dataset"]["classes"]
        )
        brier = [found["brier"], *found["brier_interval"]]
        brier += [found["brier_of_shares"], found["brier_skill"]]
        error = [found["ece"], *found["ece_interval"], *found["ece_by_chance"].values()]
        rows.append([run["name"], *brier, *error, found["mean_confidence"], found["accuracy"]])
    header = ["model", "Brier score", "Brier low", "Brier high", "Brier of the shares", "skill"]
    header += ["ECE", "ECE low", "ECE high", "ECE by chance", "ECE by chance, 95 %"]
    return StudyTable(
        "calibration",
        "Calibration: do the probabilities mean what they say?",
        [*header, "mean confidence", "accuracy"],
        rows,
        [
            "Brier score 0 to 2, lower is better; skill 1 is perfect, 0 as good as always giving "
            "the shares of the classes, below 0 worse. In small samples the ECE is biased upward: "
            "calibrated predictions with the same probabilities have the ECE by chance, not 0, and "
            "the interval lies too high as well. An ECE below that by chance does not show "
            "miscalibration."
        ],
    )


def by_unit_of(run: Run, names: Sequence[str], classes: Sequence[str]) -> Units:
    """The films of a run joined by names, one a film."""
    return by_unit(run["labels"], run["probabilities"], names, classes)


def _patients(run: Run, study: Study) -> Units:
    return by_unit_of(run, run["patients"], study["dataset"]["classes"])


def _of_unit(run: Run, units: Units, classes: Sequence[str]) -> list[Any]:
    """Number of units and UNIT_METRICS with intervals by drawing patients."""
    patients = [run["patients"][index] for index in units.first]
    bootstrap = run["metrics"]["pooled"]["bootstrap"]
    figures = classification_metrics(units.labels, units.probabilities, classes)
    intervals = patient_bootstrap(units.labels, units.probabilities, patients, classes, **bootstrap)
    return [len(units.names), *_triples(figures, intervals)]


def _triples(figures: Any, intervals: Any) -> list[float | None]:
    """Value, low and high of each of UNIT_METRICS."""
    cells = []
    for metric in UNIT_METRICS:
        cells += [figures[metric], *(intervals[metric] or [None, None])]
    return cells
