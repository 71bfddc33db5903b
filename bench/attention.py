"""How fast is each attention backend at the network's shapes, beside the reference and the machine?

    python bench/attention.py    every backend and shape; writes bench/results/attention-cpu.csv
    pytest --benchmark           the pairs that matter, timed in turn

On a CPU, float32, HA1 and HA2 in bfloat16 too. A step is forward and backward with gradients of
q, k, v, x and gamma. Each side is compared with the reference before it is timed. Machine and
versions stand in every row.
"""

import argparse
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch

from common import in_turn, matmul_rate, quantiles, record_pair, row, write_rows
from hmc_fast.attention import BACKENDS, Shape, choose_backend, spatial_attention

PLAIN = [name for name in BACKENDS if name not in ("auto", "reference")]


class Case(NamedTuple):
    """One attention block of the network at one batch size."""

    name: str
    batch: int
    n: int
    d_qk: int
    d_v: int
    dtype: torch.dtype = torch.float32

    @property
    def gflop(self) -> float:
        """Of the forward pass: the two products."""
        return 2 * self.batch * self.n**2 * (self.d_qk + self.d_v) / 1e9


BLOCKS = {
    "ha1": (3136, 32, 256),
    "ha2": (784, 64, 512),
    "ca23": (196, 128, 1024),
    "ca34": (49, 256, 2048),
}
CASES = [
    *(Case(name, batch, *sizes) for name, sizes in BLOCKS.items() for batch in (1, 8)),
    *(Case(name, 32, *sizes) for name, sizes in BLOCKS.items() if name != "ha1"),
    *(
        Case(name, batch, *BLOCKS[name], torch.bfloat16)
        for name in ("ha1", "ha2")
        for batch in (1, 8)
    ),
]
SMALL = [  # the blocks of 64 px images, the quick preset
    Case("ha1-64px", 8, 256, 32, 256),
    Case("ha2-64px", 8, 64, 64, 512),
]


def make_inputs(case: Case) -> list[torch.Tensor]:
    """q, k, v, x and gamma, seeded."""
    generator = torch.Generator().manual_seed(0)
    widths = (case.d_qk, case.d_qk, case.d_v, case.d_v)
    tensors = [torch.randn(case.batch, case.n, width, generator=generator) for width in widths]
    tensors = [tensor.to(case.dtype) for tensor in tensors]
    return [t.requires_grad_() for t in (*tensors, torch.full((1,), 0.5))]


def make_side(backend: str, mode: str, inputs: list[torch.Tensor]) -> Callable[[], Any]:
    """One call: forward without gradients, or a step."""

    def forward() -> torch.Tensor:
        with torch.no_grad():
            return spatial_attention(*inputs, backend=backend)

    def step() -> tuple[torch.Tensor, ...]:
        out = spatial_attention(*inputs, backend=backend)
        return torch.autograd.grad(out, inputs, torch.ones_like(out))

    return forward if mode == "forward" else step


def check(backend: str, mode: str, inputs: list[torch.Tensor]) -> None:
    """No timing of a wrong result: near the reference, relative to each tensor's size."""
    tolerance = 1e-4 if inputs[0].dtype == torch.float32 else 2e-2
    got, expected = (make_side(name, mode, inputs)() for name in (backend, "reference"))
    pairs = [(got, expected)] if mode == "forward" else list(zip(got, expected, strict=True))
    for one, other in pairs:
        assert (one - other).norm() <= tolerance * other.norm().clamp(min=1), (backend, mode)


@pytest.mark.parametrize("mode", ["forward", "step"])
@pytest.mark.parametrize("peer", ["reference", "sdpa"])
@pytest.mark.parametrize("batch", [1, 8])
def test_chunked_at_ha1(benchmark, batch, peer, mode):
    case = Case("ha1", batch, *BLOCKS["ha1"])
    inputs = make_inputs(case)
    check("chunked", mode, inputs)
    sides = [make_side(name, mode, inputs) for name in ("chunked", peer)]
    rounds = 5 if batch == 8 else 11
    record_pair(benchmark, "chunked", sides[0], peer, sides[1], rounds=rounds, warmup=2)


@pytest.mark.parametrize("batch", [1, 8])
def test_chunked_forward_against_the_matrix_rate(benchmark, batch):
    """In turn with a square product of the same arithmetic: the ratio is the share of the matrix
    rate."""
    case = Case("ha1", batch, *BLOCKS["ha1"])
    inputs = make_inputs(case)
    check("chunked", "forward", inputs)
    size = round((case.gflop * 1e9 / 2) ** (1 / 3))
    left, right = torch.randn(size, size), torch.randn(size, size)
    chunked = make_side("chunked", "forward", inputs)
    record_pair(benchmark, "chunked", chunked, "matmul", lambda: left @ right, rounds=11, warmup=3)


def _chosen(case: Case, mode: str) -> str:
    shape = Shape(case.batch, case.n, case.n, case.d_qk, case.d_v)
    return choose_backend(
        "auto", torch.device("cpu"), case.dtype, shape, needs_grad=mode == "step"
    ).backend


CHOSEN = [
    pytest.param(case, mode, id=f"{case.name}-{case.batch}-{mode}")
    for case in CASES + SMALL
    for mode in ("forward", "step")
    if case.batch <= 8 and case.dtype == torch.float32
    if _chosen(case, mode) != "reference" and case.name != "ha1"
]


@pytest.mark.skipif(not CHOSEN, reason="the resolver takes the reference at every other shape")
@pytest.mark.parametrize(("case", "mode"), CHOSEN)
def test_the_resolvers_choice_against_the_reference(benchmark, case, mode):
    inputs, backend = make_inputs(case), _chosen(case, mode)
    check(backend, mode, inputs)
    sides = [make_side(name, mode, inputs) for name in (backend, "reference")]
    record_pair(benchmark, backend, sides[0], "reference", sides[1], rounds=15, warmup=3)


def measure(case: Case, rounds: int) -> list[dict[str, Any]]:
    """Rows of every backend, forward and step, all in turn."""
    rows, inputs = [], make_inputs(case)
    sizes = {"batch": case.batch, "n": case.n, "d_qk": case.d_qk, "d_v": case.d_v}
    for mode in ("forward", "step"):
        for backend in PLAIN:
            check(backend, mode, inputs)
        sides = {name: make_side(name, mode, inputs) for name in ("reference", *PLAIN)}
        times = in_turn(sides, rounds=rounds)
        medians = [f"{name} {quantiles(values)['q50']:.2f} ms" for name, values in times.items()]
        print(
            f"{case.name} {case.dtype} batch {case.batch} {mode}: {', '.join(medians)}", flush=True
        )
        rows += [
            row(case.name, name, mode, "ms", values, dtype=case.dtype, **sizes)
            for name, values in times.items()
        ]
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=11)
    args = parser.parse_args()
    rate = matmul_rate(torch.float32, "cpu")
    print(f"float32 matrix rate {rate * 1e3:.0f} GFLOP/s, {torch.get_num_threads()} threads")
    rates = row(
        "matmul", "torch", "forward", "tflops", [rate], batch=1, n=2048, d_qk=2048, d_v=2048,
        dtype=torch.float32,
    )  # fmt: skip
    rows = [rates, *(line for case in CASES + SMALL for line in measure(case, args.rounds))]
    print(write_rows("attention-cpu", rows))


if __name__ == "__main__":
    main()
