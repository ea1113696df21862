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

Is an outstanding score skill, or a stroke of luck? Under normal noise it is skill. So f is one of two laws, normal
noise or, with a chance of a quarter before the losses are seen, one with the tails of Student's t with 4 degrees.

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
from scipy import special

from manyfit.core.errors import UsageError, explain
from manyfit.stats.intervals import Array, Interval, scaled_interval
from manyfit.stats.ranking import expected_maximum

MIN_TRIALS = 5  # below it the spread of the truths cannot be told from luck
_POINTS = 25  # of the grid, per axis
_PRIOR_SCALE = 0.75  # of tau, in units of the noise
_STEP = 400_000  # points times trials that are held at once
_DISAGREEMENT = 0.3  # in a run's noise, from which on the two estimates count as different
_HEAVY_DEGREES = 4.0
# Student's law as normal laws of five variances, equally likely; their mean is 1.
_HEAVY = 1 / special.gammaincinv(_HEAVY_DEGREES / 2, (np.arange(5) + 0.5) / 5)
_HEAVY /= _HEAVY.mean()


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
        law, m, tau = self.grid.draw(rng, num_draws)
        measured = np.array([each.measured for each in self.finalists])
        factors = np.where(law[:, None, None] == 0, 1.0, _tails(self.variances, self.grid.noise[0]))
        spread = tau[:, None, None] ** 2 + self.variances[:, None] * factors  # (draws, finalists, laws of the noise)
        likely = np.exp(-0.5 * (measured[:, None] - m[:, None, None]) ** 2 / spread) / np.sqrt(spread) + _TINY
        likely = np.cumsum(likely, axis=2) / likely.sum(axis=2, keepdims=True)
        which = (rng.random(likely.shape[:2])[..., None] > likely).sum(axis=2)
        w = self.variances * np.take_along_axis(factors, which[..., None], axis=2)[..., 0]
        share = (tau**2)[:, None] / ((tau**2)[:, None] + w)
        # What rows do to all of them alike cancels: it is in no draw.
        center = m[:, None] + share * (measured - m[:, None])
        truth = center + np.sqrt(share * w) * rng.standard_normal(share.shape)
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
    heavy_tails: float = 0.25,
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
        heavy_tails: how likely it is, before the losses are seen, that luck has heavy tails; 0 for never.

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
    later = np.full((2, 1, y.size), np.nan)
    for place, own, of_mean in zip(places or (), measured, w, strict=places is not None):
        if place is not None:
            later[:, 0, place] = own, of_mean
    grid = posterior_grid(y[None], omega[None], later, heavy_tails=heavy_tails)
    mean, variance = grid.moments(measured[None], w[None])
    found = tuple(
        FinalistPosterior(float(own), float(mu), float(v) + common_row_variance, degrees)
        for own, mu, v in zip(measured, mean[0], variance[0], strict=True)
    )
    scale = float(np.sqrt(np.mean(omega**2)))
    rule = good_half(y, scale)
    bound = scale * expected_maximum(y.size)
    return SearchPosterior(found, int(mean[0].argmin()), bound, y.size, scale, grid, w, rule, common_row_variance)


@dataclasses.dataclass(frozen=True)
class PosteriorGrid:
    """What is known of m, tau and the law of the noise, for many searches at once."""

    m: Array  # (searches, points)
    tau: Array  # (searches, points)
    p: Array  # (searches, 2 laws, points of m, points of tau), sums to 1 per search
    noise: Array  # (searches,)

    def moments(self, measured: Array, variances: Array) -> tuple[Array, Array]:
        """Mean and variance of the truths of finalists.

        Args:
            measured: (searches, finalists) means of all runs.
            variances: (searches, finalists) w_k.

        Returns:
            Two arrays (searches, finalists).
        """
        means, squares = np.empty((2, 2, *measured.shape))
        tau2 = self.tau[:, None, None, :] ** 2
        m = self.m[:, None, :, None]
        distance = measured[..., None, None] - m  # (searches, finalists, m, tau)
        for law, factors in enumerate((np.ones((1, 1, 1)), _tails(variances, self.noise[:, None]))):
            total, first, second = 0.0, 0.0, 0.0
            for factor in np.moveaxis(factors, -1, 0):
                w = (variances * factor)[..., None, None]
                spread = tau2 + w
                likely = np.exp(-0.5 * distance**2 / spread) / np.sqrt(spread) + _TINY
                share = tau2 / spread
                given = m + share * distance
                total, first = total + likely, first + likely * given
                second = second + likely * (given**2 + share * w)
            p = self.p[:, None, law]
            means[law], squares[law] = (p * first / total).sum(axis=(2, 3)), (p * second / total).sum(axis=(2, 3))
        mean = means.sum(axis=0)
        return mean, np.maximum(squares.sum(axis=0) - mean**2, 0.0)

    def draw(self, rng: np.random.Generator, num_draws: int) -> tuple[Array, Array, Array]:
        """Draws law, m and tau for the first search."""
        points = rng.choice(self.p[0].size, size=num_draws, p=self.p[0].ravel())
        law, row, column = np.unravel_index(points, self.p[0].shape)
        return law.astype(float), self.m[0][row], self.tau[0][column]


_TINY = 1e-300  # where a density underflows, all points are as unlikely


def _tails(variances: Array, noise: Array | float) -> Array:
    """The factors of w of heavy-tailed luck, (..., 5): means over several runs have lighter tails."""
    single = np.square(noise)
    runs = single / np.clip(variances, 1e-9 * single, single)
    factors: Array = 1 + (_HEAVY - 1) / np.sqrt(runs)[..., None]
    return factors


def posterior_grid(
    losses: Array, noise: Array, later: Array | None = None, *, heavy_tails: float = 0.25
) -> PosteriorGrid:
    """p(m, tau, law | losses), for many searches at once.

    Args:
        losses: (searches, trials), +inf for failed ones, at least one finite per search.
        noise: the same shape.
        later: (2, searches, trials) the mean of all runs of a trial and its variance; NaN for trials with one run.
        heavy_tails: as in `search_posterior`.
    """
    order = np.argsort(losses, axis=1)
    once = np.full((2, *losses.shape), np.nan) if later is None else later
    tables = np.stack([np.take_along_axis(table, order, axis=1) for table in (losses, noise, *once)])
    step = max(1, _STEP // (_POINTS**2 * losses.shape[1]))
    parts = [_part_of_grid(tables[:, start : start + step], heavy_tails) for start in range(0, len(losses), step)]
    return PosteriorGrid(*(np.concatenate(each) for each in zip(*parts, strict=True)))


def _part_of_grid(tables: Array, heavy_tails: float) -> tuple[Array, Array, Array, Array]:
    """As many searches as fit into memory at once; their losses are sorted."""
    y, noise, *later = tables
    worth = y <= _fence(y, noise)
    half = (worth.sum(axis=1, keepdims=True) + 1) // 2
    cut = np.take_along_axis(y, half - 1, axis=1)
    seen = (y <= cut)[:, : int((y <= cut).sum(axis=1).max())]
    y, noise, mean, w = (table[:, : seen.shape[1]] for table in (y, noise, *later))
    typical = np.sqrt((noise**2).sum(axis=1, where=seen, keepdims=True) / seen.sum(axis=1, keepdims=True))
    reach = np.maximum(cut - y[:, :1], typical)
    m = cut + reach * np.linspace(-1.5, 1.5, _POINTS)
    # Middles of steps: a point at 0 would count for a whole step, and equal trials would look too equal.
    tau = reach * 2.5 * (np.arange(_POINTS) + 0.5) / _POINTS
    # The search's own loss says who is seen; what more runs say of those counts in its place.
    known = np.isfinite(mean)
    y, variance = np.where(seen, np.where(known, mean, y), 0.0), np.where(known, w, noise**2)
    # Those above the cut have one noise, the typical one.
    above = (worth.sum(axis=1) - seen.sum(axis=1))[:, None, None]
    log_p = np.full((len(y), 2, _POINTS, _POINTS), -np.inf)
    for law, (chance, factors) in enumerate(
        ((1 - heavy_tails, np.ones((1, 1, 1))), (heavy_tails, _tails(variance, noise)))
    ):
        if chance > 0:
            density, tail = 0.0, 0.0
            for place, factor in enumerate(np.moveaxis(factors, -1, 0)):
                # (searches, tau, trials) outside the square: the exponential of (searches, m, tau, trials) is dear.
                inverse = 1 / (tau[:, :, None] ** 2 + (factor * variance)[:, None])
                density = density + _normal(m, y, inverse) / factors.shape[-1]
                scale = np.sqrt(tau**2 + (_HEAVY[place] if law else 1.0) * typical**2)[:, None]
                tail = tail + special.ndtr((m - cut)[:, :, None] / scale) / factors.shape[-1]
            fit = np.where(seen[:, None, None], np.log(density + _TINY), 0.0).sum(axis=-1)
            log_p[:, law] = fit + above * np.log(tail + _TINY) + np.log(chance)
    log_p -= np.log1p((tau / (_PRIOR_SCALE * typical)) ** 2)[:, None, None]
    p = np.exp(log_p - log_p.max(axis=(1, 2, 3), keepdims=True))
    return m, tau, p / p.sum(axis=(1, 2, 3), keepdims=True), typical[:, 0]


def _normal(m: Array, y: Array, inverse: Array) -> Array:
    """Normal densities (searches, m, tau, trials) from inverse variances (searches, tau, trials)."""
    distance = (m[:, :, None] - y[:, None]) ** 2
    density: Array = np.sqrt(inverse)[:, None] * np.exp(-0.5 * distance[:, :, None] * inverse[:, None])
    return density


def _fence(y: Array, noise: Array) -> Array:
    """Beyond it a trial is hopeless; y is sorted. The best quarter sets the measure; luck reaches no further."""
    finite = np.isfinite(y).sum(axis=1, keepdims=True)
    # A quarter of all: a trial that failed and one that is hopeless weigh the same.
    quarter = np.take_along_axis(y, np.minimum(finite, (y.shape[1] + 3) // 4) - 1, axis=1)
    fence: Array = quarter + np.maximum(3 * (quarter - y[:, :1]), 5 * noise[:, :1])
    return fence


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
