"""How long should a kernel take? A model from its machine code, for GPUs that are not at hand.

Nothing here is measured. An iteration of the inner loop takes, in clocks of a multiprocessor:

    tensor    its products at the datasheet's rate times what a GPU sustains
    issue     its instructions, four warps at a time
    mufu      its exponentials, 16 a clock
    ldsm      its matrix loads from shared memory, 4 clocks each

Several programs on a multiprocessor, or warps that do not wait for each other (mma.sync), hide the
shorter behind the longest: longest + 12 % of the rest. One program of warp groups alone goes in
lockstep: tensor + 0.75 of the instructions that no product covers + 200. Then rounds of programs
over the multiprocessors, not less than the L2 cache and the memory need, and a launch. Expect
±25 %.
"""

from collections.abc import Callable
from math import ceil
from typing import Any, NamedTuple

import torch

from inner_loop import InnerLoop

REGISTERS, THREADS = 65536, 1536  # of a multiprocessor; 2048 threads on some
REST, EXPOSED, LOCKSTEP, LAUNCH = 0.12, 0.75, 200, 2.5e-6
WARP_GROUP = ("HGMMA", "UTCHMMA")


class Card(NamedTuple):
    """A GPU. clock: GHz; tensor: 16-bit FLOP a clock of a multiprocessor, summed in float32;
    sustained: the part of it that large products reach; lanes: of FFMA; shared_memory: of a
    multiprocessor, bytes; l2, memory: TB/s."""

    name: str
    processors: int
    clock: float
    tensor: int
    sustained: float
    lanes: int
    shared_memory: int
    l2: float
    memory: float


# L2: 5.5 (H200) and 1.5 TB/s (A4000) are assumptions, 20 bytes a clock of a multiprocessor; the
# others follow from that.
CARDS = {
    80: Card("A100", 108, 1.41, 2048, 0.88, 64, 167936, 3.0, 1.9),
    86: Card("RTX A4000", 48, 1.56, 1024, 0.90, 128, 102400, 1.5, 0.45),
    89: Card("RTX 4090", 128, 2.52, 512, 0.95, 128, 102400, 6.5, 1.0),
    90: Card("H200", 132, 1.83, 4096, 0.80, 128, 233472, 5.5, 4.3),
    100: Card("B200", 148, 1.85, 8192, 0.80, 128, 233472, 5.5, 7.2),
    120: Card("RTX 5090", 170, 2.41, 512, 0.95, 128, 102400, 8.2, 1.7),
}


class Work(NamedTuple):
    """What one program does. iterations of the inner loop; flop of each; once: flop outside it;
    streamed: bytes that an iteration reads. useful: FLOP of the result for each pair of a query and
    a key, of all programs."""

    iterations: int
    flop: int
    once: int
    streamed: int
    useful: int


class Estimate(NamedTuple):
    """seconds of a launch; share: useful FLOP a second over the card's dense peak."""

    seconds: float
    share: float


def estimate(
    launch: Any, loop: InnerLoop | None, registers: int, shared: int, card: Card
) -> Estimate:
    """The time of a `Launch` on `card`, compiled to `registers` a thread and `shared` bytes."""
    arguments, warps = launch.arguments, launch.num_warps
    floor = bytes_of(arguments) / (card.memory * 1e12)
    if loop is None or launch.kernel.__name__ not in WORK:
        return Estimate(floor + LAUNCH, 0.0)
    work = WORK[launch.kernel.__name__](arguments)
    half = arguments["q_ptr"].element_size() == 2
    peak = card.tensor if half else 2 * card.lanes
    rate = peak * (card.sustained if half else 1.0)
    programs = equal_programs(launch)
    rounds = ceil(programs / card.processors)
    together = min(rounds, programs_together(registers, shared, warps, card))
    turns = turns_inside(loop, work.flop / 2 / warps)
    clocks = work.iterations * clocks_of(work.flop / rate, loop, turns, warps, together)
    seconds = rounds * (clocks + work.once / rate) / (card.clock * 1e9)
    l2 = programs * work.iterations * work.streamed / (card.l2 * 1e12)
    seconds = max(seconds, l2, floor) + LAUNCH
    pairs = arguments["q_ptr"].shape[0] * arguments["tokens_q"] * arguments["tokens_k"]
    return Estimate(
        seconds, pairs * work.useful / seconds / (peak * card.processors * card.clock * 1e9)
    )


def turns_inside(loop: InnerLoop, multiply_adds: float) -> float:
    """How often a loop inside the loop turns, from a warp's multiply-adds of an iteration."""
    inside = loop.inside.multiply_adds
    return max(1.0, (multiply_adds - loop.once.multiply_adds) / inside) if inside else 1.0


def clocks_of(tensor: float, loop: InnerLoop, turns: float, warps: int, together: int) -> float:
    """Clocks of one iteration of one program, of which a multiprocessor runs `together`."""
    instructions = loop.once.instructions + turns * loop.inside.instructions
    matrix_loads = loop.once.matrix_loads + turns * loop.inside.matrix_loads
    if loop.products in WARP_GROUP and together == 1:
        return tensor + EXPOSED * (instructions - loop.covered) * warps / 4 + LOCKSTEP
    parts = (
        tensor, instructions * warps / 4, loop.exponentials * warps * 32 / 16,
        matrix_loads * warps * 4,
    )  # fmt: skip
    return max(parts) + REST * (sum(parts) - max(parts))


def programs_together(registers: int, shared: int, warps: int, card: Card) -> int:
    """How many programs a multiprocessor holds; registers go to a warp by 256."""
    of_warp = ceil(registers * 32 / 256) * 256
    limits = (REGISTERS // (of_warp * warps), card.shared_memory // (shared + 1024))
    return max(1, min(*limits, THREADS // (32 * warps)))


def equal_programs(launch: Any) -> float:
    """Programs, where one with a tail tile counts by its rows."""
    a, tail = launch.arguments, launch.arguments.get("TAIL_M", 0)
    if not tail:
        return launch.programs
    row_blocks = ceil(a["tokens_q"] / a["BLOCK_M"])
    return launch.programs * (1 - (1 - tail / a["BLOCK_M"]) / row_blocks)


def bytes_of(arguments: dict[str, Any]) -> int:
    """Of all tensors that a launch takes, each once."""
    tensors = {id(a): a for a in arguments.values() if isinstance(a, torch.Tensor)}
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())


def _forward_stream(a: dict[str, Any]) -> Work:
    iterations = ceil(min(a["keys_per_split"], a["tokens_k"]) / a["BLOCK_N"])
    width = a["BLOCK_DK"] + a["BLOCK_DV"]
    useful = 2 * (a["D_QK"] + a["D_V"])
    return Work(iterations, _tile(a) * width, 0, _item(a) * a["BLOCK_N"] * width, useful)


def _forward_short(a: dict[str, Any]) -> Work:
    iterations = min(a["GROUP"], ceil(a["D_V"] / a["BLOCK_DV"]))
    streamed = _item(a) * a["BLOCK_N"] * a["BLOCK_DV"]
    flop, once = _tile(a) * a["BLOCK_DV"], _tile(a) * a["BLOCK_DK"]
    return Work(iterations, flop, once, streamed, 2 * (a["D_QK"] + a["D_V"]))


def _backward_values(a: dict[str, Any]) -> Work:
    width = a["BLOCK_DK"] + a["BLOCK_DV"]
    iterations, streamed = ceil(a["tokens_q"] / a["BLOCK_M"]), _item(a) * a["BLOCK_M"] * width
    return Work(iterations, _tile(a) * width, 0, streamed, 2 * a["D_V"])


def _backward_scores(a: dict[str, Any]) -> Work:
    """S, dP, dK and, unless another kernel makes it, dQ, which is read and written as float32."""
    own, width = a["DQ"] != "none", a["BLOCK_DK"] + _columns(a)
    iterations = a["blocks_per_run"] * ceil(a["tokens_q"] / a["BLOCK_M"])
    streamed = a["BLOCK_M"] * (_item(a) * width + 8 * a["BLOCK_DK"] * own)
    flop = _tile(a) * ((2 + own) * a["BLOCK_DK"] + _columns(a))
    return Work(iterations, flop, 0, streamed, 2 * ((2 + own) * a["D_QK"] + a["D_V"]))


def _backward_queries(a: dict[str, Any]) -> Work:
    streamed = _item(a) * a["BLOCK_N"] * (a["BLOCK_DK"] + _columns(a))
    flop = _tile(a) * (2 * a["BLOCK_DK"] + _columns(a))
    return Work(ceil(a["tokens_k"] / a["BLOCK_N"]), flop, 0, streamed, 2 * a["D_QK"])


def _backward_short(a: dict[str, Any]) -> Work:
    streamed = _item(a) * (a["BLOCK_M"] + a["BLOCK_N"]) * a["BLOCK_DV"]
    flop, once = _tile(a) * a["BLOCK_DV"], 2 * _tile(a) * a["BLOCK_DK"]
    useful = 2 * (2 * a["D_QK"] + a["D_V"])
    return Work(ceil(a["D_V"] / a["BLOCK_DV"]), flop, once, streamed, useful)


def _tile(a: dict[str, Any]) -> int:
    """FLOP of a tile's product for each column."""
    return 2 * a["BLOCK_M"] * a["BLOCK_N"]


def _columns(a: dict[str, Any]) -> int:
    """Of all value blocks, which backward sums over."""
    return ceil(a["D_V"] / a["BLOCK_DV"]) * a["BLOCK_DV"]


def _item(a: dict[str, Any]) -> int:
    return a["q_ptr"].element_size()


WORK: dict[str, Callable[[dict[str, Any]], Work]] = {
    "forward_stream": _forward_stream,
    "forward_short": _forward_short,
    "backward_values": _backward_values,
    "backward_scores": _backward_scores,
    "backward_queries": _backward_queries,
    "backward_short": _backward_short,
}
