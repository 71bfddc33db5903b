"""A study's tables, figures and report from its finished runs."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hmc_fast.data.dataset import Dataset
from hmc_fast.errors import InputError
from hmc_fast.evaluation import study_figures
from hmc_fast.evaluation.findings import findings
from hmc_fast.evaluation.report.study_page import write_study_report
from hmc_fast.evaluation.study_figure_set import study_figures_of
from hmc_fast.evaluation.study_table import write_tables
from hmc_fast.evaluation.study_tables import all_tables, left_out_tables
from hmc_fast.files import sha256_file, write_json, write_text
from hmc_fast.models.baselines import BASELINES
from hmc_fast.models.outline import outline
from hmc_fast.profiling.paper import PIXELS
from hmc_fast.progress import say
from hmc_fast.study.collect import about_dataset, collect_run, files_of
from hmc_fast.study.complexity import LATENCY, timed_complexity
from hmc_fast.study.explanations import explain_run
from hmc_fast.training.loop import build_model
from hmc_fast.training.run_folder import read_json
from hmc_fast.training.study import Cell, Grid

TABLES, FIGURES, EXPLANATIONS = "tables", "figures", "explain"
FINDINGS, FILES, REPORT = "findings.txt", "files.json", "report.html"


def write_study(
    folder: Path,
    grid: Grid,
    dataset: Dataset,
    *,
    settings: Mapping[str, Any],
    commands: Sequence[str],
    device: torch.device,
    explain_images: int | None,
    quiet: bool = False,
) -> list[str]:
    """Write tables/, figures/, findings.txt, files.json and report.html of the runs that are
    finished; returns what was found, in sentences.

    settings: those of study.json; commands: that made the study; explain_images: films, None for
    the default, 0 for none. Raises InputError: no run of `grid.runs` is finished, or a file of one
    is damaged.
    """
    finished = [cell for cell in grid.runs if cell.is_finished()]
    if not finished:
        raise InputError(f"no run of the study in {folder} is finished: there is nothing to report")
    leak = grid.leak if all(cell.is_finished() for cell in grid.leak) else []
    runs = {cell.name: collect_run(cell, dataset) for cell in {*finished, *leak}}
    _check_same_folds([runs[cell.name] for cell in finished])
    cells = [*finished, *(cell for cell in leak if cell not in finished)]
    shown = next((c for c in finished if c.config.variant not in BASELINES), finished[0])
    study: dict[str, Any] = {
        "dataset": about_dataset(dataset),
        "runs": [runs[cell.name] for cell in finished],
        "leak": [runs[cell.name] for cell in leak],
        "files": files_of(cells, folder),  # finds damage before anything long begins
        "complexity": _complexity(finished, folder, device, quiet),
        "explanations": _explanations(shown, folder, device, explain_images, quiet),
        "config": dict(settings),
        "environment": runs[shown.name]["environment"],
        "commands": list(commands),
        "timing_machine": _timing_machine(folder),
    }
    return _write_pages(study, folder, shown, quiet)


def _check_same_folds(runs: Sequence[Mapping[str, Any]]) -> None:
    """InputError where networks were not tested on the same folds: nothing could be compared."""
    for run in runs[1:]:
        if not np.array_equal(run["folds"], runs[0]["folds"]):
            raise InputError(
                f"{run['folder']} and {runs[0]['folder']} have different folds (another "
                "scikit-learn?): move one of them away, and the study trains it again"
            )


def _complexity(
    cells: Sequence[Cell], folder: Path, device: torch.device, quiet: bool
) -> dict[str, dict[str, Any]]:
    say(f"timing one image of {PIXELS} px with each network", quiet)
    first = cells[0].config
    return timed_complexity(
        [cell.config.variant for cell in cells],
        folder,
        device,
        classes=len(first.class_names),
        reduction=first.reduction,
        backend=first.backend,
        quiet=True,
    )


def _timing_machine(folder: Path) -> str | None:
    """Where the networks were timed; None where they were not."""
    path = folder / LATENCY
    return read_json(path).get("machine") if path.is_file() else None


def _explanations(
    cell: Cell, folder: Path, device: torch.device, images: int | None, quiet: bool
) -> dict[str, Any] | None:
    """Of one run; None where none were asked for, no film has a known lesion, or the network has
    no layer of the paper's explanations."""
    if images == 0 or cell.config.variant in BASELINES:
        return None
    say(f"explaining films with a known lesion by the models of {cell.name}", quiet)
    out = folder / EXPLANATIONS / cell.name  # another network may be shown when some are added
    backend = cell.config.backend
    return explain_run(cell.folder, out, device=device, images=images, backend=backend, quiet=quiet)


def _write_pages(study: dict[str, Any], folder: Path, shown: Cell, quiet: bool) -> list[str]:
    """Files first, then the page that names them with their sums."""
    say("statistics, tables and figures", quiet)
    tables = all_tables(study)
    written = write_tables(tables, folder / TABLES)
    (folder / FIGURES).mkdir(exist_ok=True)
    drawn = study_figures_of(study, outline(build_model(shown.config), PIXELS))
    for name, figure in drawn.items():
        study_figures.save(figure, folder / FIGURES, name)
        written.append(folder / FIGURES / f"{name}.csv")
    study["files"] |= {str(path.relative_to(folder)): sha256_file(path) for path in written}
    _remove_earlier(folder, study["files"])
    write_json(folder / FILES, study["files"])
    found = findings(study)
    write_text(folder / FINDINGS, "".join(f"{sentence}\n" for sentence in found))
    write_study_report(folder / REPORT, study, tables, drawn, found, left_out_tables(study))
    return found


def _remove_earlier(folder: Path, written: Iterable[str]) -> None:
    """Remove the tables and figures of an earlier report of more networks, which this one does not
    have: they would be taken for its own."""
    earlier = read_json(folder / FILES) if (folder / FILES).is_file() else {}
    for name in earlier.keys() - written:
        path = folder / name
        if path.parent in (folder / TABLES, folder / FIGURES):
            for suffix in (".csv", ".png", ".pdf"):
                path.with_suffix(suffix).unlink(missing_ok=True)
