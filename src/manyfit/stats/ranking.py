"""How sure the first place is, and how much of its score is luck.

The best of many noisy scores is too good to be true: by how much? `optimism_of_best` says.

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

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import integrate, special

from manyfit.core.errors import UsageError, explain
from manyfit.stats.intervals import Array, score_table, vector


def probability_best(scores: ArrayLike, *, rng: np.random.Generator, num_draws: int = 4000) -> Array:
    """The probability of each contender to have the lowest mean loss, given what has been run.

    A posterior under flat priors: contender i lies above the leader by a multivariate t-law, whose centre and
    covariance are those of the paired differences over the seeds that i has run. The differences of two
    contenders with the leader share the leader's noise, and the draws do, too.

    Args:
        scores: losses, shape (contenders, seeds), as in `racing.race`: NaN where not run, +inf where diverged.
        rng: the only source of randomness.
        num_draws: draws from the posterior; the error of a probability is at most 0.5 / sqrt(num_draws).

    Returns:
        Probabilities that add up to 1. A contender with a diverged run has 0 unless all have one; contenders
        with fewer than 2 seeds in common with the leader have 0 unless none has more, and then all are level.

    Source: the Bayesian paired t-test (Box and Tiao 1973, section 2.5), drawn with normal multipliers per seed.

    Example:

    >>> scores = [[0.30, 0.31, 0.32, 0.30], [0.31, 0.30, 0.31, 0.31], [0.50, 0.52, 0.51, 0.49]]
    >>> probability_best(scores, rng=np.random.default_rng(0)).round(1).tolist()
    [0.5, 0.5, 0.0]
    """
    table = score_table("probability_best(scores)", scores)
    # Diverging once is a mean of infinity: such a contender is best only if nobody got through.
    eligible: NDArray[np.bool_] = np.logical_not(np.isposinf(table).any(axis=1))
    if not eligible.any():
        eligible = np.ones(table.shape[0], dtype=bool)
        finite = table[np.isfinite(table)]
        table = np.where(np.isposinf(table), 2 * finite.max() - finite.min() if finite.size else 0.0, table)
    has_run = np.isfinite(table)
    eligible = eligible & (has_run.sum(axis=1) >= 2)
    if not eligible.any():
        return np.full(table.shape[0], 1 / table.shape[0])
    leader = _leader(table, eligible)
    # One multiplier per seed, shared by all contenders: so draws keep what differences with a common leader have in
    # common.
    multipliers = rng.standard_normal((num_draws, table.shape[1]))
    above = np.full((num_draws, table.shape[0]), np.inf)
    above[:, leader] = 0.0
    for contender in np.flatnonzero(eligible):
        common = np.flatnonzero(has_run[contender] & has_run[leader])
        if contender == leader or common.size < 2:
            continue
        d = table[contender, common] - table[leader, common]
        n = common.size
        deviations = (d - d.mean()) / np.sqrt(n * (n - 1))
        # Turns a normal into a t-law: the deviation is estimated, and with three seeds badly so.
        scale = np.sqrt((n - 1) / rng.chisquare(n - 1, num_draws))
        above[:, contender] = d.mean() + scale * (multipliers[:, common] @ deviations)
    lowest = above == above.min(axis=1, keepdims=True)
    shares: Array = (lowest / lowest.sum(axis=1, keepdims=True)).mean(axis=0)  # exact ties share a draw
    return shares


def _leader(table: Array, eligible: NDArray[np.bool_]) -> int:
    """The lowest mean among those with the most seeds: a lucky contender that was dropped early is not one."""
    counts = np.where(eligible, np.isfinite(table).sum(axis=1), 0)
    candidates = np.flatnonzero(counts == counts.max())
    return int(candidates[np.nanmean(table[candidates], axis=1).argmin()])


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
    return float(above - below)


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


def optimism_of_best(losses: ArrayLike, noise_deviation: float) -> Optimism:
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
    # Capped: a variance of the scores below that of the noise means that no truth shows at all.
    share_of_luck = 1.0 if spread == 0 else min(1.0, noise_deviation**2 / spread)
    return Optimism(best, best + share_of_luck * (mean - best), noise_deviation * expected_maximum(y.size))


def noise_deviation(scores: ArrayLike) -> float:
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
        # A diverged run says that a configuration is bad, not how far seeds spread.
        finite = row[np.isfinite(row)]
        if finite.size > 1:
            squares += float(((finite - finite.mean()) ** 2).sum())
            degrees += finite.size - 1
    return math.sqrt(squares / degrees) if degrees else math.nan
