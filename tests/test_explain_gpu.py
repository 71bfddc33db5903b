"""Explanations on a GPU: as on the CPU, and the stream of masks never waits for the host."""

import sys

import pytest
import torch

from cam_examples import LAYER, random_images, tiny_cam
from hmc_fast import optimize_for_inference
from hmc_fast.explain import grad_cam, grad_cam_plus_plus, score_cam
from hmc_fast.explain.recipes import RECIPES
from random_network import phantom_images, small_network

pytestmark = pytest.mark.gpu
DEVICE = "cuda"


@pytest.fixture
def exact(monkeypatch):
    """Convolutions in float32, without TF32."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


def hmc():
    """A grey image's network with positive logits, and three images, on the GPU."""
    model = small_network(torch.float32).to(DEVICE)
    model.fc.bias.data.add_(3)
    return model, phantom_images(3).to(DEVICE)


@pytest.mark.parametrize("explain", [grad_cam, grad_cam_plus_plus, score_cam])
def test_maps_are_those_of_the_cpu(exact, explain):
    model, images = tiny_cam(linear=False), random_images(3)
    expected = explain(model, images, (1, 0, 3), layer=LAYER)
    got = explain(model.to(DEVICE), images.to(DEVICE), (1, 0, 3), layer=LAYER)
    assert got.device.type == DEVICE
    torch.testing.assert_close(got.cpu(), expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("recipe", list(RECIPES))
def test_the_folded_network_gives_the_map_of_the_cpu(exact, recipe):
    model, images = hmc()
    settings = {"recipe": recipe, "layer": "maxpool"}
    got = score_cam(model, images, (0, 2, 2), **settings)
    expected = score_cam(model.cpu(), images.cpu(), (0, 2, 2), **settings)
    assert (expected.amax((1, 2)) == 1).all()
    torch.testing.assert_close(got.cpu(), expected, rtol=0, atol=1e-3)


def test_low_precision_and_a_graph_change_little(exact):
    model, images = hmc()
    expected = score_cam(model, images, 2, layer="maxpool")
    graphed = optimize_for_inference(model, dtype=torch.bfloat16, grayscale=True, batch_size=16)
    low = score_cam(model, images, 2, layer="maxpool", dtype=torch.bfloat16)
    for got in (low, score_cam(graphed, images, 2, layer="stem")):
        correlation = torch.corrcoef(torch.stack([got.flatten(), expected.flatten()]))[0, 1]
        assert correlation > 0.98


@pytest.mark.parametrize("optimised", [False, True])
def test_nothing_in_the_stream_waits_for_the_host(monkeypatch, optimised):
    model, images = hmc()
    layer = "stem" if optimised else "maxpool"
    if optimised:
        model = optimize_for_inference(model, dtype=torch.bfloat16, grayscale=True, batch_size=32)
    score_cam(model, images, 2, layer=layer)  # kernels are loaded, graphs recorded
    module = sys.modules["hmc_fast.explain.score_cam"]
    original, calls = module.try_masks, []

    def watched(*arguments, **settings):
        torch.cuda.set_sync_debug_mode("error")
        try:
            original(*arguments, **settings)
            calls.append(True)
        finally:
            torch.cuda.set_sync_debug_mode("default")

    monkeypatch.setattr(module, "try_masks", watched)
    score_cam(model, images, 2, layer=layer)
    assert calls == [True]


def test_memory_that_runs_out_halves_the_batch():
    model, images = tiny_cam().to(DEVICE), random_images(1, size=(512, 512)).to(DEVICE)
    expected = score_cam(model, images, 1, layer="body.2", batch_size=1)
    sizes = []

    def full(module, inputs):
        sizes.append(len(inputs[0]))
        if len(inputs[0]) > 2:
            torch.empty(2**50, dtype=torch.uint8, device=DEVICE)

    model.register_forward_pre_hook(full)
    got = score_cam(model, images, 1, layer="body.2", batch_size=4)
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-3)
    assert sizes[:3] == [1, 4, 2]
