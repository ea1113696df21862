"""The claims of `racing` on simulated searches; the full table is printed by benchmarks/confirm.py."""

import numpy as np
import pytest

from manyfit.stats.intervals import mean_interval
from manyfit.stats.racing import race

NUM_SEARCHES = 250


def searches(shape, rng):
    """(truths, losses of 20 rounds, search scores) of six finalists, noise of standard deviation about 1."""
    for _ in range(NUM_SEARCHES):
        truths = np.zeros(6)
        scales = np.exp(rng.uniform(-1, 1, 6)) if shape == "heteroscedastic" else np.ones(6)
        if shape == "one winner":
            truths[1:] = 2.0
        noise = rng.standard_t(3, (6, 20)) / np.sqrt(3) if shape == "heavy tails" else rng.standard_normal((6, 20))
        yield truths, truths[:, None] + scales[:, None] * noise + rng.standard_normal((1, 20)), scales


@pytest.mark.parametrize("shape", ["equal means", "one winner", "heavy tails", "heteroscedastic"])
def test_the_best_is_in_the_set_as_often_as_stated_and_its_proof_is_unbiased(shape):
    rng = np.random.default_rng(20)
    missed, race_errors, proofs, holds = 0, [], [], []
    for truths, losses, scales in searches(shape, rng):
        standing = race(losses, confidence=0.9, max_rounds=20)
        missed += 0 not in standing.winning_set
        winner = standing.recommended
        race_errors.append(losses[winner, : standing.rounds].mean() - truths[winner])
        # Proof runs on fresh seeds; those of a seed share the noise that all contenders share.
        proof = truths[winner] + scales[winner] * rng.standard_normal(10) + rng.standard_normal(10)
        proofs.append(proof.mean() - truths[winner])
        holds.append(truths[winner] in mean_interval(proof, 0.95))
    # 250 searches: more than 45 misses at a chance of 0.1 have probability 1e-4.
    assert missed <= 45
    standard_error = np.std(proofs) / np.sqrt(NUM_SEARCHES)
    assert abs(np.mean(proofs)) < 3.9 * standard_error  # two-sided 1e-4
    assert np.mean(holds) > 0.95 - 0.055  # 4 standard errors
    if shape != "one winner":  # there the choice is forced, so that luck plays no part in it
        assert np.mean(race_errors) < -5 * np.std(race_errors) / np.sqrt(NUM_SEARCHES)


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
def test_uniform_replication_decides_the_same_and_costs_twice_as_much(spread):
    rng = np.random.default_rng(21)
    shares, same = [], []
    for _ in range(150):
        truths = np.sort(spread * rng.standard_normal(8))
        losses = truths[:, None] + rng.standard_normal((8, 30))
        raced = race(losses)
        uniform = race(losses, futility=0.0)  # all rounds that anybody needs, for everybody
        shares.append(raced.num_executions / losses.size)
        same.append(set(uniform.winning_set) == set(raced.winning_set))
    assert np.median(shares) <= 0.5
    assert np.mean(same) > 0.88  # 0.95 and more in large simulations; 0.88 has a probability of 1e-4 then
