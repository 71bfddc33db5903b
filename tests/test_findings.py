"""The paragraph of findings: what it may say, and on what ground."""

import numpy as np
import pytest

from hmc_fast.evaluation import paper, study_comparisons
from hmc_fast.evaluation.comparison_findings import p_text
from hmc_fast.evaluation.findings import findings
from hmc_fast.evaluation.summary import metrics_document
from tiny_study import tiny_study

LEAD = "the balanced accuracy of"
GAMMAS = (-0.4, 0.4, -0.2, 0.2, 0.0)


@pytest.fixture(autouse=True)
def few_draws(monkeypatch):
    monkeypatch.setattr(study_comparisons, "RESAMPLES", 1000)


def starting(sentences, start):
    return [sentence for sentence in sentences if sentence.startswith(start)]


def balanced_accuracy(run):
    """By hand: the mean share of right images over the classes."""
    right = run["probabilities"].argmax(axis=1) == run["labels"]
    return np.mean([right[run["labels"] == c].mean() for c in np.unique(run["labels"])])


def test_who_learned_more_than_the_majority_stands_with_its_interval():
    study = tiny_study(7, leak=False, explanations=False)
    above, others = findings(study)[:2]
    assert above.startswith("More than always predicting “normal” (balanced accuracy 0.333) was")
    hmc = study["runs"][0]
    low, high = hmc["metrics"]["pooled"]["intervals"]["balanced_accuracy"]
    value = f"{balanced_accuracy(hmc):.3f}"
    assert f"hmc {value} (95 % interval {low:.3f} to {high:.3f})" in above
    assert others.startswith("No more than always predicting “normal”")
    assert "vit_b_16" in others
    assert "vit_b_16" not in above


def test_models_that_know_nothing_lead_nobody():
    sentences = findings(tiny_study(4, strength=0))
    assert not [s for s in sentences if "is higher than" in s]
    assert not starting(sentences, "More than")
    assert starting(sentences, "Not told apart by their balanced accuracy after Holm's adjustment")


def test_a_lead_stands_with_its_difference_interval_and_p():
    study = tiny_study(2, leak=False, explanations=False)
    first, second = study["runs"]
    difference = balanced_accuracy(first) - balanced_accuracy(second)
    (sentence,) = [s for s in findings(study) if LEAD in s and "higher" in s]
    assert f"{LEAD} hmc is higher than that of hierarchical by {difference:.3f} (95 %" in sentence
    assert "p = 0.0" in sentence


def test_the_lead_of_the_second_model_has_an_interval_of_the_same_sign():
    study = tiny_study(2, leak=False, explanations=False)
    (before,) = [s for s in findings(study) if LEAD in s and "higher" in s]
    study["runs"].reverse()
    (after,) = [s for s in findings(study) if LEAD in s and "higher" in s]
    assert after == before


@pytest.mark.parametrize("runs", [2, 4, 7])
def test_no_sentence_speaks_of_a_lead_without_an_interval(runs):
    for sentence in findings(tiny_study(runs)):
        for part in sentence.split(";"):
            if "higher" in part or "instead of" in part:
                assert "interval" in part


def test_with_attention_off_no_variant_is_called_better():
    sentences = findings(tiny_study(4, gamma=0.045, leak=False))
    assert not [s for s in sentences if "is higher than" in s]
    assert starting(sentences, "The attention of hmc, hierarchical, multiscale is practically off")
    assert not [s for s in sentences if "told apart" in s.lower()]  # every pair has such a model
    gammas = starting(sentences, "Gamma of")
    assert len(gammas) == 3
    assert all("attention is practically off" in sentence for sentence in gammas)
    # 0.045 less 0.01 from fold to fold
    assert "lowest to highest fold: ha1 0.0050 to 0.0450, ha2 0.0050 to 0.0450" in gammas[0]


def test_gammas_of_both_signs_do_not_cancel():
    study = tiny_study(1, leak=False)
    for fold, gamma in zip(study["runs"][0]["metrics"]["per_fold"], GAMMAS, strict=True):
        fold["gamma"] = {"ha1": gamma, "ha2": 0.1}
    (sentence,) = starting(findings(study), "Gamma of hmc")
    assert "ha1 -0.4000 to 0.4000, ha2 0.1000. The largest |gamma| is 0.400 (ha1" in sentence


def test_a_model_of_one_class_is_no_certainty():
    study = tiny_study(2, leak=False)
    for run in study["runs"]:
        only_normal(run)
    sentences = findings(study)
    for run in study["runs"]:
        assert starting(
            sentences, f"{run['name']} predicts “normal” for every image (balanced accuracy 0.333)"
        )
    assert not starting(sentences, "No more than") + starting(sentences, "More than")
    (pair,) = starting(sentences, "Not told apart by their balanced accuracy")
    assert "hmc and hierarchical 0.000 (every draw of patients gives the same)" in pair
    assert not [s for s in sentences if "0.333 to 0.333" in s or "0.000 to 0.000" in s]


def only_normal(run):
    """Makes a run predict the first class for every film."""
    run["probabilities"] = np.tile([0.6, 0.2, 0.2], (len(run["labels"]), 1))
    run["metrics"] = metrics_document(
        run["labels"],
        run["probabilities"],
        run["patients"],
        run["folds"],
        ("normal", "benign", "malignant"),
        seconds=1,
        gammas={},
        resamples=50,
    )


def test_models_without_attention_have_no_gamma():
    study = tiny_study(7, leak=False)
    study["runs"] = study["runs"][3:]
    assert not starting(findings(study), "Gamma")


def test_a_gamma_that_is_no_number_is_said():
    study = tiny_study(1)
    study["runs"][0]["metrics"]["per_fold"][0]["gamma"]["ha1"] = None
    assert "the training has diverged" in starting(findings(study), "Gamma of hmc")[0]


def test_leaks_are_no_estimates_and_the_smaller_one_comes_first():
    study = tiny_study(1)
    sentences = [s for s in findings(study) if "on both sides of the split" in s]
    assert [("films" in s, "augmented" in s) for s in sentences] == [(True, False), (False, True)]
    values = [f"{balanced_accuracy(run):.3f}" for run in study["leak"]]
    for sentence, value in zip(sentences, values[1:], strict=True):
        assert f"is {value} instead of {values[0]}" in sentence
        assert "interval of the difference" in sentence
        assert sentence.endswith("this is not an estimate of anything.")
    assert "chance" not in sentences[1]


def test_a_leak_that_changes_little_is_within_chance():
    study = tiny_study(1)
    leaky, honest = study["leak"][2], study["runs"][0]
    leaky["probabilities"] = honest["probabilities"].copy()
    wrong = np.flatnonzero(honest["probabilities"].argmax(axis=1) != honest["labels"])[0]
    leaky["probabilities"][wrong] = np.eye(3)[honest["labels"][wrong]]
    (sentence,) = [s for s in findings(study) if "augmented" in s]
    assert " more (95 % interval of the difference" in sentence
    assert "which chance alone can give" in sentence


def test_a_leak_that_changes_nothing_makes_no_difference():
    study = tiny_study(1)
    leaky = study["leak"][2]
    leaky["probabilities"], leaky["metrics"] = (
        study["runs"][0][k] for k in ("probabilities", "metrics")
    )
    (sentence,) = [s for s in findings(study) if "augmented" in s]
    assert "no difference (every draw of patients gives the same, p = 1.000): this" in sentence
    assert "chance" not in sentence
    assert "less" not in sentence


def test_every_mean_says_of_how_many_films_it_is():
    study = tiny_study(1)
    study["explanations"]["table"][0] |= {"images": 1, "left_out": 2, "low": None, "high": None}
    (sentence,) = starting(findings(study), "Mean IoU of the maps of hmc at layer4")
    assert "grad-cam 0.100 (1 of 3 films), grad-cam++ 0.200 (95 % interval" in sentence
    assert "0.050 to 0.400) (3 of 3 films)" in sentence
    assert sentence.endswith("no map of so few cells can pass 0.510 on these 3 masks.")


@pytest.mark.parametrize(
    ("mias", "pixels", "bound", "names"),
    [
        (True, 224, 0.51, ["0.62 (grad-cam)", "0.65 (grad-cam++)", "0.68 (score-cam)"]),
        (True, 224, 0.66, ["0.68 (score-cam)"]),
        (True, 224, 0.7, []),
        (True, 64, 0.3, []),  # 2 x 2 cells say nothing about the paper's 7 x 7
        (False, 224, 0.51, []),
    ],
)
def test_the_papers_table_6_is_named_where_it_is_above_the_bound(mias, pixels, bound, names):
    study = tiny_study(1)
    study["runs"][0]["config"]["image_size"] = pixels
    study["dataset"]["mias"] = mias
    for row in study["explanations"]["table"]:
        row["bound"] = bound if row["figure"] == "iou" else None
    sentences = starting(findings(study), "The paper's Table 6")
    assert len(sentences) == bool(names)
    if names:
        assert f"has {', '.join(names)}, above what any map of so few cells" in sentences[0]
        assert sentences[0].endswith("can reach on these 3 masks.")


def test_only_on_all_masks_of_mias_the_papers_iou_cannot_be():
    assert paper.above_bound(0.46, 109).endswith(
        "on these 109 masks, all that MIAS has: it cannot be the IoU of whole images at half the "
        "maximum"
    )
    assert "cannot" not in paper.above_bound(0.46, 108)
    assert paper.above_bound(0.69, 109) == ""


def test_ranks_stand_beside_with_their_power():
    sentences = findings(tiny_study(4))
    (place,) = [i for i, s in enumerate(sentences) if s.startswith("Beside this, mean ranks")]
    assert "; hmc and resnet50 further apart than Nemenyi's critical" in sentences[place]
    assert "critical difference of 2.098" in sentences[place]
    assert sentences[place + 1].startswith("With 5 folds and 4 models")


def test_a_single_model_and_no_model():
    sentences = findings(tiny_study(1, leak=False, explanations=False))
    assert "There is one model only: nothing is compared." in sentences
    with pytest.raises(ValueError, match="one finished run or more"):
        findings(tiny_study(1) | {"runs": []})


def test_p_values_are_never_zero():
    assert [p_text(p) for p in (0.0002, 0.001, 0.0412)] == ["p < 0.001", "p = 0.001", "p = 0.041"]
