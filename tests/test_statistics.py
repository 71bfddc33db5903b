"""Friedman, Nemenyi and their company against scipy, scikit-posthocs, enumeration and the paper."""

import itertools

import numpy as np
import pytest
from scikit_posthocs import posthoc_nemenyi_friedman
from scipy.stats import friedmanchisquare, rankdata, spearmanr

from hmc_fast.evaluation import rank_permutations, statistics

# mean ranks 1.10, 1.90, 3.00, 4.00 over five folds, the first two tied in one of them
PAPER = -np.array([[1, 2, 3, 4]] * 4 + [[1.5, 1.5, 3, 4]])
MODELS = ("hmc", "hierarchical", "multiscale", "resnet50")
TABLE_8 = {(0, 3): 0.0022, (1, 3): 0.0496, (2, 3): 0.6111, (0, 1): 0.7610, (0, 2): 0.0919}
TABLE_8[1, 2] = 0.5327


def tables(count, seed=0):
    """Score tables of 3 to 8 models and 2 to 12 folds, rounded so that many scores are tied."""
    random = np.random.default_rng(seed)
    for _ in range(count):
        shape = random.integers(2, 13), random.integers(3, 9)
        yield random.normal(0.7, 0.1, shape).round(random.integers(1, 4))


def textbook_friedman(ranks):
    """Sum-of-squares form with ties: (k - 1) Σ_j (S_j - n (k + 1) / 2)² / Σ_ij (r_ij - mean)²,
    of (..., folds, models) ranks."""
    folds, models = ranks.shape[-2:]
    between = ((ranks.sum(axis=-2) - folds * (models + 1) / 2) ** 2).sum(axis=-1)
    return (models - 1) * between / ((ranks - (models + 1) / 2) ** 2).sum(axis=(-2, -1))


def test_friedman_of_the_papers_ranks():
    found = statistics.friedman_test(PAPER)
    assert found.statistic == pytest.approx(14.755, abs=5e-4)
    assert found.p_value == pytest.approx(0.002, abs=5e-4)
    # two orders of the tied pair, and each of the four other folds must follow it
    assert found.exact_p_value == pytest.approx(2 / 24**4, rel=1e-12)
    assert found.enumerated


def test_nemenyi_of_the_papers_ranks_is_its_table_8():
    p_values = statistics.nemenyi_test(PAPER)
    for (i, j), expected in TABLE_8.items():
        assert p_values[i, j] == p_values[j, i] == pytest.approx(expected, abs=5e-5)
    np.testing.assert_array_equal(np.diag(p_values), 1)


def test_average_ranks_are_1_for_the_highest_score_and_shared_where_tied():
    np.testing.assert_allclose(statistics.average_ranks(PAPER), [1.1, 1.9, 3, 4])
    np.testing.assert_array_equal(statistics.average_ranks([[0.9, 0.8, 0.9]]), [1.5, 3, 1.5])


@pytest.mark.parametrize(
    ("models", "alpha", "q"),  # Demšar 2006, table 5(a)
    [(2, 0.05, 1.960), (4, 0.05, 2.569), (7, 0.05, 2.949), (10, 0.05, 3.164), (4, 0.10, 2.291)],
)
def test_critical_difference_has_the_published_q(models, alpha, q):
    found = statistics.critical_difference(models, 5, alpha)
    assert found == pytest.approx(q * np.sqrt(models * (models + 1) / 30), rel=5e-4)


def test_critical_difference_beside_the_papers_says_which_is_which():
    found = statistics.critical_difference_beside_paper()
    assert (found.q, found.value) == pytest.approx((2.569, 2.098), abs=5e-4)
    assert found.paper_value == pytest.approx(2.408, abs=5e-4)
    assert found.paper_q_models == 7
    assert "critical difference 2.098" in found.sentence
    assert "2.949 is the value for 7 models; it would give 2.408" in found.sentence


def test_200_tables_with_ties_agree_with_scipy_and_scikit_posthocs(monkeypatch):
    # exact p-values have tests of their own
    monkeypatch.setattr(rank_permutations, "ENUMERATED", 0)
    monkeypatch.setattr(rank_permutations, "DEALT", 9)
    for scores in tables(200):
        if (scores == scores[:, :1]).all():
            continue
        found = statistics.friedman_test(scores)
        expected = friedmanchisquare(*scores.T)
        assert found.statistic == pytest.approx(expected.statistic, abs=1e-10)
        assert found.statistic == pytest.approx(
            textbook_friedman(rankdata(scores, axis=1)), abs=1e-10
        )
        assert found.p_value == pytest.approx(expected.pvalue, abs=1e-10)
        nemenyi = posthoc_nemenyi_friedman(scores).to_numpy()
        np.testing.assert_allclose(statistics.nemenyi_test(scores), nemenyi, atol=1e-10, rtol=0)


@pytest.mark.parametrize("shape", [(1, 4), (2, 3), (4, 3), (5, 3), (3, 4)])
@pytest.mark.parametrize("decimals", [0, 9])
def test_exact_p_value_counts_every_deal(shape, decimals):
    scores = np.random.default_rng(sum(shape)).normal(0, 1, shape).round(decimals)
    ranks = rankdata(scores, axis=1)
    orders = [list(itertools.permutations(row)) for row in ranks]
    deals = np.array(list(itertools.product(*orders)))  # (deals, folds, models)
    expected = np.mean(textbook_friedman(deals) >= textbook_friedman(ranks) - 1e-9)
    found = statistics.friedman_test(scores)
    assert found.exact_p_value == pytest.approx(expected, rel=1e-12)


def test_exact_p_value_of_full_agreement():
    scores = np.tile([0.9, 0.8, 0.7, 0.6], (5, 1))
    found = statistics.friedman_test(scores)
    assert found.statistic == pytest.approx(15)
    assert found.exact_p_value == pytest.approx(24 / 24**5, rel=1e-12)
    assert found.kendall_w == pytest.approx(1)


def test_too_many_deals_are_drawn_at_random(monkeypatch):
    scores = np.random.default_rng(3).normal([0.6, 0, 0, 0], 1, (5, 4)).round(1)
    exact = statistics.friedman_test(scores)
    monkeypatch.setattr(rank_permutations, "ENUMERATED", 10)
    drawn = statistics.friedman_test(scores)
    assert (exact.enumerated, drawn.enumerated) == (True, False)
    assert drawn.exact_p_value == pytest.approx(exact.exact_p_value, abs=0.005)
    assert drawn == statistics.friedman_test(scores)


def test_long_tables_of_tied_models_do_not_overflow():
    scores = np.zeros((60, 7))  # 7 ways to deal a fold, but doubled rank sums to 540: 541⁷ > 2⁶³
    scores[np.arange(60), np.arange(60) % 2] = 1
    found = statistics.friedman_test(scores)
    assert not found.enumerated
    assert found.exact_p_value == pytest.approx(1e-5)
    assert found.p_value < 1e-10


def test_drawn_p_value_is_never_0():
    scores = np.tile(np.arange(10.0), (5, 1))
    found = statistics.friedman_test(scores)
    assert not found.enumerated
    assert found.exact_p_value == pytest.approx(1e-5)


def test_models_that_are_tied_everywhere_do_not_differ():
    found = statistics.friedman_test(np.full((5, 4), 0.7))
    assert (found.statistic, found.p_value, found.exact_p_value, found.kendall_w) == (0, 1, 1, 0)
    np.testing.assert_array_equal(statistics.nemenyi_test(np.full((5, 4), 0.7)), 1)


def test_kendalls_w_follows_from_the_mean_rank_correlation():
    scores = np.random.default_rng(1).normal(size=(6, 5))
    pairs = itertools.combinations(scores, 2)
    mean = np.mean([spearmanr(a, b).statistic for a, b in pairs])
    assert statistics.kendall_w(scores) == pytest.approx((mean * 5 + 1) / 6)


@pytest.mark.parametrize(
    ("ranks", "difference", "groups"),
    [
        ([1.1, 1.9, 3, 4], 2.098, [[0, 1, 2], [2, 3]]),  # 1.9 and 4 are 2.1 apart
        ([1.1, 1.9, 3, 4], 2.408, [[0, 1, 2], [1, 2, 3]]),
        ([3, 1, 2], 5, [[1, 2, 0]]),
        ([1, 2, 3], 0.5, []),
        ([2, 2], 0.5, [[0, 1]]),
    ],
)
def test_rank_groups_are_the_longest_runs_within_the_difference(ranks, difference, groups):
    assert statistics.rank_groups(ranks, difference) == groups


def test_pairwise_table_tells_the_pairs_apart():
    rows = {(row["first"], row["second"]): row for row in statistics.pairwise_table(PAPER, MODELS)}
    assert len(rows) == 6
    best = rows["hmc", "resnet50"]
    assert best["rank_difference"] == pytest.approx(2.9)
    assert (best["wins"], best["ties"], best["losses"]) == (5, 0, 0)
    assert "hmc ranks above resnet50 by 2.90 over these 5 folds" in best["interpretation"]
    tied = rows["hmc", "hierarchical"]
    assert (tied["wins"], tied["ties"], tied["losses"]) == (4, 1, 0)
    assert tied["interpretation"].startswith("no significant difference (p = 0.7610)")
    significant = [pair for pair, row in rows.items() if row["significant"]]
    assert significant == [("hmc", "resnet50"), ("hierarchical", "resnet50")]


def test_pairwise_table_names_the_better_model_whatever_the_order():
    (row,) = [
        row
        for row in statistics.pairwise_table(PAPER[:, ::-1], MODELS[::-1])
        if {row["first"], row["second"]} == {"hmc", "resnet50"}
    ]
    assert row["rank_difference"] == pytest.approx(-2.9)
    assert row["cliffs_delta"] == -1
    assert row["interpretation"].startswith("hmc ranks above resnet50")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: statistics.friedman_test([[1, 2]]), r"3 models or more: got \(1, 2\)"),
        (lambda: statistics.nemenyi_test([1, 2, 3]), r"got \(3,\)"),
        (lambda: statistics.average_ranks([[1, 2], [np.nan, 1]]), "got nan in fold 1 for model 0"),
        (lambda: statistics.pairwise_table(PAPER, "ab"), "must be 4 names: got 2"),
        (lambda: statistics.critical_difference(1, 5), "two models or more"),
        (lambda: statistics.critical_difference(4, 0), "got 4 and 0"),
        (lambda: statistics.critical_difference(4, 5, 5), "alpha between 0 and 1: got 4 and 5"),
    ],
)
def test_bad_input_names_what_it_got(call, message):
    with pytest.raises(ValueError, match=message):
        call()
