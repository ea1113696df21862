"""Intervals for one row of numbers: how well a few noisy scores pin down what they estimate.

| notation | meaning |
|---|---|
| x_1..x_n | the numbers, independent draws of one law |
| m, s | their mean and standard deviation (divisor n - 1) |
| alpha | 1 - confidence |
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import scipy.stats
from scipy import special

from manyfit.core.errors import UsageError, explain
from manyfit.stats.arrays import confidence_level, vector


@dataclasses.dataclass(frozen=True, slots=True)
class Interval:
    """An estimate, and where the truth lies with the stated confidence. Infinite ends: the data say nothing yet."""

    estimate: float
    low: float
    high: float
    confidence: float
    count: int  # numbers it rests on

    @property
    def half_width(self) -> float:
        """Half the distance between the two ends."""
        return (self.high - self.low) / 2

    def __contains__(self, value: float) -> bool:
        return self.low <= value <= self.high

    def __str__(self) -> str:
        if not math.isfinite(self.half_width):
            return f"{self.estimate:.4g} (n={self.count}, no interval)"
        return f"{self.estimate:.4g} [{self.low:.4g}, {self.high:.4g}]"


def _around(center: float, half_width: float, confidence: float, count: int) -> Interval:
    return Interval(center, center - half_width, center + half_width, confidence, count)


def mean_interval(values: Any, confidence: float = 0.95) -> Interval:
    """Student's interval for a mean.

    Exact for normal noise; for symmetric heavy tails it covers more often than stated. It holds for a number of
    runs that was fixed beforehand; for "look after each run" use `confidence_sequence`.

    Args:
        values: one number per run, at least 1. One run alone has an infinite interval.
        confidence: between 0 and 1.

    Raises:
        UsageError: no numbers, NaN or infinite ones, or a confidence outside (0, 1).

    Source: Student 1908.

    Example:

    >>> print(mean_interval([0.90, 0.92, 0.91, 0.93]))
    0.915 [0.8945, 0.9355]
    """
    x = vector("mean_interval(values)", values)
    confidence = confidence_level("mean_interval", confidence)
    if x.size == 1:
        return _around(float(x[0]), math.inf, confidence, 1)
    t = float(special.stdtrit(x.size - 1, (1 + confidence) / 2))
    return _around(float(x.mean()), t * float(x.std(ddof=1)) / math.sqrt(x.size), confidence, x.size)


def variance_interval(values: Any, confidence: float = 0.95) -> Interval:
    """The chi-square interval for the variance of the noise, equal tails.

    It trusts in normal noise, unlike the intervals for means: heavy tails make it too short.

    Args:
        values: one number per run, at least 2.
        confidence: between 0 and 1.

    Raises:
        UsageError: fewer than 2 numbers, NaN or infinite ones, or a confidence outside (0, 1).

    Source: (n - 1) s^2 / sigma^2 has the chi-square law with n - 1 degrees of freedom (Helmert 1876).

    Example:

    >>> print(variance_interval([1.0, 2.0, 3.0, 4.0]))
    1.667 [0.5349, 23.17]
    """
    x = vector("variance_interval(values)", values, min_size=2)
    confidence = confidence_level("variance_interval", confidence)
    degrees, variance = x.size - 1, float(x.var(ddof=1))
    low_quantile, high_quantile = (float(special.chdtri(degrees, (1 + s * confidence) / 2)) for s in (1, -1))
    return Interval(variance, degrees * variance / high_quantile, degrees * variance / low_quantile, confidence, x.size)


def trimmed_mean_interval(values: Any, confidence: float = 0.95, *, trim: float = 0.1) -> Interval:
    """The interval for a trimmed mean, from the winsorised variance: for noise with outliers.

    Its centre is the trimmed mean of the law, which is the mean only where the noise is symmetric. That is why
    the race uses means (a model that fails badly once in twenty runs should pay for it) and this is for reports.

    Args:
        values: one number per run, at least 2 left after trimming.
        confidence: between 0 and 1.
        trim: share cut from each end, below 0.5.

    Raises:
        UsageError: `trim` outside [0, 0.5), too few numbers, NaN or infinite ones, or a wrong confidence.

    Source: Tukey and McLaughlin 1963.

    Example:

    >>> print(trimmed_mean_interval([1.0, 2.0, 3.0, 4.0, 90.0], trim=0.2))
    3 [-0.207, 6.207]
    """
    if not 0 <= trim < 0.5:
        got, allowed = f"trim={trim!r}", "0 <= trim < 0.5"
        raise UsageError(explain("trimmed_mean_interval", got, allowed, "Type 0.1 to cut a tenth at each end."))
    x = np.sort(vector("trimmed_mean_interval(values)", values))
    confidence = confidence_level("trimmed_mean_interval", confidence)
    cut = int(trim * x.size)
    kept = x[cut : x.size - cut]
    if kept.size < 2:
        got = f"{kept.size} left of {x.size} numbers"
        raise UsageError(explain("trimmed_mean_interval", got, "2 or more left", "Trim less, or run more executions."))
    winsorised = np.clip(x, kept[0], kept[-1])
    # Tukey and McLaughlin: s_w / ((1 - 2 trim) sqrt(n)), with the share that was really cut.
    error = float(winsorised.std(ddof=1)) * x.size / kept.size / math.sqrt(x.size)
    t = float(special.stdtrit(kept.size - 1, (1 + confidence) / 2))
    return _around(float(kept.mean()), t * error, confidence, x.size)


def bootstrap_interval(
    values: Any, confidence: float = 0.95, *, rng: np.random.Generator, num_resamples: int = 5000
) -> Interval:
    """The bootstrap interval of a mean, bias-corrected and accelerated: for skewed noise and 15 runs or more.

    Args:
        values: one number per run, at least 2. With fewer than about 15 it covers too rarely.
        confidence: between 0 and 1.
        rng: the only source of randomness.
        num_resamples: bootstrap samples.

    Raises:
        UsageError: fewer than 2 numbers, NaN or infinite ones, or a confidence outside (0, 1).

    Source: Efron 1987, as SciPy computes it.

    Example:

    >>> interval = bootstrap_interval(np.arange(20.0), rng=np.random.default_rng(0))
    >>> 6.5 < interval.low < 7.5 and 11.5 < interval.high < 12.5
    True
    """
    x = vector("bootstrap_interval(values)", values, min_size=2)
    confidence = confidence_level("bootstrap_interval", confidence)
    if np.ptp(x) == 0:
        return _around(float(x[0]), 0.0, confidence, x.size)  # the acceleration would be 0 / 0
    found = scipy.stats.bootstrap(
        (x,), np.mean, confidence_level=confidence, n_resamples=num_resamples, rng=rng
    ).confidence_interval
    return Interval(float(x.mean()), float(found.low), float(found.high), confidence, x.size)


def confidence_sequence(values: Any, confidence: float = 0.95, *, expected_effect: float = 1.0) -> Interval:
    """An interval for a mean that may be looked at after every run, for as long as one likes.

    With the stated confidence the truth lies in *all* the intervals of a growing row of numbers, so one may stop
    when the interval pleases. The price: twice the width of `mean_interval` at 6 runs, 1.6 times at 30.

    Args:
        values: one number per run so far, at least 1. Four or fewer give an infinite interval at 95 %.
        confidence: between 0 and 1.
        expected_effect: the scale c of the mixture, in standard deviations: at 95 % it is tightest near n = 8 / c^2.

    Raises:
        UsageError: no numbers, NaN or infinite ones, a wrong confidence, or an `expected_effect` of 0 or less.

    Source: the t-test martingale with mean / sigma ~ N(0, c^2) (Lai 1976; as a Bayes factor Rouder et al. 2009).
    With r = 1 + n c^2 and t = sqrt(n) (m - mu) / s it is, at n runs,

        E(mu) = r^(-1/2) ((1 + t^2 / (n - 1)) / (1 + t^2 / (r (n - 1))))^(n/2)                               (1)

    and the interval holds the mu with E(mu) < 1 / alpha (Ville 1939).

    Example:

    >>> print(confidence_sequence([0.90, 0.92, 0.91, 0.93, 0.92, 0.91]))
    0.915 [0.8917, 0.9383]
    """
    x = vector("confidence_sequence(values)", values)
    confidence = confidence_level("confidence_sequence", confidence)
    if not expected_effect > 0:
        got = f"expected_effect={expected_effect!r}"
        raise UsageError(explain("confidence_sequence", got, "a number above 0", "Leave it out for 1."))
    n, r = x.size, 1 + x.size * expected_effect**2
    bound = (math.sqrt(r) / (1 - confidence)) ** (2 / n)  # (1) with E = 1 / alpha, solved for t^2 / (n - 1)
    if n < 2 or bound >= r:
        return _around(float(x.mean()), math.inf, confidence, n)
    t = math.sqrt((n - 1) * (bound - 1) / (1 - bound / r))
    return _around(float(x.mean()), t * float(x.std(ddof=1)) / math.sqrt(n), confidence, n)
