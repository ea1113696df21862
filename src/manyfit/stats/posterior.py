"""How good the best trial of a search really is: the best of many noisy scores is too good to be true.

| notation | meaning |
|---|---|
| y_i = mu_i + noise | search loss of trial i: truth plus luck |
| omega_i | standard deviation of that luck: rows and seeds, not seeds alone; see `row_noise` |
| m, tau | mean and standard deviation of the truths of the trials worth comparing |
| w_k | variance of the mean of all runs of finalist k |

Two estimates. The *good-half rule*, three lines that can be checked by hand, and a hierarchical Bayes estimate that
integrates over what is not known of m and tau. Both look at the better half of the trials alone: how bad the hopeless
ones are says nothing about luck, and a single one of them would otherwise hide it.

    the better half is seen, the others are known to be above the cut:
    log p(m, tau | y) = sum_{y <= cut} log N(y_i; m, tau^2 + omega_i^2) + sum_{y > cut} log Phi((m - cut) / sqrt(tau^2 +
                        omega_i^2)) - log(1 + (2 tau / omega)^2)
    mu_k | m, tau ~ N(m + B (ybar_k - m), B w_k),   B = tau^2 / (tau^2 + w_k)

The last term is the prior of tau, half-Cauchy with scale omega / 2 (Gelman 2006). A flat one leaves the best of equal
trials too good by .3 to .8 omega.

A posterior needs no correction for how often it has been looked at, and later runs only add to it.

Sources: hierarchical normal model, Gelman et al. 2013, section 5.4; censoring at an order statistic, Lawless
2003, section 2.2.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike
from scipy import special

from manyfit.core.errors import UsageError, explain
from manyfit.stats.intervals import Array, Interval, scaled_interval
from manyfit.stats.ranking import expected_maximum

MIN_TRIALS = 5  # below it the spread of the truths cannot be told from luck
_POINTS = 41  # of the grid, per axis
_DISAGREEMENT = 0.3  # in a run's noise, from which on the two estimates count as different
_HEAVY_DEGREES = 5.0  # of Student's law that ends are taken from where single losses lie far out


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
    grid: tuple[Array, Array, Array]  # m, tau, and their probability (m, tau)
    variances: Array  # w_k
    rule: GoodHalf
    common_row_variance: float

    @property
    def reliable(self) -> bool:
        """False with fewer than 5 trials: print the bound then."""
        return self.num_trials >= MIN_TRIALS

    def interval(self, finalist: int, confidence: float = 0.95) -> Interval:
        """The interval to print: the posterior's, or that of the good-half rule where it says otherwise and is wider.

        "Otherwise" is a mean that lies further than .3 of a run's noise from the posterior's.

        Raises:
            UsageError: a confidence outside (0, 1).
        """
        found = self.finalists[finalist]
        mean, variance = self.rule.shrunken(found.measured, float(self.variances[finalist]), self.num_trials)
        variance += self.common_row_variance
        if abs(mean - found.mean) > _DISAGREEMENT * self.noise and variance > found.variance:
            return scaled_interval(mean, variance, found.degrees, confidence=confidence)
        return found.interval(confidence)

    def probability_best(self, *, rng: np.random.Generator, num_draws: int = 4000) -> Array:
        """The probability of each finalist to be the best on fresh seeds and rows, by joint draws.

        Example:

        >>> found = search_posterior([1.0, 2.0, 3.0, 4.0, 5.0], 0.1, finalists=[(1.0, 0.01), (1.05, 0.01)])
        >>> found.probability_best(rng=np.random.default_rng(0)).round(1).tolist()
        [0.6, 0.4]
        """
        m, tau, p = self.grid
        points = rng.choice(p.size, size=num_draws, p=p.ravel())
        center, spread = np.repeat(m, tau.size)[points], np.tile(tau, m.size)[points]
        w = self.variances[:, None]
        share = np.divide(spread**2, spread**2 + w, out=np.ones((len(w), num_draws)), where=spread**2 + w > 0)
        measured = np.array([each.measured for each in self.finalists])[:, None]
        # What rows do to all of them alike cancels: it is in no draw.
        truth = center + share * (measured - center) + np.sqrt(share * w) * rng.standard_normal(share.shape)
        lowest = truth == truth.min(axis=0)
        shares: Array = (lowest / lowest.sum(axis=0)).mean(axis=1)
        return shares


def search_posterior(
    losses: ArrayLike,
    noise: ArrayLike,
    *,
    finalists: Sequence[tuple[float, float]] | None = None,
    places: Sequence[int | None] | None = None,
    common_row_variance: float = 0.0,
    degrees: float = math.inf,
    heavy_tails: bool = False,
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
        heavy_tails: single runs lie far out: ends are taken from Student's law with 5 degrees at most.

    Raises:
        UsageError: no finite losses; a noise that is not above 0 and finite, or of another length; a variance below 0.

    Example:

    >>> found = search_posterior([0.20, 0.23, 0.24, 0.25, 0.27, 0.30, 0.9, np.inf], noise=0.03)
    >>> found.finalists[0].measured, round(found.finalists[0].optimism, 2)
    (0.2, 0.04)
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
    later = np.full((2, 1, y.size), np.nan)
    for place, own, of_mean in zip(places or (), measured, w, strict=places is not None):
        if place is not None:
            later[:, 0, place] = own, of_mean
    m, tau, p = posterior_grid(y[None], omega[None], later)
    mean, variance = _moments((m, tau, p), measured[None], w[None])
    nu = min(degrees, _HEAVY_DEGREES) if heavy_tails else degrees
    found = tuple(
        FinalistPosterior(float(own), float(mu), float(v) + common_row_variance, nu)
        for own, mu, v in zip(measured, mean[0], variance[0], strict=True)
    )
    scale = float(np.sqrt(np.mean(omega**2)))
    rule = good_half(y, scale)
    bound = scale * expected_maximum(y.size)
    return SearchPosterior(
        found, int(mean[0].argmin()), bound, y.size, scale, (m[0], tau[0], p[0]), w, rule, common_row_variance
    )


def posterior_grid(losses: Array, noise: Array, later: Array | None = None) -> tuple[Array, Array, Array]:
    """p(m, tau | losses) on a grid, for many searches at once.

    Args:
        losses: (searches, trials), +inf for failed ones.
        noise: the same shape.
        later: (2, searches, trials) the mean of all runs of a trial and its variance; NaN for trials with one run.

    Returns:
        m (searches, points), tau (searches, points) and p (searches, points, points), which sums to 1 per search.
    """
    finite = np.isfinite(losses)
    middle = np.median(losses, axis=1)
    # Where half and more have failed, the median of the others.
    cut = np.where(np.isfinite(middle), middle, np.nanmedian(np.where(finite, losses, np.nan), axis=1))[:, None]
    seen = losses <= cut
    variance = noise**2
    typical = np.sqrt(np.where(seen, variance, 0.0).sum(axis=1, keepdims=True) / seen.sum(axis=1, keepdims=True))
    reach = np.maximum(cut - losses.min(axis=1, keepdims=True), typical)
    m = cut + reach * np.linspace(-1.5, 1.5, _POINTS)
    # Middles of steps: a point at 0 would count for a whole step, and equal trials would look too equal.
    tau = reach * 2.5 * (np.arange(_POINTS) + 0.5) / _POINTS
    # The search's own loss says who is seen; what more runs say of those counts in its place.
    if later is not None:
        known = np.isfinite(later[0])
        losses, variance = np.where(known, later[0], losses), np.where(known, later[1], variance)
    # Per tau the seen part is a parabola in m: three sums over trials.
    weight = np.where(seen[:, None], 1 / (tau[..., None] ** 2 + variance[:, None]), 0.0)  # (searches, tau, trials)
    below = np.where(seen, losses - cut, 0.0)[:, None]
    total, linear, square = weight.sum(-1), (weight * below).sum(-1), (weight * below**2).sum(-1)
    logs = np.log(np.where(weight > 0, weight, 1.0)).sum(-1)
    shift = (m - cut)[:, :, None]
    log_p = 0.5 * (logs - square)[:, None] + shift * linear[:, None] - 0.5 * shift**2 * total[:, None]
    # Those above the cut have one noise, the typical one: their own would cost a grid per trial.
    above = (~seen).sum(axis=1)[:, None, None]
    log_p += above * special.log_ndtr(shift / np.sqrt(tau**2 + typical**2)[:, None])
    log_p -= np.log1p((2 * tau / typical) ** 2)[:, None]
    p = np.exp(log_p - log_p.max(axis=(1, 2), keepdims=True))
    return m, tau, p / p.sum(axis=(1, 2), keepdims=True)


def _moments(grid: tuple[Array, Array, Array], measured: Array, w: Array) -> tuple[Array, Array]:
    """Mean and variance of the truths of finalists (searches, finalists)."""
    m, tau, p = grid
    tau2 = tau[:, None, :] ** 2
    both = tau2 + w[..., None]
    share = np.divide(tau2, both, out=np.ones_like(both), where=both > 0)[
        :, :, None, :
    ]  # (searches, finalists, 1, tau)
    center = m[:, None, :, None]
    given = center + share * (measured[..., None, None] - center)
    weight = p[:, None]
    mean = (weight * given).sum(axis=(2, 3))
    variance = (weight * ((given - mean[..., None, None]) ** 2 + share * w[..., None, None])).sum(axis=(2, 3))
    return mean, variance


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
