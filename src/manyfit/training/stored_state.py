"""The state of a paused execution on disk: what a new process needs to continue it as if it had never stopped.

Weights, optimizer slots (and with them the position of a schedule), the states of dropout and of other random layers,
the patience of callbacks, curves, the best weights so far. The order of the data follows seed and epoch, or the
generators, which are stored as well. The first half of this file is for all trainers; the second says what of an
execution of `model.fit` can be stored, on any backend of Keras.
"""

from __future__ import annotations

import dataclasses
import io
import pickle
import types
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from manyfit.core.files import EARLIER, is_sealed, sealed, without_seal, written_whole
from manyfit.core.records import Plan
from manyfit.data.order import SeededOrder
from manyfit.training.base import Task
from manyfit.training.keras_internals.building import CALLBACK_ATTRIBUTES
from manyfit.training.seeding import set_generator_states

_FUNCTIONS = (types.FunctionType, types.MethodType)


# Files name this module and this class: both have to stay where they are, or no paused search goes on.
@dataclasses.dataclass(frozen=True)
class StoredState:
    """What continues an execution.

    Attributes:
        trainer: whose state it is, and on which backend; another one reads the data in another order.
        seed: of the execution.
        epoch: epochs that are behind it.
        variables: trainable, other and optimizer variables.
        callbacks: the attributes of each of the user's callbacks.
        history: the curves.
        best: the weights of the best epoch so far, in the trainer's own form.
        best_loss: the loss of that epoch.
        generators: states of the global generators, where the trainer draws from those.
        seconds: of training so far.
        is_origin: whether it is what a branch begins with: the state of another execution, with nothing but variables.
    """

    trainer: str
    seed: int
    epoch: int
    variables: tuple[list[np.ndarray], list[np.ndarray], list[np.ndarray]]
    callbacks: list[dict[str, Any]]
    history: dict[str, list[float | None]]
    best: Any
    best_loss: float
    generators: Any = None
    seconds: float = 0.0
    is_origin: bool = False

    def fits(self, variables: Sequence[Sequence[Any]]) -> bool:
        """Whether variables (or their values) have the shapes of the stored ones; groups that are left out do."""
        return all(
            [array.shape for array in stored] == [tuple(variable.shape) for variable in group]
            for stored, group in zip(self.variables, variables, strict=False)
        )


def arrays_of(values: Sequence[Any]) -> list[np.ndarray]:
    """Values on the host."""
    return [np.asarray(value) for value in values]


def states_of(callbacks: Sequence[Any]) -> list[dict[str, Any]] | None:
    """The attributes of callbacks, without the model and without lambdas and methods, which a fresh copy has anyway.

    Returns:
        None where another attribute cannot be stored (an open file, a generator): nobody knows what it stands for.
    """
    states = []
    for callback in callbacks:
        # All attributes, since nobody says which of them is state: patience, counters, best values, lists of rates.
        own = {name: value for name, value in vars(callback).items() if name not in CALLBACK_ATTRIBUTES}
        lost = [name for name, value in own.items() if not _can_be_stored(value)]
        if not all(isinstance(own[name], _FUNCTIONS) for name in lost):
            return None
        states.append({name: value for name, value in own.items() if name not in lost})
    return states


def _can_be_stored(value: object) -> bool:
    try:
        pickle.dumps(value)
    except Exception:
        return False
    return not isinstance(value, types.MethodType)  # it would bring a copy of its callback along


def restore(callbacks: Sequence[Any], states: Sequence[dict[str, Any]]) -> None:
    """Gives callbacks, which have begun their training, the attributes that they had."""
    for callback, state in zip(callbacks, states, strict=True):
        vars(callback).update(state)


def write_state(path: str | Path, state: StoredState, *, keeps_earlier: bool = False) -> None:
    """Writes a state. A file is complete or absent: it is written under another name and renamed.

    Args:
        path: where it goes.
        state: what is written.
        keeps_earlier: whether the one that is there stays as the earlier one, from which a search goes on whose process
            dies before the store knows of this pause. Others train again from their start then, which no branch has.

    Raises:
        ProjectError: the disk is full or the file cannot be written.
    """
    if keeps_earlier and Path(path).exists():
        Path(path).replace(f"{path}{EARLIER}")
    # A pickle, and no format of ours: attributes of callbacks are whatever their authors wrote.
    with written_whole(Path(path), "state") as partial:
        partial.write_bytes(sealed(pickle.dumps(state, protocol=pickle.HIGHEST_PROTOCOL)))


def _of_somebody_else(content: bytes) -> StoredState | None:
    """A state without a seal, of 0.1.0 or of another user or machine; None where more is in it than can be trusted.

    Numbers can do no harm. A text among the attributes of a callback can: it may be the path that it writes to.
    """
    state = _PlainUnpickler(content).load()
    return None if not isinstance(state, StoredState) or _holds_text(state.callbacks) else state


def _holds_text(value: object) -> bool:
    if isinstance(value, Mapping):
        return any(map(_holds_text, value.values()))
    if isinstance(value, list | tuple):
        return any(map(_holds_text, value))
    return (
        not isinstance(value, int | float | complex | types.NoneType)
        and getattr(value, "dtype", np.dtype("O")).kind in "OUSV"
    )


class _PlainUnpickler(pickle.Unpickler):
    """Reads a state that consists of arrays and of what JSON knows, whoever wrote it.

    A pickle is a program for a small machine; it acts only by the functions and classes that it names, so these are
    listed, and all others refused. Those of the list make values of what they are given, and do nothing else.
    """

    _PLAIN = frozenset(
        {
            (__name__, "StoredState"),
            ("numpy", "dtype"),
            ("numpy", "ndarray"),
            *((f"numpy.{core}.multiarray", name) for core in ("core", "_core") for name in ("_reconstruct", "scalar")),
            *((f"numpy.{core}.numeric", "_frombuffer") for core in ("core", "_core")),
            ("ml_dtypes", "bfloat16"),
        }
    )

    def __init__(self, content: bytes) -> None:
        super().__init__(io.BytesIO(content))

    def find_class(self, module: str, name: str) -> Any:
        """What a pickle names, if it is harmless."""
        # Attributes of what is listed ("StoredState.fits.__globals__") are not listed, and so refused, too.
        if (module, name) not in self._PLAIN:
            raise pickle.UnpicklingError(f"{module}.{name} is more than a plain value")
        return super().find_class(module, name)


def read_state(plan: Plan, trainer: str, num_callbacks: int) -> StoredState | None:
    """The state that continues a plan; None where there is none that does, so that it is trained again from its start.

    Args:
        plan: an execution that was paused.
        trainer: see `StoredState`.
        num_callbacks: of the user; with others the training would be another one.
    """
    if plan.state_path is None or plan.first_epoch == 0:
        return None
    # Another backend, seed or number of callbacks would go on with another training under the same name. An epoch
    # beyond the plan's is of a run that the store has not heard of: it died between the two.
    found = [
        state
        for state in map(_read, (plan.state_path, f"{plan.state_path}{EARLIER}"))
        if state is not None
        and (state.is_origin or (state.seed, len(state.callbacks)) == (plan.seed, num_callbacks))
        # A branch has no start of its own: where it has to change the trainer, it goes on all the same.
        and (state.trainer == trainer or plan.origin is not None)
        and state.epoch <= plan.first_epoch
    ]
    return max(found, key=lambda state: state.epoch, default=None)


def state_at(path: str | Path, epoch: int) -> StoredState | None:
    """The state of an execution after just so many epochs, from its file or the earlier one; None where it is gone."""
    found = (_read(each) for each in (path, f"{path}{EARLIER}"))
    return next((state for state in found if state is not None and state.epoch == epoch), None)


def _read(path: str | Path) -> StoredState | None:
    try:
        content = Path(path).read_bytes()
        state = pickle.loads(without_seal(content)) if is_sealed(content) else _of_somebody_else(content)
    except Exception:  # absent, of a version that is gone, cut off by a crash of the machine, more than plain values
        return None
    return state if isinstance(state, StoredState) else None


# Of `model.fit` -------------------------------------------------------------------------------------------------


def stored_by() -> str:
    """See `StoredState.trainer`: each backend draws from generators of its own."""
    return f"keras_fit on {keras.backend.backend()}"


def order_of_data(seed: int, task: Task) -> SeededOrder | None:
    """Who orders the data of an execution that may be paused; None: Keras, by global generators that are stored."""
    # Only where it may be paused: otherwise the results of a search stay those of `model.fit` with Keras's own order.
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
        # One row makes the shapes known; what it computes is not looked at.
        model(task.call.rows.take(slice(0, 1)).x)
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
        if not self._stored.is_origin:  # a branch draws by its own seed
            set_generator_states(self._stored.generators)
