"""The rule for errors itself: it passes every right fused form and refuses every broken one.

The forms stand here in plain torch: float32 arithmetic, and roundings where a fused kernel stores
something in its dtype.
"""

import pytest
import torch

from tolerances import Problem, bounds, excess, wrong
from tolerances import results as reference_results

DTYPES = [torch.float32, torch.float16, torch.bfloat16]
SHAPES = [  # batch, tokens_q, tokens_k, d_qk, d_v
    (1, 1, 1, 8, 8),
    (2, 17, 17, 8, 64),
    (1, 63, 65, 16, 16),
    (3, 64, 64, 8, 64),
    (1, 5, 300, 8, 8),
    (1, 257, 49, 32, 256),
    (2, 3, 2, 16, 1024),
]
LOG2_E = 1.4426950408889634
BLOCK = 32


def make_problem(shape, dtype, spread=1.5, gamma=0.7, seed=0):
    generator = torch.Generator().manual_seed(seed)
    batch, tokens_q, tokens_k, d_qk, d_v = shape

    def normal(*sizes):
        return torch.randn(sizes, generator=generator).to(dtype)

    q, k = spread * normal(batch, tokens_q, d_qk), normal(batch, tokens_k, d_qk)
    v, x, dout = (normal(batch, n, d_v) for n in (tokens_k, tokens_q, tokens_q))
    return Problem(q, k, v, x / 10, torch.tensor([gamma]), dout, d_qk**-0.5)


def fused(problem, fault=""):
    """All results as a fused kernel computes them; `fault` names what is done wrong."""
    q, k, v, x, gamma, dout = (t.float() for t in problem[:-1])
    dtype, scale = problem.q.dtype, problem.scale
    attended, lse = stream_keys(q * scale, k, v, dtype, fault)
    out = gamma * attended + x
    if fault == "last rows":
        out[:, -1] = x[:, -1]

    of_delta = dout * attended.to(dtype)
    if fault == "delta of a slice":
        of_delta = of_delta[..., : -(-of_delta.shape[2] // 2)]
    delta = of_delta.sum(-1, keepdim=True)
    p = torch.exp2((q * scale) @ k.mT * LOG2_E - lse * LOG2_E)
    dscores = (gamma * p * (dout @ v.mT - delta)).to(dtype).float()
    gradients = {
        "dq": scale * dscores @ k,
        "dk": (1 if fault == "scale" else scale) * dscores.mT @ q,
        "dv": (1 if fault == "gamma" else gamma) * p.to(dtype).float().mT @ dout,
        "dgamma": delta[:, 1:].sum() if fault == "dgamma" else delta.sum(),
    }
    results = {"out": out, "attended": attended} | gradients
    kept = {name: tensor.to(dtype) for name, tensor in results.items()}
    return kept | {"lse": lse, "dx": problem.dout, "dgamma": gradients["dgamma"]}


def stream_keys(q, k, v, dtype, fault):
    """The running softmax over blocks of keys, the last block padded with zeros."""
    batch, tokens_q, tokens_k = *q.shape[:2], k.shape[1]
    row_max = torch.full((batch, tokens_q, 1), -torch.inf)
    row_sum, sums = torch.zeros_like(row_max), torch.zeros(batch, tokens_q, v.shape[2])
    for first in range(0, tokens_k, BLOCK):
        missing = max(0, first + BLOCK - tokens_k)
        pad = (0, 0, 0, missing)
        keys, values = (torch.nn.functional.pad(t[:, first : first + BLOCK], pad) for t in (k, v))
        scores = q @ keys.mT * LOG2_E
        if missing and fault != "tail mask":
            scores[..., -missing:] = -torch.inf
        new_max = torch.maximum(row_max, scores.amax(-1, keepdim=True))
        rescale, weights = torch.exp2(row_max - new_max), torch.exp2(scores - new_max)
        row_sum = row_sum * rescale + weights.sum(-1, keepdim=True)
        kept = 1 if fault == "rescale" else rescale
        sums = sums * kept + weights.to(dtype).float() @ values
        row_max = new_max
    return sums / row_sum, (row_max + row_sum.log2()) / LOG2_E


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_a_right_fused_form_is_allowed(shape, dtype):
    for seed in range(3):
        for spread in (0.3, 1.5, 5):
            problem = make_problem(shape, dtype, spread, seed=seed)
            assert wrong(fused(problem), bounds(problem)) == {}


@pytest.mark.slow
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_right_fused_form_has_room_to_spare_at_every_seed(dtype):
    for seed in range(100):
        for shape in SHAPES:
            problem = make_problem(shape, dtype, 10 ** (seed % 5 - 2), seed=seed)
            allowed = bounds(problem)
            assert max(excess(t, allowed[n]) for n, t in fused(problem).items()) < 0.7


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    ("fault", "results"),
    [
        ("tail mask", {"out", "attended", "lse", "dq", "dk", "dv", "dgamma"}),
        ("rescale", {"out", "attended", "dq", "dk", "dgamma"}),
        ("last rows", {"out"}),
        ("delta of a slice", {"dq", "dk", "dgamma"}),
        ("scale", {"dk"}),
        ("gamma", {"dv"}),
        ("dgamma", {"dgamma"}),
    ],
)
def test_a_broken_form_is_refused_in_every_result_it_touches(fault, results, dtype):
    problem = make_problem((2, 65, 75, 16, 128), dtype)
    assert set(wrong(fused(problem, fault), bounds(problem))) == results


def test_a_wrong_row_cannot_hide_behind_large_ones():
    problem = make_problem((1, 64, 64, 8, 64), torch.float16)
    problem.x[0, 0] = 1000  # whose rounding in float16 is as large as A
    results = fused(problem)
    assert wrong(results, bounds(problem)) == {}
    results["out"][0, 1] = problem.x[0, 1]
    assert set(wrong(results, bounds(problem))) == {"out"}


def test_where_the_reference_is_exact_roundings_are_still_allowed():
    problem = make_problem((1, 4, 1, 8, 1024), torch.float32)  # one key: no gradient of scores
    allowed, results = bounds(problem), fused(problem)
    assert not allowed["dq"].truth.any()
    assert results["dq"].any()
    assert wrong(results, allowed) == {}
    assert set(wrong(results | {"dq": results["dq"] * 1000}, allowed)) == {"dq"}


def test_a_reference_that_overflows_in_float16_gives_way_to_float32():
    problem = make_problem((1, 9, 9, 8, 64), torch.float16, spread=0.5, gamma=3000.0)
    problem.v.add_(8)  # the same for all keys: gamma dOut Vᵀ overflows, dS does not know of it
    reference = reference_results(problem, torch.float16)
    assert not reference["dq"].isfinite().all()
    assert wrong(fused(problem), bounds(problem)) == {}
    assert "dq" in wrong(fused(problem, "delta of a slice"), bounds(problem))


def test_a_truth_beyond_the_dtype_is_refused():
    problem = make_problem((1, 9, 9, 8, 64), torch.float16, gamma=60000.0)
    with pytest.raises(ValueError, match=r"of this problem does not fit torch\.float16"):
        bounds(problem)


def test_what_is_exact_must_be_exact():
    problem = make_problem((1, 9, 9, 8, 64), torch.float16, gamma=0.0)
    allowed, results = bounds(problem), fused(problem)
    assert wrong(results, allowed) == {}
    smallest = torch.full_like(results["dk"], 6e-8)
    assert wrong({"dx": problem.dout.nextafter(problem.q.new_zeros(1))}, allowed) != {}
    assert wrong({"dk": smallest}, allowed) != {}


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_what_is_not_finite_is_refused(value):
    problem = make_problem((1, 9, 9, 8, 64), torch.float32)
    results = fused(problem)
    for name, result in results.items():
        result = result.clone()
        result.view(-1)[-1] = value
        assert set(wrong(results | {name: result}, bounds(problem))) == {name}


def test_the_rounding_of_dgamma_grows_with_the_sum_of_magnitudes():
    """Two samples that cancel: nothing is left of dgamma, all of the roundings are."""
    one = make_problem((1, 33, 33, 8, 64), torch.float32)
    two = Problem(*(torch.cat([t, t]) for t in one[:4]), one.gamma, one.dout, one.scale)
    two = two._replace(dout=torch.cat([one.dout, -one.dout]))
    allowed = bounds(two)["dgamma"]
    assert allowed.truth.abs() < 1e-12
    attended = reference_results(one, torch.float64)["attended"]
    magnitudes = (one.dout.double() * attended).abs().sum()
    assert torch.finfo(torch.float32).eps * magnitudes < allowed.element


def test_bounds_are_tight_enough_to_see_one_key_missing():
    """Of 64 keys, by every dtype: what a kernel with one wrong index would do."""
    for dtype in DTYPES:
        problem = make_problem((1, 64, 64, 8, 64), dtype)
        fewer = problem._replace(k=problem.k[:, :-1], v=problem.v[:, :-1])
        without = reference_results(fewer, torch.float64)
        names = ("out", "attended", "lse", "dq")
        assert set(wrong({n: without[n] for n in names}, bounds(problem))) == set(names)
