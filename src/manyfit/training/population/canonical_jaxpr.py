"""Canonical forms of traced functions: which traces are one program, and in which numbers do they differ.

The idea. Two models that differ in a dropout rate trace to the same instructions, but for one number that Python wrote
into the trace. JAX's own cache of programs compares traces with their numbers, so it would compile both. Here a traced
step (a jaxpr) is rewritten as a `Form`: a flat list of instructions in which every such number, a scalar literal or an
array constant, is a numbered *hole*. Two forms with the same key are the same program with other numbers in the holes.
`evaluate` runs a form with some holes filled by inputs (*lifted*), the rest by the numbers of the form itself.

A key is a hash of a text with one line per instruction, in which variables have the numbers in which they come up: two
traces have one key if and only if they are the same, instruction by instruction, up to the numbers. Nothing is put in
order, simplified or guessed: what is equal in another way (a sum the other way round) is another program, which costs a
compilation and never a wrong result.

Calls that only group instructions (jit, custom derivatives: nothing here is differentiated again) are inlined.
Loops, branches and rematerialised regions stay, and are rebuilt around their lifted bodies only where a hole inside
them is lifted.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from collections.abc import Mapping, Sequence, Set
from typing import TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core as jax_core

from manyfit.training.keras_internals.programs import sizes_of_scan
from manyfit.training.population.arrays import Array, ArrayTree

# Primitive -> the parameter that holds what it calls. A name of an older JAX stands beside its newer one.
_INLINED = {
    "jit": "jaxpr",
    "pjit": "jaxpr",
    "closed_call": "call_jaxpr",
    "core_call": "call_jaxpr",
    "custom_jvp_call": "call_jaxpr",
    "custom_vjp_call": "call_jaxpr",
    "custom_vjp_call_jaxpr": "fun_jaxpr",
    "custom_vmap_call": "call",
}
# Primitive -> the parameters that hold its bodies. They stay, and are rebuilt by `_REBUILD`.
_BODIES = {
    "scan": ("jaxpr",),
    "while": ("cond_jaxpr", "body_jaxpr"),
    "cond": ("branches",),
    "checkpoint": ("jaxpr",),
    "remat2": ("jaxpr",),
}

# References to values inside a body: n >= 0 is its n-th variable, n < 0 is hole number -n - 1 of the form.
Reference = int

Number: TypeAlias = Array | float | int | bool
"""What stands in a hole: a scalar literal or an array constant of a trace."""

Jaxpr: TypeAlias = jax_core.Jaxpr | jax_core.ClosedJaxpr
"""A traced body, with its constants or without."""


Scope: TypeAlias = dict[jax_core.Var, Reference]
"""The references of the variables that a jaxpr has defined so far."""


@dataclasses.dataclass(frozen=True, slots=True)
class Instruction:
    """One primitive applied to references; `outputs` are the numbers of the variables it defines."""

    equation: jax_core.JaxprEqn  # the original one, for its primitive and parameters
    inputs: tuple[Reference, ...]
    outputs: tuple[int, ...]
    bodies: tuple[Body, ...] = ()


@dataclasses.dataclass(frozen=True, slots=True)
class Body:
    """A list of instructions with inputs (variables 0, 1, ...) and outputs; `holes` is the range of holes inside."""

    shapes: tuple[tuple[int, ...], ...]  # of the inputs
    instructions: tuple[Instruction, ...]
    outputs: tuple[Reference, ...]
    holes: range


@dataclasses.dataclass(frozen=True, slots=True)
class Mask:
    """Rows of an operand that its instruction must not see; see `masking`.

    Attributes:
        operand: its place among the instruction's inputs.
        axes: the axes along which rows lie, and the entries of each axis that make one row.
        number: what stands in their place; it changes nothing of what the instruction answers.
    """

    operand: int
    axes: tuple[tuple[int, int], ...]
    number: float

    def apply(self, value: jax.Array, rows: Array | None) -> jax.Array:
        """The operand with its first `rows` rows as they are."""
        assert rows is not None  # our bug: whoever passes masks passes rows
        real: jax.Array | bool = True
        for axis, entries in self.axes:
            real = (jax.lax.broadcasted_iota("int32", value.shape, axis) < rows * entries) & real
        return jnp.where(real, value, jnp.asarray(self._number(value.dtype), value.dtype))

    def _number(self, dtype: np.dtype) -> float | int | bool:
        if np.isfinite(self.number) or jnp.issubdtype(dtype, np.inexact):
            return self.number
        if dtype == np.bool_:
            return self.number > 0
        bounds = jnp.iinfo(dtype)
        return int(bounds.max if self.number > 0 else bounds.min)


@dataclasses.dataclass(frozen=True, slots=True)
class Masks:
    """The masks of a body: for each of its instructions those of its operands, and the masks in the bodies inside."""

    own: tuple[tuple[Mask, ...], ...]
    inner: tuple[tuple[Masks, ...], ...]

    @property
    def any(self) -> bool:
        """Whether there is one, here or inside."""
        return any(self.own) or any(masks.any for inner in self.inner for masks in inner)


@dataclasses.dataclass(frozen=True)
class Form:
    """The canonical form of one traced function.

    Attributes:
        key: hash of `lines`; equal keys mean the same program up to the numbers in the holes.
        lines: one text per instruction, for saying where two forms part.
        body: what `evaluate` runs.
        values: the numbers in the holes of this trace.
        dtypes: their types.
    """

    key: str
    lines: tuple[str, ...]
    body: Body
    values: tuple[Number, ...]
    dtypes: tuple[np.dtype | None, ...]  # None: keys of random numbers, which NumPy has no type for

    @functools.cached_property
    def bits(self) -> tuple[bytes, ...]:
        """The numbers in the holes as bytes, so that NaN equals itself and 0.0 differs from -0.0."""
        return tuple(
            np.asarray(value).astype(dtype).tobytes() for value, dtype in zip(self.values, self.dtypes, strict=True)
        )


@dataclasses.dataclass(frozen=True)
class Mismatch:
    """Why two traces are not one program. A value, not an error: most pairs of traces are not."""

    reason: str


def canonical_form(closed: jax_core.ClosedJaxpr) -> Form:
    """Rewrites a traced function (a `ClosedJaxpr`) as a form.

    Example:

    >>> import jax, jax.numpy as jnp
    >>> half = canonical_form(jax.make_jaxpr(lambda x: jnp.sin(x) * 0.5)(1.0))
    >>> third = canonical_form(jax.make_jaxpr(lambda x: jnp.sin(x) * 0.3)(1.0))
    >>> half.key == third.key, differing_holes([half, third])
    (True, (0,))
    """
    writer = _Writer()
    body = writer.body(closed.jaxpr, closed.consts)
    # Numbers are not in the text: that is what makes two traces with other numbers one program.
    text = "\n".join(writer.lines)
    return Form(
        key=hashlib.sha256(text.encode()).hexdigest()[:16],
        lines=tuple(writer.lines),
        body=body,
        values=tuple(writer.values),
        dtypes=tuple(writer.dtypes),
    )


def first_difference(a: Form, b: Form) -> Mismatch | None:
    """Where two forms part; None if they are one program."""
    if a.key == b.key:
        return None
    for left, right in zip(a.lines, b.lines, strict=False):
        if left != right:
            return Mismatch(f"one has `{_shorten(left)}` where the other has `{_shorten(right)}`")
    return Mismatch(f"one has {len(a.lines)} instructions, the other {len(b.lines)}")


def differing_holes(forms: Sequence[Form]) -> tuple[int, ...]:
    """Numbers of the holes in which forms of one key differ."""
    first = forms[0].bits
    others = [form.bits for form in forms[1:]]
    return tuple(hole for hole, bits in enumerate(first) if any(other[hole] != bits for other in others))


def evaluate(
    form: Form,
    inputs: Sequence[Array],
    lifted: Mapping[int, Array],
    *,
    masks: Masks | None = None,
    rows: Array | None = None,
) -> list[jax.Array]:
    """Runs a form on inputs, with the holes in `lifted` filled from there.

    Args:
        form: what to run.
        inputs: one per variable of its trace.
        lifted: hole -> value.
        masks: of operands of which only the first rows count; see `masking`.
        rows: how many those are.

    Example:

    >>> import jax
    >>> form = canonical_form(jax.make_jaxpr(lambda x: x * 0.5)(1.0))
    >>> [float(out) for out in evaluate(form, [4.0], {0: 0.25})]
    [1.0]
    """
    holes: list[Number] = list(form.values)
    for hole, value in lifted.items():
        holes[hole] = value
    return _run(form.body, inputs, _Filled(holes, frozenset(lifted), rows), masks)


@dataclasses.dataclass(frozen=True, slots=True)
class _Filled:
    """What stands in the holes of a form while it runs, and how many rows count where operands are masked."""

    holes: Sequence[ArrayTree]
    lifted: frozenset[int]
    rows: Array | None

    def concerns(self, body: Body, masks: Masks | None) -> bool:
        """Whether a body must be rebuilt: it has a lifted hole, or a mask."""
        return (masks is not None and masks.any) or any(hole in self.lifted for hole in body.holes)


def needed(form: Form, known: Set[int], outputs: Sequence[Reference]) -> list[Instruction]:
    """The instructions that these outputs need, where the variables in `known` are given; in their order."""
    wanted, found = {reference for reference in outputs if reference >= 0}, []
    for instruction in reversed(form.body.instructions):
        if not wanted.isdisjoint(set(instruction.outputs) - known):
            found.append(instruction)
            wanted.update(reference for reference in instruction.inputs if reference >= 0)
    return found[::-1]


def evaluate_part(form: Form, known: Mapping[int, Array], outputs: Sequence[Reference]) -> list[jax.Array]:
    """Runs as much of a form as these outputs need, with its own numbers in the holes.

    Args:
        form: the whole.
        known: values of its inputs, and of variables in its middle: what leads to these is not run.
        outputs: variables of the form.

    Example:

    >>> import jax
    >>> form = canonical_form(jax.make_jaxpr(lambda x: (x + 1.0) * 0.5)(1.0))
    >>> [float(out) for out in evaluate_part(form, {1: 6.0}, form.body.outputs)]  # variable 1 is the sum
    [3.0]
    """
    values: dict[Reference, ArrayTree] = dict(known)

    def read(reference: Reference) -> ArrayTree:
        return values[reference] if reference >= 0 else form.values[-reference - 1]

    for instruction in needed(form, set(known), outputs):
        results = _bind(instruction.equation, [read(reference) for reference in instruction.inputs])
        values.update(zip(instruction.outputs, results, strict=True))
    return [read(reference) for reference in outputs]


class _Writer:
    """Walks a jaxpr once, numbering variables and holes, writing one line per instruction."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.values: list[Number] = []
        self.dtypes: list[np.dtype | None] = []

    def body(self, jaxpr: jax_core.Jaxpr, consts: Sequence[Number]) -> Body:
        start = len(self.values)
        scope: Scope = {}
        for number, variable in enumerate(jaxpr.invars):
            scope[variable] = number
        self.lines.append(f"inputs {' '.join(_type(variable.aval) for variable in jaxpr.invars)}")
        instructions: list[Instruction] = []
        count = self._walk(jaxpr, consts, scope, instructions, len(jaxpr.invars))
        outputs = tuple(self._reference(atom, scope) for atom in jaxpr.outvars)
        self.lines.append(f"outputs {outputs} of {count}")
        shapes = tuple(tuple(getattr(variable.aval, "shape", ())) for variable in jaxpr.invars)
        return Body(shapes, tuple(instructions), outputs, range(start, len(self.values)))

    def _walk(
        self, jaxpr: jax_core.Jaxpr, consts: Sequence[Number], scope: Scope, into: list[Instruction], count: int
    ) -> int:
        """Writes a jaxpr's instructions; `count` is the number of the next variable, and so is what is answered.

        A call that only groups instructions is written in its caller's place, under the names that its arguments have
        there: whether Keras wraps a function in `jit` makes no other program of it.
        """
        for variable, value in zip(jaxpr.constvars, consts, strict=True):
            scope[variable] = self._hole(value, variable.aval)
        for equation in jaxpr.eqns:
            inputs = tuple(self._reference(atom, scope) for atom in equation.invars)
            name = equation.primitive.name
            inner = equation.params.get(_INLINED[name]) if name in _INLINED else None
            if inner is not None:
                inner_jaxpr, inner_consts = _open(inner)
                inner_scope = dict(zip(inner_jaxpr.invars, inputs, strict=True))
                count = self._walk(inner_jaxpr, inner_consts, inner_scope, into, count)
                for variable, atom in zip(equation.outvars, inner_jaxpr.outvars, strict=True):
                    scope[variable] = self._reference(atom, inner_scope)
                continue
            outputs = tuple(range(count, count + len(equation.outvars)))
            count += len(outputs)
            for variable, number in zip(equation.outvars, outputs, strict=True):
                scope[variable] = number
            types = " ".join(_type(variable.aval) for variable in equation.outvars)
            self.lines.append(f"{types} = {name} {inputs} {_parameters(equation)}")
            bodies = tuple(self.body(*_open(inner)) for inner in _bodies_of(equation))
            into.append(Instruction(equation, inputs, outputs, bodies))
        return count

    def _reference(self, atom: jax_core.Var | jax_core.Literal, scope: Scope) -> Reference:
        if isinstance(atom, jax_core.Literal):
            return self._hole(atom.val, atom.aval)
        return scope[atom]

    def _hole(self, value: Number, aval: object) -> Reference:
        # Never shared, though two holes may hold the same number: in another member they may hold two.
        self.lines.append(f"hole {_type(aval)}")
        self.values.append(value)
        assert hasattr(aval, "dtype")  # a number in a trace is an array of a type
        self.dtypes.append(np.dtype(aval.dtype) if not jax.dtypes.issubdtype(aval.dtype, jax.dtypes.extended) else None)
        return -len(self.values)


def _open(jaxpr: Jaxpr) -> tuple[jax_core.Jaxpr, Sequence[Number]]:
    return (jaxpr.jaxpr, jaxpr.consts) if isinstance(jaxpr, jax_core.ClosedJaxpr) else (jaxpr, ())


def _bodies_of(equation: jax_core.JaxprEqn) -> list[Jaxpr]:
    bodies: list[Jaxpr] = []
    for name in _BODIES.get(equation.primitive.name, ()):
        value = equation.params[name]
        bodies.extend(value if isinstance(value, tuple) else (value,))
    return bodies


def _type(aval: object) -> str:
    if hasattr(aval, "dtype") and hasattr(aval, "shape"):
        return f"{aval.dtype}{list(aval.shape)}".replace(" ", "")
    return str(aval)


def _parameters(equation: jax_core.JaxprEqn) -> str:
    nested = _BODIES.get(equation.primitive.name, ())
    return " ".join(f"{name}={text_of(value)}" for name, value in sorted(equation.params.items()) if name not in nested)


def text_of(value: object) -> str:
    """A text that is equal for equal parameters. An object that prints its address is equal to itself only: safe."""
    if isinstance(value, np.ndarray | jax.Array):
        array = np.asarray(value)
        return f"{array.dtype}{array.shape}{hashlib.sha256(array.tobytes()).hexdigest()[:16]}"
    if isinstance(value, tuple | list):
        return f"({','.join(map(text_of, value))})"
    return repr(value)


def _shorten(text: str, limit: int = 120) -> str:
    return text if len(text) <= limit else text[: limit - 3] + "..."


def _run(body: Body, inputs: Sequence[ArrayTree], filled: _Filled, masks: Masks | None) -> list[jax.Array]:
    """Runs a body, inside of a trace. What has neither a lifted hole nor a mask in it is bound as it was."""
    values: dict[int, ArrayTree] = dict(enumerate(inputs))

    def read(reference: Reference) -> ArrayTree:
        return values[reference] if reference >= 0 else filled.holes[-reference - 1]

    for place, instruction in enumerate(body.instructions):
        arguments = [read(reference) for reference in instruction.inputs]
        inner: tuple[Masks | None, ...] = (None,) * len(instruction.bodies)
        if masks is not None:
            inner = masks.inner[place]
            for mask in masks.own[place]:
                arguments[mask.operand] = mask.apply(arguments[mask.operand], filled.rows)
        if any(map(filled.concerns, instruction.bodies, inner)):
            results = _REBUILD[instruction.equation.primitive.name](instruction, arguments, filled, inner)
        else:
            results = _bind(instruction.equation, arguments)
        values.update(zip(instruction.outputs, results, strict=True))
    return [read(reference) for reference in body.outputs]


def _bind(equation: jax_core.JaxprEqn, arguments: Sequence[ArrayTree]) -> Sequence[jax.Array]:
    bound = equation.primitive.get_bind_params(equation.params)
    functions, parameters = bound if isinstance(bound, tuple) else ((), bound)  # a tuple in JAX below 0.8
    # The context of its trace: the kind of random keys, for one, is a setting of JAX and no parameter.
    with equation.ctx.manager:
        answer = equation.primitive.bind(*functions, *arguments, **parameters)
    return answer if equation.primitive.multiple_results else [answer]


Arguments: TypeAlias = list[ArrayTree]
Inner: TypeAlias = Sequence[Masks | None]
Results: TypeAlias = Sequence[jax.Array]


def _rebuild_scan(instruction: Instruction, arguments: Arguments, filled: _Filled, inner: Inner) -> Results:
    parameters = instruction.equation.params
    num_consts, num_carry = sizes_of_scan(parameters)
    consts = arguments[:num_consts]

    def step(carry: list[jax.Array], slices: list[jax.Array]) -> tuple[list[jax.Array], list[jax.Array]]:
        outputs = _run(instruction.bodies[0], [*consts, *carry, *slices], filled, inner[0])
        return outputs[:num_carry], outputs[num_carry:]

    carry, stacked = jax.lax.scan(
        step,
        arguments[num_consts : num_consts + num_carry],
        arguments[num_consts + num_carry :],
        length=parameters["length"],
        reverse=parameters["reverse"],
        unroll=parameters["unroll"],
    )
    return [*carry, *stacked]


def _rebuild_while(instruction: Instruction, arguments: Arguments, filled: _Filled, inner: Inner) -> Results:
    condition, step = instruction.bodies
    num_condition, num_step = (instruction.equation.params[name] for name in ("cond_nconsts", "body_nconsts"))
    of_condition, of_step = arguments[:num_condition], arguments[num_condition : num_condition + num_step]
    # Constants of the loop become plain values around it; JAX finds them again.
    return jax.lax.while_loop(
        lambda carry: _run(condition, [*of_condition, *carry], filled, inner[0])[0],
        lambda carry: _run(step, [*of_step, *carry], filled, inner[1]),
        arguments[num_condition + num_step :],
    )


def _rebuild_cond(instruction: Instruction, arguments: Arguments, filled: _Filled, inner: Inner) -> Results:
    branches = [
        lambda *operands, body=body, masks=masks: _run(body, operands, filled, masks)  # type: ignore[misc]
        for body, masks in zip(instruction.bodies, inner, strict=True)
    ]
    return jax.lax.switch(arguments[0].astype("int32"), branches, *arguments[1:])


def _rebuild_remat(instruction: Instruction, arguments: Arguments, filled: _Filled, inner: Inner) -> Results:
    """Binds the primitive again around the new body: `jax.checkpoint` would lose the barrier of the backward pass."""
    (body,) = instruction.bodies
    # Arrays are passed in too, lifted or not: the primitive takes a jaxpr without constants.
    inside = [hole for hole in body.holes if hole in filled.lifted or np.ndim(filled.holes[hole]) > 0]

    def region(values: list[jax.Array], rows: jax.Array | None, operands: list[jax.Array]) -> list[jax.Array]:
        holes = list(filled.holes)
        for hole, value in zip(inside, values, strict=True):
            holes[hole] = value
        return _run(body, operands, _Filled(holes, filled.lifted, rows), inner[0])

    outer = [filled.holes[hole] for hole in inside]
    closed = jax.make_jaxpr(region)(outer, filled.rows, arguments)
    assert not closed.consts
    parameters = {**instruction.equation.params, "jaxpr": closed.jaxpr}
    rows = [] if filled.rows is None else [filled.rows]
    return instruction.equation.primitive.bind(*outer, *rows, *arguments, **parameters)


_REBUILD = {
    "scan": _rebuild_scan,
    "while": _rebuild_while,
    "cond": _rebuild_cond,
    "checkpoint": _rebuild_remat,
    "remat2": _rebuild_remat,
}
