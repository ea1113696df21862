"""Forwards Keras's events to the hooks of a tuner's subclass."""

from __future__ import annotations

from typing import Any

import keras

from manyfit.oracles import Trial

EPOCH_HOOKS = ("on_epoch_begin", "on_epoch_end")
BATCH_HOOKS = ("on_batch_begin", "on_batch_end")


def overrides_hooks(tuner: Any, base: type, names: tuple[str, ...] = EPOCH_HOOKS + BATCH_HOOKS) -> bool:
    """Whether a subclass of `base` has hooks of its own."""
    return any(getattr(type(tuner), name) is not getattr(base, name) for name in names)


def only_keras(callbacks: Any) -> bool:
    """Whether all of these callbacks are Keras's own, which log the same in every epoch."""
    given = callbacks if isinstance(callbacks, list | tuple) else [callbacks]
    return all(
        callback is None
        or (type(callback).__module__.startswith("keras.") and not isinstance(callback, keras.callbacks.LambdaCallback))
        for callback in given
    )


class TunerCallback(keras.callbacks.Callback):
    """Calls `tuner.on_epoch_begin(trial, model, epoch, logs)` and its siblings.

    Args:
        tuner: whose hooks are called.
        trial: the trial that is trained.
    """

    def __init__(self, tuner: Any, trial: Trial) -> None:
        super().__init__()
        self.tuner = tuner
        self.trial = trial

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self.tuner.on_epoch_begin(self.trial, self.model, epoch, logs=logs)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self.tuner.on_epoch_end(self.trial, self.model, epoch, logs=logs)

    def on_batch_begin(self, batch: int, logs: Any = None) -> None:
        self.tuner.on_batch_begin(self.trial, self.model, batch, logs)

    def on_batch_end(self, batch: int, logs: Any = None) -> None:
        self.tuner.on_batch_end(self.trial, self.model, batch, logs)
