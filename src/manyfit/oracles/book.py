"""The book of trials: in memory for reading, in the store before anybody acts on it."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from manyfit.core import history as histories
from manyfit.core.lifecycle import TrialState, is_paused
from manyfit.core.objective import Objective
from manyfit.core.records import Ending, Observation, Plan, Progress, Result
from manyfit.oracles.trial import SEARCH, Execution, Trial
from manyfit.samplers.base import Constraint, broken
from manyfit.space.hyperparameters import HyperParameters
from manyfit.stats import pareto

Key = tuple[str, str, int, int]  # of an execution in the store: trial id, phase, attempt, index


class Store(Protocol):
    """What the book needs of a store; `manyfit.store.ProjectStore` is one."""

    def get(self, name: str, default: object = None) -> Any: ...
    def put(self, **facts: Any) -> None: ...
    def save_trials(self, rows: Iterable[Mapping[str, Any]], **facts: Any) -> None: ...
    def trials(self) -> list[dict[str, Any]]: ...
    def save_epochs(self, rows: Iterable[tuple[str, str, int, int, int, Mapping[str, float]]]) -> None: ...
    def save_execution(
        self, key: Key, outcome: Mapping[str, Any], *, history: Sequence[Mapping[str, float]] | None = None
    ) -> None: ...
    def executions(self) -> list[dict[str, Any]]: ...
    def epochs(self, trial_id: str | None = None) -> list[dict[str, Any]]: ...
    def forget_epochs(self, key: Key) -> None: ...
    def forget_executions(self, keys: Iterable[Key]) -> None: ...


class Ranking:
    """The order of completed trials.

    Trials that break a constraint come after all that keep them, those that break them least first (Deb 2000). With
    several objectives front comes after front, and within a front the leading objective decides.

    Args:
        objective: what is ranked.
        constraints: on metrics of the trials.
    """

    def __init__(self, objective: Objective, constraints: Sequence[Constraint] = ()) -> None:
        self.objective = objective
        self.constraints = tuple(constraints)

    def broken(self, trial: Trial) -> list[Constraint]:
        """The constraints that a trial breaks."""
        return [each for each in self.constraints if not each.holds(trial.measured)]

    def order(self, trials: Sequence[Trial]) -> list[Trial]:
        """The trials, best first; ties stay in the order given."""
        # Ranked several times per trial: means over executions only where a constraint asks for them (row E).
        excess = [broken(self.constraints, trial.measured) if self.constraints else 0.0 for trial in trials]
        fronts = self._fronts(trials)
        leading = [self.objective.loss(trial.score) for trial in trials]
        order = sorted(range(len(trials)), key=lambda i: (excess[i], fronts[i], leading[i]))
        return [trials[i] for i in order]

    def best(self, trials: Sequence[Trial]) -> list[Trial]:
        """The best trial, or with several objectives the whole front; trials that break constraints are not in it."""
        kept = [trial for trial in self.order(trials) if not self.broken(trial)]
        if len(self.objective.terms) < 2:
            return kept[:1]
        return [trial for trial, front in zip(kept, self._fronts(kept), strict=True) if front == 0]

    def notes(self, trial: Trial, front: Sequence[Trial]) -> list[str]:
        """Lines about a trial besides its score: its objectives where there are several, the constraints it breaks.

        Args:
            trial: a trial; nothing is said of one without a score.
            front: what `best` returned.
        """
        if trial.score is None:
            return []
        metrics, lines = trial.measured, []
        if len(self.objective.terms) > 1:
            values = ", ".join(f"{term.name} {metrics.get(term.name, math.nan):.5g}" for term in self.objective.terms)
            place = "nothing dominates it" if trial in front else "another trial dominates it"
            lines.append(f"Objectives: {values} ({place})")
        for each in self.broken(trial):
            lines.append(f"Breaks the constraint {each}: {metrics.get(each.metric, math.nan):.5g}")
        return lines

    def _fronts(self, trials: Sequence[Trial]) -> list[int]:
        """The front of each trial among those that keep the constraints; 0 for all with one objective."""
        if len(self.objective.terms) < 2 or not trials:
            return [0] * len(trials)
        losses = np.array(
            [[term.loss(trial.measured.get(term.name)) for term in self.objective.terms] for trial in trials]
        )
        # Infinite losses put a trial behind every front of those that keep the constraints.
        losses[[bool(self.broken(trial)) for trial in trials]] = math.inf
        return [int(front) for front in pareto.fronts(losses)]


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
        # The two above: samplers and schedulers read the whole history at every question. Deriving it anew each time
        # would be quadratic in the number of trials, so what has settled is kept until something about it changes.

    # Reading ---------------------------------------------------------------------------------------------------

    def own(self, trial: Trial) -> Trial:
        """The trial in the book that a copy stands for, with what the copy says."""
        known = self.trials.get(trial.trial_id, trial)
        if known is not trial:
            known.hyperparameters, known.status, known.message = trial.hyperparameters, trial.status, trial.message
        return known

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

    def paused(self) -> list[Trial]:
        """Trials that wait for a promotion, with executions that can go on."""
        return [trial for trial in self.trials.values() if trial.state is TrialState.PAUSED and trial.executions]

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
        # Not one list sorted by score: a confirmed score has lost the luck that the search's maximum has, so the two
        # cannot be compared, and the confirmed ones would nearly always come last.
        confirmed = [trial for trial in ranked if trial.confirmed is not None]
        confirmed.sort(key=lambda trial: trial.confirmed.rank)  # type: ignore[union-attr]
        others = [trial for trial in ranked if trial.confirmed is None]
        return (confirmed + others)[:num_trials]

    def front(self) -> list[Trial]:
        """The completed trials that keep the constraints and that none of these dominates, by the leading objective."""
        return self.ranking.best(self.completed())

    def kept(self, num_trials: int) -> list[Trial]:
        """The trials whose models are kept: the best so many, and with several objectives the whole front."""
        best = self.best(num_trials)
        return best + [trial for trial in self.front() if trial not in best]

    def by_search_score(self) -> list[Trial]:
        """Completed trials by what the search alone found of them."""
        return self.ranking.order(self.completed())

    def completed(self) -> list[Trial]:
        """Trials that have ended as ones that are ranked, in the order of their start."""
        return [trial for trial in self.trials.values() if trial.is_completed]

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
        # A retried or rescored trial ends more than once; the latest end is the one that consecutive failures count.
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

    def stop_paused(self, trial: Trial, max_epochs: int | None) -> list[Execution]:
        """Ends the paused executions of a trial that nobody will promote. Their epochs and scores so far stand.

        Args:
            trial: that waits for a promotion.
            max_epochs: of a full training.

        Returns:
            The executions.
        """
        paused = [run for run in trial.executions.values() if is_paused(run)]
        for run in paused:
            run.ending = Ending.STOPPED
            run.message = f"stopped after {run.num_epochs} of {max_epochs} epochs: not promoted"
            if self.store is not None:
                self.store.save_execution((trial.trial_id, SEARCH, trial.attempt, run.index), run.outcome())
        return paused

    def add_epochs(self, epochs: Sequence[tuple[Plan, int, Mapping[str, float]]]) -> None:
        """Commits one epoch of several executions as one transaction."""
        if self.store is not None:
            self.store.save_epochs([(*self._key(plan), epoch, logs) for plan, epoch, logs in epochs])
        for plan, epoch, logs in epochs:
            trial = self.trials.get(plan.trial_id)
            # Schedulers and samplers hear of the search only: fresh seeds of the confirmation must not steer it.
            if trial is not None and plan.phase == SEARCH:
                histories.append(trial.running.setdefault(plan.execution, {}), logs, epoch)

    def add_execution(self, result: Result, **notes: Any) -> Execution:
        """Commits the outcome of an execution.

        The curve of a running execution is the book's: reported epoch by epoch, and stored as it was reported. A result
        brings its own curve, which is the same unless its trainer reported nothing (then it is written now) or was lost
        (then what it had reported stands). The score is read off the curve here, so that no trainer can score
        otherwise.

        Args:
            result: what became of it; `result.plan.phase` says what it was run for.
            notes: further facts about it, kept in `Execution.notes`.
        """
        plan = result.plan
        # A measure (memory, seconds per prediction) is one number per execution. It stands at every epoch, so that the
        # best epoch has it, whichever that is; the stored history stays what was logged.
        measured: dict[str, list[float | None]] = {
            name: [value] * result.num_epochs for name, value in result.measures.items()
        }
        trial = self.trials[plan.trial_id]
        reported = trial.running.get(plan.execution) if plan.phase == SEARCH else None
        # Where the trainer was lost with its curve, what it had reported is what is known.
        own = result.history or dict(reported or {})
        history = {**own, **measured}
        scored = histories.score(history, self.objective) if result.ending.has_score else None
        execution = Execution(
            plan.execution,
            plan.seed,
            result.ending,
            own,
            seconds=result.seconds,
            message=result.message,
            num_parameters=result.num_parameters,
            notes={**result.notes, **notes},
            final=result.final,
        )
        if scored is not None:
            execution.score, execution.best_epoch = scored
            execution.metrics = histories.at_epoch(history, execution.best_epoch)
        if self.store is not None:
            # Epochs that were committed one by one are not written again: a population reports thousands.
            is_stored = not result.history or reported == result.history
            logs = None if is_stored else [histories.at_epoch(own, epoch) for epoch in range(execution.num_epochs)]
            self.store.save_execution(self._key(plan), execution.outcome(), history=logs)
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
            # Rows of failed attempts stay in the store as a record; only the latest attempt counts.
            if trial.attempt == key[2]:
                row["ending"] = Ending(row["ending"])
                row.pop("num_epochs", None)  # told by the history
                trial.executions_of(key[1])[key[3]] = Execution(index=key[3], history=history, **row)
        # What is left reported epochs and has no outcome: it was running when the process died, and runs again with its
        # own seed, so it will report the same epochs.
        for key in curves:
            self.store.forget_epochs(key)
        ended = [trial for trial in self.trials.values() if trial.ended_at is not None]
        self.ended = [trial.trial_id for trial in sorted(ended, key=lambda trial: trial.ended_at or 0.0)]
        self._observations.clear()
        self._progress.clear()
