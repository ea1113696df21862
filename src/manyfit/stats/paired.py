"""Two contenders on the same seeds: by how much do they differ, and is it luck?

Runs with the same seed share data order and initial draws, so part of their noise is common and cancels in the
difference. Pairing therefore needs fewer runs than comparing two means.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
from scipy import special

from manyfit.core.errors import UsageError, explain
from manyfit.stats.arrays import vector
from manyfit.stats.intervals import Interval, mean_interval


@dataclasses.dataclass(frozen=True, slots=True)
class PairedDifference:
    """The first contender minus the second, over common seeds. Losses: below 0 means the first is better."""

    difference: Interval
    p_value: float  # two-sided t-test of "no difference"; 1.0 while there are fewer than 2 seeds
    effect_size: float  # mean over standard deviation of the differences, corrected for few seeds
    share_lower: float  # share of seeds on which the first has the lower loss; ties count half


def paired_difference(first: Any, second: Any, confidence: float = 0.95) -> PairedDifference:
    """Compares two rows of losses, seed by seed.

    Args:
        first: losses of one contender, one per seed.
        second: losses of the other, on the same seeds in the same order.
        confidence: of the interval, between 0 and 1.

    Raises:
        UsageError: rows of different lengths, empty, or with NaN or infinite losses; a wrong confidence.

    Source: the paired t-test (Student 1908); effect size d_z with the correction of Hedges 1981, eq. 4,
    J(n - 1) = gamma(m / 2) / (sqrt(m / 2) gamma((m - 1) / 2)) with m = n - 1.

    Example:

    >>> found = paired_difference([0.30, 0.32, 0.31], [0.35, 0.36, 0.34])
    >>> print(found.difference, round(found.p_value, 3), found.share_lower)
    -0.04 [-0.06484, -0.01516] 0.02 1.0
    """
    a = vector("paired_difference(first)", first)
    b = vector("paired_difference(second)", second)
    if a.size != b.size:
        got = f"{a.size} and {b.size} losses"
        raise UsageError(explain("paired_difference", got, "one loss per seed in both", "Pass the common seeds only."))
    d = a - b
    share_lower = float(np.mean(d < 0) + np.mean(d == 0) / 2)
    interval = mean_interval(d, confidence)
    if d.size < 2:
        return PairedDifference(interval, 1.0, math.nan, share_lower)
    mean, deviation, degrees = float(d.mean()), float(d.std(ddof=1)), d.size - 1
    if deviation == 0:  # the same difference on every seed: no noise at all, or the same runs twice
        signed_infinity = math.copysign(math.inf, mean) if mean else 0.0
        return PairedDifference(interval, 0.0 if mean else 1.0, signed_infinity, share_lower)
    t = mean / deviation * math.sqrt(d.size)
    correction = 1.0
    if degrees > 1:
        half = degrees / 2
        correction = math.exp(special.gammaln(half) - special.gammaln(half - 0.5)) / math.sqrt(half)
    p_value = 2 * float(special.stdtr(degrees, -abs(t)))
    return PairedDifference(interval, p_value, correction * mean / deviation, share_lower)
