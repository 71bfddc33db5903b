"""Tables 8 and 9 against other libraries, the paper's figures beside."""

import math

import numpy as np
import pytest
from scikit_posthocs import posthoc_nemenyi_friedman
from scipy.stats import friedmanchisquare, ttest_rel

from hmc_fast.evaluation import study_rank_tables
from hmc_fast.evaluation.study_runs import rank_sets
from hmc_fast.evaluation.study_table import is_paper
from study_cells import accuracies, column, records
from tiny_study import tiny_study

pytestmark = pytest.mark.usefixtures("quick_statistics")


def test_nemenyi_and_friedman_agree_with_other_libraries(study, tables):
    scores = np.stack([accuracies(run) for run in study["runs"]], axis=1)
    table = tables["table8_nemenyi"]
    ours = [row[1:5] for row in table.rows]
    np.testing.assert_allclose(ours, posthoc_nemenyi_friedman(scores), atol=1e-10)
    assert table.rows[0][5:] == [None, 0.7610, 0.0919, 0.0022]
    row = records(tables["friedman"])[0]
    expected = friedmanchisquare(*scores.T)
    assert (row["chi²"], row["p of chi²"]) == pytest.approx((expected.statistic, expected.pvalue))
    assert list(column(tables["friedman"], "paper p").values()) == [0.002, None, None]


def test_the_papers_p_finds_its_pair_in_any_order_of_the_runs(study):
    (models,) = rank_sets(study | {"runs": study["runs"][::-1]})
    table = study_rank_tables.nemenyi_table(models)
    assert column(table, "paper p, hmc")["resnet50"] == 0.0022
    pairs = column(study_rank_tables.pairwise_rank_table(models), "paper p")
    assert pairs["resnet50 and hierarchical"] == 0.0496
    assert column(study_rank_tables.rank_table(models), "paper")["multiscale"] == 3.0


def test_the_right_q_stands_beside_the_papers(tables):
    table = tables["critical_difference"]
    ours = column(table, "4 models, 5 folds")
    assert ours["q at 0.05"] == pytest.approx(2.569, abs=5e-4)
    assert ours["critical difference"] == pytest.approx(2.098, abs=5e-4)
    assert list(column(table, "paper").values()) == [2.949, 2.41, 7]
    assert "2.949 is the value for 7 models" in table.notes[0]


def test_the_corrected_t_is_the_usual_one_over_one_and_a_half(study, tables):
    scores = [
        [fold["balanced_accuracy"] for fold in r["metrics"]["per_fold"]] for r in study["runs"]
    ]
    usual = ttest_rel(scores[0], scores[3]).statistic
    row = next(r for r in records(tables["corrected_t"]) if r["pair"] == "hmc and resnet50")
    assert row["t"] == pytest.approx(usual * math.sqrt(0.2 / 0.45))
    assert "Only training again" in tables["corrected_t"].notes[0]


def test_an_unfinished_fold_does_not_make_the_training_sets_smaller():
    changed = tiny_study(2, leak=False)
    for run in changed["runs"]:
        run["metrics"]["per_fold"] = run["metrics"]["per_fold"][:4]
    folds = [run["metrics"]["per_fold"] for run in changed["runs"]]
    scores = [[fold["balanced_accuracy"] for fold in of_run] for of_run in folds]
    (models,) = rank_sets(changed)
    (row,) = records(study_rank_tables.corrected_t(models))
    usual = ttest_rel(*scores).statistic  # variance / 4, where 1 / 4 + 1 / (5 - 1) is meant
    assert row["t"] == pytest.approx(usual * math.sqrt(0.25 / 0.5))


def test_other_models_than_the_papers_have_tables_of_their_own():
    ours, every = rank_sets(tiny_study(7))
    assert len(study_rank_tables.nemenyi_table(ours).rows) == 4
    table = study_rank_tables.nemenyi_table(every)
    assert (table.name, len(table.rows)) == ("table8_nemenyi_all", 7)
    assert not [header for header in table.header if is_paper(header)]
    assert study_rank_tables.rank_table(every).title.endswith("all 7 models")


def test_a_metric_that_is_undefined_in_a_fold_is_not_ranked():
    changed = tiny_study(4, leak=False)
    changed["runs"][2]["metrics"]["per_fold"][1]["auc"] = None
    (models,) = rank_sets(changed)
    table = study_rank_tables.rank_table(models)
    assert "AUC" not in table.header
    assert "Not ranked by AUC: it is undefined in a fold." in table.notes
    assert len(study_rank_tables.friedman_table(models).rows) == 2
