"""Keras's events, forwarded to the hooks of a tuner's subclass, and which of its hooks a subclass has overridden."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import keras

from manyfit.core.history import numbers_of
from manyfit.core.objective import Objective
from manyfit.oracles import Trial
from manyfit.training.weights import write_weights

EPOCH_HOOKS = ("on_epoch_begin", "on_epoch_end")
BATCH_HOOKS = ("on_batch_begin", "on_batch_end")


class TrainingHooks(Protocol):
    """A tuner with the hooks of epochs and batches: see `manyfit.tuners.keras_tuner`."""

    def on_epoch_begin(
        self, trial: Trial, model: keras.Model, epoch: int, logs: Mapping[str, float] | None = None
    ) -> None:
        """An epoch begins."""

    def on_epoch_end(
        self, trial: Trial, model: keras.Model, epoch: int, logs: Mapping[str, float] | None = None
    ) -> None:
        """An epoch has ended."""

    def on_batch_begin(
        self, trial: Trial, model: keras.Model, batch: int, logs: Mapping[str, float] | None = None
    ) -> None:
        """A batch begins."""

    def on_batch_end(
        self, trial: Trial, model: keras.Model, batch: int, logs: Mapping[str, float] | None = None
    ) -> None:
        """A batch has ended."""


def overrides_hooks(tuner: object, base: type, names: tuple[str, ...] = EPOCH_HOOKS + BATCH_HOOKS) -> bool:
    """Whether a subclass of `base`, or this one object, has hooks of its own."""
    return any(is_overridden(tuner, base, name) for name in names)


def is_overridden(instance: object, base: type, name: str) -> bool:
    """Whether an object does not have this method from `base`: its class has another, or it has one itself."""
    # The object's own attributes count: programs write `tuner.on_epoch_end = function`, which no class shows.
    return name in vars(instance) or getattr(type(instance), name) is not getattr(base, name)


def as_keras_history(curves: Mapping[str, Sequence[float | None]]) -> keras.callbacks.History:
    """Curves as `model.fit` answers them."""
    # A real `History`, though nothing was called with it: overrides of `run_trial` read `.history` and `.epoch`.
    history = keras.callbacks.History()
    history.history = {name: list(curve) for name, curve in curves.items()}
    history.epoch = list(range(max(map(len, curves.values()), default=0)))
    return history


def only_keras(callbacks: object) -> bool:
    """Whether all of these callbacks (one, a list, or None) are Keras's own, which log the same in every epoch."""
    # LambdaCallback is Keras's, and what is in it is the user's: it may write into the logs.
    given = callbacks if isinstance(callbacks, list | tuple) else [callbacks]
    return all(
        callback is None
        or (type(callback).__module__.startswith("keras.") and not isinstance(callback, keras.callbacks.LambdaCallback))
        for callback in given
    )


class EpochHooks(keras.callbacks.Callback):
    """Calls `tuner.on_epoch_begin(trial, model, epoch, logs)` and `on_epoch_end`. A population can serve it.

    Args:
        tuner: whose hooks are called.
        trial: the trial that is trained.
    """

    def __init__(self, tuner: TrainingHooks, trial: Trial) -> None:
        super().__init__()
        self.tuner = tuner
        self.trial = trial

    def on_epoch_begin(self, epoch: int, logs: Mapping[str, float] | None = None) -> None:
        self.tuner.on_epoch_begin(self.trial, self.model, epoch, logs=logs)

    def on_epoch_end(self, epoch: int, logs: Mapping[str, float] | None = None) -> None:
        self.tuner.on_epoch_end(self.trial, self.model, epoch, logs=logs)


class TunerCallback(EpochHooks):
    """Calls the hooks of batches, too: `tuner.on_batch_begin(trial, model, batch, logs)` and `on_batch_end`.

    Args:
        tuner: whose hooks are called.
        trial: the trial that is trained.
    """

    def on_batch_begin(self, batch: int, logs: Mapping[str, float] | None = None) -> None:
        self.tuner.on_batch_begin(self.trial, self.model, batch, logs)

    def on_batch_end(self, batch: int, logs: Mapping[str, float] | None = None) -> None:
        self.tuner.on_batch_end(self.trial, self.model, batch, logs)


class SaveBestEpoch(keras.callbacks.Callback):
    """Writes the weights whenever an epoch is the best so far; after every epoch where the logs lack the objective.

    Args:
        objective: what makes an epoch the best.
        filepath: a Keras file (`.weights.h5`), or one of Manyfit's (`.npz`).
    """

    def __init__(self, objective: Objective, filepath: str | os.PathLike[str]) -> None:
        super().__init__()
        self.objective = objective
        self.filepath = os.fspath(filepath)
        self._best_loss = math.inf

    def on_epoch_end(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        loss = self.objective.epoch_loss(numbers_of(logs))
        # Logs without the objective are no reason not to save: the last epoch's weights are better than none.
        if not math.isnan(loss):
            if loss >= self._best_loss:
                return
            self._best_loss = loss
        self._save_model()

    def _save_model(self) -> None:
        # KerasTuner's name of this method: subclasses of its callback override it.
        if self.filepath.endswith(".npz"):
            write_weights(self.filepath, self.model.get_weights(), build_config=self.model.get_build_config())
        else:
            self.model.save_weights(self.filepath)
