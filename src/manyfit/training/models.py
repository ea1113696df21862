"""What trainers ask of the user's build function and of the model that it returns."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import keras

from manyfit.core.errors import FatalTypeError, explain
from manyfit.core.lifecycle import OversizedModelError


def build_model(build: Callable[[Any], Any], values: Any) -> keras.Model:
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
    if max_model_size is not None and size > max_model_size:
        raise OversizedModelError(f"Oversized model: {size} parameters. Skip model. (max_model_size={max_model_size})")
