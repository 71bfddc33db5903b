"""A tuning run as a whole: compile everything at once, search, time the best in turn, each stage in
processes that may be lost."""

import json
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from supervise import Culprit, outlive
from tune_worker import Plan, Task, plans_as_json

FINALISTS = 5  # of a job, the tile in use besides
SHARES_OF_TIME = {"compile": 0.5, "search": 0.85}  # of all, by whose end a stage stops
WORKER = Path(__file__).with_name("tune_worker.py")
Times = Mapping[int, float]  # of each tile of a job, in ms


def finalists(times: Times, most: int = FINALISTS) -> list[int]:
    """The fastest tiles of a search and the tile in use, number 0, where it could be timed."""
    fastest = sorted(times, key=lambda tile: (times[tile], tile))[:most]
    return sorted({*fastest, *({0} & set(times))})


class Search:
    """A tuning run of several processes: their common files, and what they found out."""

    def __init__(self, plans: list[Plan], directory: Path, minutes: float, patience: float) -> None:
        self.plans, self.directory, self.patience = plans, directory, patience
        self.started, self.seconds = time.monotonic(), 60 * minutes
        (directory / "plans.json").write_text(plans_as_json(plans))
        self.results = directory / "results.jsonl"
        self.results.touch()
        self.fatal: list[Task] = []  # candidates that bring a process down

    def tasks(self) -> list[Task]:
        """The nearest candidates of all jobs first: time may run out."""
        found = [(number, t) for number, plan in enumerate(self.plans) for t in range(len(plan[1]))]
        return sorted(found, key=lambda task: (task[1] // 16, task))

    def stage(self, name: str, tasks: Sequence[Any], number: int = 0) -> None:
        """Run the tasks in a worker until they are done, without those that bring it down."""
        stem = self.directory / f"{name}{number}"
        stem.with_suffix(".tasks").write_text(json.dumps(list(tasks)))
        stop = SHARES_OF_TIME.get(name, float("inf")) * self.seconds

        def command(culprits: list[Culprit]) -> list[str]:
            first = 0
            if culprits:
                position, job, tile = map(int, culprits[-1].task.split())
                self.fatal.append((job, tile))
                first = position if name == "final" else position + 1
            left = max(1.0, stop - (time.monotonic() - self.started))
            words = [sys.executable, str(WORKER), name, "--directory", str(self.directory)]
            words += ["--stem", str(stem), "--first", str(first), "--seconds", f"{left:.0f}"]
            return [*words, "--fatal", json.dumps(self.fatal)]

        outlive(command, stem.with_suffix(".journal"), self.patience)

    def compile(self, processes: int) -> None:
        tasks = self.tasks()
        with ThreadPoolExecutor(processes) as pool:
            shares = [tasks[number::processes] for number in range(processes)]
            list(pool.map(lambda n: self.stage("compile", shares[n], n), range(processes)))

    def times(self, stage: str) -> dict[int, dict[int, float]]:
        """By job, by tile, in ms."""
        found: dict[int, dict[int, float]] = {number: {} for number in range(len(self.plans))}
        for line in map(json.loads, self.results.read_text().splitlines()):
            if line["stage"] == stage and "ms" in line:
                found[line["job"]][line["tile"]] = line["ms"]
        return found

    def errors(self) -> int:
        lines = map(json.loads, self.results.read_text().splitlines())
        return sum("error" in line for line in lines) + len(self.fatal)

    def run(self, processes: int) -> dict[int, dict[int, float]]:
        """The times of every job's finalists."""
        try:
            self.compile(processes)
            self.stage("search", self.tasks())
            best = [(job, finalists(times)) for job, times in self.times("search").items() if times]
            self.stage("final", best)
        except RuntimeError as error:  # what is known by now still counts
            print(f"bench/tune.py: {error}", file=sys.stderr, flush=True)
        print(f"{self.errors()} candidates could not be used", flush=True)
        return self.times("final")
