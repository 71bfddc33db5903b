"""Every fold's figures are shown, with mean and sd, in any name and number of models."""

import pytest

from figure_checks import legend
from hmc_fast.evaluation.figures import png_data_uri
from hmc_fast.evaluation.spread_figure import metric_spread

HOSTILE = ("$x^{$", "_hidden", "漢字")


def folds(*values, metric="accuracy"):
    return [{"fold": fold, metric: value} for fold, value in enumerate(values)]


def test_spread_shows_every_fold_with_mean_and_sd():
    drawn = metric_spread(
        {"a": folds(0.5, 0.6, 0.7), "b": folds(0.6, 0.6, None)}, metrics=["accuracy"]
    )
    assert drawn.header == ["metric", "model", "fold", "value", "mean", "sd"]
    assert [row[1:4] for row in drawn.rows] == [
        ["a", 0, 0.5], ["a", 1, 0.6], ["a", 2, 0.7], ["b", 0, 0.6], ["b", 1, 0.6]
    ]  # fmt: skip
    assert drawn.rows[0][4:] == pytest.approx([0.6, 0.1])
    (axes,) = drawn.figure.axes
    points = [collection.get_offsets()[:, 1].tolist() for collection in axes.collections[::2]]
    assert points[0] == [0.5, 0.6, 0.7]
    joined = [line.get_ydata().tolist() for line in axes.lines if len(line.get_xdata()) == 2]
    assert [0.5, 0.6] in joined


def test_spread_tells_models_apart_without_colour():
    figures = {f"m{i}": folds(0.1 * i, 0.2) for i in range(7)}
    drawn = metric_spread(figures, metrics=["accuracy"])
    scatters = [c for c in drawn.figure.axes[0].collections if len(c.get_offsets()) == 2]
    assert len({c.get_paths()[0].vertices.tobytes() for c in scatters}) == 7
    assert len({tuple(c.get_facecolor()[0]) for c in scatters}) == 7


def test_spread_shows_the_majority_where_it_has_a_figure():
    drawn = metric_spread(
        {"a": folds(0.5, 0.6)}, metrics=["accuracy"], majority={"accuracy": 0.643, "auc": None}
    )
    dashed = [line for line in drawn.figure.axes[0].lines if line.get_linestyle() == "--"]
    assert [line.get_ydata()[0] for line in dashed] == [0.643]
    assert legend(drawn.figure) == ["mean ± sd of the folds", "most frequent class alone"]


@pytest.mark.parametrize("values", [(), (None,), (0.7,)])
def test_spread_of_few_folds_is_drawn(values):
    drawn = metric_spread({"a": folds(*values)}, metrics=["accuracy"])
    assert len(drawn.rows) == len([value for value in values if value is not None])
    assert png_data_uri(drawn.figure)


def test_spread_of_nothing_is_refused():
    with pytest.raises(ValueError, match="got 0 and 6"):
        metric_spread({})


def test_any_model_name_is_drawn_as_it_is():
    drawn = metric_spread({name: folds(0.5, 0.6) for name in HOSTILE}, metrics=["accuracy"])
    assert png_data_uri(drawn.figure)
    assert {row[1] for row in drawn.rows} == set(HOSTILE)
