"""How much an answer depends on what a map calls important: by hand, by loops, by torchcam."""

from functools import partial
from itertools import pairwise

import numpy as np
import pytest
import torch
import torchcam.metrics
from torch import nn
from torchcam.methods import GradCAM

from hmc_fast.explain.faithfulness import (
    UNDEFINED,
    area_under,
    blurred,
    faithfulness,
    importance_order,
)

SIDE = 12


class Scales(nn.Module):
    """logits (0, weights · image): the first class's probability is a sigmoid's complement."""

    def __init__(self, weights):
        super().__init__()
        self.weights, self.largest_batch = weights, 0

    def forward(self, images):
        self.largest_batch = max(self.largest_batch, len(images))
        score = (images * self.weights).sum((1, 2, 3))
        return torch.stack([torch.zeros_like(score), score], 1)


def problem(seed=0):
    """A network, an image (1, SIDE, SIDE) and a map from 0 to 1, float64."""
    generator = torch.Generator().manual_seed(seed)
    weights = torch.randn(1, SIDE, SIDE, generator=generator, dtype=torch.float64) / SIDE
    image = torch.rand(1, SIDE, SIDE, generator=generator, dtype=torch.float64) * 2 - 1
    cam = torch.rand(SIDE, SIDE, generator=generator, dtype=torch.float64)
    return Scales(weights), image, (cam - cam.min()) / (cam.max() - cam.min())


def sigmoid(value):
    return 1 / (1 + np.exp(-value))


def curve(weights, before, after, cam, steps):
    """p of class 1 while pixels of `after` come, by plain loops over NumPy arrays."""
    order = sorted(range(SIDE**2), key=lambda i: (-cam[i], i))
    found = []
    for step in range(steps + 1):
        pixels = before.copy()
        for i in order[: round(step / steps * SIDE**2)]:
            pixels[i] = after[i]
        found.append(sigmoid(sum(weights * pixels)))
    return sum((a + b) / 2 / steps for a, b in pairwise(found))


def test_rounding_does_not_decide_which_pixel_comes_first():
    cam = torch.tensor([[0.5, 1.0], [0.0, 0.25]])
    noisy = cam + torch.tensor([[1e-7, -1e-7], [1e-7, 0.0]])
    tied = torch.full((2, 2), 0.3) + torch.tensor([[0.0, 1e-7], [2e-7, -1e-7]])
    assert torch.equal(importance_order(noisy), importance_order(cam))
    assert importance_order(tied).flatten().tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("steps", [1, 7, 20])
def test_insertion_and_deletion_equal_plain_loops(steps):
    network, image, cam = problem()
    weights, pixels, flat, start = (
        tensor.numpy().ravel() for tensor in (network.weights, image, cam, blurred(image))
    )
    found = faithfulness(network, image, cam, 1, steps=steps)
    zeros = np.zeros_like(pixels)
    assert found.deletion == pytest.approx(curve(weights, pixels, zeros, flat, steps), rel=1e-12)
    assert found.insertion == pytest.approx(curve(weights, start, pixels, flat, steps), rel=1e-12)


def test_drop_and_increase_by_hand():
    weights, image = torch.tensor([[[2.0, -1.0]]]), torch.tensor([[[1.0, 1.0]]])
    network = Scales(weights.double())
    helped = faithfulness(network, image.double(), torch.tensor([[1.0, 0.0]]), 1, steps=2)
    assert (helped.average_drop, helped.increase) == (0, 1)  # from sigmoid(1) to sigmoid(2)
    hurt = faithfulness(network, image.double(), torch.tensor([[0.0, 1.0]]), 1, steps=2)
    expected = (sigmoid(1) - sigmoid(-1)) / sigmoid(1)
    assert hurt.average_drop == pytest.approx(expected)
    assert hurt.increase == 0


def test_the_map_that_is_right_beats_its_opposite():
    network, image, _ = problem()
    effect = (network.weights * image)[0]
    right = (effect - effect.min()) / (effect.max() - effect.min())
    good, bad = (faithfulness(network, image, cam, 1) for cam in (right, 1 - right))
    assert good.deletion < bad.deletion
    assert good.insertion > bad.insertion


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_a_constant_map_has_no_figure_and_costs_nothing(value):
    network, image, cam = problem()
    assert faithfulness(network, image, torch.full_like(cam, value), 1) == UNDEFINED
    assert network.largest_batch == 0


def test_no_drop_where_nothing_can_drop():
    network, image, cam = problem()
    network.weights = torch.full_like(network.weights, -1e4) * image.sign()
    found = faithfulness(network, image, cam, 1)
    assert found.average_drop is None
    assert found.increase == 0


def test_batches_change_nothing():
    network, image, cam = problem()
    one, all_at_once = (faithfulness(network, image, cam, 0, batch_size=n) for n in (1, 100))
    assert network.largest_batch == 44
    assert one == pytest.approx(all_at_once, rel=1e-13)


def test_equal_pixels_go_in_the_order_of_rows():
    cam = torch.tensor([[0.0, 1.0, 0.0], [1.0, 0.5, 0.0]])
    assert importance_order(cam).tolist() == [[3, 0, 4], [1, 2, 5]]


def test_the_area_is_that_of_the_share_of_pixels():
    assert area_under(torch.tensor([1.0, 0.5, 0.0])) == pytest.approx(0.5)
    assert area_under(torch.tensor([0.0, 1.0, 1.0])) == pytest.approx(0.75)


def test_the_start_of_insertion_is_rises_blur():
    image = torch.zeros(1, 224, 224, dtype=torch.float64)
    image[0, 100, 100] = 1
    weights = np.exp(-(np.arange(-5, 6) ** 2) / (2 * 5**2))
    kernel = np.outer(weights, weights) / weights.sum() ** 2
    np.testing.assert_allclose(blurred(image)[0, 95:106, 95:106], kernel, rtol=1e-6)
    assert blurred(image).sum() == pytest.approx(1)


@pytest.mark.parametrize("baseline", ["zeros", "blur"])
def test_curves_agree_with_torchcam(baseline):
    torch.manual_seed(0)
    conv = nn.Conv2d(1, 4, 3, padding=1)
    network = nn.Sequential(conv, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))
    network.eval()
    image = torch.rand(1, 1, 10, 10) * 2 - 1
    with GradCAM(network, target_layer=conv) as extractor:
        (cam,) = extractor(2, network(image).softmax(1))  # as the metric calls it
        start = None if baseline == "zeros" else lambda images: blurred(images[0])[None]
        metric = torchcam.metrics.DeletionInsertionMetric(
            extractor, partial(torch.softmax, dim=1), steps=10, baseline=start
        )
        metric.update(image, 2)
    found = faithfulness(network, image[0], cam[0], 2, steps=10)
    name = "deletion" if baseline == "zeros" else "insertion"
    assert getattr(found, name) == pytest.approx(metric.summary()[f"{name}_auc"], abs=1e-6)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"cam": torch.zeros(3, 3)}, r"cam \(H, W\) of its size"),
        ({"image": torch.zeros(SIDE, SIDE)}, r"image must be \(C, H, W\)"),
        ({"cam": torch.full((SIDE, SIDE), 1.5)}, "cam must be from 0 to 1, got 1.5"),
        ({"cam": torch.full((SIDE, SIDE), torch.nan)}, "cam must be from 0 to 1"),
        ({"target": 2}, "target must be from 0 to 1, got 2"),
        ({"target": -1}, "target must be from 0 to 1, got -1"),
        ({"steps": 0}, "steps and batch_size must be 1 or more, got 0 and 8"),
        ({"batch_size": 0}, "steps and batch_size must be 1 or more, got 20 and 0"),
    ],
)
def test_bad_arguments_are_named(changes, words):
    network, image, cam = problem()
    with pytest.raises(ValueError, match=words):
        faithfulness(network, **({"image": image, "cam": cam, "target": 1} | changes))
