"""Each identity of inference in float64, and the network with any of them left out."""

import dataclasses

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from hmc_fast.models import create_model, folding
from hmc_fast.models.attended_bottleneck import AttendedBottleneck
from hmc_fast.models.convolution import Convolution, Geometry
from hmc_fast.models.cpu_convolution import PrepackedConvolution
from hmc_fast.models.folded import fold
from hmc_fast.models.folded_attention import CrossAttention, SelfAttention, as_linear
from hmc_fast.models.folding import Affine, Identities, affine
from hmc_fast.models.gpu_convolution import CudaConvolution
from hmc_fast.models.network import _cross_scale
from hmc_fast.models.spatial_attention import SpatialAttention2d
from random_network import phantom_images, random_network, small_network

NAMES = [field.name for field in dataclasses.fields(Identities)]
NONE, ALL = Identities.first(0), Identities()


def assert_same(got, expected):
    torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-10)


def randn(*shape):
    return torch.randn(shape, dtype=torch.float64)


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)
    with torch.no_grad():
        yield


def convolve(conv: Affine, x, **settings):
    return F.conv2d(x, conv.weight, conv.bias, **settings)


def random_block(channels=16, gamma=-0.7, **arguments):
    block = SpatialAttention2d(channels, **arguments).double()
    block.gamma.fill_(gamma)
    for conv in (block.query, block.key):
        conv.weight.mul_(4)  # a softmax with large and small weights
    return block


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("affine_norm", [False, True])
def test_batch_norm_folds_into_the_convolution_before_it(bias, affine_norm):
    conv = nn.Conv2d(5, 7, 3, stride=2, padding=1, bias=bias).double()
    norm = nn.BatchNorm2d(7, eps=1e-3, affine=affine_norm).double().eval()
    norm.running_mean.normal_()
    norm.running_var.uniform_(0.1, 3)
    if affine_norm:
        norm.weight.normal_()
        norm.bias.normal_()
    x = randn(2, 5, 9, 8)
    folded = folding.fold_batch_norm(affine(conv), norm)
    assert_same(convolve(folded, x, stride=2, padding=1), norm(conv(x)))


@pytest.mark.parametrize(
    ("finer", "size"), [((8, 12), (4, 6)), ((9, 13), (5, 7)), ((6, 6), (3, 3))]
)
def test_pooling_and_matching_commute(finer, size):
    match, y = nn.Conv2d(6, 16, 1).double(), randn(2, 6, *finer)
    matched_first = F.interpolate(match(y), size, mode="bilinear")
    assert_same(match(folding.resize_to(randn(1, 1, *size), y)), matched_first)


def test_at_half_the_size_pooling_is_the_mean_of_four():
    y = randn(2, 3, 6, 4)
    expected = y.unflatten(2, (3, 2)).unflatten(4, (2, 2)).mean((3, 5))
    assert_same(folding.resize_to(randn(1, 1, 3, 2), y), expected)


def test_two_convolutions_of_one_position_compose():
    inner, outer, x = nn.Conv2d(4, 9, 1).double(), nn.Conv2d(9, 6, 1).double(), randn(2, 4, 3, 5)
    assert_same(convolve(folding.compose(affine(outer), affine(inner)), x), outer(inner(x)))


def test_constants_fold_into_one_convolution():
    query, key, x = nn.Conv2d(4, 2, 1).double(), nn.Conv2d(4, 3, 1).double(), randn(2, 4, 3, 5)
    joined = folding.concatenated(folding.scaled(affine(query), -0.3), affine(key))
    assert_same(convolve(joined, x), torch.cat([-0.3 * query(x), key(x)], 1))


def test_one_channel_stands_for_three_equal_ones():
    conv, image = nn.Conv2d(3, 8, 7, stride=2, padding=3).double(), randn(2, 1, 20, 22)
    got = convolve(folding.grey(affine(conv)), image, stride=2, padding=3)
    assert_same(got, conv(image.expand(-1, 3, -1, -1)))


@pytest.mark.parametrize("channel", [0, 1, 2])
def test_one_changed_pixel_is_not_grey(channel):
    images = randn(2, 1, 5, 5).repeat(1, 3, 1, 1)
    assert folding.is_grey(images)
    assert folding.is_grey(images[:, :1].expand(-1, 3, -1, -1))
    images[1, channel, 4, 2] += 1e-9
    assert not folding.is_grey(images)


@pytest.mark.parametrize("use", [NONE, ALL], ids=["plain", "folded"])
@pytest.mark.parametrize("scale", [None, 1.0, -0.2])
def test_self_attention_is_the_networks(use, scale):
    block, x = random_block(scale=scale), randn(2, 16, 5, 7)
    assert_same(SelfAttention(block, use, Convolution)(x, x), block(x))


@pytest.mark.parametrize("left_out", [None, *NAMES])
@pytest.mark.parametrize("finer", [(8, 10), (9, 11)])
def test_cross_scale_attention_is_the_networks(left_out, finer):
    block, match = random_block(scale=0.4), nn.Conv2d(6, 16, 1).double()
    x, y = randn(2, 16, 4, 5), randn(2, 6, *finer)
    use = ALL if left_out is None else dataclasses.replace(ALL, **{left_out: False})
    assert_same(
        CrossAttention(block, match, use, Convolution)(x, y), _cross_scale(block, match, x, y)
    )


def test_the_mean_of_attended_rows_is_what_the_mean_row_attends_to():
    q, k, y = randn(2, 6, 4), randn(2, 9, 4), randn(2, 9, 5)
    expected = (torch.softmax(0.7 * q @ k.mT, -1) @ y).mean(1)
    assert_same(folding.mean_attended(q, k, y, 0.7), expected)


@pytest.mark.parametrize("reassociate", [False, True])
@pytest.mark.parametrize("left_out", [None, "fold_constants", "compose_match"])
@pytest.mark.parametrize("logits_only", [False, True])
def test_logits_of_the_last_block_need_no_map(reassociate, left_out, logits_only):
    block, match = random_block(), nn.Conv2d(6, 16, 1).double()
    classifier, x, y = nn.Linear(16, 3).double(), randn(2, 16, 4, 5), randn(2, 6, 8, 10)
    without = {} if left_out is None else {left_out: False}
    use = dataclasses.replace(ALL, reassociate=reassociate, **without)
    folded = CrossAttention(block, match, use, Convolution, classifier, logits_only)
    expected = classifier(_cross_scale(block, match, x, y).mean((2, 3)))
    assert_same(classifier(x.mean((2, 3))) + folded.added_logits(x, y), expected)


@pytest.mark.parametrize("kind", [Convolution, PrepackedConvolution, CudaConvolution])
def test_a_network_for_logits_only_leaves_the_last_blocks_values_out(kind):
    model, images = small_network(), phantom_images(2).double()
    whole, net = (fold(model, kind=kind, logits_only=only) for only in (False, True))
    assert [*net.names, "ca34"] == whole.names
    assert net.ca34.value is None
    assert_same(net(images), model(images))
    pooled = dataclasses.replace(ALL, pool_attention=False)
    every = fold(model, pooled, kind=kind, logits_only=True)
    assert every.names == whole.names
    assert_same(every(images), model(images))


@pytest.mark.parametrize("size", [(64, 64), (65, 97)], ids=str)
def test_the_first_block_behind_ha1_needs_no_map(size):
    model = small_network()
    net = fold(model)
    x = randn(2, 256, size[0] // 4, size[1] // 4).relu()
    assert isinstance(net.entered, AttendedBottleneck)
    assert_same(net.entered(x), model.layer2[0](model.ha1(x)))


def test_as_linear_keeps_weight_and_bias():
    parts, x = Affine(randn(3, 5), randn(3)), randn(2, 5)
    assert_same(as_linear(parts)(x), x @ parts.weight.T + parts.bias)


def test_a_block_whose_gamma_is_zero_is_left_out():
    model = small_network()
    model.ha1.gamma.zero_()
    model.ca34.gamma.zero_()
    net, images = fold(model), phantom_images(2).double()
    assert net.ha1 is net.ca34 is net.entered is None
    assert net.ha2 is not None
    assert_same(net(images), model(images))
    kept = fold(model, dataclasses.replace(ALL, drop_zero_gamma=False))
    assert kept.ha1 is not None
    assert_same(kept(images), model(images))


def choices():
    first = [(f"first {n}", Identities.first(n)) for n in range(len(NAMES) + 1)]
    alone = [(f"{name} alone", dataclasses.replace(NONE, **{name: True})) for name in NAMES]
    without = [(f"without {name}", dataclasses.replace(ALL, **{name: False})) for name in NAMES]
    return [pytest.param(use, id=name) for name, use in (*first, *alone, *without)]


@pytest.mark.parametrize("use", choices())
def test_the_network_is_the_same_with_any_choice_of_identities(use):
    model, images = small_network(), phantom_images(2).double()
    assert_same(fold(model, use, grayscale=True)(images), model(images))


@pytest.mark.parametrize("use", [NONE, ALL], ids=["plain", "folded"])
def test_colour_images_are_taken_where_grey_ones_are_not_promised(use):
    model, images = small_network(), randn(2, 3, 64, 72)
    assert_same(fold(model, use)(images), model(images))


@pytest.mark.parametrize("variant", ["hmc", "hierarchical", "multiscale", "resnet50"])
@pytest.mark.parametrize("size", [(64, 64), (97, 130)], ids=str)
def test_every_variant_folds_at_any_size(variant, size):
    model = random_network(variant)
    images = F.interpolate(phantom_images(2).double(), size, mode="bilinear")
    assert_same(fold(model, grayscale=True)(images[:, :1]), model(images))


def macs_saved_by():
    """At 224 x 224, by hand: rows x columns x depth of the products that go."""
    match = 784 * 512 * 1024 + 196 * 1024 * 2048
    composed = 0
    for n, raw in ((196, 512), (49, 1024)):
        channels = 2 * raw  # of the block; the raw map has half
        composed += n * raw * channels  # the match itself
        composed += n * (channels - raw) * channels // 8 + n * n * (channels - raw)
        composed += n * (channels - raw) * channels
    last = 49 * 1024 * 2048 - 3 * 1024 + 49 * 49 * 1024 - 49 * 1024
    map_of_ha1 = 3136 * 256 * (256 + 128) + 3136 * 3136 * 256  # values, first convolution, P v
    without = 3136 * 256 * (128 + 128) + 784 * 256 * 512 + 784 * 256 * 128
    without += 2352 * 3136 * 128 + 784 * 3136 * 256
    saved = {"pool_first": match * 3 // 4, "compose_match": composed, "pool_attention": last}
    return saved | {"grey_stem": 2 * 112 * 112 * 64 * 49, "skip_map": map_of_ha1 - without}


def test_each_identity_saves_the_arithmetic_that_it_should():
    model, image = create_model("hmc").eval(), torch.zeros(1, 1, 224, 224)
    for block in model.attention_blocks().values():
        block.gamma.fill_(1)
    found, saved = [], macs_saved_by()
    for count in range(len(NAMES) + 1):
        net = fold(model, Identities.first(count), grayscale=True)
        with FlopCounterMode(display=False) as counter:
            net(image)
        found.append(counter.get_total_flops() // 2)
    assert found[0] / 1e9 == pytest.approx(9.1730, abs=5e-5)
    for name, before, after in zip(NAMES, found[:-1], found[1:], strict=True):
        assert before - after == saved.get(name, 0), name
    assert found[-1] / 1e9 == pytest.approx(6.9953, abs=5e-5)


GEOMETRIES = {
    "product": (1, Geometry()),
    "strided product": (1, Geometry((2, 2))),
    "strided": (3, Geometry((2, 2), (1, 1))),
    "dilated groups": (3, Geometry((1, 1), (2, 2), (2, 2), 4)),
}
ENDINGS = [{}, {"relu": True}, {"relu": True, "overwrite": True}]


@pytest.mark.parametrize("kind", [CudaConvolution, PrepackedConvolution])
@pytest.mark.parametrize("ending", ENDINGS, ids=str)
@pytest.mark.parametrize(("size", "geometry"), GEOMETRIES.values(), ids=GEOMETRIES)
def test_fused_convolutions_are_convolution_residual_relu(kind, ending, size, geometry):
    conv = Affine(randn(8, 12 // geometry.groups, size, size), randn(8))
    x = randn(2, 12, 7, 6).to(memory_format=torch.channels_last)
    expected = convolve(conv, x, **geometry._asdict())
    residual = torch.randn_like(expected) if "overwrite" in ending else None
    expected = expected if residual is None else expected + residual
    expected = expected.relu() if ending else expected
    layer = kind(conv, geometry, **ending).to(torch.float32, memory_format=torch.channels_last)
    x, residual = (None if t is None else t.float() for t in (x, residual))
    torch.testing.assert_close(layer(x, residual).double(), expected, rtol=1e-5, atol=1e-5)
