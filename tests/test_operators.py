"""The registered operator: what torch makes of it, in eager mode and compiled, in the kernels and
out of them.
"""

import pytest
import torch
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

from hmc_fast import spatial_attention
from kernel_cases import DTYPES, QUIET, ROUTES, record_launches, stores_recorded, take_route
from kernel_inputs import DEVICE, USUAL, Case, expanded, fused_product, laid_out, make_problem
from operator_steps import NAMES, assert_same, attention, leaves, step
from tolerances import assert_allowed

SHORT = Case(2, 9, 9, 8, 64)

pytestmark = pytest.mark.filterwarnings(QUIET)


@pytest.fixture(params=ROUTES)
def route(request, monkeypatch):
    take_route(monkeypatch, request.param)
    return request.param


@pytest.fixture
def launched(monkeypatch):
    """The names of the kernels that are started, one after the other."""
    return record_launches(monkeypatch)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_out_and_all_five_gradients_are_the_truth(dtype, route, launched):
    problem = make_problem(USUAL, dtype, scale=0.3)
    found = step(leaves(problem), problem.dout, lambda *t: attention(*t, scale=0.3))
    assert_allowed(found, problem)
    short = route == "short keys"
    assert launched[0] == ("forward_short" if short else "forward_stream")
    assert launched[-1] == ("backward_short" if short else "backward_values")


def test_other_backends_start_no_kernel(launched):
    problem = make_problem(SHORT)
    for backend in ("reference", "chunked", "sdpa"):
        step(leaves(problem), problem.dout, lambda *t, b=backend: spatial_attention(*t, None, b))
    assert launched == []


@pytest.mark.parametrize("wanted", NAMES)
def test_one_gradient_alone_equals_it_among_all(wanted):
    problem = make_problem(SHORT)
    inputs = [t.requires_grad_(n == wanted) for n, t in zip(NAMES, leaves(problem), strict=True)]
    attention(*inputs).backward(problem.dout)
    expected = step(leaves(problem), problem.dout)[f"d{wanted}"]
    found = dict(zip(NAMES, (t.grad for t in inputs), strict=True))
    assert [name for name, gradient in found.items() if gradient is not None] == [wanted]
    assert torch.equal(found[wanted], expected)


def test_without_gradients_nothing_is_kept(launched):
    problem = make_problem(USUAL)
    out = step(leaves(problem), problem.dout)["out"]
    launched.clear()
    for context in (torch.no_grad, torch.inference_mode):
        with context():
            alone = attention(*leaves(problem))
        assert alone.grad_fn is None
        assert torch.equal(alone, out)
    assert launched == ["forward_short"] * 2


def test_the_result_is_fresh_memory_even_where_it_is_x():
    problem = make_problem(SHORT, gamma=0.0)
    out = attention(*problem[:5])
    assert torch.equal(out, problem.x)
    out.zero_()
    assert problem.x.any()


def test_summing_up_gives_a_dout_of_stride_0():
    problem = make_problem(USUAL)
    inputs = leaves(problem)
    attention(*inputs).sum().backward()
    found = {f"d{name}": tensor.grad for name, tensor in zip(NAMES, inputs, strict=True)}
    assert_allowed(found, problem._replace(dout=torch.ones_like(problem.dout)))


@pytest.mark.parametrize("arrange", [fused_product, expanded])
def test_inputs_that_share_memory_are_the_truth(arrange, route):
    problem = arrange(make_problem(USUAL, torch.float16))
    assert_allowed(step(leaves(problem), problem.dout), problem)


def test_aligned_unaligned_and_aligned_inputs_in_turn(route):
    """One compiled kernel must not serve pointers that allow less."""
    aligned = make_problem(USUAL, torch.float16)
    unaligned = laid_out(aligned, "amid NaNs")
    first, second, third = (step(leaves(p), p.dout) for p in (aligned, unaligned, aligned))
    assert_same(first, third)
    assert_allowed(second, unaligned)


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")
@pytest.mark.parametrize("has_gamma", [True, False])
@pytest.mark.parametrize("dtype", DTYPES[:2], ids=str)
def test_the_operator_passes_torchs_own_checks(dtype, has_gamma, route):
    inputs = leaves(make_problem(SHORT, dtype))
    inputs = inputs if has_gamma else [*inputs[:3], None, None]
    torch.library.opcheck(torch.ops.hmc_fast.spatial_attention, (*inputs, 0.3))


def test_the_inner_operators_pass_torchs_own_checks(route):
    problem = make_problem(SHORT)
    operators = torch.ops.hmc_fast
    torch.library.opcheck(operators.spatial_attention_forward, (*problem[:5], 0.3))
    _, attended, lse = operators.spatial_attention_forward(*problem[:5], 0.3)
    kept = (*problem[:3], problem.gamma, attended, lse, 0.3)
    torch.library.opcheck(operators.spatial_attention_backward, (problem.dout, *kept))


@pytest.mark.parametrize("dynamic", [False, True])
def test_compiled_whole_it_gives_the_same_bits(dynamic, launched):
    compiled = torch.compile(attention, fullgraph=True, backend="aot_eager", dynamic=dynamic)
    for case in (SHORT, Case(3, 11, 11, 8, 64)):
        problem = make_problem(case)
        assert_same(
            step(leaves(problem), problem.dout, compiled), step(leaves(problem), problem.dout)
        )
    assert launched == ["forward_short", "backward_short"] * 4


def test_exported_it_is_one_node():
    class Block(torch.nn.Module):
        def forward(self, *inputs):
            return attention(*inputs)

    inputs = make_problem(SHORT)[:5]
    exported = torch.export.export(Block(), inputs)
    calls = [node.target for node in exported.graph.nodes if node.op == "call_function"]
    assert calls == [torch.ops.hmc_fast.spatial_attention.default]
    assert torch.equal(exported.module()(*inputs), attention(*inputs))


def test_autocast_casts_all_but_gamma():
    problem = make_problem(SHORT)
    inputs = leaves(problem)
    with torch.autocast(DEVICE, torch.float16):
        out = attention(*inputs)
    out.backward(problem.dout.half())
    assert out.dtype == torch.float16
    assert all(tensor.grad.dtype == torch.float32 for tensor in inputs)
    half = problem._replace(
        **{name: getattr(problem, name).half() for name in ("q", "k", "v", "x")}
    )
    assert torch.equal(out, attention(*half[:5]))


@pytest.mark.filterwarnings("ignore:There is a performance drop:UserWarning")
def test_vmap_equals_one_by_one():
    inputs = [
        torch.stack([a, b])
        for a, b in zip(*(make_problem(SHORT, seed=s)[:5] for s in (0, 1)), strict=True)
    ]
    inputs = [tensor.requires_grad_() for tensor in inputs]
    dout = torch.stack([make_problem(SHORT, seed=s).dout for s in (2, 3)])
    one_by_one = step(
        inputs, dout, lambda *t: torch.stack([attention(*one) for one in zip(*t, strict=True)])
    )
    assert_same(step(inputs, dout, torch.vmap(attention)), one_by_one)


def test_functional_gradients_are_refused_clearly():
    inputs = make_problem(SHORT)[:5]
    with pytest.raises(RuntimeError, match=r"autograd\.Function with functorch transforms"):
        torch.func.grad(lambda q: attention(q, *inputs[1:]).sum())(inputs[0])


def test_a_second_derivative_is_refused_clearly():
    """By `.backward()`: `autograd.grad(allow_unused=True)` would hide it."""
    problem = make_problem(SHORT)
    inputs = leaves(problem)
    out = attention(*inputs)
    (first,) = torch.autograd.grad(out, inputs[0], problem.dout.requires_grad_(), create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        first.sum().backward()


@pytest.mark.parametrize("use_reentrant", [False, True])
def test_checkpointed_it_gives_the_same_bits(use_reentrant):
    problem = make_problem(SHORT)
    expected = step(leaves(problem), problem.dout)
    inputs = leaves(problem)
    out = checkpoint(attention, *inputs, use_reentrant=use_reentrant)
    out.backward(problem.dout)
    found = {"out": out.detach()} | {f"d{n}": t.grad for n, t in zip(NAMES, inputs, strict=True)}
    assert_same(found, expected)


def test_arithmetic_is_counted_as_the_textbook_has_it():
    problem = make_problem(Case(2, 9, 11, 8, 64))
    with FlopCounterMode(display=False) as counter:
        attention(*leaves(problem)).backward(problem.dout)
    assert counter.get_total_flops() == 3 * 2 * 2 * 9 * 11 * (8 + 64)


@pytest.mark.skipif(DEVICE != "cpu", reason="only the interpreter records stores")
def test_backward_stores_nothing_into_what_forward_gave():
    problem = make_problem(SHORT)
    out = attention(*leaves(problem))
    memory = range(out.data_ptr(), out.data_ptr() + out.numel() * out.element_size())
    with stores_recorded() as stores:
        out.backward(problem.dout)
    assert stores
    assert not any((memory.start <= a < memory.stop) for s in stores for a in s.addresses.ravel())
