"""Copies of models, in memory.

A copy is not made by way of a file, which knows classes by their names only. The classes are here, in the model: every
layer is made anew by its own class from `get_config()`, with the functions that it holds (an activation, the function
of a `Lambda`) and a scope of the classes of the user's that are found inside of it. Then it is given its state as
Keras's files would give it: variables, and assets such as the vocabulary of a `StringLookup`.
"""

from __future__ import annotations

import functools
import inspect
import tempfile
import types
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeAlias

import keras
import numpy as np

from manyfit.core.errors import UsageError, explain, first_line
from manyfit.training.keras_internals.building import calls_its_graph, is_built, lambda_again, layers_of


class UncopyableModelError(UsageError):
    """A model that holds a layer which cannot be made again."""


def copy_model(model: keras.Model) -> keras.Model:
    """An uncompiled copy of a built model, with variables of its own, equal in all that it predicts.

    It works without registered classes, and for models that no file could bring back: `Lambda` layers, closures,
    classes made within a function. Layers that are shared inside the model are shared inside the copy.

    Raises:
        UncopyableModelError: a layer cannot be made again from its `get_config()`; the message names its class.
    """
    copy, pairs = _made_again(model)
    for theirs, ours in pairs:
        _in_its_layer(theirs, functools.partial(_give_state, theirs, ours))
    return copy


def fresh_model(model: keras.Model) -> keras.Model:
    """An uncompiled model like `copy_model`'s whose weights are drawn anew, for another training.

    What is no result of training stays: adapted layers (a mean, a vocabulary) and frozen ones (a pretrained base).
    Batch normalization that was trained holds what training made of it, and starts anew.

    Raises:
        UncopyableModelError: a layer cannot be made again from its `get_config()`; the message names its class.
    """
    copy, pairs = _made_again(model)
    for theirs, ours in pairs:
        trained = bool(theirs.trainable_weights)
        statistics = isinstance(theirs, keras.layers.BatchNormalization) and theirs.trainable
        if not trained and not statistics:
            _in_its_layer(theirs, functools.partial(_give_state, theirs, ours))
    return copy


Pairs: TypeAlias = list[tuple[keras.layers.Layer, keras.layers.Layer]]
"""Layers of a model, each with the one that takes its place in the copy; what lies inside of a layer is not listed."""


def _made_again(model: keras.Model) -> tuple[keras.Model, Pairs]:
    known: dict[int, tuple[keras.layers.Layer, keras.layers.Layer]] = {}
    copy = _layer_again(model, known)
    if not is_built(copy):
        _in_its_layer(model, lambda: _build(copy, model.get_build_config() or {}))
    return copy, [pair for pair in known.values() if not _is_stack(pair[0])]


def _layer_again(
    layer: keras.layers.Layer, known: dict[int, tuple[keras.layers.Layer, keras.layers.Layer]]
) -> keras.layers.Layer:
    """A layer or model made anew, of its own class; the same answer for the same layer, which may be used twice."""
    if not isinstance(layer, keras.layers.Layer):  # an operation such as `keras.ops.exp`, which has no state
        return type(layer).from_config(layer.get_config())
    if id(layer) not in known:
        make = _stack_again if _is_stack(layer) else lambda one, _: _in_its_layer(one, lambda: _from_config(one))
        known[id(layer)] = layer, make(layer, known)
    return known[id(layer)][1]


def _is_stack(layer: keras.layers.Layer) -> bool:
    """Whether it is all in the layers that it is made of: `Sequential` or functional, with no `call` of the user's."""
    return isinstance(layer, keras.Model) and (type(layer) is keras.Sequential or calls_its_graph(layer))


def _stack_again(model: keras.Model, known: dict[int, tuple[keras.layers.Layer, keras.layers.Layer]]) -> keras.Model:
    if isinstance(model, keras.Sequential):
        layers = [_layer_again(one, known) for one in model.layers]
        if calls_its_graph(model):
            first = model.inputs[0]
            layers.insert(0, keras.Input(batch_shape=first.shape, dtype=first.dtype, name=first.name))
        return keras.Sequential(layers, name=model.name)
    # Around the same tensors, but not compiled and of Keras's own class: `clone_model` would compile the copy as well,
    # and call the user's class with arguments that it may not have.
    plain = keras.Model(model.input, model.output, name=model.name)
    return keras.models.clone_model(plain, clone_function=lambda one: _layer_again(one, known))


def _from_config(layer: keras.layers.Layer) -> keras.layers.Layer:
    kind = type(layer)
    if isinstance(layer, keras.layers.Lambda):
        return lambda_again(layer)
    if isinstance(layer, keras.Model) and kind.get_config is keras.Model.get_config and _has_arguments(kind):
        # Keras writes the defaults down, whatever the model was made with.
        raise TypeError("its arguments are not known")
    with keras.saving.custom_object_scope(_own_objects(layer)), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that a function without a name is no good in a file
        config = layer.get_config()
        functions = {name: value for name in config if _is_own_function(value := getattr(layer, name, None))}
        # Keras's own layers take functions as they are, and two closures of one name stay apart that way.
        if functions and kind.__module__.startswith("keras."):
            return kind(**{**config, **functions})
        return kind.from_config(config)


def _has_arguments(kind: type) -> bool:
    """Whether a class of models takes arguments of its own."""
    named = [p for p in inspect.signature(kind).parameters.values() if p.kind is not p.VAR_KEYWORD]
    return any(one.name not in ("name", "trainable", "dtype") for one in named)


def _build(model: keras.Model, config: Mapping[str, Any]) -> None:
    """Builds a model whose graph does not do it; a second way is tried where Keras's own does not come to an end."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.build_from_config(config)
        if not is_built(model) and "input_shape" in config:
            model(_zeros(config["input_shape"]))


def _zeros(shapes: Any) -> Any:
    """Rows of zeros of these shapes, in plain lists and dictionaries, and not in those that Keras keeps shapes in."""
    if isinstance(shapes, Mapping):
        return {name: _zeros(shape) for name, shape in shapes.items()}
    if any(isinstance(one, list | tuple) for one in shapes):
        return [_zeros(shape) for shape in shapes]
    return np.zeros([size or 1 for size in shapes], "float32")


def _give_state(theirs: keras.layers.Layer, ours: keras.layers.Layer) -> None:
    """Copies the state of a layer and of all layers inside it, as saving and loading would."""
    for source, target in zip(layers_of(theirs), layers_of(ours), strict=True):
        values: dict[str, Any] = {}
        source.save_own_variables(values)
        target.load_own_variables({name: keras.ops.convert_to_numpy(value) for name, value in values.items()})
        if hasattr(source, "save_assets"):
            with tempfile.TemporaryDirectory() as folder:
                source.save_assets(folder)
                target.load_assets(folder)


def _in_its_layer(layer: keras.layers.Layer, make: Callable[[], Any]) -> Any:
    """What `make` gives; whatever it raises becomes an error that names the layer."""
    try:
        return make()
    except Exception as error:
        kind = type(layer).__name__
        raise UncopyableModelError(
            explain(
                f"a copy of {kind} {layer.name!r}",
                f"{type(error).__name__}: {first_line(error) or kind}",
                "layers that their class can make again from get_config()",
                f"Give {kind} a get_config() that returns the arguments of its __init__.",
            )
        ) from error


def _own_objects(*things: object) -> dict[str, object]:
    found: dict[str, object] = {}
    for one in _inside(things):
        if (_is_own_function(one) and one.__name__ != "<lambda>") or isinstance(one, type):
            name = keras.saving.get_registered_name(one)
            if found.setdefault(name, one) is not one:
                raise ValueError(f"two things are called {name!r}, and a configuration holds no more than the name")
    return found


def _inside(things: object) -> Iterator[Any]:
    """Functions, and classes of the user's, of everything that can be reached from some things of Keras."""
    seen: set[int] = set()
    todo: list[object] = [things]
    while todo:
        one = todo.pop()
        if id(one) in seen:
            continue
        seen.add(id(one))
        if isinstance(one, Mapping):
            todo.extend(one.values())
        elif isinstance(one, list | tuple | set):
            todo.extend(one)
        elif isinstance(one, types.FunctionType):
            yield one
        elif hasattr(one, "get_config") and not isinstance(one, type):
            if not type(one).__module__.startswith("keras."):
                yield type(one)
            todo.append(getattr(one, "__dict__", {}))


def _is_own_function(value: object) -> bool:
    return isinstance(value, types.FunctionType) and not value.__module__.startswith("keras.")
