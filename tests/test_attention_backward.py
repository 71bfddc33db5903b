"""The backward kernels: dq, dk, dv and dgamma against float64 truth, in every shape, layout, tile
and way to add up dq.

What they take from forward comes from the forward kernels.
"""

import pytest
import torch

from hmc_fast.kernels import attention_backward
from hmc_fast.kernels.configurations import Tile
from kernel_cases import (
    DTYPES,
    QUIET,
    ROUTES,
    backward,
    check,
    copy_kernels,
    every_route,
    forward,
    guarded,
    network_shapes,
    reversed_programs,
    run,
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
    expanded,
    fused_product,
    laid_out,
    large_scores,
    make_problem,
)
from operator_steps import assert_same
from tolerances import results

GRADIENTS = ("dq", "dk", "dv", "dgamma")
MODES = [("partials", 1), ("partials", 2), ("partials", 5), ("none", 5)]  # how dq adds up, runs

pytestmark = pytest.mark.filterwarnings(QUIET)


@pytest.fixture(params=ROUTES)
def route(request, monkeypatch):
    """Small cases by the kernel for short keys, and by those that stream any number."""
    take_route(monkeypatch, request.param)
    return request.param


@every_route
@pytest.mark.parametrize("case", SMALL, ids=str)
def test_any_number_of_tokens_gives_the_truth(case, dtype, route):
    check(make_problem(case, dtype))


@pytest.mark.slow
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_1025_tokens_give_the_truth(dtype):
    check(make_problem(Case(1, 1025, 1025, 8, 8), dtype))


@every_route
@pytest.mark.parametrize("widths", WIDTHS, ids=str)
def test_any_width_gives_the_truth(widths, dtype, route):
    check(make_problem(Case(1, 17, 35, *widths), dtype))


@network_shapes
def test_the_shapes_of_the_network_give_the_truth(name, dtype):
    check(make_problem(NETWORK[name], dtype))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS)
def test_the_tiles_of_any_gpu_give_the_truth(target, dtype, monkeypatch):
    take_route(monkeypatch, "streamed keys")
    check(make_problem(Case(2, 63, 150, 32, 256), dtype), target=target)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("mode", MODES, ids=str)
def test_dq_adds_up_in_any_way(mode, dtype, monkeypatch):
    take_route(monkeypatch, "streamed keys")
    monkeypatch.setattr(attention_backward, "choose_runs", lambda *_: mode)
    tiles = {"backward_scores": Tile(32, 16, 32, 4, 1)}
    check(make_problem(Case(2, 41, 75, 16, 64), dtype), tiles=tiles)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_dq_adds_up_by_atomics(dtype, monkeypatch):
    take_route(monkeypatch, "streamed keys")
    check(make_problem(Case(2, 41, 75, 16, 64), dtype), atomics=True)


@pytest.mark.parametrize("most", [0, 1, 3, 100])
def test_no_more_partials_of_dq_than_there_is_room_for(most):
    for batch, key_blocks in [(1, 25), (8, 49), (32, 7), (300, 1)]:
        mode, runs = attention_backward.choose_runs(batch, key_blocks, 132, most)
        assert 1 <= runs <= key_blocks
        assert mode == "none" or runs <= most


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("rotated", [False, True])
@pytest.mark.parametrize("rows", [1, 16, 31, 32, 33, 64, 70])
def test_any_number_of_row_blocks_gives_the_truth(rows, rotated, dtype, monkeypatch):
    take_route(monkeypatch, "streamed keys")
    tiles = {"backward_values": Tile(32, 32, 64, 4, 2, rotated=rotated)}
    check(make_problem(Case(1, rows, 40, 8, 64), dtype), tiles=tiles)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("columns", [16, 64])
def test_split_and_unsplit_values_agree(columns, dtype, monkeypatch):
    """Also on GPUs with little shared memory, where all backward kernels split them."""
    take_route(monkeypatch, "streamed keys")
    problem = make_problem(Case(1, 40, 40, 8, 64), dtype)
    kernels = ("backward_scores", "backward_values", "backward_queries")
    for mode in MODES[-2:]:
        monkeypatch.setattr(attention_backward, "choose_runs", lambda *_, mode=mode: mode)
        check(problem, tiles={kernel: Tile(32, 16, columns, 4, 1) for kernel in kernels})


@pytest.mark.parametrize("columns", [16, 32, 64])
def test_short_keys_agree_for_any_block_of_value_columns(columns):
    problem = make_problem(Case(2, 40, 49, 16, 72), torch.float16)
    check(problem, tiles={"backward_short": Tile(32, 64, columns, 4, 1)})


@every_route
@pytest.mark.parametrize("special", SPECIAL)
def test_special_values_give_the_truth(special, dtype, route):
    found = check(SPECIAL[special](make_problem(USUAL, dtype)))
    assert (found["dgamma"] is None) == (special == "no gamma")


@every_route
def test_scores_of_ten_thousand_give_numbers(dtype, route):
    found = check(large_scores(make_problem(USUAL, dtype)))
    assert all(found[name].isfinite().all() for name in GRADIENTS)


def test_gamma_0_gives_a_gradient_to_gamma_alone(route):
    found = check(SPECIAL["gamma 0"](make_problem(USUAL)))
    assert [name for name in GRADIENTS if found[name].any()] == ["dgamma"]


@every_route
@pytest.mark.parametrize("layout", LAYOUTS)
def test_any_layout_of_memory_gives_the_truth(layout, dtype, route):
    check(laid_out(make_problem(USUAL, dtype), layout))


@every_route
@pytest.mark.parametrize("arrange", [fused_product, expanded])
def test_shared_memory_of_inputs_gives_the_truth(arrange, dtype, route):
    check(arrange(make_problem(USUAL, dtype)))


def test_aligned_after_unaligned_inputs_give_the_same_bits(route):
    problem = make_problem(USUAL, torch.float16)
    unaligned = laid_out(problem, "amid NaNs")
    first, _, third = (check(p) for p in (problem, unaligned, problem))
    assert_same(first, third)


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("name", ["q", "k", "v", "x", "gamma", "dout"])
def test_what_is_not_finite_appears_where_the_reference_has_it(name, value, route):
    problem = make_problem(Case(1, 21, 20, 16, 40))
    getattr(problem, name).view(-1)[-3 if name != "gamma" else 0] = value
    assert_finite_where_the_reference_is(problem)


def test_a_key_masked_by_minus_infinity_spoils_no_other_gradient(route):
    """Rows past the last are zeros, and zero times infinity is none."""
    problem = make_problem(Case(2, 21, 37, 16, 40))
    problem.q[..., 0].abs_()
    problem.k[:, 20, 0] = -torch.inf
    assert_finite_where_the_reference_is(problem)


def assert_finite_where_the_reference_is(problem):
    reference, found = results(problem, torch.float32), run(problem)
    for name in GRADIENTS:
        assert torch.equal(found[name].isfinite(), reference[name].isfinite()), name


@pytest.mark.parametrize("case", [Case(0, 5, 5, 8, 8), Case(2, 0, 5, 8, 8)])
def test_nothing_in_gives_gradients_of_zero(case, route):
    problem = make_problem(case)
    found = run(problem)
    for name in ("q", "k", "v", "gamma"):
        assert torch.equal(found[f"d{name}"], torch.zeros_like(getattr(problem, name)))


def test_memory_of_a_larger_call_does_not_show(route):
    small, large = make_problem(USUAL), make_problem(Case(2, 80, 80, 16, 128))
    with guarded():
        clean = run(small)
    run(large)
    assert_same(run(small), clean)


@every_route
def test_two_runs_are_equal_to_the_bit(dtype, route):
    problem = make_problem(USUAL, dtype)
    assert_same(run(problem), run(problem))


@every_route
def test_the_place_in_the_batch_does_not_change_a_sample(dtype, route):
    problem = make_problem(Case(3, 75, 75, 16, 64), dtype)
    moved = problem._replace(**{name: getattr(problem, name).roll(1, 0) for name in TENSORS})
    found, other = run(problem), run(moved)
    for name in GRADIENTS[:3]:
        assert torch.equal(other[name], found[name].roll(1, 0)), name


@pytest.mark.parametrize("mode", MODES, ids=str)
def test_programs_in_reverse_order_give_the_same_bits(mode, tmp_path, monkeypatch):
    take_route(monkeypatch, "streamed keys")
    problem = make_problem(USUAL, torch.float16)
    other = copy_kernels(tmp_path, reversed_programs())
    for kernels in (attention_backward, other.backward):
        monkeypatch.setattr(kernels, "choose_runs", lambda *_: mode)
    kept, how = forward(problem), {"tiles": {"backward_scores": Tile(32, 16, 32, 4, 1)}}
    assert_same(backward(problem, kept, other, **how), backward(problem, kept, **how))


def test_programs_for_short_keys_in_reverse_order_give_the_same_bits(tmp_path):
    problem = make_problem(USUAL, torch.float16)
    assert_same(run(problem, copy_kernels(tmp_path, reversed_programs())), run(problem))
