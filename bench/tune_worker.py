"""Compiling and timing tuning candidates on the GPU, in a process that may be lost.

A plan lists jobs and their candidates. A line of JSON for each candidate that was timed, or could
not be, goes into a results file as soon as it is known.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from attention_cases import Case
from attention_gpu import attention_problem, one_line
from command_line import Parser
from gpu_timing import Broken, Side, bursts_in_turn, check_alive
from hmc_fast.kernels.attention_backward import backward_launches
from hmc_fast.kernels.attention_forward import forward_launches
from hmc_fast.kernels.configurations import Tile, dtype_name, target_of
from hmc_fast.kernels.tiles import Launch
from problem import check_near
from supervise import LOST_GPU, note_in
from tune_candidates import Job

Task = tuple[int, int]  # a job of the plan, a tile of the job
STAGES = ("compile", "search", "final")
SEARCH_ROUNDS, FINAL_ROUNDS = 5, 21
TIMED = {  # the launches of a backward pass that a kernel's tile decides
    "backward_scores": ("backward_scores", "sum_partials"),
    "backward_queries": ("backward_queries",),
    "backward_values": ("backward_values",),
    "backward_short": ("backward_short",),
}
CHECKED = {  # the gradients that these launches fill
    "backward_scores": ("dq", "dk"),
    "backward_queries": ("dq",),
    "backward_values": ("dv",),
    "backward_short": ("dq",),
}


class Plan(NamedTuple):
    """A job and its candidates."""

    job: Job
    tiles: list[Tile]


def plans_as_json(plans: Sequence[Plan]) -> str:
    found = []
    for (kernel, case), tiles in plans:
        named = case._asdict() | {"dtype": dtype_name(case.dtype)}
        found.append({"kernel": kernel, "case": named, "tiles": tiles})
    return json.dumps(found)


def plans_from_json(text: str) -> list[Plan]:
    return [
        Plan(
            Job(
                found["kernel"],
                Case(**found["case"] | {"dtype": getattr(torch, found["case"]["dtype"])}),
            ),
            [Tile(*tile) for tile in found["tiles"]],
        )
        for found in json.loads(text)
    ]


class Prepared(NamedTuple):
    """A candidate's launches: all, those to time, and what they fill."""

    launches: list[Launch]
    timed: list[Launch]
    results: dict[str, torch.Tensor]

    def run(self) -> None:
        for launch in self.timed:
            launch.run()


class Bench:
    """A job's inputs and truth. device "meta": nothing can run, only be compiled."""

    def __init__(self, job: Job, device: str = "cuda") -> None:
        self.job, self.scale = job, job.case.d_qk**-0.5
        self.target = target_of(torch.device("cuda" if device == "meta" else device))
        self.truth: dict[str, torch.Tensor] = {}
        if device == "meta":
            case, widths = job.case, (job.case.d_qk, job.case.d_qk, job.case.d_v, job.case.d_v)
            shapes = [(case.batch, case.n, width) for width in widths]
            inputs = [torch.empty(shape, dtype=case.dtype, device="meta") for shape in shapes]
            inputs.append(torch.empty(1, device="meta"))
            self.dout = torch.empty_like(inputs[3])
        else:
            problem = attention_problem(job.case, device)
            inputs, self.dout = list(problem.arguments["operator"][:5]), problem.dout
            gradients = zip(("dq", "dk", "dv"), problem.truth["step"], strict=False)
            self.truth = {"out": problem.truth["forward"][0], **dict(gradients)}
        self.inputs = [tensor.detach() for tensor in inputs]
        self.runs = device != "meta"

    def prepare(self, tile: Tile) -> Prepared:
        """The launches with this tile; only the forward pass that backward needs is started."""
        kernel, target = self.job.kernel, self.target
        if kernel.startswith("forward"):
            launches, outputs = forward_launches(
                *self.inputs, self.scale, keep=False, target=target, tile=tile
            )
            return Prepared(launches, launches, {"out": outputs.out})
        q, k, v, _, gamma = self.inputs
        before, kept = forward_launches(*self.inputs, self.scale, keep=True, target=target)
        if self.runs:
            for launch in before:
                launch.run()
        launches, gradients = backward_launches(
            self.dout, q, k, v, gamma, kept.attended, kept.lse, self.scale,
            target=target, tiles={kernel: tile},
        )  # fmt: skip
        timed = [launch for launch in launches if launch.kernel.fn.__name__ in TIMED[kernel]]
        if not timed:
            raise LookupError(f"{kernel} is not used at this size")
        return Prepared(launches, timed, {n: getattr(gradients, n) for n in CHECKED[kernel]})

    def right(self, tile: Tile) -> Prepared:
        """Run once over poisoned results and compare; ArithmeticError where one is wrong."""
        prepared = self.prepare(tile)
        for result in prepared.results.values():
            result.fill_(float("nan"))
        for launch in prepared.launches:
            launch.run()
        for name, result in prepared.results.items():
            check_near(name, result, self.truth[name], self.job.case.dtype)
        return prepared

    def compile(self, tile: Tile) -> None:
        """Into Triton's cache, without a launch."""
        for launch in self.prepare(tile).timed:
            launch.kernel.warmup(
                **launch.arguments,
                grid=(launch.programs,),
                num_warps=launch.num_warps,
                num_stages=launch.num_stages,
            )


class Worker:
    """One process of a stage. note: hears "POSITION JOB TILE" before anything that may be its end.

    deadline: by time.monotonic(); nothing new is begun after it. fatal: left out.
    """

    def __init__(
        self,
        plans: list[Plan],
        results: Path,
        note: Callable[[str], None],
        deadline: float = float("inf"),
        fatal: Collection[Task] = (),
    ) -> None:
        self.plans, self.results, self.note, self.deadline = plans, results, note, deadline
        self.fatal = fatal
        self.bench: tuple[tuple[int, str], Bench] | None = None

    def bench_of(self, number: int, device: str) -> Bench:
        """The job's, kept until another job comes."""
        if self.bench is None or self.bench[0] != (number, device):
            self.bench = None  # its memory first
            self.bench = ((number, device), Bench(self.plans[number].job, device))
        return self.bench[1]

    def in_time(self, tasks: Sequence[Task], first: int) -> Iterator[tuple[int, Task]]:
        for position, task in enumerate(tasks):
            late = time.monotonic() >= self.deadline
            if position >= first and not late and task not in self.fatal:
                self.note(f"{position} {task[0]} {task[1]}")
                yield position, task

    def say(self, stage: str, task: Task, **found: Any) -> None:
        line = {"stage": stage, "job": task[0], "tile": task[1]} | found
        with open(self.results, "a") as file:
            file.write(json.dumps(line) + "\n")

    def compile(self, tasks: Sequence[Task], first: int = 0) -> None:
        """Whatever can be compiled; why something cannot is found out by `search`."""
        for _, (number, tile) in self.in_time(tasks, first):
            try:
                self.bench_of(number, "meta").compile(self.plans[number].tiles[tile])
            except Exception as error:
                check_alive(error)

    def side(self, stage: str, task: Task, device: str) -> Side | None:
        """What is timed of a candidate; None, and why, where it gives no right result."""
        number, tile = task
        try:
            return Side(self.bench_of(number, device).right(self.plans[number].tiles[tile]).run)
        except Exception as error:
            check_alive(error)
            self.say(stage, task, error=one_line(error))
            return None

    def search(self, tasks: Sequence[Task], first: int = 0, device: str = "cuda") -> None:
        """A few bursts of each candidate alone."""
        for _, task in self.in_time(tasks, first):
            if side := self.side("search", task, device):
                self.report("search", task[0], bursts_in_turn({str(task[1]): side}, SEARCH_ROUNDS))

    def final(
        self, finalists: Sequence[tuple[int, Sequence[int]]], first: int = 0, device: str = "cuda"
    ) -> None:
        """The best of each job in turn. finalists: a job and its tiles."""
        for position, (number, tiles) in enumerate(finalists):
            if position < first:
                continue
            sides = {}
            for tile in (tile for tile in tiles if (number, tile) not in self.fatal):
                self.note(f"{position} {number} {tile}")
                if side := self.side("final", (number, tile), device):
                    sides[str(tile)] = side

            def note(tile: str, position: int = position, number: int = number) -> None:
                self.note(f"{position} {number} {tile}")

            self.report("final", number, bursts_in_turn(sides, FINAL_ROUNDS, note))

    def report(self, stage: str, job: int, times: dict[str, list[float] | Exception]) -> None:
        for tile, values in times.items():
            if isinstance(values, Exception):
                self.say(stage, (job, int(tile)), error=one_line(values))
            else:
                median = float(torch.tensor(values, dtype=torch.float64).median())
                self.say(stage, (job, int(tile)), ms=median)


def work(args: argparse.Namespace) -> int:
    """One worker of a stage, in this process."""
    plans = plans_from_json((args.directory / "plans.json").read_text())
    fatal = {tuple(task) for task in json.loads(args.fatal)}
    note = note_in(args.stem.with_suffix(".journal"))
    deadline = time.monotonic() + args.seconds if args.stage != "final" else float("inf")
    worker = Worker(plans, args.directory / "results.jsonl", note, deadline, fatal)
    tasks = json.loads(args.stem.with_suffix(".tasks").read_text())
    try:
        getattr(worker, args.stage)([tuple(task) for task in tasks], args.first)
    except Broken as error:
        print(error, file=sys.stderr)
        return LOST_GPU
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    parser = Parser(__doc__.splitlines()[0])
    add = parser.add_argument
    add("stage", choices=STAGES)
    add("--directory", type=Path, required=True, help="of plans and results")
    add("--stem", type=Path, required=True, help="of the files of tasks and journal")
    add("--first", type=int, default=0, help="number of the task to begin with")
    add("--seconds", type=float, required=True, help="nothing new is begun after them")
    add("--fatal", default="[]", help="tasks to leave out, as JSON")
    args = parser.parse_args(arguments)
    parser.need_gpu()
    return work(args)


if __name__ == "__main__":
    sys.exit(main())
