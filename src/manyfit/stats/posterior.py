"""How good the best trial of a search really is: the best of many noisy scores is too good to be true.

| notation | meaning |
|---|---|
| y_i = mu_i + noise | search loss of trial i: truth plus luck |
| omega_i | standard deviation of that luck: rows and seeds, not seeds alone; see `noise` |
| m, tau | mean and standard deviation of the truths of the trials worth comparing |
| w_k | variance of the mean of all runs of finalist k |

Two estimates. The *good-half rule*, three lines that can be checked by hand, and a hierarchical Bayes estimate that
integrates over what is not known of m, tau and the noise. Both look at the better half of the trials alone: how bad
the hopeless ones are says nothing about luck, and a single one of them would otherwise hide it.

    the better half is seen, the others are known to be above the cut:
    p(m, tau | y) ~ prod_{y <= cut} f(y_i; m, tau^2, omega_i^2) (1 - F(cut; m, tau^2, omega^2))^#{y > cut} prior(tau)
    mu_k | m, tau ~ N(m + B (ybar_k - m), B w_k),   B = tau^2 / (tau^2 + w_k)
    prior(tau) = 1 / (1 + (tau / c omega)^2)

The prior is half-Cauchy (Gelman 2006). A flat one leaves the best of equal trials too good by .3 to .8 omega; a narrow
one takes too much from a true winner. c = 3/4 was in the middle of both in simulations.

Is an outstanding score skill, or a stroke of luck? f is one of three laws that answer differently, and the losses say
which is likely: see `posterior_grid`.

Trials that lie far beyond the good ones are left out before the half is taken: where 6 of 10 learning rates are
hopeless, the median is hopeless too.

A posterior needs no correction for how often it has been looked at, and later runs only add to it.

Sources: hierarchical normal model, Gelman et al. 2013, section 5.4; censoring at an order statistic, Lawless 2003,
section 2.2; the t law as a mixture of normal ones, Lange, Little and Taylor 1989.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from manyfit.core.errors import UsageError, explain
from manyfit.stats.intervals import Array, Interval, scaled_interval
from manyfit.stats.posterior_grid import PosteriorGrid, posterior_grid
from manyfit.stats.ranking import expected_maximum

MIN_TRIALS = 5  # below it the spread of the truths cannot be told from luck
_DISAGREEMENT = 0.3  # in a run's noise, from which on the two estimates count as different


@dataclasses.dataclass(frozen=True, slots=True)
class GoodHalf:
    """The good-half rule: how far the best score has to be drawn towards the median."""

    best_loss: float
    expected_loss: float  # what the best trial scores on fresh seeds and rows, on average
    median: float
    spread: float  # tau: standard deviation of the truths; 0 where luck explains all

    @property
    def optimism(self) -> float:
        """How much too good the best score is; 0 or more."""
        return self.expected_loss - self.best_loss

    def shrunken(self, measured: float, variance: float, num_trials: int) -> tuple[float, float]:
        """The truth behind a mean of that variance by the same rule, and the variance of that guess.

        Source: Morris 1983, equation 1.17, whose second term is for the share of luck being estimated itself.
        """
        share = variance / (variance + self.spread**2) if variance > 0 else 0.0
        distance = self.median - measured
        unsure = 2 / max(num_trials / 2 - 1, 1) * (share * distance) ** 2
        return measured + share * distance, (1 - share) * variance + unsure


def good_half(losses: ArrayLike, noise: float) -> GoodHalf:
    """How much luck is in the best score: three lines.

    m is the median, v = 2 sum_{y <= m} (m - y)^2 / n, and the best is drawn towards m by the share of luck,
    min(1, noise^2 / v).

    Args:
        losses: search loss of each trial; a failed one is infinite or NaN and counts as worse than the median.
        noise: standard deviation of one trial's luck.

    Raises:
        UsageError: no finite losses, or a noise that is negative or not finite.

    Source: the normal-normal empirical Bayes rule (Efron and Morris 1973) on the better half.

    Example:

    >>> found = good_half([0.0, 1.0, 2.0, 3.0, 100.0], noise=1.0)
    >>> found.median, round(found.optimism, 3)
    (2.0, 1.0)
    """
    y = _losses("good_half(losses)", losses)
    omega = float(_noise("good_half(noise)", noise, 1)[0])
    m = float(np.median(y[np.isfinite(y)])) if not np.isfinite(np.median(y)) else float(np.median(y))
    v = 2 * float(((m - y[y <= m]) ** 2).sum()) / y.size
    best = float(y.min())
    share = min(1.0, omega**2 / v) if v > 0 else 1.0
    return GoodHalf(best, best + share * (m - best), m, math.sqrt(max(0.0, v - omega**2)))


@dataclasses.dataclass(frozen=True, slots=True)
class FinalistPosterior:
    """What is known of one finalist's loss on fresh seeds and fresh rows."""

    measured: float  # the mean of all its runs
    mean: float
    variance: float
    degrees: float

    @property
    def optimism(self) -> float:
        """How much too good the measured mean is, having been chosen."""
        return self.mean - self.measured

    def interval(self, confidence: float = 0.95) -> Interval:
        """Where the loss lies on fresh seeds and rows.

        Raises:
            UsageError: a confidence outside (0, 1).
        """
        return scaled_interval(self.mean, self.variance, self.degrees, confidence=confidence)


@dataclasses.dataclass(frozen=True)
class SearchPosterior:
    """What a search and all later runs say about its finalists."""

    finalists: tuple[FinalistPosterior, ...]
    best: int  # the finalist of the lowest mean
    bound: float  # the luck of the best if all trials were equally good: noise times e(n)
    num_trials: int
    noise: float
    grid: PosteriorGrid
    variances: Array  # w_k
    runs: Array | None  # r_k; None: as the variances have it
    rule: GoodHalf
    common_row_variance: float

    def printed(self, finalist: int) -> FinalistPosterior:
        """What to print of a finalist: the posterior, as unsure as the good-half rule where that says otherwise.

        "Otherwise" is a mean that lies further than .3 of a run's noise from the posterior's. The mean stays: one
        finalist by the rule and another by the posterior would not be in order.
        """
        found = self.finalists[finalist]
        mean, variance = self.rule.shrunken(found.measured, float(self.variances[finalist]), self.num_trials)
        variance += self.common_row_variance
        if abs(mean - found.mean) > _DISAGREEMENT * self.noise and variance > found.variance:
            return dataclasses.replace(found, variance=variance)
        return found

    def probability_best(self, *, rng: np.random.Generator, num_draws: int = 4000) -> Array:
        """The probability of each finalist to be the best on fresh seeds and rows, by joint draws.

        Example:

        >>> found = search_posterior([1.0, 2.0, 3.0, 4.0, 5.0], 0.1, finalists=[(1.0, 0.01), (1.05, 0.01)])
        >>> found.probability_best(rng=np.random.default_rng(0)).round(1).tolist()
        [0.6, 0.4]
        """
        measured = np.array([each.measured for each in self.finalists])
        truth = self.grid.draw_truths(measured, self.variances, self.runs, rng, num_draws)
        lowest = truth == truth.min(axis=1, keepdims=True)
        shares: Array = (lowest / lowest.sum(axis=1, keepdims=True)).mean(axis=0)
        return shares


def search_posterior(
    losses: ArrayLike,
    noise: ArrayLike,
    *,
    finalists: Sequence[tuple[float, float]] | None = None,
    places: Sequence[int | None] | None = None,
    common_row_variance: float = 0.0,
    degrees: float = math.inf,
    runs: Sequence[int] | None = None,
    stopped: int = 0,
) -> SearchPosterior:
    """The losses of finalists on fresh seeds and rows, from everything that was run.

    Args:
        losses: search loss of each trial that ran to the end, near-copies merged; a failed or diverged one is
            infinite or NaN and counts as worse than the median. Scores of fewer epochs do not belong here.
        noise: standard deviation of one trial's luck, rows and seeds; one for all, or one each.
        finalists: of each the mean of all its runs, search and later, and the variance of that mean, common rows left
            out (`RunNoise.variance_of_mean`). None: the best trial of the search.
        places: where in `losses` each finalist's search loss is, None for one that is not there. Then all its runs
            tell how far truths lie apart, not the first alone.
        common_row_variance: what these rows do to all trials; added once to the variance of each level.
        degrees: of freedom of `noise`.
        runs: how many each finalist's mean is of: the more, the less of it can be a single stroke of luck. None: as
            many as make a run's variance into that of the mean.
        stopped: further trials that a scheduler stopped early, since others were better: their scores of fewer epochs
            say nothing of a full training but that.

    Raises:
        UsageError: no finite losses; a noise that is not above 0 and finite, or of another length; a variance below 0.

    Example:

    >>> found = search_posterior([0.20, 0.23, 0.24, 0.25, 0.27, 0.30, 0.9, np.inf], noise=0.03)
    >>> found.finalists[0].measured, round(found.finalists[0].optimism, 2)
    (0.2, 0.03)
    """
    y = _losses("search_posterior(losses)", losses)
    omega = _noise("search_posterior(noise)", noise, y.size)
    first = int(y.argmin())
    chosen = [(float(y[first]), float(omega[first] ** 2))] if finalists is None else finalists
    measured, w = (np.array(part, dtype=float) for part in zip(*chosen, strict=True))
    if not (np.isfinite(measured).all() and np.isfinite(w).all() and (w >= 0).all() and common_row_variance >= 0):
        got = f"{list(chosen)}, common_row_variance={common_row_variance}"
        raise UsageError(
            explain("search_posterior", got, "finite means, variances of 0 or more", "Leave out failed runs.")
        )
    later = np.full((3, 1, y.size), np.nan)
    counts = None if runs is None else np.array(runs, dtype=float)
    for number, place in enumerate(places or ()):
        if place is not None:
            r = omega[place] ** 2 / max(w[number], 1e-9 * omega[place] ** 2) if counts is None else counts[number]
            later[:, 0, place] = measured[number], w[number], r
    grid = posterior_grid(y[None], omega[None], later, stopped)
    mean, variance = grid.moments(measured[None], w[None], None if counts is None else counts[None])
    found = tuple(
        FinalistPosterior(float(own), float(mu), float(v) + common_row_variance, degrees)
        for own, mu, v in zip(measured, mean[0], variance[0], strict=True)
    )
    scale = float(np.sqrt(np.mean(omega**2)))
    rule = good_half(y, scale)
    bound = scale * expected_maximum(y.size + stopped)
    return SearchPosterior(
        found, int(mean[0].argmin()), bound, y.size, scale, grid, w, counts, rule, common_row_variance
    )


def _losses(where: str, losses: ArrayLike) -> Array:
    y = np.array(losses, dtype=float)
    y[np.isnan(y)] = np.inf
    if y.ndim != 1 or not np.isfinite(y).any() or np.isneginf(y).any():
        got = f"an array of shape {y.shape} with {int(np.isfinite(y).sum())} finite losses"
        raise UsageError(explain(where, got, "one loss per trial, at least one of them finite", "Run a trial first."))
    return y


def _noise(where: str, noise: ArrayLike, size: int) -> Array:
    omega = np.asarray(noise, dtype=float)
    if omega.shape not in ((), (size,)) or not np.isfinite(omega).all() or not (omega > 0).all():
        allowed = "finite standard deviations above 0, one for all or one per trial"
        raise UsageError(explain(where, repr(noise), allowed, "Take row_noise(...).deviation."))
    return np.broadcast_to(omega, (size,))
