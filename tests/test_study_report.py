"""The study's page: whole, self-contained, escaped, the paper's columns apart from ours, the same
for every run of the same settings but for the elements that say so."""

import base64
import hashlib
import re

import numpy as np
import pytest
from matplotlib.figure import Figure

from hmc_fast.evaluation import paper
from hmc_fast.evaluation.report.study_cells import shown
from hmc_fast.evaluation.report.study_page import write_study_report
from hmc_fast.evaluation.report.study_sections import described, section_of
from hmc_fast.evaluation.study_figures import StudyFigure
from hmc_fast.evaluation.study_table import StudyTable, is_paper
from hmc_fast.evaluation.study_tables import all_tables
from report_example import DASH
from study_pages import StudyPage, without_varying
from tiny_study import tiny_study

HOSTILE = "<script>alert(1)</script>\"&'"
SENTENCES = ["hmc leads.", "Nothing else is shown."]


def figure(width=2.0, header=("model", "value")):
    return StudyFigure(Figure(figsize=(width, 1)), list(header), [["hmc", 0.5]])


FIGURES = {"fig7_confusion": figure(), "fig5_metric_spread": figure(6.0), "leak": figure()}


@pytest.fixture(scope="module")
def write(tmp_path_factory):
    def written(study, tables, figures=FIGURES, findings=SENTENCES, **options):
        path = tmp_path_factory.mktemp("study") / "report.html"
        write_study_report(path, study, tables, figures, findings, **options)
        return path.read_text()

    return written


@pytest.fixture(scope="module")
def study():
    return tiny_study()


@pytest.fixture(scope="module")
def tables(study):
    return all_tables(study)


@pytest.fixture(scope="module")
def text(write, study, tables):
    return write(study, tables)


@pytest.fixture(scope="module")
def page(text):
    return StudyPage(text)


def table(*rows, header=("model", "value"), **options):
    return StudyTable(
        "made_up", "Made up", list(header), [list(row) for row in rows], [], **options
    )


def test_the_page_needs_nothing_from_outside(text, page):
    assert text.startswith("<!DOCTYPE html>")
    assert not re.search(r"url\(|@import|http-equiv=.refresh", text)
    assert all(source.startswith("data:") for source in page.attributes("src"))
    links = {link[1:] for link in page.attributes("href") if link != "data:,"}
    assert links <= set(page.attributes("id"))
    assert {"part-result", "part-leak", "part-checklists", "table3_accuracy"} <= links


def test_the_policy_lets_only_the_sorting_script_run(text):
    (script,) = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"style-src 'unsafe-inline'; script-src 'sha256-{digest}'\">" in text
    assert "content=\"default-src 'none'; img-src data:; " in text
    assert "<script" not in text.replace("<script>", "", 1)
    assert not re.search(r"\son[a-z]+=|javascript:", text)


def test_the_page_is_accessible(page):
    assert ("html", {"lang": "en"}) in page.tags
    assert len(set(page.attributes("id"))) == len(page.attributes("id"))
    assert len([tag for tag, _ in page.tags if tag == "caption"]) == len(page.tables)
    images = [attributes for tag, attributes in page.tags if tag == "img"]
    assert len(images) == len(FIGURES)
    assert all(len(image["alt"]) > 40 for image in images)
    regions = [attributes for _, attributes in page.tags if attributes.get("role") == "region"]
    assert len(regions) == len(page.tables)
    assert all(region["tabindex"] == "0" for region in regions)
    first = next(attributes for tag, attributes in page.tags if tag == "a")
    assert first == {"class": "skip", "href": "#main"}
    assert page.text.lower().count("not a medical device") == 1


@pytest.mark.parametrize("runs", [1, 3])
def test_every_table_and_figure_is_there_with_its_file(runs, write):
    study = tiny_study(runs, leak=False, explanations=False)
    tables = [*all_tables(study), table(["hmc", 1.0])]
    page = StudyPage(write(study, tables, {**FIGURES, "unheard_of": figure()}))
    for made in tables:
        assert [len(row) for row in page.cells[made.name]] == [len(made.header)] * (
            len(made.rows) + 1
        )
        assert page.text.count(f"CSV: tables/{made.name}.csv") == 1
    for name in (*FIGURES, "unheard_of"):
        assert page.text.count(f"CSV: figures/{name}.csv") == 1


def test_a_file_with_a_known_sum_is_linked_to_it(write, study):
    files = {"tables/made_up.csv": "ab" * 32, "runs/hmc/predictions.csv": "cd" * 32}
    text = write({**study, "files": files}, [table(["hmc", 1.0])], {})
    assert 'CSV: <a href="#file-1">tables/made_up.csv</a>' in text
    assert '<tr id="file-1"><th scope="row" class="text">tables/made_up.csv' in text
    page = StudyPage(text)
    assert page.row("made-files", "runs/hmc/predictions.csv") == ["cd" * 32]


def test_the_first_lines_say_what_was_run(page):
    top = page.text[: page.text.index("What the numbers say")]
    for words in (
        "Study: 4 networks on made up",
        "80 images of 40 patients: 40 normal, 20 benign, 20 malignant",
        "networks: hmc, hierarchical, multiscale, resnet50",
        "5 folds of whole patients",
        "64 px, 2 epochs, seed 0, 16 steps a fold",
        "leak study: patient, image, leaky",
        "training took 5 min 0 s",  # 4 + 3 runs of 50 s, one of them counted once
    ):
        assert words in top
    assert "hmc leads. Nothing else is shown." in " ".join(page.text.split())
    assert "One film is odd." in page.text


def test_headline_by_hand(page, study):
    pooled = study["runs"][0]["metrics"]["pooled"]
    right = sum(study["runs"][0]["probabilities"].argmax(1) == study["runs"][0]["labels"])
    row = page.row("headline", "hmc")
    assert row[3] == f"{right / 80:.3f}"
    assert row[:3] == [
        f"{v:.3f}" for v in (pooled["balanced_accuracy"], *pooled["intervals"]["balanced_accuracy"])
    ]
    alone = ["0.333", DASH, DASH, "0.500", DASH, DASH, "0.500", DASH, DASH]
    assert page.row("headline", "always “normal”") == alone


def test_rows_that_sum_up_stand_in_the_foot(write, study):
    text = write(
        study, [table(["hmc", 2], ["always “normal”", 1], ["all", 3], ["a over b", 4])], {}
    )
    foot = text.split('id="made_up"')[1].split("<tfoot>")[1].split("</tfoot>")[0]
    assert re.findall(r"text\">(.*?)</th>", foot) == ["always “normal”", "all", "a over b"]


def test_cells_carry_what_they_sort_by(write, study):
    rows = (
        ["a", np.float64(0.123456789), "x", True],
        ["b", None, "", False],
        ["c", float("nan"), "z", None],
    )
    page = StudyPage(write(study, [table(*rows, header=("model", "number", "word", "flag"))], {}))
    numbers, words, flags = (page.column("made_up", name) for name in ("number", "word", "flag"))
    assert [cell.attributes.get("data-value") for cell in numbers] == ["0.123456789", None, None]
    assert [cell.text for cell in numbers] == ["0.123", DASH, DASH]
    assert ["none" in cell.classes for cell in words] == [False, True, False]
    assert [cell.text for cell in flags] == ["yes", "no", DASH]
    assert all("text" in cell.classes for cell in (*words, *flags))


def test_paper_columns_are_paper_from_top_to_bottom(page, tables):
    marked = 0
    for made in tables:
        head, *rows = page.cells[made.name]
        for place, title in enumerate(made.header):
            theirs = made.all_paper or is_paper(title)
            cells = [head[place], *(row[place] for row in rows)]
            assert {"paper" in cell.classes for cell in cells} == {theirs}
            marked += theirs
    assert marked > 20
    assert not any("paper" in cell.classes for row in page.cells["headline"] for cell in row)


def test_no_figure_of_the_paper_stands_in_a_column_of_ours(monkeypatch, write):
    """Every figure of the paper is replaced by one that nothing else can have."""
    marks = iter(0.7 + 1e-7 * number for number in range(1, 1000))
    spreads = {metric: paper.Spread(next(marks), next(marks)) for metric in paper.RESULTS["hmc"]}
    monkeypatch.setattr(paper, "RESULTS", {"hmc": spreads})
    monkeypatch.setattr(paper, "RANKS", {name: next(marks) for name in paper.RANKS})
    monkeypatch.setattr(paper, "TABLE_8", {pair: next(marks) for pair in paper.TABLE_8})
    sizes = {name: paper.Size(*(next(marks) for _ in range(3))) for name in paper.TABLE_2}
    monkeypatch.setattr(paper, "TABLE_2", sizes)
    for name in ("FRIEDMAN_P", "CRITICAL_DIFFERENCE"):
        monkeypatch.setattr(paper, name, next(marks))
    study = tiny_study()
    study["explanations"]["table"][0]["paper"] = next(marks)
    page = StudyPage(write(study, all_tables(study), {}))
    cells = [c for rows in page.cells.values() for row in rows for c in row]
    marked = [c for c in cells if 0.7 < float(c.attributes.get("data-value") or 0) < 0.7001]
    assert len(marked) > 30
    assert all("paper" in cell.classes for cell in marked)


def test_what_may_vary_is_marked_and_all_else_is_the_same(write, study, tables):
    other = {
        **study,
        "runs": [{**run, "metrics": {**run["metrics"], "seconds": 7.5}} for run in study["runs"]],
        "commands": ["hmc-fast study --resume", "hmc-fast study --resume"],
        "config": {**study["config"], "out": "elsewhere"},
        "files": {
            **study["files"],
            "runs/hmc/metrics.json": "ef" * 32,
            "tables/training.csv": "ef",
        },
    }
    first = {
        **study,
        "config": {**study["config"], "out": "here"},
        "files": {
            **study["files"],
            "runs/hmc/metrics.json": "00" * 32,
            "tables/training.csv": "00",
        },
    }
    slower = [
        made._replace(rows=[[*row[:-2], row[-2] * 3, row[-1] / 3] for row in made.rows])
        if made.name == "training"
        else made
        for made in tables
    ]
    pages = write(first, tables), write(other, slower)
    assert pages[0] != pages[1]
    assert without_varying(pages[0]) == without_varying(pages[1])


def test_a_result_that_differs_is_seen_without_what_may_vary(write, study, text):
    one = write(study, [table(["hmc", 0.5])], {})
    two = write(study, [table(["hmc", 0.500001])], {})
    assert without_varying(one) != without_varying(two)
    assert len(without_varying(text)) > 0.9 * len(text)


def test_a_figure_of_times_may_vary(write, study):
    text = write(study, [], {"speed": figure(header=("model", "batch 1 ms"))})
    assert "figures/speed.csv" in text
    assert "figures/speed.csv" not in without_varying(text)


def test_everything_given_is_escaped(write):
    study = tiny_study(2)
    study["dataset"].update(name=HOSTILE, warnings=[HOSTILE])
    for run in study["runs"]:
        run.update(name=HOSTILE, variant=HOSTILE, folder=HOSTILE, protocol=HOSTILE)
        run["environment"] = {HOSTILE: [HOSTILE], "commit": HOSTILE}
    study.update(commands=[HOSTILE], files={HOSTILE: HOSTILE}, config={HOSTILE: HOSTILE})
    hostile = StudyTable("t", HOSTILE, [HOSTILE, "paper"], [[HOSTILE, HOSTILE]], [HOSTILE])
    text = write(study, [hostile], {"<b>": figure()}, [HOSTILE], left_out=["{{ 7 * 7 }}"])
    assert text.count("<script") == 1
    page = StudyPage(text)
    assert "b" not in {tag for tag, _ in page.tags}
    assert page.text.count(HOSTILE) > 20
    assert "{{ 7 * 7 }}" in page.text


def test_the_leak_study_is_labelled(page, write):
    assert "An experiment on leakage: the rows image and leaky estimate nothing" in page.text
    without = StudyPage(write(tiny_study(1, leak=False), [], {}))
    assert "leakage" not in without.text
    assert "part-leak" not in without.attributes("id")


def test_a_note_of_several_tables_is_said_once(write, study):
    tables = [
        table(["hmc", 1])._replace(name=name, notes=["Of both.", f"Of {name} alone."])
        for name in ("one", "two")
    ]
    page = StudyPage(write(study, tables, {}))
    assert [page.text.count(note) for note in ("Of both.", "Of one alone.")] == [1, 1]
    assert page.attributes("href").count("#note-1") == 2


def test_how_it_was_made(write, study):
    machine = {"commit": "c0ffee", "packages": {"torch": "2.14.1"}}
    runs = [{**run, "environment": machine} for run in study["runs"]]
    runs[1] = {**runs[1], "environment": {**machine, "commit": "beef"}}
    study = {**study, "runs": runs, "leak": []}
    page = StudyPage(write(study, [], {}, left_out=["No table of ranks: one model."]))
    assert "hmc-fast study --data phantom --out study" in page.text
    assert "No table of ranks: one model." in page.text
    assert page.row("made-study", "image_size") == ["64"]
    assert page.row("made-machine", "packages.torch") == ["2.14.1"]
    assert page.row("made-machine", "commit") == [
        "hmc: c0ffee; hierarchical: beef; multiscale: c0ffee; resnet50: c0ffee"
    ]
    assert "44 of the 44 items" in page.text
    assert "27 of the 27 items" in page.text


def test_settings_that_differ_are_named_by_run(page):
    (protocols,) = page.row("made-runs", "protocol")
    assert protocols == (
        "hmc: patient; hierarchical: patient; multiscale: patient; resnet50: patient; "
        "hmc-image: image; hmc-leaky: leaky"
    )


def test_an_interval_without_width_is_said_not_to_be_certainty(write, page):
    assert "see exact_intervals" not in page.text
    study = tiny_study(1, leak=False)
    study["runs"][0]["metrics"]["pooled"]["intervals"]["accuracy"] = [0.5, 0.5]
    assert "not from certainty: see exact_intervals" in StudyPage(write(study, [], {})).text


@pytest.mark.parametrize(
    ("value", "digits", "expected"),
    [
        (0.12345, 3, "0.123"),
        (0.00012, 3, "0.0001"),
        (-0.00004, 3, "-4e-05"),
        (0.0, 3, "0.000"),
        (33106695, 3, "33\N{NO-BREAK SPACE}106\N{NO-BREAK SPACE}695"),
        (322, 3, "322"),
        (np.int64(12345), 3, "12\N{NO-BREAK SPACE}345"),
        (np.float32(0.25), 3, "0.250"),
        (True, 3, "yes"),
        (None, 3, DASH),
        (float("inf"), 3, DASH),
        ("hmc", 3, "hmc"),
        (12.34, 1, "12.3"),
    ],
)
def test_shown(value, digits, expected):
    assert shown(value, digits) == expected


def test_a_longer_known_beginning_names_a_figure_better():
    assert described("fig11b_critical_difference")[0].startswith("Figure 11, all models")
    assert described("fig11_critical_difference")[0].startswith("Figure 11. ")
    assert described("some_thing")[0] == "Some thing"


@pytest.mark.parametrize(
    ("name", "section"),
    [
        ("table3_accuracy", "performance"),
        ("fig6_metric_spread", "performance"),
        ("pairs_by_patients", "differences"),
        ("table8_nemenyi_all", "differences"),
        ("corrected_t", "differences"),
        ("leak_differences", "leak"),
        ("leak", "leak"),
        ("gamma", "attention"),
        ("table6_localisation", "explanations"),
        ("fig9_10_heatmaps", "explanations"),
        ("table2_complexity", "networks"),
        ("fig8_curves", "training"),
        ("table7_literature", "paper-itself"),
        ("paper_against_itself", "paper-itself"),
        ("unheard_of", "more"),
    ],
)
def test_sections(name, section):
    assert section_of(name) == section
