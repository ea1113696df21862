"""What trainers ask of the user's build function and of the model that it returns: its size, how long it predicts."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from manyfit.core.errors import FatalTypeError, explain
from manyfit.core.lifecycle import OversizedModelError
from manyfit.core.records import Configuration, Result
from manyfit.data.kinds import Ability
from manyfit.data.rows import FitData
from manyfit.training.base import Task

_NUM_CALLS = 20  # of a prediction that is timed


def build_model(build: Callable[[Any], object], values: Configuration) -> keras.Model:
    """Calls the user's build function and checks what comes back.

    Raises:
        FatalTypeError: it returned nothing, or something that is not a Keras model.
    """
    model = build(values)
    if isinstance(model, keras.Model):
        return model
    if model is None:
        got, instead = "None", "End the build function with `return model`."
    else:
        got, instead = f"{model!r} of type {type(model).__name__}", "Return the keras.Model that fit is called on."
    raise FatalTypeError(
        explain(
            "hypermodel.build(hp)",
            f"{got}. Expected the model-building function, or HyperModel.build(), to return a Keras Model instance",
            "a compiled keras.Model",
            instead,
        )
    )


def num_parameters(model: keras.Model) -> int:
    """Trainable parameters of a model; 0 while it is not built."""
    return sum(math.prod(variable.shape) for variable in model.trainable_variables)


def averages_weights(model: keras.Model) -> bool:
    """Whether `fit` ends with moving averages in the place of the weights (`use_ema` of the optimizer)."""
    optimizer = getattr(model, "optimizer", None)
    return bool(getattr(getattr(optimizer, "inner_optimizer", optimizer), "use_ema", False))


def summary_of(model: keras.Model) -> str:
    """A model in a few words: its layers, parameters and optimizer."""
    layers = ", ".join(type(layer).__name__ for layer in model.layers[:6]) + (", ..." if len(model.layers) > 6 else "")
    return f"{layers}; {num_parameters(model):,} parameters; {type(model.optimizer).__name__}"


def check_size(model: keras.Model, max_model_size: int | None) -> None:
    """Refuses a model that is too large.

    Raises:
        OversizedModelError: more trainable parameters than `max_model_size`.
    """
    size = num_parameters(model)
    # Refused before the first batch where that is possible, because memory is what the limit is for.
    if max_model_size is not None and size > max_model_size:
        raise OversizedModelError(f"Oversized model: {size} parameters. Skip model. (max_model_size={max_model_size})")


def take_measures(result: Result, model: keras.Model, task: Task) -> None:
    """Adds to a result what its task wants measured (see `manyfit.core.objective.MEASURES`).

    Args:
        result: of an execution with a score; others get nothing.
        model: what was trained.
        task: says which measures, and holds the data of which one row is predicted.
    """
    if not result.ending.has_score:
        return
    for name in task.measures:
        result.measures[name] = _measure(name, result, model, task)


def _measure(name: str, result: Result, model: keras.Model, task: Task) -> float:
    if name == "num_parameters":
        return float(num_parameters(model))
    if name == "model_bytes":
        return float(sum(_num_bytes(variable) for variable in model.weights))
    if name == "train_seconds":
        return result.seconds
    return predict_seconds(model, _one_row(model, task))


def predict_seconds(model: keras.Model, row: FitData) -> float:
    """Seconds of one compiled prediction; the fastest of several calls, because other work only ever adds to one.

    Args:
        model: a built model.
        row: its input, a batch of one.

    Returns:
        Seconds; NaN where the model cannot be called with such a row.
    """
    if row is None:
        return math.nan
    model.predict_on_batch(row)  # compiles
    # The fastest and not the mean: whatever else the machine does can make a call slower, never faster.
    fastest = math.inf
    for _ in range(_NUM_CALLS):
        started = time.perf_counter()
        model.predict_on_batch(row)  # returns NumPy arrays, so nothing is still running
        fastest = min(fastest, time.perf_counter() - started)
    return fastest


def _one_row(model: keras.Model, task: Task) -> FitData:
    """The first row of the data, or a row of zeros where the data cannot be cut; None where neither can be had."""
    rows = task.call.rows
    if rows.num_rows and rows.can(Ability.TAKEN):
        return rows.take(slice(0, 1)).x
    inputs = getattr(model, "inputs", None)
    if not inputs:
        return None
    zeros = [np.zeros([1 if size is None else size for size in (1, *each.shape[1:])], each.dtype) for each in inputs]
    return zeros[0] if len(zeros) == 1 else zeros


def _num_bytes(variable: keras.Variable) -> int:
    return math.prod(variable.shape) * np.dtype(_NUMPY_NAMES.get(str(variable.dtype), str(variable.dtype))).itemsize


#: NumPy itself has no bfloat16; what counts is its width.
_NUMPY_NAMES = {"bfloat16": "float16", "float8_e4m3fn": "int8", "float8_e5m2": "int8"}
