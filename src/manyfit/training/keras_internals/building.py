"""How models come to be inside of Keras, and what their objects keep to themselves. Works on every backend."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import keras
import numpy as np
from keras.src.backend.common.masking import get_keras_mask
from keras.src.models import Functional
from keras.src.utils.naming import reset_uids

CALLBACK_ATTRIBUTES = frozenset({"_model", "params", "validation_data"})
"""What Keras sets in a callback anew whenever a training begins, so that it is no state of the callback's."""

OF_FIT = "_use_cached_eval_dataset"
"""The argument of `evaluate` that tells its call within `fit`, where rows are validated on, from one of the user's."""


def forget_names() -> None:
    """Lets automatic names start anew ("dense", not "dense_41"), so that equal models are equal to the letter."""
    # Not `keras.backend.clear_session`: it would also drop the user's dtype policy.
    reset_uids()


def build_symbolically(model: keras.Model, batch: object) -> None:
    """Creates every variable of a compiled model, as `fit` does before its first step.

    Args:
        model: a compiled Keras model.
        batch: one (x, y, sample_weight) batch; only shapes and types are read.
    """
    # `model.build` alone leaves the optimizer's and the metrics' variables to the first step.
    model._symbolic_build(data_batch=batch)


def layers_of(model: keras.Model) -> list[keras.layers.Layer]:
    """The model and all layers inside it, at any depth."""
    # `model.layers` ends at the first level, and does not see the layers inside of a layer.
    return list(model._flatten_layers())


def lambda_again(layer: keras.layers.Lambda) -> keras.layers.Lambda:
    """A `Lambda` layer of the same functions: its configuration holds their code, which forgets the names around it."""
    shape = layer._output_shape
    return type(layer)(
        layer.function, output_shape=shape, mask=layer.mask, arguments=layer.arguments,
        name=layer.name, dtype=layer.dtype_policy, trainable=layer.trainable,
    )  # fmt: skip


def calls_its_graph(model: keras.Model) -> bool:
    """Whether a built model is its graph of layers: `Sequential` or functional, with no `call` of the user's."""
    kinds = (keras.Sequential, Functional)
    known = isinstance(model, kinds) and bool(getattr(model, "inputs", None))  # `Sequential` may have none
    return known and type(model).call in [kind.call for kind in kinds]


def output_masks(model: keras.Model, x: object) -> np.ndarray | None:
    """Which steps of a functional model's output a mask keeps, of all rows; None where there is no mask."""
    if not getattr(model, "inputs", None):
        return None
    stacked = isinstance(model, keras.Sequential)  # its `input` and `output` are those of its first call, if any
    inputs, output = (model.inputs[0], model.outputs[0]) if stacked else (model.input, model.output)
    if not isinstance(output, keras.KerasTensor) or get_keras_mask(output) is None:
        return None
    # The mask is an output as any other once it is asked for.
    masks = keras.Model(inputs, get_keras_mask(output)).predict(x, verbose=0)
    return np.asarray(masks, dtype=bool)


_DRAW_BY_SEED = (
    keras.layers.RandomCrop,
    keras.layers.RandomPerspective,
    keras.layers.RandomRotation,
    keras.layers.RandomShear,
    keras.layers.RandomTranslation,
    keras.layers.RandomZoom,
)


def why_not_compiled(model: keras.Model) -> str | None:
    """What keeps the steps of a model with `jit_compile` off from being compiled on JAX; None: nothing does.

    Keras switches compilation off for a model with a layer that says `supports_jit=False`. Those of its image layers
    say so because of TensorFlow's compiler; on JAX they draw by the seed in their state, as dropout does. Whether the
    user asked for False beside such a layer cannot be told, and makes no other numbers.
    """
    layers = [layer for layer in layers_of(model) if not layer.supports_jit]
    if not layers:
        return "the model is compiled with jit_compile=False"
    others = [type(layer).__name__ for layer in layers if not isinstance(layer, _DRAW_BY_SEED)]
    return f"the model has a layer that cannot be compiled ({others[0]})" if others else None


def is_built(model: keras.Model) -> bool:
    """Whether all layers have their variables."""
    return all(layer.built for layer in layers_of(model))


def is_frozen(model: keras.Model) -> bool:
    """Whether a model has variables and trains none."""
    return bool(model.variables) and not model.trainable_variables


def frozen_models_of(model: keras.Model) -> list[keras.Model]:
    """The models among a model's layers that have variables and train none."""
    return [layer for layer in model.layers if isinstance(layer, keras.Model) and is_frozen(layer)]


def cut_behind(model: keras.Model, layer: keras.layers.Layer) -> tuple[keras.Model, keras.Model] | None:
    """A functional model of one input and one output as two, cut behind a layer; they share its layers.

    Returns:
        The model up to the layer, and the rest; None where the layer is called more than once, or the rest reads
        something else, too.
    """
    if not isinstance(model, Functional) or not isinstance(model.input, keras.KerasTensor):
        return None
    nodes = [node for depth in model._nodes_by_depth.values() for node in depth if node.operation is layer]
    if len(nodes) != 1 or len(nodes[0].output_tensors) != 1:
        return None
    middle = nodes[0].output_tensors[0]
    try:
        front, head = keras.Model(model.input, middle), keras.Model(middle, model.output)
    except ValueError:  # a graph that is not connected: its output depends on the input past the layer
        return None
    # Earlier versions of Keras follow the graph to the first input, and complain of nothing.
    return None if set(map(id, front.layers)) & set(map(id, head.layers)) else (front, head)


def is_partly_frozen(model: keras.Model) -> bool:
    """Whether a layer has variables and does not train them."""
    return any(layer.weights and not layer.trainable for layer in layers_of(model))


def output_layers(outputs: Iterable[object]) -> list[object]:
    """The operations that made the output tensors of a functional model."""
    histories = [getattr(tensor, "_keras_history", None) for tensor in outputs]
    return [history.operation for history in histories if history is not None]


def compile_arguments(model: keras.Model) -> dict[str, Any]:
    """What was passed to `model.compile`: the objects themselves; empty if the model was not compiled."""
    # `get_compile_config` is public, but writes the objects out, which needs the user's own to be registered.
    config = getattr(model, "_compile_config", None)
    return {} if config is None else dict(config.config)


def place_of_learning_rate(model: keras.Model) -> int | None:
    """Where the learning rate stands among the optimizer's variables; None for a schedule."""
    optimizer = getattr(model.optimizer, "inner_optimizer", model.optimizer)  # a loss scale wraps another optimizer
    # `optimizer.learning_rate` would compute a schedule's present value, which compiles a few programs on JAX.
    rate = getattr(optimizer, "_learning_rate", None)
    places = [place for place, variable in enumerate(model.optimizer.variables) if variable is rate]
    return places[0] if places else None


def spares_weights_decay(optimizer: keras.optimizers.Optimizer) -> bool:
    """Whether some weights were excluded from an optimizer's weight decay, of which its configuration says nothing."""
    inner = getattr(optimizer, "inner_optimizer", optimizer)  # a loss scale wraps another optimizer
    names = ("_exclude_from_weight_decay", "_exclude_from_weight_decay_pattern")
    return any(getattr(inner, name, None) for name in names)


def assign_values(variables: Sequence[keras.Variable], values: Sequence[object]) -> None:
    """Points variables at arrays, without a copy or a check.

    The arrays are the model's from then on: Keras's `predict` and `evaluate` donate them and put others there.
    What is held on to elsewhere has to be copied.
    """
    # `variable.assign` converts, compares shapes and keeps the layout: 100 us for each of a member's variables.
    for variable, value in zip(variables, values, strict=True):
        variable._value = value


def changed_values(variables: Sequence[keras.Variable], values: Sequence[object]) -> list[Any] | None:
    """What variables hold now, or None if each still holds the very array that was put there."""
    # `variable.value` may answer a cast of the array, in which the array itself cannot be recognised.
    if all(variable._value is value for variable, value in zip(variables, values, strict=True)):
        return None
    return [variable.value for variable in variables]


def profiles_batches(callback: keras.callbacks.TensorBoard) -> bool:
    """Whether a TensorBoard callback looks at single batches to profile them."""
    return bool(callback._stop_batch)


def layout_rules(distribution: object) -> Mapping[str, Any]:
    """The rules of a `keras.distribution.ModelParallel`: path of a variable -> its layout; empty for other kinds."""
    return getattr(distribution, "_layout_map", {})


def mean_function(metric: keras.Metric) -> Callable[[Any, Any], Any] | None:
    """The function of rows whose mean a metric is, as one of truths and predictions; None for any other metric."""
    if not isinstance(metric, keras.metrics.MeanMetricWrapper):
        return None
    return functools.partial(metric._fn, **metric._fn_kwargs)
