"""The leak study's figure: what is an estimate and what is not, on the page and in the table."""

import pytest
from matplotlib.colors import to_hex

from figure_checks import assert_legible, legend, texts
from hmc_fast.evaluation.figures import png_data_uri
from hmc_fast.evaluation.leak_figure import leak_figure

METRICS = ("balanced_accuracy", "accuracy", "auc")


def run(protocol, values=(0.4, 0.7, 0.6), intervals=((0.3, 0.5), (0.6, 0.8), (0.5, 0.7))):
    pooled = dict(zip(METRICS, values, strict=True))
    pooled["intervals"] = dict(zip(METRICS, intervals, strict=True))
    pooled["bootstrap"] = {"level": 0.95}
    majority = {"balanced_accuracy": 1 / 3, "accuracy": 0.643, "auc": 0.5}
    return {
        "name": f"hmc-{protocol}",
        "protocol": protocol,
        "metrics": {"pooled": pooled, "majority": majority},
    }


RUNS = [run("patient"), run("image", (0.5, 0.8, 0.7)), run("leaky", (0.9, 0.95, 0.99))]


def test_table_has_a_row_a_protocol_and_metric():
    drawn = leak_figure(RUNS)
    assert drawn.header == [
        "protocol", "run", "estimate", "metric", "value", "low", "high", "level", "majority"
    ]  # fmt: skip
    assert len(drawn.rows) == 9
    assert drawn.rows[1] == ["patient", "hmc-patient", True, "accuracy", 0.7, 0.6, 0.8, 0.95, 0.643]
    assert [row[4] for row in drawn.rows if row[0] == "leaky"] == [0.9, 0.95, 0.99]
    assert {row[0]: row[2] for row in drawn.rows} == {
        "patient": True, "image": False, "leaky": False
    }  # fmt: skip


def test_bars_have_the_height_of_the_values_and_whiskers_of_the_intervals():
    axes = leak_figure(RUNS).figure.axes[0]
    heights = [bar.get_height() for container in axes.containers for bar in container]
    assert heights == [0.4, 0.7, 0.6, 0.5, 0.8, 0.7, 0.9, 0.95, 0.99]
    whiskers = [line.get_ydata().tolist() for line in axes.lines if line.get_marker() == "_"]
    assert whiskers[:3] == [[0.3, 0.5], [0.6, 0.8], [0.5, 0.7]]
    dashed = [line.get_ydata()[0] for line in axes.lines if line.get_linestyle() == "--"]
    assert dashed == [1 / 3, 0.643, 0.5]


def test_what_is_no_estimate_is_hatched_and_says_so():
    figure = leak_figure(RUNS).figure
    honest, image, leaky = (bars[0] for bars in figure.axes[0].containers[::3])
    assert honest.get_hatch() == ""
    assert len({honest.get_hatch(), image.get_hatch(), leaky.get_hatch()}) == 3
    assert to_hex(image.get_facecolor()) == to_hex(leaky.get_facecolor()) == "#ffffff"
    lines = legend(figure)
    assert ["not an estimate" in line for line in lines] == [False, True, True, False]
    assert lines[-1] == "most frequent class alone"


@pytest.mark.parametrize("count", [1, 2, 3])
def test_any_number_of_protocols_is_legible(count):
    drawn = leak_figure(RUNS[:count])
    assert_legible(drawn.figure)
    assert len(legend(drawn.figure)) == count + 1


def test_an_undefined_figure_has_no_bar_and_an_empty_cell():
    drawn = leak_figure([run("patient", (0.4, 0.7, None), ((0.3, 0.5), None, None))])
    assert drawn.rows[2][4:7] == [None, None, None]
    assert drawn.rows[1][4:7] == [0.7, None, None]
    assert texts(drawn.figure.axes[0]) == ["0.40", "0.70"]
    assert png_data_uri(drawn.figure)


@pytest.mark.parametrize("protocols", [[], ["patient", "patient"], ["random"]])
def test_only_different_known_protocols_are_compared(protocols):
    with pytest.raises(ValueError, match="different protocols of patient, image, leaky: got"):
        leak_figure([run("patient") | {"protocol": name} for name in protocols])
