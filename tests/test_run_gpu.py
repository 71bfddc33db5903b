"""bench/run_gpu.sh with an interpreter that only plays its part, and as it is without a GPU."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent
SCRIPT = ROOT / "bench" / "run_gpu.sh"
STAND_IN = """#!/bin/sh
case "$*" in
    *is_available*) exit $NO_GPU ;;
    *"$HANGS"*) sleep 60 ;;
    *"$FAILS"*) exit 7 ;;
esac
echo "ran $*"
"""


def run(tmp_path, *, gpu, hangs="nothing", fails="nothing", **variables):
    """The script with a stand-in for python that prints its arguments."""
    stand_in = tmp_path / "python"
    stand_in.write_text(STAND_IN)
    stand_in.chmod(0o755)
    play = {"NO_GPU": "0" if gpu else "1", "HANGS": hangs, "FAILS": fails}
    given = {"PYTHON": str(stand_in), "OUT": str(tmp_path / "out")} | play | variables
    return subprocess.run(
        ["bash", str(SCRIPT)], env=os.environ | given, capture_output=True, text=True, timeout=120
    )


def ran(output):
    return [line.removeprefix("ran ") for line in output.splitlines() if line.startswith("ran ")]


def test_tests_run_before_every_comparison_and_that_before_every_timing(tmp_path):
    done = run(tmp_path, gpu=True)
    assert done.returncode == 0, done.stdout
    commands = ran(done.stdout)
    assert commands[1].startswith("-m pytest")
    assert "-m gpu" in commands[1]
    assert "tests/test_step.py" in commands[1]
    assert "bench/attention.py --quick --prepare" in commands[2]
    cases = [words.split("--case ")[1].split()[0] for words in commands if "--case" in words]
    assert cases == ["ha1", "ha2", "ca23", "ca34", "large"]
    assert "--targets" in commands[-1]
    assert done.stdout.endswith((tmp_path / "out" / "run_gpu.log").read_text())


def test_a_hang_costs_one_step_and_a_failure_none_of_the_others(tmp_path):
    done = run(tmp_path, gpu=True, hangs="--case ha2", fails="--case ca34", STEP="2")
    assert done.returncode == 1
    summary = " ".join(done.stdout.split("== steps\n")[1].split())
    assert "exit 124, stopped after 2 s attention: ha2" in summary
    assert "exit 7 attention: ca34" in summary
    names = re.search(r"BENCHMARKS=\((.*)\)", SCRIPT.read_text())[1].split()
    there = [name for name in names if (ROOT / "bench" / f"{name}.py").exists()]
    assert {"inference", "waterfall"} <= set(there)
    assert summary.count("exit 0") == 6 + len(there)  # tests, comparison, three cases, targets
    assert any("--targets" in command for command in ran(done.stdout))


def test_only_some_steps_on_demand(tmp_path):
    done = run(tmp_path, gpu=True, ONLY="^inference$|ha2")
    assert done.returncode == 0
    assert [words.split()[0] for words in ran(done.stdout)[1:]] == [
        "bench/attention.py", "bench/inference.py",
    ]  # fmt: skip


def test_steps_without_time_left_are_named(tmp_path):
    done = run(tmp_path, gpu=True, hangs="--prepare", LIMIT="3")
    assert done.returncode == 1
    assert "exit left out: no time attention: targets" in " ".join(done.stdout.split())


def test_without_a_gpu_all_else_is_tried_and_the_exit_code_is_2(tmp_path):
    done = run(tmp_path, gpu=False)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "no CUDA device here" in done.stderr
    assert "bench/tune.py --dry-run" in done.stdout
    assert "--collect-only -m gpu" in done.stdout
    assert not (tmp_path / "out").exists()


def test_without_a_gpu_a_broken_benchmark_is_an_error(tmp_path):
    done = run(tmp_path, gpu=False, fails="bench/tune.py --help")
    assert done.returncode == 1
    assert "a check that needs none failed" in done.stderr


def test_an_interpreter_without_torch_is_refused(tmp_path):
    done = run(tmp_path, gpu=True, fails="import torch")
    assert done.returncode == 2
    assert "cannot import torch" in done.stderr


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU: the script would use it")
def test_here_it_works_up_to_the_point_that_needs_a_gpu(tmp_path):
    given = {"PYTHON": sys.executable, "OUT": str(tmp_path / "out")}
    done = subprocess.run(
        ["bash", str(SCRIPT)], env=os.environ | given, capture_output=True, text=True
    )
    assert done.returncode == 2, done.stdout + done.stderr
    assert "everything up to the point that needs one works" in done.stderr
