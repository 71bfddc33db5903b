"""What rests on patients: differences by hand, exact intervals, units, nobody better by noise."""

import pytest

from hmc_fast.evaluation import study_comparisons, study_patient_tables
from study_cells import balanced, column, records
from tiny_study import tiny_study

pytestmark = pytest.mark.usefixtures("quick_statistics")


def pair_rows(study):
    pairs = study_comparisons.model_pairs(study)
    return records(study_patient_tables.pair_table(pairs, first=True))


def test_differences_on_the_same_patients_by_hand(study, tables):
    rows = records(tables["pairs_by_patients"])
    assert len(rows) == 3 * 6
    runs = {run["name"]: balanced(run) for run in study["runs"]}
    for row in rows[:6]:
        first, second = row["pair"].split(" and ")
        assert row["metric"] == "balanced accuracy"
        assert row["difference"] == pytest.approx(runs[first] - runs[second])
        assert row["low"] < row["difference"] < row["high"]
        assert row["better"] in (None, first)
    assert rows[2]["better"] == "hmc"
    others = {row["metric"] for row in records(tables["pairs_by_patients_other_metrics"])}
    assert others == {"specificity", "precision", "F1", "Brier score"}


def test_no_model_is_better_where_the_attention_of_one_is_off():
    changed = tiny_study(4, gamma=0.045, leak=False, explanations=False)
    assert not [row for row in pair_rows(changed) if row["better"]]
    for fold in changed["runs"][0]["metrics"]["per_fold"]:
        fold["gamma"] |= {"ca34": -0.3}  # one block of hmc is on
    assert {row["pair"] for row in pair_rows(changed) if row["better"]} == {"hmc and resnet50"}


def test_only_counts_at_their_end_have_an_exact_interval_beside(tables):
    rows = records(tables["exact_intervals"])
    assert rows
    assert {row["share"] for row in rows} <= {0, 1}


def test_everybody_right_has_an_exact_interval():
    table = study_patient_tables.exact_table(tiny_study(1, strength=20))
    row = records(table)[0]
    assert (row["metric"], row["patients right"], row["of"], row["high"]) == ("accuracy", 40, 40, 1)
    assert row["low"] == pytest.approx(0.025 ** (1 / 40))  # the closed form for n of n


def test_a_small_calibration_error_is_not_called_none(tables):
    (note,) = tables["calibration"].notes
    assert "In small samples the ECE is biased upward" in note
    assert "does not show miscalibration" in note


def test_units_that_are_no_others_are_not_shown_twice(study, tables):
    table = tables["units"]
    assert column(table, "units")["hmc"] == 40  # patients, the last row
    assert "Every image shows another breast: per breast is per image." in table.notes
    changed = tiny_study(1)
    run = changed["runs"][0]
    run["breasts"] = [f"{patient} left" for patient in run["patients"]]
    rows = records(study_patient_tables.unit_table(changed))
    assert [row["unit"] for row in rows] == ["image", "breast", "patient"]
    assert rows[1]["accuracy"] == rows[2]["accuracy"]
    run["breasts"] = None
    assert "not known" in study_patient_tables.unit_table(changed).notes[1]
