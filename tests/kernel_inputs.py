"""Problems for the kernel tests: seeded, with special values, and in every layout of memory.

All are on the GPU where there is one.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from hmc_fast.kernels.configurations import Target
from tolerances import Problem

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
TENSORS = ("q", "k", "v", "x", "dout")


class Case(NamedTuple):
    """Sizes of one problem."""

    batch: int
    tokens_q: int
    tokens_k: int
    d_qk: int
    d_v: int


SMALL = [
    Case(1, 1, 1, 8, 8),
    Case(3, 17, 17, 8, 64),
    Case(1, 63, 65, 16, 16),
    Case(1, 64, 64, 8, 64),
    Case(2, 127, 129, 24, 72),
    Case(1, 196, 196, 16, 128),
    Case(1, 257, 49, 32, 256),
    Case(1, 49, 257, 8, 40),
]
WIDTHS = [(8, 8), (8, 2048), (12, 20), (40, 72), (128, 128), (256, 8), (256, 256)]
NETWORK = {  # blocks of rows of the network's shapes against all keys, the small shapes whole
    "ha1": Case(1, 64, 3136, 32, 256),
    "ha2": Case(1, 80, 784, 64, 512),
    "ca23": Case(1, 196, 196, 128, 1024),
    "ca34": Case(3, 49, 49, 256, 2048),
    "ca23 reassociated": Case(1, 196, 196, 128, 512),
    "ca34 reassociated": Case(1, 49, 49, 256, 1024),
}
TARGETS = {  # whose tiles
    "full Hopper": Target(90, 1),  # one processor: there are always programs enough
    "empty Hopper": Target(90, 132),
    "full RTX": Target(86, 1),
    "little shared memory": Target(86, 48, 32768),
}
USUAL = Case(2, 37, 37, 16, 72)


def make_problem(
    case: Case,
    dtype: torch.dtype = torch.float32,
    *,
    gamma: float = 0.7,
    scale: float | None = None,
    spread: float = 1.5,
    seed: int = 0,
) -> Problem:
    """Normal inputs; q has the standard deviation `spread`, so that some keys matter more than
    others; x is smaller than A, so that it hides no error."""
    generator = torch.Generator().manual_seed(seed)
    batch, tokens_q, tokens_k, d_qk, d_v = case

    def normal(*shape: int, size: float = 1.0) -> Tensor:
        return (size * torch.randn(shape, generator=generator)).to(DEVICE, dtype)

    return Problem(
        normal(batch, tokens_q, d_qk, size=spread),
        normal(batch, tokens_k, d_qk),
        normal(batch, tokens_k, d_v),
        normal(batch, tokens_q, d_v, size=0.1),
        torch.tensor([gamma], device=DEVICE),
        normal(batch, tokens_q, d_v),
        d_qk**-0.5 if scale is None else scale,
    )


def equal_keys(problem: Problem) -> Problem:
    return problem._replace(k=problem.k[:, :1].expand_as(problem.k).contiguous())


def dominating_key(problem: Problem) -> Problem:
    """The last key has a score of 80 for every query, the others about 0."""
    q, k = problem.q.clone(), problem.k.clone()
    q[..., 0], k[..., 0], k[:, -1, 0] = 8, 0, 10 / problem.scale
    return problem._replace(q=q, k=k)


def large_scores(problem: Problem) -> Problem:
    """Up to ±10 000: the largest float16 product that the reference can still scale."""
    scores = problem.scale * problem.q.double() @ problem.k.double().mT
    factor = (1e4 / scores.abs().max()).sqrt()
    return problem._replace(
        q=(problem.q * factor).to(problem.q), k=(problem.k * factor).to(problem.k)
    )


def negative_zeros(problem: Problem) -> Problem:
    return problem._replace(**{name: -torch.zeros_like(getattr(problem, name)) for name in "qkvx"})


SPECIAL: dict[str, Callable[[Problem], Problem]] = {
    "gamma 0": lambda problem: problem._replace(gamma=torch.zeros_like(problem.gamma)),
    "gamma -1.5": lambda problem: problem._replace(gamma=torch.full_like(problem.gamma, -1.5)),
    "gamma 500": lambda problem: problem._replace(gamma=torch.full_like(problem.gamma, 500)),
    "gamma in the dtype": lambda problem: problem._replace(gamma=problem.gamma.to(problem.q.dtype)),
    "no gamma": lambda problem: problem._replace(x=None, gamma=None),
    "scale 1": lambda problem: problem._replace(scale=1.0),
    "scale -0.3": lambda problem: problem._replace(scale=-0.3),
    "scale 0": lambda problem: problem._replace(scale=0.0),
    "equal keys": equal_keys,
    "a dominating key": dominating_key,
    "negative zeros": negative_zeros,
}


def transposed(tensor: Tensor) -> Tensor:
    """Tokens of a map in (B, C, H, W) order: columns are `tokens` apart."""
    return tensor.mT.contiguous().mT


def channels_last(tensor: Tensor) -> Tensor:
    """Tokens of a channels_last map (B, C, 1, N), a view."""
    as_map = tensor.mT.unsqueeze(2).contiguous(memory_format=torch.channels_last)
    return as_map.flatten(2).mT


def every_other_row(tensor: Tensor) -> Tensor:
    """Rows two widths apart, NaNs between them."""
    batch, tokens, columns = tensor.shape
    return filled(batch, 2 * tokens, columns, like=tensor)[:, ::2].copy_(tensor)


def amid_nans(tensor: Tensor) -> Tensor:
    """A part of a larger tensor whose other samples, rows and columns are NaNs; not aligned."""
    batch, tokens, columns = tensor.shape
    whole = filled(batch + 1, tokens + 7, columns + 5, like=tensor)
    return whole[1:, 3 : 3 + tokens, 1 : 1 + columns].copy_(tensor)


def filled(*shape: int, like: Tensor) -> Tensor:
    return torch.full(shape, torch.nan, dtype=like.dtype, device=like.device)


LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "transposed": transposed,
    "channels last": channels_last,
    "every other row": every_other_row,
    "amid NaNs": amid_nans,
}


def laid_out(problem: Problem, layout: str) -> Problem:
    """The same values, every tensor in another layout."""
    arrange = LAYOUTS[layout]
    return problem._replace(**{name: arrange(getattr(problem, name)) for name in TENSORS})


def fused_product(problem: Problem) -> Problem:
    """q, k and v as slices of one product, x and v one tensor; as many queries as keys."""
    q, k, v = torch.cat([problem.q, problem.k, problem.v], 2).split(
        [problem.q.shape[2], problem.k.shape[2], problem.v.shape[2]], 2
    )
    return problem._replace(q=q, k=k, v=v, x=v)


def expanded(problem: Problem) -> Problem:
    """All samples are one, q has one row and dout one number for all: strides of 0."""
    samples = {name: getattr(problem, name)[:1].expand_as(getattr(problem, name)) for name in "kvx"}
    q = problem.q[:1, :1].expand_as(problem.q)
    dout = problem.dout[:1, :1, :1].expand_as(problem.dout)
    return problem._replace(q=q, dout=dout, **samples)
