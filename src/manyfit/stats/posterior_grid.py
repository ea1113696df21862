"""What the losses of a search say of its truths and its luck, on a grid: the numbers behind `manyfit.stats.posterior`.

| notation | meaning |
|---|---|
| y_i, omega_i | search loss of trial i, and the standard deviation of its luck |
| m, tau | mean and standard deviation of the truths of the trials worth comparing |
| w_k, r_k | variance of the mean of all runs of finalist k, and how many these are |

Is an outstanding score skill, or a stroke of luck? Three laws answer differently, and losses say which is likely:

1. truths and luck are normal;
2. luck has the tails of Student's t with 3 degrees: an outstanding score of one run is luck;
3. one truth of ten is far off, by 3 omega: few configurations are good, and what they score is skill.

Every law is a mixture of normal ones with other variances, tau^2 + a omega^2 for truths and b w_k for luck. Means over
several runs have lighter tails, and a configuration's own luck with these rows has none: it is a mean over rows.
"""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import numpy as np
from scipy import special

from manyfit.stats.intervals import Array

_POINTS = 25  # of the grid, per axis
_PRIOR_SCALE = 0.75  # of tau, in units of the noise
_STEP = 400_000  # points times trials that are held at once
_CHANCES = np.log([0.4, 0.35, 0.25])  # of the laws, before the losses are seen
_TINY = 1e-300  # where a density underflows, all points are as unlikely
_FAR_SHARE, _FAR = 0.1, 6.0  # of truths that are far off; their variance besides tau^2, in units of the noise's
# Student's law as normal laws of five variances: bins of the chi-square law's probability, fine where tails are.
_EDGES = np.array([0.0, 0.02, 0.1, 0.3, 0.6, 1.0])
_WEIGHTS = np.diff(_EDGES)
_HEAVY_DEGREES = 3.0
_HEAVY = 1 / special.gammaincinv(_HEAVY_DEGREES / 2, (_EDGES[1:] + _EDGES[:-1]) / 2)
_HEAVY /= _WEIGHTS @ _HEAVY


class _Part(NamedTuple):
    """One of the normal laws that a law is a mixture of."""

    weight: float
    truths: float  # a: variance of truths besides tau^2, in units of the noise's
    luck: Array | float  # b: factor of w


def _tails(variances: Array, noise: Array | float, runs: Array | None = None) -> Array:
    """The factors of w under heavy-tailed luck, (..., 5): for a mean over runs they are nearer to 1.

    Args:
        variances: w.
        noise: omega.
        runs: r; None: as many as make omega^2 into w, if all of it is the luck of runs.
    """
    single = np.square(noise)
    w = np.maximum(variances, 1e-9 * single)
    r = np.maximum(1.0, single / w if runs is None else runs)
    # What of w shrinks with runs has tails; the configuration's own luck with these rows does not and has none.
    of_runs = np.where(r > 1.001, np.clip((single - w) / np.maximum(r - 1, 0.001) / w, 0.0, 1.0), 1.0)
    factors: Array = 1 + (_HEAVY - 1) * (of_runs / np.sqrt(r))[..., None]
    return factors


def _laws(variances: Array, noise: Array, runs: Array | None = None) -> list[list[_Part]]:
    tails = np.moveaxis(_tails(variances, noise, runs), -1, 0)
    return [
        [_Part(1.0, 0.0, 1.0)],
        [_Part(float(weight), 0.0, factor) for weight, factor in zip(_WEIGHTS, tails, strict=True)],
        [_Part(1 - _FAR_SHARE, 0.0, 1.0), _Part(_FAR_SHARE, _FAR, 1.0)],
    ]


@dataclasses.dataclass(frozen=True)
class PosteriorGrid:
    """What is known of m, tau and the law, for many searches at once."""

    m: Array  # (searches, points)
    tau: Array  # (searches, points)
    p: Array  # (searches, 3 laws, points of m, points of tau), sums to 1 per search
    noise: Array  # (searches,)

    def moments(self, measured: Array, variances: Array, runs: Array | None = None) -> tuple[Array, Array]:
        """Mean and variance of the truths of finalists.

        Args:
            measured: (searches, finalists) means of all runs.
            variances: (searches, finalists) w_k.
            runs: (searches, finalists) r_k; None: as the variances have it.

        Returns:
            Two arrays (searches, finalists).
        """
        means, squares = np.empty((2, len(_CHANCES), *measured.shape))
        tau2 = self.tau[:, None, None, :] ** 2
        single = self.noise[:, None, None, None] ** 2
        m = self.m[:, None, :, None]
        distance = measured[..., None, None] - m  # (searches, finalists, m, tau)
        for law, parts in enumerate(_laws(variances, self.noise[:, None], runs)):
            total, first, second = np.zeros((3, 1))
            for part in parts:
                w, spread = (variances * part.luck)[..., None, None], tau2 + part.truths * single
                likely = part.weight * np.exp(-0.5 * distance**2 / (spread + w)) / np.sqrt(spread + w) + _TINY
                share = spread / (spread + w)
                given = m + share * distance
                total, first = total + likely, first + likely * given
                second = second + likely * (given**2 + share * w)
            p = self.p[:, None, law]
            means[law], squares[law] = (p * first / total).sum(axis=(2, 3)), (p * second / total).sum(axis=(2, 3))
        mean = means.sum(axis=0)
        return mean, np.maximum(squares.sum(axis=0) - mean**2, 0.0)

    def draw_truths(
        self, measured: Array, variances: Array, runs: Array | None, rng: np.random.Generator, num_draws: int
    ) -> Array:
        """Truths of the finalists of the first search, drawn together: (draws, finalists).

        What rows do to all of them alike is in no draw: it changes no order.
        """
        points = rng.choice(self.p[0].size, size=num_draws, p=self.p[0].ravel())
        law, row, column = np.unravel_index(points, self.p[0].shape)
        truths = np.empty((num_draws, measured.size))
        for number, parts in enumerate(_laws(variances, self.noise[0], runs)):
            here = law == number
            m, tau2 = self.m[0][row[here]][:, None], self.tau[0][column[here]][:, None] ** 2
            spread = np.stack(
                [np.broadcast_to(tau2 + p.truths * self.noise[0] ** 2, truths[here].shape) for p in parts]
            )
            w = np.stack([np.broadcast_to(variances * p.luck, truths[here].shape) for p in parts])
            weights = np.array([p.weight for p in parts])[:, None, None]
            likely = weights * np.exp(-0.5 * (measured - m) ** 2 / (spread + w)) / np.sqrt(spread + w) + _TINY
            likely = np.cumsum(likely, axis=0) / likely.sum(axis=0)
            which = (rng.random(truths[here].shape) > likely).sum(axis=0)[None]
            spread, w = np.take_along_axis(spread, which, axis=0)[0], np.take_along_axis(w, which, axis=0)[0]
            share = spread / (spread + w)
            center = m + share * (measured - m)
            truths[here] = center + np.sqrt(share * w) * rng.standard_normal(center.shape)
        return truths


def posterior_grid(losses: Array, noise: Array, later: Array | None = None, stopped: int = 0) -> PosteriorGrid:
    """p(m, tau, law | losses), for many searches at once.

    Args:
        losses: (searches, trials), +inf for failed ones, at least one finite per search.
        noise: the same shape.
        later: (3, searches, trials) the mean of all runs of a trial, its variance, and their number; NaN for trials
            with one run.
        stopped: further trials of each search, whose losses nobody knows: they were stopped early, as others were
            better. They count as above the cut.
    """
    order = np.argsort(losses, axis=1)
    once = np.full((3, *losses.shape), np.nan) if later is None else later
    tables = np.stack([np.take_along_axis(table, order, axis=1) for table in (losses, noise, *once)])
    step = max(1, _STEP // (_POINTS**2 * losses.shape[1]))
    parts = [_part_of_grid(tables[:, start : start + step], stopped) for start in range(0, len(losses), step)]
    return PosteriorGrid(*(np.concatenate(each) for each in zip(*parts, strict=True)))


def _part_of_grid(tables: Array, stopped: int) -> tuple[Array, Array, Array, Array]:
    """As many searches as fit into memory at once; their losses are sorted."""
    y, noise, *later = tables
    worth = y <= _fence(y, noise)
    # Who was stopped belongs to the worse half: where that is full with them, all others are seen.
    count = worth.sum(axis=1, keepdims=True)
    half = np.minimum(count, (count + stopped + 1) // 2)
    cut = np.take_along_axis(y, half - 1, axis=1)
    seen = (y <= cut)[:, : int((y <= cut).sum(axis=1).max())]
    y, noise, mean, w, runs = (table[:, : seen.shape[1]] for table in (y, noise, *later))
    typical = np.sqrt((noise**2).sum(axis=1, where=seen, keepdims=True) / seen.sum(axis=1, keepdims=True))
    reach = np.maximum(cut - y[:, :1], typical)
    m = cut + reach * np.linspace(-1.5, 1.5, _POINTS)
    # Middles of steps: a point at 0 would count for a whole step, and equal trials would look too equal.
    tau = reach * 2.5 * (np.arange(_POINTS) + 0.5) / _POINTS
    # The search's own loss says who is seen; what more runs say of those counts in its place.
    known = np.isfinite(mean)
    y, variance = np.where(seen, np.where(known, mean, y), 0.0), np.where(known, w, noise**2)
    # Those above the cut have one noise, the typical one.
    above = (stopped + count[:, 0] - seen.sum(axis=1))[:, None, None]
    log_p = np.empty((len(y), len(_CHANCES), _POINTS, _POINTS))
    of_seen, of_unseen = _laws(variance, noise, np.where(known, runs, 1.0)), _laws(typical**2, typical)
    for law, (parts, unseen) in enumerate(zip(of_seen, of_unseen, strict=True)):
        density, tail = np.zeros((2, 1))
        for part, other in zip(parts, unseen, strict=True):
            # (searches, tau, trials) outside the square: the exponential of (searches, m, tau, trials) is dear.
            spread = tau**2 + part.truths * typical**2
            inverse = 1 / (spread[:, :, None] + (part.luck * variance)[:, None])
            density = density + part.weight * _normal(m, y, inverse)
            scale = np.sqrt(spread + other.luck * typical**2)[:, None]
            tail = tail + part.weight * special.ndtr((m - cut)[:, :, None] / scale)
        fit = np.where(seen[:, None, None], np.log(density + _TINY), 0.0).sum(axis=-1)
        log_p[:, law] = fit + above * np.log(tail + _TINY) + _CHANCES[law]
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
