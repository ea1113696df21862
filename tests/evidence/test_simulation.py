"""The claims of a race over seeds on simulated searches; `make bench-truth` prints those with the error of the rows."""

import numpy as np
import pytest

from manyfit.evidence.decisions import decide
from manyfit.evidence.rules import RaceRules
from manyfit.evidence.runs import Runs

NUM_SEARCHES = 150


def searches(shape, rng):
    """(truths, losses of 20 rounds) of six finalists, noise of standard deviation about 1."""
    for _ in range(NUM_SEARCHES):
        truths = np.zeros(6)
        scales = np.exp(rng.uniform(-1, 1, 6)) if shape == "heteroscedastic" else np.ones(6)
        if shape == "one winner":
            truths[1:] = 2.0
        noise = rng.standard_t(3, (6, 20)) / np.sqrt(3) if shape == "heavy tails" else rng.standard_normal((6, 20))
        yield truths, truths[:, None] + scales[:, None] * noise + rng.standard_normal((1, 20))


@pytest.mark.parametrize("shape", ["equal means", "one winner", "heavy tails", "heteroscedastic"])
def test_the_best_is_in_the_set_as_often_as_stated_and_its_race_is_too_good(shape):
    rng = np.random.default_rng(20)
    missed, errors, rounds = 0, [], []
    for truths, losses in searches(shape, rng):
        standing = decide(Runs(losses), RaceRules(6, confidence=0.9))
        missed += 0 not in standing.winning_set
        leader = standing.winning_set[0]
        errors.append(losses[leader, : standing.rounds].mean() - truths[leader])
        rounds.append(standing.rounds)
    # 150 searches: more than 30 misses at a chance of 0.1 have probability 1e-4.
    assert missed <= 30
    if shape == "one winner":  # there the choice is forced, so that luck plays no part in it
        assert np.median(rounds) <= 12
    else:
        assert np.mean(errors) < -5 * np.std(errors) / np.sqrt(NUM_SEARCHES)


def test_the_best_search_score_is_too_good():
    # Of 100 trials with noise of their own size, the best score flatters its trial by more than one deviation.
    rng = np.random.default_rng(22)
    truths = rng.standard_normal((NUM_SEARCHES, 100))
    seen = truths + rng.standard_normal(truths.shape)
    rows, best = np.arange(NUM_SEARCHES), seen.argmin(axis=1)
    errors = seen[rows, best] - truths[rows, best]
    assert np.mean(errors) < -1.0
    # From theory: with equal variances half of the standing out is luck, and the best of 100 stands out by 2.51.
    assert np.mean(errors) == pytest.approx(-2.51 / np.sqrt(2), abs=4 * np.std(errors) / np.sqrt(NUM_SEARCHES))


@pytest.mark.parametrize("spread", [0.0, 2.0])
def test_a_race_takes_half_of_the_runs_of_uniform_replication(spread):
    rng = np.random.default_rng(21)
    shares = []
    for _ in range(60):
        truths = np.sort(spread * rng.standard_normal(8))
        losses = truths[:, None] + rng.standard_normal((8, 30))
        standing = decide(Runs(losses), RaceRules(max_rounds=30))
        used = [standing.dropped[i].round if i in standing.dropped else standing.rounds for i in range(8)]
        shares.append(sum(used) / losses.size)
    assert np.median(shares) <= 0.5
