"""Frozen models inside of models, traced once: a backbone that each trial of a search puts its head on.

A step of such a model is traced anew for each head, and nearly all that is traced is the backbone. `traced_once` has
Keras run its graph the first time only, for each shape of batches; afterwards its instructions are copied, with the
variables of the model at hand. They are the very instructions that Keras's run would make. A model is left alone where
its run does more than to answer one array: where it changes a variable, draws, adds a loss or hands on a mask.

It earns row G5 of `benchmarks/structures.py`.
"""

from __future__ import annotations

import contextlib
import contextvars
import functools
import hashlib
import json
import weakref
from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

import jax
import keras
from jax.extend import core as jax_core
from keras.src.backend.common.masking import get_keras_mask
from keras.src.models import Functional

from manyfit.training.keras_internals import Swapped
from manyfit.training.keras_internals.building import is_frozen, layers_of
from manyfit.training.keras_internals.convolutions import are_quick
from manyfit.training.keras_internals.programs import setting

TRACES_ONCE = True
"""Whether `traced_once` does anything."""

_MAX_KNOWN = 32

Function: TypeAlias = Callable[..., Any]
_traced: dict[tuple[object, ...], Function | None] = {}  # the next to be dropped first
_texts: weakref.WeakKeyDictionary[keras.Model, str] = weakref.WeakKeyDictionary()
_is_eligible: contextvars.ContextVar[Callable[[keras.Model], bool] | None] = contextvars.ContextVar(
    "eligible", default=None
)


@contextlib.contextmanager
def traced_once(is_eligible: Callable[[keras.Model], bool]) -> Iterator[None]:
    """What is traced in here, in this thread, takes known instructions for frozen models.

    Args:
        is_eligible: whether a model's configuration tells all that it computes.
    """
    with _swapped.inside():
        token = _is_eligible.set(is_eligible if TRACES_ONCE else None)
        try:
            yield
        finally:
            _is_eligible.reset(token)


def _once_where_asked(own: Function) -> Function:
    @functools.wraps(own)
    def call(self: keras.Model, inputs: Any, training: bool | None = None, mask: Any = None, **kwargs: Any) -> Any:
        eligible = _is_eligible.get()
        if eligible is None or mask is not None or kwargs or not _is_plain(inputs):
            return own(self, inputs, training=training, mask=mask, **kwargs)
        known = _known(self, inputs, training, own) if is_frozen(self) and eligible(self) else None
        if known is None:
            return own(self, inputs, training=training)
        return known(*(variable.value for variable in self.variables), inputs)[0]

    return call


def _is_plain(inputs: object) -> bool:
    return isinstance(inputs, jax.core.Tracer) and get_keras_mask(inputs) is None


def _known(model: keras.Model, inputs: jax.core.Tracer, training: bool | None, own: Function) -> Function | None:
    key = (
        _text(model), inputs.shape, str(inputs.dtype), inputs.weak_type, training, are_quick(),
        keras.config.image_data_format(), setting("jax_default_matmul_precision"),
    )  # fmt: skip
    if key not in _traced:
        # Nothing of the user's runs in it, so what it raises is raised once more where Keras runs its graph itself.
        with contextlib.suppress(Exception):
            _traced[key] = None
            _traced[key] = _instructions(model, inputs, training, own)
        if len(_traced) > _MAX_KNOWN:
            del _traced[next(iter(_traced))]
    return _traced[key]


def _text(model: keras.Model) -> str:
    if model not in _texts:
        text = json.dumps(model.get_config(), sort_keys=True, default=str)
        _texts[model] = hashlib.sha256(text.encode()).hexdigest()
    return _texts[model]


def _instructions(model: keras.Model, inputs: jax.core.Tracer, training: bool | None, own: Function) -> Function | None:
    """What a model computes, as a function of its variables and its input; None where it does more than that."""
    # In half precision variables are cast where layers read them, and not before.
    if any(layer.compute_dtype != layer.variable_dtype for layer in layers_of(model)):
        return None
    variables, is_pure = model.variables, []

    def run(*given: Any) -> Any:
        mapping = list(zip(variables, given, strict=False))
        with keras.StatelessScope(state_mapping=mapping, collect_losses=True) as scope:
            answer = own(model, given[-1], training=training)
        stays = all(scope.get_current_value(variable) is value for variable, value in mapping)
        is_one = isinstance(answer, jax.Array) and get_keras_mask(answer) is None
        is_pure.append(stays and is_one and not scope.losses)
        return answer

    structs = [jax.ShapeDtypeStruct(variable.shape, variable.dtype) for variable in variables]
    # Within it, so that frozen models inside of this one become a part of its instructions.
    token = _is_eligible.set(None)
    try:
        found = jax.make_jaxpr(run)(*structs, jax.ShapeDtypeStruct(inputs.shape, inputs.dtype))
    finally:
        _is_eligible.reset(token)
    # Compiled only in name: what is copied is one instruction with a body, however many are in it.
    return jax.jit(jax_core.jaxpr_as_fun(found)) if is_pure == [True] and not found.effects else None


_swapped = Swapped((Functional, "call", _once_where_asked))
