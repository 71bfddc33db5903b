"""Would Score-CAM gain if HA1 attended over the distinct tokens of a masked image alone?

    python bench/active_cells.py RUN IMAGE ...    a run's model and images, MIAS's say

Where a mask is 0 the image is a constant, and tokens of HA1 that see nothing else are equal but for
the border, BACKGROUND different ones; attention over them with multiplicities would be exact. HA1
costs the square of its tokens. Prints the share of active cells in the maps of a layer, and what
HA1 would cost on average; below half, it would be worth building.
"""

import argparse
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from command_line import Parser
from hmc_fast.data.images import read_image
from hmc_fast.errors import InputError
from hmc_fast.explain.distinct import find_jobs
from hmc_fast.explain.outputs import layer_outputs
from hmc_fast.explain.recipes import RECIPES
from hmc_fast.models.saved import load_model
from hmc_fast.progress import progress

STRIDE, FIELD = 4, 35  # pixels between tokens of HA1, and those that one sees: stem and layer1
BACKGROUND = 49  # by the distance from each border, 3 tokens or fewer or more: 7 x 7
WORTH_IT = 0.5


class Activity(NamedTuple):
    """Means over an image's masks: active cells of the layer's maps, tokens of HA1 that see one,
    and the cost of HA1 over distinct tokens, all as shares."""

    cells: float
    tokens: float
    cost: float


def activity(maps: Tensor, size: tuple[int, int]) -> Activity:
    """maps (1, C, h, w) of an image of `size` pixels; each mask counts once."""
    recipe = RECIPES["paper"]
    jobs = find_jobs(maps, recipe)
    active = [
        active_tokens(recipe.masks(part, slack, size))
        for part, slack in zip(jobs.maps.split(64), jobs.slack.split(64), strict=True)
    ]
    tokens = torch.cat([part.flatten(1).mean(1) for part in active])
    every = active[0][0].numel()
    cost = (tokens + BACKGROUND / every).clamp_max(1).square()
    cells = (jobs.maps > 0).double().mean()
    return Activity(float(cells), float(tokens.mean()), float(cost.mean()))


def active_tokens(masks: Tensor) -> Tensor:
    """masks (n, 1, H, W) -> (n, H / 4, W / 4), 1 where a token sees a part that is not hidden."""
    return F.max_pool2d((masks > 0).float(), FIELD, STRIDE, FIELD // 2)[:, 0].double()


def activities(model: nn.Module, images: Iterable[Path], layer: str) -> list[Activity]:
    """One of each image."""
    found = []
    for path in progress(images, "explaining"):
        image = model.preprocessing(read_image(path))
        with torch.no_grad():
            (maps,), _ = layer_outputs(model, image, [layer])
        found.append(activity(maps, (image.shape[2], image.shape[3])))
    return found


def sentence(found: Sequence[Activity], layer: str) -> str:
    """What was found, and what follows."""
    cells, tokens, cost = (sum(column) / len(found) for column in zip(*found, strict=True))
    verdict = "worth building" if cost < WORTH_IT else "not worth building"
    return (
        f"{len(found)} images, {layer}: {cells:.1%} of the cells are active, {tokens:.1%} of HA1's "
        f"tokens see one; over distinct tokens HA1 would cost {cost:.1%} of itself: {verdict}"
    )


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = Parser(__doc__.splitlines()[0])
    add = parser.add_argument
    add("run", metavar="RUN", type=Path, help="folder of a run")
    add("images", metavar="IMAGE", nargs="+", type=Path, help="image files")
    add("--fold", type=int, default=0, help="the model of which fold (default: 0)")
    add("--layer", default="layer4", help="whose maps are masks (default: layer4)")
    args = parser.parse_args(arguments)
    args.parser = parser
    return args


def main(arguments: Sequence[str] | None = None) -> int:
    args = parse(arguments)
    try:
        model = load_model(args.run, args.fold)
        found = activities(model, args.images, args.layer)
    except (InputError, ValueError) as error:
        args.parser.error(str(error))
    print(sentence(found, args.layer))
    return 0


if __name__ == "__main__":
    sys.exit(main())
