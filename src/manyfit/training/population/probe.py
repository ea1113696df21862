"""Checks a program before it is trusted: one training step of its members together against each member's own trace.

Lifting numbers is exact by construction; this is the check of the construction. It is done once per program version, in
training mode (dropout draws, batch statistics), on real rows. What it can find is a wrong number in a hole, a vector
packed in another order than it is unpacked, an instruction that an axis for members changes. Where it finds one, the
members are trained with `model.fit` and the user reads one line: slower, never wrong.

Of a wide program the same is asked once per kind of structure: whether padding with zeros changes nothing. What is
found to be exact is remembered on disk; where it is not, members of that kind train in programs of their own.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import keras
import numpy as np

from manyfit.core.files import replaced
from manyfit.training.population.arrays import Arrays, ArrayTree, Function, Lifted, State
from manyfit.training.population.compile import compile_function
from manyfit.training.population.embeddings import Embedding
from manyfit.training.population.layout import place_of_memory
from manyfit.training.population.lift import Lift, Members, Stepped, Steps
from manyfit.training.population.trace import Trace

# Float32 rounding through one step. Not equality: side by side, a product is summed up in another order. A wrong number
# in a hole changes results by far more.
_RELATIVE = 2e-3
_ABSOLUTE = 1e-5
# Of what is computed in shorter numbers: so many of their roundings. And an optimizer such as Adam makes a full step of
# a gradient that is nothing but rounding, this way or that way; so some numbers of an array may be off.
_ROUNDINGS = 8
_MAY_BE_OFF = 0.25


def find_mismatch(
    lift: Lift, traces: Sequence[Trace], states: Sequence[State], batch: Arrays, *, fused: bool
) -> str | None:
    """Compares one step of several members in one program with the same step of each member on its own.

    Args:
        lift: which numbers are inputs.
        traces: one per member.
        states: one per member.
        batch: the leaves of a real batch.
        fused: whether the program will have an axis for members.

    Returns:
        None, or a text that names the member (by its place) and the numbers in which it differs from the first.
    """
    together = _together(lift, traces, states, batch, fused=fused)
    for member, (trace, state) in enumerate(zip(traces, states, strict=True)):
        # Nothing is lifted: every number of the member's own trace is where Python has written it.
        steps = Steps(Lift(trace))
        metrics = trace.start_metrics

        def alone(state: State, steps: Steps = steps, metrics: Sequence[np.ndarray] = metrics) -> Stepped:
            return steps.train(0, {}, state, metrics, batch)

        expected = _run(alone, (state,))
        if not _close(expected, together[member], _rounding(trace)):
            return f"member {member}, which differs in {_differences(lift, lift.template, trace)}"
    return None


def find_padding_mismatch(narrow: Trace, wide: Trace, state: State, embedding: Embedding, batch: Arrays) -> str | None:
    """Compares one step of a member in a wide program with the same step of its own model.

    Args:
        narrow: the member's own trace.
        wide: the wide program's.
        state: of the member.
        embedding: its place in the wide program.
        batch: the leaves of a real batch.

    Returns:
        None, or a text that says what differs.
    """
    stepped = []
    for each, before in ((narrow, state), (wide, embedding.widen(state))):
        steps = Steps(Lift(each))

        def one(state: State, steps: Steps = steps, each: Trace = each) -> Stepped:
            return steps.train(0, {}, state, each.start_metrics, batch)

        stepped.append(_run(one, (before,)))
    (expected, metrics, logs), (padded, wide_metrics, wide_logs) = stepped
    if not _close((expected, metrics, logs), (embedding.narrow(padded), wide_metrics, wide_logs), _rounding(narrow)):
        return "its state or its metrics differ after one step"
    found = stray(embedding, padded)
    return f"{found} stands where zeros should" if found else None


def stray(embedding: Embedding, wide: State) -> float:
    """How far a wide program has moved a weight, or what its optimizer keeps of one, where a member has none."""
    return max((float(np.max(np.abs(array), initial=0.0)) for array in embedding.outside(wide)), default=0.0)


def recalled_verdict(kind: str) -> bool:
    """Whether padding was found to be exact for structures of a kind, by these versions on this machine."""
    path = place_of_memory(_named(kind))
    return path is not None and path.exists()


def remember_verdict(kind: str) -> None:
    """Writes down that it was. A folder that cannot be written to costs a comparison in the next process."""
    path = place_of_memory(_named(kind))
    if path is not None:
        with contextlib.suppress(OSError), replaced(path, is_shared=True) as partial:
            partial.write_text("padding is exact")


def _named(kind: str) -> str:
    own = sys.modules["manyfit"].__version__  # not imported: the package stands above its parts
    return f"padding {keras.__version__} {own} {kind}"


def _together(
    lift: Lift, traces: Sequence[Trace], states: Sequence[State], batch: Arrays, *, fused: bool
) -> list[Stepped]:
    steps = Steps(lift)
    members = Members("vmap" if fused else "unrolled", len(traces))
    packed = [lift.values(trace) for trace in traces]

    def run(states: list[State], packed: list[Lifted]) -> list[Stepped]:
        def one(state: State, lifted: Lifted, _: object) -> Stepped:
            return steps.train(0, lifted, state, lift.template.start_metrics, batch)

        return members.split(members.map(one, members.bundle(states), members.bundle(packed)))

    return _run(run, (list(states), packed))  # type: ignore[no-any-return]


def _run(function: Function, arguments: Sequence[ArrayTree]) -> Any:
    """Calls a function that is called no second time, compiled without optimisation.

    Unless that makes NaN: XLA then computes a number twice, rounded in two ways, and what looks for a maximum's place
    by comparing finds none. A comparison of NaN with NaN would tell nothing.
    """
    compiled = compile_function(function, arguments, effort="once")
    found = compiled.call(*arguments)
    if all(bool(np.isfinite(np.asarray(leaf, np.float64)).all()) for leaf in jax.tree.leaves(found)):
        return found
    assert compiled.again is not None  # it has just been compiled
    return compiled.again("quick").call(*arguments)


def _rounding(trace: Trace) -> float:
    """The largest relative rounding of the numbers that a training step computes with."""
    instructions = trace.forms["train 0"].body.instructions
    types = {getattr(made.aval, "dtype", None) for each in instructions for made in each.equation.outvars}
    floats = [dtype for dtype in types if dtype is not None and jnp.issubdtype(dtype, jnp.floating)]
    return max((float(jnp.finfo(dtype).eps) for dtype in floats), default=0.0)


def _close(expected: Stepped, got: Stepped, rounding: float) -> bool:
    relative = max(_RELATIVE, _ROUNDINGS * rounding)
    least = 1.0 if relative == _RELATIVE else 1 - _MAY_BE_OFF
    for left, right in zip(jax.tree.leaves(expected), jax.tree.leaves(got), strict=True):
        a, b = np.asarray(left, np.float64), np.asarray(right, np.float64)
        scale = float(np.max(np.abs(a), initial=0.0, where=np.isfinite(a)))
        are_close = np.isclose(a, b, rtol=relative, atol=_ABSOLUTE + relative * scale, equal_nan=True)
        if a.size and np.mean(are_close) < least:
            return False
    return True


def _differences(lift: Lift, first: Trace, other: Trace, limit: int = 3) -> str:
    a, b = first.forms["train 0"], other.forms["train 0"]
    found = [
        f"{np.asarray(b.values[hole])!s:.20} (the first has {np.asarray(a.values[hole])!s:.20})"
        for hole in lift.holes.get("train 0", ())
        if a.bits[hole] != b.bits[hole]
    ]
    return ", ".join(found[:limit]) or "nothing but its state"
