"""Reads the machine code of a GPU kernel (SASS, as `nvdisasm -c` prints it): loops and counts.

A loop is a natural loop: what runs from a header until a jump back to it. Barriers put their
retries after the function, from where they jump back into the loop; by addresses alone they would
fake loops that span the whole function.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterator
from functools import cached_property
from itertools import pairwise
from typing import NamedTuple

LABEL = re.compile(r"^(\.L_\w+|\.text\.\w+):")
LINE = re.compile(r"^\s*/\*[0-9a-f]{4,}\*/\s+(?P<text>.*?)\s*;?\s*$")
PREDICATE = re.compile(r"^@!?U?P\w+\s+")
TARGET = re.compile(r"`\((\.L_\w+)\)")
JUMPS = ("BRA", "JMP", "CALL")
ENDS = ("EXIT", "RET", "BRX", "JMP", "KILL")


class Instruction(NamedTuple):
    """One line: `always` where no predicate can skip it, `target` the label that it jumps to."""

    name: str  # HGMMA.64x256x16.F32.BF16
    text: str
    always: bool
    target: str | None

    @property
    def family(self) -> str:
        """HGMMA of HGMMA.64x256x16.F32.BF16; EX2 for the exponential, which is a kind of MUFU."""
        return "EX2" if self.name.startswith("MUFU.EX2") else self.name.partition(".")[0]


def parse_instruction(text: str) -> Instruction:
    """From a line without its address and semicolon. A call of a label inside the kernel is how
    ptxas leaves large loops; called functions have names."""
    bare = PREDICATE.sub("", text)
    name = bare.split()[0]
    found = TARGET.search(bare) if name.startswith(JUMPS) else None
    operands = bare[len(name) :].strip()
    plain = operands.startswith("`") or not found  # BRA.U !UP0, `(...) has its condition here
    always = text == bare and plain and not name.startswith("CALL")
    return Instruction(name, bare, always, found[1] if found else None)


class Loop(NamedTuple):
    """The indices of a loop's instructions, in the order of their addresses."""

    body: tuple[int, ...]

    def contains(self, other: "Loop") -> bool:
        return self != other and set(self.body) > set(other.body)


class Code:
    """The instructions of one kernel and its loops."""

    def __init__(self, text: str) -> None:
        self.instructions: list[Instruction] = []
        self.labels: dict[str, int] = {}
        for line in text.splitlines():
            if label := LABEL.match(line.strip()):
                self.labels[label[1]] = len(self.instructions)
            elif found := LINE.match(line):
                self.instructions.append(parse_instruction(found["text"]))

    def count(self, loop: Loop | None = None) -> Counter[str]:
        """How often each family of instructions stands in the loop, or in all."""
        chosen = self.instructions if loop is None else self.of(loop)
        return Counter(instruction.family for instruction in chosen)

    def of(self, loop: Loop) -> list[Instruction]:
        return [self.instructions[index] for index in loop.body]

    @cached_property
    def blocks(self) -> list[range]:
        """Runs of instructions that are entered at the top and left at the bottom only."""
        starts = {0, *self.labels.values()}
        for index, instruction in enumerate(self.instructions):
            if instruction.target is not None or instruction.name.startswith(ENDS):
                starts.add(index + 1)
        edges = sorted(starts | {len(self.instructions)})
        return [range(a, b) for a, b in pairwise(edges)]

    @cached_property
    def successors(self) -> list[list[int]]:
        """For each block, the blocks that may follow."""
        at = {block.start: number for number, block in enumerate(self.blocks)}
        found: list[list[int]] = []
        for number, block in enumerate(self.blocks):
            last = self.instructions[block[-1]]
            after = [at[self.labels[last.target]]] if last.target in self.labels else []
            stops = last.always and (last.target is not None or last.name.startswith(ENDS))
            if not stops and number + 1 < len(self.blocks):
                after.append(number + 1)
            found.append(after)
        return found

    @cached_property
    def loops(self) -> list[Loop]:
        """All natural loops, one for each header."""
        before = dominators(self.successors)
        bodies: dict[int, set[int]] = {}
        for block in before:
            for header in self.successors[block]:
                if header in before[block]:
                    body = body_of(header, block, self.successors, set(before))
                    bodies.setdefault(header, set()).update(body)
        return [
            Loop(tuple(index for block in sorted(body) for index in self.blocks[block]))
            for body in bodies.values()
        ]

    def innermost(self, holds: Callable[[Counter[str]], bool]) -> list[Loop]:
        """The loops for whose counts `holds` is true, and for no smaller loop in them."""
        holding = [loop for loop in self.loops if holds(self.count(loop))]
        return [loop for loop in holding if not any(loop.contains(other) for other in holding)]


def dominators(successors: list[list[int]]) -> dict[int, set[int]]:
    """For each block that block 0 reaches, the blocks that every way to it passes, itself too."""
    order = list(reachable(successors))
    dominating = {block: set(order) for block in order} | {0: {0}}
    changed = True
    while changed:
        changed = False
        for block in order[1:]:
            ways = [dominating[p] for p in order if block in successors[p]]
            common = set.intersection(*ways) | {block}
            changed |= common != dominating[block]
            dominating[block] = common
    return dominating


def reachable(successors: list[list[int]]) -> Iterator[int]:
    """Blocks in the order of a walk from block 0."""
    seen, waiting = {0}, [0]
    while waiting:
        block = waiting.pop(0)
        yield block
        new = [after for after in successors[block] if after not in seen]
        seen.update(new)
        waiting.extend(new)


def body_of(header: int, end: int, successors: list[list[int]], known: set[int]) -> set[int]:
    """The blocks from which `end`, which jumps back to `header`, is reached without `header`."""
    body, waiting = {header, end}, [end] if end != header else []
    while waiting:
        block = waiting.pop()
        new = {p for p in known if block in successors[p]} - body
        body |= new
        waiting.extend(new)
    return body
