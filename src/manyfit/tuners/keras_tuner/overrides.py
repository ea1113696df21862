"""A tuner of Keras models with the methods that subclasses of KerasTuner's `Tuner` override.

Which they are, and when each is called, is told in the docstring of `manyfit.tuners.keras_tuner`. What an override
means for training is decided here, too: a method that nobody has overridden is not called where a population does its
work for many trials at once, and one that was overridden is called as KerasTuner calls it, whatever that costs.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import keras

from manyfit.core import environment
from manyfit.core.checks import is_whole, whole_number
from manyfit.core.errors import FatalValueError, UsageError, UsageTypeError, explain
from manyfit.core.records import Plan, Result
from manyfit.core.signatures import checked_methods
from manyfit.data.call import Call
from manyfit.data.classes import with_class_numbers
from manyfit.oracles import Oracle, Trial
from manyfit.space.discovery import discover
from manyfit.space.hyperparameters import HyperParameters
from manyfit.training import tensorboard
from manyfit.training.base import FixedSupply, Permissions, Task
from manyfit.training.callbacks import copy_callbacks
from manyfit.training.devices import check_batches, distributed, distribution_of
from manyfit.training.estimators import Estimators, is_estimator, load_estimator, pickle_path
from manyfit.training.keras_fit import KerasFit
from manyfit.training.keras_internals.building import compile_arguments
from manyfit.training.keras_settings import clear_session
from manyfit.training.model_options import ModelOptions
from manyfit.training.models import build_model, check_compiled, check_size, fresh
from manyfit.training.outcomes import to_histories
from manyfit.training.replay import common, watched
from manyfit.training.seeding import seeded
from manyfit.training.weights import load_keras_weights, load_weights, write_weights
from manyfit.tuners.ensembling import best_execution
from manyfit.tuners.keeping import ModelOrigins, drop_weights
from manyfit.tuners.keras_tuner.base_tuner import BaseTuner
from manyfit.tuners.keras_tuner.callbacks import (
    BATCH_HOOKS,
    EpochHooks,
    SaveBestEpoch,
    TunerCallback,
    as_keras_history,
    is_overridden,
    overrides_hooks,
)
from manyfit.tuners.keras_tuner.hypermodel import BuildFunction, HyperModel, overrides_fit
from manyfit.tuners.supply import plan_of

Callbacks = Sequence[keras.callbacks.Callback]


class Strategy(Protocol):
    """A `tf.distribute.Strategy`: models are built in its scope."""

    def scope(self) -> contextlib.AbstractContextManager[Any]:
        """The scope."""


@checked_methods("load_model", "has_model")
class ModelTuner(BaseTuner):
    """Builds, trains and keeps Keras models, one execution after another. `Tuner`, its subclass, trains many at once.

    Args:
        oracle: decides what is tried.
        hypermodel: a build function or a `HyperModel`.
        max_model_size: most trainable parameters.
        optimizer: recompiles each built model with it; the same holds for `loss` and `metrics`.
        loss: see `optimizer`.
        metrics: see `optimizer`.
        distribution_strategy: in whose scope models are built.
        executions_per_trial: training runs per configuration.
        num_kept_models: weights are kept for so many best trials.
        model_options: precision, steps per execution, compilation and devices of every model.
        **kwargs: see `BaseTuner`.

    Raises:
        UsageError: no `hypermodel` while `run_trial` is not overridden, or a number out of its range.
        FatalTypeError: the build function returned something that is no compiled Keras model.
    """

    def __init__(
        self,
        oracle: Oracle,
        hypermodel: HyperModel | BuildFunction | None = None,
        *,
        max_model_size: int | None = None,
        optimizer: object = None,
        loss: object = None,
        metrics: object = None,
        distribution_strategy: Strategy | None = None,
        executions_per_trial: int = 1,
        num_kept_models: int = 10,
        model_options: ModelOptions | None = None,
        **kwargs: Any,
    ) -> None:
        # A loop of the user's may build for itself, so it needs none.
        if hypermodel is None and not self._overrides("run_trial"):
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
        self.max_model_size = max_model_size
        self.optimizer = optimizer
        self.loss = loss
        self.metrics = metrics
        self.distribution_strategy = distribution_strategy
        self.executions_per_trial = executions_per_trial
        self.num_kept_models = num_kept_models
        self.model_options = ModelOptions() if model_options is None else model_options
        self.model_origins = ModelOrigins()
        self._with_weights: set[str] = set()  # trials whose weights may be on the disk
        self._trial_calls: dict[str, Call] = {}  # of `fit`, of trials that the user's own code ran in this process
        self._estimators = False  # whether the build function returns any
        super().__init__(oracle, hypermodel, **kwargs)
        self._estimators = self._estimators or self.store.get("estimators", False)

    def stand_ins(self) -> dict[str, object]:
        """See `BaseTuner`. The models that this process holds stay here."""
        return {**super().stand_ins(), "model_origins": ModelOrigins(), "_trial_calls": {}}

    # Building --------------------------------------------------------------------------------------------------

    def _populate_initial_space(self) -> None:
        """Runs the build function until no conditional scope of it is new, and checks the models that it makes."""
        if self.hypermodel is None:
            return
        hyperparameters = self.oracle.get_space()
        self.hypermodel.declare_hyperparameters(hyperparameters)
        self.oracle.update_space(hyperparameters)
        # A `fit` or a `run_trial` of the user's may compile the model itself. KerasTuner checks in the first trial, and
        # programs that were written for it may rely on being told then.
        check = not self._overrides("run_trial") and not overrides_fit(self.hypermodel)
        build = self._checked_build if check and not environment.written_for_keras_tuner else self.hypermodel.build
        # Cleared each time: names of layers, and names that are made of theirs, are those of the search.
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
        check_compiled(model)
        return model

    def _build(self, hyperparameters: HyperParameters) -> Any:
        """The user's model, with the options of this tuner."""
        return self.model_options.built(self._build_plainly, hyperparameters)

    def _build_plainly(self, hyperparameters: HyperParameters) -> Any:
        """The user's model, recompiled where the tuner was given an optimizer, a loss or metrics."""
        strategy = self.distribution_strategy
        with contextlib.nullcontext() if strategy is None else strategy.scope():
            model = self._build_hypermodel(hyperparameters)
            given = any(one is not None for one in (self.optimizer, self.loss, self.metrics))
            if given and not is_estimator(model):
                # Checked first: otherwise what is no model fails below with an AttributeError of `compile`.
                build_model(lambda _: model, hyperparameters)
                self._override_compile_args(model)
        return model

    def _build_hypermodel(self, hp: HyperParameters) -> Any:
        """What the user's build function returns. Override it to build otherwise."""
        assert self.hypermodel is not None  # our bug: __init__ checks it
        return self.hypermodel.build(hp)

    def _try_build(self, hp: HyperParameters) -> keras.Model:
        """A built model that was checked, for overrides of `_build_and_fit_model` and `run_trial`.

        Raises:
            FatalTypeError: the build function returned no Keras model.
            FailedTrialError: it has more trainable parameters than `max_model_size`.
        """
        keras.backend.clear_session(free_memory=False)
        model = build_model(self._build, hp)
        check_size(model, self.max_model_size)
        return model

    def _override_compile_args(self, model: keras.Model) -> None:
        """Recompiles a model with the optimizer, the loss and the metrics that the tuner was given."""
        given = {"optimizer": self.optimizer, "loss": self.loss, "metrics": self.metrics}
        arguments = {**compile_arguments(model), **{name: value for name, value in given.items() if value is not None}}
        try:
            model.compile(**{name: fresh(value) for name, value in arguments.items()})
        except (TypeError, ValueError) as error:
            named = ", ".join(f"{name}={value!r}" for name, value in given.items() if value is not None)
            allowed, instead = "what model.compile takes", 'Type optimizer="adam", say, or leave it out.'
            raise FatalValueError(explain(f"{type(self).__name__}(...)", named, allowed, instead)) from error

    # What an override means ------------------------------------------------------------------------------------

    def _overrides(self, name: str) -> bool:
        """Whether a subclass has a method of its own in place of this class's."""
        return getattr(type(self), name) is not getattr(ModelTuner, name)

    def _runs_one_by_one(self) -> list[str]:
        """The overrides that take trials out of Manyfit's hands, so that they run one after another."""
        oracle = [
            f"{type(self.oracle).__name__}.{name}" for name in self.oracle.overrides("create_trial", "update_trial")
        ]
        return oracle + [
            f"{type(self).__name__}.{name}"
            for name in ("run_trial", "_build_and_fit_model")
            if is_overridden(self, ModelTuner, name)
        ]

    def _works_on_batches(self) -> list[str]:
        """The overrides that have to be called for each batch, which `model.fit` does and a population does not."""
        return [f"{type(self).__name__}.{name}" for name in BATCH_HOOKS if overrides_hooks(self, ModelTuner, (name,))]

    def _callback_arguments(self, fit_kwargs: dict[str, Any]) -> tuple[dict[str, Any], Any]:
        """The keyword arguments of `fit`, and what makes an execution's further callbacks, or None."""
        if is_overridden(self, ModelTuner, "_deepcopy_callbacks"):
            given = fit_kwargs.get("callbacks") or []
            # Taken out of `fit`'s arguments: the trainer would copy them, too, which is what the override is there for.
            return {**fit_kwargs, "callbacks": None}, functools.partial(self._copies_and_hooks, given)
        return fit_kwargs, self._hook_callbacks if overrides_hooks(self, ModelTuner) else None

    def _copies_and_hooks(self, callbacks: Callbacks, plan: Plan) -> list[keras.callbacks.Callback]:
        hooks = self._hook_callbacks(plan) if overrides_hooks(self, ModelTuner) else []
        return [*self._deepcopy_callbacks(callbacks), *hooks]

    def _hook_callbacks(self, plan: Plan) -> list[keras.callbacks.Callback]:
        """What calls the hooks of a subclass; in a worker, those of its copy of this tuner."""
        # A worker has no trials, and hooks want one: its values and its id are what they read.
        trial = self.oracle.trials.get(plan.trial_id)
        if trial is None:
            assert isinstance(plan.values, HyperParameters)  # our bug: a tuner's plans hold them
            trial = Trial(plan.values, trial_id=plan.trial_id)
        return [TunerCallback(self, trial) if self._works_on_batches() else EpochHooks(self, trial)]

    # Training one by one ---------------------------------------------------------------------------------------

    def _make_task(
        self, fit_args: tuple[Any, ...], fit_kwargs: dict[str, Any], options: ModelOptions | None = None
    ) -> Task:
        """What a trainer is given: how to build, what `fit` is called with, and what it may do.

        Args:
            fit_args: positional arguments of `fit`.
            fit_kwargs: its keyword arguments.
            options: of the models, where they are not this tuner's.
        """
        hypermodel = self.hypermodel
        settings = options or self.model_options
        fit_kwargs, callbacks = self._callback_arguments(fit_kwargs)
        callbacks = watched(callbacks, Call(fit_args, fit_kwargs).callbacks)
        own_fit = hypermodel.fit if hypermodel is not None and overrides_fit(hypermodel) else None
        call, classes = Call.of(own_fit, fit_args, fit_kwargs), None
        if self._estimators:
            call, classes = with_class_numbers(call, self.store)
        call = call if own_fit is not None else call.guarded()
        check_batches(distribution_of(settings.devices), call)
        may_pause = self.oracle.scheduler.may_pause
        return Task(
            build=self._build if options is None else functools.partial(options.built, self._build_plainly),
            call=call,
            objective=self.oracle.objective,
            max_model_size=self.max_model_size,
            limits=self.trial_limits,
            fit=own_fit,
            callbacks=callbacks,
            may=Permissions(pause=may_pause, share_callbacks=not may_pause and self.oracle.compat is None),
            devices=settings.devices,
            compiled=settings.jit_compile is not False,
            measures=self.oracle.measures,
            classes=None if classes is None else classes.names.tolist(),
        )

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
        call = self.trial_call
        if call.rehearsal is not None:
            return call.rehearsal.take(Call(fit_args, fit_kwargs))
        call.num_default_calls += 1
        if call.num_default_calls > 1:  # once per fold, say: what the override returns is recorded, not each of these
            self.oracle.book.forget_executions(trial, call.first_execution)
        # Only an override is called: the default would build a model for nothing where `KerasFit` builds its own.
        own = is_overridden(self, ModelTuner, "_build_and_fit_model")
        train = self._train_by_override if own else self._train_execution
        returned = [
            as_keras_history(trial.executions[execution].history)  # finished before the process was killed
            if execution in trial.executions
            else train(trial, execution, fit_args, fit_kwargs)
            for execution in range(call.first_execution, call.first_execution + self.executions_per_trial)
        ]
        call.recorded = returned if call.num_default_calls == 1 and not own else None
        return returned

    def _train_execution(
        self, trial: Trial, execution: int, fit_args: tuple[Any, ...], fit_kwargs: dict[str, Any]
    ) -> keras.callbacks.History:
        plan = plan_of(trial, execution, self.oracle, self.store.weights_path)
        plan = dataclasses.replace(plan, values=trial.hyperparameters)
        supply = FixedSupply([plan])
        task = self._make_task(fit_args, fit_kwargs)
        self.trial_call.trained.append(task.call)
        trainer = Estimators(self._display.say) if self._estimators else KerasFit(self._display.say)
        trainer.train(supply, tensorboard.per_execution(task))
        result: Result = supply.results[plan.key]
        if result.failure is not None:
            raise result.failure.error
        # A second call of the default means that its result is a part (a fold, say), which only the override can weigh.
        only_call = self.trial_call.num_default_calls <= 1
        if only_call and self.oracle.objective.has_value({**result.history, **result.measures}):
            self.oracle.book.add_execution(result, **self.trial_call.notes)
        measured = {name: [value] * result.num_epochs for name, value in result.measures.items()}
        return as_keras_history({**result.history, **measured})

    def _train_by_override(
        self, trial: Trial, execution: int, fit_args: tuple[Any, ...], fit_kwargs: dict[str, Any]
    ) -> Any:
        """Calls a subclass's `_build_and_fit_model` with what it is used to: copied callbacks that save the weights."""
        plan = plan_of(trial, execution, self.oracle, self.store.weights_path)
        assert plan.weights_path is not None  # our bug: `plan_of` sets it
        given, own = fit_kwargs.get("callbacks"), is_overridden(self, ModelTuner, "_deepcopy_callbacks")
        callbacks = [
            *(self._deepcopy_callbacks(given or []) if own else copy_callbacks(given, plan)),
            TunerCallback(self, trial),
            SaveBestEpoch(self.oracle.objective, plan.weights_path),
        ]
        with seeded(plan.seed):
            return self._build_and_fit_model(trial, *fit_args, **{**fit_kwargs, "callbacks": callbacks})

    def _build_and_fit_model(self, trial: Trial, *fit_args: Any, **fit_kwargs: Any) -> Any:
        """Builds and trains one execution. Override it to train otherwise; trials then run one after another.

        Args:
            trial: `trial.hyperparameters` holds the values to use.
            *fit_args: positional arguments of `search`.
            **fit_kwargs: keyword arguments of `search`; `callbacks` are this execution's copies, and further ones that
                call the tuner's hooks and keep the weights of the best epoch: pass them on to `model.fit`.

        Returns:
            What `model.fit` returned, or what else `run_trial` may return.
        """
        assert self.hypermodel is not None  # our bug: __init__ checks it
        model = self._try_build(trial.hyperparameters)
        results = self.hypermodel.fit(trial.hyperparameters, model, *fit_args, **fit_kwargs)
        to_histories(results, self.oracle.objective, "HyperModel.fit()")
        return results

    def _deepcopy_callbacks(self, callbacks: Callbacks) -> list[keras.callbacks.Callback]:
        """The copies of the user's callbacks that one execution gets. Override it for callbacks that cannot be copied.

        Raises:
            FatalValueError: a callback cannot be copied; the message names it.
        """
        return copy_callbacks(callbacks)

    def on_epoch_begin(
        self, trial: Trial, model: keras.Model, epoch: int, logs: Mapping[str, float] | None = None
    ) -> None:
        """Override it to be called when an epoch begins."""

    def on_epoch_end(
        self, trial: Trial, model: keras.Model, epoch: int, logs: Mapping[str, float] | None = None
    ) -> None:
        """Override it to be called when an epoch ends."""

    def on_batch_begin(
        self, trial: Trial, model: keras.Model, batch: int, logs: Mapping[str, float] | None = None
    ) -> None:
        """Override it to be called when a batch begins; trials then train through `model.fit`."""

    def on_batch_end(
        self, trial: Trial, model: keras.Model, batch: int, logs: Mapping[str, float] | None = None
    ) -> None:
        """Override it to be called when a batch ends; trials then train through `model.fit`."""

    # Models ----------------------------------------------------------------------------------------------------

    def get_best_models(self, num_models: int | None = None) -> list[Any]:
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

    def load_model(self, trial: Trial, execution: int | None = None) -> Any:
        """A trial's model with the weights of its best epoch.

        Args:
            trial: a completed trial.
            execution: which one; None takes the execution with the best score.

        Raises:
            UsageError: its weights were not kept.
            ProjectError: its weights cannot be read, or do not fit the model.
            ProjectError: it is an estimator, somebody else wrote it, and the tuner was made without `trust=True`.
        """
        if execution is None:
            execution = best_execution(self.oracle, trial)
        path, estimator_path = self._model_files(trial, execution)
        self.store.check_files(path, estimator_path)
        if not self.has_model(trial, execution):
            raise UsageError(
                explain(
                    f"load_model(trial {trial.trial_id})",
                    "a trial whose weights were not kept",
                    f"one of the best {self.num_kept_models} trials",
                    "Construct the tuner with a larger num_kept_models=, or call tuner.retrain().",
                )
            )
        if estimator_path.exists():
            estimator = load_estimator(estimator_path, trust=self.trust)
            self.model_origins[estimator] = trial.trial_id
            return estimator
        # Seeded, since a build function may draw: random features that no weight remembers, say.
        seed = trial.executions[execution].seed if execution in trial.executions else self.oracle.seed
        clear_session()  # so that layers, and names that are made of theirs, are called as they were in the search
        with seeded(seed), distributed(distribution_of(self.model_options.devices)):
            model = build_model(self._build, trial.hyperparameters.copy())
        load_weights(model, path) if path.suffix == ".npz" else load_keras_weights(model, path)
        self.model_origins[model] = trial.trial_id
        return model

    def has_model(self, trial: Trial, execution: int) -> bool:
        """Whether the weights of an execution were kept."""
        return any(each.exists() and self.store.is_sound(each) for each in self._model_files(trial, execution))

    def _model_files(self, trial: Trial, execution: int) -> tuple[Path, Path]:
        own = pickle_path(self.store.weights_path(trial.trial_id, execution))
        return self._weights_file(trial.trial_id, execution), own

    def save_model(self, trial_id: str, model: keras.Model, step: int = 0) -> None:
        """Keeps the weights of a trial's model, for `run_trial` overrides with a training loop of their own."""
        del step
        path = self.store.weights_path(trial_id, 0)  # one file per trial: call it when an epoch is the best so far
        write_weights(path, model.get_weights(), build_config=model.get_build_config())
        if trial_id in self.oracle.trials and self.oracle.trials[trial_id].executions:  # else with its execution
            self.store.note_files(path)

    def _get_checkpoint_fname(self, trial_id: str) -> str:
        """Where KerasTuner keeps the weights of a trial; `load_model` looks there, too."""
        return str(self.store.layout.keras_weights(trial_id))

    def _weights_file(self, trial_id: str, execution: int) -> Path:
        """The weights of an execution: Manyfit's file, else one that KerasTuner or a user's own loop has written."""
        path, other = Path(self.store.weights_path(trial_id, execution)), Path(self._get_checkpoint_fname(trial_id))
        is_others = self.store.is_beside_keras_tuner  # another search's
        return other if not is_others and other.exists() and not path.exists() else path

    def _after_trial(self, trial: Trial) -> None:
        # Weights of trials that have fallen out of the best are deleted at once: a search does not fill the disk.
        self._with_weights.add(trial.trial_id)
        self._with_weights = best = drop_weights(self.store, self.oracle.book, self.num_kept_models, self._with_weights)
        if self.trial_call.calls:  # with what they were trained by, which may hold rows of their own
            self._trial_calls[trial.trial_id] = common(self.trial_call.calls)
        self._trial_calls = {trial_id: call for trial_id, call in self._trial_calls.items() if trial_id in best}

    def _end_search(self, *, has_run: bool) -> None:
        # Again, since a kill may have come in between. A bag goes on with its own models of trials that fell behind.
        drop_weights(self.store, self.oracle.book, self.num_kept_models, self.oracle.trials, of_search_only=True)
        super()._end_search(has_run=has_run)
