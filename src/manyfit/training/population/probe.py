"""Checks a program before it is trusted: one training step of its members together against each member's own trace.

Lifting numbers is exact by construction; this is the check of the construction. It is done once per program version, in
training mode (dropout draws, batch statistics), on real rows. What it can find is a wrong number in a hole, a vector
packed in another order than it is unpacked, an instruction that an axis for members changes. Where it finds one, the
members are trained with `model.fit` and the user reads one line: slower, never wrong.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import numpy as np

from manyfit.training.population.arrays import Arrays, Lifted, State
from manyfit.training.population.compile import compile_function
from manyfit.training.population.lift import Lift, Members, Stepped, Steps
from manyfit.training.population.trace import Trace

# Float32 rounding through one step. Not equality: side by side, a product is summed up in another order. A wrong number
# in a hole changes results by far more.
_RELATIVE = 2e-3
_ABSOLUTE = 1e-5


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

        # Compiled quickly: it runs once.
        expected = compile_function(alone, (state,), effort="once").call(state)
        if not _close(expected, together[member]):
            return f"member {member}, which differs in {_differences(lift, lift.template, trace)}"
    return None


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

    arguments = (list(states), packed)
    return compile_function(run, arguments, effort="once").call(*arguments)


def _close(expected: Stepped, got: Stepped) -> bool:
    for left, right in zip(jax.tree.leaves(expected), jax.tree.leaves(got), strict=True):
        a, b = np.asarray(left, np.float64), np.asarray(right, np.float64)
        scale = float(np.max(np.abs(a), initial=0.0, where=np.isfinite(a)))
        if not np.allclose(a, b, rtol=_RELATIVE, atol=_ABSOLUTE + _RELATIVE * scale, equal_nan=True):
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
