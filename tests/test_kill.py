"""Real processes, really killed: whatever is ended at whatever moment goes on to the same end."""

import collections
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from hmc_fast.training.checkpoint import load_checkpoint
from kill_worker import FAILED, save_state
from small_run import outcome, write_images

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parent.parent
WORKER = str(Path(__file__).with_name("kill_worker.py"))
KILLS, KILLS_OF_A_RUN = 30, 3
PAUSE = 0.03  # seconds in each step: time to be killed in
# the moments of the run's files that the other tests could miss; each leg of a run ends at the next
MOMENTS = [
    ("images.json", "before"), ("env.json", "after"), ("config.json", "before"),
    ("config.json", "after"), ("fold0/history.csv", "before"), ("fold0/predictions.csv", "after"),
    ("fold0/model.safetensors", "before"), ("fold0/model.safetensors", "after"),
    ("fold0/model.json", "before"), ("fold0/model.json", "after"), ("fold1/model.json", "after"),
    ("run/predictions.csv", "before"), ("metrics.json", "before"), ("roc_curves.png", "before"),
    ("report.html", "before"), ("report.html", "after"),
]  # fmt: skip
WRITING = (
    "open", "openat", "write", "fsync", "rename", "renameat", "renameat2", "unlink", "unlinkat",
    "mkdir", "mkdirat", "rmdir",
)  # fmt: skip
ORDINAL = {"openat": 20_000, "open": 20_000}  # beyond what loading torch needs
OTHERWISE = 2_000


def environment(cache):
    python_path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    ours = {"PYTHONPATH": python_path, "OMP_NUM_THREADS": "1", "HMC_FAST_CACHE": str(cache)}
    return os.environ | ours


class Runs:
    """Trainings in a folder, each a process forked from a worker that has torch loaded."""

    def __init__(self, root):
        self.root = root
        self.worker = subprocess.Popen(
            [sys.executable, WORKER, "train"], text=True, env=environment(root / "cache"),
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip

    def _ask(self, **job):
        print(json.dumps(job), file=self.worker.stdin, flush=True)
        return int(self.worker.stdout.readline())

    def start(self, out, *, resume=True, minutes=0, **job):
        """The number of a process that trains in `out`; minutes: between checkpoints."""
        words = [
            "train", "--data", "data", "--out", out, "--preset", "quick", "--epochs", "4",
            "--folds", "2", "--batch-size", "5", "--device", "cpu", "--amp", "off",
            "--deterministic", "--workers", "0", "--checkpoint-every", str(minutes),
        ]  # fmt: skip
        words += ["--resume"] if resume else []
        job = {"argv": words, "log": str(self.log), "pause": PAUSE, "pages": False} | job
        return self._ask(start=job)

    def wait(self, number):
        """Its exit code."""
        return self._ask(wait=number)

    def finish(self, out, **job):
        """Train to the end; the exit code."""
        return self.wait(self.start(out, **job))

    @property
    def log(self):
        """What the processes print."""
        return self.root / "log"

    def last_line(self):
        return self.log.read_text().splitlines()[-1]

    def close(self):
        self.worker.stdin.close()
        self.worker.stdout.close()
        self.worker.wait(60)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    root = tmp_path_factory.mktemp("runs")
    write_images(root / "data")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        runs = Runs(root)
        yield runs
        runs.close()


@pytest.fixture(scope="module")
def unbroken(runs):
    """(outcome, seconds) of a run that nobody ended; two such runs are equal."""
    seconds = []
    for number in range(2):
        started = time.monotonic()
        assert runs.finish(f"unbroken{number}", resume=False, minutes=1000) == 0
        seconds.append(time.monotonic() - started)
    outcomes = [outcome(runs.root / f"unbroken{number}") for number in range(2)]
    assert outcomes[0] == outcomes[1]
    return outcomes[0], min(seconds)


def wait_for(path):
    for _ in range(6000):
        if path.exists():
            return
        time.sleep(0.01)
    pytest.fail(f"{path} did not come")


def test_thirty_kills_at_random_moments_change_nothing(runs, unbroken):
    expected, seconds = unbroken
    rng, kills = np.random.default_rng(0), 0
    while kills < KILLS:
        out, killed = f"after{kills}", 0
        while killed < KILLS_OF_A_RUN and kill_at(runs, out, rng.uniform(0, seconds)):
            killed += 1
        assert runs.finish(out) == 0
        assert outcome(runs.root / out) == expected, f"{out}, killed {killed} times"
        kills += killed


def kill_at(runs, out, seconds):
    """Start or go on with a run and kill it; False where it was over before."""
    process = runs.start(out, resume=(runs.root / out).exists())
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and not is_over(process):
        time.sleep(0.002)
    os.kill(process, signal.SIGKILL)
    code = runs.wait(process)
    assert code in (0, -signal.SIGKILL)
    return code != 0


def is_over(process):
    """Whether a process has ended and only its exit code is left."""
    return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] == "Z"


def test_kills_around_every_file_of_one_run_change_nothing(runs, unbroken):
    """Before it began, among its results, between folds, in the report; no leg leaves debris."""
    for number, moment in enumerate(MOMENTS):
        code = runs.finish("run", resume=number > 0, kill=moment, pages=True)
        assert code == -signal.SIGKILL, moment
    assert runs.finish("run", pages=True) == 0
    found = outcome(runs.root / "run")
    figures = {name for name in found if name.startswith("figures/")}
    assert len(figures) == 5
    assert {name: value for name, value in found.items() if name not in figures} == unbroken[0]


@pytest.mark.parametrize("signals", [["SIGINT"], ["SIGTERM"], ["SIGINT", "SIGINT"]])
def test_a_signal_stops_cleanly_and_the_run_goes_on(runs, unbroken, signals):
    out = "-".join(signals)
    process = runs.start(out, resume=False, pause=0.15)
    wait_for(runs.root / out / "fold0" / "checkpoint.previous")
    for name in signals:
        os.kill(process, signal.Signals[name])
        time.sleep(0.001)
    assert runs.wait(process) == 130
    assert runs.last_line() == "hmc-fast: interrupted"
    assert not list(runs.root.glob(f"{out}/.*"))
    if len(signals) == 1:
        assert f"stopped; go on with: hmc-fast train --resume --out {out}" in runs.log.read_text()
        assert load_checkpoint(runs.root / out / "fold0" / "checkpoint")[1] == []
    assert runs.finish(out) == 0
    assert outcome(runs.root / out) == unbroken[0]


@pytest.mark.parametrize("file", [1, 2, 17, 30])
def test_a_full_disk_is_one_sentence_and_loses_nothing(runs, unbroken, file):
    """Five files a checkpoint; the disk is full in the middle of one."""
    out = f"full{file}"
    assert runs.finish(out, resume=False, full=file) == 2
    assert runs.last_line().startswith(
        f"hmc-fast: cannot write the checkpoint in {out}/fold0: No space left on device"
    )
    found, warnings = load_checkpoint(runs.root / out / "fold0" / "checkpoint")
    assert (found.state["step"] if found else 0) == (file - 1) // 5
    assert warnings == []
    assert not (runs.root / out / "fold0" / "checkpoint.new").exists()
    assert runs.finish(out) == 0
    assert outcome(runs.root / out) == unbroken[0]


def test_a_second_process_is_refused_and_the_first_goes_on(runs, unbroken):
    first = runs.start("shared", resume=False, pause=0.2)
    wait_for(runs.root / "shared" / "config.json")
    for resume in (False, True):
        assert runs.finish("shared", resume=resume) == 2
        assert runs.last_line().startswith(f"hmc-fast: shared is in use by process {first}")
    assert runs.wait(first) == 0
    assert outcome(runs.root / "shared") == unbroken[0]


def trace(folder, points, *injections):
    """Run the saves of `points` under strace; ([number, exit code] of each, strace's log)."""
    if shutil.which("strace") is None:
        pytest.skip("strace is not installed")
    (folder / "points").write_text(json.dumps(points))
    calls = ",".join(f"?{name}" for name in WRITING)
    command = ["strace", "-f", "-o", folder / "log", "-e", f"trace={calls}", *injections]
    result = subprocess.run(
        [*command, sys.executable, WORKER, "save", folder / "points"],
        capture_output=True, text=True, env=environment(folder / "cache"),
    )  # fmt: skip
    if "ptrace" in result.stderr.lower():
        pytest.skip(f"strace may not trace here: {result.stderr.splitlines()[0]}")
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout), (folder / "log").read_text()


def make_state(folder):
    """The checkpoints of steps 0 and 1, and what a killed save of step 2 left."""
    for step in range(2):
        save_state(folder, step)
    shutil.copytree(folder / "checkpoint", folder / "checkpoint.new")
    (folder / "checkpoint.new" / "manifest.json").unlink()
    return folder


def loaded_step(folder):
    """The step that is loaded; all of its parts belong together."""
    found, warnings = load_checkpoint(folder / "checkpoint")
    assert warnings == []
    for group in found.tensors.values():
        assert torch.equal(group["w"], torch.full((5,), float(found.state["step"])))
        assert group["n"] == found.state["step"]
    assert set(found.tensors) == {"model", "optimizer", "random"}
    return found.state["step"]


@pytest.fixture(scope="module")
def calls(tmp_path_factory):
    """How many calls of each kind one save makes."""
    folder = tmp_path_factory.mktemp("calls")
    make_state(folder / "fold")
    points = [{"folder": str(folder / "fold"), "syscall": "write", "before": 0}]
    ((number, code),), log = trace(folder, points)
    assert code == 0
    found = collections.Counter(re.findall(rf"^{number} +(\w+)\(", log, re.MULTILINE))
    assert set(found) <= set(WRITING)
    return found


@pytest.mark.parametrize("kind", ["signal=KILL", "error=ENOSPC", "error=EIO"])
def test_a_save_ended_at_any_call_leaves_the_old_or_the_new_checkpoint(calls, tmp_path, kind):
    """Call j of a kind is hit by making ORDINAL - j vain ones before, and injecting at ORDINAL."""
    template = make_state(tmp_path / "template")
    points, injections = [], []
    for name, count in calls.items():
        ordinal = ORDINAL.get(name, OTHERWISE)
        injections += ["-e", f"inject={name}:{kind}:when={ordinal}"]
        for j in range(1, count + 1):
            folder = shutil.copytree(template, tmp_path / f"{name}{j}")
            points.append({"folder": str(folder), "syscall": name, "before": ordinal - j})
    assert len(points) > 40
    codes, _ = trace(tmp_path, points, *injections)
    steps = []
    for point, (_, code) in zip(points, codes, strict=True):
        folder = Path(point["folder"])
        steps.append(loaded_step(folder))
        check_end(kind, point["syscall"], code, steps[-1])
        save_state(folder, 3)
        assert loaded_step(folder) == 3
        assert {p.name for p in folder.iterdir()} - {"warm"} == CHECKPOINTS
    assert set(steps) == {1, 2}


CHECKPOINTS = {"checkpoint", "checkpoint.previous"}


def check_end(kind, name, code, step):
    """A save that did not end well left one state or the other, one that did the new one."""
    if kind == "signal=KILL":
        assert code == -signal.SIGKILL, name
    elif code == FAILED:
        assert step == 1 or name in ("fsync", "openat", "open", "rename"), name
    else:
        assert (code, step) == (0, 2), name
        assert name not in ("write", "fsync", "mkdir", "mkdirat", "rename"), name
