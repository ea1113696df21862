"""The tuner of Keras models: trains what the oracle asks for, brings models back, retrains and ensembles them."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import keras

from manyfit.core import environment
from manyfit.core.checks import is_whole, whole_number
from manyfit.core.errors import FatalTypeError, UsageError, UsageTypeError, explain
from manyfit.core.records import Result, Values
from manyfit.data.arguments import check_fit_arguments
from manyfit.data.call import Call
from manyfit.data.folds import FoldPlan, fold_plan
from manyfit.oracles import Oracle, Trial
from manyfit.space.discovery import discover
from manyfit.space.hyperparameters import HyperParameters
from manyfit.store.predictions import Archive
from manyfit.training import tensorboard
from manyfit.training.base import FixedSupply, Permissions, Task, Trainer
from manyfit.training.devices import check_batches, distributed, distribution_of
from manyfit.training.estimators import Estimators, is_estimator, load_estimator, pickle_path
from manyfit.training.keras_fit import KerasFit
from manyfit.training.keras_settings import clear_session
from manyfit.training.model_options import ModelOptions
from manyfit.training.models import build_model
from manyfit.training.precision import sentence
from manyfit.training.program_report import Programs
from manyfit.training.seeding import seeded
from manyfit.training.weights import load_keras_weights, load_weights, write_weights
from manyfit.tuners.base_tuner import BaseTuner
from manyfit.tuners.callbacks import as_keras_history, is_overridden, only_keras
from manyfit.tuners.ensembling import ModelOrigins, best_execution
from manyfit.tuners.finishing import Finishing
from manyfit.tuners.hypermodel import overrides_fit
from manyfit.tuners.keeping import DataSet, Keeper
from manyfit.tuners.overrides import Overrides
from manyfit.tuners.supply import SearchSupply, plan_of


class Tuner(Finishing, Overrides, BaseTuner):
    """Searches the hyperparameters of Keras models.

    Args:
        oracle: decides what is tried.
        hypermodel: a function that takes `HyperParameters` and returns a compiled model, or a `HyperModel`.
        max_model_size: most trainable parameters; larger models end as "too large" without training.
        optimizer: recompiles each built model with it.
        loss: likewise.
        metrics: likewise.
        distribution_strategy: a `tf.distribute.Strategy` in whose scope models are built (TensorFlow backend).
        directory: where projects lie.
        project_name: the project's folder in it.
        logger: deprecated, not used.
        tuner_id: names this tuner, as in KerasTuner.
        overwrite: delete an earlier search of that name instead of going on with it.
        executions_per_trial: training runs per configuration, each with its own seed; scores are their means.
        num_kept_models: weights are kept for so many best trials, and deleted for the rest.
        population: train trials together as one compiled program where that is possible (JAX backend); False trains
            them one after another through `model.fit`.
        population_size: most members that train together; None: found by measurement.
        precision: "float32", "bfloat16", "float16", "auto" (by device, and says which), or a function of `hp` that
            returns one of these: `lambda hp: hp.Choice("precision", ["float32", "bfloat16"])`.
        steps_per_execution: batches per call of the compiled step where models train through `model.fit`.
        jit_compile: whether steps are compiled; None: as the build function says.
        devices: None: the trials of a search are spread over all devices; "data_parallel" or a `keras.distribution`:
            each model is.
        keep_predictions: keep every trial's predictions of the rows that it did not train on, for `ensemble`.
        **kwargs: see `BaseTuner`.

    Raises:
        UsageError: no `hypermodel` while `run_trial` is not overridden, or a number out of its range.
        FatalValueError: an option that is not allowed, or that the backend cannot follow.
        FatalTypeError: the build function returned something that is no compiled Keras model.
    """

    def __init__(
        self,
        oracle: Oracle,
        hypermodel: Any = None,
        max_model_size: int | None = None,
        optimizer: Any = None,
        loss: Any = None,
        metrics: Any = None,
        distribution_strategy: Any = None,
        directory: Any = None,
        project_name: str | None = None,
        logger: Any = None,
        tuner_id: str | None = None,
        overwrite: bool = False,
        executions_per_trial: int = 1,
        *,
        num_kept_models: int = 10,
        population: bool = True,
        population_size: int | None = None,
        precision: Any = None,
        steps_per_execution: int | None = None,
        jit_compile: bool | None = None,
        devices: Any = None,
        keep_predictions: bool = True,
        **kwargs: Any,
    ) -> None:
        if hypermodel is None and type(self).run_trial is Tuner.run_trial:
            raise UsageError(
                explain(
                    type(self).__name__,
                    "Received `hypermodel=None`",
                    "a hypermodel, or a subclass that overrides run_trial",
                    f"Type kt.{type(self).__name__}(build_model, ...).",
                )
            )
        for name, value in (("executions_per_trial", executions_per_trial), ("num_kept_models", num_kept_models)):
            whole_number(name, value, instead=f"Type {name}=1, say.")
        self.tuner_id = tuner_id or self.tuner_id
        self.max_model_size = max_model_size
        self.optimizer = optimizer
        self.loss = loss
        self.metrics = metrics
        self.distribution_strategy = distribution_strategy
        self.executions_per_trial = executions_per_trial
        self.num_kept_models = num_kept_models
        self.population = population
        self.population_size = population_size
        self.model_options = ModelOptions(precision, steps_per_execution, jit_compile, devices)
        self.keep_predictions = keep_predictions
        self._with_weights: set[str] = set()  # trials whose weights may be on the disk
        self._task: Task | None = None  # of the latest search: retraining and ensembling fall back to its data
        self._fold_plan: FoldPlan | None = None
        self._final: dict[str, Any] = {}
        self._trial_of_model = ModelOrigins()
        self._estimators = False  # whether the build function returns any
        super().__init__(oracle, hypermodel, directory, project_name, overwrite, logger=logger, **kwargs)
        self._estimators = self._estimators or self.store.get("estimators", False)

    # Building --------------------------------------------------------------------------------------------------

    def _populate_initial_space(self) -> None:
        if self.hypermodel is None:
            return
        hyperparameters = self.oracle.get_space()
        self.hypermodel.declare_hyperparameters(hyperparameters)
        self.oracle.update_space(hyperparameters)
        building: Any = contextlib.nullcontext()
        if self._fuses():
            from manyfit.training.population.compile import quick_building  # imports JAX

            building = quick_building()
        check = type(self).run_trial is Tuner.run_trial and not overrides_fit(self.hypermodel)
        build = self._checked_build if check and not environment.written_for_keras_tuner else self.hypermodel.build
        # Cleared each time: names of layers, and names that are made of theirs, are those of the search.
        with building:
            found = discover(lambda hp: (clear_session(), build(hp))[1], self.oracle.get_space())  # type: ignore[func-returns-value]
        self.oracle.update_space(found)
        self.store.put(estimators=self._estimators)
        clear_session()

    def _checked_build(self, hyperparameters: HyperParameters) -> Any:
        model = self._build(hyperparameters)
        if is_estimator(model):
            self._estimators = True
            return model
        model = build_model(lambda _: model, hyperparameters)
        if not model.compiled:
            raise FatalTypeError(
                explain(
                    "hypermodel.build(hp)",
                    "a model that is not compiled",
                    "a compiled keras.Model",
                    "Call model.compile(...) before `return model`.",
                )
            )
        return model

    def _build(self, hyperparameters: HyperParameters) -> Any:
        """The user's model, with the options of this tuner."""
        return self.model_options.built(self._build_plainly, hyperparameters)

    def _build_plainly(self, hyperparameters: HyperParameters) -> Any:
        """The user's model, recompiled where the tuner was given an optimizer, a loss or metrics."""
        with self._strategy_scope():
            model = self._build_hypermodel(hyperparameters)
            given = any(one is not None for one in (self.optimizer, self.loss, self.metrics))
            if given and not is_estimator(model):
                build_model(lambda _: model, hyperparameters)
                self._override_compile_args(model)
        return model

    def _strategy_scope(self) -> Any:
        return contextlib.nullcontext() if self.distribution_strategy is None else self.distribution_strategy.scope()

    # Training --------------------------------------------------------------------------------------------------

    def search(self, *fit_args: Any, **fit_kwargs: Any) -> None:
        """Searches. Takes what `model.fit` takes, and passes it on: data, epochs, callbacks and the rest.

        Args:
            *fit_args: usually x and y.
            **fit_kwargs: `validation_data`, `epochs`, `callbacks`, ...; `verbose=0` prints nothing. Beyond those of
                `model.fit`: `cross_validation`, a `kt.CrossValidation`, a number of folds or a splitter of
                scikit-learn; every trial then runs once per fold, and its score is the mean.

        Raises:
            UsageError: the data cannot be right, or the objective is not among the metrics that were logged.
            SearchError: every trial failed, or too many in a row did. What finished before is kept.
        """
        given = fit_kwargs.pop("cross_validation", None)
        if self._estimators:
            given = self._folds_for_estimators(given, fit_kwargs)
        self._fold_plan = None if given is None else fold_plan(given, Call(fit_args, fit_kwargs))
        if self._trains_itself() and not overrides_fit(self.hypermodel):
            known = given is not None or environment.written_for_keras_tuner  # there a trial tells what is missing
            limit = self.oracle.scheduler.max_epochs
            call = Call(fit_args, fit_kwargs)
            check_fit_arguments(call, self.oracle.objective, has_validation=known, max_epochs=limit)
        self.oracle.set_epochs(fit_kwargs.get("epochs"))
        self.oracle.proposals.settle = self._settle if self.hypermodel is not None and self._trains_itself() else None
        self._task = tensorboard.per_execution(self._make_task(fit_args, fit_kwargs))
        if self._fold_plan is not None:
            self._task = dataclasses.replace(
                self._searched_task("search(cross_validation=...)"), split_for=self._fold_plan.split_for
            )
        self._task = self._keeping(self._task)
        super().search(*fit_args, **fit_kwargs)

    def _folds_for_estimators(self, given: Any, fit_kwargs: Mapping[str, Any]) -> Any:
        """Estimators are cross-validated where nothing else is asked for.

        Raises:
            UsageError: a scheduler that pauses, which estimators cannot.
        """
        if self.oracle.scheduler.may_pause:
            raise UsageError(
                explain(
                    "search() of estimators",
                    f"{type(self.oracle.scheduler).__name__}, which trains a few epochs at a time",
                    "a scheduler that does not pause: estimators are fitted in one go",
                    "Type kt.BayesianOptimization(build, ...), say; boosting stops early by itself.",
                )
            )
        validated = fit_kwargs.get("validation_data") is not None or fit_kwargs.get("validation_split")
        return 5 if given is None and not validated else given

    def _keeping(self, task: Task) -> Task:
        """The task whose trained models leave predictions in the project's folder."""
        data = DataSet.of(task, self._fold_plan) if self.keep_predictions and self._trains_itself() else None
        if data is None:
            return task
        return dataclasses.replace(task, keep=Keeper(self.predictions_archive, data, self._fold_plan))

    @property
    def predictions_archive(self) -> Archive:
        """Where the predictions of the search are kept."""
        return Archive(self.store.layout.predictions)

    def _settle(self, values: Values) -> Values:
        """What the build function makes of a proposal. One that it cannot build stays as it is, and will fail."""
        hyperparameters = self.oracle.get_space()
        hyperparameters.values = dict(values)
        try:
            self._build(hyperparameters)
        except Exception:
            return values
        finally:
            clear_session()
        return {name: hyperparameters.values[name] for name in values if name in hyperparameters.values}

    def _trains_itself(self) -> bool:
        return not self._runs_one_by_one()

    def _make_task(
        self, fit_args: tuple[Any, ...], fit_kwargs: dict[str, Any], options: ModelOptions | None = None
    ) -> Task:
        hypermodel = self.hypermodel
        devices = (options or self.model_options).devices
        fit_kwargs, callbacks = self._callback_arguments(fit_kwargs)
        own_fit = hypermodel.fit if hypermodel is not None and overrides_fit(hypermodel) else None
        call = Call.of(own_fit, fit_args, fit_kwargs)
        check_batches(distribution_of(devices), call)
        may_pause = self.oracle.scheduler.may_pause
        return Task(
            build=self._build if options is None else functools.partial(options.built, self._build_plainly),
            call=call,
            objective=self.oracle.objective,
            max_model_size=self.max_model_size,
            fit=own_fit,
            callbacks=callbacks,
            may=Permissions(pause=may_pause, share_callbacks=not may_pause and self.oracle.compat is None),
            devices=devices,
            measures=self.oracle.measures,
        )

    def _get_trainer(self) -> Trainer:
        """The trainer of this tuner: it keeps its compiled programs from search to search and to retraining."""
        if self._trainer is None:
            if self.executor is None:
                self._trainer = self._make_trainer(self._say)
            else:
                fuses = self._fuses() and not self._works_on_batches()
                self._trainer = self._on_executor(self._make_trainer, keeps_programs=fuses)
        return self._trainer

    def _fuses(self) -> bool:
        """Whether trials may train together as one program."""
        keras_on_jax = not self._estimators and keras.backend.backend() == "jax"
        return keras_on_jax and self.population and self.distribution_strategy is None

    def _make_trainer(self, notify: Callable[[str], None]) -> Trainer:
        """A new trainer, here or in a worker."""
        if not self._fuses() or self._works_on_batches():
            return Estimators() if self._estimators else KerasFit()
        from manyfit.training.population import Population  # imports JAX, which other backends lack

        return Population(
            KerasFit(), population_size=self.population_size, notify=notify, shuffle_seed=self.oracle.seed
        )

    def programs(self) -> Programs | str:
        """The compiled programs of this tuner: members, layouts, compile seconds; and what did not fit, and why.

        Returns:
            An object to print, with one record per program; a sentence where trials train through `model.fit`.
        """
        if (programs := self._get_trainer().programs()) is not None:
            return programs
        in_workers = "in workers, one after another in each"
        return f"Trials train {in_workers if self.executor else 'one after another through model.fit'}."

    def _trainer_for(self, task: Task) -> Trainer:
        """The trainer of a task: folds need one that takes index sets."""
        on_batches = self._works_on_batches()
        self._say_why_sequential(on_batches)
        trainer = self._get_trainer()
        fits = task.split_for is None or trainer.takes_splits
        return trainer if fits and (not on_batches or self.executor is not None) else KerasFit()

    def _run_trials(self, fit_args: tuple[Any, ...], fit_kwargs: dict[str, Any]) -> None:
        one_by_one = self._runs_one_by_one()
        if one_by_one:
            if self.executor is None:  # its workers run as many trials at once as there are workers
                self._say_why_sequential(one_by_one)
            super()._run_trials(fit_args, fit_kwargs)
            return
        assert self._task is not None  # our bug: `search` sets it
        if said := sentence(self.model_options.precision):
            self._say(said)
        supply = SearchSupply(
            self.oracle,
            self._num_executions,
            weights_path=self.store.weights_path,
            begin=self._begin_trial,
            end=self.on_trial_end,
            logs_are_complete=self._task.fit is None and only_keras(fit_kwargs.get("callbacks")),
        )
        trainer = self._trainer_for(self._task)
        trainer.train(supply, self._task)
        paused = [(trial.trial_id, index) for trial in self.oracle.book.paused() for index in trial.executions]
        supply.end_paused()
        trainer.forget(paused)

    def _begin_trial(self, trial: Trial) -> None:
        trial.validation_ratio = None if self._fold_plan is None else self._fold_plan.folds.validation_ratio
        super()._begin_trial(trial)

    def run_trial(self, trial: Trial, *fit_args: Any, **fit_kwargs: Any) -> Any:
        """Trains the executions of one trial. Override it to change the data or the fit arguments per trial.

        Args:
            trial: `trial.hyperparameters` holds the values to use.
            *fit_args: positional arguments of `model.fit`.
            **fit_kwargs: keyword arguments of `model.fit`.

        Returns:
            One Keras `History` per execution. An override may call this several times (once per fold, say), and
            return a number (the objective), a dict with the objective in it, a Keras `History`, or a list of these.
        """
        self._num_runs += 1
        if self._num_runs > 1:  # once per fold, say: what the override returns is recorded, not each of these
            self.oracle.book.forget_executions(trial, self._first_execution)
        own = is_overridden(self, Tuner, "_build_and_fit_model")
        train = self._train_by_override if own else self._train_execution
        returned = [
            as_keras_history(trial.executions[execution].history)  # finished before the process was killed
            if execution in trial.executions
            else train(trial, execution, fit_args, fit_kwargs)
            for execution in range(self._first_execution, self._first_execution + self.executions_per_trial)
        ]
        self._recorded = returned if self._num_runs == 1 and not own else None
        return returned

    def _train_execution(self, trial: Trial, execution: int, fit_args: tuple[Any, ...], fit_kwargs: Any) -> Any:
        plan = plan_of(trial, execution, self.oracle, self.store.weights_path)
        plan = dataclasses.replace(plan, values=trial.hyperparameters)
        supply = FixedSupply([plan])
        KerasFit().train(supply, tensorboard.per_execution(self._make_task(fit_args, fit_kwargs)))
        result: Result = supply.results[plan.key]
        if result.failure is not None:
            raise result.failure.error
        if self._num_runs <= 1 and self.oracle.objective.has_value({**result.history, **result.measures}):
            self.oracle.book.add_execution(result, **self._notes)
        measured = {name: [value] * result.num_epochs for name, value in result.measures.items()}
        return as_keras_history({**result.history, **measured})

    def _after_trial(self, trial: Trial) -> None:
        # Weights of trials that have fallen out of the best are deleted at once: a search does not fill the disk.
        best = [one.trial_id for one in self.oracle.book.kept(self.num_kept_models)]
        dropped = {*self._with_weights, trial.trial_id}.difference(best)
        self.store.delete_weights(dropped)
        self._with_weights = set(best)

    # Models ----------------------------------------------------------------------------------------------------

    def get_best_models(self, num_models: int | None = None) -> list[keras.Model]:
        """The models of the best trials, with the weights of their best epochs, best first.

        Args:
            num_models: how many, at most `num_kept_models`; fewer come back when fewer trials completed. None: the
                best one, or with several objectives the whole front.

        Raises:
            UsageTypeError: `num_models` is no number, but hyperparameters, say.
        """
        if num_models is not None and not is_whole(num_models):
            raise UsageTypeError(
                explain(
                    "get_best_models(num_models)",
                    f"{type(num_models).__name__}",
                    "how many models are wanted: a whole number",
                    "Type get_best_models(1)[0] for the best trained model; to build an untrained one from "
                    "hyperparameters, type tuner.hypermodel.build(hp).",
                )
            )
        return super().get_best_models(num_models)

    @property
    def _num_executions(self) -> int:
        """Executions per trial, one per fold where there are folds."""
        return self.executions_per_trial * (1 if self._fold_plan is None else self._fold_plan.num_splits)

    def load_model(self, trial: Trial, execution: int | None = None) -> keras.Model:
        """A trial's model with the weights of its best epoch.

        Args:
            trial: a completed trial.
            execution: which one; None takes the execution with the best score.

        Raises:
            UsageError: its weights were not kept.
        """
        if execution is None:
            execution = best_execution(self, trial)
        path = self._weights_file(trial.trial_id, execution)
        if not self.has_model(trial, execution):
            raise UsageError(
                explain(
                    f"load_model(trial {trial.trial_id})",
                    "a trial whose weights were not kept",
                    f"one of the best {self.num_kept_models} trials",
                    "Construct the tuner with a larger num_kept_models=, or call tuner.retrain().",
                )
            )
        if pickle_path(path).exists():
            estimator = load_estimator(pickle_path(path))
            self._trial_of_model[estimator] = trial.trial_id
            return estimator
        seed = trial.executions[execution].seed if execution in trial.executions else self.oracle.seed
        clear_session()  # so that layers, and names that are made of theirs, are called as they were in the search
        with seeded(seed), distributed(distribution_of(self.model_options.devices)):
            model = build_model(self._build, trial.hyperparameters.copy())
        load_weights(model, path) if path.suffix == ".npz" else load_keras_weights(model, path)
        self._trial_of_model[model] = trial.trial_id
        return model

    def has_model(self, trial: Trial, execution: int) -> bool:
        """Whether the weights of an execution were kept."""
        path = self._weights_file(trial.trial_id, execution)
        return path.exists() or pickle_path(self.store.weights_path(trial.trial_id, execution)).exists()

    def save_model(self, trial_id: str, model: keras.Model, step: int = 0) -> None:
        """Keeps the weights of a trial's model, for `run_trial` overrides with a training loop of their own."""
        del step  # one file per trial: call it when an epoch is the best so far
        path = self.store.weights_path(trial_id, 0)
        write_weights(path, model.get_weights(), build_config=model.get_build_config())

    def on_epoch_begin(self, trial: Trial, model: Any, epoch: int, logs: Any = None) -> None:
        """Override it to be called when an epoch begins."""

    def on_epoch_end(self, trial: Trial, model: Any, epoch: int, logs: Any = None) -> None:
        """Override it to be called when an epoch ends."""

    def on_batch_begin(self, trial: Trial, model: Any, batch: int, logs: Any = None) -> None:
        """Override it to be called when a batch begins; trials then train through `model.fit`."""

    def on_batch_end(self, trial: Trial, model: Any, batch: int, logs: Any = None) -> None:
        """Override it to be called when a batch ends; trials then train through `model.fit`."""
