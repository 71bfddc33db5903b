"""bench/gpu_timing.py with a clock of its own: budgets, turns, and sides that fail."""

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.append(str(ROOT / "bench"))

import gpu_timing  # noqa: E402
from gpu_timing import Side, bursts_in_turn, plan, slug  # noqa: E402


@pytest.mark.parametrize(
    ("estimate", "calls", "rounds"),
    [
        (0.01, 50, 11),  # a burst of 0.5 ms: the most calls
        (0.5, 4, 11),  # a burst of 2 ms
        (3.0, 1, 11),
        (30.0, 1, 4),  # 120 ms for all bursts
        (5000.0, 1, 3),  # the least
    ],
)
def test_bursts_fit_the_budget(estimate, calls, rounds):
    assert plan(estimate, 11) == (calls, rounds)


def timed(ms, log, rounds=4):
    """Sides by name whose calls take so many ms; an exception instead is raised."""

    def side(name):
        def call():
            log.append(name)
            if isinstance(ms[name], Exception):
                raise ms[name]

        return Side(call)

    def timer(call, calls):
        call()
        return ms[log[-1]]

    return bursts_in_turn({name: side(name) for name in ms}, rounds, timer=timer)


def test_sides_run_in_turn_and_the_order_turns_round():
    log = []
    times = timed({"a": 1.0, "b": 2.0}, log)
    assert times == {"a": [1.0] * 4, "b": [2.0] * 4}
    assert "".join(log[4:]) == "ab" + "ba" + "ab" + "ba"


def test_a_slow_side_has_fewer_rounds():
    times = timed({"fast": 1.0, "slow": 50.0}, [], rounds=9)
    assert len(times["fast"]) == 9
    assert len(times["slow"]) == 3


def test_a_side_that_raises_stops_no_other():
    error = RuntimeError("out of resource: shared memory")
    times = timed({"a": 1.0, "broken": error}, log := [])
    assert times == {"a": [1.0] * 4, "broken": error}
    assert log.count("broken") == 1


def test_a_lost_gpu_is_no_failure_of_one_side(monkeypatch):
    def lost():
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(gpu_timing.torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(gpu_timing.torch.cuda, "synchronize", lost)
    with pytest.raises(gpu_timing.Broken, match="illegal memory access"):
        timed({"a": ValueError("anything")}, [])


def test_the_context_of_a_side_holds_while_it_is_called():
    held, seen = [], []

    class Context:
        def __enter__(self):
            held.append(1)

        def __exit__(self, *error):
            held.pop()

    side = Side(lambda: seen.append(len(held)), Context)
    bursts_in_turn({"a": side}, 2, timer=lambda call, calls: call() or 1.0)
    assert seen == [1] * 4
    assert held == []


def test_a_gpus_name_becomes_part_of_a_files():
    assert slug("NVIDIA H200") == "nvidia-h200"
    assert slug("NVIDIA GeForce RTX 4090 (24 GB)") == "nvidia-geforce-rtx-4090-24-gb"
