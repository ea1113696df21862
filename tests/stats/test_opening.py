"""Whether to open another structure: break-even, the gain of the running best, and what structures promise."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import norm

from manyfit.stats.opening import StructureGains, break_even, expected_gain, gain_per_second, seconds_to_earn


@pytest.mark.parametrize(("left", "ratio"), [(10, 1.8), (20, 1.3), (40, 1.13), (120, 1.04)])
def test_break_even_is_that_of_the_notes_for_a_compilation_of_four_and_a_half_seconds(left: float, ratio: float):
    assert break_even(left, 4.5) == pytest.approx(ratio, abs=0.03)


def test_break_even_without_limit_and_without_room():
    assert break_even(math.inf, 4.5) == 1.0
    assert break_even(4.5, 4.5) == math.inf
    assert seconds_to_earn(3.0, 4.5, 1.0) == math.inf


def test_nothing_to_open_has_to_earn_its_training_alone():
    assert seconds_to_earn(60.0, 0.0, 1.5) == 1.5


def test_gain_is_that_of_the_latest_trials_per_second():
    losses, seconds = [1.0, 0.8, math.inf, 0.5, math.nan], [1.0, 1.0, 2.0, 2.0, 1.0]
    assert gain_per_second(losses, seconds, 3, least=0.0) == pytest.approx((0.8 - 0.5) / 5.0)
    assert gain_per_second(losses, seconds, 99, least=0.0) == pytest.approx((1.0 - 0.5) / 7.0)  # since the first one
    assert gain_per_second([0.5, 0.9], [1.0, 1.0], 1, least=0.02) == 0.02
    assert gain_per_second([], [], 2, least=0.02) == 0.02
    assert gain_per_second([math.inf], [1.0], 2, least=0.02) == 0.02


def test_expected_gain_is_the_integral():
    grid = np.linspace(-12.0, 12.0, 200_001)
    for best, mean, deviation in ((0.0, 0.3, 1.0), (1.0, 0.2, 0.1), (-1.0, 0.5, 0.7)):
        values = np.maximum(best - grid, 0.0) * norm.pdf(grid, mean, deviation)
        assert expected_gain(best, mean, deviation) == pytest.approx(np.trapezoid(values, grid), rel=1e-6)


def test_statistical_what_new_structures_gain_is_what_is_said_of_them():
    """Structures and trials drawn as the model has it: said and found agree within 15 % over 2,000 searches."""
    rng = np.random.default_rng(3)
    said, found = [], []
    for _ in range(2000):
        means = rng.normal(0.0, 1.0, 7)
        trials = rng.normal(means[:6, None], 0.5, (6, 8))
        said.append(StructureGains(trials.tolist()).of_new)
        found.append(max(0.0, trials.min() - rng.normal(means[6], 0.5)))
    assert np.mean(said) == pytest.approx(np.mean(found), rel=0.15)


def test_the_better_and_the_less_known_structure_promise_more():
    gains = StructureGains([[0.9, 1.0, 0.95, 0.9], [0.5, 0.6, 0.55, 0.5], [0.6]])
    assert gains.of_opened[0] < gains.of_opened[1]
    assert gains.of_opened[0] < gains.of_opened[2]


def test_without_two_scores_nobody_knows():
    assert StructureGains([]).of_new == math.inf
    assert StructureGains([[0.5], [math.nan]]).of_opened == [math.inf, math.inf]


def test_losses_that_are_equal_promise_nothing():
    gains = StructureGains([[0.5, 0.5], [0.5]])
    assert gains.of_new == 0.0 and gains.of_opened == [0.0, 0.0]


def test_one_wild_loss_decides_nothing():
    tame = StructureGains([[0.5, 0.6, 0.7], [0.6, 0.7, 0.9]]).of_new
    wild = StructureGains([[0.5, 0.6, 0.7], [0.6, 0.7, 1e30]]).of_new
    assert wild == pytest.approx(tame, rel=0.3)
