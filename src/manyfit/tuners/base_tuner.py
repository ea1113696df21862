"""The part of a tuner that knows trials but no training: project, search loop, summaries."""

from __future__ import annotations

import os
import time
import warnings
from pathlib import Path
from typing import Any

from manyfit.core import seeds
from manyfit.core.environment import refuse_chief_and_workers
from manyfit.core.errors import SearchError, UsageError, explain
from manyfit.core.lifecycle import TrialOutcome, TrialState, failure_of, outcome_of
from manyfit.core.records import Ending, Plan, Result, Values
from manyfit.data.call import Call
from manyfit.executors.base import Executor, MakeTrainer
from manyfit.oracles import Oracle, Trial, TrialStatus
from manyfit.oracles.checks import failure_report
from manyfit.oracles.keras_tuner.files import read_project, write_project
from manyfit.report import terminal
from manyfit.report.colours import check_display
from manyfit.space.hyperparameters import HyperParameters
from manyfit.store import ProjectStore
from manyfit.store.layout import Layout
from manyfit.training.base import Trainer, judge
from manyfit.training.outcomes import to_histories
from manyfit.training.seeding import seeded
from manyfit.tuners.hypermodel import HyperModel, get_hypermodel
from manyfit.tuners.remote import RunTask, TrialSupply, make_run_trial, travelling_state
from manyfit.tuners.repeating import Repeating
from manyfit.tuners.results import Results

_IDLE_SECONDS = 0.1


class BaseTuner(Repeating):
    """Runs a search for any kind of model: subclass it and override `run_trial`. For Keras models use `Tuner`.

    Args:
        oracle: decides what is tried.
        hypermodel: a build function or a `HyperModel`; may be None if `run_trial` builds for itself.
        directory: where projects lie.
        project_name: the project's folder in it.
        overwrite: delete an earlier search of that name instead of going on with it.
        executor: where trials run: None for this process, `kt.ProcessExecutor(...)` or `kt.RayExecutor(...)`.
        keras_tuner_files: write KerasTuner's JSON files beside the store, for programs that read them.
        display: "plain" prints KerasTuner's lines, "rich" coloured tables; "auto": these at an interactive terminal.
        **kwargs: `logger`, which is deprecated and not used.

    Raises:
        UsageError: `oracle` is no `Oracle`, `executor` is no `Executor`, an unknown argument, or variables of
            KerasTuner that ask for chief and workers are set.
        ProjectError: the project cannot be used: see `ProjectStore` and `Oracle.open`.
    """

    tuner_id = "tuner0"

    def __init__(
        self,
        oracle: Oracle,
        hypermodel: Any = None,
        directory: str | os.PathLike[str] | None = None,
        project_name: str | None = None,
        overwrite: bool = False,
        *,
        executor: Executor | None = None,
        keras_tuner_files: bool = False,
        display: str = "auto",
        **kwargs: Any,
    ) -> None:
        refuse_chief_and_workers(type(self).__name__)
        self.logger = kwargs.pop("logger", None)
        if self.logger is not None:
            warnings.warn("`logger` is deprecated; it is stored and not used.", DeprecationWarning, stacklevel=2)
        if kwargs:
            raise UsageError(
                explain(
                    type(self).__name__,
                    f"Unrecognized arguments {sorted(kwargs)}",
                    "the arguments of its docstring",
                    f"Type help(kt.{type(self).__name__}).",
                )
            )
        if not isinstance(oracle, Oracle):
            raise UsageError(
                explain(
                    f"{type(self).__name__}(oracle)",
                    f"{oracle!r}. Expected `oracle` argument to be an instance of `Oracle`",
                    "an Oracle",
                    "Type oracle=kt.Oracle(...), or use a ready tuner such as kt.RandomSearch.",
                )
            )
        if executor is not None and not isinstance(executor, Executor):
            raise UsageError(
                explain(
                    f"{type(self).__name__}(executor)",
                    executor,
                    "an executor, or None for this process",
                    "Type executor=kt.ProcessExecutor(workers=2), or kt.RayExecutor().",
                )
            )
        self.executor = executor
        self.oracle = oracle
        self.hypermodel: HyperModel | None = get_hypermodel(hypermodel)
        self.directory = directory or "."
        self.project_name = project_name or "untitled_project"
        self.keras_tuner_files = keras_tuner_files
        self.display = check_display(display)
        self.verbose: Any = 1
        self.store = ProjectStore(self.project_dir, overwrite=overwrite)
        try:
            if self.oracle.open(self.store) or read_project(self.oracle, self.store):
                self._say(f"Reloading Tuner from {self._get_tuner_fname()}")
                self.set_state(self.store.get("tuner_state", {}))
            if self.store.get("space") is None:  # new, or killed before its space was found
                self._populate_initial_space()
                self.oracle.save()
        except BaseException:
            self.store.close()
            raise

    @property
    def project_dir(self) -> str:
        """The project's folder."""
        return str(Path(os.fspath(self.directory)) / self.project_name)

    def get_trial_dir(self, trial_id: str) -> str:
        """A folder for files of a trial, for subclasses that write their own."""
        path = self.store.layout.trial_folder(trial_id)
        path.mkdir(parents=True, exist_ok=True)
        return str(path)

    def _get_tuner_fname(self) -> str:
        return str(Layout.of(self.project_dir).tuner_file(self.tuner_id))

    def _populate_initial_space(self) -> None:
        """Finds the search space before the first trial. `Tuner` runs the build function for it."""
        if self.hypermodel is not None:
            hyperparameters = self.oracle.get_space()
            self.hypermodel.declare_hyperparameters(hyperparameters)
            self.oracle.update_space(hyperparameters)

    def enqueue(self, *configurations: Values) -> None:
        """Has configurations tried before anything else: yesterday's winner, a colleague's guess.

        Args:
            *configurations: mappings of hyperparameter names to values; missing ones get their defaults.

        Raises:
            UsageError: an unknown name, or a value outside of its range.
        """
        for values in configurations:
            self.oracle.enqueue(values)

    def warm_start(self, source: Any) -> int:
        """Lets the trials of an earlier search tell where to look: its winners are tried first.

        How much the others are worth here is learned from results; other data, longer training and a space that has
        changed since are fine. The trials are copied into this project. They do not count towards `max_trials`.

        Args:
            source: another tuner, or the folder of its project (`directory/project_name`).

        Returns:
            How many trials were taken: those that ran in full and have this search's objective among their metrics.

        Raises:
            UsageError: no project is there, no trial in it is of use, or this search's method does not learn.
            ProjectError: another process has the project open.
        """
        if isinstance(source, BaseTuner):
            return self.oracle.warm_start(source.store)
        if not ProjectStore.exists(source):
            raise UsageError(
                explain(
                    "warm_start(source)",
                    f"{source!r}, where no project is",
                    "a tuner, or the folder of its project",
                    'Type warm_start("directory/project_name").',
                )
            )
        store = ProjectStore(source)
        try:
            return self.oracle.warm_start(store)
        finally:
            store.close()

    # The search ------------------------------------------------------------------------------------------------

    def search(self, *fit_args: Any, **fit_kwargs: Any) -> None:
        """Runs trials until the oracle has nothing more.

        Args:
            *fit_args: passed on to `run_trial`.
            **fit_kwargs: passed on to `run_trial`; `verbose=0` prints nothing.

        Raises:
            SearchError: every trial failed, or too many in a row did. What finished before is kept.
        """
        self.verbose = self.oracle.verbose = fit_kwargs.get("verbose", 1)
        self.on_search_begin()
        self.oracle.start_clock()
        try:
            self._run_trials(fit_args, fit_kwargs)
        finally:
            self.oracle.stop_clock()
        if (contenders := self._replication()) is not None:
            self._say(contenders.sentence())
        self.on_search_end()
        self._check_any_completed()

    def _run_trials(self, fit_args: tuple[Any, ...], fit_kwargs: dict[str, Any]) -> None:
        if self.executor is not None:
            task = RunTask(build=self.run_trial, fit=self.run_trial, call=Call(fit_args, fit_kwargs), tuner=self)
            if self._runner is None:
                self._runner = self._on_executor(make_run_trial)
            self._runner.train(TrialSupply(self), task)
            return
        while True:
            self.pre_create_trial()
            trial = self.oracle.create_trial(self.tuner_id)
            if trial.status == TrialStatus.STOPPED:
                self._repeat_contenders(fit_args, fit_kwargs)
                return
            if trial.status == TrialStatus.IDLE:
                time.sleep(_IDLE_SECONDS)
                continue
            self._begin_trial(trial)
            self._try_run_trial(trial, fit_args, fit_kwargs)
            self.on_trial_end(trial)

    def _try_run_trial(self, trial: Trial, fit_args: tuple[Any, ...], fit_kwargs: dict[str, Any]) -> None:
        seed = seeds.seed_of(self.oracle.seed, "execution", trial.trial_id, 0, trial.attempt)
        self._prepare_call()
        try:
            with seeded(seed):  # the user's own training is reproducible, too
                returned = self.run_trial(trial, *fit_args, **fit_kwargs)
        except Exception as error:
            failure = failure_of(error)
            # What the user's code says about its own trial needs no traceback.
            text = failure.line if failure.final else failure.message
            trial.conclude(TrialOutcome(failure.ending, text, failure.final))
        else:
            self._take_histories(trial, returned, seed)
            # Without an execution it was reported to an oracle of the user's, which scores it as it likes.
            trial.conclude(outcome_of(trial.executions) or TrialOutcome(Ending.COMPLETED))

    _trainer: Trainer | None = None  # of models
    _runner: Trainer | None = None  # of whole trials, on an executor

    def _on_executor(self, make: MakeTrainer, *, keeps_programs: bool = False) -> Trainer:
        """A trainer whose executions run on this tuner's executor."""
        assert self.executor is not None
        folder = Path(self.project_dir)
        return self.executor.trainer(make, notify=self._say, folder=folder, keeps_programs=keeps_programs)

    def _take_histories(self, trial: Trial, returned: Any, seed: int) -> None:
        """Takes what `run_trial` returned into the book, in place of what the default `run_trial` put there."""
        if returned is None or returned is not self._recorded:
            self._record(trial, self._histories(trial, returned), seed)
        else:
            self.oracle.hear(trial, [run.history for _, run in sorted(trial.executions.items())])

    def _histories(self, trial: Trial, returned: Any) -> list[dict[str, list[float | None]]]:
        """What `run_trial` returned, as one history per execution."""
        if returned is None and trial.running:
            warnings.warn(
                "Reporting a trial's metrics with `self.oracle.update_trial` in `run_trial` is deprecated. Please "
                "remove the call, and return the metrics.",
                DeprecationWarning,
                stacklevel=2,
            )
            return [dict(history) for _, history in sorted(trial.running.items())]
        return to_histories(returned, self.oracle.objective, "Tuner.run_trial()")

    def _record(self, trial: Trial, found: list[dict[str, list[float | None]]], seed: int) -> None:
        """Writes histories into the book as the executions of this call."""
        self.oracle.book.forget_executions(trial, self._first_execution)
        self.oracle.hear(trial, found)
        for execution, history in enumerate(found, self._first_execution):
            self.oracle.scoring.check(history)
            ending, message = judge(history, self.oracle.objective, stopped=False)
            plan = Plan(trial.trial_id, execution, trial.hyperparameters, seed)
            self.oracle.book.add_execution(Result(plan, ending, history, message=message), **self._notes)

    def run_trial(self, trial: Trial, *fit_args: Any, **fit_kwargs: Any) -> Any:
        """Trains and measures one trial.

        Args:
            trial: `trial.hyperparameters` holds the values to use.
            *fit_args: positional arguments of `search`.
            **fit_kwargs: keyword arguments of `search`.

        Returns:
            A number to be minimised, a dict of metrics with the objective in it, a Keras `History`, or a list of
            these, one per execution.
        """
        raise NotImplementedError(f"{type(self).__name__}.run_trial is abstract: override it.")

    def _check_any_completed(self) -> None:
        if self.oracle.compat == "keras_tuner":
            return  # its searches end in silence
        trials = list(self.oracle.trials.values())
        if trials and not any(trial.is_completed for trial in trials):
            failed = [trial for trial in trials if trial.status == TrialStatus.FAILED]
            if failed:
                raise SearchError(
                    f"search: all {len(failed)} trials failed, so there is nothing to rank. Causes:\n"
                    f"{failure_report(failed)}\n"
                    "See tuner.results() for each trial's message, mend the cause, and search with overwrite=True."
                )

    # Hooks -----------------------------------------------------------------------------------------------------

    def _is_worker(self) -> bool:
        """KerasTuner's question: one process owns the search, and it is this one."""
        return False

    def on_search_begin(self) -> None:
        """Called before the first trial of a `search`."""

    def on_search_end(self) -> None:
        """Called after the last trial of a `search`."""

    def pre_create_trial(self) -> None:
        """Called before a trial is asked for, where trials run one by one."""

    def on_trial_begin(self, trial: Trial) -> None:
        """Called when a trial starts."""

    def on_trial_end(self, trial: Trial) -> None:
        """Called when a trial has ended: hands it to the oracle. Overrides call `super().on_trial_end(trial)`."""
        self.oracle.end_trial(trial)
        if type(self).get_state is not BaseTuner.get_state:
            self.store.put(tuner_state=self.get_state())
        if self.keras_tuner_files:
            write_project(self.oracle, self.store, {self.tuner_id: self.get_state()}, [trial])
        self._after_trial(trial)
        self._say_end(trial)

    def _begin_trial(self, trial: Trial) -> None:
        self._say_begin(trial)
        if self.keras_tuner_files:
            write_project(self.oracle, self.store, {self.tuner_id: self.get_state()}, [trial])
        if trial.state is TrialState.QUEUED:  # made by an oracle of the user's, whose `create_trial` is its own
            trial.move(TrialState.RUNNING)
        self.on_trial_begin(trial)

    def _after_trial(self, trial: Trial) -> None:
        """For subclasses: the trial's end is recorded."""

    def save_model(self, trial_id: str, model: Any, step: int = 0) -> None:
        """Keeps a trial's model; override it for models that are not Keras's."""
        raise NotImplementedError(f"{type(self).__name__}.save_model is abstract: override it.")

    def load_model(self, trial: Trial) -> Any:
        """Brings a trial's model back; override it for models that are not Keras's."""
        raise NotImplementedError(f"{type(self).__name__}.load_model is abstract: override it.")

    # What comes back -------------------------------------------------------------------------------------------

    def get_best_models(self, num_models: int | None = None) -> list[Any]:
        """The models of the best trials, with the weights of their best epochs, best first.

        Args:
            num_models: how many; fewer come back when fewer trials completed or had their weights kept. None: the
                best one, or with several objectives the whole front.

        Raises:
            UsageTypeError: `num_models` is no number.
        """
        return [self.load_model(trial) for trial in self.oracle.get_best_trials(num_models)]

    def get_best_hyperparameters(self, num_trials: int | None = None) -> list[HyperParameters]:
        """The `HyperParameters` of the best trials, best first; build a model from them with `hypermodel.build(hp)`.

        Args:
            num_trials: how many; None: the best one, or with several objectives the whole front.
        """
        return [trial.hyperparameters for trial in self.oracle.get_best_trials(num_trials)]

    def search_space_summary(self, extended: bool = False) -> None:
        """Prints the search space."""
        del extended  # KerasTuner has this argument, and ignores it as well
        print(terminal.space_summary(self.oracle.get_space().space))

    def results_summary(self, num_trials: int = 10) -> None:
        """Prints the best trials, then those that failed; where contenders were repeated, how sure the order is.

        Args:
            num_trials: how many are shown at most.
        """
        shown = self.oracle.get_best_trials(num_trials)
        failed = [trial for trial in self.oracle.trials.values() if trial.status == TrialStatus.FAILED]
        shown += failed[: max(0, num_trials - len(shown))]
        lines = ["Results summary", f"Results in {self.project_dir}", f"Showing {num_trials} best trials"]
        print("\n".join([*lines, str(self.oracle.objective)]))
        front = self.oracle.book.front()
        for trial in shown:
            print()
            trial.summary()
            for line in self.oracle.book.ranking.notes(trial, front):
                print(line)
        if self.oracle.scheduler.max_epochs is not None:
            spent = self.results()
            print(f"\nEpochs: {spent.epochs_spent} trained; {spent.epochs_full} without the scheduler.")
        if (contenders := self._replication()) is not None:
            print(f"\n{contenders.sentence()}")

    def results(self) -> Results:
        """One row per execution: values, seed, status, best epoch, every metric, seconds; and the curves."""
        return Results.of(list(self.oracle.trials.values()), self.oracle.scheduler.max_epochs)

    @property
    def remaining_trials(self) -> int | None:
        """How many more trials may be started; None: no limit."""
        return self.oracle.remaining_trials()

    # Memory ----------------------------------------------------------------------------------------------------

    def get_state(self) -> dict[str, Any]:
        """Further facts of a subclass, as JSON, for `save`."""
        return {}

    def set_state(self, state: dict[str, Any]) -> None:
        """The inverse of `get_state`."""

    def save(self) -> None:
        """Stores `get_state()` and the space. Everything else is stored when it happens."""
        self.store.put(tuner_state=self.get_state())
        self.oracle.save()
        if self.keras_tuner_files:
            write_project(self.oracle, self.store, {self.tuner_id: self.get_state()}, list(self.oracle.trials.values()))

    def reload(self) -> None:
        """Reads the project again, `set_state` included."""
        self.oracle.reload()
        self.set_state(self.store.get("tuner_state", {}))

    def close(self) -> None:
        """Closes the project, so that another process may open it. Done by itself when the tuner is gone."""
        for trainer in (self._trainer, self._runner):
            if trainer is not None:
                trainer.close()
        self.store.close()

    def __getstate__(self) -> dict[str, Any]:
        """A tuner travels to workers without its store, its data and its history."""
        return travelling_state(self)
