"""The best of many noisy scores is too good to be true: by how much?

| notation | meaning |
|---|---|
| y_i = mu_i + e_i | score of trial i: truth plus luck |
| sigma | standard deviation of the luck e_i |
| tau | standard deviation of the truths mu_i over trials |
"""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import Any

import numpy as np
from scipy import integrate, special

from manyfit.core.errors import UsageError, explain
from manyfit.stats.arrays import vector


@functools.lru_cache(maxsize=256)
def expected_maximum(count: int) -> float:
    """The mean of the largest of `count` standard normal draws.

    So many standard deviations of pure luck are in the best of `count` equally good trials.

    Raises:
        UsageError: `count` is below 1.

    Source: David and Nagaraja 2003, eq. 3.1.1; tabulated by Tippett 1925.

    Example:

    >>> round(expected_maximum(2), 4), round(expected_maximum(100), 3)
    (0.5642, 2.508)
    """
    if count < 1:
        raise UsageError(explain("expected_maximum(count)", count, "1 or more", "Count the trials that have a score."))
    if count == 1:
        return 0.0
    # E max = integral of (1 - F^n(z)) over z > 0 minus integral of F^n(z) over z < 0, F the normal law.
    above, _ = integrate.quad(lambda z: -math.expm1(count * special.log_ndtr(z)), 0, 40, epsabs=1e-12, limit=200)
    below, _ = integrate.quad(lambda z: math.exp(count * special.log_ndtr(z)), -40, 0, epsabs=1e-12, limit=200)
    return above - below


@dataclasses.dataclass(frozen=True, slots=True)
class Optimism:
    """How much of the best score of a search is luck, in the units of the loss."""

    best_loss: float  # the best search score
    expected_loss: float  # what fresh seeds will show on average
    most: float  # the optimism if all trials were equally good: an upper bound

    @property
    def optimism(self) -> float:
        """How much worse fresh seeds will be on average; 0 or more."""
        return self.expected_loss - self.best_loss


def optimism_of_best(losses: Any, noise_deviation: float) -> Optimism:
    """Estimates how much worse the winner of a search will do on fresh seeds.

    The truths are taken for normal draws around a common mean, so the best guess of a truth pulls its score
    towards the mean: E[mu_i | y_i] = m + tau^2 / (tau^2 + sigma^2) (y_i - m). The pull does not depend on how
    many trials there were; that many trials make the best one extreme is already in its score.

    Args:
        losses: search score of each trial, lower is better; diverged trials left out.
        noise_deviation: standard deviation of a score over seeds, from replicated trials.

    Raises:
        UsageError: no losses, NaN or infinite ones, or a `noise_deviation` that is negative or not finite.

    Source: the normal-normal empirical Bayes rule (Efron and Morris 1973), with tau^2 + sigma^2 estimated by the
    variance of the losses.

    Example:

    >>> found = optimism_of_best([0.0, 1.0, 2.0, 3.0], noise_deviation=0.5)
    >>> round(found.optimism, 3)
    0.225
    """
    y = vector("optimism_of_best(losses)", losses)
    if not (noise_deviation >= 0 and math.isfinite(noise_deviation)):
        got = f"noise_deviation={noise_deviation!r}"
        raise UsageError(explain("optimism_of_best", got, "a finite number, 0 or more", "Replicate a trial first."))
    best, mean = float(y.min()), float(y.mean())
    spread = float(y.var(ddof=1)) if y.size > 1 else 0.0
    share_of_luck = 1.0 if spread == 0 else min(1.0, noise_deviation**2 / spread)
    return Optimism(best, best + share_of_luck * (mean - best), noise_deviation * expected_maximum(y.size))


def noise_deviation(scores: Any) -> float:
    """The standard deviation of a score over seeds, pooled over replicated trials.

    Args:
        scores: table (trials, executions); NaN where not run. Trials with one execution say nothing and are left
            out, so are diverged executions (infinite).

    Returns:
        sqrt(sum of squared deviations / sum of (n_i - 1)); NaN when no trial has two scores.

    Example:

    >>> noise_deviation([[1.0, 3.0], [10.0, 12.0], [5.0, np.nan]])
    1.4142135623730951
    """
    squares, degrees = 0.0, 0
    for row in np.atleast_2d(np.asarray(scores, dtype=float)):
        finite = row[np.isfinite(row)]
        if finite.size > 1:
            squares += float(((finite - finite.mean()) ** 2).sum())
            degrees += finite.size - 1
    return math.sqrt(squares / degrees) if degrees else math.nan
