"""Processes for the kill tests to kill.

`kill_worker.py train` reads jobs from stdin, a JSON object a line, and forks a process for each, so
that torch is loaded once: {"start": JOB} is answered by the process's number, {"wait": NUMBER} by
its exit code (minus the signal that killed it). `kill_worker.py save POINTS` saves a checkpoint for
each of POINTS, in a process of its own too, and prints [number, exit code] of each.
"""

import errno
import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import matplotlib.backends.backend_agg
import matplotlib.figure  # noqa: F401  loaded before the fork
import sklearn.model_selection  # noqa: F401
import torch

from hmc_fast.cli import main
from hmc_fast.files import write_text
from hmc_fast.training import checkpoint, loop, results
from hmc_fast.training.step import Trainer
from small_run import TinyNet

LONGEST = 900  # seconds; a process that hangs is ended
FAILED = 3  # exit code of a save that raised OSError
NO_FILE = 10**6  # a descriptor that is not open


def run_training(job: dict) -> int:
    """`hmc-fast ARGV` with TinyNet in place of the network, and without waiting for the disk: what
    a process wrote outlives it.

    job: argv; log: file for its output; and where given, pause: seconds after each step; pages:
    whether to draw figures and the report; kill: [name, "before" | "after"], when a file of this
    name is put in place; full: the number of the checkpoint file for which the disk has no room.
    """
    log = os.open(job["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.fsync = lambda descriptor: None
    loop.create_model = lambda *args, **kwargs: TinyNet()
    if not job.get("pages", True):
        results.run_figures = lambda page: {}
        results.write_report = lambda path, page, drawn: write_text(path, "")
    if "pause" in job:
        _after(Trainer, "step", lambda *args: time.sleep(job["pause"]))
    if "kill" in job:
        _kill_at(*job["kill"])
    if "full" in job:
        _fill_disk_at(job["full"])
    return main(job["argv"])


def _after(owner: object, name: str, then: Callable[..., None]) -> None:
    function = getattr(owner, name)

    def both(*args):
        result = function(*args)
        then(*args)
        return result

    setattr(owner, name, both)


def _kill_at(name: str, moment: str) -> None:
    replace = os.replace

    def replace_or_die(source, target):
        hit = str(target).endswith(name)
        if hit and moment == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        replace(source, target)
        if hit:
            os.kill(os.getpid(), signal.SIGKILL)

    os.replace = replace_or_die


def _fill_disk_at(number: int) -> None:
    write, calls = checkpoint.write_synced, []

    def write_or_fail(path, data):
        calls.append(path)
        if len(calls) >= number:
            write(path, data[: len(data) // 2])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        write(path, data)

    checkpoint.write_synced = write_or_fail


def save_state(folder: Path, step: int) -> None:
    """A checkpoint whose every value is `step`."""
    values = {"w": torch.full((5,), float(step)), "n": torch.tensor(step)}
    tensors = {"model": values, "optimizer": values, "random": values}
    checkpoint.save_checkpoint(folder / "checkpoint", tensors, {"step": step})


def save_at(point: dict) -> int:
    """Save step 2 in point["folder"], after point["before"] vain calls of point["syscall"]."""
    vain = VAIN_CALLS[point["syscall"]]
    for _ in range(point["before"]):
        try:
            vain()
        except OSError:
            continue
    try:
        save_state(Path(point["folder"]), 2)
    except OSError:
        return FAILED
    return 0


VAIN_CALLS: dict[str, Callable[[], object]] = {
    "open": lambda: os.open("", os.O_RDONLY),
    "write": lambda: os.write(NO_FILE, b""),
    "fsync": lambda: os.fsync(NO_FILE),
    "rename": lambda: os.rename("", ""),
    "mkdir": lambda: os.mkdir(""),
    "unlink": lambda: os.unlink(""),
    "rmdir": lambda: os.rmdir(""),
    "unlinkat": lambda: os.unlink("", dir_fd=NO_FILE),
}
VAIN_CALLS |= {"openat": VAIN_CALLS["open"], "mkdirat": VAIN_CALLS["mkdir"]}
VAIN_CALLS |= {name: VAIN_CALLS["rename"] for name in ("renameat", "renameat2")}


def fork(function: Callable[[dict], int], argument: dict) -> int:
    """Number of a new process that ends with the result of function(argument)."""
    number = os.fork()
    if number:
        return number
    code = 1
    try:
        signal.alarm(LONGEST)
        code = function(argument)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def exit_code(number: int) -> int:
    """How a forked process ended, as subprocess says it."""
    return os.waitstatus_to_exitcode(os.waitpid(number, 0)[1])


def serve() -> None:
    """Answer the jobs on stdin until it is closed."""
    for line in sys.stdin:
        job = json.loads(line)
        answer = fork(run_training, job["start"]) if "start" in job else exit_code(job["wait"])
        print(answer, flush=True)


def save_all(points: list[dict]) -> None:
    """Save at each point; the first save, of no point, loads what is loaded late."""
    save_state(Path(points[0]["folder"]) / "warm", 0)
    numbers = []
    for point in points:
        number = fork(save_at, point)
        numbers.append([number, exit_code(number)])
    print(json.dumps(numbers))


if __name__ == "__main__":
    if sys.argv[1] == "train":
        serve()
    else:
        save_all(json.loads(Path(sys.argv[2]).read_text()))
