"""The tables of a study together: their form, what is the paper's, what is missing."""

import itertools

import pytest

from hmc_fast.evaluation import paper
from hmc_fast.evaluation.study_table import is_paper, varies
from hmc_fast.evaluation.study_tables import all_tables, left_out_tables
from study_cells import column
from tiny_study import tiny_study

pytestmark = pytest.mark.usefixtures("quick_statistics")


@pytest.mark.parametrize(("runs", "classes"), [(1, 2), (2, 4), (3, 3), (7, 3)])
def test_every_table_is_whole(runs, classes):
    found = all_tables(tiny_study(runs, leak=runs != 3, classes=classes))
    assert len({table.name for table in found}) == len(found)
    for table in found:
        assert table.title
        assert len(set(table.header)) == len(table.header)
        assert table.rows
        for row in table.rows:
            assert len(row) == len(table.header), table.name
            assert isinstance(row[0], str | float)
            assert all(c is None or type(c) in (str, int, float, bool) for c in row), table.name


def test_a_figure_of_the_paper_stands_in_its_own_columns_alone(study, monkeypatch):
    marks = itertools.count(1)
    mark = lambda: 0.987654 + next(marks) * 1e-9  # noqa: E731
    spreads = {metric: paper.Spread(mark(), mark()) for metric in paper.RESULTS["hmc"]}
    monkeypatch.setattr(paper, "RESULTS", {"hmc": spreads})
    for name in ("TABLE_8", "RANKS"):
        monkeypatch.setattr(paper, name, {key: mark() for key in getattr(paper, name)})
    sizes = {name: paper.Size(mark(), mark(), mark()) for name in paper.TABLE_2}
    monkeypatch.setattr(paper, "TABLE_2", sizes)
    for name in ("FRIEDMAN_P", "CRITICAL_DIFFERENCE"):
        monkeypatch.setattr(paper, name, mark())
    seen = set()
    for table in (table for table in all_tables(study) if not table.all_paper):
        for row in table.rows:
            for header, cell in zip(table.header, row, strict=True):
                if isinstance(cell, float) and 0 < cell - 0.987654 < 1e-6:
                    assert is_paper(header), (table.name, header)
                    seen.add(cell)
    assert len(seen) == next(marks) - 1  # none is missing


def test_every_table_with_columns_of_the_paper_says_what_both_are_of(tables):
    beside = [t for t in tables.values() if any(map(is_paper, t.header)) and not t.all_paper]
    assert {"table2_complexity", "table5_auc", "ranks", "friedman"} <= {t.name for t in beside}
    (note,) = set.intersection(*(set(table.notes) for table in beside))
    assert "322 images of MIAS at 224 px with a budget of its own, 200 000 augmented" in note
    assert "ours are of 80 images of made up: 64 px, 2 epochs, seed 0, 16 steps a fold." in note
    assert note.endswith("so nothing is compared.")
    assert not [t.name for t in tables.values() if note in t.notes and t not in beside]


def test_what_is_left_out_is_said():
    alone = tiny_study(1, leak=False, explanations=False)
    alone["complexity"] = {}
    for fold in alone["runs"][0]["metrics"]["per_fold"]:
        fold["gamma"] = {}
    names = {table.name for table in all_tables(alone)}
    assert not {"table2_complexity", "table6_localisation", "leak_study", "gamma"} & names
    sentences = " ".join(left_out_tables(alone))
    for part in ("Table 2", "Table 6", "leak study", "Tables 8 and 9", "Gamma", "one model only"):
        assert part in sentences


def test_nothing_is_left_out_of_a_full_study(study):
    assert left_out_tables(study) == []


def test_runs_of_other_images_are_refused():
    changed = tiny_study(2)
    changed["runs"][1]["images"] = changed["runs"][1]["images"][::-1]
    with pytest.raises(ValueError, match="hmc and hierarchical have not predicted the same"):
        all_tables(changed)
    with pytest.raises(ValueError, match="one finished run or more"):
        all_tables(changed | {"runs": []})


def test_only_columns_of_time_differ_between_two_machines(tables):
    other = tiny_study(4)
    for run in other["runs"] + other["leak"][1:]:
        for row in run["history"]:
            row["seconds"], row["images_per_s"] = 7.5, 1.0
    for size in other["complexity"].values():
        size |= {"ms": 1.0, "optimised_ms": 0.5}

    found = {table.name: table for table in all_tables(other)}
    assert {name: fixed(table) for name, table in found.items()} == {
        name: fixed(table) for name, table in tables.items()
    }
    rates = column(found["training"], "images/s")
    assert rates["hmc"] == pytest.approx(640 / 75)


def fixed(table):
    """The cells that two runs of the same settings share."""
    return [[c for h, c in zip(table.header, r, strict=True) if not varies(h)] for r in table.rows]
