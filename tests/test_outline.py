"""What is read off a network is the network: its sizes, its arithmetic and what feeds what."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from hmc_fast.models import VARIANTS, create_model
from hmc_fast.models.network import HMCNet
from hmc_fast.models.outline import outline
from hmc_fast.profiling.closed_form import closed_form


def on_meta(variant, **options):
    with torch.device("meta"):
        return create_model(variant, **options)


def by_name(parts):
    return {part["name"]: part for part in parts}


@pytest.mark.parametrize("variant", VARIANTS)
def test_parameters_and_products_add_up(variant):
    model = on_meta(variant)
    parts = outline(model, 224)
    total = sum(parameter.numel() for parameter in model.parameters())
    assert sum(part["parameters"] for part in parts) == total
    by_hand = sum(closed_form(variant).values())
    assert sum(part["gmac"] for part in parts) == pytest.approx(by_hand / 1e9, rel=1e-12)


@pytest.mark.parametrize(
    ("reduction", "parameters", "gmac"),  # design 2
    [(8, 33_106_695, 9.1730), (4, 34_500_295, 9.7381), (1, 42_861_895, 13.1287)],
)
def test_reduction_changes_the_attention_alone(reduction, parameters, gmac):
    parts = outline(on_meta("hmc", reduction=reduction), 224)
    assert sum(part["parameters"] for part in parts) == parameters
    assert sum(part["gmac"] for part in parts) == pytest.approx(gmac, abs=5e-5)
    assert by_name(parts)["ha2"]["detail"] == f"d_qk {512 // reduction}"
    assert by_name(parts)["layer3"]["parameters"] == 7_098_368  # torchvision's ResNet50


def test_blocks_are_fed_as_the_paper_says():
    parts = by_name(outline(on_meta("hmc"), 224))
    assert parts["ha1"]["inputs"] == ["layer1"]
    assert parts["match_ca23"]["inputs"] == ["ha2"]
    assert parts["ca23"]["inputs"] == ["layer3", "match_ca23"]
    assert parts["layer4"]["inputs"] == parts["match_ca34"]["inputs"] == ["ca23"]
    assert parts["ca34"]["inputs"] == ["layer4", "match_ca34"]
    kinds = [parts[name]["kind"] for name in ("image", "conv1", "layer1", "ha1", "ca34", "fc")]
    assert kinds == [
        "image", "convolution", "stage", "self-attention", "cross-attention", "linear"
    ]  # fmt: skip


def test_without_hierarchical_blocks_the_second_stage_is_matched():
    parts = by_name(outline(on_meta("multiscale"), 64))
    assert parts["match_ca23"]["inputs"] == ["layer2"]
    assert not {"ha1", "ha2"} & set(parts)


@pytest.mark.parametrize(("size", "positions"), [(64, [16, 2]), (100, [25, 4]), (224, [56, 7])])
def test_maps_have_the_size_that_the_image_gives(size, positions):
    parts = by_name(outline(on_meta("hmc"), size))
    assert parts["image"]["size"] == [size, size]
    assert [parts["ha1"]["size"], parts["ca34"]["size"]] == [[n, n] for n in positions]
    assert (parts["ca34"]["channels"], parts["fc"]["channels"], parts["fc"]["size"]) == (
        2048,
        3,
        [],
    )


def test_the_network_is_left_as_it_is():
    model = HMCNet(layers=(1, 1, 1, 1)).double()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    first, second = outline(model.train(), 64), outline(model, 64)
    assert first == second
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not any(module._forward_hooks for module in model.modules())
    assert by_name(first)["layer1"]["detail"] == "1 Bottleneck"


def test_the_form_and_backend_of_the_attention_change_nothing():
    with torch.device("meta"):
        direct, other = HMCNet(), HMCNet(attention_form="reassociated", backend="reference")
    assert outline(direct, 64) == outline(other, 64)


class Branches(nn.Module):
    """Plain functions between the parts, an input used again, a parameter of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 4, 3, stride=2, padding=1)
        self.second = nn.Conv2d(4, 3, 1)
        self.never = nn.Conv2d(1, 1, 1)
        self.last = nn.Conv2d(6, 2, 1)
        self.shift = nn.Parameter(torch.zeros(3, 1, 1))

    def forward(self, images):
        x = F.interpolate(self.second(self.first(images).relu()), scale_factor=2.0)
        return self.last(torch.cat([x + self.shift, images * 2], dim=1))


def test_parts_are_found_through_plain_functions():
    parts = by_name(outline(Branches(), 8))
    assert list(parts) == ["image", "shift", "first", "second", "last"]
    assert parts["first"]["inputs"] == ["image"]
    assert parts["second"]["inputs"] == ["first"]
    assert sorted(parts["last"]["inputs"]) == ["image", "second", "shift"]
    assert (parts["shift"]["kind"], parts["shift"]["parameters"]) == ("parameter", 3)
    assert parts["first"]["gmac"] == pytest.approx(4 * 4 * 3 * 4 * 9 / 1e9)
    assert parts["first"]["detail"] == "3x3, stride 2"


@pytest.mark.parametrize(("variant", "size"), [("vit_b_16", 64), ("vgg16", 16)])
def test_a_size_that_the_network_cannot_take_is_refused(variant, size):
    with pytest.raises(ValueError, match=f"cannot take images of {size} px"):
        outline(on_meta(variant), size)


def test_a_part_that_returns_no_tensor_is_named():
    class Pair(nn.Module):
        def forward(self, images):
            return images, images

    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.pair = Pair()

        def forward(self, images):
            return self.pair(images)[0]

    with pytest.raises(ValueError, match="pair returns tuple, not one tensor"):
        outline(Network(), 8)
