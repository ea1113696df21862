"""The only file of the population trainer that touches Keras's private names.

Each helper does one thing that Keras's own `fit` does, on the same private functions, so that the two cannot drift
apart unnoticed: the equivalence tests compare them.
"""

from __future__ import annotations

import contextlib
import contextvars
import functools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import keras
import numpy as np
from keras.src.backend.jax import random as keras_random
from keras.src.backend.jax.trainer import JAXEpochIterator
from keras.src.trainers.data_adapters import array_slicing, data_adapter_utils
from keras.src.trainers.data_adapters.array_data_adapter import ArrayDataAdapter
from keras.src.utils.naming import reset_uids

from manyfit.training import continuing
from manyfit.training.population.random_bits import written_out

_draws_quickly = contextvars.ContextVar("draws_quickly", default=False)


def forget_names() -> None:
    """Lets automatic names start anew ("dense", not "dense_41"), so that equal models are equal to the letter.

    `keras.backend.clear_session` would do it too, but also drop the user's dtype policy.
    """
    reset_uids()


@contextlib.contextmanager
def quick_draws() -> Iterator[None]:
    """What Keras draws or traces in here, in this thread, draws the same numbers in less time."""
    _watch_keys()
    token = _draws_quickly.set(True)
    try:
        yield
    finally:
        _draws_quickly.reset(token)


@functools.cache
def _watch_keys() -> None:
    """Lets Keras's function that makes a key of a seed make a quick one inside of `quick_draws`."""
    key_of = keras_random.jax_draw_seed

    @functools.wraps(key_of)
    def quick_key_of(seed: Any) -> Any:
        key = key_of(seed)
        return written_out(key) if _draws_quickly.get() else key

    keras_random.jax_draw_seed = quick_key_of


def build_symbolically(model: Any, batch: Any) -> None:
    """Creates every variable of a compiled model, as `fit` does before its first step.

    Args:
        model: a compiled Keras model.
        batch: one (x, y, sample_weight) batch; only shapes and types are read.
    """
    model._symbolic_build(data_batch=batch)


def build_layers(model: Any, x: Any) -> None:
    """Creates the variables of the layers of a `Sequential` model without an input layer, in the order of `fit`.

    Ten times as fast as `build_symbolically`, which traces losses and metrics as well; other models are left alone.
    """
    if type(model) is keras.Sequential and not model.built and hasattr(x, "shape"):
        model.build((None, *x.shape[1:]))


def is_built(model: Any) -> bool:
    """Whether all layers have their variables."""
    return all(layer.built for layer in model._flatten_layers())


def place_of_learning_rate(model: Any) -> int | None:
    """Where the learning rate stands among the optimizer's variables; None for a schedule."""
    optimizer = getattr(model.optimizer, "inner_optimizer", model.optimizer)  # a loss scale wraps another optimizer
    rate = getattr(optimizer, "_learning_rate", None)
    places = [place for place, variable in enumerate(model.optimizer.variables) if variable is rate]
    return places[0] if places else None


def variables_of(model: Any) -> tuple[list[Any], list[Any], list[Any], list[Any]]:
    """Trainable, non-trainable, optimizer and metric variables, in the order of `train_step`'s state."""
    return (*continuing.variables_of(model), model.metrics_variables)


def values_of(variables: Sequence[Any]) -> list[Any]:
    """The arrays in variables."""
    return [variable.value for variable in variables]


def assign_values(variables: Sequence[Any], values: Sequence[Any]) -> None:
    """Points variables at arrays, without a copy or a check.

    The arrays are the model's from then on: Keras's `predict` and `evaluate` donate them and put others there.
    What is held on to elsewhere has to be `copied`.
    """
    for variable, value in zip(variables, values, strict=True):
        variable._value = value


def copied(values: Any) -> Any:
    """A tree of the same values in arrays of their own, on the same devices, which a model cannot use up."""
    return jax.device_put(values, may_alias=False)


def changed_values(variables: Sequence[Any], values: Sequence[Any]) -> list[Any] | None:
    """What variables hold now, or None if each still holds the very array that was put there."""
    if all(variable._value is value for variable, value in zip(variables, values, strict=True)):
        return None
    return [variable.value for variable in variables]


def in_order_of_weights(model: Any, trainable: Sequence[Any], fixed: Sequence[Any]) -> list[Any]:
    """Values of the trainable and the other variables in the order of `model.weights`, which leaves seeds out."""
    values = dict(zip(map(id, model.trainable_variables), trainable, strict=True))
    values.update(zip(map(id, model.non_trainable_variables), fixed, strict=True))
    return [values[id(variable)] for variable in model.weights]


def metric_results(model: Any, values: Sequence[Any]) -> dict[str, Any]:
    """The logs that the metrics would show if their variables held `values`; traceable."""
    scope = keras.StatelessScope(state_mapping=list(zip(model.metrics_variables, values, strict=True)))
    with scope:
        return dict(model.get_metrics_result())


def epoch_iterator(x: Any, y: Any, sample_weight: Any, **arguments: Any) -> JAXEpochIterator:
    """Keras's iterator over whatever `fit` was given; takes what `fit` takes for it."""
    return JAXEpochIterator(x, y, sample_weight, **arguments)


def first_batch(iterator: JAXEpochIterator) -> Any:
    """The first batch, looked at as `fit` does before its first step; the next pass begins anew."""
    first = next(one_pass(iterator))
    iterator.reset()
    return first


def one_pass(iterator: JAXEpochIterator) -> Iterator[Any]:
    """The batches of one epoch, as `fit` reads them."""
    for _, _, batches in iterator:
        batch = next(batches, None)
        if batch is None:
            with iterator.catch_stop_iteration():
                raise StopIteration
            return
        yield batch


def is_array_adapter(adapter: Any) -> bool:
    """Whether the data are arrays (as against a stream)."""
    return isinstance(adapter, ArrayDataAdapter)


def arrays_of(adapter: ArrayDataAdapter) -> Any:
    """The (x, y, sample_weight) arrays of an adapter, converted as `fit` converts each batch of them."""
    sliceable = array_slicing.convert_to_sliceable(adapter._inputs, target_backend="jax")

    def whole(part: Any) -> Any:
        return np.asarray(part.convert_to_jax_compatible(part[slice(None)]))

    return keras.tree.map_structure(whole, sliceable, none_is_leaf=False)


def batch_size_of(adapter: ArrayDataAdapter) -> int:
    """Rows per batch, with Keras's defaults filled in."""
    return adapter.batch_size


def split(arrays: Any, validation_split: float) -> tuple[Any, Any]:
    """Training and validation part of (x, y, sample_weight), as `fit(validation_split=...)` cuts them."""
    return array_slicing.train_validation_split(arrays, validation_split=validation_split)


def unpack(data: Any) -> tuple[Any, Any, Any]:
    """(x, y, sample_weight) of what `fit` accepts as `validation_data`."""
    return data_adapter_utils.unpack_x_y_sample_weight(data)


def python_logs(logs: Mapping[str, Any]) -> dict[str, Any]:
    """Logs with Python floats where an entry is one number, as callbacks expect them."""
    return {name: float(value) if np.ndim(value) == 0 else np.asarray(value) for name, value in logs.items()}


def summary(model: Any) -> str:
    """A model in a few words: its layers, parameters and optimizer."""
    layers = ", ".join(type(layer).__name__ for layer in model.layers[:6]) + (", ..." if len(model.layers) > 6 else "")
    return f"{layers}; {num_parameters(model):,} parameters; {type(model.optimizer).__name__}"


def num_parameters(model: Any) -> int:
    """Trainable parameters."""
    return sum(math.prod(variable.shape) for variable in model.trainable_variables)


def shapes_of(arrays: Sequence[Any]) -> list[jax.ShapeDtypeStruct]:
    """Shapes and types for tracing without values."""
    return [jax.ShapeDtypeStruct(np.shape(array), array.dtype) for array in arrays]
