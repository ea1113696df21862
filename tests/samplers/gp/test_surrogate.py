"""The Gaussian process against scikit-learn's, and its gradients against finite differences."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import ConstantKernel, Matern, WhiteKernel

from manyfit.samplers.gp import surrogate
from manyfit.samplers.gp.kernels import Geometry
from manyfit.samplers.gp.surrogate import Likelihood, NoisePrior, Surrogate, Targets, cholesky

LENGTHS = np.array([0.4, 1.3, 0.8])
ETA = 0.03


def problem(seed: int = 0, n: int = 25) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    points = rng.random((n, 3))
    y = np.sin(5 * points[:, 0]) + points[:, 1] ** 2 + 0.1 * rng.standard_normal(n)
    return points, (y - y.mean()) / y.std()


def theirs(amplitude: float) -> GaussianProcessRegressor:
    """scikit-learn's process with the same covariance: signal + unknown constant mean, noise, our jitter."""
    kernel = ConstantKernel(amplitude) * (
        Matern(LENGTHS, nu=2.5) + ConstantKernel(surrogate._MEAN_VARIANCE)
    ) + WhiteKernel(amplitude * (ETA + surrogate._JITTER))
    return GaussianProcessRegressor(kernel, optimizer=None, alpha=0.0 + 1e-300)


def ours(points: np.ndarray, y: np.ndarray) -> Surrogate:
    theta = np.append(np.log(LENGTHS), np.log(ETA))
    return Surrogate(Geometry(np.zeros(3, dtype=bool)), points, Targets(y, np.ones(len(y))), theta)


def test_golden_posterior_is_that_of_scikit_learn() -> None:
    points, y = problem()
    new = np.random.default_rng(1).random((10, 3))
    model = ours(points, y)
    reference = theirs(model.amplitude).fit(points, y)
    mean, covariance = reference.predict(new, return_cov=True)
    # scikit-learn adds the white noise of new points to their variance; ours is that of the noise-free function.
    variance = np.diag(covariance) - model.amplitude * (ETA + surrogate._JITTER)
    means, variances = model.predict(new)
    np.testing.assert_allclose(means[0], mean, atol=1e-6)
    np.testing.assert_allclose(variances, variance, atol=1e-6)


def test_golden_marginal_likelihood_is_that_of_scikit_learn_with_the_amplitude_integrated_out() -> None:
    """Eq. (2) against numerical integration of scikit-learn's likelihood over the prior of the amplitude."""
    from scipy.integrate import quad
    from scipy.stats import invgamma

    points, y = problem(n=8)
    prior = invgamma(surrogate._AMPLITUDE_SHAPE, scale=surrogate._AMPLITUDE_SCALE)

    def evidence(noise: float) -> float:
        likelihood = Likelihood(Geometry(np.zeros(3, dtype=bool)), points, Targets(y, np.ones(len(y))), NoisePrior())
        return likelihood.evidence(np.append(np.log(LENGTHS), np.log(noise)))[0]

    def integrated(noise: float) -> float:
        def integrand(log_s2: float) -> float:
            s2 = float(np.exp(log_s2))
            kernel = ConstantKernel(s2) * (Matern(LENGTHS, nu=2.5) + ConstantKernel(1.0))
            model = GaussianProcessRegressor(kernel, optimizer=None, alpha=s2 * (noise + surrogate._JITTER))
            return float(np.exp(model.fit(points, y).log_marginal_likelihood_value_) * prior.pdf(s2) * s2)

        return float(np.log(quad(integrand, -8.0, 8.0, epsabs=1e-14, epsrel=1e-10)[0]))

    # Ours leaves out a constant, so differences are compared.
    assert evidence(0.03) - evidence(0.3) == pytest.approx(integrated(0.03) - integrated(0.3), abs=1e-6)


def test_gradient_of_the_evidence_equals_finite_differences() -> None:
    rng = np.random.default_rng(3)
    points = rng.random((20, 4))
    points[:, 2] = np.round(points[:, 2] * 2)
    points[:6, 3] = np.nan
    geometry = Geometry(np.array([False, False, True, False]))
    targets = Targets(rng.standard_normal(20), rng.integers(1, 4, 20).astype(float), within=2.0, degrees=10)
    likelihood = Likelihood(geometry, points, targets, NoisePrior())
    theta = np.array([-0.5, 0.2, 0.4, 1.0, -2.0])
    _, gradient = likelihood(theta)
    for j in range(5):
        step = np.zeros(5)
        step[j] = 1e-5
        numeric = (likelihood(theta + step)[0] - likelihood(theta - step)[0]) / 2e-5
        assert gradient[j] == pytest.approx(numeric, rel=1e-5, abs=1e-6)


def test_slopes_of_predictions_equal_finite_differences() -> None:
    points, y = problem()
    model = ours(points, y)
    new = np.random.default_rng(4).random((6, 3))
    _, _, mean_slopes, variance_slopes = model.predict_with_slopes(new)
    for j in range(3):
        step = np.zeros(3)
        step[j] = 1e-5
        up, down = model.predict(new + step), model.predict(new - step)
        np.testing.assert_allclose(mean_slopes[0, :, j], (up[0] - down[0])[0] / 2e-5, atol=1e-6)
        np.testing.assert_allclose(variance_slopes[:, j], (up[1] - down[1]) / 2e-5, atol=1e-6)


def test_pooled_replicates_equal_repeated_rows() -> None:
    """Eqs. (1)-(3) with counts and squares within are exact: the same evidence and posterior as one row each."""
    points, y = problem(n=12)
    theta = np.append(np.log(LENGTHS), np.log(ETA))
    geometry = Geometry(np.zeros(3, dtype=bool))
    replicates = np.stack([y - 0.2, y + 0.1, y + 0.4])
    long = Targets(replicates.ravel(), np.ones(36))
    within = float(((replicates - replicates.mean(axis=0)) ** 2).sum())
    short = Targets(replicates.mean(axis=0), np.full(12, 3.0), within, 24)
    repeated = np.tile(points, (3, 1))
    new = np.random.default_rng(5).random((4, 3))
    a = Surrogate(geometry, repeated, long, theta).predict(new)
    b = Surrogate(geometry, points, short, theta).predict(new)
    np.testing.assert_allclose(a[0], b[0], atol=1e-6)
    np.testing.assert_allclose(a[1], b[1], atol=1e-6)

    def evidence(rows: np.ndarray, targets: Targets, theta: np.ndarray) -> float:
        return Likelihood(geometry, rows, targets, NoisePrior()).evidence(theta)[0]

    other = theta + 0.3
    gap_long = evidence(repeated, long, theta) - evidence(repeated, long, other)
    gap_short = evidence(points, short, theta) - evidence(points, short, other)
    assert gap_long == pytest.approx(gap_short, abs=1e-5)


def test_imagined_outcomes_shrink_variance_and_leave_the_mean_unbiased() -> None:
    points, y = problem()
    model = ours(points, y)
    pending = np.array([[0.5, 0.5, 0.5], [0.1, 0.9, 0.2]])
    new = np.random.default_rng(6).random((5, 3))
    imagined = model.fantasise(pending, 4000, np.random.default_rng(7))
    means, variance = imagined.predict(new)
    assert (variance <= model.predict(new)[1] + 1e-12).all()
    assert (imagined.predict(pending)[1] < 1e-4).all()
    spread = means.std(axis=0) / np.sqrt(4000)
    assert (np.abs(means.mean(axis=0) - model.predict(new)[0][0]) < 5 * spread + 1e-9).all()


def test_means_alone_are_those_of_predictions() -> None:
    points, y = problem()
    model = ours(points, y)
    imagined = model.fantasise(np.array([[0.5, 0.5, 0.5]]), 8, np.random.default_rng(7))
    for each in (model, imagined):
        assert np.array_equal(each.means(points[:7]), each.predict(points[:7])[0])
        np.testing.assert_allclose(each.means_of_own(), each.predict(each.points)[0], rtol=0, atol=1e-9)
    assert imagined.means_of_own().shape == (8, 26)


def test_noise_is_learned_from_replicates() -> None:
    rng = np.random.default_rng(8)
    points = rng.random((15, 1))
    truth = np.sin(6 * points[:, 0])
    replicates = truth[None, :] + 0.3 * rng.standard_normal((40, 15))
    within = float(((replicates - replicates.mean(axis=0)) ** 2).sum())
    targets = Targets(replicates.mean(axis=0), np.full(15, 40.0), within, 39 * 15)
    geometry = Geometry(np.array([False]))
    likelihood = Likelihood(geometry, points, targets, NoisePrior())
    theta, _ = likelihood.maximise(likelihood.start())
    assert Surrogate(geometry, points, targets, theta).noise == pytest.approx(0.09, rel=0.15)


def test_cholesky_survives_equal_points() -> None:
    factor = cholesky(np.ones((5, 5)))
    np.testing.assert_allclose(factor @ factor.T, np.ones((5, 5)), atol=1e-6)
