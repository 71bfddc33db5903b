"""Networks and images of the inference benchmarks, and when a result counts as right."""

import copy
from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor, nn

from hmc_fast.data.phantom import open_phantom
from hmc_fast.data.preprocessing import Preprocessing
from hmc_fast.models import create_model

SIZE = 224  # pixels of a side
# of probabilities: this refuses nonsense alone; agreement.py reports. In float32 both sides are
# about 1e-5 off the truth, as this network's attention is peaked
TOLERANCES = {torch.float32: 5e-5, torch.bfloat16: 0.05, torch.float16: 0.05}


@cache
def phantom_images(count: int) -> Tensor:
    """(count, 3, SIZE, SIZE), the phantom's first films, again from the first after 16."""
    phantom, preprocessing = open_phantom(8, size=SIZE), Preprocessing(SIZE)
    films = [preprocessing(phantom.read(i)) for i in range(min(count, 16))]
    return torch.cat([films[i % 16] for i in range(count)])


@cache
def network(variant: str) -> nn.Module:
    """In eval mode, seeded: every gamma 0.5, statistics of the phantom, so that no logit is far off
    and every block is computed."""
    torch.manual_seed(0)
    model = create_model(variant)
    for name, parameter in model.named_parameters():
        if name.endswith("gamma"):
            nn.init.constant_(parameter, 0.5)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None  # a cumulative average
    with torch.no_grad():
        model.train()(phantom_images(8))
    return model.eval()


def textbook(model: nn.Module) -> nn.Module:
    """The same network with the attention as the paper writes it."""
    model = copy.deepcopy(model)
    for module in model.modules():
        if hasattr(module, "backend"):
            module.backend = "reference"
    return model


def probabilities(model: nn.Module, images: Tensor) -> Tensor:
    """(B, classes) in float64, computed in the model's own dtype."""
    with torch.no_grad():
        return model(images.to(next(model.parameters()).dtype)).double().softmax(1)


def largest_difference(call: Callable[[Tensor], Tensor], expected: Tensor, images: Tensor) -> float:
    """max |Δp| between a call with these images and the expected probabilities."""
    with torch.no_grad():
        return float((call(images).double().softmax(1) - expected).abs().max())
