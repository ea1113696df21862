"""Recognises models whose steps need not be traced again.

Two models of Keras's own layers, optimizer, loss and metrics have the same traced steps if their configurations are
equal but for what is state (the learning rate). Such a model need not even be built to the end: its optimizer starts
where that of the first model of its structure started. Anything that a configuration does not tell completely is never
recognised: a wrong key would train one model with another's steps, and no probe would see it, since a recognised member
brings no trace of its own to compare with.

It earns the builds of row A, where 200 executions of eight structures differ in nothing but the learning rate;
`RECOGNISES = False` traces every model.
"""

from __future__ import annotations

import dataclasses
import json
import re
import warnings
from typing import Any

import jax
import keras

from manyfit.training.keras_internals import building
from manyfit.training.population.arrays import Arrays
from manyfit.training.population.known_layers import is_of_known_layers
from manyfit.training.population.trace import Trace

RECOGNISES = True
_MAX_KNOWN = 32  # those whose numbers differ are recognised once each, so what is kept has to end somewhere

_FRACTION = re.compile(r"(?<=[\s\[])-?\d+(?:\.\d+(?:e-?\d+)?|e-?\d+)(?=[,\]}])")  # as JSON writes them


@dataclasses.dataclass(frozen=True)
class KnownStructure:
    """A structure that was traced: its trace, its optimizer's first state and the learning rate's place in it."""

    trace: Trace
    optimizer: Arrays
    learning_rate: int

    def first_state(self, learning_rate: jax.Array) -> Arrays:
        """The optimizer's first state with another learning rate."""
        first = list(self.optimizer)
        first[self.learning_rate] = learning_rate
        return tuple(first)


class KnownStructures:
    """What was traced, by what it is recognised by. The one that was not needed for the longest time is dropped."""

    def __init__(self) -> None:
        self._known: dict[str, KnownStructure] = {}  # the next to be dropped first

    def find(self, key: str | None) -> KnownStructure | None:
        """What is known by a key; None for nothing, and for the key of a model that is never recognised."""
        found = None if key is None else self._known.pop(key, None)
        if found is not None and key is not None:
            self._known[key] = found
        return found

    def keep(self, key: str, found: KnownStructure) -> None:
        """Takes in a structure, unless its key is there."""
        self._known.setdefault(key, found)
        if len(self._known) > _MAX_KNOWN:
            del self._known[next(iter(self._known))]


def structure_key(model: keras.Model) -> str | None:
    """A text that is equal for models with the same traced steps; None for a model that is never recognised.

    Tracing a model takes a tenth of a second to seconds, and most trials of a search repeat a structure. Keras's own
    configurations of model and `compile` say which: written as text, less the learning rate, which is a variable's
    first value. Being wrong would train a wrong model, so whatever a configuration may not say in full (a subclass, a
    layer that is not on the list, an object of the user's) has no key and is traced.
    """
    if not RECOGNISES:
        return None
    if not is_of_known_layers(model) or building.spares_weights_decay(model.optimizer):
        return None
    try:
        compiled = compile_config(model)
        config = {"model": model.get_config(), "compile": compiled}
        optimizer = compiled["optimizer"]["config"]
        if isinstance(optimizer.get("inner_optimizer"), dict):  # a loss scale wraps another optimizer
            optimizer = optimizer["inner_optimizer"]["config"]
        # A number is the first value of a variable, so it is state; a schedule is part of the steps, and stays in the
        # text.
        if isinstance(optimizer.get("learning_rate"), float):
            optimizer["learning_rate"] = "state"
        text = json.dumps(config, sort_keys=True)
    except (TypeError, ValueError, NotImplementedError, AttributeError):
        return None
    # Objects of the user's are named by their module and class only: their code is not in the text.
    return None if _has_custom_objects(config) else text


def compile_config(model: keras.Model) -> dict[str, Any]:
    """What a model was compiled with, and the optimizer that it has now.

    What was passed may be a name, which says nothing of what was set in the optimizer since, and nothing of the loss
    scale that Keras puts around it.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Keras reads the learning rate in a way that NumPy 2 warns of
        optimizer = keras.optimizers.serialize(model.optimizer)
        return {**model.get_compile_config(), "optimizer": optimizer}


def without_numbers(key: str) -> str:
    """A key without its fractions: equal for models that are likely one program up to numbers.

    A rate of 0 is left as it is, since Keras leaves out what it would do.

    >>> without_numbers('{"rate": 0.25, "units": 32}') == without_numbers('{"rate": 0.5, "units": 32}')
    True
    >>> without_numbers('{"rate": 0.0}')
    '{"rate": 0.0}'
    """
    return _FRACTION.sub(lambda found: found[0] if float(found[0]) == 0 else "number", key)


def _has_custom_objects(config: object) -> bool:
    if isinstance(config, dict):
        if (
            config.get("registered_name") not in (None, config.get("class_name"))
            or config.get("class_name") == "function"
        ):
            return True
        module = config.get("module")
        if isinstance(module, str) and not module.startswith(("keras", "builtins")):
            return True
        return any(map(_has_custom_objects, config.values()))
    return isinstance(config, list | tuple) and any(map(_has_custom_objects, config))
