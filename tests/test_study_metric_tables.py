"""Tables 3 to 5 against figures worked out another way."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from hmc_fast.evaluation import study_metric_tables, study_rank_tables
from hmc_fast.evaluation.study_runs import rank_sets
from study_cells import accuracies, balanced, column, records
from tiny_study import tiny_study

pytestmark = pytest.mark.usefixtures("quick_statistics")


def test_table_3_is_the_accuracy_of_the_folds_by_hand(study, tables):
    table = tables["table3_accuracy"]
    for run in study["runs"]:
        each = accuracies(run)
        row = next(row for row in records(table) if row["model"] == run["name"])
        assert [row[f"fold {fold}"] for fold in range(5)] == pytest.approx(each)
        assert (row["mean"], row["sd"]) == pytest.approx((each.mean(), each.std(ddof=1)))
        assert row["low"] < row["pooled"] < row["high"]
        assert row["balanced accuracy"] == pytest.approx(balanced(run))
    majority = records(table)[-1]
    assert majority["model"] == "always “normal”"
    assert [majority[f"fold {k}"] for k in range(5)] == [0.5] * 5
    assert majority["balanced accuracy"] == pytest.approx(1 / 3)
    assert column(table, "paper")["hmc"] == 0.9972
    assert column(table, "paper")["resnet50"] is None


def test_a_fold_that_one_run_lacks_is_empty():
    changed = tiny_study(4)
    metrics = changed["runs"][1]["metrics"]
    metrics["per_fold"] = metrics["per_fold"][:4]
    last = column(study_metric_tables.accuracy_table(changed), "fold 4")
    assert last["hierarchical"] is None
    assert last["hmc"] is not None
    (models,) = rank_sets(changed)
    table = study_rank_tables.critical_difference_table(models)
    assert table.header[1] == "4 models, 4 folds"


def test_table_4_and_the_classes_agree(tables):
    rows = records(tables["table4_macro"])
    classes = records(tables["class_figures"])
    for row in rows:
        each = [found[row["metric"]] for found in classes if found["model"] == row["model"]]
        assert row["pooled"] == pytest.approx(np.mean(each))
        assert row["low"] <= row["pooled"] <= row["high"]


def test_the_intervals_of_two_classes_auc_are_that_of_the_mean():
    study = tiny_study(1, classes=2)  # one class's AUC is the other's
    table = study_metric_tables.auc_table(study)
    ends = [(row["low"], row["high"]) for row in records(table)]
    assert ends[1] == pytest.approx(ends[0])
    assert ends[2] == pytest.approx(ends[0])
    run = study["runs"][0]
    expected = roc_auc_score(run["labels"], run["probabilities"][:, 1])
    assert records(table)[2]["pooled"] == pytest.approx(expected)
