"""The figures of a whole study: which there are, of whom, and with the numbers of its runs."""

import numpy as np
import pytest
from scipy.stats import rankdata

from figure_checks import assert_legible
from hmc_fast.evaluation.metrics import classification_metrics
from hmc_fast.evaluation.study_figure_set import study_figures_of
from hmc_fast.evaluation.study_figures import save
from tiny_study import tiny_study

OF_EVERY_STUDY = [
    "fig5_metric_spread", "fig6_metric_spread", "fig7_confusion", "fig8_curves", "calibration",
    "roc", "leak", "fig9_10_heatmaps",
]  # fmt: skip
OUTLINE = [{"name": "image", "kind": "image", "detail": "", "channels": 3, "size": [64, 64],
            "parameters": 0, "gmac": 0.0, "inputs": []}]  # fmt: skip


def column(drawn, name):
    return [row[drawn.header.index(name)] for row in drawn.rows]


@pytest.mark.parametrize(
    ("runs", "classes", "more"),
    [
        (1, 3, set()),
        (2, 2, {"fig11_critical_difference"}),
        (4, 4, {"fig11_critical_difference"}),
        (5, 3, {"fig5b_metric_spread", "fig11_critical_difference", "fig11b_critical_difference"}),
        (7, 2, {"fig5b_metric_spread", "fig11_critical_difference", "fig11b_critical_difference"}),
    ],
)
def test_a_study_of_any_size_has_the_figures_that_make_sense_for_it(runs, classes, more):
    drawn = study_figures_of(tiny_study(runs=runs, classes=classes))
    assert set(drawn) == set(OF_EVERY_STUDY) | more
    assert all(figure.rows for figure in drawn.values())
    for name in ("fig7_confusion", "roc", "leak", "fig9_10_heatmaps", *more):
        assert_legible(drawn[name].figure)


def test_what_was_not_run_is_left_out():
    study = tiny_study(runs=1, leak=False, explanations=False)
    assert set(study_figures_of(study)) == set(OF_EVERY_STUDY) - {"leak", "fig9_10_heatmaps"}
    assert study_figures_of(study | {"runs": []}) == {}


def test_the_network_is_drawn_where_its_outline_is_given():
    drawn = study_figures_of(tiny_study(runs=1, leak=False, explanations=False), OUTLINE)
    assert next(iter(drawn)) == "fig4_architecture"
    assert column(drawn["fig4_architecture"], "name") == ["image"]


def test_baselines_alone_take_the_place_of_the_papers_models():
    study = tiny_study(runs=6, leak=False, explanations=False)
    drawn = study_figures_of(study | {"runs": study["runs"][4:]})
    assert set(column(drawn["fig5_metric_spread"], "model")) == {"vgg16", "vgg19"}
    assert "fig5b_metric_spread" not in drawn
    assert column(drawn["fig11b_critical_difference"], "model")


def test_spread_has_the_figures_of_every_fold_and_model():
    study = tiny_study(runs=5, leak=False, explanations=False)
    drawn = study_figures_of(study)
    rows = {tuple(row[:3]): row[3] for row in drawn["fig5_metric_spread"].rows}
    run = study["runs"][1]
    of_fold = run["folds"] == 2
    right = run["probabilities"].argmax(1) == run["labels"]
    assert rows["accuracy", "hierarchical", 2] == right[of_fold].mean()
    assert len(rows) == 3 * 4 * 5  # metrics, the paper's models, folds
    assert len(set(column(drawn["fig5b_metric_spread"], "model"))) == 5


def test_ranks_are_those_of_the_folds_accuracy():
    study = tiny_study(runs=5, leak=False, explanations=False)
    diagram = study_figures_of(study)["fig11b_critical_difference"]
    found = dict(zip(column(diagram, "model"), column(diagram, "average_rank"), strict=True))
    folds = [[fold["accuracy"] for fold in run["metrics"]["per_fold"]] for run in study["runs"]]
    expected = rankdata(-np.transpose(folds), axis=1).mean(axis=0)
    np.testing.assert_allclose([found[run["name"]] for run in study["runs"]], expected)


@pytest.mark.parametrize("first", [0, 1])
def test_figures_of_one_run_are_of_hmc_and_say_so(first):
    study = tiny_study(runs=3, leak=False, explanations=False)
    study["runs"] = study["runs"][first:][::-1]  # without hmc, the first that there is
    name = "hmc" if first == 0 else "multiscale"
    drawn = study_figures_of(study)
    for figure in ("fig7_confusion", "fig8_curves", "roc"):
        assert drawn[figure].figure.axes[0].get_title(loc="left") == name
    run = next(run for run in study["runs"] if run["name"] == name)
    found = classification_metrics(run["labels"], run["probabilities"], study["dataset"]["classes"])
    assert column(drawn["fig7_confusion"], "images") == np.ravel(found["confusion"]).tolist()


@pytest.mark.slow
def test_the_same_study_gives_the_same_bytes(tmp_path):
    written = []
    for place in ("first", "second"):
        study = tiny_study(runs=1)
        study["explanations"]["panels"] = study["explanations"]["panels"][:1]
        drawn = study_figures_of(study, OUTLINE)
        (tmp_path / place).mkdir()
        for name in ("fig4_architecture", "leak", "fig9_10_heatmaps"):
            save(drawn[name], tmp_path / place, name)
        written.append({p.name: p.read_bytes() for p in (tmp_path / place).iterdir()})
    assert len(written[0]) == 9
    assert written[0] == written[1]
