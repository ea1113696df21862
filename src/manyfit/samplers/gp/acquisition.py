"""How much a point promises: log expected improvement, times the odds of what must hold besides.

Notation:

| symbol | meaning |
|---|---|
| m, v | posterior mean and variance at a point; lower is better |
| t | the incumbent: what has to be undercut |
| z | (t - m) / sqrt(v) |
| h(z) | phi(z) + z Phi(z), the expected improvement of a standard normal |

(1) log EI = log sqrt(v) + log h(z)                                        Jones et al. 1998, eq. 15
(2) log h(z) = log phi(z) + log(1 - |z| R(|z|)) for z < -1, R = Mills ratio     Ament et al. 2023, eq. 9
(3) h'(z) = Phi(z), so d log h = Phi(z) / h(z) dz

EI itself underflows a few standard deviations away from the incumbent, where most of the space is, and leaves an
optimiser without a slope; its logarithm does not.

An acquisition function is a sum of terms over points: every term is a logarithm, and has analytic slopes in the
coordinates. Besides the improvement these are the odds that a configuration has a score at all, and that it keeps the
constraints on its other metrics.

Failed, diverged and too large trials say where not to go, and nothing about the loss there. Giving them the worst
loss seen would bend the surrogate of the loss around them; instead a second process learns success itself, from
labels 0 and 1, and its odds multiply the expected improvement (Gelbart et al. 2014, section 3).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy.special import erfcx, log_ndtr

from manyfit.core.records import Observation
from manyfit.samplers.base import Constraint
from manyfit.samplers.gp.data import Evidence
from manyfit.samplers.gp.kernels import Array, Geometry
from manyfit.samplers.gp.model import MixtureMember
from manyfit.samplers.gp.optimise import Score
from manyfit.samplers.gp.surrogate import Likelihood, NoisePrior, Surrogate, Targets
from manyfit.space.encoding import Encoding

_LOG_ROOT_2PI = 0.5 * float(np.log(2.0 * np.pi))
_ROOT_HALF_PI = float(np.sqrt(0.5 * np.pi))
_SERIES_BELOW = -100.0


def log_h(z: Array) -> Array:
    """Logarithm of phi(z) + z Phi(z), to about 1e-10 relative everywhere, eq. (2).

    Example:

    >>> np.round(log_h(np.array([0.0, -10.0, -1e5])), 6).tolist()
    [-0.918939, -55.553122, -5000000023.94479]
    """
    z = np.asarray(z, dtype=np.float64)
    # Held at -1, below which the difference of two nearly equal terms would lose its digits, and then be 0: the tail
    # is written over it.
    near = np.maximum(z, -1.0)
    density = np.exp(-0.5 * near**2 - _LOG_ROOT_2PI)
    value: Array = np.log(density + near * np.exp(log_ndtr(near)))
    tail = z < -1.0
    if tail.any():
        far = z[tail]
        # 1 - |z| R(|z|) falls like 1/z^2 while its two terms stay near 1: a series once cancellation would bite.
        bounded = np.maximum(far, _SERIES_BELOW)
        direct = np.log1p(bounded * _ROOT_HALF_PI * erfcx(-bounded / np.sqrt(2.0)))
        square = 1.0 / np.minimum(far, _SERIES_BELOW) ** 2
        series = np.log(square) + np.log1p(-square * (3.0 - square * (15.0 - 105.0 * square)))
        value[tail] = -0.5 * far**2 - _LOG_ROOT_2PI + np.where(far < _SERIES_BELOW, series, direct)
    return value


def log_h_slope(z: Array, log_value: Array) -> Array:
    """d log h / dz = Phi(z) / h(z), eq. (3)."""
    slope: Array = np.exp(log_ndtr(z) - log_value)
    return slope


def log_expected_improvement(mean: Array, variance: Array, incumbent: Array | float) -> Array:
    """Logarithm of the expected improvement over an incumbent, eq. (1).

    Args:
        mean: (m,) posterior means.
        variance: (m,) posterior variances, positive.
        incumbent: the value to undercut.

    Returns:
        (m,) log expected improvements, finite.

    Example:

    >>> float(log_expected_improvement(np.array([0.0]), np.array([1.0]), 0.0).round(6)[0])
    -0.918939
    """
    deviation = np.sqrt(variance)
    value: Array = np.log(deviation) + log_h((incumbent - mean) / deviation)
    return value


def log_expected_improvement_slopes(
    mean: Array, variance: Array, incumbent: Array | float
) -> tuple[Array, Array, Array]:
    """Log expected improvement and its derivatives with respect to the mean and the variance.

    Returns:
        (m,) values, (m,) slopes in the mean, (m,) slopes in the variance.
    """
    deviation = np.sqrt(variance)
    z = (incumbent - mean) / deviation
    log_value = log_h(z)
    slope = log_h_slope(z, log_value)
    return np.log(deviation) + log_value, -slope / deviation, 0.5 * (1.0 - slope * z) / variance


class Lifted:
    """A score at full fidelity: its points lack the last coordinate, which is 1.

    Args:
        score: of points with the fidelity as their last coordinate.
    """

    def __init__(self, score: Score) -> None:
        self._score = score

    def __call__(self, points: Array) -> Array:
        return self._score(np.column_stack([points, np.ones(len(points))]))

    def with_slopes(self, points: Array) -> tuple[Array, Array]:
        values, slopes = self._score.with_slopes(np.column_stack([points, np.ones(len(points))]))
        return values, slopes[:, :-1]


class ExpectedImprovement:
    """Log expected improvement, averaged over the versions of each process and over the mixture.

    With imagined outcomes of pending points as versions this is the expected improvement of a new point given that
    the pending ones will have been seen (Snoek et al. 2012, section 3.2), which is what makes a batch useful jointly.

    Args:
        members: the mixture.
    """

    def __init__(self, members: Sequence[MixtureMember]) -> None:
        self._members = members

    def __call__(self, points: Array) -> Array:
        parts = []
        for each in self._members:
            means, variance = each.surrogate.predict(points)
            values = log_expected_improvement(means, variance, each.incumbents[:, None])
            parts.append(each.log_weight + _log_mean(values))
        total: Array = np.logaddexp.reduce(parts, axis=0)
        return total

    def with_slopes(self, points: Array) -> tuple[Array, Array]:
        parts, gradients = [], []
        for each in self._members:
            means, variance, mean_slopes, variance_slopes = each.surrogate.predict_with_slopes(points)
            values, by_mean, by_variance = log_expected_improvement_slopes(means, variance, each.incumbents[:, None])
            total = _log_mean(values)
            share = np.exp(values - total) / len(values)
            gradients.append(
                np.einsum("sm,smj->mj", share * by_mean, mean_slopes)
                + (share * by_variance).sum(axis=0)[:, None] * variance_slopes
            )
            parts.append(each.log_weight + total)
        values = np.logaddexp.reduce(parts, axis=0)
        shares = np.exp(np.array(parts) - values)
        return values, np.einsum("km,kmj->mj", shares, np.array(gradients))


class ConfidenceBound:
    """How low the loss may be: ``beta`` standard deviations below the mean, KerasTuner's acquisition.

    Args:
        members: the mixture.
        beta: standard deviations.
    """

    def __init__(self, members: Sequence[MixtureMember], beta: float) -> None:
        self._members = members
        self._beta = beta

    def __call__(self, points: Array) -> Array:
        total = np.zeros(len(points))
        for each in self._members:
            means, variance = each.surrogate.predict(points)
            total -= math.exp(each.log_weight) * (means.mean(axis=0) - self._beta * np.sqrt(variance))
        return total

    def with_slopes(self, points: Array) -> tuple[Array, Array]:
        total, gradient = np.zeros(len(points)), np.zeros(points.shape)
        for each in self._members:
            means, variance, mean_slopes, variance_slopes = each.surrogate.predict_with_slopes(points)
            weight, deviation = math.exp(each.log_weight), np.sqrt(variance)
            total -= weight * (means.mean(axis=0) - self._beta * deviation)
            gradient -= weight * (mean_slopes.mean(axis=0) - self._beta * variance_slopes / (2.0 * deviation)[:, None])
        return total, gradient


class LogProbabilityBelow:
    """Log probability that a quantity is below a threshold, by its process: failures, outcome constraints.

    Args:
        surrogate: of the quantity, in standardised units.
        threshold: in the same units.
    """

    def __init__(self, surrogate: Surrogate, threshold: float) -> None:
        self._surrogate = surrogate
        self._threshold = threshold

    def __call__(self, points: Array) -> Array:
        means, variance = self._surrogate.predict(points)
        value: Array = log_ndtr((self._threshold - means[0]) / np.sqrt(variance))
        return value

    def with_slopes(self, points: Array) -> tuple[Array, Array]:
        means, variance, mean_slopes, variance_slopes = self._surrogate.predict_with_slopes(points)
        deviation = np.sqrt(variance)
        z = (self._threshold - means[0]) / deviation
        value = log_ndtr(z)
        rate = np.exp(-0.5 * z * z - _LOG_ROOT_2PI - value)  # d log Phi / dz
        gradient = -mean_slopes[0] / deviation[:, None] - (0.5 * z / variance)[:, None] * variance_slopes
        return value, rate[:, None] * gradient


class Sum:
    """The sum of several scores.

    Args:
        scores: at least one.
    """

    def __init__(self, scores: Sequence[Score]) -> None:
        self._scores = scores

    def __call__(self, points: Array) -> Array:
        total: Array = np.sum([score(points) for score in self._scores], axis=0)
        return total

    def with_slopes(self, points: Array) -> tuple[Array, Array]:
        parts = [score.with_slopes(points) for score in self._scores]
        return np.sum([value for value, _ in parts], axis=0), np.sum([slopes for _, slopes in parts], axis=0)


def _log_mean(values: Array) -> Array:
    """(s, m) logarithms -> (m,) logarithm of the mean over s."""
    if len(values) == 1:
        only: Array = values[0]
        return only
    mean: Array = np.logaddexp.reduce(values, axis=0) - math.log(len(values))
    return mean


#: Labels are never certain: the same configuration may fail once and succeed once.
_LABEL_NOISE = NoisePrior(center=math.log(0.05), spread=1.0, lower=math.log(1e-3))
_MAX_LABELS = 200


def log_odds_of_success(geometry: Geometry, evidence: Evidence) -> LogProbabilityBelow | None:
    """Log probability that a point gets a score, as a score to add; None if nothing has failed.

    Args:
        geometry: how points of the space (without fidelity) are compared.
        evidence: what was measured, and what failed.
    """
    if not len(evidence.failed):
        return None
    # Without the fidelity: whether a configuration fails is a question of its values. No more labels than are cheap:
    # the cost grows with the cube of their number.
    scored = np.unique(evidence.points[:, : geometry.num_dimensions], axis=0)[-_MAX_LABELS:]
    points = np.concatenate([scored, evidence.failed[-_MAX_LABELS:]])
    # 1 stands for failure: "below the threshold" is what a point has to be.
    labels = np.concatenate([np.zeros(len(scored)), np.ones(len(points) - len(scored))])
    center = labels.mean()
    targets = Targets((labels - center) / 0.5, np.ones(len(labels)))
    # A regression on labels 0 and 1, not a classifier: its posterior is in closed form, and only the order of odds
    # counts.
    likelihood = Likelihood(geometry, points, targets, _LABEL_NOISE)
    theta, _ = likelihood.maximise(likelihood.start(eta=0.05))
    return LogProbabilityBelow(Surrogate(geometry, points, targets, theta), (0.5 - center) / 0.5)


def log_odds_of_constraints(
    geometry: Geometry, encoding: Encoding, completed: Sequence[Observation], constraints: Sequence[Constraint]
) -> list[Score]:
    """Log probability that each constraint holds, as scores to add; none for metrics that nobody logged.

    Args:
        geometry: how points of the space are compared.
        encoding: of the space.
        completed: the history.
        constraints: on metrics of trials.
    """
    found: list[Score] = []
    for constraint in constraints:
        known = [each for each in completed if math.isfinite(each.metrics.get(constraint.metric, math.nan))]
        if not known:
            continue
        points = encoding.encode_many([encoding.adapt(each.values) for each in known])
        excess = np.array([constraint.excess(each.metrics) for each in known])
        found.append(_log_probability_below_zero(geometry, points[-_MAX_LABELS:], excess[-_MAX_LABELS:]))
    return found


def _log_probability_below_zero(geometry: Geometry, points: Array, quantity: Array) -> LogProbabilityBelow:
    """A process of a quantity, and the probability that it is below 0."""
    center, spread = float(quantity.mean()), float(quantity.std()) or 1.0
    targets = Targets((quantity - center) / spread, np.ones(len(quantity)))
    likelihood = Likelihood(geometry, points, targets, NoisePrior())
    theta, _ = likelihood.maximise(likelihood.start())
    return LogProbabilityBelow(Surrogate(geometry, points, targets, theta), -center / spread)
