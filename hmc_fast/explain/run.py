"""The job behind `hmc-fast explain`: films through their folds' models, one after the other, then
the table and the sanity check."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn

from hmc_fast.errors import InputError
from hmc_fast.explain.explanations import Explanations, cell, open_explanations
from hmc_fast.explain.fold_model import FoldModel, check_settings, load_fold
from hmc_fast.explain.localisation import mean_of
from hmc_fast.explain.one_film import View, explain_film, one_map, small_mask, view
from hmc_fast.explain.request import Request
from hmc_fast.explain.sanity import sanity_check
from hmc_fast.explain.selection import Film
from hmc_fast.explain.table import COLUMNS, Bound, bound_on, table_lines, table_rows
from hmc_fast.files import write_csv
from hmc_fast.models.saved import (
    WEIGHTS_SHA256,
    described_network,
    find_fold,
    read_description,
)
from hmc_fast.progress import progress, say
from hmc_fast.sentences import counted, some

TABLE, SANITY = "table.csv", "sanity.csv"
SANITY_COLUMNS = ("method", "layer", "mode", "part", "images", "left_out", "correlation")
SANITY_IMAGES = 8


def explain_films(request: Request, films: Sequence[Film]) -> tuple[Explanations, list[str]]:
    """Explain every film that is not explained yet; returns what the folder then holds, and a
    sentence for each film that could not be explained."""
    explanations = open_explanations(request.out, recorded_settings(request, films))
    to_do = [f for f in films if not explanations.holds(f.name, f.place, request.pairs)]
    if len(to_do) < len(films):
        say(f"{counted(len(films) - len(to_do), 'image')} explained before", request.quiet)
    model: FoldModel | None = None
    failed = []
    for film in progress(to_do, "explaining", quiet=request.quiet):
        if model is None or model.fold != film.fold:
            model = load(request, film.fold, check=model is None)
        try:
            explanations.add(explain_film(request, film, model, explanations))
        except InputError as error:
            failed.append(str(error))
    return explanations, failed


def load(request: Request, fold: int, *, check: bool = False) -> FoldModel:
    """A fold's model; check: try what may refuse its settings first."""
    model = load_fold(
        request.run, fold, request.layers, device=request.device, backend=request.backend
    )
    if check and "score-cam" in request.methods:
        check_settings(model, "score-cam", request.settings)
    return model


def recorded_settings(request: Request, films: Sequence[Film]) -> dict[str, Any]:
    """What all rows of one explain.csv must have in common."""
    settings = request.settings
    common: dict[str, Any] = {"target": request.target, "colormap": request.colormap}
    common |= {f"recipe of {method}": settings.recipe(method) for method in request.methods}
    if "score-cam" in request.methods:
        common |= {"dtype": settings.dtype, "max-channels": settings.max_channels}
    for fold in sorted({film.fold for film in films}):
        digest = read_description(find_fold(request.run.folder, fold)).get(WEIGHTS_SHA256)
        common[f"model of fold {fold}"] = digest
    if not all(film.own for film in films):
        common["fold for other images"] = request.run.fold
    return common


def write_table(request: Request, films: Sequence[Film], explanations: Explanations) -> list[str]:
    """table.csv of these films, all explained; returns it in words."""
    model = load(request, films[0].fold)
    masks = {f.name: small_mask(f, model.model.preprocessing.image_size) for f in films}
    lesions = [mask for mask in masks.values() if mask is not None and mask.any()]
    bounds: dict[str, Bound] = {}
    if lesions:
        layers = progress(request.layers, "bounds", unit="layer", quiet=request.quiet)
        bounds = {layer: bound_on(lesions, model.cells[layer]) for layer in layers}
    figures = {pair: [explanations.figures(f.name, *pair) for f in films] for pair in request.pairs}
    order = {name: index for index, name in enumerate(model.model.classes)}
    labels = [order.get(f.label or "", 0) for f in films]
    patients = [f.patient for f in films]
    config = request.run.config  # only at the paper's size do its maps have as many cells
    paper = config.data.startswith("mias:") and config.pixels == 224 and all(f.own for f in films)
    rows = table_rows(figures, labels, patients, bounds, paper)
    write_csv(request.out / TABLE, COLUMNS, [[cell(row[c]) for c in COLUMNS] for row in rows])
    return [*table_lines(rows, bounds), *_constant(figures), *_left_out(masks)]


def _constant(figures: dict[tuple[str, str], list[dict[str, float | None]]]) -> list[str]:
    """Which maps have no figure at all, as they are constant."""
    counts = {pair: sum(f["insertion"] is None for f in each) for pair, each in figures.items()}
    some_are = [f"{n} of {method}, {layer}" for (method, layer), n in counts.items() if n]
    return [f"constant maps, which have no figures: {'; '.join(some_are)}"] if some_are else []


def _left_out(masks: dict[str, np.ndarray | None]) -> list[str]:
    """Who has no figure of localisation, and why."""
    unknown = [name for name, mask in masks.items() if mask is None]
    healthy = sum(mask is not None and not mask.any() for mask in masks.values())
    lines = []
    if healthy:
        lines.append(f"not localised: {counted(healthy, 'film')} without lesion")
    if unknown:
        lines.append(
            f"not localised: {counted(len(unknown), 'film')} whose lesion's place is not known or "
            f"not trusted ({some(unknown, 10)})"
        )
    return lines


def write_sanity(request: Request, films: Sequence[Film], mode: str) -> list[str]:
    """sanity.csv: the parameter randomisation test on the first films of one fold; returns it in
    words."""
    model = load(request, films[0].fold)
    fresh = _fresh(model.model, request)
    films = [film for film in films if film.fold == model.fold][:SANITY_IMAGES]
    found: dict[tuple[str, str, str], list[float | None]] = {}
    for film in progress(films, "sanity check", quiet=request.quiet):
        seen = view(request, film, model)
        for pair in request.pairs:
            explain_with = partial(_map_of, request, film, seen, pair)
            for part, value in sanity_check(explain_with, model.model, fresh, mode=mode):
                found.setdefault((*pair, part), []).append(value)
    rows = [
        [method, layer, mode, part, mean.defined, mean.left_out, mean.value]
        for (method, layer, part), values in found.items()
        for mean in [mean_of(values)]
    ]
    write_csv(request.out / SANITY, SANITY_COLUMNS, [[cell(value) for value in r] for r in rows])
    return sanity_lines(rows, len(films))


def _map_of(
    request: Request, film: Film, seen: View, pair: tuple[str, str], network: nn.Module
) -> np.ndarray:
    return one_map(request, film, network, seen, pair)


def _fresh(model: Any, request: Request) -> nn.Module:
    """The architecture of a trained network as it was before training, from a fixed seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        fresh = described_network(model.description)
    return fresh.to(request.device).eval()


def sanity_lines(rows: Sequence[Sequence[Any]], images: int) -> list[str]:
    """The test in words: a line a method and layer."""
    lines = []
    for method, layer, mode in dict.fromkeys(tuple(row[:3]) for row in rows):
        own = [row for row in rows if tuple(row[:3]) == (method, layer, mode)]
        each = [(r[3], "undefined" if r[-1] is None else f"{r[-1]:.2f}") for r in own]
        values = ", ".join(f"{part} {value}" for part, value in each)
        lines.append(
            f"sanity, {method}, {layer}: rank correlation with the map of a network that is random "
            f"in ({mode}, {counted(images, 'image')}) {values}"
        )
    return lines
