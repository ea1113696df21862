"""A tuner whose trials train together: what a search settles before it trains, and how it runs."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Unpack

import keras

from manyfit.core import environment
from manyfit.core.errors import UsageError, explain, warn_user
from manyfit.core.objective import ParetoObjective
from manyfit.core.records import Configuration, Values
from manyfit.data.arguments import check_call, check_data, check_fit_arguments
from manyfit.data.call import FIT_PARAMETERS, Call
from manyfit.data.folds import FoldPlan, fold_plan
from manyfit.data.parts import RowParts, with_validation
from manyfit.data.row_names import names_of_kept_rows
from manyfit.data.rows import Rows
from manyfit.evidence.stopping import StopCondition
from manyfit.finish.fold_runs import FOLDS, fold_names
from manyfit.finish.leader import leader_of
from manyfit.oracles import Oracle, Trial, endings
from manyfit.schedulers import Scheduler
from manyfit.space.hyperparameters import HyperParameters
from manyfit.store.answers import Answers
from manyfit.store.facts import Leader, SearchPlan
from manyfit.store.predictions import Archive
from manyfit.training import tensorboard
from manyfit.training.base import Task, Trainer
from manyfit.training.callbacks import too_few_epochs
from manyfit.training.estimators import check_rows
from manyfit.training.keras_settings import clear_session
from manyfit.training.precision import sentence
from manyfit.training.program_report import Programs
from manyfit.training.rehearsal import mentions
from manyfit.training.replay import CALLED, DATA, facts_of, recorded_call
from manyfit.tuners.answering import answering, asked_rows
from manyfit.tuners.keeping import keeping
from manyfit.tuners.keras_tuner.base_tuner import BaseTuner
from manyfit.tuners.keras_tuner.callbacks import is_overridden, only_keras
from manyfit.tuners.keras_tuner.hypermodel import BuildFunction, HyperModel, ReadySpace, overrides_fit
from manyfit.tuners.keras_tuner.one_by_one import RETURNED, TakenDown
from manyfit.tuners.keras_tuner.overrides import ModelTuner
from manyfit.tuners.options import (
    CallArguments,
    RetrainArguments,
    SearchArguments,
    StepArguments,
    described_by,
    spelled_out,
)
from manyfit.tuners.recording import Recording, SearchSources
from manyfit.tuners.row_parts import check_parts, parts_of
from manyfit.tuners.supply import SearchSupply
from manyfit.tuners.trainers import TrainerChoice, Trainers, exploring_builds, may_fuse, price_of_backend


@dataclasses.dataclass(frozen=True)
class LatestSearch:
    """What the latest `search` in this process trained on: what follows it takes the same data."""

    task: Task
    folds: FoldPlan | None
    asked: Rows | None = None  # rows to be answered, see `search(predict=...)`


class PopulationTuner(ModelTuner):
    """Searches with trials that train together where that is possible; the base of `Tuner`, which says what it takes.

    Where the user's own code runs trials, it is `ModelTuner` that runs them, one by one.

    Args:
        oracle: decides what is tried.
        hypermodel: a build function or a `HyperModel`.
        population: whether trials train together.
        population_size: most members that train together; None: found by measurement.
        keep_predictions: whether every trial's predictions of rows that it did not train on are kept.
        **kwargs: see `ModelTuner`.
    """

    def __init__(
        self,
        oracle: Oracle,
        hypermodel: HyperModel | BuildFunction | None = None,
        *,
        population: bool = True,
        population_size: int | None = None,
        keep_predictions: bool = True,
        **kwargs: Any,
    ) -> None:
        self.population = population
        self.population_size = population_size
        self.keep_predictions = keep_predictions
        self.latest_search: LatestSearch | None = None
        self.row_parts: RowParts | None = None  # of trials that begin on a part of the rows; None: by class
        self._ran_alone: dict[str, tuple[str, ...]] = {}  # trials of a `run_trial` of the user's, by reason
        super().__init__(oracle, hypermodel, **kwargs)
        self._trainers = Trainers(self._display.say, None if self.executor is None else self._on_executor)
        recording = Recording(
            oracle, plan=self._search_plan, programs=self._compiled, predictions=lambda: self.predictions_archive
        )
        oracle.book.events.listen(recording)
        # After the recording: what is drawn is what it has just looked at.
        sources = SearchSources(oracle, recording, self._search_plan)
        self._display.watch(sources, redraws=lambda: self._fuses() or self._trains_itself())

    def stand_ins(self) -> dict[str, object]:
        """See `BaseTuner`. The trainers and the data of the search stay here: executions bring theirs."""
        return {**super().stand_ins(), "_trainers": None, "latest_search": None}

    def _populate_initial_space(self) -> None:
        with exploring_builds(self._fuses()):
            super()._populate_initial_space()

    @described_by(SearchArguments, CallArguments, RetrainArguments, StepArguments)
    @spelled_out(SearchArguments, keras.Model.fit, places=("x", "y"))
    def search(  # type: ignore[override]  # names that are known in place of any
        self, *fit_args: Any, stop_when: StopCondition | None = None, **arguments: Unpack[SearchArguments]
    ) -> None:
        """Searches. Takes what `model.fit` takes, and passes it on: data, epochs, callbacks and the rest.

        Args:
            *fit_args: usually x and y.
            stop_when: ends the search earlier: `kt.Reached(0.98) | kt.NoGain(trials=20)`, say.
            **arguments: of `model.fit`, and four of its own: see `CallArguments`.

        Raises:
            UsageError: the data cannot be right, or the objective is not among the metrics that were logged.
            UsageError: names of rows that are missing, there twice, or of another number of rows.
            UsageError: rows to be answered that are none, or not like x; or where nothing of trials is kept.
            UsageError: a tracker that is none.
            ImportError: a tracker's tool is not installed.
            SearchError: every trial failed, or too many in a row did. What finished before is kept.

        Example: `tuner.search(x, y, epochs=10, validation_split=0.2)`; docs/tutorials/keras-tuner.md runs one.
        """
        with self._display.showing("a search", arguments.get("verbose", 1), stays=True):
            self._search(fit_args, {**arguments}, stop_when)

    def _search(self, fit_args: tuple[Any, ...], fit_kwargs: dict[str, Any], stop_when: StopCondition | None) -> None:
        # Taken out before anything is made of the arguments: `model.fit` does not know these.
        given, row_id = fit_kwargs.pop("cross_validation", None), fit_kwargs.pop("row_id", None)
        predict = fit_kwargs.pop("predict", None)
        self._tracking.follow(fit_kwargs.pop("trackers", None))
        if self._estimators:
            given = folds_for_estimators(self.oracle.scheduler, given, fit_kwargs)
            if self._trains_itself():
                check_rows(Call(fit_args, fit_kwargs).rows)
        build = None if self.hypermodel is None else self.hypermodel.build
        if isinstance(build, ReadySpace):
            build.check_rows(Call(fit_args, fit_kwargs).rows)
            if not self.oracle.trials:
                self.oracle.proposals.begin_with(build.starts)
        # Folds come first: whether there are validation rows, which the checks below ask, depends on them.
        call = Call(fit_args, fit_kwargs)
        folds = None if given is None else fold_plan(given, call)
        begun = [trial for trial in self.oracle.trials.values() if trial.is_open and trial.num_rows is not None]
        in_parts = self.oracle.scheduler.may_restart or bool(begun)  # by a `fit` that was killed
        if in_parts:
            trains_here = self.executor is None and self._trains_itself()
            elsewhere = None if trains_here else self._own_training()
            check_parts(self.oracle, call, elsewhere, has_folds=folds is not None)
            call = with_validation(call)
            fit_args, fit_kwargs = call.args, dict(call.kwargs)
        self.oracle.set_epochs(fit_kwargs.get("epochs"))  # before the checks, which ask how long a trial is
        if self.oracle.scheduler.may_branch:
            check_branching(self.oracle, self._own_training(), call)
        if self._trains_itself() and not overrides_fit(self.hypermodel):
            self._check_call(call, has_folds=folds is not None)
        names = names_of_kept_rows(row_id, call, has_folds=folds is not None) if self._trains_itself() else None
        # A `run_trial` of the user's may ask for hyperparameters that no build shows: its proposals stay as they are.
        self.oracle.proposals.settle = self._settle if self.hypermodel is not None and self._trains_itself() else None
        task = tensorboard.per_execution(self._make_task(fit_args, fit_kwargs))
        # Set before `searched_task` is asked, which refuses folds where the user's own code trains.
        if in_parts:
            task = dataclasses.replace(task, parts=self.row_parts or parts_of(call, self.oracle.seed))
        self.latest_search = LatestSearch(task, folds)
        if folds is not None:
            searched = self.searched_task("search(cross_validation=...)")
            task = dataclasses.replace(searched, split_for=folds.split_for)
        if self._keeps_predictions:
            task = keeping(task, self.predictions_archive, folds, names)
        asked = None if predict is None else asked_rows(predict, task.call, keeps=self._keeps_predictions)
        task = answering(task, Answers.beside(self.predictions_archive), asked)
        if self.standing is not None and self.executor is None:  # workers are told of in `on_trial_end`
            task = dataclasses.replace(task, watch=self.standing.epochs_ended)
        self.latest_search = LatestSearch(task, folds, asked)
        # Of all trials: another process, or an error, may have come between a trial's end and what is deleted then.
        self._with_weights.update(self.oracle.trials)
        super().search(*fit_args, stop_when=stop_when, **fit_kwargs)

    def _leader(self) -> Leader | None:
        return leader_of(self.oracle, self.predictions_archive)

    @property
    def _keeps_predictions(self) -> bool:
        return self.keep_predictions and self._trains_itself()

    def _own_training(self) -> str | None:
        """What of the user's, or of another process, trains in place of Manyfit here; None: nothing does."""
        if self.executor is not None:
            return f"executor={type(self.executor).__name__}, whose workers do not share what they hold"
        if not self._trains_itself():
            return f"{self._own_run_trial}, which trains in its own way"
        return "a HyperModel.fit of its own" if overrides_fit(self.hypermodel) else None

    def _make_task(self, *args: Any, **kwargs: Any) -> Task:
        task = super()._make_task(*args, **kwargs)
        task = dataclasses.replace(task, shows_bars=not self._display.is_alone)
        if task.fit is None or not self._trains_itself():
            return task
        if self.executor is not None:  # whose workers know nothing of the space
            return dataclasses.replace(task, why_fit_alone="runs on an executor, where it is called for each training")
        return dataclasses.replace(task, brought_to_light=self._add_to_space)

    def _add_to_space(self, values: Configuration) -> None:
        """Takes in at once what a `fit` of the user's asks for: more trials begin before the first has ended."""
        assert isinstance(values, HyperParameters)  # our bug: a tuner's plans hold them
        if self.oracle.allow_new_entries:  # else the end of the trial says what is wrong
            self.oracle.update_space(values)

    def _check_call(self, call: Call, *, has_folds: bool) -> None:
        """Refuses what cannot be right, and warns of callbacks that a trial is too short for."""
        known = has_folds or environment.written_for_keras_tuner  # there a trial tells what is missing
        limit, given = self.oracle.scheduler.max_epochs, call.get("epochs")
        check_call(call, takes_more=not set(call.kwargs).issubset(FIT_PARAMETERS) and self._models_have_own_fit())
        check_data(call, estimators=self._estimators, takes_texts=keras.backend.backend() == "tensorflow")
        check_fit_arguments(call, self.oracle.objective, has_validation=known, max_epochs=limit)
        epochs = limit or (1 if given is None else given)
        if said := too_few_epochs(call.callbacks, epochs, are_given=limit is not None or given is not None):
            warn_user(said)

    def _models_have_own_fit(self) -> bool:
        """Whether what the build function returns is a Keras model that trains in its own way."""
        try:
            model = self._build(self.oracle.get_space())
        except Exception:  # the trials will say what is wrong
            return True
        finally:
            clear_session()
        return isinstance(model, keras.Model) and type(model).fit is not keras.Model.fit

    @property
    def predictions_archive(self) -> Archive:
        """Where the predictions of the search are kept."""
        return Archive(self.store.layout.predictions, is_sound=self.store.is_sound)

    def _settle(self, values: Values) -> Values:
        """What the build function makes of a proposal. One that it cannot build stays as it is, and will fail.

        Bounds may depend on other values, and what is asked for on other choices: only a build tells which values a
        proposal really has, and so whether it was tried before.
        """
        hyperparameters = self.oracle.get_space()
        hyperparameters.values = dict(values)
        try:
            self._build(hyperparameters)
        except Exception:  # the trial's own build will say what is wrong, and end as the trial's failure
            return values
        finally:
            clear_session()
        return {name: hyperparameters.values[name] for name in values if name in hyperparameters.values}

    def _run_trials(self, fit_args: tuple[Any, ...], fit_kwargs: dict[str, Any]) -> None:
        """Runs the trials of a search: together, unless something of the user's has to run them one by one."""
        one_by_one = self._runs_one_by_one()
        taken_down = self._taken_down(fit_args, fit_kwargs) if one_by_one == [self._own_run_trial] else None
        if one_by_one and taken_down is None:
            if self.executor is None:  # its workers run as many trials at once as there are workers
                self._trainers.say_why_sequential(one_by_one, self._fuses())
            super()._run_trials(fit_args, fit_kwargs)
            return
        assert self.latest_search is not None  # our bug: `search` sets it
        task = dataclasses.replace(self.latest_search.task, clock=self.oracle.clock)
        if taken_down is not None:
            task = taken_down.task(task)
        # "auto" picks a precision by device, which changes results: people have to see it.
        if said := sentence(self.model_options.precision):
            self._display.say(said)
        might_fuse = self.population and not self._estimators and self.distribution_strategy is None
        if might_fuse and (said := price_of_backend(in_workers=self.executor is not None)):
            self._display.say(said)
        folds = self._folds()
        fold_notes = {} if folds is None else {FOLDS: fold_names(folds, task.call.rows, task.call)}
        supply = SearchSupply(
            self.oracle,
            self._num_executions() or self.executions_per_trial,
            weights_path=self.store.weights_path,
            begin=self._begins if taken_down is None else taken_down.begin,
            end=self.on_trial_end if taken_down is None else taken_down.end,
            logs_are_complete=task.fit is None and not one_by_one and only_keras(fit_kwargs.get("callbacks")),
            notes=lambda trial_id: {CALLED: facts_of([task.calls.get(trial_id, task.call)]), **fold_notes},
            repeats=taken_down is None,
            explores=taken_down is not None or task.brought_to_light is not None,
            num_rows=None if task.parts is None else task.parts.num_rows,
        )
        trainer = self._trainer_for(task)
        if not endings.is_complete(self.oracle):  # else data would be read, and workers started, for nothing
            trainer.train(supply, task)
        supply.give_back()
        # Taken down before they end: afterwards nobody knows which executions the trainer still holds.
        paused = [(trial.trial_id, index) for trial in self.oracle.book.paused() for index in trial.executions]
        supply.end_paused()
        trainer.forget([*paused, *supply.let_go])
        if taken_down is not None:
            if taken_down.alone:
                self._ran_alone[f"{self._own_run_trial} {taken_down.why_alone}"] = tuple(taken_down.alone)
            self._one_by_one.repeat_contenders(self._trial_steps(self._begin_trial), fit_args, fit_kwargs)

    @property
    def _own_run_trial(self) -> str:
        """The name of an overridden `run_trial`, as `_runs_one_by_one` has it."""
        return f"{type(self).__name__}.run_trial"

    def _taken_down(self, fit_args: tuple[Any, ...], fit_kwargs: dict[str, Any]) -> TakenDown | None:
        """What finds the calls that a `run_trial` of the user's makes of the default; None: it is called as ever.

        So it is where nothing would be gained, and where what the default does is not what trials that train together
        do: it takes no orders of a scheduler, and its code may not be there for others to call.
        """
        scheduler = self.oracle.scheduler
        if (
            self.executor is not None
            or not self._fuses()
            or self.hypermodel is None
            or overrides_fit(self.hypermodel)
            or self._works_on_batches()
            or scheduler.may_pause
            or scheduler.may_stop
            or is_overridden(self, BaseTuner, "pre_create_trial")
            or not mentions(self.run_trial, "run_trial")
        ):
            return None

        def task_of(call: Call) -> Task:
            return tensorboard.per_execution(self._make_task(call.args, dict(call.kwargs)))

        return TakenDown(
            self._one_by_one,
            self._trial_steps(self._begin_trial),
            (fit_args, fit_kwargs),
            task_of=task_of,
            owners=(self, self.hypermodel),
            brought_to_light=self._add_to_space,
            say_alone=lambda: self._trainers.say_why_sequential([self._own_run_trial], fuses=True),
        )

    def _begins(self, trial: Trial) -> bool:
        self._begin_trial(trial)
        return True

    def _begin_trial(self, trial: Trial) -> None:
        # How wide the interval of a mean over folds is depends on how many rows they share.
        folds = self._folds()
        trial.validation_ratio = None if folds is None else folds.folds.validation_ratio
        super()._begin_trial(trial)

    def _folds(self) -> FoldPlan | None:
        return None if self.latest_search is None else self.latest_search.folds

    def _num_executions(self) -> int | None:
        """Executions per trial, one per fold where there are folds; None where the user's own code runs trials."""
        if not self._trains_itself():
            return None
        folds = self._folds()
        return self.executions_per_trial * (1 if folds is None else folds.num_splits)

    def searched_task(self, where: str, trials: Sequence[Trial] = ()) -> Task:
        """The task of the latest search.

        Args:
            where: who asks, for the message.
            trials: that are to be trained by it, each by its own call of `fit`.

        Raises:
            UsageError: there was none in this process; or the user's own code trains, and not by the default
                `run_trial`, or nobody says which trials are wanted.
        """
        latest = self.latest_search
        own_loop = not trials or any(RETURNED in run.notes for trial in trials for run in trial.executions.values())
        if latest is None or (not self._trains_itself() and own_loop):
            got = "no search in this process" if latest is None else "trials that a run_trial of its own has measured"
            raise UsageError(
                explain(
                    where,
                    got,
                    "a search that Manyfit trained, with its data",
                    "Call tuner.search(...) with the same arguments first: a search that is complete returns at once.",
                )
            )
        calls = {trial.trial_id: self.trained_by(trial) for trial in trials}
        same = all(call is latest.task.call for call in calls.values())
        return latest.task if same else dataclasses.replace(latest.task, calls=calls)

    def trained_by(self, trial: Trial) -> Call:
        """The call of `fit` that a trial was trained by: what the user's own code made of that of `search`.

        What was not kept in this process is put together from what the store knows, and from the data and the objects
        of the latest search.
        """
        searched = Call() if self.latest_search is None else self.latest_search.task.call
        if trial.trial_id in self._trial_calls:
            own = self._trial_calls[trial.trial_id]
            # What several calls of its `fit` did not have in common, folds of the rows say, is the search's.
            lacks = [] if own.x is not None else [name for name in DATA if name in searched.arguments]
            return own.with_(**{name: searched.get(name) for name in lacks})
        known = [run.notes[CALLED] for run in trial.executions.values() if CALLED in run.notes]
        if not known or known[0]["arguments"] == facts_of([searched])["arguments"]:
            return searched
        return recorded_call(known[0], searched)

    # Trainers --------------------------------------------------------------------------------------------------

    def _trains_itself(self) -> bool:
        """Whether training is Manyfit's: a user's `run_trial` runs trials one by one."""
        return not self._runs_one_by_one()

    def _fuses(self) -> bool:
        """Whether trials may train together as one program."""
        distributed = self.distribution_strategy is not None
        return may_fuse(population=self.population, estimators=self._estimators, distributed=distributed)

    def _trainer_choice(self) -> TrainerChoice:
        hooks = tuple(self._works_on_batches())
        return TrainerChoice(self._fuses(), self._estimators, hooks, self.population_size, self.oracle.seed)

    def _get_trainer(self) -> Trainer:
        """The trainer of this tuner: it keeps its compiled programs from search to search and to retraining."""
        return self._trainers.get(self._trainer_choice())

    def _trainer_for(self, task: Task) -> Trainer:
        """The trainer of a task: folds need one that takes index sets."""
        return self._trainers.for_task(self._get_trainer(), task, self._trainer_choice())

    def _search_plan(self) -> SearchPlan:
        """How far the search that begins is to go."""
        oracle, latest = self.oracle, self.latest_search
        epochs = oracle.scheduler.max_epochs or (None if latest is None else latest.task.call.get("epochs"))
        # What a `HyperModel.fit` takes under that name may be anything.
        epochs = epochs if isinstance(epochs, int) else None
        bounds = tuple((each.metric, each.max, each.min) for each in oracle.constraints)
        return SearchPlan(oracle.max_trials, oracle.max_seconds, epochs, self._num_executions() or 1, bounds)

    def _compiled(self) -> Programs | None:
        programs = self._trainers.programs()
        return None if programs is None else Programs.joined([programs, Programs((), self._ran_alone)])

    def programs(self) -> Programs | str:
        """The compiled programs of this tuner: members, layouts, compile seconds; and what did not fit, and why.

        Returns:
            An object to print, with one record per program; a sentence where trials train through `model.fit`.
        """
        if (programs := self._get_trainer().programs()) is not None:
            return Programs.joined([programs, Programs((), self._ran_alone)])
        in_workers = "in workers, one after another in each"
        return f"Trials train {in_workers if self.executor else 'one after another through model.fit'}."

    def close(self) -> None:
        """See `BaseTuner`. Ends workers, too."""
        self._trainers.close()
        super().close()


def folds_for_estimators(scheduler: Scheduler, given: object, fit_kwargs: Mapping[str, Any]) -> object:
    """What `cross_validation` is for estimators: five folds, where neither it nor validation rows are given.

    Raises:
        UsageError: a scheduler that pauses, which estimators cannot.
    """
    if scheduler.may_pause:
        raise UsageError(
            explain(
                "search() of estimators",
                f"{type(scheduler).__name__}, which trains a few epochs at a time",
                "a scheduler that does not pause: estimators are fitted in one go",
                "Type kt.BayesianOptimization(build, ...), say; boosting stops early by itself.",
            )
        )
    validated = fit_kwargs.get("validation_data") is not None or fit_kwargs.get("validation_split")
    return 5 if given is None and not validated else given


def check_branching(oracle: Oracle, own_training: str | None, call: Call) -> None:
    """Refuses searches in which no trial could go on from another one's state.

    Raises:
        UsageError: others train the trials, rows come as a stream, there are several objectives, or nothing to change.
    """
    name, got = type(oracle.scheduler).__name__, own_training
    if got is None and call.num_rows is None:
        got = "rows that come as a stream, in which a trial cannot be gone on from"
    if got is None and isinstance(oracle.objective, ParetoObjective):
        got = f"{len(oracle.objective.objectives)} objectives, by which no trial is the best one"
    if got is not None:
        allowed = "one objective, rows in memory, and models that Manyfit trains in this process"
        raise UsageError(explain(f"search() with {name}", got, allowed, 'Type scheduler="asha" instead.'))
    oracle.scheduler.explored(oracle.get_space())
