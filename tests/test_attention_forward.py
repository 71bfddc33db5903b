"""The forward kernels: A, out and lse against float64 truth, in every shape, layout and tile."""

import pytest
import torch

from hmc_fast.kernels.configurations import (
    ARCHITECTURES,
    KERNELS,
    Shape,
    Target,
    Tile,
    tile_for,
)
from kernel_cases import (
    DTYPES,
    QUIET,
    ROUTES,
    check_forward,
    copy_kernels,
    every_route,
    forward,
    guarded,
    kinds,
    network_shapes,
    reversed_programs,
    take_route,
)
from kernel_inputs import (
    LAYOUTS,
    NETWORK,
    SMALL,
    SPECIAL,
    TARGETS,
    TENSORS,
    USUAL,
    WIDTHS,
    Case,
    amid_nans,
    dominating_key,
    expanded,
    fused_product,
    laid_out,
    large_scores,
    make_problem,
)
from operator_steps import assert_same
from tolerances import assert_allowed, results

pytestmark = pytest.mark.filterwarnings(QUIET)


@pytest.fixture(params=ROUTES)
def route(request, monkeypatch):
    """Small cases by the kernel for short keys, and by the one that streams them."""
    take_route(monkeypatch, request.param)
    return request.param


@every_route
@pytest.mark.parametrize("case", SMALL, ids=str)
def test_any_number_of_tokens_gives_the_truth(case, dtype, route):
    check_forward(make_problem(case, dtype))


@pytest.mark.slow
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_1025_tokens_give_the_truth(dtype):
    check_forward(make_problem(Case(1, 1025, 1025, 8, 8), dtype))


@every_route
@pytest.mark.parametrize("widths", WIDTHS, ids=str)
def test_any_width_gives_the_truth(widths, dtype, route):
    check_forward(make_problem(Case(1, 17, 35, *widths), dtype))


@network_shapes
def test_the_shapes_of_the_network_give_the_truth(name, dtype):
    check_forward(make_problem(NETWORK[name], dtype))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS)
@pytest.mark.parametrize("case", [Case(1, 63, 65, 16, 16), Case(1, 40, 600, 32, 256)], ids=str)
def test_the_tiles_of_any_gpu_give_the_truth(case, target, dtype, monkeypatch):
    take_route(monkeypatch, "streamed keys")
    check_forward(make_problem(case, dtype), target=target)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("rotated", [False, True])
@pytest.mark.parametrize("keys", [1, 31, 32, 33, 64, 96, 100])
def test_any_number_of_key_blocks_gives_the_truth(keys, rotated, dtype, monkeypatch):
    take_route(monkeypatch, "streamed keys")
    tile = Tile(32, 32, 64, 4, 2, rotated=rotated)
    check_forward(make_problem(Case(1, 32, keys, 8, 64), dtype), tile=tile)


@pytest.mark.parametrize("rows", [1, 15, 16, 17, 63, 64])
def test_the_last_rows_take_a_smaller_tile_of_their_own(rows, monkeypatch):
    take_route(monkeypatch, "streamed keys")
    launches = []
    problem = make_problem(Case(2, 64 + rows, 40, 8, 64), torch.float16)
    forward(problem, tile=Tile(64, 32, 32, 4, 2), start=launches.append)
    assert launches[0].arguments["TAIL_M"] == {1: 16, 15: 16, 16: 16, 17: 32}.get(rows, 0)
    check_forward(problem, tile=Tile(64, 32, 32, 4, 2))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("processors", [2, 4, 7, 1000])
def test_split_keys_are_joined(processors, dtype, monkeypatch):
    take_route(monkeypatch, "streamed keys")
    launches, tile = [], Tile(64, 16, 64, 4, 2, share=8)
    problem = make_problem(Case(1, 33, 8 * 5 * 16 - 3, 8, 64), dtype)
    forward(problem, tile=tile, target=Target(90, processors), start=launches.append)
    assert [launch.arguments["SPLITS"] for launch in launches] == 2 * [min(processors, 8)]
    check_forward(problem, tile=tile, target=Target(90, processors))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("rotated", [False, True])
def test_split_and_unsplit_values_agree(rotated, dtype, monkeypatch):
    take_route(monkeypatch, "streamed keys")
    problem = make_problem(Case(2, 40, 70, 16, 128), dtype)
    whole = check_forward(problem, tile=Tile(64, 32, 128, 4, 2, rotated))
    for columns in (16, 64):
        split = check_forward(problem, tile=Tile(64, 32, columns, 4, 2, rotated))
        torch.testing.assert_close(split, whole, rtol=2 * torch.finfo(dtype).eps, atol=1e-6)


@pytest.mark.parametrize("share", [1, 2, 4])
def test_short_keys_agree_for_any_group_of_value_columns(share):
    problem = make_problem(Case(2, 40, 49, 16, 112), torch.float16)
    tile = Tile(32, 64, 16, 4, 2, share=share)
    first = check_forward(problem, tile=tile._replace(share=1), target=Target(90, 1))
    assert_same(check_forward(problem, tile=tile, target=Target(90, 1)), first)


@every_route
@pytest.mark.parametrize("special", SPECIAL)
def test_special_values_give_the_truth(special, dtype, route):
    check_forward(SPECIAL[special](make_problem(USUAL, dtype)))


@every_route
def test_scores_of_ten_thousand_give_numbers(dtype, route):
    problem = large_scores(make_problem(USUAL, dtype))
    scores = problem.scale * problem.q.double() @ problem.k.double().mT
    assert 9_900 < scores.abs().max() < 10_100
    kept = check_forward(problem)
    assert all(tensor.isfinite().all() for tensor in kept.values() if tensor is not None)


@every_route
def test_a_dominating_key_gives_its_value(dtype, route):
    problem = dominating_key(make_problem(USUAL, dtype))
    attended = forward(problem._replace(x=None, gamma=None))["out"]
    assert torch.equal(attended, problem.v[:, -1:].expand_as(attended))


@every_route
@pytest.mark.parametrize("layout", LAYOUTS)
def test_any_layout_of_memory_gives_the_truth(layout, dtype, route):
    check_forward(laid_out(make_problem(USUAL, dtype), layout))


@every_route
@pytest.mark.parametrize("arrange", [fused_product, expanded])
def test_shared_memory_of_inputs_gives_the_truth(arrange, dtype, route):
    check_forward(arrange(make_problem(USUAL, dtype)))


def test_aligned_after_unaligned_inputs_give_the_same_bits(route):
    problem = make_problem(USUAL, torch.float16)
    unaligned = laid_out(problem, "amid NaNs")
    assert problem.q.data_ptr() % 16 == 0 != unaligned.q.data_ptr() % 16
    first, _, third = (check_forward(p) for p in (problem, unaligned, problem))
    assert_same(first, third)


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("name", ["q", "k", "v", "x", "gamma"])
def test_what_is_not_finite_appears_where_the_reference_has_it(name, value, route):
    problem = make_problem(Case(1, 21, 20, 16, 40))
    getattr(problem, name).view(-1)[-3 if name != "gamma" else 0] = value
    reference, kept = results(problem, torch.float32), forward(problem)
    assert torch.equal(kinds(kept["out"]), kinds(reference["out"]))
    assert torch.equal(kept["lse"].isfinite(), reference["lse"].squeeze(-1).isfinite())


def test_a_key_masked_by_minus_infinity_is_left_out(route):
    problem = make_problem(Case(2, 21, 37, 16, 40))
    problem.q[..., 0].abs_()
    problem.k[:, 20, 0] = -torch.inf
    others = [key for key in range(37) if key != 20]
    without = problem._replace(k=problem.k[:, others], v=problem.v[:, others])
    assert_allowed(forward(problem), without)


@every_route
def test_nothing_is_kept_that_backward_does_not_need(dtype, route):
    problem = make_problem(USUAL, dtype)
    kept = forward(problem)
    assert (kept["attended"] is None) == (route == "short keys")
    assert forward(problem._replace(x=None, gamma=None))["attended"] is None
    with guarded():
        alone = forward(problem, keep=False)
    assert alone["lse"].numel() == 0
    assert torch.equal(alone["out"], kept["out"])


@pytest.mark.parametrize("case", [Case(0, 5, 5, 8, 8), Case(2, 0, 5, 8, 8)])
def test_nothing_in_gives_nothing_out(case):
    assert forward(make_problem(case))["out"].shape == (case.batch, case.tokens_q, case.d_v)


def test_memory_of_a_larger_call_does_not_show(route):
    small, large = make_problem(USUAL), make_problem(Case(2, 80, 80, 16, 128))
    with guarded():
        clean = forward(small)
    forward(large)
    assert_same(forward(small), clean)


@every_route
def test_two_runs_are_equal_to_the_bit(dtype, route):
    problem = make_problem(USUAL, dtype)
    assert_same(forward(problem), forward(problem))


@every_route
def test_the_place_in_the_batch_does_not_change_a_sample(dtype, route):
    problem = make_problem(Case(3, 75, 75, 16, 64), dtype)
    moved = problem._replace(**{name: getattr(problem, name).roll(1, 0) for name in TENSORS})
    kept = {n: None if t is None else t.roll(1, 0) for n, t in forward(problem).items()}
    assert_same(forward(moved), kept)


@pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS)
def test_programs_in_reverse_order_give_the_same_bits(target, route, tmp_path):
    problem = make_problem(USUAL, torch.float16)
    other = copy_kernels(tmp_path, reversed_programs())
    assert_same(forward(problem, other, target=target), forward(problem, target=target))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("kernel", KERNELS)
def test_one_shape_dtype_and_gpu_always_take_one_tile(kernel, architecture):
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        for widths in [(32, 256), (64, 512), (128, 1024), (256, 2048), (9, 13)]:
            asked = kernel, Shape(8, 784, 196, *widths), dtype, Target(architecture, 100)
            first = tile_for(*asked)
            tile_for.cache_clear()
            assert tile_for(*asked) == first


def test_inputs_amid_nans_are_what_they_seem():
    """The layout test would prove nothing if the copies were contiguous."""
    tensor = amid_nans(make_problem(USUAL).q)
    assert tensor.stride() == (44 * 21, 21, 1)
    assert torch.isnan(tensor.as_strided((1,), (1,), tensor.storage_offset() + 16))
