"""The grey stem in one kernel: against its twin in float64, the twin against torch's own layers."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from convolution_cases import REVERSED, assert_near, broken_copy, normal
from hmc_fast.kernels import masked_images as module
from hmc_fast.kernels.configurations import Target
from hmc_fast.kernels.convolution_reference import masked_images, pooled_stem_reference
from hmc_fast.kernels.masked_images import pooled_stem, pooled_stem_launch, strip_of
from kernel_cases import DTYPES, QUIET, guarded, kinds, run_recorded
from kernel_inputs import DEVICE

pytestmark = pytest.mark.filterwarnings(QUIET)

SHAPES = {  # images, channels, masks
    "one pixel": ((1, 1, 1, 1), 3, None),
    "odd sides": ((2, 1, 11, 7), 20, None),
    "two blocks of columns": ((1, 1, 3, 270), 16, None),
    "two blocks of channels": ((1, 1, 4, 8), 72, None),
    "masks over one image": ((1, 1, 9, 6), 16, (2, 4, 3)),
    "a mask an image": ((2, 1, 3, 6), 16, (2, 2, 3)),
    "masks of one value": ((1, 1, 4, 8), 16, (1, 1, 1)),
    "masks as large as the image": ((1, 1, 6, 9), 16, (1, 6, 9)),
    "masks that are larger": ((1, 1, 4, 5), 16, (1, 13, 20)),
}


def make_inputs(name, dtype):
    shape, channels, masks = SHAPES[name]
    inputs = {
        "images": normal(*shape, dtype=dtype, seed=0),
        "weight": normal(channels, 1, 7, 7, dtype=dtype, seed=1, size=1 / 7),
        "bias": normal(channels, dtype=dtype, seed=2),
    }
    if masks is not None:
        inputs["masks"] = normal(*masks, dtype=torch.float32, seed=3).abs()
    return inputs


def check(inputs, copied=module, strip=None):
    """Between guard bands in NaN-filled memory; no address is written twice."""
    with guarded():
        launch, out = copied.pooled_stem_launch(**inputs, strip=strip)
        run_recorded(launch)
    assert_near(out, pooled_stem_reference, inputs)
    return out


@pytest.mark.parametrize("name", SHAPES)
def test_every_shape(name):
    check(make_inputs(name, torch.float16))


@pytest.mark.parametrize("name", ["one pixel", "a mask an image"])
def test_float32_takes_its_taps_in_steps(name):
    check(make_inputs(name, torch.float32))


@pytest.mark.slow
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", SHAPES)
def test_every_shape_and_dtype(name, dtype):
    check(make_inputs(name, dtype))


@pytest.mark.parametrize("strip", [1, 2, 8])
def test_no_strip_changes_a_bit(strip):
    inputs = make_inputs("odd sides", torch.float16)
    assert torch.equal(check(inputs, strip=strip), check(inputs, strip=4))


def test_without_bias_and_for_images_that_are_a_view():
    inputs = make_inputs("odd sides", torch.float16) | {"bias": None}
    colour = inputs["images"].expand(-1, 3, -1, -1).contiguous(memory_format=torch.channels_last)
    check(inputs | {"images": colour[:, :1]})


def test_an_index_says_which_image_a_mask_is_for():
    inputs = make_inputs("masks over one image", torch.float16)
    images = normal(3, 1, 9, 6, dtype=torch.float16, seed=4)
    index = torch.tensor([2, 0], device=DEVICE)
    out = check(inputs | {"images": images, "image_index": index})
    assert torch.equal(out, pooled_stem(**inputs | {"images": images[index]}))


def test_the_twin_is_torchs_convolution_relu_and_pool():
    conv = nn.Conv2d(1, 5, 7, stride=2, padding=3).double()
    pool = nn.MaxPool2d(3, stride=2, padding=1)
    images, masks = torch.randn(1, 1, 30, 23).double(), torch.rand(2, 4, 3).double()
    with torch.no_grad():
        expected = pool(conv(images).relu())
        assert torch.equal(pooled_stem_reference(images, conv.weight, conv.bias), expected)
        masked = images * nn.Upsample((30, 23), mode="bilinear")(masks[:, None])
        expected = pool(conv(masked).relu())
        got = pooled_stem_reference(images, conv.weight, conv.bias, masks)
    assert torch.equal(got, expected)


def test_a_mask_is_interpolated_by_hand():
    """Two values over four pixels: 0, 1/4, 3/4, 1 by the rule of half pixels."""
    images, masks = torch.full((1, 1, 1, 4), 8.0), torch.tensor([[[0.0, 1.0]]])
    assert masked_images(images, masks).flatten().tolist() == [0, 2, 6, 8]


@pytest.mark.parametrize(
    ("name", "value"),
    [("images", torch.nan), ("images", torch.inf), ("bias", torch.nan), ("masks", torch.nan)],
)
def test_what_is_not_finite_stands_where_torch_has_it(name, value):
    """Of the weight it does not matter: whether a tap over the border counts is up to a library."""
    inputs = make_inputs("masks over one image", torch.float16)
    inputs[name][(0,) * inputs[name].dim()] = value
    assert torch.equal(kinds(pooled_stem(**inputs)), kinds(pooled_stem_reference(**inputs)))


def test_order_of_programs_and_place_in_the_batch_change_no_bit(tmp_path):
    inputs = make_inputs("odd sides", torch.float16)
    out, copied = pooled_stem(**inputs), broken_copy(module, *REVERSED, tmp_path)
    assert torch.equal(copied.pooled_stem(**inputs), out)
    turned = pooled_stem(**inputs | {"images": inputs["images"].flip(0)})
    assert torch.equal(turned, out.flip(0))


MUTANTS = {
    "a strip's first line is not computed": ("(first_line * 2 - 1, ", "(first_line * 2, "),
    "nothing is carried to the next pool": ("best = largest\n", "best = largest - 100\n"),
    "the pool sees more outside": ('sums, float("-inf"))', "sums, 4.0)"),
    "the first column is left out": ("tl.range(0, 3)", "tl.range(1, 3)"),
    "the padding is 2": ("line * STEP - BEFORE", "line * STEP - 2"),
    "no half pixels": ("+ 0.5) * column_scale - 0.5", ") * column_scale"),
    "every mask is the first": ("mask_ptr + sample *", "mask_ptr + 0 *"),
}


@pytest.mark.parametrize("mutant", MUTANTS)
def test_a_broken_kernel_is_found_out(mutant, tmp_path):
    copied = broken_copy(module, *MUTANTS[mutant], tmp_path)
    with pytest.raises(AssertionError):
        check(make_inputs("masks over one image", torch.float16), copied, strip=2)


def test_strips_are_long_where_programs_are_many():
    """56 pooled lines: 7 strips of 8 for each of 32 images are 224 programs."""
    assert strip_of(32, 56, Target(86, 48)) == 8
    assert strip_of(32, 56, Target(90, 132)) == 4
    assert strip_of(1, 56, Target(90, 132)) == 1
    launch, out = pooled_stem_launch(
        torch.empty(1, 1, 224, 224, device="meta"),
        torch.empty(64, 1, 7, 7, dtype=torch.bfloat16, device="meta"),
        target=Target(90, 132),
    )
    assert (launch.programs, tuple(out.shape)) == (56, (1, 64, 56, 56))


WRONG = {
    "images must be (B, 1, H, W), got (1, 3, 8, 8)": {"images": (1, 3, 8, 8)},
    "weight must be (C, 1, 7, 7), got (4, 1, 3, 3)": {"weight": (4, 1, 3, 3)},
    "bias must be (4,), got (1,)": {"bias": (1,)},
    "masks must be (M, h, w), got (2, 1, 4, 4)": {"masks": (2, 1, 4, 4)},
    "3 masks over 2 images need image_index": {"images": (2, 1, 8, 8), "masks": (3, 4, 4)},
    "image_index must be (3,), one for each mask, got (2,)": {
        "masks": (3, 4, 4),
        "image_index": (2,),
    },
    "image_index says which image each mask is for": {"image_index": (2,)},
}


@pytest.mark.parametrize("function", [pooled_stem, pooled_stem_reference])
@pytest.mark.parametrize("told", WRONG)
def test_shapes_that_do_not_fit_are_refused(told, function):
    shapes = {"images": (1, 1, 8, 8), "weight": (4, 1, 7, 7)} | WRONG[told]
    tensors = {name: torch.zeros(shape) for name, shape in shapes.items()}
    with pytest.raises(ValueError) as refused:  # noqa: PT011
        function(**tensors)
    assert str(refused.value).startswith(told)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
@pytest.mark.parametrize("masks", [None, (5, 7, 7), (5, 56, 56)], ids=str)
def test_images_of_the_networks_size_on_a_gpu(masks, dtype):
    inputs = {
        "images": normal(1 if masks else 3, 1, 224, 224, dtype=dtype, seed=0),
        "weight": normal(64, 1, 7, 7, dtype=dtype, seed=1, size=1 / 7),
        "bias": normal(64, dtype=dtype, seed=2),
    }
    if masks:
        inputs["masks"] = normal(*masks, dtype=torch.float32, seed=3).abs()
    check(inputs)


@pytest.mark.gpu
def test_thousands_of_masks_on_a_gpu():
    """As Score-CAM calls it: the last of 12 000 results lie beyond 2³¹ elements."""
    images = normal(1, 1, 224, 224, dtype=torch.bfloat16, seed=0)
    weight = normal(64, 1, 7, 7, dtype=torch.bfloat16, seed=1, size=1 / 7)
    masks = normal(12_000, 7, 7, dtype=torch.float32, seed=3).abs()
    out = pooled_stem(images, weight, None, masks)[-2:]
    last = {"images": images, "weight": weight, "masks": masks[-2:]}
    assert_near(out, pooled_stem_reference, last)
    assert F.relu(-out).max() == 0
