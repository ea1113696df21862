"""How a metric without a formula for its influences would vary over rows: rows drawn anew, by weights or counts.

The same draws serve all runs and configurations, so that their differences are paired.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from manyfit.core.errors import UsageError, explain
from manyfit.stats.components import Components
from manyfit.stats.intervals import Array, Interval, Scale, confidence_level


@dataclasses.dataclass(frozen=True, slots=True)
class Bootstrap:
    """A metric of one's own, on the rows as they are and with rows drawn anew."""

    values: Array  # (runs,) on the rows as they are
    draws: Array  # (runs, draws), the same draws of rows for all runs
    num_rows: int
    num_units: int  # rows, or groups of them
    inflation: float  # what the draws' variance is multiplied by to be unbiased for a mean

    def components(self, scale: Scale = Scale.PLAIN) -> Components:
        """As `crossed` would give them, with the rows' part from the draws."""
        runs, size = len(self.values), self.num_rows
        mean_draw = self.draws.mean(axis=0)
        by_rows = float(mean_draw.var(ddof=1)) * self.inflation
        seeds = rest = np.nan
        if runs > 1:
            seeds = size * float(self.values.var(ddof=1))
            own = self.draws - mean_draw
            rest = size * self.inflation * float(own.var(axis=1, ddof=1).sum()) / (runs - 1)
        # Two sources of error of that variance: few units, few draws.
        degrees = 1 / (1 / (self.num_units - 1) + 1 / (mean_draw.size - 1)) if self.num_units > 1 else 0.0
        mean = float(self.values.mean())
        return Components(mean, seeds, runs * size * by_rows, rest, runs, size, runs - 1.0, degrees, scale)

    def percentiles(self, confidence: float = 0.95) -> Interval:
        """Of the mean over these runs, over rows alone. Take 1,000 draws or more for it.

        Raises:
            UsageError: a confidence outside (0, 1).
        """
        tail = (1 - confidence_level("percentiles", confidence)) / 2
        low, high = np.quantile(self.draws.mean(axis=0), [tail, 1 - tail])
        return Interval(float(self.values.mean()), float(low), float(high), confidence, self.num_rows)


def bootstrap_rows(
    runs: Sequence[Callable[..., float]],
    num_rows: int,
    *,
    rng: np.random.Generator,
    num_draws: int = 200,
    weighted: bool = True,
    groups: ArrayLike | None = None,
) -> Bootstrap:
    """How a metric without a formula would vary over rows.

    Args:
        runs: per run, the metric as a function of row weights (rows,) with mean 1; or of row numbers, see `weighted`.
        num_rows: how many rows there are.
        rng: the only source of randomness.
        num_draws: 200 for a standard error, 1,000 for percentiles.
        weighted: False for a metric that knows no weights: it gets the numbers of rows drawn with replacement.
        groups: a label per row: groups are drawn, not rows.

    Raises:
        UsageError: no runs, fewer than 2 draws, or groups of another length.

    Source: the Bayesian bootstrap (Rubin 1981): weights drawn from the exponential law; counts, Efron 1979.

    Example:

    >>> losses = np.arange(100.0)
    >>> found = bootstrap_rows([lambda weight: float((weight * losses).mean())], 100, rng=np.random.default_rng(0))
    >>> round(found.components().rows_error), round(float(losses.std(ddof=1)) / 10)
    (3, 3)
    """
    if not runs or num_draws < 2:
        got = f"{len(runs)} runs, num_draws={num_draws}"
        raise UsageError(explain("bootstrap_rows", got, "a run or more, 2 draws or more", "Type num_draws=200."))
    labels = (
        np.arange(num_rows) if groups is None else np.unique(np.asarray(groups), return_inverse=True)[1].reshape(-1)
    )
    if labels.shape != (num_rows,):
        got = f"{labels.size} groups for {num_rows} rows"
        raise UsageError(explain("bootstrap_rows(groups)", got, "one label per row", "Pass them in the rows' order."))
    units = int(labels.max()) + 1
    members = np.split(np.argsort(labels, kind="stable"), np.cumsum(np.bincount(labels))[:-1])
    draws = np.empty((len(runs), num_draws))
    for draw in range(num_draws):
        chosen: NDArray[np.generic]
        if weighted:
            weight = rng.standard_exponential(units)[labels]
            chosen = weight * (num_rows / weight.sum())
        else:
            chosen = np.concatenate([members[unit] for unit in rng.integers(units, size=units)])
        draws[:, draw] = [run(chosen) for run in runs]
    as_they_are: NDArray[np.generic] = np.ones(num_rows) if weighted else np.arange(num_rows)
    values = np.array([run(as_they_are) for run in runs])
    inflation = (units + 1 if weighted else units) / max(units - 1, 1)
    return Bootstrap(values, draws, num_rows, units, inflation)
