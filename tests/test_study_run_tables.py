"""Sizes, folds and budgets of a study's runs."""

import pytest

from hmc_fast.evaluation.study_run_tables import complexity_table
from study_cells import full_study, records


def test_the_honest_run_of_the_leak_study_is_counted_once(tables):
    names = [row[0] for row in tables["training"].rows]
    assert names == [
        "hmc", "hierarchical", "multiscale", "resnet50", "hmc-image", "hmc-leaky",
    ]  # fmt: skip


def test_the_gammas_of_the_leak_study_have_no_verdict(tables):
    assert {row[0] for row in tables["gamma"].rows} > {"hmc-image", "hmc-leaky"}
    names = [note.split(":")[0] for note in tables["gamma"].notes]
    assert names == ["hmc", "hierarchical", "multiscale"]


def test_times_name_their_machine_and_are_no_benchmark(tables):
    assert "measured on this machine at batch 1" in tables["table2_complexity"].notes[0]
    named = complexity_table(full_study() | {"timing_machine": "A CPU, 2 threads"})
    assert "measured on A CPU, 2 threads at batch 1" in named.notes[0]
    assert "Other jobs may have run beside" in tables["training"].notes[0]


def test_ratios_of_size_are_of_one_side_each(tables):
    row = records(tables["table2_complexity"])[-1]
    assert row["model"] == "hmc over resnet50"
    assert (row["GMAC"], row["batch 1 ms"]) == pytest.approx((9 / 6, 50 / 47))
    assert (row["paper GFLOP"], row["paper ms"]) == pytest.approx((25 / 8, 18 / 7))
