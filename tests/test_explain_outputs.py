"""What layers give when nothing behind them is computed, as Score-CAM asks it of known networks."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import nn

from cam_examples import random_images, state_of, tiny_cam
from hmc_fast import optimize_for_inference
from hmc_fast.explain import score_cam
from hmc_fast.explain.layers import cut_short, recorded
from hmc_fast.explain.masked import known_classes
from hmc_fast.explain.outputs import layer_outputs
from random_network import phantom_images, small_network


@pytest.fixture
def calls(monkeypatch):
    """The linear layers that were called, in order."""
    called, original = [], nn.Linear.forward

    def counted(layer, x):
        called.append(layer)
        return original(layer, x)

    monkeypatch.setattr(nn.Linear, "forward", counted)
    return called


@pytest.mark.parametrize(
    "names",
    [["conv1"], ["relu"], ["layer1.0.relu"], ["layer4"], ["ca34"], ["ha2", "layer1"], ["avgpool"]],
    ids=" ".join,
)
@torch.no_grad()
def test_maps_are_those_of_the_whole_forward_pass(names, calls):
    model, images = small_network(torch.float32), phantom_images(2)
    expected, logits = layer_outputs(model, images, names)
    assert torch.equal(logits, model(images))
    before = str(state_of(model))
    calls.clear()
    got, missing = layer_outputs(model, images, names, whole=False)
    assert missing is None
    assert calls == []
    assert all(torch.equal(a, b) for a, b in zip(got, expected, strict=True))
    assert str(state_of(model)) == before


@torch.no_grad()
def test_a_layer_that_stands_in_two_stages_gives_its_last_output():
    model, images = small_network(torch.float32), phantom_images(1)
    model.layer3[0].relu = model.layer1[0].relu
    (expected,), _ = layer_outputs(model, images, ["layer1.0.relu"])
    assert expected.shape[1] == 1024
    (got,), _ = layer_outputs(model, images, ["layer1.0.relu"], whole=False)
    assert torch.equal(got, expected)


@torch.no_grad()
def test_a_layer_that_is_never_called_is_named():
    model = small_network(torch.float32)
    for block in model.attention_blocks().values():
        block.form = "reassociated"  # which takes the weights of `match_ca34` alone
    with pytest.raises(ValueError, match="layer 'match_ca34' was not called"):
        layer_outputs(model, phantom_images(1), ["match_ca34"], whole=False)


@torch.no_grad()
def test_another_thread_is_not_cut_short():
    model, images = small_network(torch.float32), phantom_images(1)
    expected, layers = model(images), {"layer1": model.layer1}
    with recorded(layers) as outputs, cut_short(model, layers), ThreadPoolExecutor(1) as other:
        assert torch.equal(other.submit(torch.no_grad()(model), images).result(), expected)
        assert not outputs
        model(images)
        pytest.fail("the forward pass went to its end")
    assert list(outputs) == ["layer1"]


@torch.no_grad()
def test_an_error_before_the_layer_is_raised_and_leaves_no_hook():
    model, images = small_network(torch.float32), phantom_images(1)
    before = str(state_of(model))
    with pytest.raises(RuntimeError, match="channels"):
        layer_outputs(model, images[:, :2], ["layer1"], whole=False)
    assert str(state_of(model)) == before


@pytest.mark.parametrize("optimised", [False, True])
def test_a_given_target_needs_no_logits_of_the_image(calls, optimised):
    model, images = small_network(torch.float32), phantom_images(2)
    model.fc.bias.data.add_(3)  # positive logits, or the paper's map is empty
    target = model(images).argmax(1)
    model = optimize_for_inference(model, grayscale=True) if optimised else model
    settings = {"layer": "layer1", "max_channels": 4, "batch_size": 8}
    expected = score_cam(model, images, **settings)
    assert expected.amax() == 1
    calls.clear()
    assert torch.equal(score_cam(model, images, target, **settings), expected)
    assert len(calls) == 2  # of the one batch: the classifier, and what ca34 adds to it


@pytest.mark.parametrize("optimised", [False, True])
@pytest.mark.parametrize("target", [3, -1, [0, 3]])
def test_targets_are_checked_where_no_logits_are_computed(optimised, target):
    model, images = small_network(torch.float32), phantom_images(2)
    model = optimize_for_inference(model) if optimised else model
    with pytest.raises(ValueError, match="target must be a class from 0 to 2, got"):
        score_cam(model, images, target, layer="layer1")


def test_only_networks_that_are_known_may_be_cut_short(calls):
    model, images, seen = small_network(torch.float32), phantom_images(1), []
    assert known_classes(model) == known_classes(torch.compile(model, backend="eager")) == 3
    assert known_classes(tiny_cam()) is None
    model.fc.register_forward_hook(lambda *_: seen.append(1))  # the caller's
    assert known_classes(model) is None
    score_cam(model, images, 0, layer="layer1", max_channels=2, batch_size=1)
    assert len(seen) == 3  # the image and two masks


def test_networks_that_are_not_known_are_explained_for_a_given_target():
    model, images = tiny_cam(), random_images(2)
    predicted = model(images).argmax(1)
    expected = score_cam(model, images, layer="body.4")
    assert torch.equal(score_cam(model, images, predicted, layer="body.4"), expected)
