"""Networks and images to time where no run is given: as training leaves them, without training."""

from functools import cache

import torch
from torch import Tensor, nn

from hmc_fast.data.phantom import open_phantom
from hmc_fast.data.preprocessing import Preprocessing
from hmc_fast.profiling.counts import Architecture, set_gammas

FILMS = 16  # different ones; a larger batch repeats them
SETTLING = 4  # images that give the statistics
GAMMA = 0.5
BRANCH = 0.2  # of a bottleneck beside its shortcut


@cache
def phantom_images(count: int, size: int) -> Tensor:
    """(count, 3, size, size) float32, grey, in [-1, 1]: the phantom's first films, over again."""
    phantom, preprocessing = open_phantom(FILMS // 2, size=size), Preprocessing(size)
    films = [preprocessing(phantom.read(i)) for i in range(min(count, FILMS))]
    return torch.cat([films[i % FILMS] for i in range(count)])


def settled_network(architecture: Architecture, backend: str = "auto") -> nn.Module:
    """In eval mode on the CPU, seeded: every gamma GAMMA, so that every block is computed, and the
    statistics of phantom images and small branches, so that neither values nor rounding errors
    grow from block to block."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = architecture.network(backend)
    set_gammas(network, GAMMA)
    norms = {n: m for n, m in network.named_modules() if isinstance(m, nn.BatchNorm2d)}
    for name, norm in norms.items():
        norm.momentum = None  # a cumulative average
        if name.endswith("bn3"):
            nn.init.constant_(norm.weight, BRANCH)
    if norms:
        with torch.no_grad():
            network.train()(phantom_images(SETTLING, architecture.image_size))
    return network.eval()
