"""A table of the study: its file, and what its headers say of the columns."""

import csv
import math

from hmc_fast.evaluation.study_table import StudyTable, is_paper, varies, write_tables


def test_files_hold_every_digit_and_nothing_for_what_is_missing(tmp_path):
    table = StudyTable(
        "name", "A title", ["a", "b"], [["x", 1 / 3], ["y", None], ["z", math.nan]], []
    )
    (path,) = write_tables([table], tmp_path / "tables")
    with open(path, newline="") as file:
        rows = list(csv.reader(file))
    assert path == tmp_path / "tables" / "name.csv"
    assert rows == [["a", "b"], ["x", repr(1 / 3)], ["y", ""], ["z", ""]]


def test_columns_of_the_paper_and_of_time_are_told_by_their_header():
    assert [is_paper(h) for h in ("paper", "paper p, hmc", "papers", "p")] == [
        True,
        True,
        False,
        False,
    ]
    headers = ("batch 1 ms", "training s", "images/s", "paper ms", "folds", "ms a day")
    assert [varies(h) for h in headers] == [True, True, True, False, False, False]
