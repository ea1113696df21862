"""Exact convex weights against SciPy's SLSQP, and their certificates."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize

from manyfit.ensemble.weights.exact import log_loss_weights, nonnegative_minimum, squared_error_weights


def slsqp(loss, gradient, num_members):
    """The same problem by a generic solver."""
    start = np.full(num_members, 1 / num_members)
    total = {"type": "eq", "fun": lambda w: w.sum() - 1, "jac": lambda w: np.ones(num_members)}
    return minimize(
        loss,
        start,
        jac=gradient,
        bounds=[(0, 1)] * num_members,
        constraints=total,
        method="SLSQP",
        options={"ftol": 1e-16, "maxiter": 2000},
    )


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize(("num_members", "num_rows"), [(2, 40), (5, 100), (12, 300), (25, 400)])
def test_log_loss_weights_agree_with_slsqp(seed, num_members, num_rows):
    rng = np.random.default_rng([seed, num_members])
    p = np.clip(rng.beta(2, 1, (num_rows, num_members)), 1e-7, 1)
    v = rng.random(num_rows)
    v /= v.sum()
    ours = log_loss_weights(p, v)
    theirs = slsqp(lambda w: -(v @ np.log(p @ w)), lambda w: -((v / (p @ w)) @ p), num_members)
    assert abs(ours.loss - theirs.fun) < 1e-8
    assert ours.loss <= theirs.fun + 1e-12
    assert ours.gap < 1e-9
    np.testing.assert_allclose(ours.weights, theirs.x, atol=2e-4)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize(("num_members", "num_rows"), [(2, 40), (5, 100), (12, 300), (25, 400)])
def test_squared_error_weights_agree_with_slsqp(seed, num_members, num_rows):
    rng = np.random.default_rng([seed, num_members])
    r = rng.normal(size=(num_rows, num_members)) * rng.uniform(0.5, 2, num_members) + rng.normal(size=(num_rows, 1))
    v = rng.random(num_rows)
    v /= v.sum()
    ours = squared_error_weights(r, v)
    theirs = slsqp(lambda w: v @ (r @ w) ** 2, lambda w: 2 * ((v * (r @ w)) @ r), num_members)
    assert abs(ours.loss - theirs.fun) < 1e-8
    assert ours.loss <= theirs.fun + 1e-12
    assert ours.gap < 1e-10
    np.testing.assert_allclose(ours.weights, theirs.x, atol=2e-4)


def test_the_gap_is_an_upper_bound_on_what_is_left():
    """Stopped early, the certificate still covers the distance to the optimum."""
    rng = np.random.default_rng(0)
    p = np.clip(rng.beta(2, 1, (300, 40)), 1e-7, 1)
    best = log_loss_weights(p).loss
    for tolerance in (1e-1, 1e-2, 1e-4):
        early = log_loss_weights(p, tolerance=tolerance)
        assert 0 <= early.loss - best <= early.gap + 1e-12


@pytest.mark.parametrize("copies", [2, 5])
def test_copies_share_one_optimum(copies):
    rng = np.random.default_rng(1)
    p = np.clip(rng.beta(2, 1, (200, 4)), 1e-7, 1)
    r = rng.normal(size=(200, 4))
    assert abs(log_loss_weights(np.tile(p, copies)).loss - log_loss_weights(p).loss) < 1e-9
    assert abs(squared_error_weights(np.tile(r, copies)).loss - squared_error_weights(r).loss) < 1e-9


def test_probabilities_next_to_zero_and_one():
    p = np.array([[1.0, 1e-7], [1e-7, 1.0], [1.0, 1.0]])
    found = log_loss_weights(p)
    np.testing.assert_allclose(found.weights, [0.5, 0.5], atol=1e-6)
    assert found.loss == pytest.approx(2 / 3 * np.log(2), abs=1e-6)


def test_one_member_gets_everything():
    assert log_loss_weights(np.full((5, 1), 0.3)).weights.tolist() == [1.0]
    assert squared_error_weights(np.zeros((5, 1))).weights.tolist() == [1.0]


def test_a_perfect_member_gets_everything():
    r = np.random.default_rng(0).normal(size=(50, 3))
    r[:, 1] = 0
    np.testing.assert_allclose(squared_error_weights(r).weights, [0, 1, 0], atol=1e-6)


@given(st.integers(0, 10_000), st.integers(1, 12), st.integers(1, 60))
@settings(max_examples=60, deadline=None)
def test_weights_are_on_the_simplex_and_beat_every_member(seed, num_members, num_rows):
    rng = np.random.default_rng(seed)
    p = np.clip(rng.random((num_rows, num_members)), 1e-7, 1)
    found = log_loss_weights(p)
    assert found.weights.min() >= 0
    assert abs(found.weights.sum() - 1) < 1e-12
    assert found.loss <= (-np.log(p).mean(axis=0)).min() + 1e-9
    r = rng.normal(size=(num_rows, num_members))
    found = squared_error_weights(r)
    assert found.weights.min() >= 0
    assert abs(found.weights.sum() - 1) < 1e-12
    assert found.loss <= (r**2).mean(axis=0).min() + 1e-9


def test_nonnegative_minimum_meets_the_optimality_conditions():
    rng = np.random.default_rng(3)
    for _ in range(20):
        a = rng.normal(size=(30, 10))
        h, b = a.T @ a, rng.normal(size=10)
        z = nonnegative_minimum(h, b)
        slope = h @ z - b
        assert z.min() >= 0
        assert slope.min() > -1e-8
        assert abs(slope @ z) < 1e-8
