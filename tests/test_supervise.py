"""bench/supervise.py: workers that crash, hang or are wrong themselves."""

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.append(str(ROOT / "bench"))

from supervise import LOST_GPU, Culprit, note_in, outlive  # noqa: E402

WORKER = """
import os, signal, sys, time
journal, out, skip = sys.argv[1], sys.argv[2], sys.argv[3:]
for task in ("one", "two", "three"):
    if task in skip:
        continue
    with open(journal, "a") as file:
        file.write(task + chr(10))
    if task == "two":
        {ends}
    with open(out, "a") as file:
        file.write(task + chr(10))
"""


def supervised(tmp_path, ends, patience=20.0):
    """The culprits, and what the workers got done."""
    journal, out = tmp_path / "journal", tmp_path / "out"
    program = WORKER.format(ends=ends)

    def command(culprits):
        skip = [culprit.task for culprit in culprits]
        return [sys.executable, "-c", program, str(journal), str(out), *skip]

    return outlive(command, journal, patience), out.read_text().split()


def test_a_worker_that_ends_well_runs_once(tmp_path):
    assert supervised(tmp_path, "pass") == ([], ["one", "two", "three"])


@pytest.mark.parametrize(
    ("ends", "reason"),
    [
        ("os.kill(os.getpid(), signal.SIGABRT)", "died of signal 6"),
        (f"sys.exit({LOST_GPU})", "lost its GPU"),
    ],
)
def test_what_brings_a_worker_down_is_left_out_by_the_next(tmp_path, ends, reason):
    culprits, done = supervised(tmp_path, ends)
    assert culprits == [Culprit("two", reason)]
    assert done == ["one", "one", "three"]


def test_a_silent_worker_is_stopped(tmp_path):
    culprits, done = supervised(tmp_path, "time.sleep(60)", patience=1.0)
    assert culprits == [Culprit("two", "was silent for 1 s")]
    assert done[-1] == "three"


def test_a_worker_with_an_error_of_its_own_is_not_run_again(tmp_path):
    with pytest.raises(RuntimeError, match="exit code 1"):
        supervised(tmp_path, "raise ValueError")


def test_a_worker_that_does_not_leave_out_what_it_is_told_to_is_given_up(tmp_path):
    journal = tmp_path / "journal"
    program = WORKER.format(ends="os.kill(os.getpid(), signal.SIGKILL)")
    command = [sys.executable, "-c", program, str(journal), str(tmp_path / "out")]
    with pytest.raises(RuntimeError, match="died of signal 9 at two"):
        outlive(lambda culprits: command, journal, 20.0)


def test_without_a_journal_a_note_goes_nowhere(tmp_path):
    note_in(None)("task")
    note_in(tmp_path / "journal")("task")
    assert (tmp_path / "journal").read_text() == "task\n"
