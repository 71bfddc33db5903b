"""The means of the table: which have an interval, and what is said of the paper's."""

import numpy as np
import pytest

from hmc_fast.explain.table import Bound, interval, table_lines, table_rows


def patients(count):
    return [f"p{place}" for place in range(count)]


@pytest.mark.parametrize(
    ("count", "value"),
    [
        (2, lambda place: place),
        (9, lambda place: place % 2),
        (12, lambda place: 0.0),
        (12, lambda place: 1 / 3),
        (12, lambda place: place if place < 9 else None),
    ],
)
def test_no_interval_of_few_patients_or_without_width(count, value):
    values = [value(place) for place in range(count)]
    assert interval(values, [0, 1] * (count // 2) + [0] * (count % 2), patients(count)) == (
        None,
        None,
    )


def test_films_of_one_patient_are_no_further_patients():
    values, labels = np.arange(18) / 18, [0] * 18
    assert interval(values, labels, patients(9) * 2) == (None, None)
    assert interval(values, labels, patients(18)) != (None, None)


def test_the_interval_of_ten_patients_is_that_of_the_bootstrap():
    values = np.arange(10) / 10
    low, high = interval(values, [0] * 10, patients(10))
    draws = np.random.default_rng(1).choice(values, (20_000, 10)).mean(axis=1)
    assert (low, high) == pytest.approx(np.quantile(draws, [0.025, 0.975]), abs=0.02)


@pytest.mark.parametrize(("masks", "strong"), [(4, False), (108, False), (109, True)])
def test_the_bound_speaks_of_its_own_masks(masks, strong):
    figures = {("grad-cam", "layer4"): [{"iou": 0.1}, {"iou": None}]}
    bounds = {"layer4": Bound((7, 7), masks, 0.46, 0.4, 680, 292.0)}
    rows = table_rows(figures, [0, 1], patients(2), bounds, paper=True)
    lines = table_lines(rows, bounds)
    assert lines[0] == "grad-cam, layer4: IoU 0.100 (1 of 2)"
    assert lines[1].startswith("a mean of fewer than 10 patients")
    assert f"above what any map of so few cells can reach on these {masks} masks" in lines[-1]
    assert ("cannot be the IoU" in lines[-1]) == strong
    ours = table_lines(table_rows(figures, [0, 1], patients(2), bounds, paper=False), bounds)
    assert ours == lines[:-1]
