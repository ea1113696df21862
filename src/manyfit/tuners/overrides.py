"""The methods that subclasses of KerasTuner's `Tuner` override, and what each override means for training."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import keras

from manyfit.core.records import Plan
from manyfit.oracles import Oracle, Trial
from manyfit.space.hyperparameters import HyperParameters
from manyfit.training.keras_fit import copy_callbacks
from manyfit.training.keras_internals.building import compile_arguments
from manyfit.training.models import build_model, check_size
from manyfit.training.outcomes import to_histories
from manyfit.training.seeding import seeded
from manyfit.tuners.callbacks import (
    BATCH_HOOKS,
    EpochHooks,
    SaveBestEpoch,
    TunerCallback,
    is_overridden,
    overrides_hooks,
)
from manyfit.tuners.hypermodel import HyperModel
from manyfit.tuners.supply import plan_of


class Overrides:
    """The base of `Tuner` that users' subclasses reach into."""

    if TYPE_CHECKING:
        oracle: Oracle
        hypermodel: HyperModel | None
        max_model_size: int | None
        optimizer: Any
        loss: Any
        metrics: Any
        store: Any
        executor: Any
        _build: Any
        _fuses: Any
        _say: Any

    # Building --------------------------------------------------------------------------------------------------

    def _build_hypermodel(self, hp: HyperParameters) -> Any:
        """What the user's build function returns. Override it to build otherwise."""
        assert self.hypermodel is not None  # our bug: __init__ checks it
        return self.hypermodel.build(hp)

    def _try_build(self, hp: HyperParameters) -> Any:
        """A built model that was checked, for overrides of `_build_and_fit_model` and `run_trial`.

        Raises:
            FatalTypeError: the build function returned no Keras model.
            FailedTrialError: it has more trainable parameters than `max_model_size`.
        """
        keras.backend.clear_session(free_memory=False)
        model = build_model(self._build, hp)
        check_size(model, self.max_model_size)
        return model

    def _override_compile_args(self, model: Any) -> None:
        """Recompiles a model with the optimizer, the loss and the metrics that the tuner was given."""
        given = {"optimizer": self.optimizer, "loss": self.loss, "metrics": self.metrics}
        arguments = {**compile_arguments(model), **{name: value for name, value in given.items() if value is not None}}
        model.compile(**{name: _fresh(value) for name, value in arguments.items()})

    def _get_checkpoint_fname(self, trial_id: str) -> str:
        """Where KerasTuner keeps the weights of a trial; `load_model` looks there, too."""
        return str(self.store.layout.keras_weights(trial_id))

    def _weights_file(self, trial_id: str, execution: int) -> Path:
        """The weights of an execution: Manyfit's file, else one that KerasTuner or a user's own loop has written."""
        path = Path(self.store.weights_path(trial_id, execution))
        other = Path(self._get_checkpoint_fname(trial_id))
        return other if other.exists() and not path.exists() else path

    # What an override means ------------------------------------------------------------------------------------

    def _runs_one_by_one(self) -> list[str]:
        """The overrides that take trials out of Manyfit's hands, so that they run one after another."""
        base = _tuner()
        oracle = [
            f"{type(self.oracle).__name__}.{name}" for name in self.oracle.overrides("create_trial", "update_trial")
        ]
        return oracle + [
            f"{type(self).__name__}.{name}"
            for name in ("run_trial", "_build_and_fit_model")
            if is_overridden(self, base, name)
        ]

    def _works_on_batches(self) -> list[str]:
        """The overrides that have to be called for each batch, which `model.fit` does and a population does not."""
        return [f"{type(self).__name__}.{name}" for name in BATCH_HOOKS if overrides_hooks(self, _tuner(), (name,))]

    def _say_why_sequential(self, overrides: Sequence[str]) -> None:
        if overrides and self._fuses():
            verb = "is" if len(overrides) == 1 else "are"
            where = "" if self.executor is None else " in each worker"
            self._say(f"Trials run one after another{where}, because {', '.join(overrides)} {verb} overridden.")

    def _callback_arguments(self, fit_kwargs: dict[str, Any]) -> tuple[dict[str, Any], Any]:
        """The keyword arguments of `fit`, and what makes an execution's further callbacks, or None."""
        if is_overridden(self, Overrides, "_deepcopy_callbacks"):
            given = fit_kwargs.get("callbacks") or []
            return {**fit_kwargs, "callbacks": None}, functools.partial(self._copies_and_hooks, given)
        return fit_kwargs, self._hook_callbacks if overrides_hooks(self, _tuner()) else None

    def _copies_and_hooks(self, callbacks: Any, plan: Plan) -> list[Any]:
        hooks = self._hook_callbacks(plan) if overrides_hooks(self, _tuner()) else []
        return [*self._deepcopy_callbacks(callbacks), *hooks]

    def _hook_callbacks(self, plan: Plan) -> list[Any]:
        """What calls the hooks of a subclass; in a worker, those of its copy of this tuner."""
        trial = self.oracle.trials.get(plan.trial_id)
        if trial is None:
            assert isinstance(plan.values, HyperParameters)  # our bug: a tuner's plans hold them
            trial = Trial(plan.values, trial_id=plan.trial_id)
        return [TunerCallback(self, trial) if self._works_on_batches() else EpochHooks(self, trial)]

    # Training one by one ---------------------------------------------------------------------------------------

    def _train_by_override(self, trial: Trial, execution: int, fit_args: tuple[Any, ...], fit_kwargs: Any) -> Any:
        """Calls a subclass's `_build_and_fit_model` with what it is used to: copied callbacks that save the weights."""
        plan = plan_of(trial, execution, self.oracle, self.store.weights_path)
        assert plan.weights_path is not None  # our bug: `plan_of` sets it
        given, own = fit_kwargs.get("callbacks"), is_overridden(self, Overrides, "_deepcopy_callbacks")
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

    def _deepcopy_callbacks(self, callbacks: Any) -> list[Any]:
        """The copies of the user's callbacks that one execution gets. Override it for callbacks that cannot be copied.

        Raises:
            FatalValueError: a callback cannot be copied; the message names it.
        """
        return copy_callbacks(callbacks)


def _tuner() -> Any:
    from manyfit.tuners.tuner import Tuner  # it derives from this module's class

    return Tuner


def _fresh(value: Any) -> Any:
    """A copy of an optimizer, so that one model's slots are not another's."""
    return type(value).from_config(value.get_config()) if isinstance(value, keras.optimizers.Optimizer) else value
