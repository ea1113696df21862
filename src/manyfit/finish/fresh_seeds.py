"""Runs on fresh seeds: what is asked for next.

Every finished execution goes into the book before anything is concluded from it, and every decision before anybody acts
on it. So a confirmation that was killed goes on where it was.
"""

from __future__ import annotations

import abc
from collections.abc import Mapping, Sequence
from typing import Any

from manyfit.core import seeds
from manyfit.core.clock import Clock
from manyfit.core.records import Decision, Ending, Plan, Result
from manyfit.evidence.book import RaceFamily, TrialDropped
from manyfit.evidence.decisions import RaceStanding, decide, next_runs
from manyfit.finish.fold_runs import EPOCHS, FOLD, seed_of_fold
from manyfit.finish.fresh_runs import PROOF, RACE, FreshRuns
from manyfit.finish.longer import run_seconds
from manyfit.oracles import Trial
from manyfit.stats.racing import MIN_ROUNDS
from manyfit.store.layout import ProjectLayout

#: Runs that may be ahead of the race: a population needs work for all its members, a single trainer never asks for it.
_RUNS_AHEAD = 8


class FreshSeeds(abc.ABC):
    """A supply of executions of finalists on fresh seeds; results go into the book.

    Args:
        trials: that may be run.
        runs: what was measured of them.
        clock: when to stop.
        epochs: train up to here; None: as the fit arguments say.
        layout: says where weights go.
        keep_weights: keep them all; those of the first run on each fold are kept anyway, since a bag takes them.
    """

    phase: str
    independent = False  # what is run next depends on results
    remaining: int | None = None  # nobody knows before the race is over

    def __init__(
        self,
        trials: Sequence[Trial],
        runs: FreshRuns,
        *,
        clock: Clock,
        epochs: int | None = None,
        layout: ProjectLayout,
        keep_weights: bool = False,
    ) -> None:
        self.trials = list(trials)
        self.runs = runs
        self.out_of_time = False
        self._oracle = runs.oracle
        self._clock = clock
        self._epochs = epochs
        self._layout, self._keep_weights = layout, keep_weights
        self._running: set[tuple[str, int]] = set()
        self._by_id = {trial.trial_id: trial for trial in self.trials}

    @abc.abstractmethod
    def wanted(self, count: int) -> Sequence[tuple[str, int]]:
        """Up to `count` pairs (trial id, index of the execution) to run next."""

    @property
    def num_executions(self) -> int:
        """Executions so far, those of an earlier, interrupted call included."""
        return sum(len(self.runs.executions(trial, self.phase)) for trial in self.trials)

    def take(self, count: int) -> Sequence[Plan]:
        """See `manyfit.training.base.Supply`."""
        if self._time_is_up():
            return []
        # More is asked for than is wanted, because what runs already is among the answers.
        wanted = [pair for pair in self.wanted(count + len(self._running)) if pair not in self._running][:count]
        # A run that is cut off is none, so it is begun only where all of it fits.
        seconds = [run_seconds(self._by_id[trial_id], self._epochs) for trial_id, _ in wanted]
        pairs = [pair for pair, needed in zip(wanted, seconds, strict=True) if self._clock.allows(needed)]
        if wanted and not pairs:
            self._clock.refuse(min(seconds))
            self.out_of_time = True
        self._running.update(pairs)
        return [self._plan(self._by_id[trial_id], index) for trial_id, index in pairs]

    def _plan(self, trial: Trial, index: int) -> Plan:
        fold = self._fold(index)
        path = str(self._layout.weights(trial.trial_id, index, phase=self.phase))
        # The same for all trials: they are compared in pairs.
        seed = seeds.seed_of(self._oracle.seed, self.phase, index) if fold is None else seed_of_fold(self._oracle, fold)
        return Plan(
            trial.trial_id,
            index,
            trial.hyperparameters.copy(),
            seed,
            epochs=self._epochs,
            weights_path=path if self._keep_weights or fold is not None else None,
            phase=self.phase,
            kept_epoch=self.runs.evidence.epoch_of(self.runs.protocol, trial.trial_id),
        )

    def _fold(self, index: int) -> int | None:
        """The number of the fold whose first run this is; None: there are none, or it is a further one."""
        folds = self.runs.folds
        if folds is None or self.phase != RACE:
            return None
        number = index - self.runs.evidence.of(self.runs.protocol)[0].first_seed
        return number if number < len(folds.names) else None

    def report(self, epochs: Sequence[tuple[Plan, int, Mapping[str, float]]]) -> Sequence[Decision]:
        """See `manyfit.training.base.Supply`."""
        self._oracle.book.add_epochs(epochs)
        # Not `_time_is_up`: where there is no time for a further run, those that train may still have enough.
        return [Decision.STOP if self._clock.is_over() else Decision.GO_ON] * len(epochs)

    def finish(self, result: Result) -> None:
        """See `manyfit.training.base.Supply`."""
        plan = result.plan
        self._running.discard((plan.trial_id, plan.execution))
        # A curve that the clock cut off is no run of the protocol: kept, it would pull its trial's mean down.
        if result.ending is Ending.STOPPED and self._time_is_up():
            self._oracle.book.forget_epochs(plan)  # broken off: it says nothing about a full training
            return
        if result.ending.has_score:
            self._oracle.scoring.check({**result.history, **result.measures})
        fold, folds = self._fold(plan.execution), self.runs.folds
        notes = {} if fold is None or folds is None else {FOLD: folds.names[fold], EPOCHS: plan.epochs}
        self._oracle.book.add_execution(result, protocol=self.runs.protocol, **notes)

    def _time_is_up(self) -> bool:
        self.out_of_time = self.out_of_time or self._clock.begins_nothing()
        return self.out_of_time


class RaceSupply(FreshSeeds):
    """Hands out what the comparisons need next, and commits what they decide.

    Args:
        trials: that take part in this call.
        runs: what was measured of them.
        max_executions: at most, those of earlier calls included; None: no limit.
        max_rounds: that this call may go up to.
        **options: see `FreshSeeds`.
    """

    phase = RACE

    def __init__(
        self, trials: Sequence[Trial], runs: FreshRuns, *, max_executions: int | None, max_rounds: int, **options: Any
    ) -> None:
        super().__init__(trials, runs, **options)
        self._max_executions, self._max_rounds = max_executions, max_rounds
        self._standings: tuple[int, list[tuple[RaceFamily, list[str], RaceStanding]]] | None = None

    def standings(self) -> list[tuple[RaceFamily, list[str], RaceStanding]]:
        """Where each family stands, of those in which two or more take part; decisions are committed by asking."""
        if self._standings is None or self._standings[0] != self.num_executions:
            found = [self._standing(family) for family in self.runs.evidence.of(self.runs.protocol)]
            self._standings = self.num_executions, [each for each in found if each is not None]
        return self._standings[1]

    def _standing(self, family: RaceFamily) -> tuple[RaceFamily, list[str], RaceStanding] | None:
        ids = self._taking_part(family)
        if len(ids) < 2 and len(family.trial_ids) > 1:
            return None
        table = self.runs.table([self._oracle.trials[trial_id] for trial_id in ids], family.first_seed)
        known = [one for each in family.decisions.values() if (one := each.among(ids)) is not None]
        seen = {place: family.looks.get(trial_id, 0) for place, trial_id in enumerate(ids)}
        standing = decide(table, family.rules, known=known, seen=seen)
        new = [TrialDropped.of(one, ids) for one in standing.decisions if one not in known]
        looks = {ids[place]: max(seen[place], standing.rounds) for place in standing.winning_set}
        if new or any(family.looks.get(trial_id) != looked for trial_id, looked in looks.items()):
            family.looks |= looks
            self._oracle.book.add_evidence(family, new)
        return family, ids, standing

    def _taking_part(self, family: RaceFamily) -> list[str]:
        """Who is in this call and was not found worse, and those who were, by any of these: they are replayed."""
        dropped = self.runs.evidence.dropped(self.runs.protocol)
        ids = {one for one in family.trial_ids if one in self._by_id and one not in dropped}
        while more := [
            each.trial_id for each in family.decisions.values() if each.trial_id not in ids and each.rival in ids
        ]:
            ids.update(more)
        return [trial_id for trial_id in family.trial_ids if trial_id in ids]

    def wanted(self, count: int) -> Sequence[tuple[str, int]]:
        """See `FreshSeeds`. After the first rounds, in which nobody can be dropped, it stays close to the last look."""
        left = None if self._max_executions is None else max(0, self._max_executions - self.num_executions)
        found: dict[tuple[str, int], None] = {}
        for family, ids, standing in self.standings():
            table = self.runs.table([self._oracle.trials[trial_id] for trial_id in ids], family.first_seed)
            ahead = max(1, _RUNS_AHEAD // len(standing.winning_set))
            horizon = min(self._max_rounds, max(MIN_ROUNDS, standing.rounds + ahead))
            pairs = next_runs(table, standing, count=count)
            found |= {(ids[one], family.first_seed + seed): None for one, seed in pairs if seed < horizon}
        return list(found)[:left][:count]


class ProofSupply(FreshSeeds):
    """Runs one trial on further seeds, so that its own estimate becomes sharper.

    Args:
        trial: the recommended one.
        runs: what was measured of it.
        num_executions: on so many seeds.
        **options: see `FreshSeeds`.
    """

    phase = PROOF

    def __init__(self, trial: Trial, runs: FreshRuns, *, num_executions: int, **options: Any) -> None:
        super().__init__([trial], runs, **options)
        self._num_wanted = num_executions
        self._first = runs.evidence.of(runs.protocol)[0].first_seed

    def wanted(self, count: int) -> Sequence[tuple[str, int]]:
        """See `FreshSeeds`."""
        [trial] = self.trials
        known = self.runs.executions(trial, PROOF)
        indices = range(self._first, self._first + self._num_wanted)
        return [(trial.trial_id, index) for index in indices if index not in known][:count]
