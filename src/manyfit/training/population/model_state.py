"""A Keras model's variables as a population holds them: in groups, and as arrays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np

from manyfit.training import stored_state


def build_layers(model: keras.Model, x: object) -> None:
    """Creates the variables of the layers of a `Sequential` model without an input layer, in the order of `fit`.

    Ten times as fast as `build_symbolically`, which traces losses and metrics as well; other models are left alone.
    """
    if type(model) is keras.Sequential and not model.built and hasattr(x, "shape"):
        model.build((None, *x.shape[1:]))


def variables_of(model: keras.Model) -> tuple[list[Any], list[Any], list[Any], list[Any]]:
    """Trainable, non-trainable, optimizer and metric variables, in the order of `train_step`'s state."""
    return (*stored_state.variables_of(model), model.metrics_variables)


def values_of(variables: Sequence[keras.Variable]) -> list[Any]:
    """The arrays in variables."""
    return [variable.value for variable in variables]


def in_order_of_weights(model: keras.Model, trainable: Sequence[Any], fixed: Sequence[Any]) -> list[Any]:
    """Values of the trainable and the other variables in the order of `model.weights`, which leaves seeds out."""
    values = dict(zip(map(id, model.trainable_variables), trainable, strict=True))
    values.update(zip(map(id, model.non_trainable_variables), fixed, strict=True))
    return [values[id(variable)] for variable in model.weights]


def metric_results(model: keras.Model, values: Sequence[Any]) -> dict[str, Any]:
    """The logs that the metrics would show if their variables held `values`; traceable."""
    scope = keras.StatelessScope(state_mapping=list(zip(model.metrics_variables, values, strict=True)))
    with scope:
        return dict(model.get_metrics_result())


def python_logs(logs: Mapping[str, Any]) -> dict[str, Any]:
    """Logs with Python floats where an entry is one number, as callbacks expect them."""
    return {name: float(value) if np.ndim(value) == 0 else np.asarray(value) for name, value in logs.items()}
