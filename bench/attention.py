"""How fast is the attention at the network's shapes, beside every peer and the machine?

    python bench/attention.py    on a GPU: every peer and ours, correctness first (--quick: fewer
                                 of those that take long to compile); writes
                                 bench/results/attention-<gpu>.csv and prints the design's targets
                                 beside the results (attention_gpu.py says what the rows mean)
                                 on a CPU: every backend, writes bench/results/attention-cpu.csv
    pytest --benchmark           on a CPU: the pairs that matter, timed in turn

On a CPU, float32, HA1 and HA2 in bfloat16 too. A step is forward and backward with gradients of
q, k, v, x and gamma. Each side is compared with the reference before it is timed. Machine and
versions stand in every row.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch

import attention_gpu
from attention_cases import BLOCKS, Case, make_inputs
from attention_targets import table
from attention_worker import supervise
from command_line import Parser
from common import RESULTS, in_turn, matmul_rate, quantiles, record_pair, row, write_rows
from hmc_fast.attention import BACKENDS, Shape, choose_backend, spatial_attention
from peers import PEERS

# on a CPU the fused kernels can only be interpreted
PLAIN = [name for name in BACKENDS if name not in ("auto", "reference", "triton")]
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


def measure(case: Case, rounds: int, backends: Sequence[str] = PLAIN) -> list[dict[str, Any]]:
    """Rows of the reference and `backends`, forward and step, all in turn."""
    rows, inputs = [], make_inputs(case)
    sizes = {"batch": case.batch, "n": case.n, "d_qk": case.d_qk, "d_v": case.d_v}
    for mode in ("forward", "step"):
        for backend in backends:
            check(backend, mode, inputs)
        sides = {name: make_side(name, mode, inputs) for name in ("reference", *backends)}
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


def main_on_cpu(args: argparse.Namespace) -> None:
    """All backends at all cases; the chosen ones replace their rows and leave the others."""
    rate = matmul_rate(torch.float32, "cpu")
    print(f"float32 matrix rate {rate * 1e3:.0f} GFLOP/s, {torch.get_num_threads()} threads")
    rates = row(
        "matmul", "torch", "forward", "tflops", [rate], batch=1, n=2048, d_qk=2048, d_v=2048,
        dtype=torch.float32,
    )  # fmt: skip
    cases = [case for case in CASES + SMALL if not args.case or case.name in args.case]
    backends = [name for name in PLAIN if not args.provider or name in args.provider]
    rows = [rates, *(line for case in cases for line in measure(case, args.rounds, backends))]
    whole = not (args.case or args.provider)
    save = write_rows if whole else attention_gpu.merge_rows
    print(save("attention-cpu", rows, args.out))


def main_on_gpu(args: argparse.Namespace) -> int:
    """The chosen groups, each in a worker that may be lost; the targets."""
    groups = args.case or list(attention_gpu.GROUPS)
    if args.prepare or not args.case:  # nothing is timed: all groups compile at once
        with ThreadPoolExecutor(len(groups)) as pool:
            failed = [name for name in pool.map(lambda g: supervise(g, 0, args), groups) if name]
        if args.prepare:
            return bool(failed)
    failed = [name for group in groups if (name := supervise(group, args.rounds, args))]
    if not args.case:
        print_targets(args)
    return bool(failed)


def print_targets(args: argparse.Namespace) -> None:
    name = attention_gpu.results_name()
    print("\n".join(table(attention_gpu.read_rows(name, args.out))))
    print(args.out / f"{name}.csv")


def print_list() -> None:
    """What there is to choose from, on both kinds of machine."""
    print(f"on a GPU, peers: {', '.join(PEERS)}")
    for group in attention_gpu.GROUPS:
        for one in attention_gpu.works(group):
            print(f"  --case {group}: {one.case}: {', '.join(one.peers)}")
    print(f"on a CPU, backends: {', '.join(PLAIN)}")
    for case in CASES + SMALL:
        print(f"  --case {case.name}: {case}")


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = Parser(__doc__.splitlines()[0])
    add = parser.add_argument
    add("--list", action="store_true", help="print cases and providers, time nothing")
    add("--case", action="append", help="this one alone (see --list); may be given again")
    add("--provider", action="append", help="likewise")
    add("--device", choices=("cpu", "cuda"), help="the GPU where there is one")
    add("--rounds", type=int, default=11, help="bursts or calls of each side")
    add("--out", type=Path, default=RESULTS, help="folder of the result files")
    add("--quick", dest="full", action="store_false", help="on a GPU: fewer compiled peers")
    add("--prepare", action="store_true", help="on a GPU: compile and compare, time nothing")
    add("--targets", action="store_true", help="on a GPU: only the table from the result file")
    add("--patience", type=float, default=120, help="seconds until a silent worker is stopped")
    args = parser.parse_args(arguments)
    args.device = args.device or ("cuda" if torch.cuda.is_available() else "cpu")
    if not args.list and (args.device == "cuda" or args.prepare or args.targets):
        parser.need_gpu()
    cases, providers = choices(args.device)
    for option, given, known in (
        ("case", args.case, cases),
        ("provider", args.provider, providers),
    ):
        if unknown := set(given or ()) - set(known):
            parser.error(f"--{option} on this device: {', '.join(known)}; got {unknown.pop()}")
    return args


def choices(device: str) -> tuple[list[str], list[str]]:
    """Cases and providers of a kind of device."""
    if device == "cuda":
        return list(attention_gpu.GROUPS), [*PEERS, "sdpa", "triton-reassociated"]
    return list(dict.fromkeys(case.name for case in CASES + SMALL)), PLAIN


def main(arguments: Sequence[str] | None = None) -> int:
    args = parse(arguments)
    if args.list:
        print_list()
        return 0
    if args.targets:
        print_targets(args)
        return 0
    if args.device == "cpu":
        main_on_cpu(args)
        return 0
    return main_on_gpu(args)


if __name__ == "__main__":
    sys.exit(main())
