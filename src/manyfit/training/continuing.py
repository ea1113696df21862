"""What continues an execution of `model.fit` in a new process, on any backend of Keras."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

from manyfit.data.order import SeededOrder
from manyfit.data.rows import take_rows
from manyfit.training.base import Task
from manyfit.training.seeding import set_generator_states
from manyfit.training.stored_state import StoredState, restore


def stored_by() -> str:
    """See `StoredState.trainer`: each backend draws from generators of its own."""
    return f"keras_fit on {keras.backend.backend()}"


def order_of_data(seed: int, task: Task) -> SeededOrder | None:
    """Who orders the data of an execution that may be paused; None: Keras, by global generators that are stored."""
    is_ours = task.may.pause and task.fit is None and keras.backend.backend() == "tensorflow"
    return SeededOrder(seed) if is_ours else None


def is_storable(model: keras.Model, task: Task, order: SeededOrder | None) -> bool:
    """Whether everything that decides how an execution goes on is in variables, callbacks, generators, and its seed.

    It is not where the data come as a stream, which has a position, and where the user's own code trains, which may
    keep numbers of its own.
    """
    own_code = any(getattr(type(model), name) is not getattr(keras.Model, name) for name in ("fit", "train_step"))
    arrays = task.call.num_rows is not None
    starts_anew = not task.call.get("steps_per_epoch")  # else an epoch begins where the one before it ended
    ordered = keras.backend.backend() != "tensorflow" or (order is not None and order.knows)
    return task.fit is None and arrays and starts_anew and ordered and not own_code


def variables_of(model: keras.Model) -> tuple[list[Any], list[Any], list[Any]]:
    """Trainable, other and optimizer variables: weights, states of random layers, slots and position of schedules."""
    optimizer = [] if model.optimizer is None else list(model.optimizer.variables)
    return model.trainable_variables, model.non_trainable_variables, optimizer


def make_variables(model: keras.Model, task: Task) -> None:
    """Creates the variables that some backends create with the first batch only.

    Args:
        model: compiled.
        task: its data.
    """
    if not model.built:
        model(take_rows(task.call.x, np.arange(1)))
    if model.optimizer is not None and not model.optimizer.built:
        model.optimizer.build(model.trainable_variables)


class Continue(keras.callbacks.Callback):
    """Puts an execution back to where it was, after `fit` and the user's callbacks have begun."""

    def __init__(self, stored: StoredState, user_callbacks: list[keras.callbacks.Callback]) -> None:
        super().__init__()
        self._stored, self._user_callbacks = stored, user_callbacks

    def on_train_begin(self, logs: Mapping[str, Any] | None = None) -> None:
        del logs
        for variables, arrays in zip(variables_of(self.model), self._stored.variables, strict=True):
            for variable, array in zip(variables, arrays, strict=True):
                variable.assign(array)
        restore(self._user_callbacks, self._stored.callbacks)
        set_generator_states(self._stored.generators)
