"""The book of trials: in memory for reading, in the store before anybody acts on it."""

from __future__ import annotations

import contextlib
import functools
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from manyfit.core import history as histories
from manyfit.core.compared import on_most_rows
from manyfit.core.errors import ProjectError, explain
from manyfit.core.events import EpochsEnded, Events, ExecutionsEnded, StepBegan, StepEnded, TrialEnded, TrialsBegan
from manyfit.core.lifecycle import TrialState, is_paused
from manyfit.core.objective import Objective
from manyfit.core.records import SEARCH, Ending, Observation, Plan, Progress, Result
from manyfit.evidence.book import EvidenceBook, RaceFamily, TrialDropped
from manyfit.oracles.commits import RELOADING, Commits, Key, Store, Write
from manyfit.oracles.scoring import Ranking
from manyfit.oracles.trial import Execution, KnownEpochs, Trial
from manyfit.oracles.views import BookedTrials, TrialViews
from manyfit.samplers.base import Constraint
from manyfit.space.hyperparameters import HyperParameters
from manyfit.store.facts import Activity, to_fact
from manyfit.store.reading import rows_told


class TrialBook:
    """All trials of a search.

    A commit may fail, because the disk is full, say. Memory is changed all the same, and the error is raised, so that
    nobody acts on what is not stored; the write is *owed*, and made before the next one. So memory and store differ by
    what is owed and by nothing else, writes reach the store in their order, and a search that is called again goes on
    as if nothing had happened. A process that ends with writes owed is one that died before them.

    Args:
        objective: what is ranked.
        constraints: what trials have to keep besides.
    """

    def __init__(self, objective: Objective, constraints: Sequence[Constraint] = ()) -> None:
        self.objective = objective
        self._trials = BookedTrials()
        self._views = TrialViews(objective, self._trials)
        self.ranking = Ranking(objective, constraints, measured=self._views.measured)
        self._commits = Commits()
        self.events = Events()  # told once what they tell is committed
        self.ended: list[str] = []  # ids in the order of their end
        self.evidence = EvidenceBook()  # what confirmations have decided
        self._num_ends = 0  # of trials, retried ones counted anew
        self._activities: list[Activity] = []  # steps under way, the innermost last
        self.seconds: dict[str, float] = {}  # that parts of the search have taken, by name
        self._is_open = False
        self._project: str | None = None  # whose trials these are; None: 0.1.0 began it

    @property
    def trials(self) -> dict[str, Trial]:
        """All of them, in the order of start."""
        return self._trials

    @trials.setter
    def trials(self, trials: Mapping[str, Trial]) -> None:
        before = self._trials
        self._trials = self._views.trials = BookedTrials(trials, before)
        before.changed.update(dict.fromkeys([*before, *trials]))

    @property
    def store(self) -> Store | None:
        """Where everything is committed; None before the project is opened."""
        return self._commits.store

    @store.setter
    def store(self, store: Store | None) -> None:
        self._commits.store = store

    # Reading ---------------------------------------------------------------------------------------------------

    def own(self, trial: Trial) -> Trial:
        """The trial in the book that a copy stands for, with what the copy says."""
        known = self.trials.get(trial.trial_id, trial)
        if known is not trial:
            known.hyperparameters, known.status, known.message = trial.hyperparameters, trial.status, trial.message
        return known

    def observations(self) -> list[Observation]:
        """What samplers may know: every trial that ended, in the order of start."""
        return self._views.observations()

    def pending(self) -> list[dict[str, Any]]:
        """Values of the trials that were proposed and have not ended."""
        return [trial.searched_values for trial in self.unended()]

    def unended(self) -> list[Trial]:
        """Trials that were started and have not ended, in the order of start."""
        return self._views.unended()

    def paused(self) -> list[Trial]:
        """Trials that wait for a promotion, with executions that can go on."""
        return [trial for trial in self.unended() if trial.state is TrialState.PAUSED and trial.executions]

    def progress(self) -> list[Progress]:
        """What schedulers may know: every trial that was started."""
        return self._views.progress()

    def best(self, num_trials: int | None = None) -> list[Trial]:
        """Completed trials, best first: those that were confirmed on fresh seeds, then the others by search score.

        Trials that break a constraint are left out, unless all do: then those come that break it least.
        """
        return self._confirmed_first(self.by_search_score())[:num_trials]

    def _confirmed_first(self, ranked: list[Trial]) -> list[Trial]:
        # Asked whenever a trial ends, so that trials are not gone through for what none of them has.
        is_by_score = not (self.ranking.constraints or self._views.are_apart())
        return ranked if is_by_score else self.ranking.confirmed_first(ranked)

    def front(self) -> list[Trial]:
        """The completed trials that keep the constraints and that none of these dominates, by the leading objective."""
        return self.ranking.best(self._compared())

    def kept(self, num_trials: int) -> list[Trial]:
        """The trials whose models are kept: the best so many, and with several objectives the whole front."""
        ranked = self.by_search_score()  # once: this is asked whenever a trial ends
        best = self._confirmed_first(ranked)[:num_trials]
        return best + [trial for trial in self.ranking.front_of(ranked) if trial not in best]

    def by_search_score(self) -> list[Trial]:
        """Completed trials by what the search alone found of them, those on a part of the rows left out if possible."""
        ranked = self._views.by_score() if self.ranking.is_by_score else None
        return self.ranking.order(self._compared()) if ranked is None else ranked

    def _compared(self) -> list[Trial]:
        return on_most_rows(self.completed(), lambda trial: self.objective.loss(trial.score))

    def completed(self) -> list[Trial]:
        """Trials that have ended as ones that are ranked, in the order of their start."""
        return self._views.completed()

    # Writing: each method commits before it returns --------------------------------------------------------------

    def add(self, trials: Sequence[Trial], **facts: Any) -> None:
        """Commits trials that are about to run, new or again."""
        for trial in trials:
            trial.started_at = trial.started_at or time.time()
            self.trials[trial.trial_id] = trial
        self.save(trials, **facts)
        self.events.tell(TrialsBegan({trial.trial_id: trial.searched_values for trial in trials}))

    def end(self, trial: Trial, **facts: Any) -> None:
        """Commits a trial's end, or the end of this attempt."""
        has_ended_before = trial.ended_at is not None
        trial.ended_at = time.time()
        # Counted, since clocks go backwards: a time that was set right, a virtual machine that woke up.
        self._num_ends += 1
        trial.end_number = self._num_ends
        self.trials[trial.trial_id] = trial
        # A retried or rescored trial ends more than once; the latest end is the one that consecutive failures count.
        if has_ended_before and trial.trial_id in self.ended:
            self.ended.remove(trial.trial_id)
        self.ended.append(trial.trial_id)
        self.save([trial], **facts)
        cut, scores = trial.ending is Ending.STOPPED, tuple(trial.scores)
        self.events.tell(TrialEnded(trial.trial_id, trial.score, trial.message, scores, cut, trial.num_rows))

    def pause(self, trial: Trial) -> None:
        """Commits that a trial waits for a promotion."""
        self.save([trial])

    def save(self, trials: Sequence[Trial], **facts: Any) -> None:
        """Commits what was noted on trials, and facts of the project, as one transaction."""
        rows = [trial.row() for trial in trials]  # as they are now, however late they are written
        with self.timed("store"):
            self._commits.save(rows, facts)

    def put(self, **facts: Any) -> None:
        """Commits facts of the project."""
        self._commits.put(facts)

    def note(self, **facts: Any) -> None:
        """Has facts committed along with the next ones: those that only tell people where the search stands."""
        self._commits.note(**facts)

    def settle(self) -> None:
        """Makes the writes that are owed, in their order."""
        self._commits.settle()

    def _commit(self, write: Write) -> None:
        with self.timed("store"):
            self._commits.make(write)

    @contextlib.contextmanager
    def timed(self, part: str) -> Iterator[None]:
        """Counts the seconds of what is inside to a part of the search: "propose", "store"."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[part] = self.seconds.get(part, 0.0) + time.perf_counter() - started

    def stop_paused(self, trial: Trial, max_epochs: int | None, why: str = "not promoted") -> list[Execution]:
        """Ends the paused executions of a trial that nobody will promote. Their epochs and scores so far stand.

        Args:
            trial: that waits for a promotion.
            max_epochs: of a full training.
            why: it does not go on.

        Returns:
            The executions.
        """
        paused = [run for run in trial.executions.values() if is_paused(run)]
        for run in paused:
            run.ending = Ending.STOPPED
            run.message = f"stopped after {run.num_epochs} of {max_epochs} epochs: {why}"
        trial.note_change()
        outcomes = {(trial.trial_id, SEARCH, trial.attempt, run.index): run.outcome() for run in paused}

        def write(store: Store) -> None:
            for key, outcome in outcomes.items():
                store.save_execution(key, outcome)

        self._commit(write)
        return paused

    def add_epochs(self, epochs: Sequence[tuple[Plan, int, Mapping[str, float]]]) -> None:
        """Commits one epoch of several executions as one transaction."""
        for plan, epoch, logs in epochs:
            trial = self.trials.get(plan.trial_id)
            # Schedulers and samplers hear of the search only: fresh seeds of the confirmation must not steer it.
            if trial is not None and plan.phase == SEARCH:
                histories.put(trial.running.setdefault(plan.execution, {}), logs, epoch)
        rows = [(*self._key(plan), epoch, logs) for plan, epoch, logs in epochs]
        self._commit(lambda store: store.save_epochs(rows))
        self.events.tell(EpochsEnded(epochs))

    def add_execution(self, result: Result, **notes: Any) -> Execution:
        """Commits the outcome of an execution; see `add_executions`."""
        return self.add_executions([result], **notes)[0]

    def add_executions(self, results: Sequence[Result], **notes: Any) -> list[Execution]:
        """Commits the outcomes of executions: all of them, or what is missing is owed.

        The curve of a running execution is the book's: reported epoch by epoch, and stored as it was reported. A result
        brings its own curve, which is the same unless its trainer reported nothing (then it is written now) or was lost
        (then what it had reported stands). The score is read off the curve here, so that no trainer can score
        otherwise.

        Args:
            results: what became of them; `result.plan.phase` says what one was run for.
            notes: further facts about them, kept in `Execution.notes`.
        """
        executions, writes = [], []
        for result in results:
            execution, history = self._executed(result, notes)
            executions.append(execution)
            writes.append((self._key(result.plan), execution.outcome(), history))

        def write(store: Store) -> None:
            for key, outcome, history in writes:
                store.save_execution(key, outcome, history=history)

        self._commit(write)
        self.events.tell(ExecutionsEnded([result.plan for result in results]))
        return executions

    def _executed(self, result: Result, notes: Mapping[str, Any]) -> tuple[Execution, list[dict[str, float]] | None]:
        """The execution that a result is, now the trial's; and its history, unless the store has it already."""
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
            costs=result.costs,
        )
        if scored is not None:
            execution.score, execution.best_epoch = scored
            execution.metrics = histories.at_epoch(history, execution.best_epoch)
        if plan.phase == SEARCH:
            trial.running.pop(plan.execution, None)
        trial.executions_of(plan.phase)[plan.execution] = execution
        trial.note_change()
        # Epochs that were committed one by one are not written again: a population reports thousands.
        is_stored = not result.history or reported == result.history
        logs = None if is_stored else [histories.at_epoch(own, epoch) for epoch in range(execution.num_epochs)]
        return execution, logs

    def add_evidence(self, family: RaceFamily, decisions: Sequence[TrialDropped] = ()) -> None:
        """Commits a family of contenders, new or looked at again, and what was decided in it."""
        if family not in self.evidence.families:
            self.evidence.families.append(family)
        for each in decisions:
            family.decisions.setdefault(each.trial_id, each)
        rows = [(family.number, family.facts(), dict(family.looks))]
        new = [(family.number, each.trial_id, each.to_dict()) for each in decisions]
        self._commit(lambda store: store.save_evidence(rows, new))

    def forget_epochs(self, plan: Plan) -> None:
        """Drops what an execution reported that was broken off."""
        key = self._key(plan)
        self._commit(lambda store: store.forget_epochs(key))

    def forget_executions(self, trial: Trial, first: int = 0) -> None:
        """Drops the executions of the search that a trial has so far, because others take their place.

        Args:
            trial: whose executions.
            first: the index from which on they are dropped.
        """
        dropped = [index for index in trial.executions if index >= first]
        for index in dropped:
            del trial.executions[index]
        trial.running.clear()
        trial.note_change()
        if dropped:
            keys = [(trial.trial_id, SEARCH, trial.attempt, index) for index in dropped]
            self._commit(lambda store: store.forget_executions(keys))

    def _key(self, plan: Plan) -> Key:
        trial = self.trials.get(plan.trial_id)
        return plan.trial_id, plan.phase, 0 if trial is None else trial.attempt, plan.execution

    # Who writes --------------------------------------------------------------------------------------------------

    def begin_work(self, what: str, *, at_once: bool = True) -> None:
        """Takes the project for a step in which nobody else writes to it; `end_work` gives it back.

        Args:
            what: the step, "a search" say.
            at_once: whether that is committed now, for those who look, or along with what comes next.

        Raises:
            ProjectError: another tuner of this process, or another thread of this one, has taken it.
        """
        if self.store is not None:
            self.store.begin_work(what)
            self._activities.append(Activity.here(what, time.time()))
            self.note(activity=to_fact(self._activities[-1]))
            if at_once:
                self.put()
            self.events.tell(StepBegan(what))

    def end_work(self, *, at_once: bool = True) -> None:
        """The inverse of `begin_work`."""
        if self.store is not None:
            self.store.end_work()
            if self._activities:
                # Before the commit: what is noted of the whole step goes along with it.
                self.events.tell(StepEnded(self._activities[-1].what))
                over = self._activities.pop().ended(time.time())
                self.note(activity=to_fact(self._activities[-1] if self._activities else over))
            if at_once:
                # What the step has found is committed; a full disk must not take it out of the caller's hands.
                with contextlib.suppress(ProjectError):
                    self.put()

    def has_changed(self) -> bool:
        """Whether another tuner of this process has written to the project since it was read."""
        return self.store is not None and self.store.has_changed()

    def requeue(self, *, is_searching: bool) -> list[str]:
        """Queues the trials that were running when a search was interrupted, and returns their ids.

        Args:
            is_searching: whether one is under way.

        Raises:
            ProjectError: one is under way, or what is owed still cannot be written.
        """
        self.check_may_reload(is_searching=is_searching)
        self.settle()
        interrupted = [trial for trial in self.unended() if trial.state is TrialState.RUNNING]
        for trial in interrupted:
            trial.running.clear()
            trial.move(TrialState.QUEUED)
        return [trial.trial_id for trial in interrupted]

    def check_may_reload(self, *, is_searching: bool) -> None:
        """Checks that reading the project again takes no trial out of somebody's hands.

        Raises:
            ProjectError: a step is under way that works with the trials as they are.
        """
        if is_searching:
            got, instead = "a search that is under way", "Wait until it has ended; it keeps the project up to date."
            raise ProjectError(explain("reload()", got, "a tuner that does nothing else", instead))
        if self.store is not None:
            self.store.check_idle()

    # Opening -----------------------------------------------------------------------------------------------------

    def begin(self, **facts: Any) -> None:
        """Notes a new project in the store."""
        self._project, self._is_open = uuid.uuid4().hex, True
        self.put(project=self._project, **facts)

    def load(self, space: HyperParameters) -> None:
        """Reads everything from the store. What unfinished executions of the search had reported stays known."""
        assert self.store is not None  # our bug: only `Oracle.reload` calls this
        if self.store.has_changed():
            self._commits.forget()
        self.settle()
        self.store.catch_up()
        self._check_same_project(self.store.get("project"))
        with rows_told(RELOADING):
            self.seconds = {name: float(seconds) for name, seconds in self.store.get("seconds", {}).items()}
            broken_off = self._read(space)
            self._order_ends()
        # Owed and not written now: who only looks at a project that another tuner is searching must leave its epochs
        # alone.
        self._commits.owe(functools.partial(_forget_epochs, key=key, first=first) for key, first in broken_off.items())

    def _read(self, space: HyperParameters) -> dict[Key, int]:
        """Reads trials and executions.

        Returns:
            Those that nobody goes on with, since they run again from their start, and the first epoch to be dropped.
        """
        store = self.store
        assert store is not None  # our bug: `load` asks
        self.trials = {row["id"]: Trial.from_row(row, space) for row in store.trials()}
        self.evidence.load(store.families(), store.decisions())
        known: dict[Key, KnownEpochs] = {}
        for row in store.epochs():
            key = (row["trial_id"], row["phase"], row["attempt"], row["execution"])
            known.setdefault(key, KnownEpochs()).add(row["logs"], row["epoch"], row["computed"])
        broken_off = dict.fromkeys(known, 0)
        for row in store.executions():
            key = (row.pop("trial_id"), row.pop("phase"), row.pop("attempt"), row.pop("execution"))
            trial, history = self.trials[key[0]], known.get(key, KnownEpochs()).history
            row["ending"], num_epochs = Ending(row["ending"]), row.pop("num_epochs", None)
            if row["ending"] is Ending.PAUSED and max(map(len, history.values()), default=0) > num_epochs:
                # It had been continued. Its score, its weights and its state are those of the pause.
                history = {name: curve[:num_epochs] for name, curve in history.items()}
                broken_off[key] = num_epochs
            else:
                broken_off.pop(key, None)
            # Rows of failed attempts stay in the store as a record; only the latest attempt counts.
            if trial.attempt == key[2]:
                trial.executions_of(key[1])[key[3]] = Execution.of_row(key[3], history, row)
        for key, epochs in known.items():
            found = self.trials.get(key[0])
            if found is not None and key[1:3] == (SEARCH, found.attempt) and found.goes_on(key[3]):
                found.known[key[3]] = epochs
                broken_off.pop(key, None)
        return broken_off

    def _check_same_project(self, found: str | None) -> None:
        if self._is_open and found != self._project:
            raise ProjectError(
                explain(
                    "reload()",
                    "a project that another tuner has started anew (overwrite=True)",
                    "the project that this tuner has opened",
                    "Go on with that tuner, or make this one again.",
                )
            )
        self._project, self._is_open = found, True

    def _order_ends(self) -> None:
        """Puts the trials that have ended in the order of their end; those of 0.1.0 know their times only."""
        ended = [trial for trial in self.trials.values() if trial.ended_at is not None]
        self._num_ends = max((trial.end_number or 0 for trial in ended), default=0)
        ended.sort(key=lambda trial: (trial.end_number or 0, trial.ended_at if trial.end_number is None else 0.0))
        self.ended = [trial.trial_id for trial in ended]


def _forget_epochs(store: Store, key: Key, first: int) -> None:
    store.forget_epochs(key, first)
