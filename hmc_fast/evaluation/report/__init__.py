"""report.html: everything that a run found, on one page that needs nothing beside it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from matplotlib.figure import Figure

from hmc_fast.evaluation import figures
from hmc_fast.evaluation.report import tables, wording
from hmc_fast.files import write_bytes

WRONG_IMAGES = 10


def write_report(
    path: Path, run: dict[str, Any], drawn: Mapping[str, Figure] | None = None
) -> None:
    """Write the page of a run to `path`: pictures and styles inside, no script, no outside address.

    drawn: what `run_figures(run)` gave, where the figures were needed before.
    run: {
      "variant": str, "dataset": {"name": str, "classes": [str], "images": int, "patients": int,
      "counts": {class: images}, "warnings": [str]},
      "folds_total": int, "folds_done": int (how many),
      "predictions": {"images": [str], "patients": [str], "folds": (n,) int, "labels": (n,) int,
      "probabilities": (n, C)}, out of fold,
      "metrics": the value of `metrics_document`, "history": rows as `learning_curves` takes them,
      "samples": None or {"titles": [str], "originals": (k, H, W), "variants": (k, m, H, W)} uint8,
      "config": dict, "environment": dict, "command": str, "next_commands": [str], "notes": [str],
      "files": {name: SHA-256}}. Text may hold anything: it is escaped.
    """
    templates = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    page = templates.get_template("run.html.j2").render(
        _context(run, run_figures(run) if drawn is None else drawn)
    )
    write_bytes(path, page.encode(errors="replace"))


def run_figures(run: Mapping[str, Any]) -> dict[str, Figure]:
    """The figures of the page by name; `run` as in `write_report`."""
    predictions, classes = run["predictions"], run["dataset"]["classes"]
    found = {
        "learning_curves": figures.learning_curves(run["history"]),
        "confusion_matrix": figures.confusion_matrix(
            run["metrics"]["pooled"]["confusion"], classes
        ),
        "roc_curves": figures.roc_curves(
            predictions["labels"], predictions["probabilities"], classes
        ),
    }
    samples = run["samples"]
    if samples:
        titles, originals = samples["titles"], samples["originals"]
        found["samples"] = figures.sample_sheet(originals, titles)
        found["augmentations"] = figures.augmentation_sheet(originals, samples["variants"], titles)
    return found


def _context(run: dict[str, Any], drawn: Mapping[str, Figure]) -> dict[str, Any]:
    """Everything that the template shows, as finished sentences, tables and pictures."""
    metrics, dataset = run["metrics"], run["dataset"]
    shared = wording.shared_patients(run["predictions"])
    return {
        **{name: run[name] for name in ("variant", "dataset", "command", "next_commands", "notes")},
        "facts": wording.facts(run),
        "folds_missing": wording.folds_missing(run),
        "warnings": [*shared, *dataset["warnings"]],
        "patients_shared": bool(shared),
        "headline": tables.headline(metrics),
        "verdict": wording.verdict(metrics),
        "interval_note": wording.interval_note(metrics),
        "absent": wording.absent_classes(metrics),
        "two_classes": len(dataset["classes"]) == 2,
        "has_attention": any(fold["gamma"] for fold in metrics["per_fold"]),
        "gamma_sentence": wording.gamma_sentence(metrics["per_fold"]),
        "tables": _tables(run),
        "pictures": _pictures(run, drawn),
    }


def _tables(run: dict[str, Any]) -> dict[str, tables.Table]:
    metrics, classes = run["metrics"], run["dataset"]["classes"]
    return {
        "folds": tables.fold_table(metrics),
        "classes": tables.class_table(metrics["pooled"], metrics["majority"]),
        "confusion": tables.confusion_table(metrics["pooled"]["confusion"], classes),
        "wrong": tables.wrong_table(run["predictions"], classes, WRONG_IMAGES),
        "last_epoch": tables.last_epoch_table(run["history"]),
        "gamma": tables.gamma_table(metrics["per_fold"]),
        "counts": tables.counts_table(run["dataset"]),
        "fold_sizes": tables.fold_sizes_table(metrics["per_fold"], classes),
        "config": tables.settings_table("Configuration (config.json)", run["config"]),
        "environment": tables.settings_table("Environment (env.json)", run["environment"]),
        "files": tables.settings_table("Files of the run and their SHA-256", run["files"]),
    }


def _pictures(run: dict[str, Any], drawn: Mapping[str, Figure]) -> dict[str, dict[str, Any]]:
    alt = wording.alternatives(run)
    return {
        name: {
            "uri": figures.png_data_uri(figure),
            "size": figures.css_size(figure),
            "alt": alt[name],
        }
        for name, figure in drawn.items()
    }
