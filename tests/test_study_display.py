"""The progress line of a study: how much is done, and when it will end."""

from typing import NamedTuple

import numpy as np
import pytest

from hmc_fast.training import study_display
from hmc_fast.training.batches import BatchPlan
from hmc_fast.training.config import TrainConfig
from hmc_fast.training.study_display import GridProgress

PLAN = BatchPlan(np.arange(40), 4, 40, 0, 0)  # ten steps


class Run(NamedTuple):
    name: str
    config: TrainConfig
    left: list

    def missing(self):
        return self.left


class Clock:
    def __init__(self):
        self.now = 0.0

    def monotonic(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(study_display, "time", clock)
    return clock


@pytest.fixture
def run():
    return Run("hmc", TrainConfig(folds=2), [0, 1])


def steps(display, clock, first, last, seconds):
    """Training of a fold from step `first` on; each step takes so many seconds."""
    for step in range(first, last + 1):
        clock.now += seconds
        display.update(step, None)


def test_loading_is_no_part_of_the_pace(clock, run):
    with GridProgress([run], {"hmc": 100.0}, 1, quiet=True) as progress:
        clock.now += 1000  # images are decoded, a network is built
        with progress.display_of("hmc")(0, 2, PLAN, True) as display:
            steps(display, clock, 1, 5, 20.0)  # twice as slow as was thought
            assert progress.seconds_left() == pytest.approx(2 * (200 - 50))


def test_a_fold_that_goes_on_counts_from_its_checkpoint(clock, run):
    with (
        GridProgress([run], {"hmc": 100.0}, 1, quiet=True) as progress,
        progress.display_of("hmc")(0, 2, PLAN, True) as display,
    ):
        steps(display, clock, 8, 9, 10.0)
        assert progress.seconds_left() == pytest.approx(200 - 90)


def test_processes_share_what_is_left(clock, run):
    with GridProgress([run], {"hmc": 100.0}, 4, quiet=True) as progress:
        assert progress.seconds_left() == pytest.approx(200 / 4)


def test_the_line_says_what_is_done_and_what_is_left(clock, run, capsys):
    with GridProgress([run], {"hmc": 100.0}, 1, quiet=False) as progress:
        with progress.display_of("hmc")(0, 2, PLAN, False) as display:
            steps(display, clock, 1, 10, 10.0)
            run.left.remove(0)
        printed = capsys.readouterr().out.splitlines()
        assert printed[-1] == (
            "study: 1 of 2 folds, 50 % of the work, hmc fold 1/2 is done, about 1 min 40 s left"
        )
        progress.wait()
        progress.wait()
        assert capsys.readouterr().out.count("waiting for other processes") == 1
