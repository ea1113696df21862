"""Who is worse, who is equal, and what cannot be told: one test, on fresh seeds and with the error of the rows.

The test of everything that is ever called settled: races of a confirmation, and replicates of a search. After every
round (one more fresh seed for everybody) each pair (i, k) is looked at: i is *worse* when a difference as large as
that of its runs has a chance below the rules' level between equals. Variances over seeds of few rounds are moderated:
they borrow degrees of freedom from those of the other pairs (Smyth 2004).

**Decisions are facts.** Who was found worse stays so, whatever is run later; a look is made once. What a later call
asks for is spent on those who are left.

A race ends with one of these words:

- *settled*: one is left.
- *equal*: all pairs that are left differ by less than the margin (two one-sided tests, Schuirmann 1987).
- *rows are the limit*: even with all seeds of the rules, the luck of the rows alone would hide such differences.
- *no more drops*: what is left of the rounds would most likely decide nothing (Lan, Simon and Halperin 1982). It is no
  finding, and saves seconds only.
- *out of rounds*: the rules allow no more.

Sources: races of pairs, Birattari et al. 2002 (F-race); repeated looks at one level, Pocock 1977; crossed variances and
their degrees of freedom, Satterthwaite 1946.
"""

from __future__ import annotations

import dataclasses
import enum
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy import special, stats

from manyfit.core.errors import UsageError, explain
from manyfit.evidence.rules import EQUAL_WITHIN, RaceRules
from manyfit.evidence.runs import Difference, Pairs, Runs
from manyfit.stats.racing import MIN_ROUNDS

_ROUNDS_BEFORE_GIVING_UP = MIN_ROUNDS + 2
_FUTILITY = 0.05  # stop when the chance that what is left of the rounds decides anything is below it
_SIGNAL_ERROR = 0.2  # with which the share of signal is below its upper limit; see `_most_signal`


class RaceEnd(enum.StrEnum):
    """Why a comparison is over."""

    SETTLED = "settled"
    EQUAL = "equal"
    ROWS_ARE_THE_LIMIT = "rows are the limit"
    NO_MORE_DROPS = "no more drops"
    OUT_OF_ROUNDS = "out of rounds"

    @property
    def is_a_finding(self) -> bool:
        """Whether something is known now that more seeds would not change."""
        return self in (RaceEnd.SETTLED, RaceEnd.EQUAL, RaceEnd.ROWS_ARE_THE_LIMIT)


@dataclasses.dataclass(frozen=True)
class DropDecision:
    """A fact: one contender was found worse than another."""

    contender: int
    rival: int
    round: int  # after so many rounds
    statistic: float  # the mean difference in standard errors; of failures: their number less the rival's
    p_value: float
    level: float  # below which p-values decide
    difference: float  # of losses, above 0; of failures: of their rates
    by: str  # "seeds and rows", "seeds and splits", "seeds" (rows unknown), "failures"

    def to_dict(self) -> dict[str, Any]:
        """As the store keeps it, without the two numbers of the contenders."""
        fields = dataclasses.asdict(self)
        return {name: value for name, value in fields.items() if name not in ("contender", "rival")}


@dataclasses.dataclass(frozen=True)
class RaceStanding:
    """Where a comparison stands. Contenders are the rows of the table."""

    winning_set: tuple[int, ...]  # who may still be the best, lowest mean loss first
    verdict: RaceEnd | None  # None: it goes on
    rounds: int  # that everybody who is left has run; later seeds took no part
    decisions: tuple[DropDecision, ...]  # all that hold, those that were known first
    rules: RaceRules

    @property
    def settled(self) -> bool:
        """Whether one is left."""
        return self.verdict is RaceEnd.SETTLED

    @property
    def dropped(self) -> dict[int, DropDecision]:
        """Who was found worse, and the decision that said so first."""
        found: dict[int, DropDecision] = {}
        for each in self.decisions:
            found.setdefault(each.contender, each)
        return found


def decide(
    runs: Runs, rules: RaceRules, *, known: Sequence[DropDecision] = (), seen: Mapping[int, int] | None = None
) -> RaceStanding:
    """Replays a comparison from its runs: a pure function, to be asked again whenever runs have come in.

    Looks are made round by round, whatever order or batches the runs came in. This is what `tuner.confirm` decides by.

    Args:
        runs: of those that are compared. A round counts when everybody who is left has run its seed.
        rules: fixed before the first run.
        known: decisions that were made before; they hold.
        seen: contender -> rounds up to which its pairs were looked at before; they are not looked at again.

    Raises:
        UsageError: more contenders than the rules allow for.

    Example:

    >>> rng = np.random.default_rng(0)
    >>> rows = rng.normal(size=(1, 1, 400)) + 0.3 * rng.normal(size=(3, 8, 400)) + np.array([0, 0, 0.2])[:, None, None]
    >>> standing = decide(Runs(rows.mean(axis=2), rows), RaceRules())
    >>> sorted(standing.winning_set), [(one.contender, one.by) for one in standing.decisions]
    ([0, 1], [(2, 'seeds and rows')])
    """
    if runs.num_contenders > rules.num_contenders:
        got = f"{runs.num_contenders} contenders under rules for {rules.num_contenders}"
        allowed = "as many as the rules allow for"
        raise UsageError(explain("decide", got, allowed, "Make rules with num_contenders= at least as large."))
    track = _Track(runs, rules, known, seen or {})
    verdict = RaceEnd.SETTLED if runs.num_contenders == 1 else None
    while verdict is None and track.look_possible():
        track.look()
        verdict = track.verdict()
    track.drop_known()
    if verdict is None and track.active.sum() == 1 and track.rounds >= MIN_ROUNDS:
        verdict = RaceEnd.SETTLED
    return RaceStanding(track.in_order(), verdict, track.rounds, tuple(track.decisions), rules)


def next_runs(runs: Runs, standing: RaceStanding, *, count: int) -> list[tuple[int, int]]:
    """The (contender, seed) pairs to run next: missing rounds of those who are left, earlier seeds first.

    Args:
        runs: that `standing` was decided from.
        standing: what `decide` said.
        count: how many are wanted at once. More than one round ahead is fine: runs ahead may turn out unneeded, and
            never change a decision.

    Returns:
        At most `count` pairs; none when the comparison is over.

    Example:

    >>> runs = Runs([[0.1, np.nan], [np.nan, np.nan]])
    >>> next_runs(runs, decide(runs, RaceRules(num_contenders=2)), count=3)
    [(1, 0), (0, 1), (1, 1)]
    """
    if standing.verdict is not None:
        return []
    # By number, not by rank: what is run next must not depend on who leads by a hair.
    active = sorted(standing.winning_set)
    found: list[tuple[int, int]] = []
    # Seed by seed: a round counts only when everybody has run it.
    for seed in range(standing.rounds, standing.rules.max_rounds):
        for contender in active:
            if seed >= runs.values.shape[1] or np.isnan(runs.values[contender, seed]):
                found.append((contender, seed))
                if len(found) == count:
                    return found
    return found


def compare(runs: Runs, one: int, other: int, *, rounds: int, among: Sequence[int] | None = None) -> Difference:
    """The losses of one contender less those of another over the first rounds.

    Args:
        runs: of all contenders.
        one: the first.
        other: the second; both have two common seeds or more.
        rounds: that both have run.
        among: whose pairs lend their variance; None: of all.
    """
    return _pairs(runs, range(runs.num_contenders) if among is None else among, rounds).difference(one, other)


def equal_within(rules: RaceRules, leaders_loss: float) -> float:
    """The margin within which two contenders are called equal."""
    return rules.margin if rules.margin is not None else EQUAL_WITHIN * abs(leaders_loss)


def _pairs(runs: Runs, ids: Sequence[int] | np.ndarray, rounds: int) -> Pairs:
    """All pairs, their variances moderated: all of them together know no more than K - 1 independent ones."""
    found = runs.pairs(np.asarray(ids), rounds)
    found.moderate((len(found.ids) - 1.0) * (rounds - 1.0))
    return found


class _Track:
    """A comparison while it is replayed."""

    def __init__(self, runs: Runs, rules: RaceRules, known: Sequence[DropDecision], seen: Mapping[int, int]) -> None:
        self.runs, self.rules, self.level = runs, rules, rules.level
        self.decisions = list(known)
        self.rounds = 0
        self._seen = seen
        # Those who were dropped take part up to then: what was decided before is replayed as it was.
        self._known = {each.contender: each for each in known}
        self.active = np.ones(runs.num_contenders, dtype=bool)
        self._pairs: Pairs | None = None

    def look_possible(self) -> bool:
        """Whether everybody who is left has run the next seed."""
        return self.rounds < min(self.rules.max_rounds, int(self.runs.has_run[self.active].min(initial=10**9)))

    def look(self) -> None:
        """Goes one round further and drops who is worse."""
        self.rounds += 1
        if self.rounds < MIN_ROUNDS or self.active.sum() < 2:
            return
        ids = np.flatnonzero(self.active)
        self._pairs = _pairs(self.runs, ids, self.rounds)
        for contender, decision in self._known.items():
            self.active[contender] &= decision.round > self.rounds
        p_values = np.where(self._pairs.num_seeds >= MIN_ROUNDS, self._pairs.p_values(), 1.0)
        seen = np.array([self._seen.get(int(one), 0) for one in ids])
        p_values[np.minimum(seen[:, None], seen[None, :]) >= self.rounds] = 1.0
        tried = [
            self._worse(int(one), ids, row) for one, row in zip(ids, p_values, strict=True) if one not in self._known
        ]
        found = [each for each in tried if each is not None]
        # Two can be worse than each other by different tests, failures and losses: somebody has to stay.
        found = found if len(found) < len(ids) else found[:-1]
        self.decisions += found
        self.active[[each.contender for each in found]] = False

    def drop_known(self) -> None:
        """Takes out who is known to be worse, also by runs that are no part of this table."""
        self.active[list(self._known)] = False

    def _worse(self, one: int, ids: np.ndarray, p_values: np.ndarray) -> DropDecision | None:
        """The strongest decision against a contender, if there is one."""
        found = []
        rival = int(ids[p_values.argmin()])
        if p_values.min() < self.level:
            pair = self._difference(one, rival)
            by = "seeds and splits" if pair.overlap is not None else "seeds" if pair.num_rows is None else ""
            by = by or "seeds and rows"
            found.append(self._decision(one, rival, pair.statistic, float(p_values.min()), pair.mean, by))
        if self.runs.failed[one, : self.rounds].any():
            found += self._fails_more(one, ids)
        return min(found, key=lambda each: each.p_value, default=None)

    def _fails_more(self, one: int, ids: np.ndarray) -> list[DropDecision]:
        """One diverged run among good ones is no reason; a rate that is worse by the same level is."""
        failed = self.runs.failed[:, : self.rounds].sum(axis=1)
        rival = int(ids[failed[ids].argmin()])
        mine, theirs = int(failed[one]), int(failed[rival])
        if mine <= theirs or self.rounds <= min(self._seen.get(one, 0), self._seen.get(rival, 0)):
            return []
        table = [[mine, self.rounds - mine], [theirs, self.rounds - theirs]]
        p_value = float(stats.fisher_exact(table, alternative="greater").pvalue)
        difference = (mine - theirs) / self.rounds
        found = self._decision(one, rival, float(mine - theirs), p_value, difference, "failures")
        return [found] if p_value < self.level else []

    def _decision(self, one: int, rival: int, t: float, p_value: float, difference: float, by: str) -> DropDecision:
        return DropDecision(one, rival, self.rounds, t, p_value, self.level, difference, by)

    def _difference(self, one: int, other: int) -> Difference:
        assert self._pairs is not None  # our bug: asked before the first look
        return self._pairs.difference(one, other)

    # How it ends ---------------------------------------------------------------------------------------------------

    def verdict(self) -> RaceEnd | None:
        """Whether it is over."""
        if self.active.sum() == 1:
            return RaceEnd.SETTLED if self.rounds >= MIN_ROUNDS else None
        if self.rounds >= MIN_ROUNDS and self._all_equal():
            return RaceEnd.EQUAL
        if self.rounds >= _ROUNDS_BEFORE_GIVING_UP:
            if self._rows_hide_all():
                return RaceEnd.ROWS_ARE_THE_LIMIT
            if self.rounds < self.rules.max_rounds and self._chance_of_a_drop() < _FUTILITY:
                return RaceEnd.NO_MORE_DROPS
        return RaceEnd.OUT_OF_ROUNDS if self.rounds == self.rules.max_rounds else None

    def _left(self) -> list[Difference] | None:
        """The pairs that are left; None where one of them has too few common seeds to say anything."""
        if self._pairs is None:
            return None
        ids = [int(k) for k in np.flatnonzero(self.active)]
        found = [self._difference(one, other) for one, other in itertools.combinations(ids, 2)]
        return found if all(each.num_seeds >= MIN_ROUNDS for each in found) else None

    def _all_equal(self) -> bool:
        left = self._left()
        if left is None:
            return False
        leader = self.runs.values[self.in_order()[0], : self.rounds]
        margin = equal_within(self.rules, float(leader[np.isfinite(leader)].mean()))
        level = self.rules.level_of_equality
        # What is exactly the same in every run is equal, whatever the margin is.
        return all(
            abs(each.mean) + each.reach(level) < margin or (each.mean == 0 and each.variance == 0) for each in left
        )

    def _rows_hide_all(self) -> bool:
        """Whether no pair that is left could be told apart by all rounds, if it were for the rows alone."""
        left = self._left()
        if left is None or any(each.rows_variance is None for each in left):
            return False
        return all(each.hidden_by_rows(self.level, self.rules.max_rounds) for each in left)

    def _chance_of_a_drop(self) -> float:
        """The chance that the likeliest pair is told apart in the last round N, the variances taken as known.

        The mean of N seeds, given that of n, is normal around mean (n + (N - n) b) / N, with variance
        S^2 ((N - n) / N^2 + b (N - n)^2 / (n N^2)). b is the share of the differences that is no noise: with b = 1,
        a flat prior, equal contenders would be believed far apart, since the extreme pair of many looks different by
        selection (the predictive law of Spiegelhalter, Freedman and Blackburn 1986).
        """
        left = self._left()
        if left is None:
            return 1.0
        share, last = self._most_signal(), self.rules.max_rounds
        chances = [0.0]
        for each in left:
            n = each.num_seeds
            to_come = max(0, last - self.rounds)
            end = n + to_come
            needed = -special.stdtrit(last - 1, self.level) * np.sqrt(each.variance_after(end))
            expected = abs(each.mean) * (n + to_come * share) / end
            spread = np.sqrt(each.seeds_variance * (to_come + share * to_come**2 / n)) / end
            if spread > 0:
                chances.append(float(special.ndtr((expected - needed) / spread)))
            elif expected > needed > 0:
                chances.append(1.0)
        return max(chances)

    def _most_signal(self) -> float:
        """Upper limit of the share of true differences in the variance of the contenders' means, at 80 %.

        Source: the ratio of variances in a two-way layout (Searle, Casella and McCulloch 1992, section 3.6).
        """
        x = self.runs.values[self.active, : self.rounds]
        x = x[:, np.isfinite(x).all(axis=0)]
        k, n = x.shape
        if n < 2:
            return 1.0
        means = x.mean(axis=1)
        rest = x - means[:, None] - x.mean(axis=0) + x.mean()
        noise = float((rest**2).sum() / ((k - 1) * (n - 1)))
        between = float(n * means.var(ddof=1))
        # All means equal: no signal at all, and the ratio below would divide by zero.
        if between <= 0:
            return 0.0
        limit = float(special.fdtri(k - 1, (k - 1) * (n - 1), _SIGNAL_ERROR))
        return max(0.0, 1.0 - limit * noise / between)

    def in_order(self) -> tuple[int, ...]:
        """Who is left, lowest mean loss first."""
        ids = np.flatnonzero(self.active)
        x = self.runs.values[ids, : self.rounds]
        finite = np.isfinite(x)
        sums = np.where(finite, x, 0.0).sum(axis=1)
        counts = finite.sum(axis=1)
        means = np.where(counts > 0, sums / np.maximum(counts, 1), np.inf)
        return tuple(int(i) for i in ids[np.argsort(means, kind="stable")])
