"""The attention on a GPU: every peer and ours in turn, compared with float64 before they are timed.

A worker process runs the cases of one group (`GROUPS`) and writes rows after each case. What cannot
run has a row with metric `error`: q50 is empty, and the message stands in q20.

Modes, as rows name them: `forward` and `step` (forward and backward) of the operator with gamma and
residual, `backward` alone; `attention` and `attention_backward` without gamma and residual, for
ratios against libraries; `…_graph`, the same in a CUDA graph. peak_mib: device memory of one step
beyond the inputs, the results and all that backward needs included.
"""

import csv
import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch

from attention_blocks import block_problem
from attention_cases import BLOCKS, Case, make_inputs
from common import RESULTS, environment_columns, matmul_rate, quantiles, row, write_rows
from gpu_timing import CALLS_IN_GRAPH, Side, bursts_in_turn, captured, check_alive, peak_mib, slug
from hmc_fast.attention import attend
from peers import MODES, PEERS, Peer
from problem import Problem, compare, make_side

MOST_STORED = 1 << 28  # scores of the float64 truth; beyond, blocks of rows
GROUPS = ("ha1", "ha2", "ca23", "ca34", "large")
SHORT = ("ca23", "ca34")  # bound by launches: timed in CUDA graphs at every batch
NOT_COMPILED = tuple(name for name in PEERS if name not in ("reference-compiled", "flex"))
FEW = ("reference", "sdpa-flash", "sdpa-efficient", "sdpa-cudnn", "triton")
LARGE = ("sdpa-efficient", "sdpa-cudnn", "triton", "triton-atomics")
BLOCK_PEERS = ("reference", "reference-compiled", "sdpa", "triton", "triton-reassociated")
BATCHES = (32, 1, 8)
FAILS_WITH = {  # a peer that fails in one mode is not tried in others
    "forward": (*MODES, "forward_graph", "attention_graph", "step_graph"),
    "attention": ("attention", "attention_backward", "attention_graph"),
    "backward": ("backward", "step", "step_graph"),
}
INTERNALS = re.compile(r"\(Triggered internally at [^)]*\)")  # in torch's warnings
MATMUL = 8192  # M: the rate of its square bf16 product, which targets refer to
Note = Callable[[str], None]


class Work(NamedTuple):
    """A case, who is timed at it, and in which modes."""

    case: Case
    peers: tuple[str, ...]
    graphs: tuple[str, ...] = ()
    modes: tuple[str, ...] = MODES


def works(group: str, full: bool = False) -> list[Work]:
    """The cases of a group, the most important first. full: compiled peers at every batch size;
    compiling them takes most of the time."""
    if group == "large":  # 448 and 1024 px
        sides = (112, 256)
        cases = [Case("ha1", 1, side**2, *BLOCKS["ha1"][1:], torch.bfloat16) for side in sides]
        return [Work(case, LARGE) for case in cases]
    found = [_operator_work(group, batch, full) for batch in BATCHES]
    if group == "ha1":
        others = (torch.float16, torch.float32)
        found += [Work(Case(group, 8, *BLOCKS[group], dtype), FEW) for dtype in others]
    return found + [_block_work(group, batch) for batch in BATCHES]


def _operator_work(group: str, batch: int, full: bool) -> Work:
    short = group in SHORT
    every = full or batch == 32 or (batch == 1 and not short)
    case = Case(group, batch, *BLOCKS[group], torch.bfloat16)
    graphs = ("forward_graph", "attention_graph", "step_graph") if batch == 1 or short else ()
    return Work(case, tuple(PEERS) if every else NOT_COMPILED, graphs)


def _block_work(group: str, batch: int) -> Work:
    case = Case(f"{group}-block", batch, *BLOCKS[group], torch.bfloat16)
    peers = tuple(n for n in BLOCK_PEERS if group in SHORT or n != "reference-compiled")
    return Work(case, peers, ("forward_graph", "step_graph"), ("forward", "step"))


def attention_problem(case: Case, device: str = "cuda") -> Problem:
    """Inputs, their float64 truth and all peers of an operator case."""
    inputs = make_inputs(case, device)
    q, k, v, x, gamma = inputs
    scale = case.d_qk**-0.5
    generator = torch.Generator(device).manual_seed(1)
    dout = torch.randn(x.shape, generator=generator, device=device).to(case.dtype)
    wide = [tensor.detach().double().requires_grad_() for tensor in (q, k, v)]
    backend = "reference" if case.batch * case.n**2 <= MOST_STORED else "chunked"
    attended = attend(*wide, scale, backend)
    bare = torch.autograd.grad(attended, wide, dout.double())
    attended, weight = attended.detach(), gamma.detach().double()
    terms = dout.double() * attended
    gradients = [*(weight * gradient for gradient in bare), dout.double(), terms.sum().view(1)]
    return Problem(
        {"operator": (*inputs, scale), "attention": (q, k, v, scale)},
        dout,
        {
            "forward": [weight * attended + x.detach().double()],
            "attention": [attended],
            "attention_backward": list(bare),
            "backward": gradients,
            "step": gradients,
        },
        # dgamma is a sum with signs: its error is measured by the size of its terms
        {"backward": [None] * 4 + [terms.norm()], "step": [None] * 4 + [terms.norm()]},
        {name: (lambda name=name: PEERS[name](case)) for name in PEERS},
    )


def run(work: Work, rounds: int, note: Note, skip: Mapping[str, str]) -> list[dict[str, Any]]:
    """Rows of one case. rounds: 0 to compile and compare only. skip: peers that brought an earlier
    worker down, with the reason."""
    make = block_problem if work.case.name.endswith("-block") else attention_problem
    torch.compiler.reset()  # or the limit of recompilations is met
    bench = Bench(work, make(work.case), rounds, note)
    for name in work.peers:
        if name in skip:
            bench.fail(name, "forward", RuntimeError(skip[name]))
        else:
            bench.build(name)
            bench.refuse_backward(name)
    for mode in work.modes:
        bench.time(mode, bench.sides(mode))
    for mode in work.graphs:
        bench.time(mode, bench.graphs(mode))
    bench.peaks()
    return bench.rows


class Bench:
    """One case while it is measured: the peers that still run and the rows so far."""

    def __init__(self, work: Work, problem: Problem, rounds: int, note: Note) -> None:
        self.work, self.problem, self.rounds, self.note = work, problem, rounds, note
        self.peers: dict[str, Peer] = {}
        self.failed: set[tuple[str, str]] = set()
        self.rows: list[dict[str, Any]] = []

    def build(self, name: str) -> None:
        self.note(f"{name} build")
        try:
            self.peers[name] = self.problem.peers[name]()
        except Exception as error:
            self.fail(name, "forward", error)

    def refuse_backward(self, name: str) -> None:
        """A row for a peer that has a forward alone."""
        peer = self.peers.get(name)
        if peer and "backward" in self.work.modes and "step" not in peer.modes:
            self.fail(name, "backward", NotImplementedError("it has a forward pass only"))

    def fail(self, name: str, mode: str, error: Exception, reasons: Iterable[str] = ()) -> None:
        """An error row, and the modes in which `name` is not tried."""
        check_alive(error)
        self.failed |= {(name, other) for other in FAILS_WITH.get(mode, (mode,))}
        message = one_line(error, reasons)
        print(f"  {name} {mode}: {message}", flush=True)
        self.rows.append(error_row(self.work.case, name, mode, message))

    def sides(self, mode: str) -> dict[str, Side]:
        """What can be called in this mode and gives the right result."""
        sides = {}
        for name, peer in self.peers.items():
            alone = mode.startswith("attention")
            if mode not in peer.modes or (alone and peer.attend is None):
                continue
            if (name, mode) not in self.failed and (side := self.right(name, mode)):
                sides[name] = side
        return sides

    def right(self, name: str, mode: str) -> Side | None:
        self.note(f"{name} {mode}")
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            try:
                side = make_side(self.peers[name], mode, self.problem)
                with side.context():
                    compare(side.call(), mode, self.problem, self.work.case.dtype)
                return side
            except Exception as error:
                self.fail(name, mode, error, (str(warning.message) for warning in caught))
                return None

    def graphs(self, mode: str) -> dict[str, Side]:
        sides = {}
        for name, side in self.sides(mode.removesuffix("_graph")).items():
            self.note(f"{name} {mode}")
            try:
                if (name, mode) not in self.failed:
                    sides[name] = captured(side)
            except Exception as error:
                self.fail(name, mode, error)
        return sides

    def time(self, mode: str, sides: dict[str, Side]) -> None:
        if not self.rounds:
            return
        case, lines = self.work.case, []
        times = bursts_in_turn(sides, self.rounds, lambda name: self.note(f"{name} {mode} timing"))
        for name, values in times.items():
            if isinstance(values, Exception):
                self.fail(name, mode, values)
                continue
            if mode.endswith("_graph"):
                values = [value / CALLS_IN_GRAPH for value in values]
            lines.append(f"{name} {quantiles(values)['q50']:.4g}")
            self.rows += time_rows(case, name, mode, values)
        print(f"{case} {mode}, ms: {', '.join(lines)}", flush=True)

    def peaks(self) -> None:
        if not self.rounds:
            return
        for name, peer in self.peers.items():
            mode = "step" if "step" in peer.modes else "forward"
            if (name, mode) in self.failed:
                continue
            self.note(f"{name} {mode} memory")
            try:
                value = peak_mib(make_side(peer, mode, self.problem))
                self.rows.append(case_row(self.work.case, name, mode, "peak_mib", [value]))
            except Exception as error:
                self.fail(name, mode, error)


def one_line(error: Exception, reasons: Iterable[str] = ()) -> str:
    """The error's first line and why, for a cell of a table."""
    first = next(iter(str(error).splitlines()), "")
    parts = [f"{type(error).__name__}: {first}", *(INTERNALS.sub("", text) for text in reasons)]
    text = "; ".join(" ".join(part.split()) for part in parts)
    return text if len(text) <= 400 else text[:397] + "..."


def case_row(
    case: Case, name: str, mode: str, metric: str, values: Iterable[float]
) -> dict[str, Any]:
    sizes = {"batch": case.batch, "n": case.n, "d_qk": case.d_qk, "d_v": case.d_v}
    return row(case.name, name, mode, metric, values, dtype=case.dtype, **sizes)


def error_row(case: Case, name: str, mode: str, message: str) -> dict[str, Any]:
    return case_row(case, name, mode, "error", [0.0]) | {"q50": "", "q20": message, "q80": ""}


def time_rows(case: Case, name: str, mode: str, ms: list[float]) -> Iterator[dict[str, Any]]:
    """Milliseconds, and the rate of the useful arithmetic; not of blocks, which project too."""
    yield case_row(case, name, mode, "ms", ms)
    if not case.name.endswith("-block"):
        yield case_row(case, name, mode, "tflops", [case.flop(mode) / 1e9 / value for value in ms])


def matmul_row(group: str) -> dict[str, Any]:
    """M, measured in the run of a group, as a row of that group."""
    rate = matmul_rate(torch.bfloat16, "cuda", MATMUL)
    print(f"bf16 matrix rate M {rate:.0f} TFLOP/s", flush=True)
    case = Case(group, 1, MATMUL, MATMUL, MATMUL, torch.bfloat16)
    return case_row(case, "matmul", "forward", "tflops", [rate])


def results_name() -> str:
    return f"attention-{slug(environment_columns()['gpu'])}"


def read_rows(name: str, results: Path = RESULTS) -> list[dict[str, str]]:
    """The rows of results/`name`.csv, none where there is no such file."""
    path = results / f"{name}.csv"
    if not path.exists():
        return []
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def merge_rows(name: str, rows: list[dict[str, Any]], results: Path = RESULTS) -> Path:
    """Put rows into results/`name`.csv in place of those of the same cases and providers."""

    def key(line: Mapping[str, Any]) -> tuple[str, ...]:
        return tuple(str(line[column]) for column in ("op", "provider", "batch", "n", "dtype"))

    fresh = {key(line) for line in rows}
    kept = [line for line in read_rows(name, results) if key(line) not in fresh]
    return write_rows(name, [*kept, *rows], results)
