"""The loop of a kernel that counts, and what it does: products, exponentials, spills, overlap."""

import re
from collections import Counter
from typing import NamedTuple

from sass import Code, Instruction, Loop

TENSOR_CORE = ("HMMA", "HGMMA", "UTCHMMA")
SHAPE = re.compile(r"^(H|HG)MMA\.(16|64x)(8|\d+x)(16|8|4)(?:\.|$)")
MAIN = 0.75  # of the products of the largest loop: the same tile


class Part(NamedTuple):
    """What a warp executes: instructions, of these loads of matrices (LDSM), multiply-adds."""

    instructions: int
    matrix_loads: int
    multiply_adds: float


class InnerLoop(NamedTuple):
    """products: the instruction that multiplies, HGMMA for example; number: of these; warpgroup:
    arrivals and waits of warp groups; exponentials; under, after: see `overlap`; loads, stores: to
    local memory (spills), of every such loop; tail_spills: of a smaller loop for the last rows.
    For the time model: covered, instructions issued while a product runs; once, what an iteration
    executes; inside: a turn of the loops inside it.
    """

    products: str
    number: int
    warpgroup: int
    exponentials: int
    under: int
    after: int
    loads: int
    stores: int
    tail_spills: int
    covered: int
    once: Part
    inside: Part


def inner_loop(code: Code, exponentials: bool) -> InnerLoop | None:
    """The innermost loop with products, and exponentials where the kernel has them in its loop; of
    several the one with most products. Beside exponentials, loops of fewer are for the last rows.

    Where a kernel without exponentials in its loop makes one turn only, the compiler removes the
    loop: then all instructions count, none as a spill.
    """
    families = [name for name in TENSOR_CORE if code.count()[name]] or ["FFMA"]

    def holds(count: Counter[str]) -> bool:
        return any(count[name] for name in families) and (count["EX2"] > 0 or not exponentials)

    loops = sorted(code.innermost(holds), key=lambda loop: _work(code.of(loop)))
    if not loops:
        whole = Loop(tuple(range(len(code.instructions))))
        removed = not exponentials and holds(code.count(whole))
        return _figures(code, whole, families) if removed else None
    most = _work(code.of(loops[-1])) if exponentials else 0.0
    main = [loop for loop in loops if _work(code.of(loop)) >= MAIN * most]
    counts = [code.count(loop) for loop in main]
    tails = [code.count(loop) for loop in loops if loop not in main]
    return _figures(code, loops[-1], families)._replace(
        loads=sum(count["LDL"] for count in counts),
        stores=sum(count["STL"] for count in counts),
        tail_spills=sum(count["LDL"] + count["STL"] for count in tails),
    )


def _figures(code: Code, loop: Loop, families: list[str]) -> InnerLoop:
    """Of one loop, spills left at 0."""
    count, deeper = code.count(loop), set[int]()
    for other in code.loops:
        if loop.contains(other) and any(code.count(other)[name] for name in families):
            deeper.update(other.body)
    once = Loop(tuple(index for index in loop.body if index not in deeper))
    name = max(families, key=lambda family: count[family])
    under, after, covered = overlap(code.of(loop))
    return InnerLoop(
        name, count[name], count["WARPGROUP"], count["EX2"], under, after, 0, 0, 0, covered,
        _part(code.of(once)), _part(code.of(Loop(tuple(sorted(deeper))))),
    )  # fmt: skip


def _part(instructions: list[Instruction]) -> Part:
    loads = sum(instruction.family == "LDSM" for instruction in instructions)
    return Part(len(instructions), loads, multiply_adds(instructions))


def _work(instructions: list[Instruction]) -> float:
    """To compare loops of one kernel. UTCHMMA does not show its shape; exponentials stand for its
    rows."""
    count = Counter(instruction.family for instruction in instructions)
    return multiply_adds(instructions) or float(count["UTCHMMA"] * max(count["EX2"], 1))


def multiply_adds(instructions: list[Instruction]) -> float:
    """That one warp starts on tensor cores, or by FFMA where it uses none; 0 for UTCHMMA, which
    does not show its shape."""
    total = 0.0
    for instruction in instructions:
        if found := SHAPE.match(instruction.name):
            rows, columns, depth = (int(size.rstrip("x")) for size in found.groups()[1:])
            total += rows * columns * depth / (4 if found[1] == "HG" else 1)
    families = Counter(instruction.family for instruction in instructions)
    if any(families[name] for name in TENSOR_CORE):
        return total
    return 32.0 * families["FFMA"]


def overlap(body: list[Instruction]) -> tuple[int, int, int]:
    """What of a loop is issued while a product of the warp group (HGMMA) runs: exponentials from
    the first HGMMA of a group until the wait for it, exponentials from its last, and all
    instructions from its first.

    A group ends with the HGMMA marked gsb0; WARPGROUP.DEPBAR waits until no more than the given
    number of groups are unfinished. The loop is walked twice, as a group may be awaited in the next
    iteration; the second walk counts. Exponentials of scores come after the wait for these scores,
    so in the forward pass it is the product with the values that runs.
    """
    issuing, unfinished = False, 0
    for _ in range(2):
        under = after = covered = 0
        for instruction in body:
            exponential = instruction.family == "EX2"
            if instruction.family == "HGMMA":
                issuing = "gsb0" not in instruction.text
                unfinished += not issuing
            elif instruction.name.startswith("WARPGROUP.DEPBAR"):
                unfinished = min(unfinished, int(instruction.text.split(",")[-1], 0))
            running = issuing or unfinished > 0
            covered += running
            under += exponential and running
            after += exponential and unfinished > 0
    return under, after, covered
