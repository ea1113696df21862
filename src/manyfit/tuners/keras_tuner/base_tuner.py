"""The part of a tuner that knows trials but no training: project, search loop, hooks, summaries."""

from __future__ import annotations

import contextlib
import os
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from manyfit.core.clock import Clock
from manyfit.core.environment import refuse_chief_and_workers
from manyfit.core.errors import ProjectError, UsageError, explain, warn_user
from manyfit.core.lifecycle import TrialState
from manyfit.core.limits import TrialLimits
from manyfit.core.records import Values
from manyfit.core.signatures import NAME, at_least, checked_arguments, checked_methods
from manyfit.data.arguments import not_finite
from manyfit.data.call import Call
from manyfit.data.identity import RepeatedRows, fingerprints_of
from manyfit.evidence.stopping import StopCondition
from manyfit.executors.base import Executor, MakeTrainer
from manyfit.finish.leader import leader_of
from manyfit.fitting.signals import Interruptible, what_is_kept
from manyfit.fitting.standing import Standing
from manyfit.oracles import Oracle, Trial, endings
from manyfit.oracles.checks import check_any_completed, warn_of_unmet_beliefs
from manyfit.oracles.keras_tuner.files import read_project, write_project
from manyfit.oracles.replication import Replication
from manyfit.report import terminal
from manyfit.report.colours import check_display
from manyfit.space.hyperparameters import HyperParameters
from manyfit.store import ProjectStore
from manyfit.store.facts import REPEATED, Leader
from manyfit.store.layout import ProjectLayout
from manyfit.training.base import Trainer
from manyfit.tuners.display import TrialDisplay, print_summary
from manyfit.tuners.keras_tuner.arguments import check_parts
from manyfit.tuners.keras_tuner.hypermodel import BuildFunction, HyperModel, get_hypermodel
from manyfit.tuners.keras_tuner.one_by_one import OneByOne, RunTrialCall, TrialSteps
from manyfit.tuners.keras_tuner.remote import DistantOracle, DistantStore, RunTask, TrialSupply, make_run_trial
from manyfit.tuners.looking import LookedAt
from manyfit.tuners.stopping import StopsWhen
from manyfit.tuners.tracking import Tracking


@checked_methods("enqueue", "stop_trial", "warm_start", "search_space_summary")
class BaseTuner(LookedAt):
    """Runs a search for any kind of model: subclass it and override `run_trial`. For Keras models use `Tuner`.

    Args:
        oracle: decides what is tried.
        hypermodel: a build function or a `HyperModel`; may be None if `run_trial` builds for itself.
        directory: where projects lie.
        project_name: the project's folder in it.
        overwrite: delete an earlier search of that name instead of going on with it.
        executor: where trials run: None for this process, `kt.ProcessExecutor(...)` or `kt.RayExecutor(...)`.
        max_seconds_per_trial: of each training run; one that is not done by then fails as "too slow" (docs/trust.md).
        max_memory: bytes, or a text like "2GB", that a process may hold while it trains; else the trial fails.
        keras_tuner_files: write KerasTuner's JSON files beside the store, for programs that read them.
        trust: load estimators of the project although you did not write them on this machine. They are pickles, which
            can run any code: say so only of a project whose origin you know.
        display: "plain" (KerasTuner's lines), "lines" (one per trial), "rich" (a progress), "auto"; docs/looking.md.
        **kwargs: `logger`, which is deprecated and not used.

    Raises:
        UsageError: `oracle` is no `Oracle`, `executor` is no `Executor`, an unknown argument, or variables of
            KerasTuner that ask for chief and workers are set.
        ProjectError: the project cannot be used: see `ProjectStore` and `Oracle.open`.
    """

    tuner_id = "tuner0"

    @checked_arguments(skip=("oracle", "executor", "hypermodel", "display"), project_name=NAME)
    def __init__(
        self,
        oracle: Oracle,
        hypermodel: HyperModel | BuildFunction | None = None,
        directory: str | os.PathLike[str] | None = None,
        project_name: str | None = None,
        overwrite: bool = False,
        *,
        executor: Executor | None = None,
        max_seconds_per_trial: float | None = None,
        max_memory: int | str | None = None,
        keras_tuner_files: bool = False,
        trust: bool = False,
        display: str = "auto",
        **kwargs: Any,
    ) -> None:
        refuse_chief_and_workers(type(self).__name__)
        self.logger = kwargs.pop("logger", None)
        if self.logger is not None:
            warnings.warn("`logger` is deprecated; it is stored and not used.", DeprecationWarning, stacklevel=2)
        check_parts(type(self), oracle, executor, kwargs)
        self.executor, self.trial_limits = executor, TrialLimits.of(max_seconds_per_trial, max_memory)
        self.oracle = oracle
        self.limits: tuple[Clock, ...] = ()  # of the calls that a step is a part of
        # Made before the project is opened: overridden hooks are called while it is, and may print or train.
        self._runner: Trainer | None = None  # of whole trials, on an executor
        self.hypermodel: HyperModel | None = get_hypermodel(hypermodel)
        self.directory = directory or "."
        self.project_name = project_name or "untitled_project"
        self.keras_tuner_files, self.trust = keras_tuner_files, trust
        self.display = check_display(display)
        self._display = TrialDisplay(oracle, self.display, self.project_dir)
        self.standing: Standing | None = None  # what keeps the best model on disk while `fit` runs
        self.trial_call = RunTrialCall()
        self._one_by_one = OneByOne(oracle, self.trial_call, self._display.say, self.trial_limits)
        self._tracking = Tracking(oracle, self.project_dir)
        self.store = ProjectStore(self.project_dir, overwrite=overwrite)
        try:
            if self.oracle.open(self.store) or read_project(self.oracle, self.store):
                self._display.say(f"Reloading Tuner from {self._get_tuner_fname()}")
                self.set_state(self.store.get("tuner_state", {}))
            # "space" is written last: without it the project is new, or was killed before its space was found.
            if self.store.get("space") is None:
                with self._display.while_building():
                    self._populate_initial_space()
                self.oracle.save()
        except BaseException:
            self.store.close()  # else the lock of the project stays taken as long as the exception's traceback lives
            raise

    @property
    def project_dir(self) -> str:
        """The project's folder."""
        return str(Path(os.fspath(self.directory)) / self.project_name)

    @checked_arguments(trial_id=NAME)
    def get_trial_dir(self, trial_id: str) -> str:
        """A folder for files of a trial, for subclasses that write their own."""
        path = self.store.layout.trial_folder(trial_id)
        path.mkdir(parents=True, exist_ok=True)
        return str(path)

    def _get_tuner_fname(self) -> str:
        return str(ProjectLayout.of(self.project_dir).tuner_file(self.tuner_id))

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
        self.refresh()
        for values in configurations:
            self.oracle.enqueue(values)

    def stop(self) -> None:
        """Ends what is under way, from another thread or a callback: a search's trials end with the epochs they have.

        In a call of `fit` the winner is then chosen from what there is. `confirm`, `bag` and `retrain` return what
        they have, as at the end of their `max_seconds`. Where nothing runs nothing happens.
        """
        self.oracle.requests.stop("tuner.stop() was called")

    def stop_trial(self, trial_id: str) -> bool:
        """Has a trial stop after its epoch, with the epochs that it has; answers whether it had not ended before.

        Raises:
            UsageKeyError: there is no such trial.
        """
        return self.oracle.requests.stop_trial(trial_id)

    def warm_start(self, source: BaseTuner | str | os.PathLike[str]) -> int:
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
        self.refresh()
        if isinstance(source, BaseTuner):
            return self.oracle.warm_start(source.store)
        if not ProjectStore.exists(source):
            got, allowed = f"{source!r}, where no project is", "a tuner, or the folder of its project"
            instead = 'Type warm_start("directory/project_name").'
            raise UsageError(explain("warm_start(source)", got, allowed, instead))
        # Opened like any project, so that one that is being searched by another process is refused.
        store = ProjectStore(source)
        try:
            return self.oracle.warm_start(store)
        finally:
            store.close()

    # The search ------------------------------------------------------------------------------------------------

    def search(self, *fit_args: Any, stop_when: StopCondition | None = None, **fit_kwargs: Any) -> None:
        """Runs trials until the oracle has nothing more.

        Args:
            *fit_args: passed on to `run_trial`.
            stop_when: ends the search earlier: `kt.Reached(0.98) | kt.NoGain(trials=20)`, say.
            **fit_kwargs: passed on to `run_trial`, but for `trackers`, see docs/looking.md; `verbose=0` prints nothing.

        Raises:
            UsageError: `stop_when` is no condition, or there are several objectives; a tracker that is none.
            SearchError: every trial failed, or too many in a row did. What finished before is kept.
        """
        self._tracking.follow(fit_kwargs.pop("trackers", None))
        with self._display.showing_alone("a search", fit_kwargs.get("verbose", 1)):
            self._search_for(StopsWhen.of(stop_when, self.oracle, self._leader), fit_args, fit_kwargs)

    def _search_for(self, stops: StopsWhen | None, fit_args: tuple[Any, ...], fit_kwargs: dict[str, Any]) -> None:
        # The oracle's as well: oracles of KerasTuner's users print by it.
        self.verbose = self.oracle.verbose = fit_kwargs.get("verbose", 1)
        work = endings.work_of(self.oracle)
        call = Call(fit_args, fit_kwargs)
        if other_data := endings.notice_data(self.oracle, fingerprints_of(call)):
            warn_user(other_data)  # whatever `verbose` says: a ranking of such scores is wrong
        if (repeated := RepeatedRows.of_call(call)) is not None:
            self.oracle.book.note(**{REPEATED: repeated})
        # Before the clock: what a hook does to prepare does not count towards `max_seconds`.
        self.on_search_begin()
        with self.interruptible("search"), self.oracle.book.events.listening(stops):
            self.oracle.start_clock()
            try:
                self._run_trials(fit_args, fit_kwargs)
            except BaseException as error:
                with contextlib.suppress(ProjectError):  # that the store cannot be written may be the very reason
                    endings.broken_off(self.oracle, error).keep(self.oracle.book)
                raise
            finally:
                self.oracle.stop_clock()
        has_run = endings.work_of(self.oracle) != work
        self._end_search(has_run=has_run)
        self.on_search_end()
        if has_run:
            warn_of_unmet_beliefs(self.oracle.sampler, self.oracle.hyperparameters)
        if self.oracle.compat != "keras_tuner":  # its searches end in silence
            call = Call(fit_args, fit_kwargs)
            check_any_completed(self.oracle.book.trials.values(), lambda: not_finite(call))

    @contextlib.contextmanager
    def limited(self, clock: Clock) -> Iterator[None]:
        """Within it every step ends in time for a clock, whatever its own limit: for calls that make several steps.

        Args:
            clock: that runs.
        """
        before = self.limits
        self.limits = self.oracle.clock.within = (*before, clock)
        try:
            yield
        finally:
            self.limits = self.oracle.clock.within = before

    def _end_search(self, *, has_run: bool) -> None:
        """Keeps why a search ended, and says it."""
        end, contenders = endings.end_of(self.oracle), self._replication()
        if contenders is not None:  # these say themselves that the space is exhausted
            before = "" if end.reason is endings.SearchEnd.EXHAUSTED else f"{end.sentence} "
            end = endings.EndOfSearch(end.reason, f"{before}{contenders.sentence()}")
        end.keep(self.oracle.book)
        if not has_run:
            self._display.say(endings.nothing_left(self.oracle, end))
        elif self.oracle.compat != "keras_tuner" or contenders is not None:  # KerasTuner's searches end in silence
            self._display.search_ends(end.sentence)

    def interruptible(self, step: str) -> Interruptible:
        """Within it Ctrl+C and SIGTERM end a step in good order."""
        return Interruptible(lambda: what_is_kept(step, self.oracle, self.project_dir), self._display.say)

    @property
    def ended_by(self) -> endings.SearchEnd | None:
        """Why the latest search of this project ended: "max_trials", "exhausted", ...; None before the first end."""
        end = endings.EndOfSearch.kept(self.store)
        return None if end is None else end.reason

    def _run_trials(self, fit_args: tuple[Any, ...], fit_kwargs: dict[str, Any]) -> None:
        """Runs the trials of a search: here by `run_trial`, one after another, in this process or on the executor."""
        if self.executor is None:
            self._one_by_one.run(self._trial_steps(self._begin_trial), self.tuner_id, fit_args, fit_kwargs)
            return
        run, call = self.run_trial, Call(fit_args, fit_kwargs)
        task = RunTask(build=run, fit=run, call=call, tuner=self, limits=self.trial_limits)
        # Kept: workers that have started serve the next search, too.
        if self._runner is None:
            self._runner = self._on_executor(make_run_trial)
        if not endings.is_complete(self.oracle):  # else workers would start for nothing
            self._runner.train(self.trial_supply(), task)

    def _trial_steps(self, begin: Callable[[Trial], None]) -> TrialSteps:
        return TrialSteps(
            before=self.pre_create_trial,
            begin=begin,
            run=self.run_trial,
            end=self.on_trial_end,
            repeated=self._after_trial,
        )

    def trial_supply(self) -> TrialSupply:
        """Whole trials for a trainer that calls `run_trial` elsewhere."""
        # Several begin before one ends, so nothing is printed when they do.
        steps = self._trial_steps(self.on_trial_begin)
        return TrialSupply(self.oracle, self._one_by_one, steps, self.store.weights_path)

    def _on_executor(self, make: MakeTrainer, *, keeps_programs: bool = False) -> Trainer:
        """A trainer whose executions run on this tuner's executor."""
        assert self.executor is not None  # our bug: the caller asks
        folder = Path(self.project_dir)
        return self.executor.trainer(make, notify=self._display.say, folder=folder, keeps_programs=keeps_programs)

    def _replication(self) -> Replication | None:
        """Where the repetition of contenders stands; None where nothing is repeated."""
        return self.oracle.replication(self._num_executions()) if self.oracle.ends_with_contenders() else None

    def _leader(self) -> Leader | None:
        """Who leads the search, and what is luck in that."""
        return leader_of(self.oracle, None)

    def _num_executions(self) -> int | None:
        """Executions per trial where Manyfit trains; None where a call of `run_trial` decides how many it makes."""
        return None

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
        # After the oracle: a state that tells of more trials than the book has would be wrong after a kill.
        if type(self).get_state is not BaseTuner.get_state:
            self.oracle.book.put(tuner_state=self.get_state())
        if self.keras_tuner_files:
            write_project(self.oracle, self.store, {self.tuner_id: self.get_state()}, [trial])
        self._after_trial(trial)
        if self.standing is not None:
            self.standing.trial_ended(trial, self.load_model)
        self._display.trial_ends(trial)

    def _begin_trial(self, trial: Trial) -> None:
        self._display.trial_begins(trial)
        if self.keras_tuner_files:
            write_project(self.oracle, self.store, {self.tuner_id: self.get_state()}, [trial])
        if trial.state is TrialState.QUEUED:  # made by an oracle of the user's, whose `create_trial` is its own
            trial.move(TrialState.RUNNING)
        self.on_trial_begin(trial)

    def _after_trial(self, trial: Trial) -> None:
        """For subclasses: the trial's end is recorded."""

    def save_model(self, trial_id: str, model: object, step: int = 0) -> None:
        """Keeps a trial's model; override it for models that are not Keras's."""
        raise NotImplementedError(f"{type(self).__name__}.save_model is abstract: override it.")

    def load_model(self, trial: Trial) -> Any:
        """Brings a trial's model back; override it for models that are not Keras's."""
        raise NotImplementedError(f"{type(self).__name__}.load_model is abstract: override it.")

    # What comes back -------------------------------------------------------------------------------------------

    @checked_arguments(num_models=at_least(1))
    def get_best_models(self, num_models: int | None = None) -> list[Any]:
        """The models of the best trials, with the weights of their best epochs, best first.

        Args:
            num_models: how many; fewer come back when fewer trials completed or had their weights kept. None: the
                best one, or with several objectives the whole front.

        Raises:
            UsageTypeError: `num_models` is no number.
        """
        return [self.load_model(trial) for trial in self.oracle.get_best_trials(num_models)]

    @checked_arguments(num_trials=at_least(1))
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

    @checked_arguments(num_trials=at_least(1))
    def results_summary(self, num_trials: int = 10) -> None:
        """Prints the best trials, then those that failed; where contenders were repeated, how sure the order is.

        Args:
            num_trials: how many are shown at most.
        """
        print_summary(self.oracle, self.project_dir, num_trials, self._replication())

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
        self.oracle.book.put(tuner_state=self.get_state())
        self.oracle.save()
        if self.keras_tuner_files:
            write_project(self.oracle, self.store, {self.tuner_id: self.get_state()}, list(self.oracle.trials.values()))

    def reload(self) -> None:
        """Reads the project again, `set_state` included."""
        self.oracle.reload()
        self.set_state(self.store.get("tuner_state", {}))

    def refresh(self) -> None:
        """Reads the project again where another tuner of this process has added to it since."""
        if self.oracle.book.has_changed():
            self.reload()

    def close(self) -> None:
        """Closes the project, so that another process may open it. Done by itself when the tuner is gone."""
        if self._runner is not None:
            self._runner.close()
        self._tracking.close()
        self._display.close()
        self.store.close()

    # On executors ----------------------------------------------------------------------------------------------

    def __getstate__(self) -> dict[str, object]:
        """A tuner travels to workers with all that a subclass has set, and stand-ins for what stays here."""
        return {**vars(self), **self.stand_ins()}

    def stand_ins(self) -> dict[str, object]:
        """What a worker's copy has in place of parts that stay with this process: by attribute.

        A class that adds such a part extends this. Everything else travels, whatever it is: a subclass's own attributes
        are what its hooks work with.
        """
        return {
            "oracle": DistantOracle(self.oracle),
            "store": DistantStore(),
            "trial_call": RunTrialCall(),
            **dict.fromkeys(["executor", "standing", "_one_by_one", "_runner", "_tracking"]),
        }
