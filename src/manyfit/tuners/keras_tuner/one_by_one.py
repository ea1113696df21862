"""Trials that run one after another: `run_trial` of the user's, called in this process.

A tuner whose `run_trial` (or whose oracle's `create_trial` or `update_trial`) is overridden runs KerasTuner's loop: ask
for a trial, call `run_trial`, take what it returned, end the trial. Where a finite space was tried in full, the rest of
the budget goes to further calls for the contenders, with other seeds, as long as these tell who is best.
"""

from __future__ import annotations

import dataclasses
import functools
import time
import warnings
from collections.abc import Callable, Sequence
from typing import Any

from manyfit.core import history as histories
from manyfit.core import seeds
from manyfit.core.clock import Clock
from manyfit.core.lifecycle import TrialOutcome, failure_of, outcome_of
from manyfit.core.limits import NO_LIMITS, TrialLimits
from manyfit.core.objective import Objective
from manyfit.core.records import Ending, Plan, Result
from manyfit.data.call import Call
from manyfit.oracles import Oracle, Trial, TrialStatus
from manyfit.oracles.replication import CALL, first_index
from manyfit.space.hyperparameters import HyperParameters
from manyfit.training.base import Task, judge
from manyfit.training.limits import waiting_told
from manyfit.training.outcomes import to_histories
from manyfit.training.rehearsal import NotOneCall, Rehearsal
from manyfit.training.replay import CALLED, FITTED_EPOCHS, Facts, SeenFit, facts_of, seen_fits
from manyfit.training.seeding import seeded

RETURNED = "returned"  # note on an execution: how many a call of `run_trial` returned together
_IDLE_SECONDS = 0.1  # between questions, while trials of other tuners of this oracle run


@dataclasses.dataclass
class RunTrialCall:
    """One call of `run_trial`: which executions it makes, and what the default `run_trial` has noted during it.

    An override may call `super().run_trial()`, several times even, and return what it got or something else. The
    default writes its executions into the book while it trains, so that a search that is killed goes on behind the last
    one; what the override returns would put them there a second time. So the default leaves here what it returned:
    where the override returns the same object, the book has it already; where not, what was returned replaces it.
    """

    first_execution: int = 0  # the index of the first execution that this call makes
    number: int = 0  # of the call within its trial: 0 is the trial's own, others repeat a contender
    num_default_calls: int = 0  # how often the default `run_trial` was called in it
    recorded: object = None  # what the default returned, where its executions are in the book
    trained: list[Call] = dataclasses.field(default_factory=list)  # what the default trained executions by
    seen: list[SeenFit] = dataclasses.field(default_factory=list)  # what reached Keras's `fit`, by whatever way
    facts: Facts | None = None  # of the call, where a worker made it
    rehearsal: Rehearsal | None = None  # takes down what the default would train by, where an override is tried

    @property
    def calls(self) -> list[Call]:
        """The calls of `fit` that trained the trial so far."""
        return self.trained or [one.call for one in self.seen]

    @property
    def notes(self) -> dict[str, Any]:
        """What is noted on each of its executions."""
        notes: dict[str, Any] = {CALL: self.number} if self.number else {}
        facts = facts_of(self.calls) if self.calls else self.facts
        return notes if facts is None else {**notes, CALLED: facts}

    def begin(self, first_execution: int = 0, number: int = 0) -> None:
        """Forgets the call before, and begins another."""
        self.first_execution, self.number = first_execution, number
        self.num_default_calls, self.recorded = 0, None
        self.trained, self.seen, self.facts = [], [], None

    def best_epochs(self, objective: Objective) -> list[int]:
        """After how many epochs each `fit` of the user's own loop was best; empty where Manyfit trained."""
        if self.trained:
            return []
        scored = [(one, histories.score(one.history, objective)) for one in self.seen if one.history]
        return [max(map(len, one.history.values())) if best is None else best[1] + 1 for one, best in scored]

    def was_recorded(self, returned: object) -> bool:
        """Whether what `run_trial` returned is in the book already."""
        return returned is not None and returned is self.recorded


@dataclasses.dataclass(frozen=True)
class TrialSteps:
    """What of a tuner is called around a trial that runs by itself, in this order."""

    before: Callable[[], None]  # `pre_create_trial`
    begin: Callable[[Trial], None]
    run: Callable[..., Any]  # `run_trial`
    end: Callable[[Trial], None]  # `on_trial_end`
    repeated: Callable[[Trial], None]  # a further call of a contender was taken


class OneByOne:
    """Runs trials by calling `run_trial`, and takes what it returns into the book.

    Args:
        oracle: what to run, and where results go.
        call: the call that is being made; the default `run_trial` reads it, too.
        say: takes one line of text for people.
        limits: of a trial; what `run_trial` does besides calling the default cannot be ended, and that is said.
    """

    def __init__(
        self, oracle: Oracle, call: RunTrialCall, say: Callable[[str], None], limits: TrialLimits = NO_LIMITS
    ) -> None:
        self.call = call
        self._oracle = oracle
        self._say = say
        self._max_seconds = limits.max_seconds

    def run(self, steps: TrialSteps, tuner_id: str, fit_args: tuple[Any, ...], fit_kwargs: dict[str, Any]) -> None:
        """Runs trials until the oracle has nothing more, under KerasTuner's protocol of statuses."""
        while True:
            self._oracle.requests.look()
            steps.before()
            trial = self._oracle.create_trial(tuner_id)
            if trial.status == TrialStatus.STOPPED:
                self.repeat_contenders(steps, fit_args, fit_kwargs)
                return
            # An oracle of the user's that waits for results; nothing tells when it will go on, so it is asked again.
            if trial.status == TrialStatus.IDLE:
                time.sleep(_IDLE_SECONDS)
                continue
            steps.begin(trial)
            self.run_one(trial, steps, fit_args, fit_kwargs)
            steps.end(trial)

    def run_one(self, trial: Trial, steps: TrialSteps, fit_args: tuple[Any, ...], fit_kwargs: dict[str, Any]) -> None:
        """Calls `run_trial` of a trial that has begun, and takes what it returns; its end is left to the caller."""
        self.call.begin()
        if self.take_known(trial):
            return
        seed = self.seed_of(trial)
        try:
            told = waiting_told(self._max_seconds, Clock.started(), trial.trial_id, self._say)
            # The user's own training is reproducible, too.
            with told, seeded(seed), seen_fits() as self.call.seen:
                returned = steps.run(trial, *fit_args, **fit_kwargs)
        except Exception as error:
            failure = failure_of(error)
            trial.conclude(TrialOutcome(failure.ending, failure.message, failure.final))
        else:
            self._take(trial, returned, seed)
            conclude(trial)

    def seed_of(self, trial: Trial) -> int:
        """The seed of its first execution, so that an override that trains once gets what the default would have."""
        return seeds.seed_of(self._oracle.seed, "execution", trial.trial_id, 0, trial.attempt)

    def take_known(self, trial: Trial) -> bool:
        """Has a trial end as the call of `run_trial` said that had returned before the process died, say.

        Returns:
            Whether all that a call returned is in the book, so that none has to be made.
        """
        runs = [run for _, run in sorted(trial.executions.items())]
        if not runs or any(run.notes.get(RETURNED) != len(runs) for run in runs):
            return False
        self._oracle.hear(trial, [run.history for run in runs])
        conclude(trial)
        return True

    def _take(self, trial: Trial, returned: object, seed: int) -> None:
        """Takes what `run_trial` returned into the book, in place of what the default `run_trial` put there."""
        if self.call.was_recorded(returned):
            self._oracle.hear(trial, [run.history for _, run in sorted(trial.executions.items())])
        else:
            self.record(trial, histories_of(trial, returned, self._oracle.objective), seed)

    def record(self, trial: Trial, found: list[dict[str, list[float | None]]], seed: int) -> None:
        """Writes histories into the book as the executions of this call."""
        # Whatever the default wrote during this call gives way: it may have trained each fold, and this be their mean.
        oracle = self._oracle
        oracle.book.forget_executions(trial, self.call.first_execution)
        oracle.hear(trial, found)
        notes, epochs = self.call.notes, self.call.best_epochs(oracle.objective)
        # A number says nothing of epochs: what `fit` answered inside does.
        if epochs and all(len(curve) <= 1 for history in found for curve in history.values()):
            notes[FITTED_EPOCHS] = epochs
        results = []
        for execution, history in enumerate(found, self.call.first_execution):
            oracle.scoring.check(history)
            ending, message = judge(history, oracle.objective, stopped=False)
            plan = Plan(trial.trial_id, execution, trial.hyperparameters, seed)
            results.append(Result(plan, ending, history, message=message))
        oracle.book.add_executions(results, **notes, **{RETURNED: len(results)})

    # Contenders ------------------------------------------------------------------------------------------------

    def next_repeats(self, count: int) -> list[tuple[Trial, int]]:
        """Up to `count` trials whose `run_trial` is to be called again, and the numbers of these calls."""
        oracle = self._oracle
        # An own `create_trial` is asked for every trial, so what it does not hand out is not run.
        if not oracle.may_replicate() or oracle.overrides("create_trial") or not oracle.ends_with_contenders():
            return []
        state = oracle.replication(None)
        return [] if state is None else state.next_runs(count)

    def plan_of_repeat(self, trial: Trial, number: int) -> Plan:
        """The first execution of a further call of `run_trial`."""
        first = first_index(trial, number)
        seed = seeds.seed_of(self._oracle.seed, "execution", trial.trial_id, first, trial.attempt)
        return Plan(trial.trial_id, first, trial.hyperparameters, seed, attempt=trial.attempt)

    def repeat_contenders(self, steps: TrialSteps, fit_args: tuple[Any, ...], fit_kwargs: dict[str, Any]) -> None:
        """Calls `run_trial` of the contenders until their order is settled or the budget ends."""
        while repeats := self.next_repeats(1):
            [(trial, number)] = repeats
            plan = self.plan_of_repeat(trial, number)
            self.call.begin(plan.execution, number)
            try:
                with seeded(plan.seed), seen_fits() as self.call.seen:
                    returned = steps.run(trial, *fit_args, **fit_kwargs)
            except Exception as error:
                self.take_failed_repeat(Result.of_failure(plan, failure_of(error)))
            else:
                self._take(trial, returned, plan.seed)
            self.end_repeat(trial, steps)

    def take_failed_repeat(self, result: Result) -> None:
        """Takes a call that ended with an exception: a contender that fails has lost the race, and stays a trial."""
        self._oracle.book.forget_executions(self._oracle.trials[result.plan.trial_id], result.plan.execution)
        self._oracle.book.add_execution(result, **self.call.notes)

    def end_repeat(self, trial: Trial, steps: TrialSteps) -> None:
        """Scores a trial anew after a further call of its `run_trial`, and says what came out."""
        self._oracle.rescore(trial)
        steps.repeated(trial)
        objective, number = self._oracle.objective, self.call.number
        self._say(f"Trial {trial.trial_id} again, call {number + 1}: {objective.name} {trial.score:.5g} so far")


class TakenDown:
    """Trials whose `run_trial` is one call of the default, and the call of `fit` that each of them is.

    Such trials train as those of a tuner that overrides nothing. From the first one on whose `run_trial` does more, all
    run by themselves, one after another.

    Args:
        one_by_one: runs those.
        steps: of the tuner.
        search: positional and keyword arguments of the search.
        task_of: what the default makes of its arguments.
        owners: the objects whose attributes a build or a callback may read.
        brought_to_light: is told the values with what `run_trial` has asked for.
        say_alone: is called when trials begin to run by themselves.
    """

    def __init__(
        self,
        one_by_one: OneByOne,
        steps: TrialSteps,
        search: tuple[tuple[Any, ...], dict[str, Any]],
        *,
        task_of: Callable[[Call], Task],
        owners: Sequence[object],
        brought_to_light: Callable[[HyperParameters], None],
        say_alone: Callable[[], None],
    ) -> None:
        self._brought_to_light, self._say_alone = brought_to_light, say_alone
        self.calls: dict[str, Call] = {}
        self.why_alone: str | None = None
        self.alone: list[str] = []
        self._one_by_one, self._steps = one_by_one, steps
        self._fit_args, self._fit_kwargs = search
        self._task_of, self._owners = task_of, owners
        self._callbacks: dict[str, Callable[[Plan], list[Any]]] = {}

    def begin(self, trial: Trial) -> bool:
        """Begins a trial; answers whether it is to be trained, and was not run already."""
        self._steps.begin(trial)
        if self._one_by_one.take_known(trial):
            return False
        if self.why_alone is None and self._take_down(trial):
            return True
        self.alone.append(trial.trial_id)
        self._one_by_one.run_one(trial, self._steps, self._fit_args, self._fit_kwargs)
        return False

    def end(self, trial: Trial) -> None:
        """Ends a trial."""
        self._callbacks.pop(trial.trial_id, None)
        if (call := self.calls.pop(trial.trial_id, None)) is not None:
            self._one_by_one.call.begin()
            self._one_by_one.call.trained.append(call)
        self._steps.end(trial)

    def task(self, task: Task) -> Task:
        """The task in which each trial has its own call."""
        return dataclasses.replace(task, calls=self.calls, callbacks=self._callbacks_of)

    def _callbacks_of(self, plan: Plan) -> list[Any]:
        make = self._callbacks.get(plan.trial_id)
        return [] if make is None else make(plan)

    def _take_down(self, trial: Trial) -> bool:
        call = self._one_by_one.call
        call.begin()
        call.rehearsal = Rehearsal()
        run = functools.partial(self._steps.run, trial, *self._fit_args, **self._fit_kwargs)
        try:
            with seeded(self._one_by_one.seed_of(trial)):
                taken = call.rehearsal.of(run, *self._owners)
        except NotOneCall as error:
            self.why_alone = str(error)
            self._say_alone()
            return False
        finally:
            call.rehearsal = None
        self._brought_to_light(trial.hyperparameters)
        task = self._task_of(taken)
        self.calls[trial.trial_id] = task.call
        if task.callbacks is not None:
            self._callbacks[trial.trial_id] = task.callbacks
        return True


def histories_of(trial: Trial, returned: object, objective: Objective) -> list[dict[str, list[float | None]]]:
    """What `run_trial` returned, as one history per execution.

    KerasTuner's old programs return nothing, and report with `oracle.update_trial` while they train.
    """
    if returned is None and trial.running:
        warnings.warn(
            "Reporting a trial's metrics with `self.oracle.update_trial` in `run_trial` is deprecated. Please "
            "remove the call, and return the metrics.",
            DeprecationWarning,
            stacklevel=2,
        )
        return [dict(history) for _, history in sorted(trial.running.items())]
    return to_histories(returned, objective, "Tuner.run_trial()")


def conclude(trial: Trial) -> None:
    """Has a trial end as its executions say."""
    # Without an execution it was reported to an oracle of the user's, which scores it as it likes.
    trial.conclude(outcome_of(trial.executions) or TrialOutcome(Ending.COMPLETED))
