"""The critical-difference diagram joins what the test does not tell apart; it names every model."""

import numpy as np
import pytest

from figure_checks import texts
from hmc_fast.evaluation.figures import png_data_uri
from hmc_fast.evaluation.rank_figure import critical_difference_diagram

HOSTILE = ("$x^{$", "_hidden", "漢字")
RANKS, MODELS = [1.1, 1.9, 3, 4], ("hmc", "hierarchical", "multiscale", "resnet50")


def test_critical_difference_diagram_joins_what_nemenyi_does_not_tell_apart():
    drawn = critical_difference_diagram(RANKS, MODELS, 5)
    found = {row[0]: row[1:3] for row in drawn.rows}
    assert list(found) == list(MODELS)
    groups = {name: group for name, (_, group) in found.items()}
    assert groups == {"hmc": "1", "hierarchical": "1", "multiscale": "1 2", "resnet50": "2"}
    assert drawn.rows[0][-1] == pytest.approx(2.098, abs=5e-4)
    bars = [line for line in drawn.figure.axes[0].lines if line.get_linewidth() == 3.5]
    spans = [line.get_xdata() for line in bars]
    np.testing.assert_allclose(spans, [[1.07, 3.03], [2.97, 4.03]])
    assert bars[0].get_ydata()[0] - bars[1].get_ydata()[0] > 0.1  # not one over the other
    assert "CD = 2.10 (α = 0.05)" in texts(drawn.figure.axes[0])
    assert "hmc (1.10)" in texts(drawn.figure.axes[0])


@pytest.mark.parametrize("count", [2, 3, 7, 12])
def test_critical_difference_diagram_writes_every_name_apart_from_the_others(count):
    ranks = np.linspace(1, count, count)[::-1]
    names = [f"model number {i}" for i in range(count)]
    axes = critical_difference_diagram(ranks, names, 5).figure.axes[0]
    spots = {
        (t.get_ha(), round(t.get_position()[1], 3)) for t in axes.texts if "model" in t.get_text()
    }
    assert len(spots) == count
    lowest = min(height for _, height in spots)
    assert lowest > axes.get_ylim()[0]


def test_any_model_name_is_drawn_as_it_is():
    drawn = critical_difference_diagram([1, 2, 3], HOSTILE, 5)
    assert png_data_uri(drawn.figure)
    assert {row[0] for row in drawn.rows} == set(HOSTILE)


def test_as_many_names_as_ranks():
    with pytest.raises(ValueError, match=r"each of 4 models: got \(3,\)"):
        critical_difference_diagram([1, 2, 3], MODELS, 5)
