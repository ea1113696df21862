"""Acquisition functions over points: expected improvement of a mixture, times the odds of what must hold.

Every term is a logarithm, so that terms add, and has analytic slopes in the coordinates.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy.special import log_ndtr

from manyfit.samplers.gp.acquisition import Array, log_expected_improvement, log_expected_improvement_slopes
from manyfit.samplers.gp.model import Member
from manyfit.samplers.gp.optimise import Score
from manyfit.samplers.gp.surrogate import Surrogate

_LOG_ROOT_2PI = 0.5 * math.log(2.0 * math.pi)


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

    def __init__(self, members: Sequence[Member]) -> None:
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

    def __init__(self, members: Sequence[Member], beta: float) -> None:
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
        return values[0]
    mean: Array = np.logaddexp.reduce(values, axis=0) - math.log(len(values))
    return mean
