"""The race: run contenders on common fresh seeds, drop who cannot win any more, stop when it is settled.

| notation | meaning |
|---|---|
| x_is | loss of contender i on seed s; every contender meets the seeds in the same order |
| d_ij | the differences x_is - x_js over the first n seeds (one *round* each) |
| t_ij | sqrt(n) mean(d_ij) / deviation(d_ij), with n - 1 degrees of freedom |
| pi | nominal level per look, see `nominal_level` |

After each round, i is dropped when some j still in the race has P(T > t_ij) < pi. Dropped contenders stay dropped.
The best contender has to beat the boundary at no look and against no rival, so it is still in the set at *every*
look with the stated confidence, whenever the race is stopped and however many rounds were run at once.

Sources: racing, Maron and Moore 1994; paired races with dropping, Birattari et al. 2002 (F-race); repeated looks,
Pocock 1977, Jennison and Turnbull 1989; the set that holds the best, Gupta 1965, Hsu 1984; stopping for futility,
Lan, Simon and Halperin 1982, with the predictive law of Spiegelhalter, Freedman and Blackburn 1986.

The mean of the winner's own race is too good: it was chosen for it. Its honest score comes from *proof* runs, on
further seeds that no decision has seen (`finish` runs them for the recommended contender). Their plain mean is
unbiased, and Student's interval holds for it, because they are independent of the choice.

**How small a p-value must be when one looks after every round.** A one-sided paired t-test at level 0.05, repeated
after each of 30 rounds, is wrong in more than one race of five. Here each look is made at one smaller nominal level,
the same at every look (Pocock 1977), chosen so that the chance of a wrong rejection at *any* look is what was promised.
Levels that fall or rise with the round (Wang and Tsiatis 1987) were tried in simulation: falling ones drop clear losers
one round earlier and settle fewer races, rising ones the reverse; the constant level was in the middle and is the
easiest to say.

The level is found by simulation of t-statistics under normal noise, where their law depends on nothing unknown.
"""

from __future__ import annotations

import dataclasses
import enum
import functools
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike
from scipy import special

from manyfit.core.checks import whole_number
from manyfit.core.errors import UsageError, explain
from manyfit.core.seeds import generator
from manyfit.stats.intervals import confidence_level, score_table

_SIGNAL_ERROR = 0.2  # with which the share of signal is below its upper limit; see `_Track._most_signal`


class Verdict(enum.StrEnum):
    """Why a race is over."""

    ONE_LEFT = "one left"  # every other contender was dropped
    CANNOT_BE_TOLD_APART = "cannot be told apart"  # the rounds that are left would most likely drop nobody
    OUT_OF_ROUNDS = "out of rounds"  # `max_rounds` were run


@dataclasses.dataclass(frozen=True)
class Standing:
    """Where a race stands. Contenders are the rows of the score table."""

    winning_set: tuple[int, ...]  # who may still be the best, lowest mean loss first
    recommended: int  # the cheapest of the winning set within noise of its leader
    verdict: Verdict | None  # None: the race goes on
    rounds: int  # looks made so far; later columns of the table were not used
    dropped_after: tuple[int | None, ...]  # the round in which each contender was dropped
    dropped_by: tuple[int | None, ...]  # and by whom
    confidence: float
    level: float  # nominal level of a single look

    @property
    def settled(self) -> bool:
        """Whether more rounds are pointless: one is left, or the rest most likely stay level."""
        return self.verdict in (Verdict.ONE_LEFT, Verdict.CANNOT_BE_TOLD_APART)

    @property
    def num_executions(self) -> int:
        """Executions that the race has used: each contender up to its last round."""
        return sum(self.rounds if after is None else after for after in self.dropped_after)


def race(
    scores: ArrayLike,
    *,
    confidence: float = 0.95,
    max_rounds: int = 30,
    futility: float = 0.05,
    costs: Sequence[float] | None = None,
) -> Standing:
    """Replays a race from its scores: a pure function, to be asked again whenever scores have come in.

    Looks are made round by round, whatever order or batches the scores came in; the answer does not depend on
    runs ahead of the last look. A contender with a diverged run (+inf) has an infinite mean, and is dropped while
    another one in the race has none; if all have diverged, +inf counts as the worst finite loss plus the range.

    Args:
        scores: losses, shape (contenders, seeds), lower is better; NaN: not run, +inf: diverged or failed.
        confidence: with which the winning set holds the best contender at every look, from 0.7 to below 1.
        max_rounds: rounds at most. State it before the race, as the level of each look depends on it.
        futility: stop when the chance that the rounds left drop anybody is below it; 0 never stops so. In
            simulations 0.05 gives up a late drop in up to one race of 20.
        costs: one number per contender, for instance parameters or seconds, lower is better.

    Raises:
        UsageError: scores that are no table, a setting out of its range, or costs of another length.

    Example:

    >>> scores = [[0.31, 0.30, 0.32, 0.31, 0.30], [0.41, 0.40, 0.43, 0.40, 0.41], [0.30, 0.31, 0.32, 0.30, 0.31]]
    >>> standing = race(scores, costs=[2.0, 1.0, 1.0])
    >>> standing.winning_set, standing.dropped_after, standing.recommended
    ((0, 2), (None, 3, None), 2)
    """
    table = score_table("race(scores)", scores)
    _check_settings(table.shape[0], confidence, max_rounds, futility, costs)
    # For the contenders at the start, not those that are left: the promise is about the whole race.
    level = nominal_level(table.shape[0], float(confidence), max_rounds)
    track = _Track(table, level)
    verdict = Verdict.ONE_LEFT if table.shape[0] == 1 else None
    while verdict is None and track.look_possible(max_rounds):
        track.look()
        verdict = track.verdict(max_rounds, futility)
    winning_set = track.in_order()
    return Standing(
        winning_set=winning_set,
        recommended=track.cheapest(winning_set, costs),
        verdict=verdict,
        rounds=track.rounds,
        dropped_after=tuple(track.dropped_after),
        dropped_by=tuple(track.dropped_by),
        confidence=float(confidence),
        level=level,
    )


def next_runs(scores: ArrayLike, standing: Standing, *, count: int, max_rounds: int = 30) -> list[tuple[int, int]]:
    """The (contender, seed) pairs to run next: missing rounds of those still in the race, earlier seeds first.

    Args:
        scores: the table that `standing` was computed from.
        standing: what `race` said.
        count: how many runs are wanted at once. More than one round ahead is fine: runs ahead may turn out
            unneeded, and never change a decision.
        max_rounds: as given to `race`.

    Returns:
        At most `count` pairs; none when the race is over.

    Example:

    >>> standing = race([[0.1, np.nan], [np.nan, np.nan]])
    >>> next_runs([[0.1, np.nan], [np.nan, np.nan]], standing, count=3)
    [(1, 0), (0, 1), (1, 1)]
    """
    table = score_table("next_runs(scores)", scores)
    if standing.verdict is not None:
        return []
    # By number, not by rank: what is run next must not depend on who leads by a hair.
    active = sorted(standing.winning_set)
    runs: list[tuple[int, int]] = []
    # Seed by seed: a round counts only when everybody has run it.
    for seed in range(standing.rounds, max_rounds):
        for contender in active:
            if seed >= table.shape[1] or np.isnan(table[contender, seed]):
                runs.append((contender, seed))
                if len(runs) == count:
                    return runs
    return runs


class _Track:
    """The race while it is replayed."""

    def __init__(self, table: np.ndarray, level: float):
        k = table.shape[0]
        self.table = table
        self.level = level
        self.rounds = 0
        self.active = np.ones(k, dtype=bool)
        self.dropped_after: list[int | None] = [None] * k
        self.dropped_by: list[int | None] = [None] * k

    def look_possible(self, max_rounds: int) -> bool:
        """Whether everybody in the race has run the next seed."""
        n = self.rounds
        return n < min(max_rounds, self.table.shape[1]) and not np.isnan(self.table[self.active, n]).any()

    def look(self) -> None:
        """Goes one round further and drops who cannot win any more."""
        self.rounds += 1
        diverged = np.isinf(self.table[:, : self.rounds]).any(axis=1)
        clean = self.active & ~diverged
        if clean.any() and (self.active & diverged).any():
            # The clean one with the lowest mean stands for all of them in `dropped_by`.
            stand_in = int(np.flatnonzero(clean)[self.table[clean, : self.rounds].mean(axis=1).argmin()])
            for contender in np.flatnonzero(self.active & diverged):
                self._drop(int(contender), stand_in)
        if self.rounds < MIN_ROUNDS:
            return
        ids, t = self._statistics()
        p_values = special.stdtr(self.rounds - 1, -t)  # [i, j]: small when i is clearly worse than j
        for row in np.flatnonzero((p_values < self.level).any(axis=1)):
            self._drop(int(ids[row]), int(ids[p_values[row].argmin()]))

    def _drop(self, contender: int, by: int) -> None:
        self.active[contender] = False
        self.dropped_after[contender] = self.rounds
        self.dropped_by[contender] = by

    def _rows(self) -> tuple[np.ndarray, np.ndarray]:
        """Numbers of the active contenders, and their finite losses so far, shape (active, rounds)."""
        ids = np.flatnonzero(self.active)
        x = self.table[ids, : self.rounds]
        finite = x[np.isfinite(x)]
        # Worse than every finite loss, and by a distance that the data know: infinity would make every t-statistic NaN.
        worst = 2 * finite.max() - finite.min() if finite.size else 0.0
        return ids, np.where(np.isinf(x), worst, x)

    def _statistics(self) -> tuple[np.ndarray, np.ndarray]:
        """Active contenders and t[i, j] of their paired differences; +inf where i is worse by the same each time."""
        ids, x = self._rows()
        # Paired: runs with the same seed share data order and draws, and what they share cancels.
        d = x[:, None, :] - x[None, :, :]
        mean, deviation = d.mean(axis=2), d.std(axis=2, ddof=1)
        # Rounding alone leaves a deviation of about 1e-17 for equal differences; it is no noise.
        deviation[deviation <= 1e-12 * np.abs(mean)] = 0.0
        t = np.zeros_like(mean)
        np.divide(mean * np.sqrt(self.rounds), deviation, out=t, where=deviation > 0)
        t[(deviation == 0) & (mean > 0)] = np.inf
        t[(deviation == 0) & (mean < 0)] = -np.inf
        return ids, t

    def verdict(self, max_rounds: int, futility: float) -> Verdict | None:
        """Whether the race is over."""
        if self.active.sum() == 1:
            return Verdict.ONE_LEFT
        if self.rounds == max_rounds:
            return Verdict.OUT_OF_ROUNDS
        if futility > 0 and self.rounds >= MIN_ROUNDS + 2 and self._chance_of_a_drop(max_rounds) < futility:
            return Verdict.CANNOT_BE_TOLD_APART
        return None

    def _chance_of_a_drop(self, max_rounds: int) -> float:
        """Of the most likely pair: predictive law of its t at the last round N, the deviation taken as known,

        t_N | t_n ~ N(t_n sqrt(N / n) (n + (N - n) b) / N, (N - n) / N + b (N - n)^2 / (n N)).

        b is the share of the differences that is no noise. The most likely pair is the extreme one of many, so with
        b = 1, a flat prior, equal contenders would be believed far apart.
        """
        # The predictive law needs a share of signal: with a flat prior (share 1) equal contenders would be believed far
        # apart, since the extreme pair of many looks different by selection.
        n, last = self.rounds, max_rounds
        left = last - n
        share = self._most_signal()
        widest = float(self._statistics()[1].max())
        expected = widest * np.sqrt(last / n) * (n + left * share) / last
        deviation = np.sqrt(left / last + share * left**2 / (n * last))
        needed = -special.stdtrit(last - 1, self.level)
        return float(special.ndtr((expected - needed) / deviation))

    def _most_signal(self) -> float:
        """Upper limit of the share of true differences in the variance of the contenders' means, at 80 %.

        Source: the ratio of variances in a two-way layout (Searle, Casella and McCulloch 1992, section 3.6).
        """
        _, x = self._rows()
        k, n = x.shape
        means = x.mean(axis=1)
        rest = x - means[:, None] - x.mean(axis=0) + x.mean()
        noise = float((rest**2).sum() / ((k - 1) * (n - 1)))
        between = float(n * means.var(ddof=1))
        # All means equal: no signal at all, and the ratio below would divide by zero.
        if between <= 0:
            return 0.0
        limit = float(special.fdtri(k - 1, (k - 1) * (n - 1), _SIGNAL_ERROR))
        share: float = max(0.0, 1.0 - limit * noise / between)
        return share

    def in_order(self) -> tuple[int, ...]:
        """The active contenders, lowest mean loss first."""
        if self.rounds == 0:
            return tuple(int(i) for i in np.flatnonzero(self.active))
        ids, x = self._rows()
        return tuple(int(i) for i in ids[np.argsort(x.mean(axis=1), kind="stable")])

    def cheapest(self, winning_set: tuple[int, ...], costs: Sequence[float] | None) -> int:
        """The cheapest contender whose mean is within one standard error of the leader's, paired.

        Not the cheapest of the whole set: early in a race the set holds everybody, also the clearly worse.
        Source: the one-standard-error rule (Breiman et al. 1984, section 3.4.3).
        """
        leader = winning_set[0]
        # One round has no standard error, and so nobody is within it.
        if costs is None or self.rounds < 2:
            return leader
        ids, x = self._rows()
        row_of = {int(contender): row for row, contender in enumerate(ids)}
        within = [leader]
        for contender in winning_set[1:]:
            d = x[row_of[contender]] - x[row_of[leader]]
            if d.mean() <= d.std(ddof=1) / np.sqrt(d.size):
                within.append(contender)
        return min(within, key=lambda contender: costs[contender])


def _check_settings(
    num_contenders: int, confidence: float, max_rounds: int, futility: float, costs: Sequence[float] | None
) -> None:
    confidence_level("race", confidence)
    if confidence < 0.7:
        got, allowed = f"confidence={confidence!r}", "0.7 <= confidence < 1"
        raise UsageError(explain("race", got, allowed, "Below 0.7 the winning set says little; type 0.95."))
    whole_number("race(max_rounds)", max_rounds, allowed="an integer of 1 or more", instead="Type for instance 30.")
    if not 0 <= futility < 1:
        raise UsageError(explain("race(futility)", futility, "0 <= futility < 1", "Type 0 to use every round."))
    if costs is not None and (len(costs) != num_contenders or any(cost != cost for cost in costs)):
        got = f"{list(costs)} for {num_contenders} contenders"
        raise UsageError(explain("race(costs)", got, "one number per contender", "Leave it out to ignore costs."))


MIN_ROUNDS = 3  # at 2 rounds a t-statistic has one degree of freedom: one difference may fit the other by chance
_NUM_PATHS = 100_000
_CHUNK = 20_000
_RESERVE = 0.2  # share of the allowed error that is kept back: noise is not quite normal
_LARGEST_P = 0.3  # p-values above it are not told apart; it bounds the error that can be asked for


@functools.lru_cache(maxsize=16)
def _smallest_p_values(max_rounds: int) -> np.ndarray:
    """Sorted: the smallest one-sided p-value over all looks of a race between two equal contenders, per path."""
    # A fixed address in the seed tree: the level is a constant of the method, and must be the same in every process.
    rng = generator(0, "stats.boundary", max_rounds)
    # The t at which p = _LARGEST_P, per look: `stdtr` costs more than all the rest and is called beyond it only.
    looks = np.arange(MIN_ROUNDS, max_rounds + 1)
    t_start = -special.stdtrit(looks - 1, _LARGEST_P)
    chunks = []
    for _ in range(_NUM_PATHS // _CHUNK):
        smallest = np.ones((2, _CHUNK))  # for rejections upwards and downwards: two samples from each path
        # Running sums instead of all draws: what a chunk needs stays in the processor's cache.
        total, squares = np.zeros(_CHUNK), np.zeros(_CHUNK)
        for n in range(1, max_rounds + 1):
            draw = rng.standard_normal(_CHUNK)
            total += draw
            squares += draw * draw
            if n < MIN_ROUNDS:
                continue
            t = total / np.sqrt(n * (squares - total * total / n) / (n - 1))
            for row, signed in zip(smallest, (t, -t), strict=True):
                far = np.flatnonzero(signed > t_start[n - MIN_ROUNDS])
                row[far] = np.minimum(row[far], special.stdtr(n - 1, -signed[far]))
        chunks.append(smallest.ravel())
    return np.sort(np.concatenate(chunks))


def level_of_one_pair(error: float, max_rounds: int) -> float:
    """The nominal level at which two equal contenders part, one-sided, at any look with this probability.

    Example:

    >>> round(level_of_one_pair(0.05, 30), 3)
    0.007
    """
    # Beyond it the simulated p-values were never computed.
    assert 0 < error < _LARGEST_P, "the caller bounds the confidence"
    smallest = _smallest_p_values(max_rounds)
    return float(smallest[int(error * smallest.size)])


@functools.lru_cache(maxsize=256)
def nominal_level(num_contenders: int, confidence: float, max_rounds: int) -> float:
    """The p-value below which a paired one-sided t-test drops a contender, at any look of a race.

    With at least the stated confidence, the best of the contenders is dropped at no look. The best has
    `num_contenders` - 1 rivals, and none of them may seem better at any look. They are counted as if their
    comparisons were independent, (1 - alpha)^(1 / rivals) each; in truth they share the noise of the best. A fifth
    of alpha is kept in reserve. So the confidence is a little higher than stated: about 96 % for 95 %, whether 2
    contenders are equally good or 20.

    Args:
        num_contenders: contenders at the start of the race.
        confidence: for the whole race, between 0.7 and 1.
        max_rounds: looks at most; the level depends on it weakly.

    Returns:
        The nominal level; 0 when there is nothing to test (one contender, or fewer than 3 rounds).

    Example:

    >>> nominal_level(2, 0.95, 30) > nominal_level(8, 0.95, 30) > 0
    True
    """
    if num_contenders < 2 or max_rounds < MIN_ROUNDS:
        return 0.0
    # The reserve is for noise with heavier tails than the normal draws of the simulation.
    error = (1 - _RESERVE) * (1 - confidence)
    return level_of_one_pair(1 - (1 - error) ** (1 / (num_contenders - 1)), max_rounds)
