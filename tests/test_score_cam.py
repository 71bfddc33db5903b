"""Score-CAM's recipes against the packages they are named after, plain loops and hand computation;
what is skipped, approximated and shared."""

import sys

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from cam_examples import LAYER, random_images, tiny_cam, unit
from hmc_fast import optimize_for_inference
from hmc_fast.explain import score_cam, score_cam_details
from hmc_fast.explain.masked import MaskedImages, fastest_form
from hmc_fast.explain.recipes import RECIPES
from hmc_fast.models.folded import fold
from hmc_fast.models.gpu_convolution import CudaConvolution
from hmc_fast.models.optimized import OptimizedModel
from random_network import phantom_images, small_network


@pytest.fixture(scope="module")
def networks():
    """A toy that runs as it is, an HMC-Net that is folded: float32, images, layer, targets."""
    hmc = small_network(torch.float32)
    hmc.fc.bias.data.add_(3)  # positive logits, or the paper's map is empty
    return {
        "toy": (tiny_cam(linear=False), random_images(), LAYER, (1, 3)),
        "toy before its ReLU": (tiny_cam(linear=False), random_images(), "body.3", (1, 3)),
        "hmc": (hmc, phantom_images(1), "maxpool", (2,)),
    }


def maps_of(model, images, layer):
    """The layer's output."""
    seen = []
    hook = model.get_submodule(layer).register_forward_hook(lambda _, x, y: seen.append(y.clone()))
    with torch.no_grad():
        model(images)
    hook.remove()
    return seen[0]


def mask_first(channel, size):
    """Eq. 28 of the paper: from 0 to 1 at the layer's size, then upsampled."""
    channel = (channel - channel.min()) / (channel.max() - channel.min())
    return F.interpolate(channel[None, None], size, mode="bilinear", align_corners=False)


def mask_last(channel, size):
    """cam/scorecam.py of the authors: upsampled, then from 0 to 1."""
    channel = F.interpolate(channel[None, None], size, mode="bilinear", align_corners=False)
    return (channel - channel.min()) / (channel.max() - channel.min())


@torch.no_grad()
def loop(model, image, layer, target, make_mask, probability):
    """Eq. 28 to 31, or the authors' code, line by line, a channel at a time: the sum (h, w)."""
    maps = maps_of(model, image, layer)[0]
    total = torch.zeros_like(maps[0])
    for channel in maps:
        if channel.max() == channel.min():
            continue
        output = model(image * make_mask(channel, image.shape[2:]))
        output = F.softmax(output, dim=1) if probability else output
        total += output[0, target] * channel
    return total


def shown(total, size, relu_last):
    """The image's size, ReLU, 0 to 1."""
    total = total if relu_last else total.relu()
    large = F.interpolate(total[None, None], size, mode="bilinear", align_corners=False)[0]
    return unit(large.relu())[0]


@pytest.mark.parametrize("name", ["toy", "toy before its ReLU", "hmc"])
@pytest.mark.parametrize("recipe", ["paper", "official"])
def test_plain_loops_give_the_same(networks, name, recipe):
    model, images, layer, targets = networks[name]
    official = recipe == "official"
    got = score_cam(model, images, targets, layer=layer, recipe=recipe)
    mask = mask_last if official else mask_first
    for image, target, map_ in zip(images, targets, got, strict=True):
        total = loop(model, image[None], layer, target, mask, official)
        assert total.amax() > 0
        expected = shown(total, images.shape[2:], relu_last=official)
        torch.testing.assert_close(map_, expected, rtol=0, atol=1e-4)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["toy", "hmc"])
def test_the_torchcam_recipe_is_torchcams(networks, name):
    from torchcam.methods import ScoreCAM

    model, images, layer, targets = networks[name]
    with ScoreCAM(model, layer) as extractor, torch.no_grad():
        model(images)
        expected = extractor(list(targets))[0]
    got = score_cam(model, images, targets, layer=layer, recipe="torchcam", raw=True)
    torch.testing.assert_close(unit(got), expected, rtol=0, atol=1e-4)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["toy", "hmc"])
def test_the_grad_cam_recipe_is_that_packages(networks, name, capfd):
    from pytorch_grad_cam import ScoreCAM
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    model, images, layer, targets = networks[name]
    cam = ScoreCAM(model, [model.get_submodule(layer)])
    expected = cam(images, targets=[ClassifierOutputTarget(t) for t in targets])
    cam.activations_and_grads.release()
    got = score_cam(model, images, targets, layer=layer, recipe="grad-cam")
    torch.testing.assert_close(got, torch.from_numpy(expected), rtol=0, atol=1e-4)


class Sum(nn.Module):
    """Maps are the image's channels; logits the sum of the masked image, and its negative."""

    def __init__(self):
        super().__init__()
        self.maps = nn.Identity()

    def forward(self, images):
        total = self.maps(images).sum((1, 2, 3))
        return torch.stack([total, -total], 1)


IMAGE = torch.tensor([[[[4.0, 0.0], [2.0, 2.0]], [[3.0, 1.0], [1.0, 5.0]], [[7.0] * 2] * 2]])


def test_the_paper_by_hand():
    # masks: 1, 0, 1/2, 1/2; 1/2, 0, 0, 1; none. Channels add up to 14, 8, 10, 14:
    # scores 14 + 5 + 7 and 7 + 14; the third channel is left out
    details = score_cam_details(Sum(), IMAGE, 0, layer="maps", raw=True)
    (layer,) = details.layers
    assert layer.weights.tolist() == [[26, 21, 0]]
    assert details.maps.tolist() == [[[26 * 4 + 21 * 3, 21], [52 + 21, 52 + 105]]]
    assert score_cam(Sum(), IMAGE, 1, layer="maps").tolist() == [[[0, 0], [0, 0]]]  # all negative


def test_constant_channels_share_one_forward_pass_in_the_recipes_that_have_them():
    image = IMAGE.clone()
    image[:, 1] = 5
    (layer,) = score_cam_details(Sum(), image, 0, layer="maps", recipe="torchcam").layers
    scores = torch.tensor([[4.0 + 2 / 2 + 2 / 2 + 5 * 2 + 7 * 2, 0, 0]])
    assert (layer.distinct, layer.tried) == ([2], [2])
    torch.testing.assert_close(layer.weights, scores.softmax(1))


def counting(model):
    """The number of images that the model was given."""
    counts = []
    model.register_forward_pre_hook(lambda _, inputs: counts.append(len(inputs[0])))
    return counts


def test_maps_that_differ_by_a_factor_have_one_mask_and_dead_ones_none():
    model, images = tiny_cam(), random_images(1)
    expected = score_cam(model, images, 1, layer=LAYER)
    with torch.no_grad():
        conv = model.body[3]
        conv.weight[1:5] = conv.weight[:1] * torch.tensor([1, 2, 0.5, 4]).view(4, 1, 1, 1)
        conv.bias[1:5] = conv.bias[0] * torch.tensor([1, 2, 0.5, 4])
        conv.bias[5] = -100
    counts = counting(model)
    details = score_cam_details(model, images, 1, layer=LAYER)
    assert details.layers[0].distinct == [5]  # of channels 0 to 4, and 6 to 9
    assert sum(counts) == 1 + 5
    total = loop(model, images, LAYER, 1, mask_first, probability=False)
    torch.testing.assert_close(details.maps[0], shown(total, images.shape[2:], False))
    assert not torch.equal(details.maps, expected)


@pytest.mark.parametrize("recipe", list(RECIPES))
@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_many_images_in_one_stream_give_what_each_gives_alone(recipe, batch_size):
    model, images = tiny_cam(torch.float64), random_images(3, dtype=torch.float64)
    settings = {"layer": LAYER, "recipe": recipe}
    together = score_cam(model, images, [1, 0, 3], batch_size=batch_size, **settings)
    for image, target, map_ in zip(images, [1, 0, 3], together, strict=True):
        torch.testing.assert_close(score_cam(model, image[None], target, **settings)[0], map_)


def test_a_foldable_network_an_optimised_and_a_compiled_one_agree(networks):
    model, images, *_ = networks["hmc"]
    expected = score_cam(model, images, 2, layer="maxpool")
    assert expected.amax() == 1
    fast = optimize_for_inference(model, grayscale=True)
    got = score_cam(fast, images, 2, layer="stem")
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-4)
    compiled = torch.compile(model, backend="eager")
    assert torch.equal(score_cam(compiled, images, 2, layer="maxpool"), expected)


@pytest.mark.parametrize("recipe", list(RECIPES))
def test_the_stem_of_a_gpu_takes_the_masks_of_many_images(networks, recipe):
    """Its operator is plain torch on a CPU."""
    model, *_ = networks["hmc"]
    images, settings = phantom_images(2), {"recipe": recipe, "max_channels": 20}
    expected = score_cam(model, images, (0, 2), layer="maxpool", **settings)
    net = fold(model, grayscale=True, kind=CudaConvolution)
    form = OptimizedModel(net, torch.float32, grayscale=True, batch_size=None)
    fused = MaskedImages(form, images, RECIPES[recipe], 2).stem is net.stem
    assert fused == (recipe in ("paper", "torchcam"))
    got = score_cam(form, images, (0, 2), layer="stem", **settings)
    assert expected.amax() == 1
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-4)


def test_a_network_that_cannot_be_folded_runs_as_it_is_with_the_reason(networks, caplog):
    model, images, *_ = networks["hmc"]
    with caplog.at_level("INFO", "hmc_fast"):
        assert fastest_form(model, images, None) is not model
        assert caplog.text == ""
        hook = model.ha1.register_forward_hook(lambda *_: None)
        assert fastest_form(model, images, None) is model
    hook.remove()
    assert "as it is: cannot fold ha1: it has hooks" in caplog.text


@pytest.mark.parametrize("grey", [True, False])
def test_grey_images_go_through_one_channel_and_others_through_three(networks, grey):
    model, images, *_ = networks["hmc"]
    form = fastest_form(model, images if grey else images + torch.randn(1, 3, 1, 1), None)
    assert form.grayscale == grey
    assert MaskedImages(form, images, RECIPES["paper"], 2).images.shape[1] == (1 if grey else 3)


def test_a_compiled_network_that_cannot_be_folded_sees_one_size_of_batch():
    model, images = tiny_cam(linear=False), random_images(1)
    expected = score_cam(model, images, 1, layer=LAYER)
    counts = counting(model)
    compiled = torch.compile(model, backend="eager")
    got = score_cam(compiled, images, 1, layer=LAYER, batch_size=4)
    torch.testing.assert_close(got, expected)
    assert counts == [1, 4, 4, 4]
    model.compile(backend="eager")  # in place
    torch.testing.assert_close(score_cam(model, images, 1, layer=LAYER), expected)


@pytest.mark.parametrize(
    ("masks", "sizes"), [(3, [3]), (8, [8]), (10, [5, 5]), (17, [6, 6, 6]), (20, [7, 7, 7])]
)
def test_batches_of_a_folded_network_have_one_size_on_a_cpu(networks, monkeypatch, masks, sizes):
    """Weights are laid out for each size."""
    model, images, layer, _ = networks["hmc"]
    settings = {"layer": layer, "max_channels": masks}
    expected = score_cam(model, images, 2, batch_size=1, **settings)
    seen, original = [], OptimizedModel.forward

    def counted(network, batch):
        seen.append(len(batch))
        return original(network, batch)

    monkeypatch.setattr(OptimizedModel, "forward", counted)
    got = score_cam(model, images, 2, batch_size=8, **settings)
    assert seen == sizes
    assert expected.amax() == 1
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-4)


def test_low_precision_is_asked_for():
    model, images = tiny_cam(), random_images(1)
    exact = score_cam(model, images, 1, layer=LAYER)
    low = score_cam(model, images, 1, layer=LAYER, dtype=torch.bfloat16)
    assert 0 < (low - exact).abs().max() < 0.05
    assert next(model.parameters()).dtype == torch.float32
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(score_cam(model, images, 1, layer=LAYER), exact)
    fast = optimize_for_inference(small_network(torch.float32))
    with pytest.raises(ValueError, match=r"computes in torch\.float32, not torch\.bfloat16"):
        score_cam(fast, phantom_images(1), layer="layer4", dtype=torch.bfloat16)


def test_unknown_stages_of_an_optimised_model_are_named():
    fast = optimize_for_inference(small_network(torch.float32))
    with pytest.raises(ValueError, match=r"no layer 'layer5'; close names are .*layer4"):
        score_cam(fast, phantom_images(1), layer="layer5")


class OutOfMemory(MaskedImages):
    """A device with memory for `limit` images."""

    limit = 3

    def logits(self, masked):
        if len(masked) > self.limit:
            raise torch.OutOfMemoryError("made up")
        return super().logits(masked)


@pytest.mark.parametrize("limit", [3, 0])
def test_out_of_memory_halves_the_batch_and_goes_on(monkeypatch, limit):
    model, images = tiny_cam(torch.float64), random_images(2, dtype=torch.float64)
    expected = score_cam(model, images, 1, layer=LAYER)
    monkeypatch.setattr(sys.modules["hmc_fast.explain.score_cam"], "MaskedImages", OutOfMemory)
    monkeypatch.setattr(OutOfMemory, "limit", limit)
    if not limit:
        with pytest.raises(torch.OutOfMemoryError, match="made up"):
            score_cam(model, images, 1, layer=LAYER)
        return
    counts = counting(model)
    torch.testing.assert_close(score_cam(model, images, 1, layer=LAYER), expected)
    assert max(counts[1:]) <= 3
