import math

import numpy as np
import pytest

from manyfit.core.errors import UsageError
from manyfit.stats.selection import expected_maximum, noise_deviation, optimism_of_best


@pytest.mark.parametrize(
    ("count", "expected"),
    # Harter 1961, expected values of normal order statistics, 5 decimals.
    [(1, 0.0), (2, 0.56419), (3, 0.84628), (5, 1.16296), (10, 1.53875), (20, 1.86748), (100, 2.50759)],
)
def test_expected_maximum_is_the_tables(count, expected):
    assert expected_maximum(count) == pytest.approx(expected, abs=6e-6)


def test_optimism_of_best_predicts_what_fresh_seeds_show():
    # 2000 searches of 50 trials, truths N(0, 1), luck N(0, 0.7). The mean prediction is compared with the mean
    # truth of the winners; each differs by about 0.6 per search, so 4 standard errors are 0.055.
    rng = np.random.default_rng(3)
    truths = rng.normal(size=(2000, 50))
    losses = truths + 0.7 * rng.normal(size=truths.shape)
    winners = losses.argmin(axis=1)
    shown = truths[np.arange(2000), winners]
    predicted = np.array([optimism_of_best(row, 0.7).expected_loss for row in losses])
    assert predicted.mean() == pytest.approx(shown.mean(), abs=0.055)
    assert losses.min(axis=1).mean() < shown.mean() - 0.4


def test_optimism_of_equally_good_trials_is_the_expected_maximum():
    rng = np.random.default_rng(4)
    found = [optimism_of_best(row, 1.0) for row in rng.normal(size=(1000, 30))]
    assert found[0].most == pytest.approx(expected_maximum(30))
    assert np.mean([one.optimism for one in found]) == pytest.approx(expected_maximum(30), abs=0.2)


def test_no_noise_no_optimism_and_one_trial_says_nothing_of_the_spread():
    assert optimism_of_best([1.0, 2.0], 0.0).optimism == 0.0
    assert optimism_of_best([1.0], 0.5).optimism == 0.0
    assert optimism_of_best([1.0, 1.0], 0.5).optimism == 0.0


def test_noise_deviation_pools_replicated_trials():
    table = [[1.0, 2.0, 3.0], [5.0, 7.0, np.nan], [4.0, np.nan, np.nan], [np.inf, 1.0, np.nan]]
    assert noise_deviation(table) == pytest.approx(math.sqrt((2.0 + 2.0) / 3))
    assert math.isnan(noise_deviation([[1.0], [2.0]]))


@pytest.mark.parametrize("wrong", [-1.0, math.nan, math.inf])
def test_noise_must_be_a_finite_number(wrong):
    with pytest.raises(UsageError, match="finite number, 0 or more"):
        optimism_of_best([1.0, 2.0], wrong)


def test_expected_maximum_of_nobody_is_refused():
    with pytest.raises(UsageError, match="1 or more"):
        expected_maximum(0)
