"""The Gaussian process that stands in for the objective.

Notation (n points, d dimensions, all in units of the standardised target):

| symbol | meaning |
|---|---|
| y | (n,) pooled targets: the mean over the replicates of each point |
| c | (n,) replicates behind each target |
| K | (n, n) correlation of the points, eq. (2) of `kernels`, plus a constant that stands for the unknown mean |
| eta | noise variance of one replicate over signal variance |
| theta | log length scales, then the shapes of the k input warps (log a, log b), then log eta |
| s2 | signal variance, given an inverse-gamma(a, b) prior and integrated out |
| A | K + eta diag(1 / c) |
| S | sum of squares of the replicates around their own means, on v degrees of freedom |

Posterior of s2 and marginal likelihood (O'Hagan and Forster 2004, ch. 11; the Gaussian one with s2 integrated out):

(1) q = y' A^-1 y + S / eta
(2) log p(y) = -1/2 log|A| - (v/2) log eta - (a + (n + v)/2) log(b + q/2) + constant
(3) E[s2 | y] = (b + q/2) / (a + (n + v)/2 - 1)

Length scales and eta are the mode of (2) times their priors. Hvarfner et al. 2024 give the prior of the length scales:
a log-normal whose median grows with the square root of the number of dimensions, so that high-dimensional
problems are believed to be as easy as low-dimensional ones until data say otherwise.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np
from scipy.linalg import lapack
from scipy.optimize import minimize

from manyfit.samplers.gp.kernels import WARP_BOUNDS, WARP_SPREAD, Array, Distances, Geometry, Warping, matern52

_AMPLITUDE_SHAPE = 2.0  # a
_AMPLITUDE_SCALE = 1.5  # b: prior mode of s2 at b / (a + 1) = 1/2
_MEAN_VARIANCE = 1.0  # of the unknown mean, in units of s2
_LENGTH_SPREAD = math.sqrt(3.0)
_JITTER = 1e-9
_FANTASY_NOISE = 1e-6  # imagined outcomes count as certain, up to what keeps A well conditioned
_LEAST_VARIANCE = 1e-12
_LENGTH_BOUNDS = (math.log(0.02), math.log(300.0))


@dataclasses.dataclass(frozen=True)
class NoisePrior:
    """Belief about log eta: normal, and bounded."""

    center: float = math.log(1e-4)
    spread: float = 3.0
    lower: float = math.log(1e-7)
    upper: float = math.log(10.0)


@dataclasses.dataclass(frozen=True)
class Targets:
    """What was measured at n points.

    Args:
        means: (n,) mean over the replicates of each point.
        counts: (n,) number of replicates, at least 1.
        within: sum of squares of the replicates around those means.
        degrees: its degrees of freedom, the sum of ``counts - 1``.
    """

    means: Array
    counts: Array
    within: float = 0.0
    degrees: int = 0


def cholesky(matrix: Array) -> Array:
    """Lower Cholesky factor; adds as little to the diagonal as it takes.

    Rounding can make a correlation matrix of nearly equal points indefinite. Growing a jitter by factors of 100
    costs one failed factorisation each, and never a warning.

    Args:
        matrix: (n, n), symmetric, positive semi-definite up to rounding.

    Returns:
        (n, n) lower triangle, zeros above.
    """
    # Without jitter first: it would cost accuracy in the common case, where the matrix is fine.
    jitter = 0.0
    for _ in range(6):
        raised = matrix if jitter == 0.0 else matrix + jitter * np.eye(len(matrix))
        factor: Array
        factor, failed = lapack.dpotrf(raised.T, lower=1, clean=1)  # transposed: as LAPACK has it, nothing to reorder
        if failed == 0:
            return factor
        jitter = 1e-10 * float(np.trace(matrix)) / len(matrix) if jitter == 0.0 else jitter * 100.0
    raise AssertionError("the covariance matrix is not positive definite, even with a large diagonal")


class Likelihood:
    """Marginal likelihood (2) as a function of theta, with its gradient.

    Args:
        geometry: how points are compared, and which dimensions are warped.
        points: (n, d) where the targets were measured, NaN where inactive.
        targets: what was measured there.
        noise: prior of log eta.
    """

    def __init__(self, geometry: Geometry, points: Array, targets: Targets, noise: NoisePrior) -> None:
        self._distances = Distances(geometry, points)
        self._targets = targets
        self._noise = noise
        self._n = len(points)
        self._d = geometry.num_dimensions
        self._length_center = math.sqrt(2.0) + 0.5 * math.log(max(self._d, 1))
        self._num_shapes = 2 * len(geometry.warped)

    def __call__(self, theta: Array) -> tuple[float, Array]:
        """Negative log posterior density of theta, and its gradient.

        Args:
            theta: (d + 2 k + 1,).

        Returns:
            A number and (d + 2 k + 1,) slopes.
        """
        value, gradient = self.evidence(theta)
        z = np.empty(theta.size)
        spread = np.empty(theta.size)
        spread[: self._d], spread[self._d : -1], spread[-1] = _LENGTH_SPREAD, WARP_SPREAD, self._noise.spread
        z[: self._d] = theta[: self._d] - self._length_center
        z[self._d : -1] = theta[self._d : -1]
        z[-1] = theta[-1] - self._noise.center
        z /= spread
        return 0.5 * float(z @ z) - value, z / spread - gradient

    def evidence(self, theta: Array) -> tuple[float, Array]:
        """Log marginal likelihood (2) without its constant, and its gradient with respect to theta."""
        targets, n = self._targets, self._n
        weights = np.exp(-2.0 * theta[: self._d])
        eta = math.exp(theta[-1])
        correlation, slope = matern52(self._distances.at(weights, theta[self._d : -1]))
        correlation += _MEAN_VARIANCE
        correlation.flat[:: n + 1] += eta / targets.counts + _JITTER
        factor = cholesky(correlation)
        inverse, _ = lapack.dpotri(factor, lower=1)
        diagonal = inverse.flat[:: n + 1]
        alpha, _ = lapack.dpotrs(factor, targets.means, lower=1)
        quadratic = float(targets.means @ alpha) + targets.within / eta
        shape = _AMPLITUDE_SHAPE + 0.5 * (n + targets.degrees)
        scale = _AMPLITUDE_SCALE + 0.5 * quadratic
        value = (
            -float(np.log(factor.flat[:: n + 1]).sum()) - 0.5 * targets.degrees * theta[-1] - shape * math.log(scale)
        )
        # d value / d A_ij = 1/2 (shape/scale alpha_i alpha_j - (A^-1)_ij); only the lower triangle of A^-1 is there,
        # and the diagonal, which would count twice, has a squared distance that is always 0.
        ratio = shape / scale
        pull = (np.outer(ratio * alpha, alpha) - inverse - inverse.T) * slope
        gradient = np.empty(theta.size)
        gradient[: self._d], gradient[self._d : -1] = self._distances.slopes(pull)
        gradient[: self._d] *= -2.0 * weights
        gradient[-1] = (
            0.5 * eta * float(((ratio * alpha * alpha - diagonal) / targets.counts).sum())
            + 0.5 * ratio * targets.within / eta
            - 0.5 * targets.degrees
        )
        return value, gradient

    def maximise(self, start: Array, max_iterations: int = 60) -> tuple[Array, float]:
        """The mode of the posterior of theta, from a starting point.

        Returns:
            Theta, and the log posterior density there.
        """
        bounds = [_LENGTH_BOUNDS] * self._d + [WARP_BOUNDS] * self._num_shapes
        bounds += [(self._noise.lower, self._noise.upper)]
        found = minimize(
            self, start, jac=True, method="L-BFGS-B", bounds=bounds, options={"maxiter": max_iterations, "ftol": 1e-6}
        )
        return found.x, -float(found.fun)

    def start(self, eta: float = 1e-3) -> Array:
        """A starting point in the middle of what the data can tell: length scales of a few units, no warp."""
        # Distances grow with the square root of the dimensions; scales that grow likewise keep correlations in the
        # middle, where the likelihood has a slope.
        lengths = np.full(self._d, 0.5 * math.log(max(self._d, 1)))
        return np.concatenate([lengths, np.zeros(self._num_shapes), [math.log(eta)]])


class Surrogate:
    """A Gaussian process conditioned on targets, with theta given.

    It can hold several versions of the targets at the same points: `fantasise` appends points whose outcome is
    not known yet, and every version imagines other outcomes for them. Variances do not depend on targets, so a
    version costs one column of `alpha`.

    Args:
        geometry: how points are compared.
        points: (n, d) where the targets were measured, NaN where inactive.
        targets: what was measured.
        theta: (d + 2 k + 1,), or (d + 1,) for no warps: log length scales, shapes of the warps, log eta.

    Example:

    >>> geometry = Geometry(np.array([False]))
    >>> points = np.array([[0.0], [0.5], [1.0]])
    >>> model = Surrogate(geometry, points, Targets(np.array([1.0, -1.0, 0.0]), np.ones(3)), np.log([0.5, 1e-6]))
    >>> means, variance = model.predict(points)
    >>> (means.round(2) + 0.0).tolist()
    [[1.0, -1.0, 0.0]]
    """

    def __init__(self, geometry: Geometry, points: Array, targets: Targets, theta: Array) -> None:
        self.geometry = geometry
        self.theta = theta
        self._targets = targets
        num_dimensions = geometry.num_dimensions
        self._weights = np.exp(-2.0 * theta[:num_dimensions])
        shapes = theta[num_dimensions:-1].reshape(2, -1)
        self._warp = Warping(geometry.warped[: shapes.shape[1]], *shapes)
        eta = math.exp(theta[-1])
        self._condition(points, targets.means[:, None], eta / targets.counts + _JITTER)
        quadratic = float(targets.means @ self._alpha[:, 0]) + targets.within / eta
        half = 0.5 * (len(points) + targets.degrees)
        self.amplitude = (_AMPLITUDE_SCALE + 0.5 * quadratic) / (_AMPLITUDE_SHAPE + half - 1.0)  # (3)
        self.noise = eta * self.amplitude

    def with_theta(self, theta: Array) -> Surrogate:
        """The process of the same measurements with other length scales and noise."""
        return Surrogate(self.geometry, self.points, self._targets, theta)

    def _condition(self, points: Array, columns: Array, diagonal: Array) -> None:
        """Factorises A for these points; `columns` (n, s) holds one version of the targets each."""
        self.points = points
        self._columns = columns
        self._diagonal = diagonal
        matrix = self.correlation(points, points)
        matrix.flat[:: len(points) + 1] += diagonal
        self._factor = cholesky(matrix)
        self._alpha, _ = lapack.dpotrs(self._factor, columns, lower=1)

    def fantasise(self, points: Array, num_versions: int, rng: np.random.Generator) -> Surrogate:
        """This process with points added whose outcomes are drawn from their joint posterior.

        Args:
            points: (k, d) points that are being evaluated.
            num_versions: how many joint outcomes are imagined.
            rng: draws them.

        Returns:
            A new surrogate; its means have `num_versions` rows.
        """
        # Joint draws and not single ones: two pending trials side by side have about the same outcome, and independent
        # draws would make the place look settled.
        drawn = self.sample(points, num_versions, rng).T
        # Not by the constructor: that would learn the amplitude from imagined outcomes as if they had been measured.
        twin = object.__new__(Surrogate)
        twin.geometry, twin.theta, twin._weights, twin._warp = self.geometry, self.theta, self._weights, self._warp
        twin._targets = self._targets
        twin.amplitude, twin.noise = self.amplitude, self.noise
        columns = np.concatenate([np.repeat(self._columns, num_versions, axis=1), drawn])
        diagonal = np.concatenate([self._diagonal, np.full(len(points), _FANTASY_NOISE)])
        twin._condition(np.concatenate([self.points, points]), columns, diagonal)
        return twin

    def correlation(self, left: Array, right: Array) -> Array:
        """(n, m) correlation of two sets of points, the unknown mean included."""
        squares = self.geometry.squared_distances(self._warp(left), self._warp(right), self._weights)
        return matern52(squares)[0] + _MEAN_VARIANCE

    def predict(self, points: Array) -> tuple[Array, Array]:
        """Posterior means and variance of the noise-free target.

        Args:
            points: (m, d).

        Returns:
            (s, m) means, one row per version of the targets, and (m,) variances, at least 1e-12.
        """
        cross = self.correlation(self.points, points)
        solved, _ = lapack.dtrtrs(self._factor, cross, lower=1)
        variance = 1.0 + _MEAN_VARIANCE - np.einsum("ij,ij->j", solved, solved)
        return self._alpha.T @ cross, np.maximum(self.amplitude * variance, _LEAST_VARIANCE)

    def means(self, points: Array) -> Array:
        """The first part of what `predict` answers, for half of the work."""
        found: Array = self._alpha.T @ self.correlation(self.points, points)
        return found

    def means_of_own(self) -> Array:
        """(s, n) posterior means of the noise-free target at its own points; nothing is predicted for them.

        With A = K + D and A alpha = y, the means K alpha are y - D alpha.
        """
        found: Array = (self._columns - self._diagonal[:, None] * self._alpha).T
        return found

    def predict_with_slopes(self, points: Array) -> tuple[Array, Array, Array, Array]:
        """Posterior means and variance, and how they change with the coordinates.

        Args:
            points: (m, d).

        Returns:
            (s, m) means, (m,) variances, (s, m, d) slopes of the means, (m, d) slopes of the variances; slopes
            are 0 in unordered and inactive dimensions.
        """
        here, there = self._warp(points), self._warp(self.points)
        correlation, slope = matern52(self.geometry.squared_distances(here, there, self._weights))
        cross = correlation + _MEAN_VARIANCE
        solved, _ = lapack.dpotrs(self._factor, cross.T, lower=1)
        variance = 1.0 + _MEAN_VARIANCE - np.einsum("ij,ji->i", cross, solved)
        # d r2 / d u_j = 2 w_j (u_j - u'_j), and u_j changes with x_j
        steepness = 2.0 * self._weights * self._warp.slopes(points) * ~np.isnan(points)
        left, right = self.geometry.coordinates(here), self.geometry.coordinates(there)
        by_mean = slope * self._alpha.T[:, None, :]
        mean_slopes = (left * by_mean.sum(axis=2)[:, :, None] - by_mean @ right) * steepness
        by_variance = slope * solved.T
        variance_slopes = left * by_variance.sum(axis=1)[:, None] - by_variance @ right
        variance_slopes *= -2.0 * self.amplitude * steepness
        means: Array = self._alpha.T @ cross.T
        return means, np.maximum(self.amplitude * variance, _LEAST_VARIANCE), mean_slopes, variance_slopes

    def sample(self, points: Array, num_samples: int, rng: np.random.Generator) -> Array:
        """Joint posterior draws of the noise-free target, around the first version of the targets.

        Returns:
            (num_samples, m).
        """
        cross = self.correlation(self.points, points)
        solved, _ = lapack.dtrtrs(self._factor, cross, lower=1)
        covariance = self.correlation(points, points) - solved.T @ solved
        # Points of a batch may nearly coincide, and then rounding makes the matrix indefinite.
        covariance.flat[:: len(points) + 1] += 1e-8
        root = cholesky(self.amplitude * covariance)
        drawn: Array = self._alpha[:, 0] @ cross + rng.standard_normal((num_samples, len(points))) @ root.T
        return drawn
