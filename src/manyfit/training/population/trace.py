"""What the steps of one model look like when traced: the question with which every execution joins a population.

On JAX, Keras's `train_step` and `test_step` are pure functions of variables and a batch. They are traced once per shape
of batches, at first for the full batch only: whether two executions are one program is seen from that. Shapes that come
up later, the short batch at the end or another one of a stream, are traced then (`complete`).
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

import jax
import keras
import numpy as np
from jax.extend import core as jax_core

from manyfit.core.causes import cause_of
from manyfit.training.keras_internals import building
from manyfit.training.keras_internals.convolutions import quick_convolutions
from manyfit.training.keras_internals.draws import quick_draws
from manyfit.training.keras_internals.frozen_models import traced_once
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
from manyfit.training.population.data import ResidentRows, Shapes, Stream
from manyfit.training.population.known_layers import is_of_known_layers
from manyfit.training.population.masking import Masking, masking_of
from manyfit.training.seeding import generator_states, has_drawn

Maskings: TypeAlias = dict[str, Masking | Mismatch]
"""For "train" and "test", how the full batch's step serves a short one, or why it does not."""


@dataclasses.dataclass(frozen=True)
class Trace:
    """The steps of one configuration in canonical form.

    Attributes:
        forms: "train 0", "test 0", "results" -> form. `complete` adds those of further shapes of batches, under the
            numbers that `Shapes.numbers` gives them.
        key: equal for traces that are one program up to the numbers in their holes.
        counts: numbers of trainable, non-trainable, optimizer and metric variables that the steps take.
        idle: places of the non-trainable variables that no step takes, since none reads or changes them.
        log_names: the metrics' names, in the order of the outputs of "results".
        step_log_names: for a "train" or "test" step of the user's own that logs other things than the metrics' results:
            the names of its logs, in the order of its outputs after the state.
        start_metrics: what the metric variables hold at the start of an epoch.
        maskings: "train", "test" -> how the first shape's step serves batches of fewer rows, or why it does not; where
            that has been asked.
        companions: likewise, the step that was traced to find that out, and its number of rows; where it was this trace
            that was asked.
        seconds: that tracing took.
    """

    forms: dict[str, Form]
    key: str
    counts: tuple[int, int, int, int]
    log_names: tuple[str, ...]
    step_log_names: dict[str, tuple[str, ...]]
    start_metrics: tuple[np.ndarray, ...]
    maskings: dict[str, Masking | Mismatch] = dataclasses.field(default_factory=dict)
    companions: dict[str, tuple[int, Form]] = dataclasses.field(default_factory=dict)
    idle: frozenset[int] = frozenset()
    seconds: float = 0.0

    @property
    def num_trained(self) -> int:
        """Numbers that a training step changes by their gradients."""
        return sum(math.prod(shape) for shape in self.forms["train 0"].body.shapes[: self.counts[0]])

    @property
    def loops(self) -> bool:
        """Whether a training step goes through its rows place by place, as recurrent layers do."""
        return any(each.equation.primitive.name == "scan" for each in self.forms["train 0"].body.instructions)

    def difference(self, other: Trace) -> Mismatch:
        """Says where two traces of different keys part."""
        for name, form in self.forms.items():
            if name not in other.forms:
                return Mismatch(f'only one of them has a step "{name}"')
            found = first_difference(form, other.forms[name])
            if found is not None:
                return Mismatch(f"{name}: {found.reason}")
        return Mismatch("their metrics have other names or start values")

    def short_batches(self, shapes: Shapes) -> str:
        """Equal where short batches are trained on alike: by masks, or in steps of their own for the same sizes."""
        found = []
        for kind, source in shapes.sources():
            masking = self.maskings.get(kind)
            if isinstance(masking, Masking):
                found.append(masking.identity)
            else:
                found.append(str(source.tail_size if isinstance(source, ResidentRows) else ""))
        return " ".join(found)

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


def build_variables(model: keras.Model, batch: object) -> None:
    """Creates every variable of a compiled model: see `building.build_symbolically`."""
    with traced_once(is_of_known_layers):
        building.build_symbolically(model, batch)


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
    for kind, source in shapes.sources():
        # Of the first shape only: the others are of the same steps, and do not make the key.
        forms[f"{kind} 0"], logs = _tracer(model, kind, source)(source.shapes[0])
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
    parts = [f"{name} {form.key}" for name, form in sorted(forms.items()) if name == "results" or name.endswith(" 0")]
    parts += [repr(list(counts)), repr(tuple(log_names)), repr(sorted(step_log_names.items()))]
    parts += [hashlib.sha256(value.tobytes()).hexdigest() for value in start_metrics]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def is_complete(found: Trace, shapes: Shapes) -> bool:
    """Whether a trace has a step for each shape of batches that has come up, and it is known what a short one needs."""
    return all(
        (
            all(f"{kind} {number}" in found.forms for number, _ in source.numbered_shapes)
            and not (_is_to_be_asked(source) and kind not in found.maskings)
        )
        or _is_masked(found, kind, source)
        for kind, source in shapes.sources()
    )


def complete(found: Trace, model: keras.Model, shapes: Shapes) -> None:
    """Adds the steps for further shapes of batches: the short one at the end, or what a stream brings later.

    A short batch needs no step of its own where the full batch's can be masked, which is found out here.

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
        build_variables(model, shapes.first_batch())
    for kind, source in shapes.sources():
        step = _tracer(model, kind, source)
        if isinstance(source, ResidentRows) and _is_to_be_asked(source) and kind not in found.maskings:
            size = source.rows_per_batch
            # Also where there is no short batch: another fold, or the training on all rows, may have one.
            short = source.tail_size or size - 1
            form, _ = step(source.batch_shapes(short))
            found.companions[kind] = short, form
            found.maskings[kind] = masking_of(found.forms[f"{kind} 0"], form, size, short)
            if source.tail_size and not isinstance(found.maskings[kind], Masking):
                found.forms[f"{kind} {short}"] = form
        if _is_masked(found, kind, source):
            continue
        for number, batch in source.numbered_shapes:
            if f"{kind} {number}" not in found.forms:
                found.forms[f"{kind} {number}"] = step(batch)[0]


def trace_all(model: keras.Model, shapes: Shapes, known: dict[str, Maskings] | None) -> Trace:
    """Traces a built model's steps, and finds out what short batches need.

    Args:
        model: its own, or one that stands in for several.
        shapes: of all batches so far.
        known: by the key of their steps, how short batches are served; this adds to it. None for a model with code of
            the user's, which may look at the number of rows: each of those is looked at. Keras's own layers, losses and
            metrics do not, so what was found for one model holds for all that have its steps.

    Raises:
        CannotTrace: a step that JAX cannot trace.
    """
    started = time.perf_counter()
    found = trace(model, shapes)
    maskings = {} if known is None else known.setdefault(found.key, {})
    found.maskings.update(maskings)
    complete(found, model, shapes)
    maskings.update(found.maskings)
    return dataclasses.replace(found, seconds=time.perf_counter() - started)


def _is_masked(found: Trace, kind: str, source: ResidentRows | Stream) -> bool:
    return isinstance(source, ResidentRows) and isinstance(found.maskings.get(kind), Masking)


def _is_to_be_asked(source: ResidentRows | Stream) -> bool:
    """Whether short batches may follow a full one: not where a batch is one row, or all rows there are."""
    return isinstance(source, ResidentRows) and 1 < source.rows_per_batch == source.batch_size


TracedStep: TypeAlias = tuple[Form, tuple[str, ...]]
"""A form, and the names of its logs."""


def _tracer(
    model: keras.Model, kind: str, source: ResidentRows | Stream
) -> Callable[[Sequence[jax.ShapeDtypeStruct]], TracedStep]:
    """A function that traces the "train" or "test" step on a batch of such leaves."""
    state = [shapes_of(values_of(part)) for part in variables_of(model)]
    step = model.train_step
    if kind == "test":
        step, state = model.test_step, [state[0], state[1], state[3]]
    return lambda batch: _trace_step(kind, step, state, jax.tree.unflatten(source.structure, batch))


def _trace_step(kind: str, step: Function, state: ArrayTree, data: ArrayTree) -> TracedStep:
    """The form of one step, outputs state first and logs last, and the logs' names in the order of the outputs."""

    def ordered(state: ArrayTree, data: ArrayTree) -> tuple[ArrayTree, dict[str, jax.Array]]:
        logs, new_state = step(tuple(state), data)
        return new_state, dict(logs)

    def traced() -> tuple[jax_core.ClosedJaxpr, tuple[ArrayTree, dict[str, jax.Array]]]:
        with quick_draws(), traced_once(is_of_known_layers):
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
