"""The user's real Keras callbacks, one copy per member, called where `fit` calls them.

A member's callbacks see that member's own Keras model. Its variables are pointed at the member's arrays before they
are called; what they assign (a lower learning rate, restored weights) is taken over afterwards.
Neither copies; what else holds on to a member's arrays does, because Keras's `predict` and `evaluate` use them up.

The hooks, their order, their arguments and the moment at which `stop_training` takes effect are `fit`'s: the table in
docs/population.md is written by the test that compares the two (`test_hooks`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeAlias

import keras
import numpy as np

from manyfit.training.callbacks import acts_before_tests, defines
from manyfit.training.keras_internals import building

Logged: TypeAlias = float | np.ndarray
"""What stands in the logs of an epoch under a name: a number, or the array that a metric of the user's has answered."""

_BATCH_HOOKS = (
    "on_batch_begin",
    "on_batch_end",
    "on_train_batch_begin",
    "on_train_batch_end",
    "on_test_batch_begin",
    "on_test_batch_end",
)

# Keras's own callbacks that define batch hooks, and the settings under which those do nothing at the end of an epoch.
_HARMLESS = {
    keras.callbacks.TerminateOnNaN: lambda callback: True,  # called once per epoch, with the epoch's logs
    keras.callbacks.ModelCheckpoint: lambda callback: callback.save_freq == "epoch",
    keras.callbacks.TensorBoard: lambda callback: (
        callback.update_freq == "epoch" and not building.profiles_batches(callback)
    ),
    keras.callbacks.ProgbarLogger: lambda callback: True,
}


def why_not(callbacks: Sequence[object]) -> str | None:
    """Why a population cannot serve these callbacks; None if it can.

    Example:

    >>> why_not([keras.callbacks.EarlyStopping()]) is None
    True
    >>> why_not([keras.callbacks.LambdaCallback(on_train_batch_end=print)])
    'callback LambdaCallback works on batches (on_train_batch_end)'
    """
    for callback in callbacks:
        name = type(callback).__name__
        if isinstance(callback, keras.callbacks.BackupAndRestore):
            return f"callback {name} begins at another epoch, which members of a population cannot"
        if not isinstance(callback, keras.callbacks.Callback):
            return f"callback {name} is not a keras.callbacks.Callback"
        if type(callback) in _HARMLESS:
            if not _HARMLESS[type(callback)](callback):
                return f"callback {name} works on batches as it is set"
            continue
        for hook in _BATCH_HOOKS:
            if defines(callback, hook):
                return f"callback {name} works on batches ({hook})"
    return None


class _Seen(keras.callbacks.Callback):
    """Stands last in the list and sees what the others have added: Keras hands them a copy of the logs."""

    logs: dict[str, Logged]

    def on_epoch_end(self, epoch: int, logs: Mapping[str, Logged] | None = None) -> None:
        del epoch
        self.logs = dict(logs or {})


class MemberCallbacks:
    """One member's callbacks.

    Args:
        callbacks: the member's own copies.
        model: the member's model.
        params: what `fit` puts into `callback.params`: verbose, epochs, and batches per epoch (None if not known).
        own: those of them that are the tuner's, and have no state.
    """

    def __init__(
        self,
        callbacks: Sequence[keras.callbacks.Callback],
        model: keras.Model,
        *,
        params: Mapping[str, object],
        own: Sequence[keras.callbacks.Callback] = (),
    ) -> None:
        self._model = model
        self.of_user = [each for each in callbacks if each not in own]
        self.any = bool(callbacks)
        self.split_tests = acts_before_tests(callbacks)
        self._testing = False
        self._seen = _Seen()
        # With a History, as in `fit`: callbacks read `model.history`. No bar: those of several members tear each other.
        self._list = (
            keras.callbacks.CallbackList([*callbacks, self._seen], add_history=True, model=model, **params)
            if callbacks
            else None
        )
        self._on_nan = [each for each in callbacks if isinstance(each, keras.callbacks.TerminateOnNaN)]
        # A model that the build function has trained before may come with it set.
        model.stop_training = False

    @property
    def stopped(self) -> bool:
        """Whether a callback has asked to stop training."""
        return bool(self._model.stop_training)

    def train_begin(self) -> None:
        """As `fit` before the first epoch."""
        if self._list is not None:
            self._list.on_train_begin()

    def epoch_begin(self, epoch: int) -> None:
        """As `fit` before an epoch."""
        if self._list is not None:
            self._list.on_epoch_begin(epoch)

    def test_begin(self) -> None:
        """As `fit` between the last batch of an epoch and its validation."""
        if self._list is not None and not self._testing:
            self._list.on_test_begin()
            self._testing = True

    def epoch_end(
        self, epoch: int, logs: Mapping[str, Logged], test_logs: Mapping[str, Logged] | None
    ) -> dict[str, Logged]:
        """As `fit` after an epoch; `test_logs` (names without "val_") if the epoch had a validation.

        Returns:
            The logs with what callbacks have added.
        """
        if self._list is None:
            return dict(logs)
        # It looks at batches; but the loss of an epoch is NaN if that of one of its batches was.
        for callback in self._on_nan:
            callback.on_batch_end((self._list.params["steps"] or 1) - 1, dict(logs))
        if test_logs is not None:
            # Around a validation, as `fit` calls them. The hooks of batches in between are nobody's: see `why_not`.
            self.test_begin()  # if it may come late
            self._testing = False
            self._list.on_test_end(dict(test_logs))
        self._list.on_epoch_end(epoch, dict(logs))
        return self._seen.logs

    def train_end(self, logs: Mapping[str, Logged]) -> None:
        """As `fit` after the last epoch."""
        if self._list is not None:
            self._list.on_train_end(dict(logs))
