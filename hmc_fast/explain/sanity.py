"""Does a map depend on what the network learned? The parameter randomisation test (Adebayo et al.,
Sanity Checks for Saliency Maps, NeurIPS 2018).

From the classifier down, the network's parts get the values of a network that was never trained,
one after the other: `cascading` keeps what is already random, `independent` makes one part random
at a time. At each part the new map is compared with the original one by Spearman's rank correlation
over the pixels. A correlation that stays near 1 says that the map shows the image's edges and not
what the network learned. (An attention block's gamma is 0 in a network never trained: the block is
then the identity, and what is random in it has no effect.)
"""

import copy
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
from torch import nn

from hmc_fast.explain.localisation import is_constant

MODES = ("cascading", "independent")
ORDER = (  # of HMC-Net's and ResNet50's parts in the forward pass; others stand as they are called
    "conv1", "bn1", "layer1", "ha1", "layer2", "ha2",
    "layer3", "match_ca23", "ca23", "layer4", "match_ca34", "ca34", "fc",
)  # fmt: skip
Explain = Callable[[nn.Module], np.ndarray]


class Correlation(NamedTuple):
    """part: the last one made random; value: Spearman's, -1 to 1, None for a constant map."""

    part: str
    value: float | None


def parts_from_the_top(model: nn.Module) -> list[str]:
    """The names of the outermost modules with parameters, the classifier first."""
    names = [name for name, part in model.named_children() if any(True for _ in part.parameters())]
    if set(names) <= set(ORDER):
        names.sort(key=ORDER.index)
    return names[::-1]


def randomised(model: nn.Module, fresh: nn.Module, mode: str) -> Iterator[tuple[str, nn.Module]]:
    """Each part's name and a copy of `model` in which it has the values of `fresh`; `model` and
    `fresh` are left as they are.

    model, fresh: one architecture, fresh as it was initialised; mode: "cascading" or "independent".
    The copy of a cascade is one network that goes on changing: use it before asking for the next.
    """
    if mode not in MODES:
        raise ValueError(f"mode must be one of {', '.join(MODES)}, got {mode!r}")
    changed = copy.deepcopy(model)
    for name in parts_from_the_top(model):
        if mode == "independent":
            changed = copy.deepcopy(model)
        part = changed.get_submodule(name)
        part.load_state_dict(fresh.get_submodule(name).state_dict())
        yield name, changed


def sanity_check(
    explain: Explain, model: nn.Module, fresh: nn.Module, *, mode: str = "cascading"
) -> list[Correlation]:
    """The rank correlation of a map with that of the network made random, part by part.

    explain: network -> map (H, W), for one image and one target; the rest: see `randomised`.
    A map that is constant, or not finite because a random network overflows, gives None.
    """
    original = explain(model)
    return [
        Correlation(name, _correlation(original, explain, changed))
        for name, changed in randomised(model, fresh, mode)
    ]


def _correlation(original: np.ndarray, explain: Explain, changed: nn.Module) -> float | None:
    try:
        return rank_correlation(original, explain(changed))
    except ValueError as error:
        if "not finite" not in str(error):
            raise
        return None


def rank_correlation(first: np.ndarray, second: np.ndarray) -> float | None:
    """Spearman's correlation of two maps over their pixels, ties with their mean rank; None where
    one of them is constant. Raises ValueError: shapes that differ."""
    from scipy.stats import rankdata

    if first.shape != second.shape:
        raise ValueError(f"the maps must have one shape, got {first.shape} and {second.shape}")
    if is_constant(first) or is_constant(second):
        return None
    ranks = (rankdata(values.ravel()) for values in (first, second))
    return float(np.corrcoef(*ranks)[0, 1])
