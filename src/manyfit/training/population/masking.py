"""A step for full batches that also serves a batch of which only the first rows are real.

The idea. The last batch of a pass is short, by another number of rows for every number of rows there are. Its step
would be a program for each such number: for each size of a fold, for the whole data when winners are trained again.
Here the full batch's step runs it: the rows that are missing are filled with copies of others, and *masked*.

Two traces of one step, at the full size and at a short one, are walked side by side. Where their shapes differ, rows
lie. What has to be shown of every value is one thing:

    the short trace's value is the full trace's, cut to its first rows along the axes along which rows lie.

It holds for the batch, which is filled up at its end. An instruction *keeps* it if each row of what it answers is made
of that row alone (a product with weights, an activation, random bits, which are numbered by element), or of rows before
it. Where an instruction sums over the rows, those that are not real are put to zero first, and the sum is the short
trace's; likewise for what has a neutral number (maxima, products). That is so forward and backward alike: gradients of
weights are such sums. What remains are numbers of rows that Python wrote into the trace (a mean divides by 32.0): holes
in which the two traces differ. They must be in proportion to the rows, or to one by them, and become so.

Nothing is guessed: an instruction without a rule here, or one that is used in a way that its rule does not know (rows
that are sorted, shifted, shuffled, compared with each other by a convolution's gradient), makes the step one that
cannot be masked, and it keeps its short batch's own step.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from manyfit.training.keras_internals.programs import sizes_of_scan
from manyfit.training.population.arrays import Array
from manyfit.training.population.canonical_jaxpr import (
    Body,
    Form,
    Instruction,
    Mask,
    Masks,
    Mismatch,
    evaluate,
)
from manyfit.training.population.row_rules import RULES, Axes, CannotMask, Use, Value


@dataclasses.dataclass(frozen=True)
class Masking:
    """How a step for full batches serves one of fewer rows.

    Attributes:
        rows: of a full batch.
        masks: what is hidden from the instructions of its form.
        counts: hole -> for each number in it 1 where it is in proportion to the rows, -1 where to one by them, else 0.
    """

    rows: int
    masks: Masks
    counts: Mapping[int, np.ndarray]

    def evaluate(
        self, form: Form, inputs: Sequence[Array], lifted: Mapping[int, Array], rows: Array
    ) -> list[jax.Array]:
        """Runs the form on a full batch of which the first `rows` rows count; the others are copies of them."""
        numbers = dict(lifted)
        for hole, powers in self.counts.items():
            value = jnp.asarray(lifted.get(hole, form.values[hole]), form.dtypes[hole])
            # As it is for a full batch, to the bit.
            keeps = (rows == self.rows) | (powers == 0)
            numbers[hole] = jnp.where(keeps, value, self._scaled(value, powers, rows))
        return evaluate(form, inputs, numbers, masks=self.masks, rows=rows)

    def _scaled(self, value: jax.Array, powers: np.ndarray, rows: Array) -> jax.Array:
        if jnp.issubdtype(value.dtype, jnp.integer):
            return value // self.rows * jnp.asarray(rows, value.dtype)
        # Multiplied first: whole numbers stay whole. In float32, where the product fits if the step's own type is less.
        wide = value.astype(jnp.promote_types(value.dtype, jnp.float32))
        return jnp.where(powers > 0, wide * rows / self.rows, wide * self.rows / rows).astype(value.dtype)


def masking_of(full: Form, short: Form, full_rows: int, short_rows: int) -> Masking | Mismatch:
    """How a step for full batches serves short ones; a mismatch where that cannot be shown.

    Args:
        full: the step for `full_rows` rows.
        short: the same step for `short_rows` rows, less than the others.

    Example: a mean over the rows of a batch.

    >>> import jax, jax.numpy as jnp
    >>> from manyfit.training.population.canonical_jaxpr import canonical_form
    >>> forms = [canonical_form(jax.make_jaxpr(jnp.mean)(jnp.zeros(rows))) for rows in (4, 3)]
    >>> masking = masking_of(*forms, 4, 3)
    >>> [float(out) for out in masking.evaluate(forms[0], [jnp.array([1.0, 3.0, 1.0, 3.0])], {}, 2)]
    [2.0]
    """
    walk = _Walk(full, short, full_rows, short_rows)
    try:
        inputs = [walk.value(*shapes) for shapes in zip(full.body.shapes, short.body.shapes, strict=True)]
        outputs, masks = walk.body(full.body, short.body, inputs)
        if any(value.axes for value in outputs):
            raise CannotMask("a step answers something for each row")
    except CannotMask as error:
        return Mismatch(str(error))
    return Masking(full_rows, masks, walk.counts)


class _Walk:
    """Goes through both traces at once."""

    def __init__(self, full: Form, short: Form, full_rows: int, short_rows: int) -> None:
        self.full, self.short = full, short
        self.full_rows, self.short_rows = full_rows, short_rows
        self.counts: dict[int, np.ndarray] = {}

    def value(self, full: Sequence[int], short: Sequence[int], *, copies: bool = True) -> Value:
        """A variable of these shapes: rows lie where they differ."""
        if len(full) != len(short):
            raise CannotMask("an array has fewer axes where there are fewer rows")
        axes: Axes = {}
        for axis, (size, other) in enumerate(zip(full, short, strict=True)):
            if size == other:
                continue
            entries = size // self.full_rows
            if size != entries * self.full_rows or other != entries * self.short_rows:
                raise CannotMask(f"an axis of {size} is one of {other} where there are fewer rows")
            axes[axis] = entries
        return Value(tuple(full), axes, copies)

    def body(self, full: Body, short: Body, inputs: Sequence[Value]) -> tuple[list[Value], Masks]:
        """Goes through the instructions of a body; answers what is known of its outputs, and its masks."""
        values = dict(enumerate(inputs))
        if len(full.instructions) != len(short.instructions):
            raise CannotMask("a step has fewer instructions where there are fewer rows")
        own: list[tuple[Mask, ...]] = []
        inner: list[tuple[Masks, ...]] = []
        for one, other in zip(full.instructions, short.instructions, strict=True):
            if one.equation.primitive is not other.equation.primitive or one.inputs != other.inputs:
                raise CannotMask("a step has other instructions where there are fewer rows")
            given = [values[reference] if reference >= 0 else self._hole(-reference - 1) for reference in one.inputs]
            found, masks, inside = self._instruction(one, other, given)
            values.update(zip(one.outputs, found, strict=True))
            own.append(masks)
            inner.append(inside)
        if full.outputs != short.outputs:
            raise CannotMask("a step answers something else where there are fewer rows")
        outputs = [values[reference] if reference >= 0 else self._hole(-reference - 1) for reference in full.outputs]
        return outputs, Masks(tuple(own), tuple(inner))

    def _instruction(
        self, one: Instruction, other: Instruction, inputs: list[Value]
    ) -> tuple[list[Value], tuple[Mask, ...], tuple[Masks, ...]]:
        equation, short = one.equation, other.equation
        outputs = [
            self.value(*(getattr(side.aval, "shape", ()) for side in (left, right)))
            for left, right in zip(equation.outvars, short.outvars, strict=True)
        ]
        use = Use(equation, short, inputs, outputs)
        if one.bodies:
            found, inside = _LOOPS[use.name](self, use, one, other)
            masks: tuple[Mask, ...] = ()
        elif not any(value.axes for value in (*inputs, *outputs)):
            use.same_but()
            found, masks, inside = outputs, (), ()
        else:
            if use.name not in RULES:
                raise use.refuse("is not known not to mix rows")
            answer = RULES[use.name](use)
            copies = answer.copies and all(value.copies for value in inputs)
            found = [
                Value(value.shape, axes, copies or not axes) for value, axes in zip(outputs, answer.axes, strict=True)
            ]
            masks, inside = answer.masks, ()
        # By the shapes and by the rule: where the two disagree, rows do not lie where the rule thinks.
        if [value.axes for value in found] != [value.axes for value in outputs]:
            raise use.refuse()
        return found, masks, inside

    def _hole(self, hole: int) -> Value:
        """A number or an array that was written into both traces."""
        one, other = self.full.values[hole], self.short.values[hole]
        value = self.value(np.shape(one), np.shape(other))
        if self.full.bits[hole] == self.short.bits[hole]:
            return value
        dtype = self.full.dtypes[hole]
        if dtype is None or dtype != self.short.dtypes[hole]:
            raise CannotMask("a key of random numbers depends on the number of rows")
        left, right = np.asarray(one, dtype), np.asarray(other, dtype)
        if value.axes and np.array_equal(left[tuple(map(slice, right.shape))], right):
            return dataclasses.replace(value, copies=False)
        if value.axes:
            raise CannotMask("an array of the step depends on the number of rows")
        self.counts[hole] = np.vectorize(functools.partial(self._power, dtype), otypes=[int])(left, right)
        return value

    def _power(self, dtype: np.dtype, full: float, short: float) -> int:
        """How a number depends on the rows: 1, in proportion; -1, to one by them; 0, not at all."""
        if full == short:
            return 0
        whole = jnp.issubdtype(dtype, jnp.integer)
        if full * self.short_rows == short * self.full_rows and not (whole and full % self.full_rows):
            return 1
        if jnp.issubdtype(dtype, jnp.floating):
            tolerance = 2 * float(jnp.finfo(dtype).eps)
            for power, ratio in ((1, self.short_rows / self.full_rows), (-1, self.full_rows / self.short_rows)):
                if math.isclose(full * ratio, short, rel_tol=tolerance):
                    return power
        raise CannotMask(f"the number {full:g} of a step is {short:g} where there are fewer rows")


_Loop: TypeAlias = Callable[[_Walk, Use, Instruction, Instruction], tuple[list[Value], tuple[Masks, ...]]]


def _carried(values: Sequence[Value]) -> list[Value]:
    """What a loop carries: of its rows nothing is known but where they lie."""
    return [dataclasses.replace(value, copies=not value.axes) for value in values]


def _check_carry(use: Use, before: Sequence[Value], after: Sequence[Value]) -> None:
    if [value.axes for value in before] != [value.axes for value in after]:
        raise use.refuse()


def _scan(walk: _Walk, use: Use, one: Instruction, other: Instruction) -> tuple[list[Value], tuple[Masks, ...]]:
    use.same("length", "reverse", "unroll")
    num_consts, num_carry = sizes_of_scan(use.full.params)
    if (num_consts, num_carry) != sizes_of_scan(use.short.params):
        raise use.refuse()
    consts, rest = use.inputs[:num_consts], use.inputs[num_consts:]
    carry = _carried(rest[:num_carry])
    slices = [_shifted(use, value, -1) for value in rest[num_carry:]]
    outputs, masks = walk.body(one.bodies[0], other.bodies[0], [*consts, *carry, *slices])
    _check_carry(use, carry, outputs[:num_carry])
    length = use.full.params["length"]
    stacked = [_shifted(use, value, 1, length) for value in outputs[num_carry:]]
    return [*carry, *stacked], (masks,)


def _shifted(use: Use, value: Value, by: int, length: int = 0) -> Value:
    """A value without its first axis, or with one more: a loop goes along it, and must not go along rows."""
    if by < 0 and 0 in value.axes:
        raise use.refuse("goes along the rows")
    shape = value.shape[1:] if by < 0 else (length, *value.shape)
    return Value(shape, {axis + by: entries for axis, entries in value.axes.items()}, value.copies)


def _while(walk: _Walk, use: Use, one: Instruction, other: Instruction) -> tuple[list[Value], tuple[Masks, ...]]:
    num_condition, num_step = use.same("cond_nconsts", "body_nconsts")
    of_condition, of_step = use.inputs[:num_condition], use.inputs[num_condition : num_condition + num_step]
    carry = _carried(use.inputs[num_condition + num_step :])
    _, first = walk.body(one.bodies[0], other.bodies[0], [*of_condition, *carry])
    outputs, second = walk.body(one.bodies[1], other.bodies[1], [*of_step, *carry])
    _check_carry(use, carry, outputs)
    return carry, (first, second)


def _cond(walk: _Walk, use: Use, one: Instruction, other: Instruction) -> tuple[list[Value], tuple[Masks, ...]]:
    found = [walk.body(*bodies, use.inputs[1:]) for bodies in zip(one.bodies, other.bodies, strict=True)]
    first = found[0][0]
    for outputs, _ in found[1:]:
        _check_carry(use, first, outputs)
    return _carried(first), tuple(masks for _, masks in found)


def _region(walk: _Walk, use: Use, one: Instruction, other: Instruction) -> tuple[list[Value], tuple[Masks, ...]]:
    outputs, masks = walk.body(one.bodies[0], other.bodies[0], use.inputs)
    return outputs, (masks,)


_LOOPS: Mapping[str, _Loop] = {
    "scan": _scan,
    "while": _while,
    "cond": _cond,
    "checkpoint": _region,
    "remat2": _region,
}
