"""One training step through the public operator, for the tests of kernels and operators."""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from hmc_fast import spatial_attention
from tolerances import Problem

NAMES = ("q", "k", "v", "x", "gamma")


def leaves(problem: Problem) -> list[Tensor]:
    """q, k, v, x and gamma, the problem's memory, each with a gradient to come."""
    return [getattr(problem, name).detach().requires_grad_() for name in NAMES]


def attention(*inputs: Tensor, scale: float | None = None) -> Tensor:
    """The public operator by the kernels."""
    return spatial_attention(*inputs, scale, "triton")


def step(
    inputs: Sequence[Tensor], dout: Tensor, function: Callable[..., Tensor] = attention
) -> dict[str, Tensor]:
    """out and the gradients of all inputs."""
    out = function(*inputs)
    gradients = torch.autograd.grad(out, inputs, dout)
    return {"out": out.detach()} | {f"d{n}": g for n, g in zip(NAMES, gradients, strict=True)}


def assert_same(one: Mapping[str, Tensor | None], other: Mapping[str, Tensor | None]) -> None:
    """The same names, and the same numbers to the last bit."""
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        expected = other[name]
        if tensor is None or expected is None:
            assert tensor is expected, name
        else:
            assert torch.equal(tensor, expected), name
