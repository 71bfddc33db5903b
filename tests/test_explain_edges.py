"""What all three explainers bear, and what they leave as it was."""

import threading
from collections import namedtuple

import pytest
import torch
from torch import nn

from cam_examples import LAYER, random_images, state_of, tiny_cam
from hmc_fast.explain import grad_cam, grad_cam_plus_plus, score_cam

EXPLAINERS = [grad_cam, grad_cam_plus_plus, score_cam]
every = pytest.mark.parametrize("explain", EXPLAINERS)


@every
def test_a_batch_is_what_each_image_gives_alone_with_its_own_target(explain):
    model, images = tiny_cam(torch.float64), random_images(3, dtype=torch.float64)
    targets = [2, 0, 3]
    together = explain(model, images, targets, layer=LAYER)
    assert together.dtype == torch.float32
    assert torch.equal(together, explain(model, images, torch.tensor(targets), layer=LAYER))
    for image, target, map_ in zip(images, targets, together, strict=True):
        torch.testing.assert_close(explain(model, image[None], target, layer=LAYER)[0], map_)


@every
def test_no_target_is_the_predicted_class(explain):
    model, images = tiny_cam(), random_images(3)
    model.fc.bias.data.sub_(model(images).mean(0).detach())
    predicted = model(images).argmax(1)
    assert len(set(predicted.tolist())) > 1
    expected = explain(model, images, predicted, layer=LAYER)
    assert torch.equal(explain(model, images, layer=LAYER), expected)


@every
@pytest.mark.parametrize(
    ("target", "message"),
    [
        (4, "target must be a class from 0 to 3, got 4"),
        (-1, "target must be a class from 0 to 3, got -1"),
        ([0, 9], "target must be a class from 0 to 3, got 9"),
        ([0, 1, 2], "target must be one class or one an image, got 3 for 2"),
    ],
)
def test_targets_out_of_range_are_named(explain, target, message):
    with pytest.raises(ValueError, match=message):
        explain(tiny_cam(), random_images(), target, layer=LAYER)


@every
@pytest.mark.parametrize("target", [1.5, "benign", [0.0, 1.0]])
def test_targets_are_whole_numbers(explain, target):
    with pytest.raises((TypeError, ValueError), match="target must be"):
        explain(tiny_cam(), random_images(), target, layer=LAYER)


@every
@pytest.mark.parametrize(
    ("layer", "message"),
    [
        ("bodi.4", r"no layer 'bodi.4'; close names are body\.4"),
        ("zzz", "no layer 'zzz'; its layers are body, tail, fc"),
        (["body.4", "body.9"], r"no layer 'body.9'; close names are body\."),
        ([], r"layer must be the name of a layer or a list of names, got \[\]"),
        (4, "layer must be the name of a layer or a list of names, got 4"),
        ("fc", r"layer 'fc' gives \(2, 4\), which are no maps"),
    ],
)
def test_layers_that_are_not_there_are_named_with_their_neighbours(explain, layer, message):
    with pytest.raises(ValueError, match=message):
        explain(tiny_cam(), random_images(), layer=layer)


@every
@pytest.mark.parametrize("images", [torch.zeros(3, 8, 8), torch.zeros(0, 3, 8, 8)])
def test_images_of_another_shape_are_refused(explain, images):
    with pytest.raises(ValueError, match=r"images must be \(B, C, H, W\) of a float dtype"):
        explain(tiny_cam(), images, layer=LAYER)
    with pytest.raises(ValueError, match=r"got \(2, 3, 8, 8\) of torch\.uint8"):
        explain(tiny_cam(), torch.zeros(2, 3, 8, 8, dtype=torch.uint8), layer=LAYER)


class Unused(nn.Module):
    """A layer beside the way to the logits, one that is not called, and an output of its own."""

    def __init__(self, output=lambda logits: logits):
        super().__init__()
        self.used, self.beside, self.never = (nn.Conv2d(3, 3, 1) for _ in range(3))
        self.output = output

    def forward(self, images):
        self.beside(images)
        return self.output(self.used(images).mean((2, 3)))


def test_layers_without_influence_are_named():
    with pytest.raises(ValueError, match="the logits do not depend on layer 'beside'"):
        grad_cam(Unused(), random_images(), layer="beside")
    for explain in EXPLAINERS:
        with pytest.raises(ValueError, match="layer 'never' was not called in the forward pass"):
            explain(Unused(), random_images(), layer="never")
    silent = Unused()
    silent.forward = torch.no_grad()(silent.forward)
    with pytest.raises(ValueError, match="switches gradients off"):
        grad_cam(silent, random_images(), layer="used")


@every
def test_outputs_of_the_model_may_be_tuples_but_must_be_logits(explain):
    images = random_images()
    torch.manual_seed(0)
    plain = Unused()
    expected = explain(plain, images, 0, layer="used")
    named = namedtuple("named", "logits extra")
    for output in (lambda x: (x, None), lambda x: [x, x], lambda x: named(x, 3)):
        plain.output = output
        assert torch.equal(explain(plain, images, 0, layer="used"), expected)
    for output, message in {
        (lambda x: x.sum()): r"logits \(B, classes\), got \(\) for 2 images",
        (lambda x: x[:1]): r"got \(1, 3\) for 2 images",
        (lambda x: "logits"): "the model must give a tensor or a tuple with one, not str",
    }.items():
        plain.output = output
        with pytest.raises(ValueError, match=message):
            explain(plain, images, 0, layer="used")


Pair = namedtuple("Pair", "name maps")


class Paired(nn.Module):
    """A layer whose output is a tuple of some kind."""

    def __init__(self, kind):
        super().__init__()
        self.kind, self.conv = kind, nn.Conv2d(3, 5, 3)

    def forward(self, images):
        maps = self.conv(images).relu()
        return {"tuple": (maps, 1), "list": [None, maps], "named": Pair("x", maps)}[self.kind]


class AroundPaired(nn.Module):
    def __init__(self, kind):
        super().__init__()
        self.paired = Paired(kind)

    def forward(self, images):
        maps = next(x for x in self.paired(images) if isinstance(x, torch.Tensor))
        return maps.mean((2, 3))


@every
@pytest.mark.parametrize("kind", ["tuple", "list", "named"])
def test_a_layer_may_give_a_tuple(explain, kind):
    torch.manual_seed(0)
    model, images = AroundPaired(kind), random_images()
    got = explain(model, images, 3, layer="paired", raw=True)
    maps = model.paired.conv(images).relu()[:, 3].detach()
    if explain is grad_cam:  # the gradient is 1 / positions in channel 3, else 0
        torch.testing.assert_close(got, maps / maps[0].numel())
    assert got.shape == maps.shape
    assert got.amax() > 0


class Fixed(nn.Module):
    """Maps that are given, whatever the image; logits their mean, or what is given."""

    def __init__(self, maps, sign=1.0):
        super().__init__()
        self.maps, self.weight = nn.Conv2d(1, len(maps), 1), nn.Parameter(torch.tensor(sign))
        self.values = maps
        self.maps.forward = lambda images: self.values.expand(len(images), -1, -1, -1)

    def forward(self, images):
        return (self.maps(images).mean((2, 3)) * self.weight).sum(1, keepdim=True)


@every
@pytest.mark.parametrize(
    ("maps", "sign"),
    [
        (torch.full((3, 2, 2), 2.0), 1.0),  # constant
        (torch.full((3, 2, 2), 0.1), 1.0),  # 0.1 + 0.1 + 0.1 rounds
        (torch.zeros(3, 2, 2), 1.0),
        (-torch.rand(3, 2, 2), 1.0),  # all negative
        (torch.rand(3, 1, 1), 1.0),  # one position
    ],
)
def test_constant_and_all_negative_maps_are_zeros(explain, maps, sign):
    got = explain(Fixed(maps, sign), torch.rand(2, 1, 7, 9), layer="maps")
    if explain is score_cam and maps.amin() < 0:
        got = explain(Fixed(maps.abs(), -1.0), torch.rand(2, 1, 7, 9), layer="maps")
    assert torch.equal(got, torch.zeros(2, 7, 9))


@every
@pytest.mark.parametrize("size", [(2, 2), (9, 5), (1, 8), (33, 17)])
@pytest.mark.parametrize("channels", [1, 3])
def test_images_of_any_size_and_number_of_channels(explain, size, channels):
    model, images = tiny_cam(channels=channels), random_images(channels=channels, size=size)
    maps = explain(model, images, 1, layer="body.2")
    assert maps.shape == (2, *size)
    assert maps.isfinite().all()
    assert ((maps >= 0) & (maps <= 1)).all()


@every
def test_a_single_channel_and_a_single_class(explain):
    model = tiny_cam(width=1, classes=1)
    maps = explain(model, random_images(), layer=LAYER)
    assert maps.shape == (2, 12, 16)
    assert maps.isfinite().all()


@every
def test_nothing_of_the_caller_is_changed(explain):
    model, images = tiny_cam(), random_images().requires_grad_()
    model.fc.weight.requires_grad = False
    model.fc.bias.grad = torch.ones(4)
    model.body.train()
    seen = []
    model.body[3].register_forward_hook(lambda _, inputs, output: seen.append(len(output)))
    before = state_of(model)
    explain(model, images, 1, layer=LAYER)
    assert seen
    assert torch.is_grad_enabled()
    assert images.grad is None
    after = state_of(model)
    assert before[0] == after[0]
    assert str(before) == str(after)
    assert after[1]["fc.bias"][1] is model.fc.bias.grad


@every
def test_training_mode_and_frozen_networks_give_the_same(explain):
    model, images = tiny_cam(), random_images()
    expected = explain(model, images, 1, layer=LAYER)
    assert torch.equal(explain(model.train(), images, 1, layer=LAYER), expected)
    assert all(module.training for module in model.modules())
    model.requires_grad_(False)
    assert torch.equal(explain(model, images, 1, layer=LAYER), expected)
    with torch.no_grad():
        assert torch.equal(explain(model, images, 1, layer=LAYER), expected)
        assert not torch.is_grad_enabled()
    with torch.inference_mode():
        assert torch.equal(explain(model, images.clone(), 1, layer=LAYER), expected)
    last = images.to(memory_format=torch.channels_last)
    model = model.to(memory_format=torch.channels_last)
    torch.testing.assert_close(explain(model, last, 1, layer=LAYER), expected)


class UsedAgain(nn.Module):
    """The image is needed once more behind the layer."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 1)

    def forward(self, images):
        return (self.conv(images) * images).mean((2, 3))


@every
def test_images_made_in_inference_mode(explain):
    torch.manual_seed(0)
    model, images = UsedAgain(), random_images()
    expected = explain(model, images, 1, layer="conv")
    with torch.inference_mode():
        same = images.clone()
        assert torch.equal(explain(model, same, 1, layer="conv"), expected)
    assert torch.equal(explain(model, same, 1, layer="conv"), expected)


class Failing(nn.Module):
    """Fails at its `fatal`-th call."""

    def __init__(self, fatal):
        super().__init__()
        self.calls, self.fatal = 0, fatal

    def forward(self, x):
        self.calls += 1
        if self.calls == self.fatal:
            raise RuntimeError("in the middle")
        return x


@pytest.mark.parametrize(
    ("explain", "fatal"), [(grad_cam, 1), (grad_cam_plus_plus, 1), (score_cam, 1), (score_cam, 2)]
)
def test_an_exception_leaves_no_hook_and_no_mode(explain, fatal):
    model = tiny_cam().train()
    model.tail = Failing(fatal)
    before = str(state_of(model)[:3])
    with pytest.raises(RuntimeError, match="in the middle"):
        explain(model, random_images(1), 1, layer=LAYER)
    assert str(state_of(model)[:3]) == before
    assert torch.is_grad_enabled()


@every
def test_an_explanation_within_an_explanation(explain):
    model, images = tiny_cam(), random_images()
    expected = explain(model, images, 1, layer=LAYER)
    inner = []

    def explain_once(module, inputs, output):
        if not inner:
            inner.append(None)
            inner[0] = grad_cam(model, images.flip(0), 1, layer=LAYER)

    model.tail.register_forward_hook(explain_once)  # behind the layer: the outer map is kept
    assert torch.equal(explain(model, images, 1, layer=LAYER), expected)
    assert torch.equal(inner[0], grad_cam(model, images, 1, layer=LAYER).flip(0))


@every
def test_two_threads_explain_two_models(explain):
    models = [tiny_cam(), tiny_cam(linear=False)]
    images = random_images(1)
    expected = [explain(model, images, 1, layer=LAYER) for model in models]
    found = [[], []]

    def work(index):
        for _ in range(10):
            found[index].append(explain(models[index], images, 1, layer=LAYER))

    threads = [threading.Thread(target=work, args=(index,)) for index in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for index in range(2):
        assert len(found[index]) == 10
        assert all(torch.equal(map_, expected[index]) for map_ in found[index])


@every
def test_overflow_in_half_precision_is_said_and_sums_do_not_overflow(explain):
    model, images = tiny_cam(), random_images()
    expected = explain(model, images, 1, layer=LAYER)
    got = explain(model.half(), images.half(), 1, layer=LAYER)
    torch.testing.assert_close(got, expected, rtol=0, atol=0.02)
    large = Fixed(torch.tensor([[[6e4, 6e4], [6e4, 0.0]]] * 3).half(), 1.0).half()
    large.weight.data.fill_(1e-4)
    shown = explain(large, torch.rand(1, 1, 2, 2).half(), layer="maps")
    assert shown.tolist() == [[[1, 1], [1, 0]]]
    model.body[3].bias.data.fill_(torch.inf)
    with pytest.raises(ValueError, match=r"not finite: .* overflows in this dtype \(use bfloat16"):
        explain(model, images.half(), 1, layer=LAYER)


def test_logits_that_overflow_are_said():
    model, images = tiny_cam().half(), random_images().half()
    model.fc.weight.data.fill_(6e4)
    for recipe in ("paper", "official", "torchcam"):
        with pytest.raises(ValueError, match="not finite"):
            score_cam(model, images * 100, 1, layer=LAYER, recipe=recipe)


@every
def test_images_with_nan_are_said(explain):
    images = random_images()
    images[1, 0, 3, 3] = torch.nan
    with pytest.raises(ValueError, match="not finite: the images hold NaN"):
        explain(tiny_cam(), images, 1, layer=LAYER)


@pytest.mark.parametrize("explain", [grad_cam, grad_cam_plus_plus])
def test_autocast_is_the_callers(explain):
    model, images = tiny_cam(), random_images()
    exact = explain(model, images, 1, layer=LAYER)
    with torch.autocast("cpu", torch.bfloat16):
        low = explain(model, images, 1, layer=LAYER)
    assert 0 < (low - exact).abs().max() < 0.05


@every
def test_the_image_may_come_in_another_float_dtype(explain):
    model, images = tiny_cam(), random_images()
    expected = explain(model, images, 1, layer=LAYER)
    got = explain(model, images.double(), 1, layer=LAYER)
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-5)
