"""The corrected resampled t-test by hand, against scipy's t-test, and its level in simulation."""

import numpy as np
import pytest
from scipy.stats import ttest_1samp

from hmc_fast.evaluation.repeated import corrected_resampled_t, corrected_t_table


def test_error_of_five_folds_is_one_and_a_half_times_the_usual():
    differences = np.array([0.01, 0.03, 0.02, 0.05, -0.01])
    found = corrected_resampled_t(differences)
    usual = ttest_1samp(differences, 0)
    assert found["statistic"] == pytest.approx(usual.statistic / 1.5)
    assert found["error"] == pytest.approx(1.5 * differences.std(ddof=1) / np.sqrt(5))


def test_significant_beyond_1_86_standard_deviations():  # 2.776 √0.45
    shape = np.array([-2, -1, 0, 1, 2]) / np.sqrt(2.5)  # mean 0, sd 1
    assert corrected_resampled_t(shape + 1.87)["p_value"] < 0.05
    assert corrected_resampled_t(shape + 1.85)["p_value"] > 0.05


def test_interval_excludes_0_where_p_is_below_5_percent():
    shape = np.array([-2, -1, 0, 1, 2]) / np.sqrt(2.5)
    assert corrected_resampled_t(shape + 1.87)["interval"][0] > 0
    assert corrected_resampled_t(shape + 1.85)["interval"][0] < 0


def test_folds_give_the_share_of_test_images():
    differences = np.random.default_rng(0).normal(size=20)
    error = corrected_resampled_t(differences, folds=10)["error"]
    assert error == pytest.approx(differences.std(ddof=1) * np.sqrt(1 / 20 + 1 / 9))


@pytest.mark.parametrize(("differences", "p"), [([0, 0, 0], 1.0), ([0.1, 0.3 - 0.2], None)])
def test_without_variance_there_is_no_test(differences, p):
    found = corrected_resampled_t(differences)
    assert (found["p_value"], found["statistic"], found["interval"]) == (p, None, None)


def test_table_has_every_pair_with_holms_p():
    scores = np.random.default_rng(0).normal([0, 0, 4], 1, (10, 3))
    rows = corrected_t_table(scores, ("a", "b", "c"))
    assert [(row["first"], row["second"]) for row in rows] == [("a", "b"), ("a", "c"), ("b", "c")]
    assert rows[0]["mean"] == pytest.approx((scores[:, 0] - scores[:, 1]).mean())
    assert min(row["p_holm"] for row in rows) == pytest.approx(
        3 * min(row["p_value"] for row in rows)
    )


@pytest.mark.parametrize(
    ("differences", "folds", "message"),
    [
        ([1.0], 5, r"two finite numbers or more: got shape \(1,\)"),
        ([1.0, np.inf], 5, "finite"),
        ([1.0, 2.0], 1, "folds must be 2 or more: got 1"),
    ],
)
def test_bad_input_names_what_it_got(differences, folds, message):
    with pytest.raises(ValueError, match=message):
        corrected_resampled_t(differences, folds)
