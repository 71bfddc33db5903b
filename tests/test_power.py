"""The power of the rank tests against another script and the exact level."""

import pytest

from hmc_fast.evaluation import power


@pytest.mark.parametrize(
    ("shift", "friedman", "pair", "paper_q"),  # shared/facts/reliability.md D, another script
    [(1, 0.18, 0.058, 0.010), (2, 0.61, 0.22, 0.04), (3, 0.90, 0.35, 0.07)],
)
def test_five_folds_detect_little(shift, friedman, pair, paper_q):
    found = power.detection_power(shift)
    assert found["friedman"] == pytest.approx(friedman, abs=0.02)
    assert found["nemenyi_pair"] == pytest.approx(pair, abs=0.01)
    assert found["nemenyi_paper_q"] == pytest.approx(paper_q, abs=0.01)


def test_equal_models_are_found_to_differ_as_often_as_the_exact_level_says():
    # 4 models, 5 folds: the largest attainable level below 0.05 is 0.0443 (χ² >= 7.80)
    found = power.detection_power(0.0, experiments=100_000)
    assert found["friedman"] == pytest.approx(0.0443, abs=0.003)


def test_power_sentence_names_folds_models_and_shares():
    found = power.power_sentence()
    assert found.startswith("With 5 folds and 4 models, a model better than all others by 1 ")
    assert "by Friedman's test in 19 % of studies" in found
    assert "does not mean that the models are equal" in found


def test_one_model_has_no_power():
    with pytest.raises(ValueError, match="two models"):
        power.detection_power(models=1)
