"""What trainers ask of the user's build function and of the model that it returns: its size, how long it predicts."""

from __future__ import annotations

import dataclasses
import functools
import math
import time
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np

from manyfit.core.checks import did_you_mean
from manyfit.core.errors import FatalTypeError, FatalValueError, explain
from manyfit.core.lifecycle import OversizedModelError
from manyfit.core.records import Configuration, Plan, Result
from manyfit.data.kinds import Ability
from manyfit.data.rows import FitData
from manyfit.training.base import Bookkeeping, Task
from manyfit.training.keras_internals.building import compile_arguments, layers_of

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


def check_compiled(model: keras.Model) -> None:
    """Refuses a model that could not train: not compiled, or with a loss or a metric that Keras does not know.

    Raises:
        FatalTypeError: it is not compiled.
        FatalValueError: a name that is none; Keras itself would say so in the first step of each trial.
    """
    if not model.compiled:
        got, allowed = "a model that is not compiled", "a compiled keras.Model"
        instead = "Call model.compile(...) before `return model`."
        raise FatalTypeError(explain("hypermodel.build(hp)", got, allowed, instead))
    arguments = compile_arguments(model)
    for argument, known, find in (
        ("loss", keras.losses, keras.losses.get),
        ("metrics", keras.metrics, keras.metrics.get),
        ("weighted_metrics", keras.metrics, keras.metrics.get),
    ):
        for given in keras.tree.flatten(arguments.get(argument)):
            if given is None or callable(given) or given in _OF_COMPILE:
                continue
            try:
                find(given)
            except ValueError as error:
                names = [name for name in dir(known) if not name.startswith("_")]
                instead = did_you_mean(given, [*names, *_OF_COMPILE], f"Type dir({known.__name__}) for all of them.")
                allowed = "a name that Keras knows, or an object"
                got = f"{argument}={given!r}"
                raise FatalValueError(explain("model.compile(...)", got, allowed, instead)) from error


#: Metrics that `model.compile` makes of the loss.
_OF_COMPILE = ("accuracy", "acc", "crossentropy", "ce")


@dataclasses.dataclass(frozen=True)
class _Use:
    """That an execution's model has a layer, a variable or an optimizer in it."""

    thing: weakref.ref[Any]
    by: tuple[str, str, int, int]  # phase, trial, execution and seed, which a retry changes
    trains: bool


# By identity. Weak: what a build function makes itself is gone with its model, and nobody compares with it.
_uses: dict[int, _Use] = {}


def check_unshared(model: keras.Model, plan: Plan) -> None:
    """Refuses a model with something in it that another execution trains: a layer, a base model, an optimizer.

    What is made outside of the build function is one object for all trials. The second would begin with what the
    first has made of it, so neither could be compared with the other, nor be trained again. Frozen it is fine.

    Args:
        model: as the build function has returned it.
        plan: of the execution.

    Raises:
        FatalValueError: naming the layer or the optimizer.
    """
    by = (plan.phase, *plan.key, plan.seed)
    for thing, trains in _stateful_parts(model):
        key = id(thing)
        before = _uses.get(key)
        if before is None or before.thing() is not thing:  # the number of an object that is gone may be another's
            before = None
        elif before.by != by and (trains or before.trains):
            raise FatalValueError(_shared(thing, before, plan))
        reference = weakref.ref(thing, functools.partial(_forget, key))
        _uses[key] = _Use(reference, by, trains or (before is not None and before.trains))


def _forget(key: int, _: object) -> None:
    _uses.pop(key, None)


def _stateful_parts(model: keras.Model) -> Iterator[tuple[Any, bool]]:
    """What would carry something from one training to the next, outermost first, and whether this model trains it."""
    for layer in layers_of(model):
        yield layer, bool(layer.trainable_variables)
    for variable in model.trainable_variables:  # one that several layers were given
        yield variable, True
    optimizer = getattr(model, "optimizer", None)
    for each in (optimizer, getattr(optimizer, "inner_optimizer", None)):  # a loss scale wraps the user's own
        if isinstance(each, keras.optimizers.Optimizer):  # a model with a `fit` of its own may keep anything there
            yield each, True


def _shared(thing: Any, before: _Use, plan: Plan) -> str:
    kind = type(thing).__name__
    name = getattr(thing, "name", kind)
    frozen = "" if isinstance(thing, keras.optimizers.Optimizer) else ", or layers that are frozen from the start"
    freeze = f", or set {name}.trainable = False before the first trial" if frozen else ""
    return explain(
        "hypermodel.build(hp)",
        f'"{name}" ({kind}), which was made outside of it: trial {before.by[1]} trains it, '
        f"and trial {plan.trial_id} would go on from what that has made of it",
        f"layers, models and optimizers that each build makes for itself{frozen}",
        f'Make "{name}" inside of the build function{freeze}. Make it anew: its weights are no longer what they were.',
    )


def fresh(value: Any) -> Any:
    """A copy of an optimizer, so that one model's slots are not another's; anything else as it is."""
    return type(value).from_config(value.get_config()) if isinstance(value, keras.optimizers.Optimizer) else value


def num_parameters(model: keras.Model) -> int:
    """Trainable parameters of a model; 0 while it is not built."""
    return sum(math.prod(variable.shape) for variable in model.trainable_variables)


def averages_weights(model: keras.Model) -> bool:
    """Whether `fit` ends with moving averages in the place of the weights (`use_ema` of the optimizer)."""
    return _averages(getattr(model, "optimizer", None))


def _averages(optimizer: Any) -> bool:
    if not isinstance(optimizer, keras.optimizers.Optimizer):
        return False
    # A loss scale wraps an optimizer, and a `MultiOptimizer` several; each of them finalises what is inside.
    wrapped = getattr(optimizer, "inner_optimizer", None)
    inner = [*([] if wrapped is None else [wrapped]), *getattr(optimizer, "optimizers", [])]
    if inner:
        return any(map(_averages, inner))
    finalises = type(optimizer).finalize_variable_values
    return bool(optimizer.use_ema) or finalises is not keras.optimizers.Optimizer.finalize_variable_values


def summary_of(model: keras.Model) -> str:
    """A model in a few words: its layers, parameters and optimizer."""
    layers = ", ".join(type(layer).__name__ for layer in model.layers[:6]) + (", ..." if len(model.layers) > 6 else "")
    optimizer = getattr(model, "optimizer", None)  # a model that is trained otherwise need not be compiled
    name = "not compiled" if optimizer is None else type(optimizer).__name__
    return f"{layers}; {num_parameters(model):,} parameters; {name}"


def check_size(model: keras.Model, max_model_size: int | None) -> None:
    """Refuses a model that is too large.

    Raises:
        OversizedModelError: more trainable parameters than `max_model_size`.
    """
    size = num_parameters(model)
    # Refused before the first batch where that is possible, because memory is what the limit is for.
    if max_model_size is not None and size > max_model_size:
        raise OversizedModelError(f"Oversized model: {size} parameters. Skip model. (max_model_size={max_model_size})")


def take_measures(result: Result, model: keras.Model, task: Task, aside: Bookkeeping) -> None:
    """Adds to a result what its task wants measured (see `manyfit.core.objective.MEASURES`).

    Args:
        result: of an execution with a score; others get nothing.
        model: what was trained.
        task: says which measures, and holds the data of which one row is predicted.
        aside: hears of one that cannot be taken, which is NaN then.
    """
    if not result.ending.has_score:
        return
    for name in task.measures:
        result.measures[name] = math.nan
        with aside.keeping(f"measurements of {name}"):
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
