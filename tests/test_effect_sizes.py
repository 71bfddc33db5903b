"""Effect sizes by hand, and where they are undefined."""

import numpy as np
import pytest

from hmc_fast.evaluation import effect_sizes


def test_effect_sizes_by_hand():
    first, second = [3, 5, 4], [1, 2, 3]  # differences 2, 3, 1; variances 1 and 1
    assert effect_sizes.cohens_d_paired(first, second) == pytest.approx(2)
    assert effect_sizes.cohens_d_pooled(first, second) == pytest.approx(2)
    assert effect_sizes.cliffs_delta(first, second) == pytest.approx(8 / 9)  # 3 against 3 is a tie
    assert effect_sizes.cohens_d_paired([2, 4], [1, 1]) == pytest.approx(2 / np.sqrt(2))
    assert effect_sizes.cohens_d_pooled([2, 4], [1, 1]) == pytest.approx(2)


@pytest.mark.parametrize(
    ("first", "second", "d"),
    [([0.4, 0.8], [0.3, 0.7], None), ([0.5], [0.4], None), ([1, 2], [1, 2], 0.0)],
)
def test_effect_size_without_variance_is_undefined_unless_there_is_no_effect(first, second, d):
    assert effect_sizes.cohens_d_paired(first, second) == d


@pytest.mark.parametrize(
    ("delta", "word"), [(-0.1, "negligible"), (0.2, "small"), (-0.4, "medium"), (0.474, "large")]
)
def test_words_for_cliffs_delta(delta, word):
    assert effect_sizes.cliffs_word(delta) == word
