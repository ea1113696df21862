import math

import numpy as np
import pytest

from manyfit.core.errors import UsageError
from manyfit.stats.curves import (
    _running_median,
    best_epoch_optimism,
    curve_jitter,
    effective_epochs,
    expected_best,
    loss_at_best,
    value_at_best,
)
from manyfit.stats.ranking import expected_maximum


def noise(rng, correlation, epochs):
    """First-order noise of variance 1."""
    steps = rng.normal(size=epochs)
    values = [steps[0]]
    for step in steps[1:]:
        values.append(correlation * values[-1] + math.sqrt(1 - correlation**2) * step)
    return np.array(values)


@pytest.mark.parametrize("correlation", [0.0, 0.5, 0.8])
def test_the_jitter_of_long_curves_is_found_under_a_trend(correlation):
    rng = np.random.default_rng(0)
    found = [curve_jitter(20 * np.exp(-np.arange(400) / 40) + noise(rng, correlation, 400)) for _ in range(30)]
    assert np.mean([each.deviation for each in found]) == pytest.approx(1.0, abs=0.15)
    assert np.mean([each.correlation for each in found]) == pytest.approx(correlation, abs=0.1)


def test_a_trend_without_jitter_has_none():
    assert curve_jitter(np.linspace(3, 1, 20)).deviation == pytest.approx(0, abs=1e-12)
    assert best_epoch_optimism(np.linspace(3, 1, 20)) == pytest.approx(0, abs=1e-12)


def test_short_curves_say_nothing():
    curve = noise(np.random.default_rng(1), 0.0, 80)
    assert math.isnan(curve_jitter(curve[:7]).deviation)
    assert math.isnan(best_epoch_optimism(curve[:7]))
    broken = np.r_[curve[:30], np.nan, curve[:5]]
    assert curve_jitter(broken).num_epochs == 5
    assert loss_at_best(curve[:7]) == value_at_best(curve[:7])


@pytest.mark.parametrize("correlation", [0.0, 0.5])
def test_an_epoch_that_is_best_where_the_jitter_has_died_down_is_not_lucky(correlation):
    rng = np.random.default_rng(1)
    rate = (1 + np.cos(np.pi * np.arange(60) / 60)) / 2
    curves = [3 * rate + rate * noise(rng, correlation, 60) for _ in range(50)]
    assert np.mean([best_epoch_optimism(curve) for curve in curves]) < 0.25
    assert np.mean([loss_at_best(curve) for curve in curves]) == pytest.approx(0, abs=0.15)
    # Where it has not, there is much luck in the best of sixty.
    flat = [best_epoch_optimism(3 + noise(rng, correlation, 60)) for _ in range(50)]
    assert np.mean(flat) > 1.5


@pytest.mark.parametrize(("correlation", "most"), [(0.0, 0.2), (0.5, 0.5), (0.7, 0.75)])
def test_little_of_the_luck_of_the_best_epoch_is_left(correlation, most):
    """Curves of 30 epochs that fall and flatten; standard errors of the means are about .04."""
    rng = np.random.default_rng(4)
    trend = 8 * np.exp(-np.arange(30) / 4)
    errors = {"raw": [], "parabola": [], "both": []}
    for _ in range(400):
        curve = trend + noise(rng, correlation, 30)
        level = trend[int(curve.argmin())]
        for name, value in (("raw", curve.min()), ("parabola", value_at_best(curve)), ("both", loss_at_best(curve))):
            errors[name].append(value - level)
    bias = {name: np.mean(each) for name, each in errors.items()}
    assert bias["raw"] < -1.5 < -most < bias["both"] < 0.2
    assert np.std(errors["both"]) < np.std(errors["parabola"])
    if correlation:
        assert bias["both"] > bias["parabola"] + 0.15


@pytest.mark.parametrize(
    # 100,000 paths, simulated apart from the code.
    ("correlation", "count", "expected"),
    [(0.0, 10, 1.539), (0.5, 2, 0.393), (0.5, 10, 1.365), (0.5, 50, 2.167), (0.8, 20, 1.424), (0.8, 50, 1.918)],
)
def test_the_best_of_correlated_epochs(correlation, count, expected):
    assert expected_best(count, correlation) == pytest.approx(expected, abs=0.02)


def test_two_correlated_epochs_in_closed_form():
    # E max of two normal draws of correlation rho: sqrt((1 - rho) / pi).
    for correlation in (0.0, 0.5, 0.8, 0.95):
        assert expected_best(2, correlation) == pytest.approx(math.sqrt((1 - correlation) / math.pi), rel=0.06)
    assert expected_best(1, 0.3) == 0.0
    assert expected_best(30, 0.0) == expected_maximum(30)


def test_epochs_that_had_a_chance():
    assert effective_epochs([10.0] * 5 + [1.0] * 12, 0.1) == 12
    assert effective_epochs([1.0, 2.0], 0.0) == 1


@pytest.mark.parametrize("correlation", [0.0, 0.5])
def test_the_optimism_of_the_best_epoch_is_what_it_is(correlation):
    """A curve of 40 epochs that falls and flattens; the standard error of both means is about .05."""
    rng = np.random.default_rng(2)
    trend = 20 * np.exp(-np.arange(40) / 6)
    found, true, left = [], [], []
    for _ in range(300):
        curve = trend + noise(rng, correlation, 40)
        best = int(curve.argmin())
        true.append(trend[best] - curve[best])
        found.append(best_epoch_optimism(curve))
        left.append(value_at_best(curve) - trend[best])
    assert np.mean(found) == pytest.approx(np.mean(true), rel=0.25)
    # The parabola needs no estimate of the jitter, and leaves what neighbours share.
    assert abs(np.mean(left)) < 0.4 * np.mean(true)


def test_the_parabola_is_exact_for_one():
    epochs = np.arange(12.0)
    for lowest in (0.0, 5.0, 11.0):
        assert value_at_best(2 + (epochs - lowest) ** 2) == pytest.approx(2.0)
    assert value_at_best([3.0, 1.0, 2.0]) == 1.0
    assert value_at_best([np.nan, np.inf, 2.0]) == 2.0
    assert math.isnan(value_at_best([np.nan]))


@pytest.mark.parametrize(
    "call",
    [
        lambda: curve_jitter([[1.0]]),
        lambda: value_at_best([1.0], width=3),
        lambda: best_epoch_optimism([[1.0]]),
        lambda: loss_at_best([[1.0]]),
    ],
)
def test_what_cannot_be_is_said(call):
    with pytest.raises(UsageError, match=r"got .* Allowed: "):
        call()


@pytest.mark.parametrize("num_epochs", [5, 7, 8, 10, 30])
@pytest.mark.parametrize(("decay", "noise"), [(0.7, 0.003), (2.0, 0.003), (2.0, 0.03), (8.0, 0.03), (1e9, 0.03)])
def test_a_curve_that_comes_down_steeply_has_no_luck_of_a_parabola(num_epochs, decay, noise):
    """Means over curves of known truth: within one and a half swings of it, where a parabola once was 1,400 away."""
    rng = np.random.default_rng(11)
    truth = 0.2 + 2 * np.exp(-np.arange(num_epochs) / decay)
    errors = []
    for _ in range(100):
        curve = truth * np.exp(noise * rng.normal(size=num_epochs))
        best = int(curve.argmin())
        errors.append((loss_at_best(curve) - truth[best]) / (noise * truth[best]))
    assert abs(np.mean(errors)) < 1.5


def test_the_loss_at_best_is_never_below_the_best_loss():
    assert value_at_best([4.4, 1.8, 0.68, 0.25, 0.11]) == 0.11
    assert value_at_best([1.0, 0.5, 0.2, 0.1, 0.05, 0.3, 0.9]) >= 0.05


def test_epochs_that_move_together_have_no_luck_among_them():
    assert expected_best(20, 1.0) == expected_best(20, 1.5) == 0.0
    assert expected_best(20, -0.5) == expected_best(20, 0.0) > 0


def test_a_running_median_stands_still_at_both_ends():
    np.testing.assert_array_equal(_running_median(np.array([5.0, 1.0, 2.0, 9.0, 3.0])), [5, 2, 2, 3, 3])
