import math

import numpy as np
import pytest
import scipy.stats

from manyfit.core.errors import UsageError
from manyfit.stats.paired import paired_difference

FIRST = np.array([0.31, 0.29, 0.33, 0.35, 0.28, 0.30])
SECOND = np.array([0.33, 0.30, 0.33, 0.39, 0.29, 0.34])


def test_the_paired_t_test_is_scipys():
    found, expected = paired_difference(FIRST, SECOND), scipy.stats.ttest_rel(FIRST, SECOND)
    assert found.p_value == pytest.approx(expected.pvalue, rel=1e-10)
    ends = expected.confidence_interval(0.95)
    assert (found.difference.low, found.difference.high) == pytest.approx((ends.low, ends.high))


def test_effect_size_has_the_tabled_correction():
    # Hedges 1981, table 1: c(5) = 0.8408 for 5 degrees of freedom.
    d = FIRST - SECOND
    assert paired_difference(FIRST, SECOND).effect_size == pytest.approx(0.8408 * d.mean() / d.std(ddof=1), rel=1e-4)


def test_share_lower_counts_ties_half():
    assert paired_difference([1.0, 2.0, 3.0, 4.0], [2.0, 2.0, 2.0, 5.0]).share_lower == 0.625


def test_common_noise_cancels():
    rng = np.random.default_rng(0)
    common = rng.normal(size=10)
    found = paired_difference(common + 0.1 * rng.normal(size=10), common + 1 + 0.1 * rng.normal(size=10))
    assert found.p_value < 1e-6


def test_rows_without_noise_are_certain_and_equal_rows_are_no_evidence():
    certain = paired_difference([1.0, 2.0], [2.0, 3.0])
    assert (certain.p_value, certain.effect_size) == (0.0, -math.inf)
    equal = paired_difference([1.0, 2.0], [1.0, 2.0])
    assert (equal.p_value, equal.effect_size) == (1.0, 0.0)


def test_one_seed_proves_nothing():
    found = paired_difference([1.0], [2.0])
    assert found.p_value == 1.0 and math.isnan(found.effect_size) and found.difference.half_width == math.inf


def test_different_lengths_are_refused():
    with pytest.raises(UsageError, match="2 and 3 losses"):
        paired_difference([1.0, 2.0], [1.0, 2.0, 3.0])
