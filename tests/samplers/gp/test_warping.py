"""Input warping against SciPy and finite differences, and what it is for."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from manyfit.samplers.gp.kernels import Geometry, Warping, slope, warp
from manyfit.samplers.gp.surrogate import Likelihood, NoisePrior, Surrogate, Targets

SHAPES = [(0.0, 0.0), (-1.2, 0.3), (0.8, -0.9), (1.1, 1.3)]


@pytest.mark.parametrize(("log_a", "log_b"), SHAPES)
def test_golden_it_is_the_distribution_function_of_a_power_of_a_beta_variable(log_a: float, log_b: float) -> None:
    x = np.linspace(0.0, 1.0, 41)
    expected = stats.beta(1.0, np.exp(log_b)).cdf(x ** np.exp(log_a))
    np.testing.assert_allclose(warp(x, np.array(log_a), np.array(log_b))[0], expected, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize(("log_a", "log_b"), SHAPES)
def test_slopes_equal_finite_differences(log_a: float, log_b: float) -> None:
    x, a, b, step = np.linspace(0.01, 0.99, 29), np.array(log_a), np.array(log_b), 1e-6
    _, by_a, by_b = warp(x, a, b)
    for found, plus, minus in [
        (by_a, (x, a + step, b), (x, a - step, b)),
        (by_b, (x, a, b + step), (x, a, b - step)),
        (slope(x, a, b), (x + step, a, b), (x - step, a, b)),
    ]:
        np.testing.assert_allclose(found, (warp(*plus)[0] - warp(*minus)[0]) / (2 * step), rtol=1e-5, atol=1e-8)


def test_ends_stay_ends_and_every_slope_is_finite_there() -> None:
    ends = np.array([0.0, 1.0])
    for log_a, log_b in SHAPES:
        u, by_a, by_b = warp(ends, np.array(log_a), np.array(log_b))
        assert u.tolist() == [0.0, 1.0]
        assert np.abs([by_a, by_b]).max() < 1e-3
        assert np.isfinite(slope(ends, np.array(log_a), np.array(log_b))).all()


def test_inactive_stays_inactive_and_other_dimensions_stay_themselves() -> None:
    warping = Warping(np.array([0]), np.array([-1.0]), np.array([0.0]))
    points = np.array([[0.5, 0.5], [np.nan, np.nan]])
    found = warping(points)
    assert found[0, 0] > 0.7 and found[0, 1] == 0.5 and np.isnan(found[1]).all()
    assert warping.slopes(points)[1].tolist() == [1.0, 1.0] and warping.slopes(points)[0, 1] == 1.0


def mixed() -> tuple[Geometry, np.ndarray, Targets]:
    """Numbers, one of them sometimes inactive, and a category; some on the bounds."""
    rng = np.random.default_rng(0)
    points = rng.random((12, 4))
    points[:, 2] = rng.integers(3, size=12)
    points[[3, 5], 1] = np.nan
    points[:2, 0] = 0.0, 1.0
    geometry = Geometry(np.array([False, False, True, False]), np.array([0, 1, 3]))
    return geometry, points, Targets(rng.standard_normal(12), np.ones(12))


def test_gradient_of_the_likelihood_equals_finite_differences() -> None:
    geometry, points, targets = mixed()
    likelihood = Likelihood(geometry, points, targets, NoisePrior())
    theta = likelihood.start() + 0.3 * np.random.default_rng(1).standard_normal(11)
    _, gradient = likelihood(theta)
    steps = 1e-6 * np.eye(len(theta))
    numeric = [(likelihood(theta + step)[0] - likelihood(theta - step)[0]) / 2e-6 for step in steps]
    np.testing.assert_allclose(gradient, numeric, rtol=1e-5, atol=1e-6)


def test_the_likelihood_is_that_of_the_warped_points() -> None:
    """What the surrogate predicts with and what theta is learned from are the same process."""
    geometry, points, targets = mixed()
    shapes = np.array([-0.8, 0.4, 0.2, 0.5, -0.3, 0.0])
    lengths = np.log([0.7, 1.0, 1.5, 0.9])
    warped = Warping(geometry.warped, shapes[:3], shapes[3:])(points)
    likelihood = Likelihood(geometry, points, targets, NoisePrior())
    plain = Likelihood(Geometry(geometry.unordered), warped, targets, NoisePrior())
    theta = np.concatenate([lengths, shapes, [-4.0]])
    assert likelihood.evidence(theta)[0] == pytest.approx(plain.evidence(np.append(lengths, -4.0))[0], rel=1e-10)
    new = points[::-1] * 0.9
    new[:, 2] = points[:, 2]
    means, _ = Surrogate(geometry, points, targets, theta).predict(new)
    there = Surrogate(geometry, warped, targets, np.append(lengths, -4.0))
    np.testing.assert_allclose(
        means, there.predict(Warping(geometry.warped, shapes[:3], shapes[3:])(new))[0], rtol=1e-9
    )


def test_slopes_of_predictions_equal_finite_differences() -> None:
    geometry, points, targets = mixed()
    theta = np.concatenate([np.log([0.7, 1.0, 1.5, 0.9]), [-0.8, 0.4, 0.2, 0.5, -0.3, 0.0], [-4.0]])
    model = Surrogate(geometry, points, targets, theta)
    new = np.random.default_rng(2).uniform(0.05, 0.95, (5, 4))
    new[:, 2] = 1.0
    _, _, mean_slopes, variance_slopes = model.predict_with_slopes(new)
    for j in geometry.warped:
        step = 1e-6 * np.eye(4)[j]
        plus, minus = model.predict(new + step), model.predict(new - step)
        np.testing.assert_allclose(mean_slopes[0, :, j], (plus[0] - minus[0])[0] / 2e-6, rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(variance_slopes[:, j], (plus[1] - minus[1]) / 2e-6, rtol=1e-4, atol=1e-6)


def test_a_scale_that_was_chosen_badly_is_mended() -> None:
    """Everything happens below 0.05. The warped process learns that, and errs less than half as much there."""

    def loss(x: np.ndarray) -> np.ndarray:
        return np.log10(x[:, 0] + 1e-3) + 0.5 * x[:, 1]

    rng = np.random.default_rng(3)
    points, new = rng.random((40, 2)), rng.random((400, 2)) * [0.05, 1.0]
    center, spread = loss(points).mean(), loss(points).std()
    targets = Targets((loss(points) - center) / spread, np.ones(len(points)))
    errors = []
    for warped in ([], [0, 1]):
        geometry = Geometry(np.zeros(2, dtype=bool), np.array(warped, dtype=np.int64))
        likelihood = Likelihood(geometry, points, targets, NoisePrior())
        theta, _ = likelihood.maximise(likelihood.start())
        means, _ = Surrogate(geometry, points, targets, theta).predict(new)
        errors.append(float(np.sqrt(np.mean((center + spread * means[0] - loss(new)) ** 2))))
    assert theta[2] < -0.3  # log a of the first dimension
    assert errors[1] < 0.5 * errors[0], errors
