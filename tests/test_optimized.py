"""`optimize_for_inference`: equal to the network it was made from, whatever it is given."""

import copy
import sys

import pytest
import torch
import torchvision
from torch import nn

from hmc_fast import optimize_for_inference
from hmc_fast.data.images import read_image
from hmc_fast.data.preprocessing import Preprocessing
from hmc_fast.models import create_model, optimized
from hmc_fast.models.cpu_convolution import PrepackedConvolution
from hmc_fast.models.optimized import has_fast_bfloat16
from random_network import phantom_images, random_network, small_network

VARIANTS = ["hmc", "hierarchical", "multiscale", "resnet50"]
STAGES = ["stem", "layer1", "ha1", "layer2", "ha2", "layer3", "ca23", "layer4", "ca34"]
TOLERANCES = {torch.float64: 1e-9, torch.float32: 1e-5}
needs_bfloat16 = pytest.mark.skipif(
    not has_fast_bfloat16(), reason="this CPU has neither AVX512-BF16 nor AMX"
)


def probabilities(model, images):
    with torch.no_grad():
        return torch.cat([model(part).softmax(1) for part in images.split(16)])


def assert_agree(model, images):
    """The original in float64 and the optimised one in two dtypes, on images that differ."""
    expected = probabilities(model, images.double())
    assert expected.std(0).min() > 0.01
    for dtype, tolerance in ((torch.float64, 1e-9), (torch.float32, 1e-5)):
        fast = optimize_for_inference(model.to(dtype), grayscale=True)
        got = probabilities(fast, images.to(dtype))
        assert got.dtype == dtype
        assert (got.double() - expected).abs().max() <= tolerance


@pytest.mark.parametrize("variant", VARIANTS)
def test_optimised_and_original_agree_on_64_phantom_images(variant):
    assert_agree(random_network(variant), phantom_images(64))


@pytest.mark.slow
def test_optimised_and_original_agree_on_64_phantom_images_of_224_pixels():
    assert_agree(random_network("hmc"), phantom_images(64, 224))


@pytest.mark.slow
def test_optimised_and_original_agree_on_64_mias_images(mias_dir):
    preprocessing = Preprocessing(224)
    files = [mias_dir / f"mdb{5 * number:03d}.pgm" for number in range(1, 65)]
    images = torch.cat([preprocessing(read_image(path)) for path in files])
    assert_agree(random_network("hmc"), images)


@needs_bfloat16
@pytest.mark.parametrize("variant", ["hmc", "resnet50"])
def test_bfloat16_changes_probabilities_little(variant):
    model, images = random_network(variant, torch.float32), phantom_images(64)
    expected = probabilities(model, images)
    low = optimize_for_inference(model, dtype=torch.bfloat16, grayscale=True)
    got = probabilities(low, images)
    assert got.dtype == torch.float32
    assert 0 < (got - expected).abs().max() < 0.05
    best = expected.sort(1, descending=True)
    clear = best.values[:, 0] - best.values[:, 1] > 0.05
    assert clear.sum() > 32
    assert torch.equal(got.argmax(1)[clear], best.indices[clear, 0])


def test_the_original_is_untouched_bit_for_bit_and_shares_nothing():
    model, images = small_network(torch.float32), phantom_images(2)
    before = copy.deepcopy(model.state_dict())
    fast = optimize_for_inference(model, grayscale=True)
    fast(images)
    fast.activations(images, "ca34")
    assert all(torch.equal(model.state_dict()[name], value) for name, value in before.items())
    kept = fast(images)
    for parameter in model.parameters():
        nn.init.zeros_(parameter)
    assert torch.equal(fast(images), kept)


def test_a_plain_resnet50_of_torchvision_is_accepted():
    torch.manual_seed(0)
    model = torchvision.models.resnet50(num_classes=5).double().eval()
    images = torch.randn(2, 3, 64, 96, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(optimize_for_inference(model)(images), model(images))


def stages_of(model, images):
    """What hooks see: outputs of the stages, by name."""
    seen = {}
    names = {name: name for name in STAGES if hasattr(model, name)} | {"maxpool": "stem"}
    hooks = [
        getattr(model, name).register_forward_hook(
            lambda module, inputs, output, stage=stage: seen.update({stage: output.clone()})
        )
        for name, stage in names.items()
    ]
    with torch.no_grad():
        model(images)
    for hook in hooks:
        hook.remove()
    return seen


@pytest.mark.parametrize("variant", VARIANTS)
def test_activations_are_those_of_the_original(variant):
    model, images = random_network(variant), phantom_images(2).double()
    expected = stages_of(model, images)
    fast = optimize_for_inference(model, grayscale=True)
    assert set(expected) == set(fast.net.names)
    for stage, output in expected.items():
        got = fast.activations(images, stage)
        torch.testing.assert_close(got, output, rtol=1e-10, atol=1e-10)
        assert got.is_contiguous(memory_format=torch.channels_last)
    with pytest.raises(ValueError, match=r"layer must be one of stem, layer1.*, got 'layer5'"):
        fast.activations(images, "layer5")


def test_activations_are_not_overwritten_by_later_calls():
    fast, images = optimize_for_inference(small_network(torch.float32)), phantom_images(3)
    outputs = {stage: fast.activations(images, stage) for stage in STAGES}
    copies = {stage: output.clone() for stage, output in outputs.items()}
    fast(images)
    assert all(torch.equal(outputs[stage], copies[stage]) for stage in STAGES)


def test_a_network_for_logits_only_says_that_it_has_no_map_of_the_last_block():
    fast = optimize_for_inference(small_network(torch.float32), logits_only=True)
    assert fast.activations(phantom_images(1), "layer4").shape == (1, 2048, 2, 2)
    with pytest.raises(ValueError, match=r"layer must be one of stem, .*layer4, got 'ca34'"):
        fast.activations(phantom_images(1), "ca34")


def test_a_block_that_does_nothing_has_an_activation_all_the_same():
    model, images = small_network(), phantom_images(2).double()
    model.ha1.gamma.data.zero_()
    fast = optimize_for_inference(model)
    assert fast.net.ha1 is None
    assert torch.equal(fast.activations(images, "ha1"), fast.activations(images, "layer1"))


def with_hook(name):
    model = small_network()
    model.get_submodule(name).register_forward_hook(lambda *_: None)
    return model.eval()


def with_changed(name, module):
    model = small_network()
    model.set_submodule(name, module)
    return model.eval()


def partly_training():
    model = small_network()
    model.layer3[0].bn2.train()
    return model


class Derived(torchvision.models.ResNet):
    pass


REFUSED = {
    "classifier": (
        lambda: with_changed("fc", nn.Sequential(nn.Linear(2048, 3).double())),
        "fc: a Sequential",
    ),
    "training": (lambda: create_model("resnet50"), "the network: it is in training mode"),
    "partly training": (
        partly_training,
        r"layer3\.0\.bn2: it is in training mode",
    ),
    "hook": (lambda: with_hook("layer2.0.conv1"), r"layer2\.0\.conv1: it has hooks"),
    "hook of the network": (lambda: with_hook(""), "the network: it has hooks"),
    "hook of a block": (lambda: with_hook("ca34"), "ca34: it has hooks"),
    "vit": (lambda: create_model("vit_b_16", image_size=64).eval(), "not VisionTransformer"),
    "vgg": (lambda: nn.Sequential().eval(), "only HMC-Net and torchvision's ResNet50"),
    "derived": (
        lambda: Derived(torchvision.models.resnet.Bottleneck, [1, 1, 1, 1]).eval(),
        "not Derived",
    ),
    "resnet18": (lambda: torchvision.models.resnet18().eval(), r"layer1\.0: a BasicBlock"),
    "other activation": (lambda: with_changed("relu", nn.SiLU()), "relu: a SiLU stands there"),
    "other norm": (lambda: with_changed("bn1", nn.GroupNorm(2, 64)), "bn1: a GroupNorm"),
    "no statistics": (
        lambda: with_changed("bn1", nn.BatchNorm2d(64, track_running_stats=False)),
        "bn1: it keeps no running statistics",
    ),
    "padding": (
        lambda: with_changed("conv1", nn.Conv2d(3, 64, 7, 2, 3, padding_mode="reflect")),
        "conv1: its padding is 'reflect'",
    ),
    "mixed dtypes": (lambda: with_changed("fc", nn.Linear(2048, 3)), "several dtypes or devices"),
    "other pool": (lambda: with_changed("avgpool", nn.AdaptiveAvgPool2d(2)), "it pools to 2"),
}


@pytest.mark.parametrize(("make", "message"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_folded_exactly_is_refused_with_the_reason(make, message):
    with pytest.raises(ValueError, match=message):
        optimize_for_inference(make())


def test_a_replaced_forward_is_refused():
    model = small_network()
    model.layer1.forward = lambda x: x
    with pytest.raises(ValueError, match="layer1: its forward has been replaced"):
        optimize_for_inference(model)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"dtype": torch.float16}, "torch.float16 is not fast on a CPU"),
        ({"dtype": torch.int8}, "dtype must be None or one of torch.float64"),
        ({"batch_size": 0}, "batch_size must be at least 1 or None, got 0"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        optimize_for_inference(small_network(), **arguments)


def test_bfloat16_is_refused_where_it_would_be_slower(monkeypatch):
    monkeypatch.setattr(optimized, "has_fast_bfloat16", lambda: False)
    with pytest.raises(ValueError, match="this CPU has neither AVX512-BF16 nor AMX"):
        optimize_for_inference(small_network(), dtype=torch.bfloat16)


@pytest.mark.parametrize("call", ["forward", "activations"])
def test_a_colour_image_is_refused_where_grey_ones_were_promised(call):
    fast, images = (
        optimize_for_inference(small_network(), grayscale=True),
        phantom_images(2).double(),
    )
    images[1, 2, 63, 63] += 1e-9
    with pytest.raises(ValueError, match="images must be grey"):
        fast(images) if call == "forward" else fast.activations(images, "stem")


def test_one_channel_is_a_grey_image():
    model, images = small_network(), phantom_images(2).double()
    fast = optimize_for_inference(model, grayscale=True)
    assert torch.equal(fast(images[:, :1]), fast(images))
    with pytest.raises(
        ValueError, match=r"images must be \(B, 3, H, W\) of a float dtype, got \(2, 1"
    ):
        optimize_for_inference(model)(images[:, :1])
    with pytest.raises(ValueError, match=r"\(B, 1, H, W\) or \(B, 3, H, W\) .*got \(2, 3, 64\)"):
        fast(images[..., 0])
    with pytest.raises(ValueError, match=r"of torch\.uint8"):
        fast(images.to(torch.uint8))


@pytest.mark.parametrize("layout", ["channels last", "strided", "float64"])
def test_images_may_come_in_any_layout_and_dtype(layout):
    fast, images = optimize_for_inference(small_network(torch.float32)), torch.randn(3, 3, 64, 80)
    given = {
        "channels last": images.to(memory_format=torch.channels_last),
        "strided": images.repeat_interleave(2, 3)[..., ::2],
        "float64": images.double(),
    }[layout]
    assert torch.equal(fast(given), fast(images))


def test_a_large_batch_is_computed_in_parts(monkeypatch):
    fast, images = optimize_for_inference(small_network()), phantom_images(5).double()
    whole, maps = fast(images), fast.activations(images, "layer2")
    monkeypatch.setattr(optimized, "CHUNK_PIXELS", 2 * 64 * 64)
    assert [len(part) for part in optimized.in_parts(images)] == [2, 2, 1]
    torch.testing.assert_close(fast(images), whole, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(fast.activations(images, "layer2"), maps, rtol=1e-12, atol=1e-12)
    monkeypatch.setattr(optimized, "CHUNK_PIXELS", 1)
    assert len(optimized.in_parts(images)) == 5


def test_no_images_give_no_logits():
    fast = optimize_for_inference(small_network(torch.float32))
    assert fast(torch.zeros(0, 3, 64, 64)).shape == (0, 3)


def test_it_works_in_every_mode_of_autograd_in_any_order():
    fast, images = optimize_for_inference(small_network(torch.float32)), phantom_images(2)
    with torch.inference_mode():
        first = fast(images)
    wants_gradient = images.clone().requires_grad_()
    plain = fast(wants_gradient)
    assert not plain.requires_grad
    assert torch.equal(first, plain)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(fast(images), plain)


def test_a_copy_is_whole_and_takes_no_caches_along():
    fast, images = optimize_for_inference(small_network(torch.float32)), phantom_images(2)
    expected = fast(images)
    twin = copy.deepcopy(fast)
    assert all(not m._packed for m in twin.modules() if isinstance(m, PrepackedConvolution))
    for parameter in fast.parameters():
        nn.init.zeros_(parameter)
    assert torch.equal(twin(images), expected)
    assert set(twin.state_dict()) == set(fast.state_dict())


def test_it_stays_in_inference_where_it_was_made():
    fast = optimize_for_inference(small_network(torch.float32))
    assert fast.eval().to("cpu", torch.float32) is fast
    assert not any(module.training for module in fast.modules())
    assert not any(parameter.requires_grad for parameter in fast.parameters())
    with pytest.raises(ValueError, match="cannot be trained"):
        fast.train()
    for move in (fast.double, fast.bfloat16, lambda: fast.to("meta")):
        with pytest.raises(ValueError, match="stays on its device and in its dtype"):
            move()


def test_what_load_model_knows_goes_along():
    model = small_network()
    model.classes, model.preprocessing = ("a", "b", "c"), Preprocessing(64)
    fast = optimize_for_inference(model)
    assert fast.classes == ("a", "b", "c")
    assert fast.preprocessing == Preprocessing(64)
    assert not hasattr(fast, "description")


def test_denormals_are_flushed_within_the_call_alone(monkeypatch):
    fast, seen = optimize_for_inference(small_network(torch.float32)), []
    half = sys.float_info.min
    monkeypatch.setattr(fast.net, "forward", lambda x: seen.append(half / 2) or x.mean((2, 3)))
    fast(torch.ones(1, 3, 64, 64))
    monkeypatch.setattr(fast.net, "forward", lambda x: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        fast(torch.ones(1, 3, 64, 64))
    assert half / 2 > 0
    assert seen == [0 if torch.set_flush_denormal(False) else half / 2]
