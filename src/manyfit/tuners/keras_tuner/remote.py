"""Trials of a user's `run_trial` that run on executors, and what a worker's copy of a tuner has.

A tuner that is pickled travels without its store, its data and its oracle's history: it can build, compile and train,
and what it reports comes back as a result. So bound methods of tuners (a build function, a hook) can be sent. What
stays behind is named where it belongs: by `BaseTuner.stand_ins` and those that extend it.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, cast

from manyfit.core import seeds
from manyfit.core.lifecycle import TrialOutcome, failure_of
from manyfit.core.records import SEARCH, Decision, Ending, Plan, Result
from manyfit.oracles import Oracle, Trial
from manyfit.oracles.scoring import Scoring
from manyfit.space.hyperparameters import HyperParameters
from manyfit.store.layout import ProjectLayout
from manyfit.training.base import Supply, Task, Trainer
from manyfit.training.replay import CALLED, seen_fits
from manyfit.training.seeding import seeded
from manyfit.tuners.keras_tuner.one_by_one import OneByOne, RunTrialCall, TrialSteps, conclude, histories_of

_REPEAT = "repeat"  # the phase of plans for a further call of a trial's `run_trial`


class DistantBook:
    """Keeps the executions of the trial that runs, until they are sent."""

    def __init__(self) -> None:
        self.results: list[Result] = []

    def add_execution(self, result: Result, **notes: object) -> None:
        """Keeps an execution, with the facts of its call; the driver makes the other notes."""
        facts = {name: note for name, note in notes.items() if name == CALLED}
        self.results.append(dataclasses.replace(result, notes={**result.notes, **facts}))

    def forget_executions(self, trial: Trial, first: int = 0) -> None:
        """Drops those of this call."""
        del trial, first
        self.results = []


class DistantOracle:
    """What a worker knows of the oracle: constants of the search, and the trial that runs.

    Args:
        oracle: the driver's.
    """

    def __init__(self, oracle: Oracle) -> None:
        self.objective = oracle.objective
        self.seed = oracle.seed
        self.scheduler = oracle.scheduler
        self.max_trials = oracle.max_trials
        self.hyperparameters = oracle.get_space()
        self.trials: dict[str, Trial] = {}
        self.book = DistantBook()
        self.scoring = Scoring(oracle.objective)

    def get_space(self) -> HyperParameters:
        """A copy of the search space."""
        return self.hyperparameters.copy()

    # Answers that are wrong for the search would be worse than none: which trials are best changes while this one runs.
    def get_best_trials(self, num_trials: int = 1) -> list[Trial]:
        """None: how other trials do is known to the driver, who drops what need not be kept."""
        del num_trials
        return []

    def get_trial(self, trial_id: str) -> Trial:
        """The trial that runs here."""
        return self.trials[trial_id]

    def overrides(self, *names: str) -> list[str]:
        """None: what an oracle of the user's does happens with the driver."""
        del names
        return []

    # What a training loop of the user's reports is taken here as the driver's oracle would, and travels with the trial.
    def update_trial(self, trial_id: str, metrics: Mapping[str, float], step: int = 0) -> Trial:
        """See `Oracle.update_trial`."""
        self.scoring.report(self.trials[trial_id], metrics, step)
        return self.trials[trial_id]


class DistantStore:
    """Knows where the weights of the trial that runs go."""

    is_beside_keras_tuner = False  # in a folder of the worker's own

    def __init__(self) -> None:
        self.layout = ProjectLayout(Path("."))

    @property
    def folder(self) -> Path:
        """See `ProjectStore`."""
        return self.layout.folder

    def weights_path(self, trial_id: str, execution: int) -> Path:
        """See `ProjectStore`."""
        return self.layout.weights(trial_id, execution)

    def close(self) -> None:
        """Nothing is open here."""


class TunerInWorker(Protocol):
    """A tuner that has travelled, as a worker uses it."""

    oracle: DistantOracle
    store: DistantStore
    trial_call: RunTrialCall
    directory: str
    project_name: str

    def run_trial(self, trial: Trial, *fit_args: Any, **fit_kwargs: Any) -> Any:
        """Trains and measures one trial."""


@dataclasses.dataclass(frozen=True)
class RunTask(Task):
    """A task whose trials are run by a user's `run_trial`."""

    tuner: object = None  # a `BaseTuner`, which pickles itself as a `TunerInWorker`


class RunTrial(Trainer):
    """Runs `run_trial` of the task's tuner in this process, one trial after another."""

    # Folds, if there are any, are made by the user's own code: nothing of the task has to be followed.
    takes_splits = True

    def train(self, supply: Supply, task: Task) -> None:
        """See `Trainer`."""
        assert isinstance(task, RunTask)
        while plans := supply.take(1):
            for plan in plans:
                supply.finish(_run(plan, task))


def make_run_trial(notify: Callable[[str], None]) -> Trainer:
    """Makes a `RunTrial` in a worker."""
    del notify
    return RunTrial()


def _run(plan: Plan, task: RunTask) -> Result:
    """Calls `run_trial` for one plan. What it returned travels as histories, or as the executions that are kept."""
    # In a worker it is one: pickling has put stand-ins in place. In the driver's process nobody calls this.
    tuner = cast(TunerInWorker, task.tuner)
    assert isinstance(plan.values, HyperParameters)  # our bug: a tuner's plans hold them
    trial = Trial(plan.values, trial_id=plan.trial_id)
    trial.attempt = plan.attempt
    tuner.oracle.trials, tuner.oracle.book = {trial.trial_id: trial}, DistantBook()
    # The only thing that tells a worker where it may write is the path of the plan: its folder is not the driver's.
    tuner.store.layout = ProjectLayout.around(str(plan.weights_path))
    folder = tuner.store.folder
    tuner.directory, tuner.project_name = str(folder.parent), folder.name
    tuner.trial_call.begin(plan.execution if plan.phase == _REPEAT else 0)
    # Only the call counts: that a worker was started for it is no cost of this configuration.
    started = time.perf_counter()
    try:
        with seeded(plan.seed), seen_fits() as tuner.trial_call.seen:
            returned = tuner.run_trial(trial, *task.call.args, **task.call.kwargs)
        result = Result(plan, Ending.COMPLETED, {}, notes=tuner.trial_call.notes)
        if tuner.trial_call.was_recorded(returned):
            result.executions = tuple(tuner.oracle.book.results)
        else:
            result.histories = histories_of(trial, returned, tuner.oracle.objective)
    except Exception as error:
        result = Result.of_failure(plan, failure_of(error))
    result.seconds = time.perf_counter() - started
    return dataclasses.replace(result, plan=dataclasses.replace(plan, values=trial.hyperparameters))


class TrialSupply:
    """Feeds a trainer with whole trials, for tuners with a `run_trial` of their own.

    Args:
        oracle: says what to run.
        one_by_one: takes what was returned into the book.
        steps: of the tuner, who hears of each trial's begin and end.
        weights_path: where the weights of an execution go.
    """

    independent = False

    def __init__(
        self, oracle: Oracle, one_by_one: OneByOne, steps: TrialSteps, weights_path: Callable[[str, int], Path]
    ) -> None:
        self._oracle = oracle
        self._one_by_one = one_by_one
        self._steps = steps
        self._weights_path = weights_path
        self._open: set[str] = set()  # ids of trials that run
        self._calls: dict[str, int] = {}  # of those that run again: the number of the call

    @property
    def remaining(self) -> int | None:
        """How many more trials may be started; None: no limit."""
        return self._oracle.remaining_trials()

    def take(self, count: int) -> Sequence[Plan]:
        """See `manyfit.training.base.Supply`."""
        plans: list[Plan] = []
        self._oracle.requests.look()
        while len(plans) < count:
            # One at a time: `pre_create_trial` of the user's is called before each, and may change what comes next.
            self._steps.before()
            trials = self._oracle.assign(1)
            if not trials:
                return plans or self._repeats(count)
            [trial] = trials
            self._steps.begin(trial)
            if self._one_by_one.take_known(trial):
                self._steps.end(trial)
                continue
            self._open.add(trial.trial_id)
            seed = seeds.seed_of(self._oracle.seed, "execution", trial.trial_id, 0, trial.attempt)
            path = self._weights_path(trial.trial_id, 0)
            # Its execution number is that of the attempt: a retried trial is not the one that failed.
            plan = Plan(trial.trial_id, trial.attempt, trial.hyperparameters.copy(), seed, weights_path=str(path))
            plans.append(dataclasses.replace(plan, attempt=trial.attempt))
        return plans

    def _repeats(self, count: int) -> list[Plan]:
        """Further calls for the contenders of a finite space that was tried in full, once nothing else runs."""
        plans: list[Plan] = []
        for trial, number in [] if self._open else self._one_by_one.next_repeats(count):
            if trial.trial_id in self._open:  # the race may look several rounds ahead
                continue
            self._open.add(trial.trial_id)
            self._calls[trial.trial_id] = number
            plan = self._one_by_one.plan_of_repeat(trial, number)
            path = self._weights_path(trial.trial_id, plan.execution)
            values = trial.hyperparameters.copy()
            plans.append(dataclasses.replace(plan, values=values, weights_path=str(path), phase=_REPEAT))
        return plans

    def report(self, epochs: Sequence[tuple[Plan, int, Mapping[str, float]]]) -> Sequence[Decision]:
        """See `manyfit.training.base.Supply`. A user's own loop has nobody to ask."""
        return [Decision.GO_ON] * len(epochs)

    def finish(self, result: Result) -> None:
        """See `manyfit.training.base.Supply`."""
        trial = self._oracle.trials[result.plan.trial_id]
        assert isinstance(result.plan.values, HyperParameters)  # our bug: a tuner's plans hold them
        trial.hyperparameters = result.plan.values
        self._open.discard(trial.trial_id)
        number = self._calls.pop(trial.trial_id, 0)
        self._one_by_one.call.begin(result.plan.execution if number else 0, number)
        self._one_by_one.call.facts = result.notes.get(CALLED)
        has_returned = result.executions is not None or result.histories is not None
        if has_returned:
            self._take(trial, result)
        if number:
            if not has_returned:
                plan = dataclasses.replace(result.plan, phase=SEARCH)
                self._one_by_one.take_failed_repeat(dataclasses.replace(result, plan=plan))
            self._one_by_one.end_repeat(trial, self._steps)
            return
        if has_returned:
            conclude(trial)
        else:
            trial.conclude(TrialOutcome(result.ending, result.message, result.final))
        self._steps.end(trial)

    def _take(self, trial: Trial, result: Result) -> None:
        """Takes what a call returned into the book."""
        if result.executions is not None:
            for run in result.executions:
                self._oracle.book.add_execution(run, **self._one_by_one.call.notes)
        elif result.histories is not None:
            self._one_by_one.record(trial, result.histories, result.plan.seed)
