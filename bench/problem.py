"""What a benchmark case computes, its float64 truth, and the refusal to time a wrong result."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from gpu_timing import Side
from peers import Peer

# Largest relative L2 error of a tensor, by dtype; of a row thrice as much, so that one wrong tile
# cannot hide behind the others.
TOLERANCES = {torch.float32: 1e-4, torch.float16: 4e-3, torch.bfloat16: 2e-2}
ROW_FACTOR = 3


class WrongResult(ArithmeticError):
    """A peer whose result is not the truth is not timed."""


class Problem(NamedTuple):
    """One case. truth: by mode, the first tensors a call must give; sizes: by mode, the norm that
    an error is relative to where it is not the tensor's own.

    arguments: of a peer's operator ("operator") and of its attention alone ("attention").
    """

    arguments: dict[str, tuple[Any, ...]]
    dout: Tensor
    truth: dict[str, list[Tensor]]
    sizes: dict[str, list[Tensor | None]]
    peers: dict[str, Callable[[], Peer]]


def make_side(peer: Peer, mode: str, problem: Problem) -> Side:
    """One call of a peer in a mode: see attention_gpu.py."""
    alone = mode.startswith("attention")
    function = peer.attend if alone else peer.operator
    assert function is not None
    arguments = problem.arguments["attention" if alone else "operator"]
    if mode in ("forward", "attention"):
        return Side(_forward(peer, function, arguments), peer.context)
    leaves = [t for t in arguments if isinstance(t, Tensor)] + list(peer.leaves or ())
    dout = problem.dout

    def step() -> tuple[Tensor, ...]:
        return torch.autograd.grad(function(*arguments), leaves, dout)

    if mode == "step":
        return Side(step, peer.context)
    with peer.context():
        out = function(*arguments)
    return Side(lambda: torch.autograd.grad(out, leaves, dout, retain_graph=True), peer.context)


def _forward(
    peer: Peer, function: Callable[..., Tensor], arguments: tuple[Any, ...]
) -> Callable[[], Tensor]:
    """Without gradients, queries and keys prepared."""
    fixed = [t.detach() if isinstance(t, Tensor) else t for t in arguments]
    fixed[:2] = [peer.prepare(tensor) for tensor in fixed[:2]]  # q and k

    def forward() -> Tensor:
        with torch.no_grad():
            return function(*fixed)

    return forward


def compare(result: Any, mode: str, problem: Problem, dtype: torch.dtype) -> None:
    """WrongResult where a tensor is too far from the truth, as a whole or in one row."""
    got = [result] if isinstance(result, Tensor) else list(result)
    truth = problem.truth[mode]
    sizes = problem.sizes.get(mode, [None] * len(truth))
    for index, (expected, size) in enumerate(zip(truth, sizes, strict=True)):
        check_near(f"tensor {index} of {mode}", got[index], expected, dtype, size)


def check_near(
    name: str, got: Tensor, truth: Tensor, dtype: torch.dtype, size: Tensor | None = None
) -> None:
    """WrongResult, which names the tensor, where it is further from the truth than its dtype
    allows."""
    whole, of_row = errors(got, truth, size)
    allowed = TOLERANCES[dtype]
    if not (whole <= allowed and of_row <= ROW_FACTOR * allowed):  # NaN is wrong
        raise WrongResult(f"{name} is wrong by {whole:.2g}, in one row by {of_row:.2g}")


def errors(got: Tensor, truth: Tensor, size: Tensor | None = None) -> tuple[float, float]:
    """Relative L2 errors: of the whole, and the largest of a row, relative to the row or, where
    that is longer, to a mean row."""
    difference = got.detach().double() - truth
    if size is not None or truth.dim() < 2:
        whole = difference.norm() / (truth.norm() if size is None else size)
        return float(whole), 0.0
    rows = truth.norm(dim=-1)
    mean = rows.square().mean().sqrt()
    of_rows = difference.norm(dim=-1) / rows.clamp(min=mean)
    return float(difference.norm() / truth.norm()), float(of_rows.max())
