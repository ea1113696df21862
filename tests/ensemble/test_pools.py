"""Pools: their formulas, their limits, and what they do at the edges."""

import numpy as np
import pytest
from scipy.optimize import minimize_scalar
from scipy.special import softmax as scipy_softmax

from manyfit.ensemble.choosing.calibration import (
    calibrated_members,
    fit_inverse_temperature,
    of_a_bag,
    with_temperature,
)
from manyfit.ensemble.metrics import named_metric
from manyfit.ensemble.pools import (
    POOLS,
    ExponentialPool,
    GeometricPool,
    LinearPool,
    PowerPool,
    rank_pool,
    sharpened,
    single,
)
from manyfit.ensemble.problem import PredictionTask, make_problem
from manyfit.ensemble.weights.gradient import geometric_pool, stacking_pool

W = np.array([0.5, 0.3, 0.2])


def softmax(logits):
    return scipy_softmax(logits, axis=-1)


@pytest.fixture
def p():
    drawn = np.random.default_rng(0).gamma(1.0, size=(3, 40, 4)) + 0.01
    return drawn / drawn.sum(axis=-1, keepdims=True)


def test_linear_pool(p):
    np.testing.assert_allclose(LinearPool(W)(p, PredictionTask.MULTICLASS), 0.5 * p[0] + 0.3 * p[1] + 0.2 * p[2])


def test_geometric_pool(p):
    product = p[0] ** 0.5 * p[1] ** 0.3 * p[2] ** 0.2
    expected = product / product.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(GeometricPool(W)(p, PredictionTask.MULTICLASS), expected, rtol=1e-12)


def test_power_pool_lies_between_linear_and_geometric(p):
    linear, geometric = LinearPool(W)(p, PredictionTask.MULTICLASS), GeometricPool(W)(p, PredictionTask.MULTICLASS)
    np.testing.assert_allclose(PowerPool(W, parameter=1.0)(p, PredictionTask.MULTICLASS), linear, rtol=1e-9)
    np.testing.assert_allclose(PowerPool(W, parameter=1e-6)(p, PredictionTask.MULTICLASS), geometric, rtol=1e-4)


@pytest.mark.parametrize("r", [0.1, 0.5, 0.9])
def test_power_pools_with_r_up_to_one_beat_the_members_average(p, r):
    """Log-likelihood of the pool is at least the members' average for r in [0, 1] (arXiv 2603.04204)."""
    y = np.random.default_rng(1).integers(0, 4, 40)
    problem, metric = make_problem(p, y), named_metric("log_loss")
    pooled = metric.loss(PowerPool(W, parameter=r)(p, PredictionTask.MULTICLASS), problem)
    assert pooled <= W @ [metric.loss(q, problem) for q in p]


def test_exponential_pool_tends_to_the_linear_one(p):
    linear = LinearPool(W)(p, PredictionTask.MULTICLASS)
    np.testing.assert_allclose(ExponentialPool(W, parameter=1e-5)(p, PredictionTask.MULTICLASS), linear, rtol=1e-4)
    confident = ExponentialPool(W, parameter=8.0)(p, PredictionTask.MULTICLASS)
    assert confident.max(axis=1).mean() > linear.max(axis=1).mean()


def test_two_class_columns_are_pooled_as_two_classes(p):
    q = p[:, :, :1] / (p[:, :, :1] + p[:, :, 1:2])
    both = np.concatenate([1 - q, q], axis=-1)
    for kind, numbers in (
        ("linear", {}),
        ("geometric", {}),
        ("power", {"parameter": 0.4}),
        ("exponential", {"parameter": 2.0}),
    ):
        pool = POOLS[kind](W, inverse_temperature=1.7, **numbers)
        np.testing.assert_allclose(
            pool(q, PredictionTask.BINARY)[:, 0], pool(both, PredictionTask.MULTICLASS)[:, 1], rtol=1e-9
        )


def test_members_without_weight_are_never_looked_at(p):
    broken = p.copy()
    broken[1] = np.inf
    pool = GeometricPool(np.array([0.6, 0.0, 0.4]))
    np.testing.assert_array_equal(pool(broken, PredictionTask.MULTICLASS), pool(p, PredictionTask.MULTICLASS))


@pytest.mark.parametrize("kind", ["linear", "geometric", "power", "exponential"])
def test_probabilities_of_exactly_zero_and_one(kind):
    p = np.array([[[1.0, 0.0]], [[0.0, 1.0]]])
    numbers = {"parameter": 0.5} if kind in ("power", "exponential") else {}
    pooled = POOLS[kind](np.array([0.5, 0.5]), **numbers)(p, PredictionTask.MULTICLASS)
    np.testing.assert_allclose(pooled, [[0.5, 0.5]], atol=1e-6)


def test_exponential_mean_of_values_is_the_linex_estimate():
    p = np.array([[[1.0]], [[3.0]]])
    pool = ExponentialPool(np.array([0.5, 0.5]), parameter=2.0)
    assert pool(p, PredictionTask.REGRESSION)[0, 0] == pytest.approx(np.log(0.5 * np.exp(2) + 0.5 * np.exp(6)) / 2)
    assert np.isfinite(pool(p * 1e5, PredictionTask.REGRESSION)).all()


def test_rank_pool_orders_like_mean_ranks():
    rng = np.random.default_rng(0)
    p = rng.random((2, 500, 1))
    p[1] = p[1] ** 8  # another scale, the same meaning of order
    pool = rank_pool(p, np.array([0.5, 0.5]), num_knots=501)
    ranks = p[:, :, 0].argsort(axis=1).argsort(axis=1).mean(axis=0)
    assert np.corrcoef(pool(p, PredictionTask.BINARY)[:, 0], ranks)[0, 1] > 0.9999
    assert 0 <= pool(np.array([[[-5.0]], [[5.0]]]), PredictionTask.BINARY)[0, 0] <= 1


def test_expand_puts_members_back_in_their_places(p):
    small = LinearPool(np.array([0.7, 0.3]), member_inverse_temperatures=np.array([1.1, 0.9]))
    large = small.expand(np.array([0, 2]), 3)
    assert large.weights.tolist() == [0.7, 0, 0.3]
    np.testing.assert_array_equal(large(p, PredictionTask.MULTICLASS), small(p[[0, 2]], PredictionTask.MULTICLASS))


def test_geometric_weights_agree_with_slsqp(p):
    """The convex fit of equation (1) in gradient.py, by a generic solver with bounds."""
    from scipy.optimize import minimize

    y = p.mean(axis=0).argmax(axis=1)
    y[::5] = 0
    problem, metric = make_problem(p, y), named_metric("log_loss")

    def loss(w):
        return metric.loss(GeometricPool(np.maximum(w, 1e-300))(p, PredictionTask.MULTICLASS), problem)

    theirs = minimize(
        loss, np.full(3, 1 / 3), method="SLSQP", bounds=[(0, None)] * 3, options={"ftol": 1e-14, "maxiter": 500}
    )
    ours = loss(geometric_pool(problem).weights)
    assert abs(ours - theirs.fun) < 1e-7
    assert ours <= theirs.fun + 1e-9


def test_stacking_of_values_is_ridge_towards_the_average():
    rng = np.random.default_rng(0)
    y = rng.normal(size=300)
    p = np.stack([2 * y + 1, rng.normal(size=300)])[:, :, None]
    problem = make_problem(p, y)
    light, heavy = stacking_pool(problem, ridge=1e-9), stacking_pool(problem, ridge=1e9)
    np.testing.assert_allclose(light(p, PredictionTask.REGRESSION)[:, 0], y, atol=1e-5)
    np.testing.assert_allclose(heavy.class_weights[:, 0], [0.5, 0.5], atol=1e-4)


def test_stacking_of_classes_never_loses_to_its_start(p):
    y = np.random.default_rng(1).integers(0, 4, 40)
    problem, metric = make_problem(p, y), named_metric("log_loss")
    start = metric.loss(GeometricPool(np.full(3, 1 / 3))(p, PredictionTask.MULTICLASS), problem)
    assert metric.loss(stacking_pool(problem, ridge=0.01)(p, PredictionTask.MULTICLASS), problem) < start


@pytest.mark.parametrize("truth", [0.3, 1.0, 4.0])
def test_temperature_is_recovered(truth):
    """Labels drawn from softmax(truth * logits): the fitted inverse temperature is `truth`, to sampling error."""
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(40_000, 3))
    q = sharpened(
        np.exp(logits)[None] / np.exp(logits).sum(1, keepdims=True), np.array([truth]), PredictionTask.MULTICLASS
    )[0]
    y = (q.cumsum(axis=1) < rng.random((len(q), 1))).sum(axis=1)
    base = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    assert fit_inverse_temperature(base, y, np.full(len(y), 1 / len(y))) == pytest.approx(truth, rel=0.05)


def too_bold(num_rows, boldness=1.6, seed=2):
    """Predictions that are sharper than they should be, and their labels."""
    rng = np.random.default_rng(seed)
    logits = 1.5 * rng.normal(size=(num_rows, 4))
    truth = softmax(logits)
    y = (truth.cumsum(axis=1) < rng.random((num_rows, 1))).sum(axis=1)
    return softmax(boldness * logits), y


def test_temperature_agrees_with_a_generic_minimiser():
    """The best one by Brent's method, its error by second differences of the loss, the posterior mean from both."""
    q, y = too_bold(400)
    problem = make_problem(q[None], y)

    def loss(beta):
        return -float(np.log(softmax(beta * np.log(q))[np.arange(400), y]).sum())

    best = minimize_scalar(loss, bounds=(0.1, 10), method="bounded", options={"xatol": 1e-9}).x
    step = 1e-3
    variance = step**2 / (loss(best + step) - 2 * loss(best) + loss(best - step))
    expected = 1 + (best - 1) / (1 + variance / 0.15**2)
    found = with_temperature(LinearPool(np.ones(1)), problem).inverse_temperature
    assert found == pytest.approx(expected, abs=1e-4) and 0.5 < found < 0.8


def test_no_temperature_is_learned_from_a_few_mistakes():
    q, y = too_bold(2000)
    right = q.argmax(axis=1) == y
    few = np.r_[np.flatnonzero(right)[:400], np.flatnonzero(~right)[:29]]
    assert with_temperature(LinearPool(np.ones(1)), make_problem(q[None, few], y[few])).inverse_temperature == 1.0
    enough = np.r_[np.flatnonzero(right)[:40], np.flatnonzero(~right)[:31]]
    assert with_temperature(LinearPool(np.ones(1)), make_problem(q[None, enough], y[enough])).inverse_temperature < 1.0


def test_no_temperature_is_learned_where_nothing_is_wrong():
    """Two standard errors: in one case of twenty, so among sixty more than nine once in 1,000."""
    learned = 0
    for seed in range(60):
        q, y = too_bold(300, 1.0, seed)
        learned += with_temperature(LinearPool(np.ones(1)), make_problem(q[None], y)).inverse_temperature != 1.0
    assert learned <= 9


def test_a_temperature_of_a_bag_is_that_of_a_mean_of_as_many_models():
    """Logits of models with noise of their own: one and means of two say what means of ten need, nearly."""
    rng = np.random.default_rng(5)
    logits = 1.5 * rng.normal(size=(40_000, 3))
    y = (softmax(logits).cumsum(axis=1) < rng.random((40_000, 1))).sum(axis=1)
    models = softmax(logits + 0.5 * rng.normal(size=(10, 40_000, 3)))
    single, two, ten = (
        fit_inverse_temperature(np.log(models[:count].mean(axis=0)), y, np.full(40_000, 1 / 40_000))
        for count in (1, 2, 10)
    )
    assert single < two < ten
    assert of_a_bag(single, two, 2, 10) == pytest.approx(ten, abs=0.2 * (ten - single))


@pytest.mark.parametrize("right", [True, False])
def test_temperature_stays_within_its_limits(right):
    logs = np.log(np.array([[0.9, 0.1]] * 10))
    y = np.zeros(10, int) if right else np.ones(10, int)
    assert fit_inverse_temperature(logs, y, np.full(10, 0.1)) == (10.0 if right else 0.1)


def test_calibrated_members_lose_nothing(p):
    y = np.random.default_rng(2).integers(0, 4, 40)
    problem, metric = make_problem(p, y), named_metric("log_loss")
    inner, betas = calibrated_members(problem)
    for member in range(3):
        assert metric.loss(inner.predictions[member], problem) <= metric.loss(p[member], problem) + 1e-9
    pool = LinearPool(W, member_inverse_temperatures=betas)
    np.testing.assert_allclose(
        pool(p, PredictionTask.MULTICLASS), LinearPool(W)(inner.predictions, PredictionTask.MULTICLASS), atol=1e-7
    )


def test_single_is_that_member(p):
    np.testing.assert_array_equal(single(1, 3)(p, PredictionTask.MULTICLASS), p[1])
