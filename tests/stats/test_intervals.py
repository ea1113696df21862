import math

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from manyfit.core.errors import UsageError
from manyfit.stats import intervals

SAMPLE = np.array([3.1, 2.7, 4.4, 3.9, 2.2, 3.3, 9.0, 3.0])


def test_mean_interval_is_scipys():
    expected = scipy.stats.ttest_1samp(SAMPLE, 0.0).confidence_interval(0.9)
    found = intervals.mean_interval(SAMPLE, 0.9)
    np.testing.assert_allclose([found.low, found.high], [expected.low, expected.high], rtol=1e-12)
    assert (found.estimate, found.count, found.confidence) == (SAMPLE.mean(), 8, 0.9)


def test_variance_interval_inverts_the_chi_square_test():
    found = intervals.variance_interval(SAMPLE, 0.95)
    squares = ((SAMPLE - SAMPLE.mean()) ** 2).sum()
    assert scipy.stats.chi2(7).cdf(squares / found.low) == pytest.approx(0.975)
    assert scipy.stats.chi2(7).cdf(squares / found.high) == pytest.approx(0.025)


def test_trimmed_mean_interval_has_scipys_centre_and_yuens_width():
    # SciPy offers Yuen's test for two samples; against a huge sample of constant spread 0 it is one-sample.
    found = intervals.trimmed_mean_interval(SAMPLE, 0.95, trim=0.25)
    assert found.estimate == pytest.approx(scipy.stats.trim_mean(SAMPLE, 0.25))
    winsorised = np.asarray(scipy.stats.mstats.winsorize(SAMPLE, (0.25, 0.25)))
    error = math.sqrt(7 * winsorised.var(ddof=1) / (4 * 3))  # Yuen 1974: (n - 1) s_w^2 / (h (h - 1))
    ours = found.half_width / scipy.stats.t(3).ppf(0.975)
    # Tukey and McLaughlin divide by h^2 / n where Yuen has h (h - 1) / (n - 1): 2 / sqrt(8) against 1 / sqrt(...).
    assert ours == pytest.approx(error * math.sqrt(8 * (4 * 3) / (7 * 4 * 4)))


def test_untrimmed_is_students():
    plain, untrimmed = intervals.mean_interval(SAMPLE), intervals.trimmed_mean_interval(SAMPLE, trim=0.0)
    assert (untrimmed.low, untrimmed.high) == pytest.approx((plain.low, plain.high))


def test_bootstrap_interval_is_near_students_for_many_normal_numbers():
    x = np.random.default_rng(1).normal(size=400)
    plain, found = intervals.mean_interval(x), intervals.bootstrap_interval(x, rng=np.random.default_rng(2))
    assert (found.low, found.high) == pytest.approx((plain.low, plain.high), abs=0.15 * plain.half_width)
    again = intervals.bootstrap_interval(x, rng=np.random.default_rng(2))
    assert again == found


def test_bootstrap_interval_of_equal_numbers_has_no_width():
    assert intervals.bootstrap_interval([2.0, 2.0, 2.0], rng=np.random.default_rng(0)).half_width == 0.0


@pytest.mark.parametrize("count", [6, 20, 60])
def test_confidence_sequence_inverts_the_bayes_factor_computed_by_quadrature(count):
    # At the end of the interval, the mixture of noncentral t densities over effects is 1 / alpha times the null's.
    x = np.random.default_rng(count).normal(size=count)
    found = intervals.confidence_sequence(x, 0.95)
    t = math.sqrt(count) * (x.mean() - found.low) / x.std(ddof=1)
    centre, width = t / math.sqrt(count), 9 / math.sqrt(count)  # beyond it the integrand is below 1e-15 of its top
    effects = np.linspace(centre - width, centre + width, 2001)
    density = scipy.stats.nct.pdf(t, count - 1, math.sqrt(count) * effects) * scipy.stats.norm.pdf(effects)
    ratio = np.trapezoid(density, effects) / scipy.stats.t.pdf(t, count - 1)
    assert ratio == pytest.approx(20.0, rel=1e-5)


def test_confidence_sequence_holds_at_all_looks_where_students_interval_does_not():
    # 600 rows, all looks from 5 to 60. Miss chance of ours <= 0.05: above 51 misses has probability 1e-4.
    rng = np.random.default_rng(5)
    missed, missed_by_student = 0, 0
    for row in rng.normal(size=(600, 60)):
        looks = range(5, 61, 5)
        missed += any(0.0 not in intervals.confidence_sequence(row[:n]) for n in looks)
        missed_by_student += any(0.0 not in intervals.mean_interval(row[:n]) for n in looks)
    assert missed <= 51
    assert missed_by_student >= 80


def test_too_few_numbers_give_an_infinite_interval_and_say_so():
    assert intervals.mean_interval([2.0]).half_width == math.inf
    assert intervals.confidence_sequence([1.0, 2.0, 3.0]).half_width == math.inf
    assert str(intervals.mean_interval([2.0])) == "2 (n=1, no interval)"


@given(st.lists(st.floats(-100, 100), min_size=5, max_size=20), st.floats(0.5, 10), st.floats(-50, 50))
def test_intervals_move_and_stretch_with_the_data(values, factor, shift):
    x = np.array(values)
    for interval in (intervals.mean_interval, intervals.trimmed_mean_interval, intervals.confidence_sequence):
        before, after = interval(x), interval(x * factor + shift)
        assert after.low == pytest.approx(before.low * factor + shift, rel=1e-6, abs=1e-6)
        assert before.low <= before.estimate <= before.high


@pytest.mark.parametrize(
    ("call", "part"),
    [
        (lambda: intervals.trimmed_mean_interval([1.0, 2.0], trim=0.5), "0 <= trim < 0.5"),
        (lambda: intervals.trimmed_mean_interval([1.0, 2.0, 3.0], trim=0.4), "1 left of 3"),
        (lambda: intervals.confidence_sequence([1.0], expected_effect=0.0), "above 0"),
        (lambda: intervals.variance_interval([1.0]), "2 or more numbers"),
    ],
)
def test_intervals_refuse(call, part):
    with pytest.raises(UsageError, match=part):
        call()
