"""Sizes, folds and budgets of a study's runs."""

import pytest

from study_cells import full_tables, records


@pytest.fixture
def tables():
    return full_tables()


def test_the_honest_run_of_the_leak_study_is_counted_once(tables):
    names = [row[0] for row in tables["training"].rows]
    assert names == [
        "hmc", "hierarchical", "multiscale", "resnet50", "hmc-image", "hmc-leaky",
    ]  # fmt: skip


def test_ratios_of_size_are_of_one_side_each(tables):
    row = records(tables["table2_complexity"])[-1]
    assert row["model"] == "hmc over resnet50"
    assert (row["GMAC"], row["batch 1 ms"]) == pytest.approx((9 / 6, 50 / 47))
    assert (row["paper GFLOP"], row["paper ms"]) == pytest.approx((25 / 8, 18 / 7))
