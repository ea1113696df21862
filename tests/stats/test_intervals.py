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


def test_too_few_numbers_give_an_infinite_interval_and_say_so():
    assert intervals.mean_interval([2.0]).half_width == math.inf
    assert str(intervals.mean_interval([2.0])) == "2 (n=1, no interval)"


@given(st.lists(st.floats(-100, 100), min_size=5, max_size=20), st.floats(0.5, 10), st.floats(-50, 50))
def test_intervals_move_and_stretch_with_the_data(values, factor, shift):
    x = np.array(values)
    before, after = intervals.mean_interval(x), intervals.mean_interval(x * factor + shift)
    assert after.low == pytest.approx(before.low * factor + shift, rel=1e-6, abs=1e-6)
    assert before.low <= before.estimate <= before.high


@pytest.mark.parametrize(
    ("values", "part"),
    [([[1.0]], "shape"), ([], "0 numbers"), ([1.0, np.nan], "NaN or infinity"), ([np.inf, 1.0], "NaN or infinity")],
)
def test_vector_refuses(values, part):
    with pytest.raises(UsageError, match=part):
        intervals.vector("here", values)


@pytest.mark.parametrize("scores", [[1.0, 2.0], np.empty((0, 3)), 1.0])
def test_score_table_wants_contenders_by_seeds(scores):
    with pytest.raises(UsageError, match="One row per contender"):
        intervals.score_table("here", scores)


def test_score_table_knows_no_minus_infinity():
    with pytest.raises(UsageError, match="flip the sign"):
        intervals.score_table("here", [[-np.inf]])
    assert np.isnan(intervals.score_table("here", [[np.inf, np.nan]])[0, 1])


@pytest.mark.parametrize("confidence", [0, 1, 95, -0.5, "0.95", True, float("nan")])
def test_confidence_level_refuses(confidence):
    with pytest.raises(UsageError, match=r"Type 0\.95 for 95 %"):
        intervals.confidence_level("here", confidence)


@pytest.mark.parametrize("deviation", [0.6, 1.16])
def test_skewed_losses_are_covered_better_than_by_students_interval(deviation):
    """Log-normal losses on 100 rows, of which the rare large ones are often not among them."""
    rng = np.random.default_rng(0)
    losses = np.exp(deviation * rng.standard_normal((3000, 100)) - deviation**2 / 2)
    means, variances = losses.mean(axis=1), losses.var(axis=1, ddof=1) / 100
    skewness = scipy.stats.skew(losses, axis=1) / 10

    def covered(scale, skewed):
        found = [
            intervals.scaled_interval(mean, variance, 99, scale=scale, skewness=skewed * skew)
            for mean, variance, skew in zip(means, variances, skewness, strict=True)
        ]
        return np.mean([each.low <= 1 <= each.high for each in found])

    student, log, hall = (covered(*how) for how in [("plain", 0), ("log", 0), ("log", 1)])
    assert student < log < hall
    assert hall == pytest.approx({0.6: 0.95, 1.16: 0.93}[deviation], abs=0.012)


def test_no_skewness_changes_nothing_and_what_is_skewed_to_the_left_reaches_further_down():
    plain = intervals.scaled_interval(1.0, 0.01, 50, scale=intervals.Scale.LOG)
    left = intervals.scaled_interval(1.0, 0.01, 50, scale=intervals.Scale.LOG, skewness=-0.25)
    assert plain == intervals.scaled_interval(1.0, 0.01, 50, scale=intervals.Scale.LOG, skewness=1e-9)
    assert left.low < plain.low and left.high == plain.high
