"""How good configurations are, from everything that was ever run of them: the search, folds, every confirmation.

What a run scores differs from what the next model will score by three kinds of luck, and each is told apart: *seeds*
(initial weights, the order of the data), *rows* (others would have been easier or harder), and the *choice* (the best
of many noisy scores is too good). The estimate is a posterior over all runs (`manyfit.stats.posterior`): it needs no
correction for having been looked at, and more runs only sharpen it. Under five trials there is too little to tell luck
from skill by; then the plain mean is given, and the choice is a bound.

Pure functions of tables; `tuner.confirm` prints what they say.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from manyfit.core.errors import UsageError, explain
from manyfit.stats.components import Components, crossed, with_heavy_tails
from manyfit.stats.intervals import Array, Interval, Scale, scaled_interval
from manyfit.stats.noise import RowNoise, RunNoise, moderate, row_noise, run_noise
from manyfit.stats.posterior import MIN_TRIALS, search_posterior
from manyfit.stats.ranking import expected_maximum


@dataclasses.dataclass(frozen=True)
class Measured:
    """All runs of one configuration.

    Args:
        values: (runs,) losses, lower is better; those that are not finite are left out, and counted elsewhere.
        rows: (runs, rows) losses of each validation row, whose means are the values; NaN for a run whose rows are
            unknown, None where those of all are.
    """

    values: ArrayLike
    rows: ArrayLike | None = None

    @property
    def table(self) -> Array | None:
        """(runs, rows) of those runs whose rows are known; None: of none."""
        if self.rows is None:
            return None
        rows = np.asarray(self.rows, dtype=float)
        known = rows[np.isfinite(rows).all(axis=1)] if rows.ndim == 2 and rows.shape[1] > 1 else rows[:0]
        return known if len(known) else None

    @property
    def log_rows(self) -> Array | None:
        """The rows around the logarithms of the values, of those runs that have a finite value."""
        if self.rows is None:
            return None
        values, rows = np.asarray(self.values, dtype=float).ravel(), np.asarray(self.rows, dtype=float)
        same = rows.ndim == 2 and len(rows) == len(values)
        return _log_rows(rows[np.isfinite(values)]) if same else None


@dataclasses.dataclass(frozen=True)
class Estimate:
    """What is known of one configuration's score on fresh seeds and fresh rows, in the metric's own direction.

    Attributes:
        measured: the mean of all its runs.
        mean: what a freshly trained model scores on new rows, on average.
        seeds_error: standard error of `measured` by the seeds; None: one run, and nothing replicated.
        rows_error: by the rows; None: rows unknown.
        choice: by how much `measured` is too good for having been chosen; a bound where `choice_is_bound`.
        num_runs: that `measured` is the mean of.
        num_rows: validation rows of each; None: unknown.
    """

    measured: float
    mean: float
    variance: float  # of `mean`; NaN: neither seeds nor rows are known
    degrees: float
    seeds_error: float | None
    rows_error: float | None
    choice: float
    choice_is_bound: bool
    num_runs: int
    num_rows: int | None
    seed_variance: float  # of one more run, on rows without end
    row_variance: float  # of one more row
    cubed_rows: float = 0.0  # mean cube of the rows' deviations: skewed losses make skewed intervals
    confidence: float = 0.95
    scale: Scale = Scale.PLAIN
    num_groups: int | None = None  # of rows that resemble each other; None: rows are independent

    def of_a_new_model(self) -> Interval | None:
        """Where one freshly trained model lies on new rows; on these rows, if those are unknown; None: nobody knows."""
        return self.interval(rows=math.inf if self.num_rows is not None else None)

    def interval(self, confidence: float | None = None, *, rows: float | None = None) -> Interval | None:
        """Where the score lies.

        Args:
            confidence: between 0 and 1; None: as in the confirmation.
            rows: None for the expected score of models that are trained afresh, on new rows without end. A number m:
                for what one freshly trained model will score on m new rows.

        Returns:
            None where neither the error by seeds nor that by rows is known. Where the rows are unknown it is over seeds
            on these rows alone: ask `rows_error`.

        Raises:
            UsageError: `rows` where the rows are unknown, or fewer than 1.
        """
        if not math.isfinite(self.variance):
            return None
        # Where all went right, as many groups speak for it as there are, however many rows they have.
        variance, at_bounds = self.variance, float(self.num_groups or self.num_rows or math.inf)
        cubes = self.cubed_rows / float(self.num_rows or math.inf) ** 2
        if rows is not None:
            if self.num_rows is None or not rows >= 1:
                got = f"rows={rows!r}" + (", where the rows are unknown" if self.num_rows is None else "")
                allowed = "1 or more, of a search whose validation rows are arrays"
                raise UsageError(explain("interval(rows)", got, allowed, "Leave rows out."))
            variance += self.seed_variance + self.row_variance / rows
            at_bounds = 1 / (1 / at_bounds + 1 / rows)
            cubes -= self.cubed_rows / rows**2
        level = self.confidence if confidence is None else confidence
        return scaled_interval(
            self.mean,
            variance,
            self.degrees,
            scale=self.scale,
            confidence=level,
            skewness=cubes / variance**1.5 if variance > 0 else 0.0,
            num_rows=at_bounds,
            most_rows=(self.num_rows or math.inf) * self.num_runs,
        )


@dataclasses.dataclass(frozen=True)
class Estimates:
    """What is known of all finalists.

    Attributes:
        finalists: in the order that they were given.
        best: number of the finalist of the best mean.
        probabilities: of each to be the best on fresh seeds and rows; all equal where nothing is known.
        noise: standard deviation of a single run of the search, seeds and rows; NaN: unknown.
        luck_of_best: by how much the best search score is too good; NaN: unknown.
    """

    finalists: tuple[Estimate, ...]
    best: int
    probabilities: tuple[float, ...]
    noise: float
    luck_of_best: float


@dataclasses.dataclass(frozen=True)
class _Noise:
    """Variances of a single run: what makes one beat another, and what moves all alike."""

    own_rows: float  # a configuration's own luck with these rows, which no number of runs takes away
    seeds: float
    rest: float
    common_rows: float
    rows_known: bool
    seeds_known: bool

    def of_mean(self, runs: int) -> float:
        """Of a mean of so many runs of one configuration, the common part left out."""
        return self.own_rows + (self.seeds + self.rest) / runs

    @property
    def is_known(self) -> bool:
        """Whether anything is, and it is more than nothing."""
        return (self.rows_known or self.seeds_known) and self.of_mean(1) > 0


@dataclasses.dataclass(frozen=True)
class Told:
    """How results are told: inside, lower is better.

    Args:
        direction: of the metric; "max" has all results negated.
        scale: on which intervals are symmetric.
        confidence: of intervals.
        num_groups: of rows that resemble each other; None: rows are independent.
    """

    direction: str = "min"
    scale: Scale = Scale.PLAIN
    confidence: float = 0.95
    num_groups: int | None = None

    def score(self, loss: float) -> float:
        """In the metric's own direction."""
        return -loss if self.direction == "max" else loss

    def estimate(
        self, part: Components, num_runs: int, *, mean: float, variance: float, choice: float, is_bound: bool = False
    ) -> Estimate:
        """One finalist's, given its components and where its loss lies."""
        known, size = part.rows_known, part.num_rows
        rest = part.mean_square_rest if math.isfinite(part.mean_square_rest) else 0.0
        by_row = max(0.0, part.mean_square_rows - rest) / part.num_seeds + rest if known else math.nan
        seeds = max(0.0, part.variance_seeds if known else part.mean_square_seeds) if part.seeds_known else 0.0
        degrees = part.variance()[1] if known else part.degrees_seeds
        return Estimate(
            measured=self.score(mean if is_bound else mean - choice),
            mean=self.score(mean),
            variance=variance,
            degrees=max(1.0, degrees),
            seeds_error=part.seeds_error if part.seeds_known else None,
            rows_error=part.rows_error if known else None,
            choice=choice,
            choice_is_bound=is_bound,
            num_runs=num_runs,
            num_rows=size if known else None,
            seed_variance=seeds,
            row_variance=by_row,
            cubed_rows=self.score(part.cubed_rows),
            confidence=self.confidence,
            scale=self.scale,
            num_groups=self.num_groups if known else None,
        )


def estimates(
    search: ArrayLike,
    finalists: Sequence[Measured],
    *,
    search_rows: ArrayLike | None = None,
    places: Sequence[int | None] | None = None,
    runs_per_trial: int = 1,
    overlap: float | None = None,
    told: Told | None = None,
    groups: ArrayLike | None = None,
    stopped: int = 0,
    seed: int = 0,
) -> Estimates:
    """What every finalist will score on fresh seeds and fresh rows. This is what `tuner.confirm` prints.

    Args:
        search: (trials,) the search's loss of each trial that ran to its end; infinite or NaN where it failed.
            Near-copies merged; scores of fewer epochs do not belong here.
        finalists: the runs of each, those of the search included.
        search_rows: (trials, rows) losses on the validation rows of those trials whose predictions were kept, one run
            each: the rows' luck, without a replicate.
        places: where in `search` each finalist's loss is, None for one that is not there: then all its runs tell how
            far truths lie apart, not the first alone.
        runs_per_trial: that each of `search` is the mean of.
        overlap: where each run has validation rows of its own: their number by that of training rows.
        told: how results are told; None: as losses.
        groups: (rows,) a label per row, where rows of one group resemble each other; None: rows are independent.
        stopped: further trials of the search that a scheduler stopped early, since others were better.
        seed: of the draws behind the probabilities.

    Raises:
        UsageError: no finalists, or one without a finite run.

    Example:

    >>> rng = np.random.default_rng(0)
    >>> skill = rng.normal(0, 0.02, 20)
    >>> rows = 0.3 + skill[:, None, None] + rng.normal(0, 0.5, (20, 1, 300)) + rng.normal(0, 0.3, (20, 6, 300))
    >>> best = np.argsort(rows[:, 0].mean(axis=1))[:2]
    >>> found = estimates(rows[:, 0].mean(axis=1), [Measured(rows[i].mean(axis=1), rows[i]) for i in best])
    >>> one = found.finalists[0]
    >>> one.num_runs, one.choice > 0, one.interval().low < 0.3 < one.interval().high
    (6, True, True)
    """
    if not finalists or not all(np.isfinite(np.asarray(each.values, dtype=float)).any() for each in finalists):
        got = f"{len(finalists)} finalists, or one without a finite loss"
        raise UsageError(explain("estimates", got, "finalists with a finite loss", "Leave out those that failed."))
    told = told or Told()
    values = [_finite(each.values) for each in finalists]
    losses = np.asarray(search, dtype=float)
    above_zero = not any((one <= 0).any() for one in [*values, losses])
    on_logs = told.scale is Scale.LOG and told.direction == "min" and above_zero
    if on_logs:
        # Luck grows with such losses, and is skewed: on logarithms it is the same for all, and nearly symmetric.
        rows = None if search_rows is None else _log_rows(np.asarray(search_rows, dtype=float))
        finalists = [Measured(np.log(own), each.log_rows) for own, each in zip(values, finalists, strict=True)]
        losses, search_rows, values = np.log(losses), rows, [np.log(own) for own in values]
        told = dataclasses.replace(told, scale=Scale.PLAIN)
    if groups is not None:
        told = dataclasses.replace(told, num_groups=len(np.unique(np.asarray(groups))))
    noise = _noise_of(finalists, values, search_rows, overlap, groups)
    parts = _components_of(finalists, values, groups)
    if told.scale not in (Scale.WILSON, Scale.LOGIT):  # shares know by themselves how rare their misses are
        tables = [each.table for each in finalists]
        parts = [
            part if table is None else with_heavy_tails(part, table, groups)
            for part, table in zip(parts, tables, strict=True)
        ]
    runs = _Runs(values, parts, noise)
    few = not noise.is_known or losses.size + stopped < MIN_TRIALS or not np.isfinite(losses).any()
    given = _Search(losses, places, runs_per_trial, stopped)
    found = _bounded(runs, given, told) if few else _shrunken(runs, given, told, seed)
    return _from_logs(found) if on_logs else found


@dataclasses.dataclass(frozen=True)
class _Search:
    """What the search knows; see `estimates`."""

    losses: Array
    places: Sequence[int | None] | None
    runs_per_trial: int
    stopped: int


@dataclasses.dataclass(frozen=True)
class _Runs:
    """What was measured of the finalists."""

    values: Sequence[Array]
    parts: Sequence[Components]
    noise: _Noise

    @property
    def means(self) -> Array:
        """Of each, over all its runs."""
        return np.array([each.mean() for each in self.values])

    @property
    def of_one(self) -> Array:
        """What seeds do to one run of each."""
        # By its own runs, as far as they are enough: one that swings from seed to seed says little of the others.
        return np.array([_variance_of_run(part, self.noise) for part in self.parts])

    @property
    def of_means(self) -> Array:
        """Variances of the means, what rows do to all alike left out."""
        variances: Array = self.noise.own_rows + self.of_one / [len(each) for each in self.values]
        return variances


def _bounded(runs: _Runs, search: _Search, told: Told) -> Estimates:
    """Plain means, where nobody knows how much of the choice is luck: a bound for it."""
    bounds = expected_maximum(max(1, search.losses.size + search.stopped)) * np.sqrt(runs.of_means)
    rows = zip(runs.parts, runs.values, map(float, runs.means), map(float, bounds), strict=True)
    found = tuple(
        told.estimate(part, len(own), mean=mean, variance=_variance(part, runs.noise), choice=bound, is_bound=True)
        for part, own, mean, bound in rows
    )
    even = (1 / len(found),) * len(found)
    single = math.sqrt(runs.noise.of_mean(1))
    return Estimates(_by_splits(found, runs.noise), int(runs.means.argmin()), even, single, float(bounds.max()))


def _shrunken(runs: _Runs, search: _Search, told: Told, seed: int) -> Estimates:
    """Posterior means, which need no correction for having been looked at."""
    single = math.sqrt(runs.noise.own_rows + float(np.median(runs.of_one)) / search.runs_per_trial)
    posterior = search_posterior(
        search.losses,
        single,
        finalists=list(zip(runs.means, runs.of_means, strict=True)),
        places=search.places,
        common_row_variance=runs.noise.common_rows,
        runs=[len(own) for own in runs.values],
        stopped=search.stopped,
    )
    found = []
    for place, (part, own) in enumerate(zip(runs.parts, runs.values, strict=True)):
        each = posterior.printed(place)
        found.append(told.estimate(part, len(own), mean=each.mean, variance=each.variance, choice=each.optimism))
    chances = posterior.probability_best(rng=np.random.default_rng(seed))
    alone = search_posterior(search.losses, single, stopped=search.stopped).finalists[0].optimism
    return Estimates(_by_splits(found, runs.noise), posterior.best, tuple(map(float, chances)), single, alone)


def _log_rows(rows: Array) -> Array:
    """Row losses of runs around the logarithm of each run's mean: by how much each row moves that."""
    means = rows.mean(axis=-1, keepdims=True)
    with np.errstate(invalid="ignore"):  # of a run that failed
        logs: Array = np.log(means) + rows / means - 1
    return logs


def _from_logs(found: Estimates) -> Estimates:
    """Back from logarithms to losses, errors by the delta method."""
    finalists = []
    for one in found.finalists:
        mean, measured = math.exp(one.mean), math.exp(one.measured)
        back = dataclasses.replace(
            one,
            measured=measured,
            mean=mean,
            variance=one.variance * mean**2,
            seeds_error=None if one.seeds_error is None else one.seeds_error * measured,
            rows_error=None if one.rows_error is None else one.rows_error * measured,
            choice=one.choice * measured if one.choice_is_bound else mean - measured,
            seed_variance=one.seed_variance * mean**2,
            row_variance=one.row_variance * mean**2,
            cubed_rows=one.cubed_rows * mean**3,
            scale=Scale.LOG,
        )
        finalists.append(back)
    level = finalists[found.best].mean
    return dataclasses.replace(
        found, finalists=tuple(finalists), noise=found.noise * level, luck_of_best=found.luck_of_best * level
    )


def _by_splits(found: Sequence[Estimate], noise: _Noise) -> tuple[Estimate, ...]:
    """Where runs have splits of their own, what these have in common is the error of the rows."""
    if noise.rows_known or noise.own_rows == 0:
        return tuple(found)
    return tuple(dataclasses.replace(one, rows_error=math.sqrt(noise.own_rows)) for one in found)


def _variance_of_run(part: Components, noise: _Noise) -> float:
    """What seeds do to one run's mean over these rows, moderated."""
    return part.mean_square_seeds / part.num_rows if part.seeds_known else noise.seeds + noise.rest


def _variance(part: Components, noise: _Noise) -> float:
    if part.rows_known:
        return part.variance()[0]
    return part.seeds_error**2 + noise.own_rows if part.seeds_known else math.nan


def _finite(values: ArrayLike) -> Array:
    array = np.asarray(values, dtype=float).ravel()
    return array[np.isfinite(array)]


def _components_of(
    finalists: Sequence[Measured], values: Sequence[Array], groups: ArrayLike | None
) -> list[Components]:
    """Seeds and rows of each; variances over seeds borrow from each other among those that know the same."""
    tables = [each.table for each in finalists]
    parts = [
        crossed(own) if table is None else crossed(table, groups=groups)
        for own, table in zip(values, tables, strict=True)
    ]
    for known in (True, False):
        places = [place for place, table in enumerate(tables) if (table is not None) is known]
        for place, part in zip(places, moderate([parts[place] for place in places]), strict=True):
            parts[place] = part
    return parts


def _noise_of(
    finalists: Sequence[Measured],
    values: Sequence[Array],
    search_rows: ArrayLike | None,
    overlap: float | None,
    groups: ArrayLike | None,
) -> _Noise:
    tables = [table for each in finalists if (table := each.table) is not None]
    replicated = [table for table in tables if len(table) > 1]
    pooled, degrees = 0.0, 0
    for own in values:
        pooled += float(((own - own.mean()) ** 2).sum())
        degrees += own.size - 1
    of_runs = run_noise(replicated, groups=groups) if replicated else None
    single = np.stack([table[0] for table in tables]) if tables else None
    of_search = row_noise(single, groups=groups) if search_rows is None and single is not None else None
    of_search = row_noise(search_rows, groups=groups) if search_rows is not None else of_search
    of_search = of_search if of_search is not None and math.isfinite(of_search.deviation) else None
    if of_runs is not None:
        return _from_runs(of_runs, of_search, len(replicated))
    seeds = pooled / degrees if degrees else 0.0
    if of_search is not None:
        common = max(0.0, of_search.common_variance)
        return _Noise(of_search.deviation**2, seeds, 0.0, common, rows_known=True, seeds_known=degrees > 0)
    if single is not None:  # one trial, one run: all of its rows' luck is its own
        own_rows = crossed(single, groups=groups).mean_square_rows / single.shape[1]
        return _Noise(own_rows, seeds, 0.0, 0.0, rows_known=True, seeds_known=degrees > 0)
    # Splits that overlap: what all runs have in common does not shrink with their number (Nadeau and Bengio 2003).
    return _Noise(seeds * (overlap or 0.0), seeds, 0.0, 0.0, rows_known=False, seeds_known=degrees > 0)


def _from_runs(runs: RunNoise, search: RowNoise | None, num_replicated: int) -> _Noise:
    own, common = runs.configuration_rows, runs.common_rows
    # Many trials with one run each know the rows' luck better than a few with several.
    if search is not None and search.num_trials > num_replicated:
        own, common = max(0.0, search.deviation**2 - runs.rest), max(0.0, search.common_variance)
    return _Noise(own, runs.seeds, runs.rest, common, rows_known=True, seeds_known=True)
