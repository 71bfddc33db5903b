"""Grad-CAM and Grad-CAM++ against other packages, hand computation and true derivatives."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torchvision.models import resnet18, vgg11

from cam_examples import LAYER, random_images, tiny_cam, unit
from hmc_fast.explain import grad_cam, grad_cam_plus_plus
from random_network import phantom_images, random_network, small_network


@pytest.fixture(scope="module")
def networks():
    """A toy with a curved tail, an HMC-Net: float32, images, layer, targets."""
    return {
        "toy": (tiny_cam(linear=False), random_images(), LAYER, (1, 3)),
        "hmc": (small_network(torch.float32), phantom_images(2), "layer4", (0, 2)),
        "hmc ha1": (small_network(torch.float32), phantom_images(2), "ha1", (0, 2)),
    }


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["toy", "hmc", "hmc ha1"])
def test_grad_cam_is_that_of_the_package(networks, name):
    from pytorch_grad_cam import GradCAM
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    model, images, layer, targets = networks[name]
    expected = GradCAM(model, [model.get_submodule(layer)])(
        images, targets=[ClassifierOutputTarget(t) for t in targets]
    )
    got = grad_cam(model, images, targets, layer=layer)
    model.zero_grad()
    assert got.shape == (2, *images.shape[2:])
    assert got.amax((1, 2)).tolist() == [1, 1]
    torch.testing.assert_close(got, torch.from_numpy(expected), rtol=0, atol=1e-4)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["toy", "hmc", "hmc ha1"])
def test_raw_grad_cam_is_captums(networks, name):
    from captum.attr import LayerGradCam

    model, images, layer, targets = networks[name]
    captum = LayerGradCam(model, model.get_submodule(layer))
    expected = captum.attribute(images, target=torch.tensor(targets), relu_attributions=True)
    got = grad_cam(model, images, targets, layer=layer, raw=True)
    scale = expected.max()
    assert scale > 0
    torch.testing.assert_close(got / scale, expected[:, 0].detach() / scale, rtol=0, atol=1e-4)


class ByHand(nn.Module):
    """Maps are the image's channels; logits 4 (mean A0) - 8 (mean A1), and the opposite."""

    def __init__(self):
        super().__init__()
        self.maps = nn.Identity()
        self.register_buffer("weight", torch.tensor([[4.0, -8.0], [-4.0, 8.0]]))

    def forward(self, images):
        return self.maps(images).mean((2, 3)) @ self.weight.T


IMAGE = torch.tensor([[[[4.0, 0.0], [2.0, 2.0]], [[1.0, 0.0], [0.0, 1.0]]]])  # sums 8 and 2


def test_grad_cam_by_hand():
    # g = (1, -2): maps 4 - 2, 0, 2, 2 - 2
    raw = grad_cam(ByHand(), IMAGE, 0, layer="maps", raw=True)
    assert raw.tolist() == [[[2, 0], [2, 0]]]
    shown = grad_cam(ByHand(), IMAGE, 0, layer="maps")
    assert shown.tolist() == [[[1, 0], [1, 0]]]


@pytest.mark.parametrize(
    ("recipe", "target", "expected"),
    [
        # g = (1, -2): four positions of 1 / (2 + 8); the second channel has no positive gradient
        ("original", 0, [[1.6, 0.0], [0.8, 0.8]]),
        # g = (-1, 2): the second channel's 4 * 2 / (2 + 4)
        ("original", 1, [[4 / 3, 0.0], [0.0, 4 / 3]]),
        # 4 / (2 + 8) and, as 2 - 4 < 0, 0
        ("printed", 0, [[1.6, 0.0], [0.8, 0.8]]),
        # 2 - 8 < 0, and 4 / (2 + 4)
        ("printed", 1, [[2 / 3, 0.0], [0.0, 2 / 3]]),
    ],
)
def test_grad_cam_plus_plus_by_hand(recipe, target, expected):
    raw = grad_cam_plus_plus(ByHand(), IMAGE, target, layer="maps", recipe=recipe, raw=True)
    torch.testing.assert_close(raw, torch.tensor([expected]))


def true_weights(tail, maps, channels):
    """Eq. 19's weights of the first channels from true derivatives of Y = exp(S): nested autograd
    along each element of maps (1, C, h, w); tail: (n, C, h, w) -> S (n,)."""
    first, second, third = ([] for _ in range(3))
    for places in torch.arange(channels * maps[0, 0].numel()).split(256):
        base = maps.flatten(1).expand(len(places), -1)
        step = torch.zeros(len(places), dtype=maps.dtype, requires_grad=True)
        moved = base.index_put((torch.arange(len(places)), places), step, accumulate=True)
        derivative = tail(moved.view(-1, *maps.shape[1:])).exp()
        for kept in (first, second, third):
            (derivative,) = torch.autograd.grad(derivative.sum(), step, create_graph=True)
            kept.append(derivative.detach())
    d1, d2, d3 = (torch.cat(parts).view(channels, -1) for parts in (first, second, third))
    total = maps[0, :channels].sum((1, 2))[:, None]
    alpha = d2 / (2 * d2 + total * d3)
    return (alpha * d1.relu()).sum(1)


def layer4_and_rest(model, images):
    """Maps of layer4, and what makes the logits of them and the map before, as a function."""
    seen = {}
    for name in ("layer3", "layer4"):
        getattr(model, name).register_forward_hook(lambda _, x, y, n=name: seen.update({n: y}))
    if hasattr(model, "ca23"):
        model.ca23.register_forward_hook(lambda _, x, y: seen.update({"layer3": y}))
    with torch.no_grad():
        model(images)
    for module in model.modules():
        module._forward_hooks.clear()

    def rest(maps):
        if hasattr(model, "ca34"):
            finer = model.match_ca34(seen["layer3"])
            finer = F.interpolate(finer, maps.shape[2:], mode="bilinear")
            maps = model.ca34(maps, finer.expand(len(maps), -1, -1, -1))
        return model.fc(model.avgpool(maps).flatten(1))

    return seen["layer4"], rest


def test_grad_cam_plus_plus_is_eq_19_with_the_true_derivatives_of_a_linear_tail():
    model, image = random_network("resnet50"), phantom_images(1).double()
    maps, rest = layer4_and_rest(model, image)
    weights = true_weights(lambda x: rest(x)[:, 1], maps, channels=2048)
    expected = (weights[:, None, None] * maps[0]).sum(0).relu()[None]
    got = grad_cam_plus_plus(model, image, 1, raw=True)
    torch.testing.assert_close(unit(got.double()), unit(expected), rtol=0, atol=1e-6)


def test_on_hmc_it_is_the_closed_form_and_that_is_near_the_true_derivatives():
    """CA34 bends the logits: the gap that docs/explain.md tells."""
    model, image = small_network(), phantom_images(1).double()
    maps, rest = layer4_and_rest(model, image)
    for block in model.attention_blocks().values():
        block.backend = "reference"  # differentiable more than once
    leaf = maps.clone().requires_grad_()
    (g,) = torch.autograd.grad(rest(leaf)[0, 1], leaf)
    alpha = g**2 / (2 * g**2 + g**3 * maps.sum((2, 3), keepdim=True))
    closed = (alpha.nan_to_num(0) * g.relu()).sum((2, 3))[0]
    expected = (closed[:, None, None] * maps[0]).sum(0).relu()[None]
    got = grad_cam_plus_plus(model, image, 1, raw=True).double()
    torch.testing.assert_close(unit(got), unit(expected), rtol=0, atol=1e-6)
    scale = rest(maps)[0, 1].exp()
    true = true_weights(lambda x: rest(x)[:, 1], maps, channels=16) / scale
    gap = ((closed[:16] - true).norm() / true.norm()).item()
    assert 1e-6 < gap < 0.05, gap


@pytest.mark.parametrize("make", [resnet18, vgg11])
def test_any_torchvision_network(make):
    torch.manual_seed(0)
    model, images = make(num_classes=4).eval(), random_images(2, size=(32, 48))
    layer = "layer2" if make is resnet18 else "features.5"
    for explain in (grad_cam, grad_cam_plus_plus):
        maps = explain(model, images, layer=layer)
        assert maps.shape == (2, 32, 48)
        assert maps.amin() == 0
        assert maps.amax((1, 2)).tolist() == [1, 1]
    with torch.no_grad():
        predicted = model(images).argmax(1)
    given = grad_cam(model, images, predicted, layer=layer)
    assert torch.equal(given, grad_cam(model, images, layer=layer))


def test_tokens_are_maps_after_reshape():
    from hmc_fast import create_model

    torch.manual_seed(0)
    model, images = create_model("vit_b_16", image_size=32).eval(), random_images(2, size=(32, 32))

    def to_maps(tokens):  # without the class token
        return tokens[:, 1:].transpose(1, 2).unflatten(2, (2, 2))

    layer = "encoder.layers.encoder_layer_10"
    nn.init.normal_(model.heads[0].weight)
    maps = grad_cam(model, images, layer=layer, reshape=to_maps)
    assert maps.shape == (2, 32, 32)
    assert maps.amax() == 1
    with pytest.raises(ValueError, match=r"gives \(2, 5, 768\), which are no maps .*reshape="):
        grad_cam(model, images, layer=layer)


def test_several_layers_are_averaged():
    model, images = tiny_cam(), random_images()
    each = [grad_cam(model, images, 1, layer=name) for name in ("body.0", "body.3")]
    got = grad_cam(model, images, 1, layer=["body.0", "body.3"])
    torch.testing.assert_close(got, unit(sum(each) / 2))
    with pytest.raises(ValueError, match="raw=True gives the map of one layer, got 2"):
        grad_cam(model, images, 1, layer=["body.0", "body.3"], raw=True)


def test_a_relu_in_place_behind_the_layer_changes_nothing():
    """grad-cam 1.5.7 keeps the tensor that the ReLU then overwrites."""
    model, images = tiny_cam(linear=False), random_images()
    got = grad_cam(model, images, 1, layer="body.3")
    model.body[4].inplace = False
    assert torch.equal(got, grad_cam(model, images, 1, layer="body.3"))
    assert not torch.equal(got, grad_cam(model, images, 1, layer="body.4"))


def test_small_gradients_in_half_precision_do_not_vanish():
    """Gradients of 1e-7 are 0 or 6e-8 times a few in float16."""
    model, images = tiny_cam(), random_images(size=(64, 64))
    model.fc.weight.data.mul_(2**-13)
    expected = grad_cam(model, images, 1, layer=LAYER)
    got = grad_cam(model.half(), images.half(), 1, layer=LAYER)
    assert expected.std() > 0.1
    torch.testing.assert_close(got, expected, rtol=0, atol=0.02)


@pytest.mark.parametrize("explain", [grad_cam, grad_cam_plus_plus])
def test_unknown_recipes_are_named(explain):
    with pytest.raises(ValueError, match=r"recipe must be one of original.*, got 'paper'"):
        explain(tiny_cam(), random_images(), layer=LAYER, recipe="paper")


def test_an_optimised_model_is_refused():
    from hmc_fast import optimize_for_inference

    with pytest.raises(ValueError, match="give grad_cam the model that it was made from"):
        grad_cam(optimize_for_inference(small_network()), phantom_images(1).double())
