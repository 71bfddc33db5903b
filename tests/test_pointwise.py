"""The 1x1 convolution kernel against its plain twin in float64."""

import re
from itertools import product

import pytest
import torch

from convolution_cases import REVERSED, Case, assert_near, broken_copy, make_inputs, normal
from hmc_fast.kernels import pointwise as module
from hmc_fast.kernels.configurations import ARCHITECTURES, Target
from hmc_fast.kernels.convolution_reference import pointwise_reference
from hmc_fast.kernels.pointwise import PointwiseTile, pointwise, pointwise_launch, pointwise_tile
from kernel_cases import DTYPES, QUIET, guarded, kinds, run_recorded
from kernel_inputs import DEVICE, amid_nans

pytestmark = pytest.mark.filterwarnings(QUIET)

SMALL = [
    Case(1, 1, 1, 1, 1),
    Case(2, 24, 9, 7, 40, 2),
    Case(3, 17, 5, 1, 130),
    Case(1, 64, 8, 8, 64, 2),
    Case(2, 130, 5, 5, 16),
]
USUAL = SMALL[1]
NETWORK = [  # (input of the layer at 224 px)
    Case(2, 64, 56, 56, 256),
    Case(2, 256, 56, 56, 512, 2),
    Case(2, 1024, 14, 14, 2048, 2),
    Case(2, 512, 7, 7, 2048),
]
TILES = sorted(
    {
        pointwise_tile(rows, 512, 512, dtype, Target(architecture, 132))
        for rows, dtype, architecture in product(
            (64, 4096, 1 << 20), (torch.float32, torch.bfloat16), ARCHITECTURES
        )
    }
)


def check(inputs, copied=module, tile=None, **how):
    """Between guard bands in NaN-filled memory; no address is written twice."""
    with guarded():
        launch, out = copied.pointwise_launch(**inputs, **how, tile=tile)
        run_recorded(launch)
    assert_near(out, pointwise_reference, inputs, **how)
    return out


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", SMALL, ids=str)
def test_small_shapes(case, dtype):
    check(make_inputs(case, dtype), stride=case.stride, relu=True)


@pytest.mark.parametrize("left_out", [(), ("bias",), ("residual",), ("bias", "residual")])
@pytest.mark.parametrize("relu", [False, True])
def test_every_ending(left_out, relu):
    inputs = make_inputs(USUAL, torch.float16) | dict.fromkeys(left_out)
    check(inputs, stride=2, relu=relu)


LAYOUTS = {
    "channels first": lambda x: x.contiguous(),
    "a slice of channels": lambda x: torch.cat([x, x, x], 1)[:, 3 : 3 + x.shape[1]],
    "every other row": lambda x: x.repeat_interleave(2, 2)[:, :, ::2],
    "one sample for all": lambda x: x[:1].expand_as(x),
    "amid NaNs": lambda x: amid_nans(x.flatten(2).mT).mT.unflatten(2, x.shape[2:]),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("stride", [1, 2])
def test_every_layout_of_the_input(layout, stride):
    inputs = make_inputs(USUAL._replace(stride=stride), torch.float16)
    inputs["x"] = LAYOUTS[layout](inputs["x"])
    check(inputs, stride=stride, relu=True)


def test_a_map_whose_channels_are_neighbours_is_not_copied():
    x = make_inputs(Case(2, 48, 6, 6, 8), torch.float16)["x"]
    weight = normal(8, 16, 1, 1, dtype=torch.float16, seed=1)
    launch, _ = pointwise_launch(x[:, 16:32, ::2], weight)
    assert launch.arguments["x_ptr"].data_ptr() == x.data_ptr() + 16 * 2
    assert not launch.arguments["DENSE"]


def test_the_residual_may_be_the_input():
    inputs = make_inputs(Case(2, 32, 5, 6, 32), torch.float16)
    check(inputs | {"residual": inputs["x"]}, relu=True)


@pytest.mark.parametrize("name", ["x", "weight", "bias", "residual"])
@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_what_is_not_finite_stands_where_torch_has_it(name, value):
    inputs = make_inputs(Case(1, 24, 3, 3, 40), torch.float32)
    inputs[name][(0,) * inputs[name].dim()] = value
    expected = pointwise_reference(**inputs, relu=True)
    assert torch.equal(kinds(pointwise(**inputs, relu=True)), kinds(expected))


@pytest.mark.parametrize("tile", TILES, ids=str)
def test_every_tile_of_the_rule(tile):
    dtype = torch.float32 if tile.block_k == 16 else torch.float16
    case = Case(1, tile.block_k + 8, 1, tile.block_m + 9, tile.block_n + 7)
    check(make_inputs(case, dtype), tile=tile, relu=True)


def test_a_large_product_has_the_largest_tile_and_a_small_one_fills_the_gpu():
    def tile(rows, channels, architecture=90, dtype=torch.bfloat16):
        return pointwise_tile(rows, 512, channels, dtype, Target(architecture, 132))

    assert tile(100352, 256) == PointwiseTile(128, 128, 64, 8, 3)
    assert tile(100352, 256, 86) == PointwiseTile(128, 128, 32, 8, 3)
    assert tile(100352, 64)[:2] == (128, 64)
    assert tile(3136, 256)[:2] == (64, 64)  # 49 x 4 programs; of 128 x 128 there would be 50
    assert tile(49, 2048)[:2] == (32, 32)
    assert tile(100352, 256, 90, torch.float32)[:3] == (64, 64, 16)


def test_order_of_programs_and_place_in_the_batch_change_no_bit(tmp_path):
    inputs = make_inputs(Case(3, 40, 6, 6, 70), torch.float16)
    out = pointwise(**inputs, relu=True)
    reversed_copy = broken_copy(module, *REVERSED, tmp_path)
    assert torch.equal(reversed_copy.pointwise(**inputs, relu=True), out)
    turned = inputs | {name: inputs[name].flip(0) for name in ("x", "residual")}
    assert torch.equal(pointwise(**turned, relu=True), out.flip(0))


MUTANTS = {  # one row or channel too many: what a kernel reads and writes there is the test's
    "a row too many": ("row < rows,", "row < rows + 1,"),
    "an input channel too many": ("first + depth < channels_in", "first + depth <= channels_in"),
    "the columns' stride is forgotten": ("column * STRIDE *", "column *"),
    "samples lie as far apart as rows": ("sample * batch_stride", "sample * row_stride"),
    "the bias of the first block": ("bias_ptr + channel,", "bias_ptr + tl.arange(0, BLOCK_N),"),
    "no ReLU after a residual": ("if RELU:", "if RELU and not RESIDUAL:"),
    "the last step is left out": ("(0, channels_in, BLOCK_K)", "(0, channels_in - 1, BLOCK_K)"),
}


@pytest.mark.parametrize("mutant", MUTANTS)
def test_a_broken_kernel_is_found_out(mutant, tmp_path):
    copied = broken_copy(module, *MUTANTS[mutant], tmp_path)
    inputs = make_inputs(Case(2, 33, 9, 11, 40, 2), torch.float16)
    whole = torch.full((3, 40, 9, 11), torch.nan, dtype=torch.float16, device=DEVICE)
    whole = whole.to(memory_format=torch.channels_last)
    inputs["x"] = whole[:2, :33].copy_(inputs["x"])
    with pytest.raises(AssertionError):
        check(inputs, copied, PointwiseTile(32, 32, 16, 4, 1), stride=2, relu=True)


@pytest.mark.parametrize(
    ("name", "shape", "told"),
    [
        ("weight", (40, 23, 1, 1), "weight must be (40, 24, 1, 1), got (40, 23, 1, 1)"),
        ("bias", (1,), "bias must be (40,), got (1,)"),
        ("residual", (2, 40, 9, 7), "residual must be (2, 40, 5, 4), got (2, 40, 9, 7)"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(name, shape, told):
    inputs = make_inputs(USUAL, torch.float16) | {name: torch.zeros(shape)}
    with pytest.raises(ValueError, match=re.escape(told)):
        pointwise(**inputs, stride=2)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
@pytest.mark.parametrize("case", NETWORK, ids=str)
def test_the_networks_layers_on_a_gpu(case, dtype):
    check(make_inputs(case, dtype), stride=case.stride, relu=True)


@pytest.mark.gpu
def test_offsets_beyond_two_to_the_31_on_a_gpu():
    """The last rows of a map of 2³¹ + elements: int32 offsets would wrap."""
    rows = (1 << 31) // 64 + 512
    x = torch.zeros(1, 1, rows, 64, dtype=torch.bfloat16, device=DEVICE).permute(0, 3, 1, 2)
    x[:, :, :, -256:] = normal(1, 64, 1, 256, dtype=torch.bfloat16, seed=0)
    weight = normal(64, 64, 1, 1, dtype=torch.bfloat16, seed=1)
    got = pointwise(x, weight)[:, :, :, -256:]
    assert_near(
        got.contiguous(memory_format=torch.channels_last),
        pointwise_reference,
        {"x": x[:, :, :, -256:], "weight": weight},
    )
