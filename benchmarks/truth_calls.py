"""Confirmations that are called again and again, with other numbers, and killed in the middle: do they ever disagree?

One sequence is up to five calls on one search, each with its own `top` and `max_rounds`, about half of them killed
after some executions. What a project keeps of them, and in what order, is what `finish/fresh_seeds.py` does, with
arrays instead of a trainer: `EvidenceBook`, `decide`, `next_runs` and `estimates` are the ones that are called there.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from simulated_searches import Cell, SimulatedSearch
from truth_measures import Share
from truth_procedures import FreshRuns, estimated, known

from manyfit.evidence.book import EvidenceBook, RaceFamily, TrialDropped
from manyfit.evidence.decisions import RaceStanding, decide, next_runs
from manyfit.evidence.rules import RaceRules
from manyfit.evidence.runs import Runs

MOST_CALLS, MOST_TOP, MOST_ROUNDS = 5, 10, 30
_AHEAD = 3  # rounds that are run before it is looked at again


@dataclasses.dataclass(frozen=True)
class Call:
    """What a user types."""

    top: int
    max_rounds: int
    killed_after: int | None  # executions; None: it ends by itself


@dataclasses.dataclass(frozen=True)
class Saying:
    """What a call leaves behind."""

    worse: dict[int, int]  # trial -> the one that it was found worse than, under whatever family
    winners: frozenset[int]  # who may still be the best
    contenders: frozenset[int]
    num_runs: dict[int, int]  # behind each estimate
    ends: dict[int, tuple[float, float]]


class Project:
    """A search, and all that its confirmations have run and found.

    Args:
        search: with its rows.
    """

    def __init__(self, search: SimulatedSearch) -> None:
        self.search = search
        self.runs = FreshRuns(search, MOST_TOP)
        self.book = EvidenceBook()
        self._num_run: dict[int, int] = {}  # fresh runs of a finalist, by its place; without gaps

    def call(self, call: Call) -> Saying:
        """One `tuner.confirm(...)`."""
        ids = [str(place) for place in range(min(call.top, len(self.runs.finalists)))]
        epochs = dict.fromkeys(ids, 0)
        family = self.book.family_for("", ids, RaceRules(max_rounds=call.max_rounds), epochs=epochs, first_seed=0)
        if family is not None:
            self.book.families.append(family)
            ids = list(dict.fromkeys([*ids, *family.trial_ids]))
        left = np.inf if call.killed_after is None else call.killed_after
        while left > 0:
            wanted = [pair for one in self.book.families for pair in self._wanted(one, ids, call.max_rounds)]
            if not wanted:
                break
            for place, seed in list(dict.fromkeys(wanted))[: None if left == np.inf else int(left)]:
                self._num_run[place] = max(self._num_run.get(place, 0), seed + 1)
                left -= 1
        for one in self.book.families:
            self._standing(one, ids)
        return self._saying()

    def _wanted(self, family: RaceFamily, ids: Sequence[str], max_rounds: int) -> list[tuple[int, int]]:
        found = self._standing(family, ids)
        if found is None:
            return []
        taking_part, table, standing = found
        horizon = min(max_rounds, standing.rounds + _AHEAD)
        pairs = next_runs(table, standing, count=_AHEAD * len(standing.winning_set))
        return [(int(taking_part[one]), seed) for one, seed in pairs if seed < horizon]

    def _standing(self, family: RaceFamily, ids: Sequence[str]) -> tuple[list[str], Runs, RaceStanding] | None:
        """Where a family stands; decisions are committed by asking."""
        dropped = self.book.dropped("")
        part = {one for one in family.trial_ids if one in ids and one not in dropped}
        losers = family.decisions.values()
        while more := [one.trial_id for one in losers if one.trial_id not in part and one.rival in part]:
            part.update(more)
        taking_part = [one for one in family.trial_ids if one in part]
        if not taking_part or (len(taking_part) < 2 and len(family.trial_ids) > 1):
            return None
        table = self._table(taking_part)
        before = [one for each in family.decisions.values() if (one := each.among(taking_part)) is not None]
        seen = {number: family.looks.get(one, 0) for number, one in enumerate(taking_part)}
        standing = decide(table, family.rules, known=before, seen=seen)
        for one in standing.decisions:
            if one not in before:
                family.decisions.setdefault(taking_part[one.contender], TrialDropped.of(one, taking_part))
        for number in standing.winning_set:
            family.looks[taking_part[number]] = max(seen[number], standing.rounds)
        return taking_part, table, standing

    def _table(self, ids: Sequence[str]) -> Runs:
        counts = [self._num_run.get(int(one), 0) for one in ids]
        num_rows = self.search.cell.num_rows
        rows = np.full((len(ids), max([1, *counts]), num_rows), np.nan, np.float32)
        for table, one, count in zip(rows, ids, counts, strict=True):
            if count:
                table[:count] = self.runs.of(int(one), count)
        return Runs(rows.mean(axis=2, dtype=float), rows)

    def _saying(self) -> Saying:
        contenders = [int(one) for one in self.book.contenders("")]
        fresh = [self.runs.of(one, self._num_run.get(one, 0)) if self._num_run.get(one) else None for one in contenders]
        empty = np.empty((0, self.search.cell.num_rows), np.float32)
        tables = [empty if one is None else one for one in fresh]
        found = estimated(self.search, self.runs.finalists[contenders], tables)
        intervals = [known(one.interval()) for one in found.finalists]
        return Saying(
            {int(one): int(why.rival) for one, why in self.book.dropped("").items()},
            frozenset(int(one) for one in self.book.winners("")),
            frozenset(contenders),
            {one: each.num_runs for one, each in zip(contenders, found.finalists, strict=True)},
            {one: (each.low, each.high) for one, each in zip(contenders, intervals, strict=True)},
        )


def contradictions(earlier: Saying, later: Saying) -> list[str]:
    """What a later call takes back of what an earlier one said."""
    found = []
    if any(later.worse.get(one) != rival for one, rival in earlier.worse.items()):
        found.append("a decision is gone, or another")
    if not later.winners & earlier.contenders <= earlier.winners:
        found.append("somebody who was found worse may be the best again")
    if later.contenders == earlier.contenders and len(earlier.winners) == 1 and later.winners != earlier.winners:
        found.append("another winner")
    if any(later.num_runs.get(one, 0) < count for one, count in earlier.num_runs.items()):
        found.append("an estimate rests on fewer runs")
    if not all(np.isfinite(ends).all() for ends in later.ends.values()):
        found.append("an infinite interval")
    return found


@dataclasses.dataclass(frozen=True)
class Sequences:
    """What many sequences of calls came to."""

    calls: int
    contradictions: int  # pairs of calls, the earlier and any later one, of all sequences
    wrong: Share  # sequences in which any trial was called worse that was not
    interrupted: Share  # killed calls that, called again, decide other than without the kill
    which: tuple[str, ...]


def random_call(rng: np.random.Generator) -> Call:
    """Any numbers that a user may type."""
    killed = int(rng.integers(0, 60)) if rng.random() < 0.5 else None
    return Call(int(rng.integers(1, MOST_TOP + 1)), int(rng.choice([2, 5, 10, 20, MOST_ROUNDS])), killed)


def sequences(cell: Cell, replications: int, seed: int) -> Sequences:
    """Plays random sequences of calls."""
    wrong, other, compared, num_calls = 0, 0, 0, 0
    which: list[str] = []
    for number in range(replications):
        rng = np.random.default_rng([seed, number])
        search = SimulatedSearch(cell, rng)
        project, said = Project(search), []
        for _ in range(int(rng.integers(2, MOST_CALLS + 1))):
            said.append(project.call(random_call(rng)))
            which += [each for earlier in said[:-1] for each in contradictions(earlier, said[-1])]
        num_calls += len(said)
        truths = search.truths[project.runs.finalists]
        wrong += any(truths[one] <= truths[rival] for one, rival in said[-1].worse.items())
        compared += 1
        other += interrupted_differs(search, rng)
    return Sequences(
        num_calls, len(which), Share(wrong, replications), Share(other, compared), tuple(sorted(set(which)))
    )


def interrupted_differs(search: SimulatedSearch, rng: np.random.Generator) -> bool:
    """Whether a call that was killed and made again finds other than one that ran through."""
    call = Call(int(rng.integers(2, 9)), 20, None)
    through, killed = Project(search), Project(search)
    killed.call(dataclasses.replace(call, killed_after=int(rng.integers(1, 40))))
    one, other = through.call(call), killed.call(call)
    return one.worse != other.worse or one.winners != other.winners
