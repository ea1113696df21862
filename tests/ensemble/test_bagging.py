"""Bagged convex weights: the update by hand, its limit, and what it is for."""

import numpy as np
import pytest

from manyfit.ensemble import Ensemble
from manyfit.ensemble.weights.bagging import (
    bagged_log_loss_weights,
    bagged_squared_error_weights,
    bayesian_bootstraps,
    num_steps,
)
from manyfit.ensemble.weights.exact import log_loss_weights, squared_error_weights


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def test_one_step_by_hand(rng):
    p, bags = rng.uniform(0.05, 1, (30, 4)), bayesian_bootstraps(np.full(30, 1 / 30), rng, 3)
    expected = [np.mean([0.25 * bag @ (p[:, i] / p.mean(axis=1)) for bag in bags]) for i in range(4)]
    np.testing.assert_allclose(bagged_log_loss_weights(p, bags, steps=1), expected, rtol=1e-12)
    r = rng.normal(size=(30, 4))
    start, by_bag = np.full(4, 0.25), []
    for bag in bags:
        gram = r.T @ np.diag(bag) @ r
        raised = start * np.exp(1 - gram @ start / (start @ gram @ start))
        by_bag.append(raised / raised.sum())
    np.testing.assert_allclose(bagged_squared_error_weights(r, bags, steps=1), np.mean(by_bag, axis=0), rtol=1e-12)


def test_without_stopping_early_the_exact_weights_are_reached(rng):
    alike = np.full((1, 200), 1 / 200)
    p = rng.uniform(0.05, 1, (200, 4))
    np.testing.assert_allclose(bagged_log_loss_weights(p, alike, steps=20_000), log_loss_weights(p).weights, atol=1e-5)
    r = rng.normal(size=(200, 4)) + rng.normal(size=(200, 1))
    np.testing.assert_allclose(
        bagged_squared_error_weights(r, alike, steps=20_000), squared_error_weights(r).weights, atol=1e-5
    )


def test_rows_without_weight_stay_without(rng):
    weight = np.r_[np.zeros(5), np.full(20, 0.05)]
    bags = bayesian_bootstraps(weight, rng, 7)
    assert bags.shape == (7, 25) and (bags[:, :5] == 0).all()
    np.testing.assert_allclose(bags.sum(axis=1), 1)
    np.testing.assert_allclose(bayesian_bootstraps(weight, rng, 4_000).mean(axis=0), weight, atol=0.005)
    assert num_steps(np.full(100, 0.01)) == 50
    assert num_steps(weight) == round(5 * 20**0.5), "the effective number of rows counts"


def test_few_rows_are_followed_less_than_by_the_exact_weights(rng):
    """Ten members of one quality, 60 rows: on new rows the bagged weights lose to the exact ones in no more than a few
    of 20 draws. (Both see the same rows; the exact ones fit these better by construction.)"""
    better = 0
    for _ in range(20):
        truth = rng.normal(size=4_060)
        residual = rng.normal(size=(4_060, 10)) * rng.uniform(0.9, 1.1, 10) + 0.5 * truth[:, None]
        seen, unseen = residual[:60], residual[60:]
        weights = bagged_squared_error_weights(seen, bayesian_bootstraps(np.full(60, 1 / 60), rng), steps=78)
        exact = squared_error_weights(seen).weights
        assert ((seen @ exact) ** 2).mean() <= ((seen @ weights) ** 2).mean()
        better += ((unseen @ weights) ** 2).mean() < ((unseen @ exact) ** 2).mean()
    assert better >= 15


def test_two_class_columns_are_weighed_row_by_row(rng):
    """A multi-label row is drawn as one: its labels are not independent."""
    y = (rng.random((80, 3)) < 0.5).astype(int)
    p = [np.clip(0.5 + 0.3 * (y - 0.5) + 0.2 * rng.normal(size=y.shape), 0.01, 0.99) for _ in range(4)]
    ensemble = Ensemble.fit(p, y, task="multilabel", method="bagged convex")
    weights = np.array(list(ensemble.weights.values()))
    assert weights.sum() == pytest.approx(1) and (weights > 0.1).all()
