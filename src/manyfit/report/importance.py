"""Which hyperparameters decide whether a trial is good, and how sure that is: PED-ANOVA with intervals.

Where good trials lie like all trials, a hyperparameter does not matter; the more their distributions differ, the more
it does (Watanabe 2023, "PED-ANOVA"; where it is not always active, the conditional form):

| notation | meaning |
|---|---|
| p_top, p_all | densities of a hyperparameter among the best trials and among all, on a grid of m places |
| a, b | share of the best trials, and of all, in which it was active |
| g | share of the best trials in all |

    among what was tried:  g² (a² / b) sum_grid p_all (p_top / p_all - 1)²
    over its whole range:  g² (a² / b) sum_grid (p_top / p_all - 1)² / m

g p_top / p_all is the chance to be among the best, given the value. Samplers that learn try little else than what
is good, and among that nothing matters any more; so what is shown is over the whole range. Densities are mixtures of
normal kernels, truncated to the grid, with Scott's bandwidth and one wide kernel as a prior; over the whole range that
of p_top has the weight g, so that the chance is g where nothing was tried. The best trials are a tenth, and where that
is less than eight, eight or a third.

What is shown are shares of the sum. An interval comes from trials drawn anew with replacement. A share is never below
0, so whether there is an effect at all is asked of all ranks: how often do shuffled ranks differ as much between fifths
of the range as those that are there?
"""

from __future__ import annotations

import dataclasses
import functools
import math
import statistics
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from manyfit.core.seeds import generator
from manyfit.report.ranges import SearchedRange, remembered, searched_ranges
from manyfit.report.snapshot import RecordedTrial, Snapshot

Counts = NDArray[np.float64]

NUM_STEPS = 50  # of the grid
MIN_TRIALS = 10  # below, the best are too few to have a distribution
_TOP, _FEWEST_TOP = 0.1, 8
_NUM_DRAWS = 100
_NUM_BINS, _NUM_SHUFFLES = 5, 300
_PRIOR = 1.0  # trials that the wide kernel counts as


@dataclasses.dataclass(frozen=True)
class Importance:
    """How much one hyperparameter decides.

    Attributes:
        name: of the hyperparameter.
        share: of the sum over all, 0 to 1.
        low: lower end of the 90 % interval of that.
        high: upper end.
        by_chance: how often shuffled scores depend as much on it, 0 to 1: large where no effect is to be seen.
    """

    name: str
    share: float
    low: float
    high: float
    by_chance: float


@remembered
def importances(snapshot: Snapshot) -> list[Importance]:
    """The hyperparameters of a project, most important first; none below 10 trials that have a score or diverged.

    Trials that diverged count as the worst ones.
    """
    ranked = ranked_trials(snapshot)
    ranges = searched_ranges(snapshot)
    if len(ranked) < MIN_TRIALS or not ranges or len({trial.score for trial in ranked}) < 2:
        return []
    columns = [Column.of(each, ranked) for each in ranges]
    num_top = top_size(len(ranked))
    raw = raw_importances(columns, np.arange(len(ranked)), num_top)
    # Always the same draws: a page that is made twice of one project says the same.
    rng = generator(0, "importance")
    size = len(ranked)
    # Drawn ranks, sorted: the best of a draw come first again.
    # Ranks and not scores, so that a terrible trial weighs as much as any.
    drawn = [np.sort(rng.integers(size, size=size)) for _ in range(_NUM_DRAWS)]
    again = np.array([_shares(raw_importances(columns, draw, num_top)) for draw in drawn])
    by_chance = [chance_of(column, rng) for column in columns]
    # Of the standard library: NumPy's loads its masked arrays first.
    twentieths = np.array([statistics.quantiles(each, n=20, method="inclusive") for each in again.T.tolist()])
    low, high = twentieths[:, 0], twentieths[:, -1]
    shares = _shares(raw)
    found = [
        Importance(each.name, *map(float, facts))
        for each, *facts in zip(
            ranges, shares, np.minimum(low, shares), np.maximum(high, shares), by_chance, strict=True
        )
    ]
    return sorted(found, key=lambda one: -one.share)


def ranked_trials(snapshot: Snapshot) -> list[RecordedTrial]:
    """Trials by what the search measured, best first; those that diverged come last."""
    sign = -1.0 if snapshot.direction == "max" else 1.0
    scored = [trial for trial in snapshot.trials if trial.is_completed and math.isfinite(trial.score or 0.0)]
    scored.sort(key=lambda trial: sign * (trial.score or 0.0))
    return scored + [trial for trial in snapshot.trials if trial.ending == "diverged" and not trial.is_completed]


def top_size(num_trials: int) -> int:
    """How many trials are the best ones.

    Example:

    >>> top_size(10), top_size(30), top_size(200)
    (3, 8, 20)
    """
    return max(math.ceil(_TOP * num_trials), min(_FEWEST_TOP, num_trials // 3))


@dataclasses.dataclass(frozen=True, eq=False)
class Column:
    """One hyperparameter of all trials, on its grid.

    Attributes:
        places: the place on the grid of each trial, best first; -1 where it was not active.
        size: of the grid.
        is_number: whether neighbours on the grid are alike.
    """

    places: NDArray[np.int64]
    size: int
    is_number: bool

    @classmethod
    def of(cls, searched: SearchedRange, trials: Sequence[RecordedTrial]) -> Column:
        """The column of some trials.

        Args:
            searched: the hyperparameter.
            trials: best first.
        """
        values = [searched.value(trial) for trial in trials]
        if not searched.is_number:
            known = {choice: place for place, choice in enumerate(searched.choices)}
            places = [-1 if value is None else known[str(value)] for value in values]
            return cls(np.array(places), len(known), False)
        # Coarse on purpose: what lies closer together than a fiftieth of the range is the same to a density.
        size = _grid_size(searched)
        width = 1 / max(1, size - 1)
        # Ties at midpoints go to the lower place.
        places = [
            -1 if value is None else math.ceil(searched.share(float(value)) / width - 0.5 - 1e-9) for value in values
        ]
        return cls(np.clip(np.array(places), -1, size - 1), size, True)


def _grid_size(searched: SearchedRange) -> int:
    if searched.is_whole and searched.is_log:
        return min(math.ceil(math.log2(searched.high - searched.low + 1)) + 1, NUM_STEPS)
    step = searched.step if searched.step is not None else 1.0 if searched.is_whole else None
    return NUM_STEPS if step is None else max(2, min(round((searched.high - searched.low) / step) + 1, NUM_STEPS))


def chance_of(column: Column, rng: np.random.Generator) -> float:
    """How often shuffled ranks differ as much between fifths of a range as those that are there.

    Args:
        column: the hyperparameter, of trials in the order of their rank.
        rng: draws the shuffles.
    """
    # Fifths of the range and not of the trials: where a sampler tried one place most of the time, the others count.
    bins = column.places * _NUM_BINS // column.size if column.is_number else column.places
    bins = bins + 1  # not being active is a place of its own
    sizes = np.bincount(bins)
    is_used = sizes > 0
    ranks = np.arange(len(bins)) - (len(bins) - 1) / 2
    draws = np.array([ranks, *(rng.permutation(ranks) for _ in range(_NUM_SHUFFLES))])
    sums = np.array([np.bincount(bins, weights=draw) for draw in draws])
    between = (sums[:, is_used] ** 2 / sizes[is_used]).sum(axis=1)
    return float((1 + (between[1:] >= between[0] * (1 - 1e-9)).sum()) / (1 + _NUM_SHUFFLES))


def raw_importances(
    columns: Sequence[Column], order: NDArray[np.int64], num_top: int, *, of_tried: bool = False
) -> NDArray[np.float64]:
    """The importance of each hyperparameter, not yet as a share.

    Args:
        columns: of the hyperparameters.
        order: (trials,) numbers of trials, best first; the same one may occur several times.
        num_top: how many of them are the best ones.
        of_tried: among what was tried; else over the whole range.

    Returns:
        (hyperparameters,)
    """
    found = []
    for column in columns:
        places = column.places[order]
        active = places >= 0
        # Where it is active only sometimes, being active may itself be what matters: that is in the two shares.
        top = places[:num_top][active[:num_top]]
        if not len(top) or not active.any():
            found.append(0.0)
            continue
        in_top, in_all = len(top) / num_top, active.mean()
        prior = _PRIOR if of_tried else _PRIOR * len(top) / active.sum()
        p_top = _density(np.bincount(top, minlength=column.size).astype(float), column.is_number, prior) + 1e-12
        p_all = _density(np.bincount(places[active], minlength=column.size).astype(float), column.is_number) + 1e-12
        weights = p_all if of_tried else np.full(column.size, 1 / column.size)
        found.append(float(in_top**2 / in_all * (weights @ (p_top / p_all - 1) ** 2)))
    return np.array(found) * (num_top / len(order)) ** 2


def _density(counts: Counts, is_number: bool, prior: float = _PRIOR) -> Counts:
    """The density of values on their grid, given how often each place occurs, and the weight of the wide kernel."""
    size = len(counts)
    at = np.flatnonzero(counts)
    weights = counts[at]
    total = weights.sum()
    if not is_number:
        kernels = np.full((len(at) + 1, size), prior / (len(at) + 1))
        kernels[np.arange(len(at)), at] += 1
        kernels /= kernels.sum(axis=1, keepdims=True)
        return np.append(weights, prior) @ kernels / (total + prior)
    steps = _normal_steps(_bandwidth(at, weights), size)[np.arange(size + 1) - at[:, None] + size]
    steps = np.concatenate([steps, _wide_steps(size)[None]])
    kernels = np.diff(steps, axis=1) / (steps[:, -1:] - steps[:, :1])
    return np.append(weights, prior) @ kernels / (total + prior)


def _normal_steps(width: float, size: int) -> Counts:
    """A kernel's share below each end of a place, from `size` places to its left to as many to its right."""
    # Kernels of one width are one curve that is moved along the grid. math.erfc, and not SciPy's, which takes longer to
    # load than all that is computed here.
    scale = 1 / (width * math.sqrt(2))
    beyond = np.array([math.erfc((place + 0.5) * scale) / 2 for place in range(size + 1)])
    return np.concatenate([beyond[::-1], 1 - beyond[:-1]])


@functools.lru_cache(maxsize=NUM_STEPS)
def _wide_steps(size: int) -> Counts:
    """The same of the kernel that stands for what was not tried."""
    return np.array([math.erfc((0.5 - place / size) / math.sqrt(2)) / 2 for place in range(size + 1)])


def _bandwidth(at: NDArray[np.int64], weights: Counts) -> float:
    """Scott's rule, of places and how often each occurs."""
    sums = np.cumsum(weights)
    total = sums[-1]
    mean = at @ weights / total
    deviation = math.sqrt((at - mean) ** 2 @ weights / max(1.0, total - 1))
    first = np.searchsorted(sums, total // 4, side="left")
    third = min(len(at) - 1, np.searchsorted(sums, total * 3 // 4, side="right"))
    spread = min((at[third] - at[first]) / 1.34, deviation)
    return max(1.059 * spread * total**-0.2, 0.5 / 1.64)  # nine tenths of the narrowest kernel lie in one place


def _shares(raw: NDArray[np.float64]) -> NDArray[np.float64]:
    total = raw.sum()
    return raw / total if total > 0 else np.full(len(raw), 1 / max(1, len(raw)))
