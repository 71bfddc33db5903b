"""The leak study: by hand, and labelled as what it is."""

import pytest

from hmc_fast.evaluation import study_leak_tables, study_run_tables
from study_cells import balanced, column, records
from tiny_study import tiny_study

pytestmark = pytest.mark.usefixtures("quick_statistics")


def test_leaks_by_hand_and_labelled(study, tables):
    patient, image, leaky = (balanced(run) for run in study["leak"])
    values = column(tables["leak_study"], "balanced accuracy")
    assert list(values.values())[:3] == pytest.approx([patient, image, leaky])
    labels = column(tables["leak_study"], "what the figures are")
    assert labels["patient"] == "an estimate for new patients of the same kind"
    assert labels["leaky"] == "leaky: not an estimate of anything"
    assert labels["image"] == "image: not an estimate of anything"
    rows = [r for r in records(tables["leak_differences"]) if r["metric"] == "balanced accuracy"]
    assert [row["protocols"] for row in rows] == ["image minus patient", "leaky minus patient"]
    expected = [image - patient, leaky - patient]
    assert [row["difference"] for row in rows] == pytest.approx(expected)
    assert all(row["low"] <= row["difference"] <= row["high"] for row in rows)


def test_a_leak_study_of_its_own_budget_has_its_own_rows():
    changed = tiny_study(4)
    changed["leak"][0] = changed["leak"][0] | {"name": "hmc-patient", "steps": [99] * 5}
    table = study_leak_tables.leak_table(changed)
    assert column(table, "steps a fold")["patient"] == "99"
    assert column(study_run_tables.training_table(changed), "steps a fold") == {
        "hmc": "16", "hierarchical": "16", "multiscale": "16", "resnet50": "16",
        "hmc-patient": "99", "hmc-image": "16", "hmc-leaky": "16",
    }  # fmt: skip
