"""What the steps of one model look like when traced: the question with which every execution joins a population.

On JAX, Keras's `train_step` and `test_step` are pure functions of variables and a batch. They are traced once per shape
of batches, at first for the full batch only: whether two executions are one program is seen from that. Shapes that come
up later, the short batch at the end or another one of a stream, are traced then (`complete`).
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence

import jax
import keras
import numpy as np
from jax.extend import core as jax_core

from manyfit.core.causes import cause_of
from manyfit.training.keras_internals import building
from manyfit.training.keras_internals.convolutions import quick_convolutions
from manyfit.training.keras_internals.draws import quick_draws
from manyfit.training.population.arrays import (
    Arrays,
    ArrayTree,
    Function,
    metric_results,
    shapes_of,
    values_of,
    variables_of,
)
from manyfit.training.population.canonical_jaxpr import (
    Form,
    Mismatch,
    canonical_form,
    first_difference,
)
from manyfit.training.population.data import ResidentRows, Shapes
from manyfit.training.population.masking import Masking, masking_of
from manyfit.training.seeding import generator_states, has_drawn


@dataclasses.dataclass(frozen=True)
class Trace:
    """The steps of one configuration in canonical form.

    Attributes:
        forms: "train 0", "train 1" (short batch), "test 0", "test 1", "results" -> form; a stream may bring further
            shapes of batches, and `complete` adds their forms.
        key: equal for traces that are one program up to the numbers in their holes.
        counts: numbers of trainable, non-trainable, optimizer and metric variables that the steps take.
        idle: places of the non-trainable variables that no step takes, since none reads or changes them.
        log_names: the metrics' names, in the order of the outputs of "results".
        step_log_names: for a "train" or "test" step of the user's own that logs other things than the metrics' results:
            the names of its logs, in the order of its outputs after the state.
        start_metrics: what the metric variables hold at the start of an epoch.
        maskings: "train", "test" -> how the first shape's step serves batches of fewer rows, or why it does not; where
            that has been asked.
    """

    forms: dict[str, Form]
    key: str
    counts: tuple[int, int, int, int]
    log_names: tuple[str, ...]
    step_log_names: dict[str, tuple[str, ...]]
    start_metrics: tuple[np.ndarray, ...]
    maskings: dict[str, Masking | Mismatch] = dataclasses.field(default_factory=dict)
    idle: frozenset[int] = frozenset()

    def difference(self, other: Trace) -> Mismatch:
        """Says where two traces of different keys part."""
        for name, form in self.forms.items():
            if name not in other.forms:
                return Mismatch(f'only one of them has a step "{name}"')
            found = first_difference(form, other.forms[name])
            if found is not None:
                return Mismatch(f"{name}: {found.reason}")
        return Mismatch("their metrics have other names or start values")

    def with_forms(
        self, forms: dict[str, Form], maskings: dict[str, Masking | Mismatch], idle: frozenset[int]
    ) -> Trace:
        """The same trace with other steps, which leave variables out, and a key of its own."""
        num_trainable, num_fixed, num_optimizer, num_metrics = self.counts
        counts = (num_trainable, num_fixed - len(idle), num_optimizer, num_metrics)
        key = _key(forms, counts, self.log_names, self.step_log_names, self.start_metrics)
        return dataclasses.replace(self, forms=forms, maskings=maskings, idle=idle, counts=counts, key=key)

    def without_idle(self, fixed: Arrays) -> Arrays:
        """The non-trainable variables that the steps take."""
        return tuple(value for place, value in enumerate(fixed) if place not in self.idle)

    def with_idle(self, taken: Arrays, before: Arrays) -> Arrays:
        """The inverse: all of them, where those that no step takes are what they were."""
        others = iter(taken)
        return tuple(value if place in self.idle else next(others) for place, value in enumerate(before))


class CannotTrace(Exception):
    """A model that a population cannot train; its text is the reason."""


def check_model(model: object) -> None:
    """Refuses models whose training is not a pure step.

    Raises:
        CannotTrace: with the reason, in words for the user.
    """
    if not isinstance(model, keras.Model):
        raise CannotTrace(f"the build function returned {type(model).__name__}, not a Keras model")
    if not model.compiled:
        raise CannotTrace("the model is not compiled")
    if model.run_eagerly:
        raise CannotTrace("the model is compiled with run_eagerly=True")
    reason = None if model.jit_compile else building.why_not_compiled(model)
    if reason is not None:
        raise CannotTrace(reason)
    for name in ("fit", "evaluate", "make_train_function", "make_test_function"):
        if getattr(type(model), name) is not getattr(keras.Model, name):
            raise CannotTrace(f"{type(model).__name__} has its own `{name}`")


def trace(model: keras.Model, shapes: Shapes) -> Trace:
    """Traces a built model's training and test step for the first shapes of batches, and its metrics' results.

    Raises:
        CannotTrace: a step that JAX cannot trace, or that has effects beyond its outputs.
    """
    variables = variables_of(model)
    structs = [shapes_of(values_of(part)) for part in variables]
    results, names = _trace_step("metric", _results_step(model), [structs[3]], None)
    forms = {"results": results}
    step_logs: dict[str, tuple[str, ...]] = {}
    before = generator_states()
    for name, kind, make in _steps(model, shapes):
        if _is_first(name):
            forms[name], logs = make()
            if set(logs) != set(names):
                step_logs[kind] = logs
    # `model.fit` runs the steps of such a model as Python, which draws anew in each; a trace has drawn once for all.
    if not model.jit_compile and has_drawn(before):
        raise CannotTrace("a layer draws from Python's or NumPy's generator in each step")
    start_metrics = _start_metrics(model, variables[3])
    counts = (len(structs[0]), len(structs[1]), len(structs[2]), len(structs[3]))
    return Trace(
        forms=forms,
        key=_key(forms, counts, names, step_logs, start_metrics),
        counts=counts,
        log_names=names,
        step_log_names=step_logs,
        start_metrics=start_metrics,
    )


def _key(
    forms: Mapping[str, Form],
    counts: Sequence[int],
    log_names: Sequence[str],
    step_log_names: Mapping[str, Sequence[str]],
    start_metrics: Sequence[np.ndarray],
) -> str:
    """Equal where the steps are one program up to numbers: those for the first shapes, which the others follow."""
    parts = [f"{name} {form.key}" for name, form in sorted(forms.items()) if _is_first(name) or name == "results"]
    parts += [repr(list(counts)), repr(tuple(log_names)), repr(sorted(step_log_names.items()))]
    parts += [hashlib.sha256(value.tobytes()).hexdigest() for value in start_metrics]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def is_complete(found: Trace, shapes: Shapes) -> bool:
    """Whether a trace has a form for each shape of batches that has come up."""
    return all(f"{kind} {number}" in found.forms for kind, number in shapes.numbers())


def complete(found: Trace, model: keras.Model, shapes: Shapes) -> None:
    """Adds the forms for further shapes of batches: the short one at the end, or what a stream brings later.

    Args:
        found: the trace that is to be completed.
        model: its model.
        shapes: of all batches so far.

    Raises:
        CannotTrace: a step that JAX cannot trace.
    """
    if is_complete(found, shapes):
        return
    if model.optimizer is not None and not model.optimizer.built:  # a recognised model's has no variables yet
        building.build_symbolically(model, shapes.first_batch())
    for name, _, make in _steps(model, shapes):
        if name not in found.forms:
            found.forms[name] = make()[0]
    for kind, source in shapes.sources():
        if kind not in found.maskings and isinstance(source, ResidentRows) and f"{kind} 1" in found.forms:
            full, short = (found.forms[f"{kind} {number}"] for number in (0, 1))
            found.maskings[kind] = masking_of(full, short, source.batch_size, source.tail_size)


def _steps(model: keras.Model, shapes: Shapes) -> Iterator[tuple[str, str, Callable[[], tuple[Form, tuple[str, ...]]]]]:
    """The steps there are: name, "train" or "test", and a function that traces it to its form and its logs' names."""
    structs = [shapes_of(values_of(part)) for part in variables_of(model)]
    plan = [("train", model.train_step, structs, shapes.training)]
    if shapes.validation is not None:
        plan.append(("test", model.test_step, [structs[0], structs[1], structs[3]], shapes.validation))
    for kind, step, state, source in plan:
        for number, batch in enumerate(source.shapes):
            data = jax.tree.unflatten(source.structure, batch)
            yield f"{kind} {number}", kind, functools.partial(_trace_step, kind, step, state, data)


def _is_first(name: str) -> bool:
    """Whether a form is of the first shape of batches: the others are of the same steps, and do not make the key."""
    return name.endswith(" 0")


def _trace_step(kind: str, step: Function, state: ArrayTree, data: ArrayTree) -> tuple[Form, tuple[str, ...]]:
    """The form of one step, outputs state first and logs last, and the logs' names in the order of the outputs."""

    def ordered(state: ArrayTree, data: ArrayTree) -> tuple[ArrayTree, dict[str, jax.Array]]:
        logs, new_state = step(tuple(state), data)
        return new_state, dict(logs)

    def traced() -> tuple[jax_core.ClosedJaxpr, tuple[ArrayTree, dict[str, jax.Array]]]:
        with quick_draws():
            return jax.make_jaxpr(ordered, return_shape=True)(state, data)

    try:
        try:
            with quick_convolutions():
                closed, (new_state, logs) = traced()
        except Exception:
            # They have gradients of ours, which JAX does not differentiate forward; a user's own step may ask for that.
            closed, (new_state, logs) = traced()
    except Exception as error:
        raise CannotTrace(f"its {kind} step cannot be traced: {cause_of(error)}") from error
    if closed.effects:
        raise CannotTrace(f"its {kind} step has effects beyond its outputs, such as printing")
    for before, after in zip(jax.tree.leaves(state), jax.tree.leaves(new_state), strict=True):
        if (before.shape, before.dtype) != (after.shape, after.dtype):
            raise CannotTrace(f"its {kind} step changes the type of a variable from {before} to {after}")
    if len(jax.tree.leaves(logs)) != len(logs):
        raise CannotTrace(f"its {kind} step returns logs that are not a flat dictionary of arrays")
    return canonical_form(closed), tuple(sorted(logs))  # JAX flattens dictionaries in the order of their keys


def _results_step(model: keras.Model) -> Function:
    return lambda state, _: (metric_results(model, state[0]), state)


def _start_metrics(model: keras.Model, variables: Sequence[keras.Variable]) -> tuple[np.ndarray, ...]:
    model.reset_metrics()
    return tuple(np.asarray(value) for value in values_of(variables))
