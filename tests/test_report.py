"""The page: whole, self-contained, escaped, and its numbers those of the run."""

import re

import numpy as np
import pytest

from hmc_fast.evaluation.report import wording, write_report
from hmc_fast.evaluation.summary import metrics_document
from report_example import CLASSES, DASH, Page, make_run


def written(run, tmp_path_factory):
    path = tmp_path_factory.mktemp("report") / "report.html"
    write_report(path, run)
    return path.read_text()


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    random = np.random.default_rng(0)
    samples = {
        "titles": ["film00, normal", "film08, benign"],
        "originals": random.integers(0, 256, (2, 16, 16), dtype=np.uint8),
        "variants": random.integers(0, 256, (2, 3, 16, 16), dtype=np.uint8),
    }
    return written(make_run(samples=samples), tmp_path_factory)


@pytest.fixture(scope="module")
def page(text):
    return Page(text)


@pytest.fixture
def page_of(tmp_path_factory):
    return lambda **changes: Page(written(make_run(**changes), tmp_path_factory))


def test_the_page_needs_nothing_from_outside(text, page):
    assert text.startswith("<!DOCTYPE html>")
    assert not re.search(r"https?://|url\(|@import|<script", text)
    assert all(source.startswith("data:") for source in page.attributes("src"))
    links = [link for link in page.attributes("href") if link != "data:,"]
    assert {link[1:] for link in links} <= set(page.attributes("id"))
    assert len(text) < 1_000_000


def test_the_page_is_accessible(page):
    assert ("html", {"lang": "en"}) in page.tags
    assert len([tag for tag, _ in page.tags if tag == "caption"]) == len(page.tables)
    images = [attributes for tag, attributes in page.tags if tag == "img"]
    assert len(images) == 5
    assert all(len(image["alt"]) > 20 for image in images)
    assert len(set(page.attributes("id"))) == len(page.attributes("id"))
    regions = [attributes for _, attributes in page.tags if attributes.get("role") == "region"]
    assert all(region["tabindex"] == "0" for region in regions)
    assert page.text.count("Not a medical device; for research") == 1


def test_fold_table_by_hand(page):
    # fold 0 has 10 of 12 right, fold 1 has 8 of 12: sd = (10/12 - 8/12) / sqrt(2)
    assert page.row("fold-table", "fold 0")[:2] == ["12", "0.833"]
    assert page.row("fold-table", "fold 1")[:2] == ["12", "0.667"]
    assert page.row("fold-table", "mean ± sd")[:2] == ["", "0.750 ± 0.118"]
    assert page.row("fold-table", "pooled")[:3] == ["24", "0.750", "0.750"]
    majority = page.row("fold-table", "always “normal”")
    assert majority == ["24", "0.333", "0.333", "0.667", "0.111", "0.167", "0.500"]


def test_class_and_confusion_tables_by_hand(page):
    assert page.tables["confusion-table"][1:] == [
        ["normal", "6", "2", "0"],
        ["benign", "0", "4", "4"],
        ["malignant", "0", "0", "8"],
    ]
    benign = page.row("class-table", "benign")
    assert benign[:5] == ["8", "0.750", "0.500", "0.875", "0.667"]
    header = page.tables["class-table"][0]
    assert header[2] == "Accuracy, one-vs-rest"


def test_what_else_the_page_tells(page):
    assert page.tables["count-table"][1] == ["normal", "8", "33.3 %"]
    assert page.tables["size-table"][1] == ["fold 0", "12", "6", "4", "4", "4"]
    assert page.row("epoch-table", "fold 1") == ["2", "0.500", "0.500", DASH, "0.500"]
    assert page.row("gamma-table", "ca34") == ["-0.1000", "-0.1000"]
    assert ["augmented", DASH] in page.tables["config-table"]
    assert ["data.size", "64"] in page.tables["config-table"]
    assert ["predictions.csv", "ab" * 32] in page.tables["file-table"]
    assert page.tables["wrong-table"][1] == ["film06", "p03", "1", "normal", "benign", "0.800"]
    for sentence in (
        "2 of 2 folds",
        "2 min 5 s",
        "One film is odd.",
        "A note.",
        "python train.py --seed 0",
        "hmc-fast predict --run runs/hmc-1",
        "test columns are for display and never select",
    ):
        assert sentence in page.text


def test_a_run_that_learned_says_so(page):
    assert "is above the 0.333 of always predicting “normal”: this run learned more" in page.text


def test_a_run_within_chance_says_so(page_of):
    page = page_of(right=np.arange(24) % 8 < 3)
    assert (
        "did not learn more than the majority class by any margin that 12 patients can show"
        in page.text
    )


def test_the_majority_class_itself_did_not_learn(tmp_path_factory):
    run = make_run()
    always = np.tile([0.6, 0.2, 0.2], (24, 1))
    run["predictions"]["probabilities"] = always
    names = ("labels", "probabilities", "patients", "folds")
    arrays = [run["predictions"][name] for name in names]
    run["metrics"] = metrics_document(*arrays, CLASSES, seconds=1, gammas={}, resamples=50)
    page = Page(written(run, tmp_path_factory))
    assert "did not learn more than the majority class. It predicts “normal”" in page.text
    assert "gamma" not in page.text


def test_attention_that_is_off_says_so(page_of):
    assert "attention is practically off, and no variant" in page_of(gamma=0.049).text


def test_everything_given_is_escaped(page_of):
    hostile = "<script>alert(1)</script>\"&'"
    page = page_of(
        classes=(hostile, "<b>", "{{ 7 * 7 }}"),
        variant=hostile,
        command=hostile,
        next_commands=[hostile],
        notes=[hostile],
        config={hostile: hostile},
        environment={hostile: [hostile]},
        files={hostile: hostile},
    )
    tags = {tag for tag, _ in page.tags}
    assert not tags & {"script", "b"}
    assert page.text.count(hostile) > 10
    assert "{{ 7 * 7 }}" in page.text


def test_a_hostile_data_set_name_is_escaped(tmp_path_factory):
    run = make_run()
    run["dataset"]["name"] = "<script>alert(1)</script>"
    text = written(run, tmp_path_factory)
    assert "<script" not in text
    assert "<title>hmc on &lt;script&gt;" in text


def test_one_fold_of_two(page_of):
    page = page_of(folds=(1,))
    assert "Only 1 of 2 folds ran (fold 1)" in page.text
    assert "the 12 test images of 6 patients, not on the whole data set" in page.text
    assert page.row("fold-table", "mean ± sd")[1] == f"0.667 ± {DASH}"
    assert page.row("fold-table", "pooled")[:2] == ["12", "0.667"]


def test_two_classes(page_of):
    page = page_of(classes=("benign", "malignant"), right=np.ones(24, bool))
    assert page.tables["confusion-table"][1:] == [["benign", "16", "0"], ["malignant", "0", "8"]]
    assert "With two classes" in page.text
    assert "No test image was predicted wrongly." in page.text


def test_a_patient_in_two_folds_is_a_warning(tmp_path_factory):
    run = make_run()
    run["predictions"]["patients"][2] = "p00"
    page = Page(written(run, tmp_path_factory))
    assert "Images of 1 patient stand in more than one test fold (p00 first)" in page.text
    assert "images are in one fold only" not in page.text


def test_without_samples_and_attention_there_are_no_such_sections(page_of):
    page = page_of(gamma=None)
    assert len([tag for tag, _ in page.tags if tag == "img"]) == 3
    assert "attention" not in page.attributes("id")


@pytest.mark.parametrize(
    ("value", "expected"),
    [(None, DASH), (float("nan"), DASH), (0.66666, "0.667"), (1, "1.000"), (-1e-5, "0.000")],
)
def test_number(value, expected):
    assert wording.number(value) == expected


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [(3.21, "3.2 s"), (59.4, "59 s"), (59.6, "1 min 0 s"), (125, "2 min 5 s"), (7260, "2 h 1 min")],
)
def test_duration(seconds, expected):
    assert wording.duration(seconds) == expected
