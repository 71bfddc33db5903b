"""The study's figures show the numbers of their tables, in any name, size and number of models."""

import csv

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score, roc_curve

from hmc_fast.evaluation import study_figures
from hmc_fast.evaluation.calibration import calibration
from hmc_fast.evaluation.figures import png_data_uri

CLASSES = ("normal", "benign", "malignant")
HOSTILE = ("$x^{$", "_hidden", "漢字")
RANKS, MODELS = [1.1, 1.9, 3, 4], ("hmc", "hierarchical", "multiscale", "resnet50")


def folds(*values, metric="accuracy"):
    return [{"fold": fold, metric: value} for fold, value in enumerate(values)]


def predictions(patients=40, seed=0):
    random = np.random.default_rng(seed)
    labels = np.repeat(np.arange(patients) % 3, 2)
    probabilities = random.dirichlet([1, 1, 1], 2 * patients) * 0.7 + 0.3 * np.eye(3)[labels]
    return labels, probabilities, [f"p{i // 2}" for i in range(2 * patients)]


def texts(axes):
    return [text.get_text() for text in axes.texts]


def legend(figure):
    return [text.get_text() for text in figure.legends[0].get_texts()]


def test_spread_shows_every_fold_with_mean_and_sd():
    drawn = study_figures.metric_spread(
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
    drawn = study_figures.metric_spread(figures, metrics=["accuracy"])
    scatters = [c for c in drawn.figure.axes[0].collections if len(c.get_offsets()) == 2]
    assert len({c.get_paths()[0].vertices.tobytes() for c in scatters}) == 7
    assert len({tuple(c.get_facecolor()[0]) for c in scatters}) == 7


def test_spread_shows_the_majority_where_it_has_a_figure():
    drawn = study_figures.metric_spread(
        {"a": folds(0.5, 0.6)}, metrics=["accuracy"], majority={"accuracy": 0.643, "auc": None}
    )
    dashed = [line for line in drawn.figure.axes[0].lines if line.get_linestyle() == "--"]
    assert [line.get_ydata()[0] for line in dashed] == [0.643]
    assert legend(drawn.figure) == ["most frequent class alone"]


@pytest.mark.parametrize("values", [(), (None,), (0.7,)])
def test_spread_of_few_folds_is_drawn(values):
    drawn = study_figures.metric_spread({"a": folds(*values)}, metrics=["accuracy"])
    assert len(drawn.rows) == len([value for value in values if value is not None])
    assert png_data_uri(drawn.figure)


def test_spread_of_nothing_is_refused():
    with pytest.raises(ValueError, match="got 0 and 6"):
        study_figures.metric_spread({})


def test_confusion_has_a_row_a_cell():
    drawn = study_figures.confusion([[3, 1], [0, 2]], ("no", "yes"))
    assert drawn.header == ["truth", "predicted", "images", "images_of_truth"]
    assert [row[2:] for row in drawn.rows] == [[3, 4], [1, 4], [0, 2], [2, 2]]
    assert drawn.rows[1][:2] == ["no", "yes"]


def test_curves_have_a_row_an_epoch():
    row = {"fold": 0, "epoch": 1, "train_loss": 0.5, "train_accuracy": 0.6, "test_loss": None}
    drawn = study_figures.curves([{**row, "test_accuracy": None, "seconds": 3}])
    assert drawn.rows == [[0, 1, 0.5, 0.6, None, None]]


def test_critical_difference_diagram_joins_what_nemenyi_does_not_tell_apart():
    drawn = study_figures.critical_difference_diagram(RANKS, MODELS, 5)
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
    axes = study_figures.critical_difference_diagram(ranks, names, 5).figure.axes[0]
    spots = {
        (t.get_ha(), round(t.get_position()[1], 3)) for t in axes.texts if "model" in t.get_text()
    }
    assert len(spots) == count
    lowest = min(height for _, height in spots)
    assert lowest > axes.get_ylim()[0]


def test_reliability_diagram_draws_the_curve_and_its_error():
    labels, probabilities, patients = predictions()
    found = calibration(labels, probabilities, patients, CLASSES, resamples=10)
    drawn = study_figures.reliability_diagram({"hmc": found, "other": found})
    assert len(drawn.rows) == 2 * len(found["curve"])
    assert drawn.rows[0] == ["hmc", *found["curve"][0].values()]
    chance = found["ece_by_chance"]["mean"]
    assert legend(drawn.figure)[0] == f"hmc: ECE {found['ece']:.3f} (chance {chance:.3f})"
    line = drawn.figure.axes[0].lines[1]
    np.testing.assert_array_equal(line.get_ydata(), [row["share"] for row in found["curve"]])


def test_roc_has_the_curve_of_each_class_inside_its_interval():
    labels, probabilities, patients = predictions()
    drawn = study_figures.roc_with_intervals(
        labels, probabilities, patients, CLASSES, resamples=200
    )
    for index, name in enumerate(CLASSES):
        rows = np.array([row[1:] for row in drawn.rows if row[0] == name])
        false, true, _ = roc_curve(labels == index, probabilities[:, index])
        np.testing.assert_allclose(rows[:, 1], np.interp(rows[:, 0], false, true))
        assert (rows[:, 2] <= rows[:, 3]).all()
        assert ((rows[:, 2] <= rows[:, 1]) & (rows[:, 1] <= rows[:, 3])).mean() > 0.9
        auc = roc_auc_score(labels == index, probabilities[:, index])
        assert rows[0, 4] == pytest.approx(auc)
        assert rows[0, 5] < auc < rows[0, 6]
        assert legend(drawn.figure)[index].startswith(f"{name}: AUC {auc:.3f} (")


def test_roc_interval_is_that_of_scikit_learns_curves_of_the_drawn_images():
    random = np.random.default_rng(0)
    positive, score = np.arange(40) < 15, random.random(40).round(1)
    weights = random.integers(0, 4, (30, 40)).astype(float)
    expected = []
    for row in weights:
        drawn = np.repeat(np.arange(40), row.astype(int))
        false, true, _ = roc_curve(positive[drawn], score[drawn], drop_intermediate=False)
        expected.append(np.interp(study_figures.GRID, false, true))
    blocks = [weights[:10], weights[10:]]
    low, high, _ = study_figures._roc_ends(positive, score, blocks, [0.025, 0.975])
    ends = np.quantile(expected, [0.025, 0.975], axis=0)
    np.testing.assert_allclose([low, high], ends, atol=1e-12)


def test_roc_says_where_there_is_no_curve():
    drawn = study_figures.roc_with_intervals(
        [0, 0, 1, 1], np.eye(3)[[0, 1, 1, 0]], list("abcd"), HOSTILE, resamples=20
    )
    assert legend(drawn.figure)[2] == "漢字: no curve"
    assert {row[0] for row in drawn.rows} == set(HOSTILE[:2])


@pytest.mark.parametrize("kind", ["spread", "diagram", "reliability"])
def test_any_model_name_is_drawn_as_it_is(kind):
    labels, probabilities, patients = predictions()
    found = calibration(labels, probabilities, patients, CLASSES, resamples=5)
    drawn = {
        "spread": lambda: study_figures.metric_spread(
            {name: folds(0.5, 0.6) for name in HOSTILE}, metrics=["accuracy"]
        ),
        "diagram": lambda: study_figures.critical_difference_diagram([1, 2, 3], HOSTILE, 5),
        "reliability": lambda: study_figures.reliability_diagram(dict.fromkeys(HOSTILE, found)),
    }[kind]()
    assert png_data_uri(drawn.figure)
    assert {row[1 if kind == "spread" else 0] for row in drawn.rows} == set(HOSTILE)


def test_save_writes_the_picture_for_print_and_its_numbers(tmp_path):
    drawn = study_figures.confusion([[3, 1], [0, 2]], ("no", "yes"))
    study_figures.save(drawn, tmp_path, "figure_7")
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["figure_7.csv", "figure_7.pdf", "figure_7.png"]
    assert (tmp_path / "figure_7.pdf").read_bytes().startswith(b"%PDF")
    with open(tmp_path / "figure_7.csv", newline="") as file:
        header, *rows = csv.reader(file)
    assert header == drawn.header
    assert rows == [[str(cell) for cell in row] for row in drawn.rows]


def test_as_many_names_as_ranks():
    with pytest.raises(ValueError, match=r"each of 4 models: got \(3,\)"):
        study_figures.critical_difference_diagram([1, 2, 3], MODELS, 5)
