"""Everything about one film: its maps, their figures, and the files that show them."""

import time
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from hmc_fast.data.images import downscale_mask, resize
from hmc_fast.errors import InputError
from hmc_fast.evaluation.figures import save
from hmc_fast.explain.explanations import Explanations
from hmc_fast.explain.faithfulness import BATCH_SIZE, faithfulness
from hmc_fast.explain.fold_model import FoldModel
from hmc_fast.explain.localisation import localise
from hmc_fast.explain.methods import METHODS, explain
from hmc_fast.explain.overlay import overlay, panel
from hmc_fast.explain.request import LABEL, PREDICTED, Request
from hmc_fast.explain.selection import Film

GPU_BATCH_SIZE = 64


class View(NamedTuple):
    """A film as the network sees it: pixels uint8 (S, S), images (1, 3, S, S) on its device, and
    the names of the class that it predicts and of the one that is explained."""

    pixels: np.ndarray
    images: Tensor
    predicted: str
    target: str


def view(request: Request, film: Film, fold_model: FoldModel) -> View:
    """Raises InputError, which names the film: it cannot be read, or has no label where that is the
    target."""
    model, image = fold_model.model, film.read()
    images = model.preprocessing(image).to(request.device)
    with torch.inference_mode():
        predicted = model.classes[int(fold_model.network(images[:, :1]).argmax())]
    target = chosen_target(request.target, film, predicted, model.classes)
    return View(resize(image, images.shape[-1]), images, predicted, target)


def explain_film(
    request: Request, film: Film, fold_model: FoldModel, explanations: Explanations
) -> list[dict[str, Any]]:
    """Write the film's maps and pictures; returns its rows of explain.csv.

    Raises InputError: as `view`, and where a method fails on the film.
    """
    seen = view(request, film, fold_model)
    mask = small_mask(film, len(seen.pixels))
    about = {"image": film.name, "label": film.label, **seen._asdict()}
    rows = []
    for method, layer in request.pairs:
        started = time.perf_counter()
        pair = (method, layer)
        cam = one_map(request, film, fold_model.model, seen, pair, quiet=request.quiet)
        about |= {"method": method, "layer": layer, "seconds": time.perf_counter() - started}
        explanations.write_map(film.place, method, layer, cam)
        figures = localise(cam, mask)._asdict() | _faithfulness(fold_model, seen, cam)
        rows.append(about | figures)
    _draw(request, film, seen, mask, explanations)
    return rows


def one_map(
    request: Request,
    film: Film,
    model: Any,
    seen: View,
    pair: tuple[str, str],
    *,
    quiet: bool = True,
) -> np.ndarray:
    """The map of one method and layer, float32 (S, S); InputError, with the film, where that
    fails."""
    target = model.classes.index(seen.target)
    try:
        maps = explain(model, seen.images, target, *pair, request.settings, progress=not quiet)
    except ValueError as error:
        raise InputError(f"{film.name}, {pair[0]}: {error}") from error
    return maps[0].cpu().numpy()


def small_mask(film: Film, size: int) -> np.ndarray | None:
    """The lesions' mask at the maps' size, bool (size, size); None where their place is unknown."""
    mask = film.mask()
    return None if mask is None else downscale_mask(mask, size)


def chosen_target(target: str, film: Film, predicted: str, classes: tuple[str, ...]) -> str:
    """The name of the class that is explained."""
    if target == PREDICTED:
        return predicted
    if target != LABEL:
        return target
    if film.label not in classes:
        known = "no label" if film.label is None else f"the label {film.label}"
        raise InputError(
            f"{film.name} has {known}, which is no target: give --target predicted or a class"
        )
    return film.label


def _faithfulness(fold_model: FoldModel, seen: View, cam: np.ndarray) -> dict[str, float | None]:
    images = seen.images
    return faithfulness(
        fold_model.network,
        images[0, :1],
        torch.from_numpy(cam).to(images.device),
        fold_model.model.classes.index(seen.target),
        batch_size=GPU_BATCH_SIZE if images.is_cuda else BATCH_SIZE,
    )._asdict()


def _draw(
    request: Request,
    film: Film,
    seen: View,
    mask: np.ndarray | None,
    explanations: Explanations,
) -> None:
    """A picture of each map, and for each layer one with all methods' beside each other."""
    about = f"{film.name}: {film.label or 'label unknown'}, predicted {seen.predicted}"
    style: dict[str, Any] = {"mask": mask, "colormap": request.colormap}
    for layer in request.layers:
        of = f"{layer}, for {seen.target}"
        cams = explanations.maps(film.place, METHODS, layer)
        for method in request.methods:
            path = explanations.map_path(film.place, method, layer).with_suffix(".png")
            save(overlay(seen.pixels, cams[method], title=f"{method}, {of}", **style), path)
        path = explanations.panel_path(film.place, layer)
        save(panel(seen.pixels, cams, title=f"{about}; {of}", **style), path)
