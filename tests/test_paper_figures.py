"""The paper's figures as data: consistent where they should be, and its contradictions computed."""

import numpy as np
import pytest
from scikit_posthocs import posthoc_nemenyi_friedman
from scipy.stats import rankdata

from hmc_fast.evaluation import paper
from hmc_fast.evaluation.literature import literature_table
from hmc_fast.evaluation.metrics import classification_metrics
from hmc_fast.evaluation.paper_against_itself import paper_against_itself
from hmc_fast.explain import table as explain_table
from hmc_fast.profiling import paper as profiling_paper

COUNTS = (207, 64, 51)  # images of MIAS by class, the rows of Figure 7
FROM_FIGURE_7 = {  # design 2, in per cent
    "accuracy": 99.69,
    "precision": 99.36,
    "sensitivity": 99.48,
    "specificity": 99.88,
    "f1": 99.41,
}


def claims():
    """{figure: (printed, what follows, from what)}."""
    return {row[0]: row[1:] for row in paper_against_itself().rows}


def one_error_matrices():
    for truth in range(3):
        for predicted in {0, 1, 2} - {truth}:
            counts = np.diag(COUNTS)
            counts[truth, truth] -= 1
            counts[truth, predicted] += 1
            yield counts


def test_figure_7_is_the_one_matrix_with_one_error_that_gives_its_figures():
    fitting = []
    for counts in one_error_matrices():
        cells = np.argwhere(counts >= 0).repeat(counts.ravel(), axis=0)
        found = classification_metrics(cells[:, 0], np.eye(3)[cells[:, 1]], paper.CLASSES)
        if all(round(100 * found[m], 2) == value for m, value in FROM_FIGURE_7.items()):
            fitting.append(counts.tolist())
    assert fitting == [[list(row) for row in paper.FIGURE_7]]


def test_the_predictions_of_figure_7_have_its_counts():
    labels, probabilities = paper.figure_7_predictions()
    predicted = probabilities.argmax(axis=1)
    assert np.bincount(labels).tolist() == list(COUNTS)
    assert [(int(a), int(b)) for a, b in zip(labels, predicted, strict=True) if a != b] == [(1, 2)]


@pytest.mark.parametrize(("metric", "percent"), FROM_FIGURE_7.items())
def test_what_follows_from_figure_7_stands_beside_what_is_printed(metric, percent):
    name = "F1" if metric == "f1" else metric
    printed, follows, source = claims()[f"{name} of hmc"]
    assert printed == f"{100 * paper.RESULTS['hmc'][metric].mean:.2f} %"
    assert follows == f"{percent:.2f} %"
    assert printed != follows
    assert "1 error in 322 images" in source


def test_no_accuracy_of_a_fold_can_be_that_of_whole_patients():
    printed, follows, source = claims()["accuracy of the folds"]
    assert printed == "99.68 % to 99.80 %"
    assert follows == "100 %, or 98.48 % and below"  # 65 of 66
    assert "64 or 66 test images, one error is 1.52 or 1.56 points" in source


def test_the_ranks_give_table_8_and_not_its_critical_difference():
    ranks = rankdata(-paper.rank_scores(), axis=1)
    np.testing.assert_allclose(ranks.mean(axis=0), list(paper.RANKS.values()))
    expected = posthoc_nemenyi_friedman(paper.rank_scores()).to_numpy()
    for (first, second), p_value in paper.TABLE_8.items():
        pair = paper.MODELS.index(first), paper.MODELS.index(second)
        assert p_value == pytest.approx(expected[pair], abs=5e-5)
    found = claims()
    assert found["q and critical difference"][1] == "2.569 and 2.098"
    assert "agrees" in found["Nemenyi's p of six pairs (Table 8)"][1]
    assert found["Friedman's p"][1].startswith("0.0020, exact 6.0e-06: agrees")
    pair = found["resnet50 against hierarchical"]
    assert pair[:2] == ["p = 0.0496: significant", "not significant: 2.10 apart, 2.41 is needed"]
    assert pair[2].endswith("the right one, 2.098, 2.10 apart is significant, as p = 0.0496 says")


def test_what_is_quoted_is_said_not_to_be_computed():
    (note,) = paper_against_itself().notes
    assert "The two: the 8.8 of Cohen's d is quoted, not computed here" in note
    assert "both figures of the AUC are printed" in note


def test_a_claim_that_does_not_follow_differs(monkeypatch):
    monkeypatch.setitem(paper.TABLE_8, ("hmc", "resnet50"), 0.01)
    monkeypatch.setattr(paper, "FRIEDMAN_P", 0.02)
    found = claims()
    assert found["Nemenyi's p of six pairs (Table 8)"][1].endswith("differs")
    assert found["Friedman's p"][1].endswith("differs")


def test_what_the_paper_does_not_give_is_none():
    assert paper.spread("resnet50", "accuracy") is None
    assert paper.spread("hmc", "balanced_accuracy") is None
    assert paper.nemenyi_p("hmc", "vgg16") is None
    assert paper.nemenyi_p("resnet50", "hmc") == paper.nemenyi_p("hmc", "resnet50") == 0.0022


def test_other_modules_have_the_same_figures():
    assert profiling_paper.PAPER == paper.TABLE_2
    assert explain_table.PAPER_IOU == paper.TABLE_6


def test_the_literature_is_said_not_to_be_comparable_and_each_work_has_its_address():
    table = literature_table()
    assert table.all_paper
    assert paper_against_itself().all_paper
    assert "Not comparable: other data, other splits" in table.title
    addresses = [row[-1] for row in table.rows]
    assert 6 <= len(addresses) == len(set(addresses)) <= 10
    assert all(address.startswith("https://") for address in addresses)
    assert sum("MIAS" in row[2] for row in table.rows) >= 2
