import math

import numpy as np
import pytest

from manyfit.core.errors import UsageError
from manyfit.stats.ranking import expected_maximum, noise_deviation, optimism_of_best, probability_best


def test_probability_of_the_better_of_two_is_the_t_law():
    # With flat priors P(second is better) is the one-sided p-value of the paired t-test (Box and Tiao 1973).
    scores = np.array([[1.0, 1.4, 0.7, 1.1, 0.9], [1.2, 1.3, 1.1, 1.6, 0.8]])
    import scipy.stats

    expected = scipy.stats.ttest_rel(scores[1], scores[0], alternative="greater").pvalue
    found = probability_best(scores, rng=np.random.default_rng(0), num_draws=100_000)
    assert found[1] == pytest.approx(expected, abs=0.006)  # 4 standard errors
    assert found.sum() == pytest.approx(1.0)


def test_probability_is_calibrated():
    # Truths drawn as the prior has it, nearly flat: the winner of the truths gets on average its stated probability.
    rng = np.random.default_rng(7)
    stated, happened = [], []
    for _ in range(400):
        truth = rng.normal(scale=0.5, size=4)
        found = probability_best(truth[:, None] + rng.normal(size=(4, 12)), rng=rng, num_draws=400)
        stated.append(found.max())
        happened.append(found.argmax() == truth.argmin())
    assert np.mean(happened) == pytest.approx(np.mean(stated), abs=0.1)


def test_contenders_that_were_dropped_early_keep_a_small_probability():
    scores = np.full((3, 10), np.nan)
    rng = np.random.default_rng(1)
    scores[0], scores[1] = rng.normal(size=10), rng.normal(size=10)
    scores[2, :3] = scores[0, :3] + 5 + rng.normal(size=3)
    found = probability_best(scores, rng=rng)
    assert 0 < found[2] < 0.1


def test_divergence_and_missing_scores():
    rng = np.random.default_rng(0)
    assert probability_best([[1.0, np.inf], [2.0, 2.1]], rng=rng).tolist() == [0.0, 1.0]
    assert probability_best([[1.0, np.nan], [2.0, np.nan]], rng=rng).tolist() == [0.5, 0.5]
    both = probability_best([[1.0, np.inf, 1.0, 1.1], [np.inf, np.inf, 3.0, 3.1]], rng=rng)
    assert both[0] > both[1] > 0
    assert probability_best([[np.inf, np.inf], [np.inf, np.inf]], rng=rng).tolist() == [0.5, 0.5]
    assert probability_best([[1.0, 2.0], [1.0, 2.0]], rng=rng).tolist() == [0.5, 0.5]


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
