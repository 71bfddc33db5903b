"""The study's explanations: maps of some films with a known lesion by one run's models, for Table 6
and Figures 9 and 10, and the same read back from the files.

The folder holds what `hmc-fast explain --table` writes, the films and masks of the panels beside
their maps, and panels.json, which comes last and says what belongs to the study.
"""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hmc_fast.data.images import resize
from hmc_fast.errors import InputError
from hmc_fast.explain.colormaps import COLORMAPS
from hmc_fast.explain.explanations import FIGURES, Explanations, read_rows, write_array
from hmc_fast.explain.explanations import TABLE as ROWS
from hmc_fast.explain.methods import METHODS, Settings
from hmc_fast.explain.one_film import small_mask
from hmc_fast.explain.request import LABEL, PREDICTED, Request
from hmc_fast.explain.run import TABLE, explain_films, write_table
from hmc_fast.explain.selection import Film, films_of_data
from hmc_fast.explain.table import COLUMNS
from hmc_fast.files import write_json
from hmc_fast.sentences import counted
from hmc_fast.study.lesion_films import lesion_films
from hmc_fast.training.opened_run import open_images, open_run, protocol_note
from hmc_fast.training.run_folder import locked, read_json

RECORD, FILM, MASK = "panels.json", "film.npy", "mask.npy"
FILMS = {"cpu": 4, "cuda": None}  # None: all of them
QUICK_PIXELS = 64  # above, exact Score-CAM takes a CPU minutes a film
PANELS = 6  # of the chosen films, those that the figures show
TEXT = ("image", "label", "predicted", "target", "method", "layer")
WORDS, COUNTS = ("method", "layer", "figure"), ("images", "left_out")  # columns of table.csv


def explain_run(
    run_folder: Path,
    out: Path,
    *,
    device: torch.device,
    images: int | None = None,
    methods: Sequence[str] | None = None,
    layer: str = "layer4",
    target: str = LABEL,
    max_channels: int | None = None,
    data: str | None = None,
    backend: str = "auto",
    quiet: bool = False,
) -> dict[str, Any] | None:
    """Explain films with a known lesion, each by the fold that did not train on it; what is
    explained already is not explained again.

    out: the folder of the explanations; images: how many films, None for FILMS of the device;
    methods: of METHODS, None for all, on a CPU above QUICK_PIXELS for all but Score-CAM, unless
    max_channels makes it an approximation that a CPU can pay for; target: the class whose map is
    made, LABEL, PREDICTED or one by name; data: where the run's images are now.

    Returns `explanations_again`'s entry, None where no film has a known lesion. Raises InputError:
    no such run, or `out` holds explanations made otherwise, or no film could be explained.
    """
    run = open_run(run_folder)
    dataset = open_images(run, data).dataset
    own, unreadable = films_of_data(run, dataset)
    count = FILMS[device.type] if images is None else images
    films = lesion_films(own, run.config.class_names, count)
    if not films:
        return None
    slow = device.type == "cpu" and run.config.pixels > QUICK_PIXELS and max_channels is None
    affordable = [name for name in METHODS if not (slow and name == "score-cam")]
    request = Request(
        run=run,
        methods=tuple(affordable if methods is None else methods),
        layers=(layer,),
        settings=Settings(max_channels=max_channels),
        target=target,
        colormap=COLORMAPS[0],
        out=out,
        device=device,
        backend=backend,
        quiet=quiet,
    )
    with locked(out):
        explanations, failed = explain_films(request, sorted(films, key=lambda film: film.fold))
        films = [f for f in films if explanations.holds(f.name, f.place, request.pairs)]
        if not films:
            raise InputError(f"none of the films of {run_folder} could be explained: {failed[0]}")
        # behind a line for each method, which the table has too
        lines = write_table(request, films, explanations)[len(request.pairs) :]
        for film in films[:PANELS]:
            _write_film(explanations.of(film.place), film, run.config.pixels)
        notes = [*_how(request, explanations, films), *lines, *unreadable, *failed]
        _write_record(request, explanations, films, notes)
    return explanations_again(out)


def _write_film(folder: Path, film: Film, pixels: int) -> None:
    """The film and its mask at the network's size, beside its maps."""
    mask = small_mask(film, pixels)
    assert mask is not None  # a film without is not chosen
    write_array(folder / FILM, resize(film.read(), pixels))
    write_array(folder / MASK, mask)


def _how(request: Request, explanations: Explanations, films: Sequence[Film]) -> list[str]:
    """What was done, in sentences."""
    predicted = [explanations.rows[film.name, *request.pairs[0]]["predicted"] for film in films]
    right = sum(name == film.label for name, film in zip(predicted, films, strict=True))
    labels, folds = {film.label for film in films}, {film.fold for film in films}
    classes = " and ".join(name for name in request.run.config.class_names if name in labels)
    aims = {LABEL: "the film's own class", PREDICTED: "the class that the model predicts"}
    notes = [
        f"{counted(len(films), 'film')} with a known lesion ({classes}, "
        f"{counted(len(folds), 'test fold')}), chosen by a fixed seed; the fold that did not train "
        "on a film explains it",
        f"each map explains {aims.get(request.target, request.target)}; the models predict the own "
        f"class of {right} of {len(films)}",
    ]
    return [*notes, _score_cam(request), *protocol_note(request.run.config.protocol)]


def _score_cam(request: Request) -> str:
    """How Score-CAM was made."""
    most = request.settings.max_channels
    if "score-cam" not in request.methods:
        return (
            "Score-CAM is not among these methods: exact, it takes a CPU minutes a film above "
            f"{QUICK_PIXELS} px; `hmc-fast explain RUN --method score-cam` makes it"
        )
    if most:
        return f"Score-CAM tries the {most} channels of the largest energy alone: an approximation"
    return f"Score-CAM is exact: every channel of {request.layers[0]} is tried"


def _write_record(
    request: Request, explanations: Explanations, films: Sequence[Film], notes: Sequence[str]
) -> None:
    panels = [{"image": f.name, "place": f.place} for f in films[:PANELS]]
    record = {
        "variant": request.run.config.variant,
        "methods": list(request.methods),
        "layer": request.layers[0],
        "films": [film.name for film in films],
        "panels": panels,
        "notes": list(notes),
    }
    write_json(request.out / RECORD, record)


def explanations_again(out: Path) -> dict[str, Any] | None:
    """The `explanations` entry of a study from the files that `explain_run` wrote, without models
    or data; None where there are none.

    Returns {"variant", "rows": of explain.csv without times, figures float or None, "table": of
    table.csv, "panels": [{"image", "label", "predicted", "film": (S, S) uint8, "mask": (S, S) bool,
    "maps": {method: (S, S) float32}}], "notes"}. Raises InputError where a file is damaged.
    """
    if not (out / RECORD).is_file():
        return None
    record = read_json(out / RECORD)
    try:
        explanations = Explanations(out, read_rows(out / ROWS), {})
        pairs = [(method, record["layer"]) for method in record["methods"]]
        rows = [explanations.rows[name, *pair] for name in record["films"] for pair in pairs]
        return {
            "variant": record["variant"],
            "rows": [_typed(row) for row in rows],
            "table": _read_table(out / TABLE),
            "panels": [_panel(explanations, panel, pairs) for panel in record["panels"]],
            "notes": record["notes"],
        }
    except (OSError, KeyError, TypeError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(
            f"{out} is damaged ({error}): remove it, and the study explains the films again"
        ) from error


def _typed(row: dict[str, str]) -> dict[str, Any]:
    figures = {name: float(row[name]) if row[name] else None for name in FIGURES}
    return {name: row[name] for name in TEXT} | figures


def _read_table(path: Path) -> list[dict[str, Any]]:
    with open(path, newline="") as file:
        header, *rows = csv.reader(file)
    if tuple(header) != COLUMNS:
        raise ValueError(f"{path.name} must start with {','.join(COLUMNS)}")
    return [{c: _number(c, v) for c, v in zip(COLUMNS, row, strict=True)} for row in rows]


def _number(column: str, text: str) -> Any:
    if column in WORDS:
        return text
    if column in COUNTS:
        return int(text)
    return float(text) if text else None


def _panel(
    explanations: Explanations, panel: dict[str, str], pairs: Sequence[tuple[str, str]]
) -> dict[str, Any]:
    row = explanations.rows[panel["image"], *pairs[0]]
    folder = explanations.of(panel["place"])
    return {
        "image": panel["image"],
        "label": row["label"],
        "predicted": row["predicted"],
        "film": np.load(folder / FILM, allow_pickle=False),
        "mask": np.load(folder / MASK, allow_pickle=False),
        "maps": explanations.maps(panel["place"], [method for method, _ in pairs], pairs[0][1]),
    }
