"""docs/results.md: made from what was copied of a study, without a film, and no number is typed."""

import csv
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from hmc_fast.evaluation.study_figure_set import study_figures_of
from hmc_fast.evaluation.study_table import write_tables
from hmc_fast.models.outline import outline
from hmc_fast.study import job, write
from study_cells import accuracies, full_study, full_tables
from tiny import tiny_layers
from tiny_study import tiny_study

ROOT = Path(__file__).resolve().parents[1]
sys.path.append(str(ROOT / "docs"))

import make_results  # noqa: E402

NAME = "phantom-64px"
BLOCKS = ("settings", "findings", "table3_accuracy", "table8_nemenyi", "corrected_t", "leak_study",
          "paper_against_itself", "fig5_metric_spread", "leak")  # fmt: skip
COMMAND = "hmc-fast study --data=mias:/home/me/films --lr 0.1 --out '/home/me/a study'"


@pytest.fixture
def study(tmp_path):
    """The folder of a finished study, pictures of films among its figures."""
    folder = tmp_path / "study"
    write_tables(full_tables().values(), folder / "tables")
    for name in ("figures", "explain", "runs/hmc"):
        (folder / name).mkdir(parents=True)
    for name in ("fig5_metric_spread", "leak", "fig9_10_heatmaps"):
        Image.new("RGB", (2400, 1200), "white").save(folder / "figures" / f"{name}.png")
    Image.new("L", (8, 8)).save(folder / "explain" / "film.png")
    training = {"data": "mias:/home/me/films", "image_size": 64, "epochs": 2, "augmented": None}
    training |= {"batch_size": 8, "lr": 0.1, "folds": 5, "seed": 0, "class_weights": "none"}
    values = {"training": training, "variants": "hmc,resnet50", "leak_variant": "hmc"}
    values |= {"leak_epochs": None, "leak_augmented": 4000}
    (folder / "study.json").write_text(json.dumps(values))
    (folder / "commands.json").write_text(json.dumps({"commands": [COMMAND, COMMAND]}))
    (folder / "findings.txt").write_text("One thing was found.\nEvery |gamma| is small.\n")
    environment = {"hmc_fast": "0.1.0", "commit": None, "packages": {"torch": "2.14.1"}}
    environment |= {"cpu": {"cores": 2, "model": "A chip"}, "precision": {"amp": "bf16"}}
    (folder / "runs" / "hmc" / "env.json").write_text(json.dumps(environment))
    return folder


@pytest.fixture
def page(tmp_path, monkeypatch):
    """A page with a block of each kind, not filled yet."""
    path = tmp_path / "results.md"
    blocks = [f"<!-- begin {NAME}:{name} -->\n<!-- end {NAME}:{name} -->\n" for name in BLOCKS]
    path.write_text("\n".join(["# Title", *blocks, "The end."]))
    monkeypatch.setattr(make_results, "PAGE", path)
    monkeypatch.setattr(make_results, "RESULTS", tmp_path / "results")
    return path


def block(page: Path, name: str) -> list[str]:
    """The lines between the comments."""
    begin, end = f"<!-- begin {NAME}:{name} -->\n", f"<!-- end {NAME}:{name} -->"
    return page.read_text().split(begin)[1].split(end)[0].splitlines()


def cells(page: Path, name: str) -> dict[str, dict[str, str]]:
    """{first cell: {header: cell}} of a table."""
    header, _, *rows = (line.strip("| ").split(" | ") for line in block(page, name))
    return {row[0]: dict(zip(header, row, strict=True)) for row in rows}


def copied(page: Path) -> set[str]:
    return {path.name for path in (page.parent / "results" / NAME).iterdir()}


def test_the_page_is_made_from_what_was_copied():
    command = [sys.executable, str(ROOT / "docs" / "make_results.py"), "--check"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_figures_are_rounded_and_stand_beside_their_interval(study, page):
    make_results.main([str(study), NAME])
    run = full_study()["runs"][0]
    right = run["probabilities"].argmax(axis=1) == run["labels"]
    low, high = run["metrics"]["pooled"]["intervals"]["accuracy"]
    row = cells(page, "table3_accuracy")["hmc"]
    assert row["mean"] == f"{accuracies(run).mean():.3f}"
    assert row["pooled [low, high]"] == f"{right.mean():.3f} [{low:.3f}, {high:.3f}]"
    with open(study / "tables" / "corrected_t.csv", newline="") as file:
        first = next(csv.DictReader(file))
    ends = [float(first[name]) for name in ("mean difference", "low", "high")]
    row = cells(page, "corrected_t")["hmc and hierarchical"]
    assert row["mean difference [low, high]"] == "{:.3f} [{:.3f}, {:.3f}]".format(*ends)
    assert row["error"] == f"{float(first['error']):.3f}"


def test_the_papers_figures_stand_in_columns_of_their_own_as_printed(study, page):
    make_results.main([str(study), NAME])
    rows = cells(page, "table3_accuracy")
    assert (rows["hmc"]["*paper*"], rows["hmc"]["*paper sd*"]) == ("*0.9972*", "*0.0005*")
    assert rows["resnet50"]["*paper*"] == "–"
    assert cells(page, "table8_nemenyi")["hmc"]["*paper p, resnet50*"] == "*0.0022*"
    for name in ("table3_accuracy", "table8_nemenyi"):
        for row in cells(page, name).values():
            assert all(("*" in header) or ("*" not in cell) for header, cell in row.items())
    assert cells(page, "paper_against_itself")["Cohen's d"]["printed"] == "1.2"


def test_no_picture_of_a_film_is_copied(study, page):
    make_results.main([str(study), NAME])
    pictures = {name for name in copied(page) if not name.endswith((".csv", ".txt"))}
    assert pictures == {"fig5_metric_spread.png", "leak.png"}
    with Image.open(page.parent / "results" / NAME / "leak.png") as small:
        assert small.size == (1100, 550)
    assert block(page, "leak")[0].endswith(f"](results/{NAME}/leak.png)")


@pytest.mark.parametrize("word", [f"{NAME}:fig9_10_heatmaps", "../x:leak", "leak"])
def test_a_block_that_nothing_may_fill_is_refused(study, page, word):
    before = page.read_text() + f"<!-- begin {word} -->\n<!-- end {word} -->\n"
    page.write_text(before)
    with pytest.raises(SystemExit, match=f"{word.rpartition(':')[2]} must be NAME:BLOCK"):
        make_results.main([str(study), NAME])
    assert page.read_text() == before
    assert not (page.parent / "results").exists()


@pytest.mark.parametrize(
    ("more", "name"),
    [
        (f"<!-- begin {NAME}:folds -->\n", "folds"),
        (f"<!-- begin {NAME}:leak -->\n<!-- end {NAME}:leak -->\n", "leak"),
    ],
)
def test_a_block_without_an_end_or_twice_is_refused(page, more, name):
    page.write_text(page.read_text() + more)
    with pytest.raises(SystemExit, match=f"must hold .*<!-- end {NAME}:{name} -->, once"):
        make_results.main([])


def test_settings_say_no_folder(study, page):
    make_results.main([str(study), NAME])
    rows = {name: row["value"] for name, row in cells(page, "settings").items()}
    assert rows["commands"] == "hmc-fast study --data mias:DIR --lr 0.1 --out DIR"
    assert rows["images"] == "80 of 40 patients, mias"
    assert (rows["budget of a fold"], rows["machine"]) == ("2 epochs", "2 cores of A chip")
    assert rows["its budget, where it has its own"] == "4000 augmented images"
    files = (page.parent / "results" / NAME).glob("*.[ct]*")
    assert not [path for path in files if "/home/me" in path.read_text()]


@pytest.mark.parametrize("changed", ["page", "table", "findings"])
def test_the_check_finds_what_was_changed(study, page, changed):
    make_results.main([str(study), NAME])
    make_results.main(["--check"])
    folder = page.parent / "results" / NAME
    path, old, new = {
        "page": (page, f"{accuracies(full_study()['runs'][0]).mean():.3f}", "0.999"),
        "table": (folder / "leak_study.csv", "patient", "patients"),
        "findings": (folder / "findings.txt", "One", "No"),
    }[changed]
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))
    before = page.read_text()
    with pytest.raises(SystemExit, match=r"results\.md differs from docs/results"):
        make_results.main(["--check"])
    assert page.read_text() == before


def test_the_text_around_the_blocks_stays_and_an_old_copy_goes(study, page):
    make_results.main([str(study), NAME])
    (study / "tables" / "leak_study.csv").unlink()
    (study / "figures" / "leak.png").unlink()
    make_results.main([str(study), NAME])
    assert not {"leak_study.csv", "leak.png"} & copied(page)
    assert block(page, "leak_study") == ["*Not part of this study: the leak study.*"]
    assert block(page, "leak")[0].startswith("*Not part of this study: balanced accuracy,")
    assert block(page, "findings") == ["- One thing was found.", "- Every |gamma| is small."]
    text = page.read_text()
    assert text.startswith("# Title\n")
    assert text.endswith("The end.")


def test_a_study_that_was_not_run_is_said_to_be_missing(page):
    make_results.main([])
    said = f"*Not run yet: `docs/results/{NAME}` holds no study.*"
    assert {line for name in BLOCKS for line in block(page, name)} == {said}


@pytest.mark.parametrize(
    ("missing", "name", "message"),
    [
        ("findings.txt", NAME, r"no finished study \(findings.txt is missing\).*--resume"),
        ("study.json", NAME, r"no finished study \(study.json is missing\)"),
        (None, "other", "has no block of other"),
    ],
)
def test_what_cannot_be_copied_is_refused_in_a_sentence(study, page, missing, name, message):
    if missing:
        (study / missing).unlink()
    with pytest.raises(SystemExit, match=message):
        make_results.main([str(study), name])
    assert not (page.parent / "results").exists()


def test_a_finished_study_has_what_is_copied():
    files = {job.SETTINGS, job.COMMANDS, write.FINDINGS, write.TABLES}
    assert set(make_results.SOURCES) == files


@pytest.mark.parametrize("words", [["folder"], ["folder", NAME, "--check"]])
def test_half_a_command_is_refused(page, words, capsys):
    with pytest.raises(SystemExit, match="2"):
        make_results.main(words)
    assert "give STUDY and NAME, or nothing, or --check alone" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["study.md", "results.md"])
def test_links_of_the_pages_lead_to_files(name):
    links = re.findall(r"\]\((?!https?:|#)([^)#]+)", (ROOT / "docs" / name).read_text())
    assert links
    assert [link for link in links if not (ROOT / "docs" / link).exists()] == []


def test_the_guide_names_every_table_and_figure():
    text = (ROOT / "docs" / "study.md").read_text()
    every = tiny_study(5)  # one network more than the paper's: the second figures too
    names = [*full_tables(), *study_figures_of(every, outline(tiny_layers(3), 64))]
    assert [name for name in names if f"`{name}`" not in text] == []


def test_films_are_known_only_by_their_numbers():
    """No block of the page shows a table with a row a film."""
    films = set(full_study()["runs"][0]["images"])
    shown = [full_tables()[name] for name in make_results.TABLES if name in full_tables()]
    assert len(shown) == len(make_results.TABLES)
    assert not films & {cell for table in shown for row in table.rows for cell in row}
