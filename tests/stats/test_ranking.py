import math

import numpy as np
import pytest

from manyfit.core.errors import UsageError
from manyfit.stats.ranking import probability_best, ranks


def test_ranks_share_the_better_place_and_put_failures_last():
    assert ranks([0.2, 0.1, 0.2, 0.3]).tolist() == [2, 1, 2, 4]
    assert ranks([math.nan, math.inf, 0.5, math.inf]).tolist() == [4, 2, 1, 2]
    with pytest.raises(UsageError):
        ranks([[1.0]])


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
