"""Holm's adjustment against statsmodels."""

import numpy as np
from statsmodels.stats.multitest import multipletests

from hmc_fast.evaluation import multiple_tests


def test_holm_agrees_with_statsmodels():
    random = np.random.default_rng(0)
    for tests in (1, 2, 6, 21):
        p_values = random.random(tests).round(2) ** 2
        expected = multipletests(p_values, method="holm")[1]
        np.testing.assert_allclose(multiple_tests.holm(p_values), expected, atol=1e-12)


def test_a_test_without_p_value_counts_in_holms_family():
    rows = multiple_tests.with_holm([{"p_value": 0.02}, {"p_value": None}])
    assert [row["p_holm"] for row in rows] == [0.04, None]
