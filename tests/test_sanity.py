"""The parameter randomisation test: which parts are random, and what a correlation of maps is."""

import copy

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from torch import nn

from hmc_fast.explain.sanity import (
    parts_from_the_top,
    randomised,
    rank_correlation,
    sanity_check,
)
from hmc_fast.models import create_model
from hmc_fast.models.network import HMCNet


def network(value):
    """Three parts, every parameter of one value."""
    parts = {"first": nn.Linear(2, 2), "relu": nn.ReLU(), "second": nn.Linear(2, 2)}
    model = nn.Sequential()
    for name, part in {**parts, "third": nn.Linear(2, 2)}.items():
        model.add_module(name, part)
    for parameter in model.parameters():
        nn.init.constant_(parameter, value)
    return model


def values(model):
    return [model.get_submodule(name).weight[0, 0].item() for name in ("first", "second", "third")]


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        ("cascading", [[1, 1, 2], [1, 2, 2], [2, 2, 2]]),
        ("independent", [[1, 1, 2], [1, 2, 1], [2, 1, 1]]),
    ],
)
def test_parts_become_random_from_the_top(mode, expected):
    model, fresh = network(1.0), network(2.0)
    found = [(name, values(changed)) for name, changed in randomised(model, fresh, mode)]
    assert found == list(zip(["third", "second", "first"], expected, strict=True))
    assert values(model) == [1, 1, 1]
    assert values(fresh) == [2, 2, 2]


def test_the_parts_of_hmc_stand_in_the_order_of_its_forward_pass():
    parts = parts_from_the_top(HMCNet(layers=(1, 1, 1, 1)))
    deep = ["fc", "ca34", "match_ca34", "layer4", "ca23", "match_ca23", "layer3"]
    assert parts == [*deep, "ha2", "layer2", "ha1", "layer1", "bn1", "conv1"]
    assert parts_from_the_top(create_model("vgg16")) == ["classifier", "features"]


def test_running_statistics_become_random_too():
    model, fresh = nn.Sequential(nn.BatchNorm2d(3)), nn.Sequential(nn.BatchNorm2d(3))
    model[0].running_mean.fill_(5)
    _, changed = next(randomised(model, fresh, "cascading"))
    assert changed[0].running_mean.eq(0).all()


@pytest.mark.parametrize("seed", range(3))
def test_the_correlation_is_scipys(seed):
    generator = np.random.default_rng(seed)
    first, second = generator.integers(0, 4, (2, 6, 5)).astype(float)  # ties
    expected = spearmanr(first.ravel(), second.ravel()).statistic
    assert rank_correlation(first, second) == pytest.approx(expected)
    assert rank_correlation(first, first**3) == pytest.approx(1)
    assert rank_correlation(first, -first) == pytest.approx(-1)


def test_a_map_that_says_nothing_has_no_correlation():
    ramp, flat = np.arange(6.0).reshape(2, 3), np.zeros((2, 3))
    assert rank_correlation(ramp, flat) is None
    with pytest.raises(ValueError, match="one shape"):
        rank_correlation(ramp, ramp.T)


def test_each_part_is_compared_with_the_original_map():
    def explain(model):
        first, second, third = values(model)
        if third == 2 and second == 2 and first == 1:
            raise ValueError("the map is not finite")
        return np.array([[first, 0.5, third], [0, 0.1, 0.2]])

    found = sanity_check(explain, network(1.0), network(2.0))
    assert [name for name, _ in found] == ["third", "second", "first"]
    original, changed = [5.5, 4, 5.5, 1, 2, 3], [5, 4, 6, 1, 2, 3]  # ranks by hand
    assert found[0].value == pytest.approx(np.corrcoef(original, changed)[0, 1])
    assert found[1].value is None
    assert found[2].value == pytest.approx(1)


def test_other_errors_are_not_swallowed():
    def explain(model):
        if values(model) != [1, 1, 1]:
            raise ValueError("no such layer")
        return np.eye(2)

    with pytest.raises(ValueError, match="no such layer"):
        sanity_check(explain, network(1.0), network(2.0))
    with pytest.raises(ValueError, match="mode must be one of cascading, independent"):
        next(randomised(network(1.0), copy.deepcopy(network(2.0)), "both"))
    assert torch.is_grad_enabled()
