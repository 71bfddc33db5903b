"""A worker process that may crash or hang, run again without what brought it down.

A GPU that meets an illegal access is lost to the whole process, and some compiler errors abort it.
So the worker writes into a journal what it is about to try, a line each; when it dies, or writes
nothing for too long, the last line names the culprit, and the next worker is told to leave it out.
"""

import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

POLL_SECONDS = 0.2
LOST_GPU = 3  # the exit code of a worker whose GPU does not answer any more


class Culprit(NamedTuple):
    """What a worker was trying when it ended, and how it ended."""

    task: str
    reason: str


def outlive(
    command: Callable[[list[Culprit]], Sequence[str]], journal: Path, patience: float
) -> list[Culprit]:
    """Run `command(culprits so far)` until it ends with exit code 0; who was left out and why.

    patience: seconds without a line in the journal until the worker counts as hanging.
    Raises RuntimeError where a worker ends by its own fault: before it tried anything, at the same
    task twice, or with an exit code other than LOST_GPU.
    """
    culprits: list[Culprit] = []
    while True:
        journal.write_text("")
        reason = _run(list(command(culprits)), journal, patience)
        if reason is None:
            return culprits
        tried = journal.read_text().splitlines()
        if not tried or tried[-1] in [culprit.task for culprit in culprits]:
            raise RuntimeError(f"the worker {reason}" + (f" at {tried[-1]}" if tried else ""))
        culprits.append(Culprit(tried[-1], reason))
        print(f"{tried[-1]}: the worker {reason}; going on without it", flush=True)


def _run(command: list[str], journal: Path, patience: float) -> str | None:
    """How a worker was brought down, None where it was not."""
    process = subprocess.Popen(command)
    seen, since = -1, time.monotonic()
    try:
        while process.poll() is None:
            size = journal.stat().st_size
            if size != seen:
                seen, since = size, time.monotonic()
            if time.monotonic() - since > patience:
                process.kill()
                process.wait()
                return f"was silent for {patience:g} s"
            time.sleep(POLL_SECONDS)
    finally:
        if process.poll() is None:  # this process is being stopped
            process.kill()
            process.wait()
    code = process.returncode
    if code not in (0, LOST_GPU) and code > 0:
        raise RuntimeError(f"the worker ended with exit code {code}")
    if code == LOST_GPU:
        return "lost its GPU"
    return f"died of signal {-code}" if code else None


def note_in(journal: Path | None) -> Callable[[str], None]:
    """A function that appends a line to the journal, if there is one."""

    def note(task: str) -> None:
        if journal:
            with open(journal, "a") as file:
                file.write(f"{task}\n")

    return note
