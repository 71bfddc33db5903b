"""The design's targets for attention beside what the rows of a GPU say.

Ratios against libraries are of the attention alone, without gamma and residual, on both sides (the
backward pass of ours has them nevertheless). M is the matrix rate of the same run.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

SDPA = ("sdpa-flash", "sdpa-efficient", "sdpa-cudnn", "sdpa-math")
Row = Mapping[str, str]


class Target(NamedTuple):
    """limit and stretch: what `value` must reach, or must not pass where `most` is set."""

    what: str
    value: Callable[["Results"], float]
    limit: float
    stretch: float | None = None
    most: bool = False


class Missing(LookupError):
    """No row for a figure; the message says why."""


class Results:
    """The rows of one GPU by what they measured, bfloat16 alone."""

    def __init__(self, rows: Iterable[Row]) -> None:
        self.values: dict[tuple[str, ...], float] = {}
        self.errors: dict[tuple[str, ...], str] = {}
        for row in rows:
            if row["dtype"] != "bfloat16":
                continue
            key = tuple(str(row[c]) for c in ("op", "provider", "mode", "batch", "n"))
            if row["metric"] == "error":
                self.errors[key[0], key[1], key[3], key[4]] = row["q20"]
            else:
                self.values[(*key, row["metric"])] = float(row["q50"])

    def get(self, op: str, provider: str, mode: str, batch: int, metric: str, n: int = 0) -> float:
        tokens = str(n or TOKENS[op.removesuffix("-block")])
        key = (op, provider, mode, str(batch), tokens, metric)
        if key not in self.values:
            reason = self.errors.get((op, provider, str(batch), tokens), "not measured")
            raise Missing(f"{provider}: {reason}")
        return self.values[key]

    def ms(self, op: str, provider: str, mode: str, batch: int) -> float:
        return self.get(op, provider, mode, batch, "ms")

    def share(self, op: str, provider: str, mode: str, batch: int = 32) -> float:
        """Of M, the rate of the useful arithmetic."""
        matmul = self.get(op, "matmul", "forward", 1, "tflops", MATMUL)
        return self.get(op, provider, mode, batch, "tflops") / matmul

    def best_sdpa(self, op: str, mode: str, batch: int) -> float:
        found = []
        for name in SDPA:
            try:
                found.append(self.ms(op, name, mode, batch))
            except Missing:
                continue
        if not found:
            raise Missing("no SDPA backend was timed")
        return min(found)


TOKENS = {"ha1": 3136, "ha2": 784, "ca23": 196, "ca34": 49}
MATMUL = 8192
BYTES = 2  # of bfloat16
SIZES = {"ha1": (32, 256), "ha2": (64, 512), "ca23": (128, 1024), "ca34": (256, 2048)}


def memory(op: str, batch: int = 32, n: int = 0) -> Callable[[Results], float]:
    """Peak of a step beyond its inputs over what the design allows without its 10 %: results,
    gradients, A and lse, inputs counted on both sides."""
    d_qk, d_v = SIZES[op]
    tokens = batch * (n or TOKENS[op])
    inputs = BYTES * tokens * (2 * d_qk + 3 * d_v)  # q, k; v, x, dout
    results = BYTES * tokens * (2 * d_qk + 2 * d_v)  # dq, dk; out, dv; dx is dout
    kept = BYTES * tokens * d_v + 4 * tokens  # A and lse

    def value(results_of: Results) -> float:
        peak = results_of.get(op, "triton", "step", batch, "peak_mib", n) * 2**20
        return (inputs + peak) / (inputs + results + kept)

    return value


def share(op: str, mode: str, provider: str = "triton") -> Callable[[Results], float]:
    return lambda results: results.share(op, provider, mode)


def over_sdpa(op: str, mode: str, ours: str, batch: int = 32) -> Callable[[Results], float]:
    return lambda r: r.best_sdpa(op, mode, batch) / r.ms(op, "triton", ours, batch)


def over_fa3(results: Results) -> float:
    fa3 = results.ms("ha1", "fa3", "attention", 32)
    return fa3 / results.ms("ha1", "triton", "attention", 32)


def over(op: str, peer: str, batch: int) -> Callable[[Results], float]:
    """A whole block in a CUDA graph, the faster of our two forms."""

    def value(results: Results) -> float:
        forms = []
        for name in ("triton", "triton-reassociated"):
            try:
                forms.append(results.ms(op, name, "forward_graph", batch))
            except Missing:
                continue
        if not forms:
            raise Missing("neither of our forms was timed")
        return results.ms(op, peer, "forward_graph", batch) / min(forms)

    return value


def _main_targets(op: str, limits: tuple[tuple[float, float | None], ...]) -> list[Target]:
    forward, backward, forward_ratio, backward_ratio = limits
    name = op.upper()
    bare = "attention_backward"
    return [
        Target(f"{name} forward, share of M", share(op, "forward"), *forward),
        Target(f"{name} backward, share of M", share(op, "backward"), *backward),
        Target(f"{name} forward, x SDPA", over_sdpa(op, "attention", "attention"), *forward_ratio),
        Target(f"{name} backward, x SDPA", over_sdpa(op, bare, "backward"), *backward_ratio),
    ]


TARGETS = [
    *_main_targets("ha1", ((0.60, 0.70), (0.45, 0.55), (4, None), (3, 4))),
    Target(
        "HA1 backward with atomics, share of M",
        share("ha1", "backward", "triton-atomics"),
        0.50,
        0.60,
    ),
    Target("HA1 forward, x FlashAttention-3", over_fa3, 0.9, 1.0),
    *_main_targets("ha2", ((0.45, 0.55), (0.36, 0.45), (3, None), (3, None))),
    Target(
        "HA1 forward, batch 1, graphs, x SDPA",
        over_sdpa("ha1", "attention_graph", "attention_graph", 1),
        3,
    ),
    Target(
        "HA2 forward, batch 1, graphs, x SDPA",
        over_sdpa("ha2", "attention_graph", "attention_graph", 1),
        1.2,
    ),
    *(
        Target(f"{op.upper()} block, batch {batch}, graphs, x {name}", value, limit, stretch)
        for op in ("ca23", "ca34")
        for batch in (1, 8, 32)
        for name, value, limit, stretch in (
            ("eager", over(f"{op}-block", "reference", batch), 1.5, 2.0),
            ("torch.compile", over(f"{op}-block", "reference-compiled", batch), 1.2, None),
        )
    ),
    Target("HA1 step, memory, x tensors + A + LSE", memory("ha1"), 1.1, most=True),
    Target("HA2 step, memory, x tensors + A + LSE", memory("ha2"), 1.1, most=True),
    Target("HA1 step at 65 536 tokens, memory", memory("ha1", 1, 65536), 1.1, most=True),
]


def reaches(value: float, limit: float, most: bool) -> bool:
    """Whether a result is as good as a limit, which is its highest value where `most` is set."""
    return value <= limit if most else value >= limit


def table(rows: Iterable[Row], targets: Iterable[Target] = TARGETS) -> list[str]:
    """A line for each target, and how many are met, missed and not measured."""
    results, lines, counts = Results(rows), [], {"met": 0, "missed": 0, "not measured": 0}
    for target in targets:
        sign = "<=" if target.most else ">="
        stretch = "" if target.stretch is None else f"{target.stretch:g}"
        head = f"{target.what:42} {sign} {target.limit:<5g} {stretch:>5}"
        try:
            value = target.value(results)
        except Missing as missing:
            counts["not measured"] += 1
            lines.append(f"{head} {'-':>7}  not measured ({missing})")
            continue
        word = "met" if reaches(value, target.limit, target.most) else "missed"
        counts[word] += 1
        beyond = target.stretch is not None and reaches(value, target.stretch, target.most)
        lines.append(f"{head} {value:7.2f}  {'met, stretch too' if beyond else word}")
    heading = f"{'target':42}    limit stretch   value"
    summary = ", ".join(f"{count} {word}" for word, count in counts.items())
    return [heading, *lines, f"targets: {summary}"]
