"""The book of trials: in memory for reading, in the store before anybody acts on it."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

from manyfit.core import history as histories
from manyfit.core.objective import Objective
from manyfit.core.records import Ending, Observation, Plan, Progress, Result
from manyfit.oracles.trial import Execution, Trial, TrialStatus
from manyfit.space.hyperparameters import HyperParameters

class Store(Protocol):
    """What the book needs of a store; `manyfit.store.ProjectStore` is one."""

    def get(self, name: str, default: Any = None) -> Any: ...
    def put(self, **facts: Any) -> None: ...
    def save_trials(self, rows: Iterable[Mapping[str, Any]], **facts: Any) -> None: ...
    def trials(self) -> list[dict[str, Any]]: ...
    def save_epochs(self, rows: Iterable[tuple[str, int, int, int, Mapping[str, float]]]) -> None: ...
    def save_execution(
        self, trial_id: str, attempt: int, execution: int, outcome: Mapping[str, Any], *, history: Any = None
    ) -> None: ...
    def executions(self) -> list[dict[str, Any]]: ...
    def epochs(self, trial_id: str | None = None) -> list[dict[str, Any]]: ...
    def forget_epochs(self, trial_id: str, attempt: int, execution: int) -> None: ...


class TrialBook:
    """All trials of a search.

    Args:
        objective: what is ranked.
    """

    def __init__(self, objective: Objective) -> None:
        self.objective = objective
        self.store: Store | None = None
        self.trials: dict[str, Trial] = {}  # in the order of start
        self.ended: list[str] = []  # ids in the order of their end
        self._observations: dict[str, Observation] = {}

    # Reading ---------------------------------------------------------------------------------------------------

    def observations(self) -> list[Observation]:
        """What samplers may know: every trial that ended, in the order of start."""
        return [
            self._observations.get(trial_id) or self._observe(trial)
            for trial_id, trial in self.trials.items()
            if trial.status in (TrialStatus.COMPLETED, TrialStatus.FAILED)
        ]

    def _observe(self, trial: Trial) -> Observation:
        observation = trial.observation(self.objective)
        self._observations[trial.trial_id] = observation
        return observation

    def pending(self) -> list[dict[str, Any]]:
        """Values of the trials that were proposed and have not ended."""
        return [
            dict(trial.hyperparameters.values)
            for trial in self.trials.values()
            if trial.status not in (TrialStatus.COMPLETED, TrialStatus.FAILED)
        ]

    def progress(self) -> list[Progress]:
        """What schedulers may know: every trial that was started."""
        return [trial.progress(self.objective) for trial in self.trials.values()]

    def best(self, num_trials: int | None = None) -> list[Trial]:
        """Completed trials, best score first."""
        ranked = [trial for trial in self.trials.values() if trial.status == TrialStatus.COMPLETED]
        ranked.sort(key=lambda trial: self.objective.loss(trial.score))
        return ranked[:num_trials]

    # Writing: each method commits before it returns --------------------------------------------------------------

    def add(self, trials: Sequence[Trial], **facts: Any) -> None:
        """Commits trials that are about to run, new or again."""
        for trial in trials:
            trial.started_at = trial.started_at or time.time()
        self._save(trials, **facts)
        for trial in trials:
            self.trials[trial.trial_id] = trial
            self._observations.pop(trial.trial_id, None)

    def end(self, trial: Trial, **facts: Any) -> None:
        """Commits a trial's end, or the end of this attempt."""
        trial.ended_at = time.time()
        self._save([trial], **facts)
        self.trials[trial.trial_id] = trial
        if trial.trial_id in self.ended:
            self.ended.remove(trial.trial_id)
        self.ended.append(trial.trial_id)
        self._observations.pop(trial.trial_id, None)

    def _save(self, trials: Sequence[Trial], **facts: Any) -> None:
        if self.store is not None:
            self.store.save_trials([trial.row() for trial in trials], **facts)

    def add_epochs(self, epochs: Sequence[tuple[Plan, int, Mapping[str, float]]]) -> None:
        """Commits one epoch of several executions as one transaction."""
        if self.store is not None:
            self.store.save_epochs(
                [(plan.trial_id, self._attempt(plan), plan.execution, epoch, logs) for plan, epoch, logs in epochs]
            )
        for plan, epoch, logs in epochs:
            trial = self.trials.get(plan.trial_id)
            if trial is not None:
                histories.append(trial.running.setdefault(plan.execution, {}), logs, epoch)

    def add_execution(self, result: Result) -> Execution:
        """Commits the outcome of an execution."""
        plan = result.plan
        scored = histories.score(result.history, self.objective) if result.ending.has_score else None
        execution = Execution(
            plan.execution,
            plan.seed,
            result.ending,
            result.history,
            seconds=result.seconds,
            message=result.message,
            num_parameters=result.num_parameters,
        )
        if scored is not None:
            execution.score, execution.best_epoch = scored
            execution.metrics = histories.at_epoch(result.history, execution.best_epoch)
        trial = self.trials[plan.trial_id]
        if self.store is not None:
            logs = [histories.at_epoch(result.history, epoch) for epoch in range(execution.num_epochs)]
            reported = trial.running.get(plan.execution) == result.history
            self.store.save_execution(
                plan.trial_id,
                trial.attempt,
                plan.execution,
                execution.outcome(),
                history=None if reported else logs,
            )
        trial.running.pop(plan.execution, None)
        trial.executions[plan.execution] = execution
        return execution

    def _attempt(self, plan: Plan) -> int:
        trial = self.trials.get(plan.trial_id)
        return 0 if trial is None else trial.attempt

    # Opening -----------------------------------------------------------------------------------------------------

    def load(self, space: HyperParameters) -> None:
        """Reads everything from the store. Epochs of executions that did not finish are dropped: they run again."""
        assert self.store is not None  # our bug: only `Oracle.open` calls this
        self.trials = {row["id"]: Trial.from_row(row, space) for row in self.store.trials()}
        curves: dict[tuple[str, int, int], dict[str, list[float | None]]] = {}
        for row in self.store.epochs():
            key = (row["trial_id"], row["attempt"], row["execution"])
            histories.append(curves.setdefault(key, {}), row["logs"], row["epoch"])
        for row in self.store.executions():
            key = (row.pop("trial_id"), row.pop("attempt"), row.pop("execution"))
            trial, history = self.trials[key[0]], curves.pop(key, {})
            if trial.attempt == key[1]:
                row["ending"] = Ending(row["ending"])
                trial.executions[key[2]] = Execution(index=key[2], history=history, **row)
        for key in curves:
            self.store.forget_epochs(*key)
        ended = [trial for trial in self.trials.values() if trial.ended_at is not None]
        self.ended = [trial.trial_id for trial in sorted(ended, key=lambda trial: trial.ended_at or 0.0)]
        self._observations.clear()
