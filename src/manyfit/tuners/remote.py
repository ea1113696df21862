"""Tuners on executors: what of a tuner travels to workers, and trials of a user's `run_trial` that run there.

A tuner that is pickled travels without its store, its data and its oracle's history: it can build, compile and train,
and what it reports comes back as a result. So bound methods of tuners (a build function, a hook) can be sent.
"""

from __future__ import annotations

import dataclasses
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from manyfit.core import seeds
from manyfit.core.errors import FailedTrialError, FatalError, ProjectError
from manyfit.core.records import Decision, Ending, Plan, Result
from manyfit.oracles import Oracle, Trial, TrialStatus
from manyfit.training.base import Supply, Task, Trainer
from manyfit.training.models import ending_of
from manyfit.training.seeding import seeded

if TYPE_CHECKING:
    from manyfit.tuners.base_tuner import BaseTuner

#: Of a tuner, what stays with the driver.
_STAYS = ("store", "oracle", "executor", "_trainer", "_runner", "_task", "_final", "_trial_of_model", "_fold_plan")


def travelling_state(tuner: BaseTuner) -> dict[str, Any]:
    """What of a tuner goes to workers."""
    state = {name: value for name, value in tuner.__dict__.items() if name not in _STAYS}
    return {**state, "oracle": DistantOracle(tuner.oracle), "store": DistantStore(), "executor": None}


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
        self.book = _DistantBook()

    def get_space(self) -> Any:
        """A copy of the search space."""
        return self.hyperparameters.copy()

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

    update_trial = Oracle.update_trial
    check_objective = Oracle.check_objective


class _DistantBook:
    """Keeps the executions of the trial that runs, until they are sent."""

    def __init__(self) -> None:
        self.results: list[Result] = []

    def add_execution(self, result: Result) -> None:
        """Keeps an execution."""
        self.results.append(dataclasses.replace(result, extra={}))

    def forget_executions(self, trial: Trial) -> None:
        """Drops those of this attempt."""
        del trial
        self.results = []


class DistantStore:
    """Knows where the weights of the trial that runs go."""

    def __init__(self) -> None:
        self.folder = Path(".")

    def weights_path(self, trial_id: str, execution: int) -> Path:
        """See `ProjectStore`."""
        return self.folder / "weights" / f"{trial_id}-{execution}.npz"

    def close(self) -> None:
        """Nothing is open here."""


@dataclasses.dataclass(frozen=True)
class RunTask(Task):
    """A task whose trials are run by a user's `run_trial`."""

    tuner: Any = None


class RunTrial(Trainer):
    """Runs `run_trial` of the task's tuner in this process, one trial after another."""

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
    tuner = task.tuner
    trial = Trial(plan.values, trial_id=plan.trial_id)
    trial.attempt = plan.execution
    tuner.oracle.trials, tuner.oracle.book = {trial.trial_id: trial}, _DistantBook()
    tuner.store.folder = folder = Path(str(plan.weights_path)).parent.parent
    tuner.directory, tuner.project_name = str(folder.parent), folder.name
    tuner._recorded, tuner._num_runs = None, 0
    started = time.perf_counter()
    try:
        with seeded(plan.seed):
            returned = tuner.run_trial(trial, *task.fit_args, **task.fit_kwargs)
        own = returned is not None and returned is tuner._recorded
        extra = {"executions": tuner.oracle.book.results} if own else {"histories": tuner._histories(trial, returned)}
        result = Result(plan, Ending.COMPLETED, {}, extra=extra)
    except (FatalError, ProjectError):
        raise
    except Exception as error:
        result = Result(plan, ending_of(error), {}, message=traceback.format_exc(), extra={"error": error})
    result.seconds = time.perf_counter() - started
    return dataclasses.replace(result, plan=dataclasses.replace(plan, values=trial.hyperparameters))


class TrialSupply:
    """Feeds a trainer with whole trials, for tuners with a `run_trial` of their own.

    Args:
        tuner: whose oracle says what to run, and who hears of each trial's begin and end.
    """

    independent = False

    def __init__(self, tuner: BaseTuner) -> None:
        self._tuner = tuner
        self._oracle = tuner.oracle

    @property
    def remaining(self) -> int | None:
        """How many more trials may be started; None: no limit."""
        return self._oracle.remaining_trials()

    def take(self, count: int) -> Sequence[Plan]:
        """See `manyfit.training.base.Supply`."""
        plans = []
        for _ in range(count):
            self._tuner.pre_create_trial()
            trials = self._oracle.assign(1)
            if not trials:
                break
            [trial] = trials
            self._tuner.on_trial_begin(trial)
            seed = seeds.seed_of(self._oracle.seed, "execution", trial.trial_id, 0, trial.attempt)
            path = self._tuner.store.weights_path(trial.trial_id, 0)
            # Its execution number is that of the attempt: a retried trial is not the one that failed.
            plans.append(
                Plan(trial.trial_id, trial.attempt, trial.hyperparameters.copy(), seed, weights_path=str(path))
            )
        return plans

    def report(self, epochs: Sequence[tuple[Plan, int, Mapping[str, float]]]) -> Sequence[Decision]:
        """See `manyfit.training.base.Supply`. A user's own loop has nobody to ask."""
        return [Decision.GO_ON] * len(epochs)

    def finish(self, result: Result) -> None:
        """See `manyfit.training.base.Supply`."""
        trial, extra = self._oracle.trials[result.plan.trial_id], result.extra
        trial.hyperparameters = result.plan.values
        if "executions" in extra or "histories" in extra:
            if "executions" in extra:
                for run in extra["executions"]:
                    self._oracle.book.add_execution(run)
            else:
                self._tuner._record(trial, extra["histories"], result.plan.seed)
            self._tuner._judge_executions(trial)
        else:
            failed = isinstance(extra.get("error"), FailedTrialError)
            trial.status = TrialStatus.FAILED if failed else TrialStatus.INVALID
            trial.ending, trial.message = result.ending, result.message
        self._tuner.on_trial_end(trial)
