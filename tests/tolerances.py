"""How far a fused attention may be from the truth: one rule for every tensor, dtype and shape.

    truth    the reference in float64 on the same rounded inputs
    allowed  2 x (error of the reference in the tensor's own dtype + rounding)

by the largest element and by the L2 norm of each row, so that one wrong tile of a large tensor
cannot hide behind its other rows.

The reference's own error can be nil where it is lucky (one key, an exact sum), so the rounding must
suffice by itself. It is what every fused form has to round, from the truth's own magnitudes:

    stored    P, A, dS and the results are kept in the dtype: eps |x| each, at least the smallest
              number the dtype can hold. In a sum the squares of independent roundings add (Higham
              and Mary 2019); those of equal rows, keys or samples are equal, and add as they are
    summed    sums run in float32: its eps x the sum of the magnitudes of all terms. An error of a
              score is a relative error of its probability. The rounding of dgamma, a sum over
              everything, grows so with the sum of all magnitudes
"""

from typing import NamedTuple

import torch
from torch import Tensor

from hmc_fast.kernels.reference import attention_reference

FLOAT32 = torch.finfo(torch.float32)


class Problem(NamedTuple):
    """What forward and backward take, in the dtype under test; x and gamma None: A alone.

    q (B, Nq, Dk), k (B, Nk, Dk), v (B, Nk, Dv), x and dout (B, Nq, Dv), gamma (1,).
    """

    q: Tensor
    k: Tensor
    v: Tensor
    x: Tensor | None
    gamma: Tensor | None
    dout: Tensor
    scale: float


class Bound(NamedTuple):
    """One tensor: its truth, the allowed error of any element and of each row, all float64."""

    truth: Tensor  # (..., columns)
    element: Tensor  # ()
    row: Tensor  # (...,), L2


def bounds(problem: Problem) -> dict[str, Bound]:
    """A bound for each of out, attended, lse, dq, dk, dv, dx and dgamma.

    Raises ValueError where a truth does not fit the dtype: no error is allowed or forbidden there.
    """
    truth, rounding = results(problem, torch.float64), roundings(problem)
    in_dtype, wide = results(problem, problem.q.dtype), results(problem, torch.float32)
    found = {}
    for name, expected in truth.items():
        dtype = wide[name].dtype if name == "lse" else in_dtype[name].dtype
        if not (expected.abs() <= torch.finfo(dtype).max).all():
            raise ValueError(f"{name} of this problem does not fit {dtype}")
        reference = wide[name] if name == "lse" else in_dtype[name]
        if not reference.isfinite().all():
            # float16 overflows inside the reference (a gradient times gamma, a long sum), which
            # says nothing of kernels that sum in float32: take the reference that does the same
            reference = wide[name].to(dtype)
        error = (reference.double() - expected).abs()
        found[name] = Bound(
            expected,
            2 * (error.max() + rounding[name].max()),
            2 * (error.norm(dim=-1) + rounding[name].norm(dim=-1)),
        )
    return found


def results(problem: Problem, dtype: torch.dtype) -> dict[str, Tensor]:
    """Everything forward and backward give, by the reference and autograd in `dtype`, but gamma in
    its own where that is wider; lse with a column, (B, Nq, 1)."""
    q, k, v = (t.detach().to(dtype).requires_grad_() for t in (problem.q, problem.k, problem.v))
    inputs = {"dq": q, "dk": k, "dv": v}
    attended = out = attention_reference(q, k, v, None, None, problem.scale)
    if problem.x is not None and problem.gamma is not None:
        x = problem.x.detach().to(dtype).requires_grad_()
        gamma = problem.gamma.detach().to(torch.promote_types(problem.gamma.dtype, dtype))
        inputs |= {"dx": x, "dgamma": gamma.requires_grad_()}
        out = attention_reference(q, k, v, x, gamma, problem.scale)
    gradients = torch.autograd.grad(out, list(inputs.values()), problem.dout.detach().to(dtype))
    lse = torch.logsumexp((q * problem.scale) @ k.mT, -1, keepdim=True)
    found = {"out": out, "attended": attended, "lse": lse}
    return {n: t.detach() for n, t in (found | dict(zip(inputs, gradients, strict=True))).items()}


def roundings(problem: Problem) -> dict[str, Tensor]:
    """The rounding of every element of every result, by the rules of this file's head."""
    dtype = problem.q.dtype
    wide = widened(problem)
    softmax = softmax_of(wide, dtype)
    found = forward_roundings(wide, softmax, dtype) | backward_roundings(wide, softmax, dtype)
    if problem.gamma is not None:
        dgamma = (wide.dout * (softmax.p @ wide.v)).sum()
        found["dgamma"] = found["dgamma"] + stored(dgamma, problem.gamma.dtype)
    return found


def widened(problem: Problem) -> Problem:
    """In float64, gamma 1 and x 0 where there are none."""
    q, k, v, x, gamma, dout = (None if t is None else t.detach().double() for t in problem[:-1])
    x = torch.zeros_like(dout) if x is None else x
    gamma = q.new_ones(1) if gamma is None else gamma
    return Problem(q, k, v, x, gamma, dout, problem.scale)


class Softmax(NamedTuple):
    """Probabilities (B, Nq, Nk) in float64 and their roundings; lse and its rounding (B, Nq, 1)."""

    p: Tensor
    relative: Tensor  # of p, from float32 scores
    stored: Tensor  # of p, from the dtype it is kept in
    lse: Tensor
    lse_rounding: Tensor

    @property
    def summed(self) -> Tensor:
        """Of p, from float32 scores."""
        return self.p * self.relative


def softmax_of(wide: Problem, dtype: torch.dtype) -> Softmax:
    """A probability is exp(score - lse): a score's error, eps of the magnitudes in it, is relative
    there. 2 eps are for the exponential and the logarithm themselves, 2 eps of lse for its way to
    base 2 and back: four factors and a sum, half an eps each at most."""
    scores = wide.scale * wide.q @ wide.k.mT
    sizes = abs(wide.scale) * wide.q.abs() @ wide.k.abs().mT
    lse = torch.logsumexp(scores, -1, keepdim=True)
    lse_rounding = FLOAT32.eps * (2 + sizes.amax(-1, keepdim=True) + 2 * lse.abs())
    relative = FLOAT32.eps * (2 + sizes) + lse_rounding
    p = torch.softmax(scores, -1)
    return Softmax(p, relative, stored(p, dtype), lse, lse_rounding)


def forward_roundings(wide: Problem, softmax: Softmax, dtype: torch.dtype) -> dict[str, Tensor]:
    """Of A = P V, of out = gamma A + X and of lse."""
    attended = softmax.p @ wide.v
    rounding = product(softmax.stored, wide.v) + softmax.summed @ wide.v.abs()
    scaled = wide.gamma * attended
    out_rounding = wide.gamma.abs() * rounding + FLOAT32.eps * (scaled.abs() + wide.x.abs())
    return {
        "out": out_rounding + stored(scaled + wide.x, dtype),
        "attended": rounding + stored(attended, dtype),
        "lse": softmax.lse_rounding,
    }


def backward_roundings(wide: Problem, softmax: Softmax, dtype: torch.dtype) -> dict[str, Tensor]:
    """Of dS = gamma P ∘ (dP - delta), dQ = scale dS K, dK = scale dSᵀ Q, dV = gamma Pᵀ dOut and
    dgamma = Σ delta; dX is dOut itself."""
    gamma, scale, (p, dout) = wide.gamma.abs(), abs(wide.scale), (softmax.p, wide.dout)
    dp, dp_sizes = dout @ wide.v.mT, dout.abs() @ wide.v.abs().mT
    delta = (p * dp).sum(-1, keepdim=True)
    delta_stored, delta_summed, dgamma = delta_roundings(wide, softmax, dp, dp_sizes, dtype)

    ds = gamma * p * (dp - delta)
    ds_stored = torch.maximum(scale * stored(ds, dtype), stored(scale * ds, dtype))
    ds_summed = softmax.relative * ds.abs() + gamma * p * (FLOAT32.eps * dp_sizes + delta_summed)
    p_stored = torch.maximum(gamma * softmax.stored, stored(gamma * p, dtype))
    from_delta = scale * gamma * p * delta_stored  # of dS; the same delta in all of a row
    return {
        "dq": product(ds_stored, wide.k)
        + (from_delta @ wide.k).abs()
        + scale * ds_summed @ wide.k.abs()
        + stored(wide.scale * ds @ wide.k, dtype),
        "dk": product(ds_stored.mT, wide.q)
        + product(from_delta.mT, wide.q)
        + scale * ds_summed.mT @ wide.q.abs()
        + stored(wide.scale * ds.mT @ wide.q, dtype),
        "dv": product(p_stored.mT, dout)
        + gamma * softmax.summed.mT @ dout.abs()
        + stored(gamma * p.mT @ dout, dtype),
        "dx": torch.zeros_like(dout),
        "dgamma": dgamma,
    }


def delta_roundings(
    wide: Problem, softmax: Softmax, dp: Tensor, dp_sizes: Tensor, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor]:
    """Of delta = rowsum(P ∘ dP) = rowsum(dOut ∘ A), (B, Nq, 1), from P and A as they are stored
    and from float32 sums; of dgamma, (1,)."""
    parts = torch.cat([softmax.stored * dp, wide.dout * stored(softmax.p @ wide.v, dtype)], -1)
    of_rows = root((parts**2).sum(-1, keepdim=True))
    of_columns = parts.sum((0, 1))  # where all rows are equal, so are their roundings
    summed = softmax.summed * dp.abs() + FLOAT32.eps * softmax.p * dp_sizes
    summed = summed.sum(-1, keepdim=True)
    return of_rows, summed, (of_rows.norm() + of_columns.norm() + summed.sum()).reshape(1)


def product(roundings: Tensor, factors: Tensor) -> Tensor:
    """Of a matrix product whose left side has these roundings, be they independent or equal."""
    return root(roundings**2 @ factors**2) + (roundings @ factors).abs()


def stored(values: Tensor, dtype: torch.dtype) -> Tensor:
    """The rounding of values kept in `dtype`: relative, and absolute near zero, where float16 has
    no smaller numbers and exponentials in float32 are flushed to zero."""
    limits = torch.finfo(dtype)
    least = max(limits.tiny * limits.eps, FLOAT32.tiny)
    rounding = (limits.eps * values.abs()).clamp(min=least)
    return torch.where(values == 0, 0, rounding)


def root(squares: Tensor) -> Tensor:
    return squares.clamp(min=0).sqrt()


def excess(result: Tensor, bound: Bound) -> float:
    """How much of the allowed error `result` has, by its worst element or row: up to 1 is right,
    and a NaN is infinitely wrong."""
    error = (result.detach().double().reshape(bound.truth.shape) - bound.truth).abs()
    error = error.nan_to_num(nan=torch.inf, posinf=torch.inf)
    pairs = ((error.max(), bound.element), (error.norm(dim=-1), bound.row))
    shares = [torch.where(e == 0, 0, e / allowed).max() for e, allowed in pairs]
    return float(max(shares))


def wrong(results: dict[str, Tensor | None], allowed: dict[str, Bound]) -> dict[str, float]:
    """Those results whose error is not allowed, with their `excess`; no result is left out but
    those that are None."""
    shares = {n: excess(t, allowed[n]) for n, t in results.items() if t is not None}
    return {name: share for name, share in shares.items() if not share <= 1}


def assert_allowed(results: dict[str, Tensor | None], problem: Problem) -> None:
    """All results of a problem are as near to the truth as they must be."""
    found = wrong(results, bounds(problem))
    assert not found, f"errors as multiples of the allowed ones: {found}"
