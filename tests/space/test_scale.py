"""Scales."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from manyfit.space import scale

P = np.linspace(0.0, 1.0, 11)


def test_linear_is_the_quantile_function_of_the_uniform_distribution():
    np.testing.assert_allclose(scale.to_number(P, -2.0, 3.0, "linear"), stats.uniform(-2, 5).ppf(P), rtol=1e-15)


def test_log_is_the_quantile_function_of_the_log_uniform_distribution():
    np.testing.assert_allclose(scale.to_number(P, 1e-4, 10.0, "log"), stats.loguniform(1e-4, 10).ppf(P), rtol=1e-12)


def test_reverse_log_mirrors_log():
    mirrored = 0.5 + 20.0 - stats.loguniform(0.5, 20).ppf(1 - P)
    np.testing.assert_allclose(scale.to_number(P, 0.5, 20.0, "reverse_log"), mirrored, rtol=1e-12)


@pytest.mark.parametrize("sampling", scale.SAMPLINGS)
def test_both_ends_are_reached_exactly(sampling):
    assert scale.to_number([0.0, 1.0], 1e-3, 0.7, sampling).tolist() == [1e-3, 0.7]
    assert scale.to_quantile([1e-3, 0.7], 1e-3, 0.7, sampling).tolist() == [0.0, 1.0]


@pytest.mark.parametrize("sampling", scale.SAMPLINGS)
def test_equal_bounds_sit_in_the_middle(sampling):
    assert scale.to_quantile([2.0], 2.0, 2.0, sampling).tolist() == [0.5]
    assert scale.to_number([0.0, 0.3, 1.0], 2.0, 2.0, sampling).tolist() == [2.0] * 3


@settings(deadline=None)
@given(
    low=st.floats(1e-6, 1e6),
    ratio=st.floats(1.01, 1e6),
    quantile=st.floats(0.0, 1.0),
    sampling=st.sampled_from(scale.SAMPLINGS),
)
def test_there_and_back_never_leaves_the_bounds(low, ratio, quantile, sampling):
    high = low * ratio
    number = float(scale.to_number(quantile, low, high, sampling))
    assert low <= number <= high
    back = float(scale.to_quantile(number, low, high, sampling))
    # A step of one unit in the last place of the number, seen on the scale, is all that may be lost; the mirror
    # image is computed from the difference to the other bound, so there the unit is that of the upper bound.
    steepest = 1.0 / (low * math.log(ratio)) if sampling != "linear" else 1.0 / (high - low)
    unit = np.spacing(high) if sampling != "log" else np.spacing(number) * low / number
    assert back == pytest.approx(quantile, abs=1e-12 + 8 * unit * steepest)
