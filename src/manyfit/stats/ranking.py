"""Who is first, who is level, and how sure."""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.stats

from manyfit.core.errors import UsageError, explain
from manyfit.stats.arrays import score_table


def ranks(losses: Any) -> np.ndarray:
    """Ranks from 1, lower losses first; equal losses share the better rank, as in sports.

    Args:
        losses: one per contender; +inf (diverged) and NaN (no score) come last, in this order.

    Returns:
        Integers, same shape. ``[1, 2, 2, 4]``: two are second, nobody is third.

    Example:

    >>> ranks([0.3, 0.1, 0.3, float("nan"), float("inf")]).tolist()
    [2, 1, 2, 5, 4]
    """
    x = np.asarray(losses, dtype=float)
    if x.ndim != 1:
        got = f"an array of shape {x.shape}"
        raise UsageError(explain("ranks(losses)", got, "one row of losses", "Take the mean over seeds first."))
    # NaN has to lose against +inf, so both get numbers above every finite loss.
    order = np.unique(x[np.isfinite(x) | np.isneginf(x)], return_inverse=True)
    positions = np.full(x.shape, order[0].size, dtype=float)
    positions[np.isfinite(x) | np.isneginf(x)] = order[1]
    positions[np.isnan(x)] += 1
    return scipy.stats.rankdata(positions, method="min").astype(int)


def probability_best(scores: Any, *, rng: np.random.Generator, num_draws: int = 4000) -> np.ndarray:
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
    eligible: np.ndarray = np.logical_not(np.isposinf(table).any(axis=1))
    if not eligible.any():
        eligible = np.ones(table.shape[0], dtype=bool)
        finite = table[np.isfinite(table)]
        table = np.where(np.isposinf(table), 2 * finite.max() - finite.min() if finite.size else 0.0, table)
    has_run = np.isfinite(table)
    eligible = eligible & (has_run.sum(axis=1) >= 2)
    if not eligible.any():
        return np.full(table.shape[0], 1 / table.shape[0])
    leader = _leader(table, eligible)
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
        scale = np.sqrt((n - 1) / rng.chisquare(n - 1, num_draws))
        above[:, contender] = d.mean() + scale * (multipliers[:, common] @ deviations)
    lowest = above == above.min(axis=1, keepdims=True)
    return (lowest / lowest.sum(axis=1, keepdims=True)).mean(axis=0)  # exact ties share a draw


def _leader(table: np.ndarray, eligible: np.ndarray) -> int:
    """The lowest mean among those with the most seeds: a lucky contender that was dropped early is not one."""
    counts = np.where(eligible, np.isfinite(table).sum(axis=1), 0)
    candidates = np.flatnonzero(counts == counts.max())
    return int(candidates[np.nanmean(table[candidates], axis=1).argmin()])
