"""The noise of a search: what makes its runs differ, apart from how good their configurations are.

| notation | meaning |
|---|---|
| var_R | of what rows do to all configurations alike: moves the level, not the order |
| var_CR | of a configuration's own luck with these rows: no number of runs removes it |
| var_S | of a run's seed |
| var_e | of what is left, row by row |

The mean of r runs on N rows has the variance var_CR / N + (var_S + var_e / N) / r, and var_R / N in common with all.
Kept predictions show (var_CR + var_e) / N without one replicate: `row_noise`. Replicates tell them apart: `run_noise`.

Variances of a few configurations borrow from each other: `moderated`.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

from manyfit.core.errors import UsageError, explain
from manyfit.stats.components import Components, crossed, loss_table, row_squares
from manyfit.stats.intervals import Array, Scale


@dataclasses.dataclass(frozen=True, slots=True)
class RowNoise:
    """How much luck rows bring into a search, from the predictions of trials that ran once."""

    deviation: float  # of one trial's luck with these rows, rest included: what makes one trial beat another
    common_variance: float  # of what these rows do to all trials: moves the level, not the order
    num_trials: int  # that it was measured on: all but the hopeless ones
    degrees: float


def row_noise(losses: ArrayLike, *, groups: ArrayLike | None = None) -> RowNoise:
    """The rows' part of the noise of a search without a single replicate.

    Args:
        losses: shape (trials, rows), each trial's losses on the same rows; not finite for a trial that failed.
        groups: a label per row, where rows of one group resemble each other.

    Returns:
        NaN with fewer than 2 trials or rows.

    Raises:
        UsageError: no table, or groups of another length.

    Source: the residual of trials by rows, mean square (n - 1)(N - 1); covariances between trials for the common part.

    Example:

    >>> rng = np.random.default_rng(0)
    >>> found = row_noise(rng.normal(size=500) + rng.normal(0, 2.0, (40, 500)))
    >>> round(found.deviation * 500**0.5, 1), round(found.common_variance * 500, 1)
    (2.0, 1.0)
    """
    table = np.asarray(losses, dtype=float)
    if table.ndim != 2:
        got = f"an array of shape {table.shape}"
        raise UsageError(explain("row_noise(losses)", got, "a table (trials, rows)", "One line per trial."))
    table = table[np.isfinite(table).all(axis=1)]
    if len(table) > 3:
        table = table[_not_hopeless(table.mean(axis=1))]
    trials, size = table.shape
    if groups is None:
        sums, units = table, size
    else:
        labels = np.unique(np.asarray(groups), return_inverse=True)[1].reshape(-1)
        if labels.size != size:
            got = f"{labels.size} groups for {size} rows"
            raise UsageError(explain("row_noise(groups)", got, "one label per row", "Pass them in the rows' order."))
        units = int(labels.max()) + 1
        sums = np.zeros((trials, units))
        np.add.at(sums.T, labels, (table - table.mean(axis=1, keepdims=True)).T)
    if trials < 2 or units < 2:
        return RowNoise(math.nan, math.nan, trials, 0.0)
    # Variance of each trial's mean, and of their common part: mean covariance over pairs.
    centered = sums - sums.mean(axis=1, keepdims=True)
    scale = units / (units - 1) / size**2
    own = float((centered**2).sum()) * scale / trials
    common = float((centered.sum(axis=0) ** 2).sum()) * scale
    covariance = (common - trials * own) / (trials * (trials - 1))
    degrees = float((trials - 1) * (units - 1))
    return RowNoise(math.sqrt(max(own - covariance, 0.0)), covariance, trials, degrees)


def _not_hopeless(means: Array) -> NDArray[np.bool_]:
    """Which trials are near enough to the best for their rows to tell of its luck.

    Not the better half: whoever is lucky with rows is in it, and of skewed losses these are the ones that vary less
    (with 100 rows the noise came out at .7 of what it was).
    """
    best, quarter = float(means.min()), float(np.quantile(means, 0.25))
    near: NDArray[np.bool_] = means <= max(float(np.median(means)), quarter + 3 * (quarter - best))
    return near


@dataclasses.dataclass(frozen=True, slots=True)
class RunNoise:
    """What makes the runs of a search differ, apart from how good their configurations are."""

    configuration_rows: float  # variance of a configuration's own luck with these rows: no number of runs removes it
    seeds: float  # variance of a run's seed on rows without end
    rest: float  # variance of what is left, of one run's mean over these rows
    common_rows: float  # variance of what these rows do to all configurations: moves the level, not the order
    degrees: float  # of the seeds' part

    def variance_of_mean(self, runs: int) -> float:
        """The variance of the mean of so many runs of one configuration, common rows left out.

        Example:

        >>> RunNoise(0.04, 0.01, 0.05, 0.1, 12.0).variance_of_mean(3)
        0.06
        """
        return self.configuration_rows + (self.seeds + self.rest) / runs


def run_noise(losses: Sequence[ArrayLike], *, groups: ArrayLike | None = None) -> RunNoise:
    """Configurations, seeds and rows apart, from configurations that ran with several seeds each.

    Args:
        losses: per configuration a table (runs, rows) with 2 runs or more, the same rows everywhere. The numbers of
            runs may differ.
        groups: as in `crossed`.

    Returns:
        Parts of 0 or more. With one configuration its own luck and that of all cannot be told apart: all of it counts
        as its own.

    Raises:
        UsageError: fewer than 2 runs of a configuration, different rows, and what `crossed` raises.

    Source: the three-way random model, configurations by seeds by rows (Searle, Casella and McCulloch 1992, chapter 4).

    Example:

    >>> rng = np.random.default_rng(0)
    >>> own, common = rng.normal(0, 2, (6, 1, 900)), rng.normal(0, 3, 900)
    >>> found = run_noise(list(own + common + rng.normal(0, 1, (6, 4, 900))))
    >>> round(found.configuration_rows * 900), round(found.common_rows * 900), round(found.rest * 900, 1)
    (4, 9, 1.0)
    """
    tables = [loss_table("run_noise(losses)", table) for table in losses]
    if not tables or min(len(table) for table in tables) < 2 or len({table.shape[1] for table in tables}) > 1:
        got = f"tables of {[table.shape for table in tables]}"
        raise UsageError(explain("run_noise(losses)", got, "2 runs or more each, on the same rows", "Run them again."))
    size, count = tables[0].shape[1], len(tables)
    parts = [crossed(table, groups=groups) for table in tables]
    freedom = np.array([part.degrees_seeds for part in parts])
    rest = float(freedom @ [part.mean_square_rest for part in parts]) / float(freedom.sum())
    seeds = float(freedom @ [part.mean_square_seeds for part in parts]) / float(freedom.sum())
    # Means over runs still hold a part of the rest: 1 / runs of it.
    means = np.stack([table.mean(axis=0) for table in tables])
    deviations = means - means.mean(axis=1, keepdims=True)
    squares, _ = row_squares(size, groups, None)
    own = float(squares(deviations)) / count - rest * float(np.mean([1 / len(table) for table in tables]))
    common = 0.0
    if count > 1:
        together = float(squares(deviations.sum(axis=0, keepdims=True)))
        common = (together - float(squares(deviations))) / (count * (count - 1))
    return RunNoise(
        configuration_rows=max(0.0, own - max(0.0, common)) / size,
        seeds=max(0.0, seeds - rest) / size,
        rest=rest / size,
        common_rows=max(0.0, common) / size,
        degrees=float(freedom.sum()),
    )


@dataclasses.dataclass(frozen=True, slots=True)
class Moderated:
    """Variances that have borrowed from each other."""

    variances: Array
    degrees: Array
    prior_variance: float
    prior_degrees: float


def moderated(variances: ArrayLike, degrees: ArrayLike) -> Moderated:
    """Draws a few variances of few degrees of freedom towards their common centre.

    With three seeds a variance has two degrees of freedom, and a test at a small level needs a difference of 25
    standard errors; eight configurations together have fourteen.

    Args:
        variances: one per configuration, 0 or more; NaN where `degrees` is 0.
        degrees: of freedom of each; 0 for a configuration with one run, which gets the prior alone.

    Returns:
        s_g^2 = (d0 s0^2 + d_g s_g^2) / (d0 + d_g) with d0 + d_g degrees. d0 is bounded by the sum of all degrees: more
        is not known. With fewer than 4 configurations, or where they vary no more than chance has it, all get the
        pooled variance. NaN where nothing has been replicated.

    Raises:
        UsageError: of different lengths, negative or infinite.

    Source: Smyth 2004, section 6.2.

    Example:

    >>> found = moderated([1.0, 4.0, 2.0], [2, 2, 2])
    >>> found.variances.round(3).tolist(), found.degrees.tolist()
    ([2.333, 2.333, 2.333], [6.0, 6.0, 6.0])
    """
    s2, df = np.array(variances, dtype=float), np.asarray(degrees, dtype=float)
    good = s2.shape == df.shape and s2.ndim == 1 and bool((df >= 0).all())
    if not (good and (s2[df > 0] >= 0).all() and np.isfinite(s2[df > 0]).all() and np.isfinite(df).all()):
        allowed = "as many degrees as variances, all finite and 0 or more"
        raise UsageError(explain("moderated", f"{variances!r}, {degrees!r}", allowed, "Leave out what did not run."))
    seen = df > 0
    total = float(df.sum())
    if not seen.any():
        return Moderated(np.full(s2.shape, math.nan), df, math.nan, 0.0)
    pooled = float(df[seen] @ s2[seen]) / total
    everywhere = Moderated(np.full(s2.shape, pooled), np.full(s2.shape, total), pooled, total)
    if seen.sum() < 4 or pooled == 0:
        return everywhere
    prior = _prior(s2[seen], df[seen])
    if prior is None:
        return everywhere
    prior_variance, prior_degrees = prior[0], min(prior[1], total)
    own = np.where(seen, df * np.where(seen, s2, 0.0), 0.0)
    new = (prior_degrees * prior_variance + own) / (prior_degrees + df)
    return Moderated(new, np.minimum(prior_degrees + df, total), prior_variance, prior_degrees)


def _prior(s2: Array, df: Array) -> tuple[float, float] | None:
    """The scaled inverse chi-square law that variances follow: its centre and degrees; None if all are the same."""
    # A floor: one configuration that does not vary at all must not decide by its infinite logarithm.
    positive = np.maximum(s2, 1e-8 * np.median(s2[s2 > 0]))
    e = np.log(positive) - special.digamma(df / 2) + np.log(df / 2)
    count = e.size
    excess = float(((e - e.mean()) ** 2).sum() / (count - 1) - special.polygamma(1, df / 2).mean())
    if excess <= 0:
        return None
    degrees = 2 * trigamma_inverse(excess)
    center = math.exp(float(e.mean() + special.digamma(degrees / 2) - math.log(degrees / 2)))
    return center, degrees


def trigamma_inverse(value: float) -> float:
    """The y with trigamma(y) = value, by Newton's method (Smyth 2004, appendix).

    Example:

    >>> round(trigamma_inverse(np.pi**2 / 6), 9)
    1.0
    """
    y = 0.5 + 1 / value
    for _ in range(100):
        slope = float(special.polygamma(1, y))
        step = slope * (1 - slope / value) / float(special.polygamma(2, y))
        y += step
        if -step < 1e-9 * y:
            break
    return y


def moderate(components: Sequence[Components]) -> tuple[Components, ...]:
    """Lets configurations borrow the variance over seeds from each other; one with a single run gets it from them.

    Args:
        components: of several configurations, or of several paired differences, on the same rows.

    Returns:
        The same with other `mean_square_seeds` and `degrees_seeds`. Shares of rows (accuracy) are compared as
        multiples of p (1 - p).

    Example:

    >>> two, one = moderate([crossed([[1.0, 2.0, 4.0], [2.0, 3.0, 3.0]]), crossed([[1.0, 2.0, 6.0]])])
    >>> two.mean_square_seeds == one.mean_square_seeds
    True
    """
    if not components:
        return ()
    units = [_unit(each) for each in components]
    seen = [each.seeds_known for each in components]
    own = [
        each.mean_square_seeds / unit if s else math.nan for each, unit, s in zip(components, units, seen, strict=True)
    ]
    found = moderated(own, [each.degrees_seeds if s else 0.0 for each, s in zip(components, seen, strict=True)])
    rests = [
        each.mean_square_rest / unit
        for each, unit in zip(components, units, strict=True)
        if math.isfinite(each.mean_square_rest)
    ]
    rest = float(np.mean(rests)) if rests else math.nan
    return tuple(
        dataclasses.replace(
            each,
            mean_square_seeds=float(variance) * unit,
            degrees_seeds=float(degrees),
            mean_square_rest=each.mean_square_rest if math.isfinite(each.mean_square_rest) else rest * unit,
        )
        for each, unit, variance, degrees in zip(components, units, found.variances, found.degrees, strict=True)
    )


def _unit(components: Components) -> float:
    share = components.mean
    inside = components.scale is Scale.WILSON and 0 < share < 1
    return share * (1 - share) if inside else 1.0
