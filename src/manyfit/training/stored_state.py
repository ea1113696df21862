"""The state of a paused execution on disk: what a new process needs to continue it as if it had never stopped.

Weights, optimizer slots (and with them the position of a schedule), the states of dropout and of other random layers,
the patience of callbacks, curves, the best weights so far. The order of the data follows seed and epoch, or the
generators, which are stored as well.
"""

from __future__ import annotations

import dataclasses
import pickle
import types
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from manyfit.core.files import written_whole
from manyfit.core.records import Plan
from manyfit.training.keras_internals.building import CALLBACK_ATTRIBUTES

_FUNCTIONS = (types.FunctionType, types.MethodType)


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
        own = {name: value for name, value in vars(callback).items() if name not in CALLBACK_ATTRIBUTES}
        lost = [name for name, value in own.items() if not _can_be_stored(value)]
        if not all(isinstance(own[name], _FUNCTIONS) for name in lost):
            return None
        states.append({name: value for name, value in own.items() if name not in lost})
    return states


def _can_be_stored(value: Any) -> bool:
    try:
        pickle.dumps(value)
    except Exception:
        return False
    return not isinstance(value, types.MethodType)  # it would bring a copy of its callback along


def restore(callbacks: Sequence[Any], states: Sequence[dict[str, Any]]) -> None:
    """Gives callbacks, which have begun their training, the attributes that they had."""
    for callback, state in zip(callbacks, states, strict=True):
        vars(callback).update(state)


def write_state(path: str | Path, state: StoredState) -> None:
    """Writes a state. A file is complete or absent: it is written under another name and renamed.

    Raises:
        ProjectError: the disk is full or the file cannot be written.
    """
    with written_whole(Path(path), "state") as partial, partial.open("wb") as file:
        pickle.dump(state, file, protocol=pickle.HIGHEST_PROTOCOL)


def read_state(plan: Plan, trainer: str, num_callbacks: int) -> StoredState | None:
    """The state that continues a plan; None where there is none that does, so that it is trained again from its start.

    Args:
        plan: an execution that was paused.
        trainer: see `StoredState`.
        num_callbacks: of the user; with others the training would be another one.
    """
    if plan.state_path is None or plan.first_epoch == 0:
        return None
    try:
        with open(plan.state_path, "rb") as file:
            state = pickle.load(file)  # a file of the project, as trusted as its database
    except Exception:  # absent, of a version that is gone, cut off by a crash of the machine
        return None
    continues = (
        isinstance(state, StoredState)
        and (state.trainer, state.seed, len(state.callbacks)) == (trainer, plan.seed, num_callbacks)
        and state.epoch <= plan.first_epoch
    )
    return state if continues else None
