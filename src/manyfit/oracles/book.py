"""The book of trials: in memory for reading, in the store before anybody acts on it."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

from manyfit.core import history as histories
from manyfit.core.objective import Objective
from manyfit.core.records import Ending, Observation, Plan, Progress, Result
from manyfit.oracles.ranking import Ranking
from manyfit.oracles.trial import SEARCH, Execution, Trial
from manyfit.samplers.outcomes import Constraint
from manyfit.space.hyperparameters import HyperParameters

Key = tuple[str, str, int, int]  # of an execution in the store: trial id, phase, attempt, index


class Store(Protocol):
    """What the book needs of a store; `manyfit.store.ProjectStore` is one."""

    def get(self, name: str, default: Any = None) -> Any: ...
    def put(self, **facts: Any) -> None: ...
    def save_trials(self, rows: Iterable[Mapping[str, Any]], **facts: Any) -> None: ...
    def trials(self) -> list[dict[str, Any]]: ...
    def save_epochs(self, rows: Iterable[tuple[str, str, int, int, int, Mapping[str, float]]]) -> None: ...
    def save_execution(self, key: Key, outcome: Mapping[str, Any], *, history: Any = None) -> None: ...
    def executions(self) -> list[dict[str, Any]]: ...
    def epochs(self, trial_id: str | None = None) -> list[dict[str, Any]]: ...
    def forget_epochs(self, key: Key) -> None: ...
    def forget_executions(self, keys: Iterable[Key]) -> None: ...


class TrialBook:
    """All trials of a search.

    Args:
        objective: what is ranked.
        constraints: what trials have to keep besides.
    """

    def __init__(self, objective: Objective, constraints: Sequence[Constraint] = ()) -> None:
        self.objective = objective
        self.ranking = Ranking(objective, constraints)
        self.store: Store | None = None
        self.trials: dict[str, Trial] = {}  # in the order of start
        self.ended: list[str] = []  # ids in the order of their end
        self._observations: dict[str, Observation] = {}
        self._progress: dict[str, Progress] = {}

    # Reading ---------------------------------------------------------------------------------------------------

    def observations(self) -> list[Observation]:
        """What samplers may know: every trial that ended, in the order of start."""
        return [
            self._observations.get(trial_id) or self._observe(trial)
            for trial_id, trial in self.trials.items()
            if trial.has_ended
        ]

    def _observe(self, trial: Trial) -> Observation:
        observation = trial.observation(self.objective)
        self._observations[trial.trial_id] = observation
        return observation

    def pending(self) -> list[dict[str, Any]]:
        """Values of the trials that were proposed and have not ended."""
        return [trial.searched_values for trial in self.trials.values() if not trial.has_ended]

    def progress(self) -> list[Progress]:
        """What schedulers may know: every trial that was started."""
        for trial in self.trials.values():
            if trial.is_underway or trial.trial_id not in self._progress:
                self._progress[trial.trial_id] = trial.progress(self.objective)
        return [self._progress[trial_id] for trial_id in self.trials]

    def best(self, num_trials: int | None = None) -> list[Trial]:
        """Completed trials, best first: those that were confirmed on fresh seeds, then the others by search score.

        Trials that break a constraint are left out, unless all do: then those come that break it least.
        """
        ranked = self.by_search_score()
        ranked = [trial for trial in ranked if not self.ranking.broken(trial)] or ranked
        confirmed = [trial for trial in ranked if trial.confirmed is not None]
        confirmed.sort(key=lambda trial: trial.confirmed.rank)  # type: ignore[union-attr]
        others = [trial for trial in ranked if trial.confirmed is None]
        return (confirmed + others)[:num_trials]

    def front(self) -> list[Trial]:
        """The completed trials that keep the constraints and that none of these dominates, by the leading objective."""
        return self.ranking.best(self.by_search_score())

    def kept(self, num_trials: int) -> list[Trial]:
        """The trials whose models are kept: the best so many, and with several objectives the whole front."""
        best = self.best(num_trials)
        return best + [trial for trial in self.front() if trial not in best]

    def by_search_score(self) -> list[Trial]:
        """Completed trials by what the search alone found of them."""
        return self.ranking.order([trial for trial in self.trials.values() if trial.is_completed])

    # Writing: each method commits before it returns --------------------------------------------------------------

    def add(self, trials: Sequence[Trial], **facts: Any) -> None:
        """Commits trials that are about to run, new or again."""
        for trial in trials:
            trial.started_at = trial.started_at or time.time()
        self._save(trials, **facts)
        for trial in trials:
            self.trials[trial.trial_id] = trial
            self._forget(trial)

    def _forget(self, trial: Trial) -> None:
        """What was derived from the trial is derived anew."""
        self._observations.pop(trial.trial_id, None)
        self._progress.pop(trial.trial_id, None)

    def end(self, trial: Trial, **facts: Any) -> None:
        """Commits a trial's end, or the end of this attempt."""
        trial.ended_at = time.time()
        self._save([trial], **facts)
        self.trials[trial.trial_id] = trial
        if trial.trial_id in self.ended:
            self.ended.remove(trial.trial_id)
        self.ended.append(trial.trial_id)
        self._forget(trial)

    def pause(self, trial: Trial) -> None:
        """Commits that a trial waits for a promotion."""
        self._save([trial])
        self._forget(trial)

    def _save(self, trials: Sequence[Trial], **facts: Any) -> None:
        if self.store is not None:
            self.store.save_trials([trial.row() for trial in trials], **facts)

    def amend(self, trial: Trial, run: Execution) -> None:
        """Commits a change of an execution's outcome; its epochs stay."""
        if self.store is not None:
            self.store.save_execution((trial.trial_id, SEARCH, trial.attempt, run.index), run.outcome())

    def add_epochs(self, epochs: Sequence[tuple[Plan, int, Mapping[str, float]]]) -> None:
        """Commits one epoch of several executions as one transaction."""
        if self.store is not None:
            self.store.save_epochs([(*self._key(plan), epoch, logs) for plan, epoch, logs in epochs])
        for plan, epoch, logs in epochs:
            trial = self.trials.get(plan.trial_id)
            if trial is not None and plan.phase == SEARCH:  # schedulers and samplers hear of the search only
                histories.append(trial.running.setdefault(plan.execution, {}), logs, epoch)

    def add_execution(self, result: Result, **notes: Any) -> Execution:
        """Commits the outcome of an execution.

        Args:
            result: what became of it; `result.plan.phase` says what it was run for.
            notes: further facts about it, kept in `Execution.notes`.
        """
        plan = result.plan
        measured: dict[str, list[float | None]] = {
            name: [value] * result.num_epochs for name, value in result.measures.items()
        }
        history = {**result.history, **measured}
        scored = histories.score(history, self.objective) if result.ending.has_score else None
        execution = Execution(
            plan.execution,
            plan.seed,
            result.ending,
            result.history,
            seconds=result.seconds,
            message=result.message,
            num_parameters=result.num_parameters,
            notes=notes,
            final=result.final,
        )
        if scored is not None:
            execution.score, execution.best_epoch = scored
            execution.metrics = histories.at_epoch(history, execution.best_epoch)
        trial = self.trials[plan.trial_id]
        if self.store is not None:
            logs = [histories.at_epoch(result.history, epoch) for epoch in range(execution.num_epochs)]
            reported = plan.phase == SEARCH and trial.running.get(plan.execution) == result.history
            self.store.save_execution(self._key(plan), execution.outcome(), history=None if reported else logs)
        if plan.phase == SEARCH:
            trial.running.pop(plan.execution, None)
        trial.executions_of(plan.phase)[plan.execution] = execution
        return execution

    def forget_epochs(self, plan: Plan) -> None:
        """Drops what an execution reported that was broken off."""
        if self.store is not None:
            self.store.forget_epochs(self._key(plan))

    def forget_executions(self, trial: Trial, first: int = 0) -> None:
        """Drops the executions of the search that a trial has so far, because others take their place.

        Args:
            trial: whose executions.
            first: the index from which on they are dropped.
        """
        dropped = [index for index in trial.executions if index >= first]
        if self.store is not None and dropped:
            self.store.forget_executions([(trial.trial_id, SEARCH, trial.attempt, index) for index in dropped])
        for index in dropped:
            del trial.executions[index]
        trial.running.clear()

    def save(self, trials: Sequence[Trial], **facts: Any) -> None:
        """Commits what was noted on trials, and facts of the project, as one transaction."""
        self._save(trials, **facts)

    def _key(self, plan: Plan) -> Key:
        trial = self.trials.get(plan.trial_id)
        return plan.trial_id, plan.phase, 0 if trial is None else trial.attempt, plan.execution

    # Opening -----------------------------------------------------------------------------------------------------

    def load(self, space: HyperParameters) -> None:
        """Reads everything from the store. Epochs of executions that did not finish are dropped: they run again."""
        assert self.store is not None  # our bug: only `Oracle.open` calls this
        self.trials = {row["id"]: Trial.from_row(row, space) for row in self.store.trials()}
        curves: dict[Key, dict[str, list[float | None]]] = {}
        for row in self.store.epochs():
            key = (row["trial_id"], row["phase"], row["attempt"], row["execution"])
            histories.append(curves.setdefault(key, {}), row["logs"], row["epoch"])
        for row in self.store.executions():
            key = (row.pop("trial_id"), row.pop("phase"), row.pop("attempt"), row.pop("execution"))
            trial, history = self.trials[key[0]], curves.pop(key, {})
            if trial.attempt == key[2]:
                row["ending"] = Ending(row["ending"])
                row.pop("num_epochs", None)  # told by the history
                trial.executions_of(key[1])[key[3]] = Execution(index=key[3], history=history, **row)
        for key in curves:
            self.store.forget_epochs(key)
        ended = [trial for trial in self.trials.values() if trial.ended_at is not None]
        self.ended = [trial.trial_id for trial in sorted(ended, key=lambda trial: trial.ended_at or 0.0)]
        self._observations.clear()
        self._progress.clear()
