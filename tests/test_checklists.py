"""Checklists: every item is there, answered from the study where it knows, or the author's."""

import pytest

from hmc_fast.evaluation.checklist_answers import AUTHOR, NO_PATIENTS
from hmc_fast.evaluation.checklists import CLAIM, TRIPOD, checklist
from tiny_study import tiny_study

# items with letters in the published TRIPOD+AI list, and their last letter
LETTERS = {3: "c", 5: "b", 6: "c", 8: "c", 9: "c", 12: "g", 18: "f", 20: "c", 23: "b", 27: "c"}


def answered(name, study):
    return {line.item: line.answer for line in checklist(study) if line.checklist == name}


@pytest.fixture(scope="module")
def study():
    study = tiny_study()
    study["runs"][0]["config"].update(lr=1e-4, seed=0)
    return study


def test_every_item_of_claim_once(study):
    items = [line.item for line in checklist(study) if line.checklist == CLAIM]
    assert items == [str(number) for number in range(1, 45)]


def test_every_line_of_tripod_once(study):
    expected = []
    for number in range(1, 28):
        last = LETTERS.get(number)
        letters = "abcdefg"[: "abcdefg".index(last) + 1] if last else ""
        expected += [f"{number}{letter}" for letter in letters] or [str(number)]
    assert [line.item for line in checklist(study) if line.checklist == TRIPOD] == expected
    assert len(expected) == 52


def test_no_answer_is_empty_and_what_no_run_can_know_is_the_authors(study):
    lines = checklist(study)
    assert all(line.answer and line.topic for line in lines)
    for name, items in ((CLAIM, ("2", "3", "34", "40", "44")), (TRIPOD, ("3c", "17", "18a", "26"))):
        assert all(answered(name, study)[item] == AUTHOR for item in items)


@pytest.mark.parametrize(
    ("name", "item", "part"),
    [
        (CLAIM, "7", "made up: 80 images of 40 patients"),
        (CLAIM, "9", "64 x 64 px"),
        (CLAIM, "19", "5 folds of whole patients, stratified by their worst class, seed 0"),
        (CLAIM, "20", "broken on purpose in the leak study (image, leaky)"),
        (CLAIM, "22", "hmc 33\N{NO-BREAK SPACE}000\N{NO-BREAK SPACE}000 parameters, 9.00 GMAC"),
        (CLAIM, "25", "learning rate 0.0001, 16 steps a fold"),
        (CLAIM, "26", "the last step's weights are tested"),
        (CLAIM, "29", "95 % percentile bootstrap, 200 draws of whole patients"),
        (CLAIM, "31", "heatmaps of hmc"),
        (CLAIM, "36", "normal 40, benign 20, malignant 20"),
        (TRIPOD, "21", "16, 16, 16, 16, 16"),
        (TRIPOD, "13", AUTHOR),
    ],
)
def test_answers_by_hand(study, name, item, part):
    assert part in answered(name, study)[item]


def test_errors_are_counted(study):
    run = study["runs"][0]
    wrong = sum(run["probabilities"].argmax(1) != run["labels"])
    assert f"hmc is wrong on {wrong} of 80 images" in answered(CLAIM, study)["39"]


def test_answers_follow_the_study():
    study = tiny_study(1, leak=False, explanations=False)
    study["dataset"]["name"] = "phantom"
    study["runs"][0]["config"].update(
        validation_fraction=0.2, weights="resnet.safetensors", class_weights="balanced"
    )
    claim, tripod = answered(CLAIM, study), answered(TRIPOD, study)
    assert claim["11"] == tripod["17"] == NO_PATIENTS
    assert "drawn by this software" in claim["7"]
    assert "leak" not in claim["20"] + claim["30"]
    assert claim["31"] == "none here"
    assert claim["24"] == "ResNet backbones from resnet.safetensors"
    assert "the epoch, on 20 %" in claim["26"]
    assert "weighted (balanced)" in tripod["13"]


def test_versions_are_named():
    study = tiny_study(1, leak=False, explanations=False)
    study["runs"][0]["environment"] = {
        "hmc_fast": "0.1.0",
        "commit": "c0ffee",
        "python": "3.11.7",
        "packages": {"torch": "2.14.1", "triton": None},
    }
    expected = "hmc-fast 0.1.0, Python 3.11.7, torch 2.14.1, commit c0ffee"
    assert answered(CLAIM, study)["23"] == expected


def test_every_commit_is_named():
    study = tiny_study(2, leak=True, explanations=False)
    for run, commit in zip([*study["runs"], *study["leak"][1:]], "abca", strict=True):
        run["environment"] = {"hmc_fast": "0.1.0", "commit": commit}
    expected = "hmc-fast 0.1.0, commit a and b and c"
    assert answered(CLAIM, study)["23"] == expected
