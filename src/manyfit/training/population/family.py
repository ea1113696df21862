"""A family: executions whose steps are one program, and the passes compiled for them."""

from __future__ import annotations

import collections
import time
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from manyfit.training.population.capture import Trace
from manyfit.training.population.data import FitArguments, Rows
from manyfit.training.population.epoch import Order, Pass
from manyfit.training.population.member import Member
from manyfit.training.population.program import Layout, Lift, State, Steps


class Family:
    """Executions of one structure: those that wait, and the compiled passes that serve them.

    Args:
        trace: the steps of the first execution.
        data: what they train on.
    """

    def __init__(self, trace: Trace, data: FitArguments) -> None:
        self.key = trace.key
        self.data = data
        self.lift = Lift(trace)
        self.waiting: collections.deque[Member] = collections.deque()
        self.num_trained = 0
        self.num_versions = 1
        self._passes: dict[tuple[str, Layout, int, bool], Pass] = {}
        self._retired_seconds = 0.0

    def add(self, member: Member) -> None:
        """Queues a member; lifts what it differs in, and forgets passes compiled before that was known."""
        if self.lift.widen([member.trace]) and self._passes:
            self._retired_seconds += sum(each.compile_seconds for each in self._passes.values())
            self._passes.clear()
            self.num_versions += 1
        self.waiting.append(member)

    @property
    def compile_seconds(self) -> float:
        """Time spent in compiling for this family."""
        return self._retired_seconds + sum(each.compile_seconds for each in self._passes.values())

    def packed(self, traces: Sequence[Trace]) -> Any:
        """The lifted numbers of several members, with a first axis for members."""
        return jax.tree.map(lambda *values: np.stack(values), *(self.lift.values(trace) for trace in traces))

    def run(
        self, kind: str, members: Sequence[Member], order: Order, *, layout: Layout, count: int, own_order: bool = False
    ) -> tuple[list[State], dict[str, Any]]:
        """Runs a pass for members in a program for `count`; idle slots repeat the last member, and are thrown away."""
        slots = [*members, *[members[-1]] * (count - len(members))]
        states = [member.state for member in slots]
        return self._pass(kind, layout, count, own_order).run(
            states, self.packed([member.trace for member in slots]), order
        )

    def _pass(self, kind: str, layout: Layout, count: int, own_order: bool) -> Pass:
        key = (kind, layout, count, own_order)
        if key not in self._passes:
            rows = self.data.training if kind == "train" else self.data.validation
            assert isinstance(rows, Rows)
            self._passes[key] = Pass(
                kind, Steps(self.lift), layout=layout, count=count, rows=rows, own_order=own_order
            )
        return self._passes[key]


def seconds_since(started: float) -> float:
    """Seconds on the performance counter since `started`."""
    return time.perf_counter() - started
