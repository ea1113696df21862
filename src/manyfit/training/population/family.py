"""A family: executions whose steps are one program, and the passes compiled for them."""

from __future__ import annotations

import collections
import dataclasses
import threading
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from manyfit.training.population.capture import Trace
from manyfit.training.population.data import FitArguments, Rows
from manyfit.training.population.epoch import Order, Pass
from manyfit.training.population.layout import LayoutChoice, candidates
from manyfit.training.population.listing import ProgramRecord
from manyfit.training.population.member import Member
from manyfit.training.population.probe import find_mismatch
from manyfit.training.population.program import Layout, Lift, State, Steps

_PROBED = 2  # members that a probe compares


@dataclasses.dataclass(frozen=True)
class _Sample:
    """What a probe needs of a member."""

    trace: Trace
    state: State


class Family:
    """Executions of one structure: those that wait, and the compiled passes that serve them.

    Args:
        trace: the steps of the first execution.
        data: what they train on.
        structure: its model in a few words.
    """

    def __init__(self, trace: Trace, data: FitArguments, structure: str) -> None:
        self.key = trace.key
        self.structure = structure
        self.data = data
        self.lift = Lift(trace)
        self.waiting: collections.deque[Member] = collections.deque()
        self.choice = LayoutChoice(candidates(trace))
        self.mismatch: str | None = None
        self.num_trained = 0
        self._samples: list[_Sample] = []
        self._verified: set[tuple[int, bool]] = set()
        self.num_versions = 1
        self._passes: dict[tuple[str, Layout, int, bool], Pass] = {}
        self._retired_seconds = 0.0
        self._lock = threading.Lock()

    def add(self, member: Member) -> None:
        """Queues a member; lifts what it differs in, and forgets passes compiled before that was known."""
        if self.lift.widen([member.trace]) and self._passes:
            self._retired_seconds += sum(each.compile_seconds for each in self._passes.values())
            self._passes.clear()
            self.num_versions += 1
            self._samples.clear()  # those that made the new version necessary are the ones to probe
        if len(self._samples) < _PROBED and all(member.trace is not other.trace for other in self._samples):
            self._samples.append(_Sample(member.trace, member.state))
        self.waiting.append(member)

    @property
    def compile_seconds(self) -> float:
        """Time spent in compiling for this family."""
        return self._retired_seconds + sum(each.compile_seconds for each in self._passes.values())

    def record(self) -> ProgramRecord:
        """What is known of this family's program, for showing."""
        measured = self.choice.seconds
        layout = min(measured, key=measured.__getitem__) if measured else self.choice.options[0]
        return ProgramRecord(
            program=self.key,
            structure=self.structure,
            members=self.num_trained,
            lifted=self.lift.count,
            versions=self.num_versions,
            layout=str(layout),
            compile_seconds=self.compile_seconds,
            epoch_seconds={str(each): seconds for each, seconds in measured.items()},
            epochs_timed=self.choice.epochs_timed,
        )

    def count_for(self, num_members: int, max_members: int) -> int:
        """Slots of the program that trains `num_members`: the smallest that is compiled, else the next power of two."""
        compiled = sorted(count for _, _, count, _ in self._passes if num_members <= count <= max_members)
        if compiled:
            return compiled[0]
        return min(max_members, 1 << (num_members - 1).bit_length())

    def verify(self, layout: Layout) -> None:
        """Probes the program once per version and way of standing side by side, when members differ.

        What it finds is kept in `mismatch`.
        """
        fused = layout.members == "vmap"
        key = (self.num_versions, fused)
        if key in self._verified or all(each.trace is self.lift.template for each in self._samples):
            return
        with self._lock:
            if key in self._verified:
                return
            rows = self.data.training
            assert isinstance(rows, Rows)
            # One member that differs is enough where members do not share an axis; each costs two compilations.
            differing = [each for each in self._samples if each.trace is not self.lift.template]
            probed = self._samples if fused else differing[:1]
            found = find_mismatch(
                self.lift, [each.trace for each in probed], [each.state for each in probed], rows, fused=fused
            )
            self._verified.add(key)
        if found is not None:
            self.mismatch = f"a step of program {self.key} is not that of {found}"

    def packed(self, traces: Sequence[Trace]) -> Any:
        """The lifted numbers of several members, with a first axis for members."""
        return jax.tree.map(lambda *values: np.stack(values), *(self.lift.values(trace) for trace in traces))

    def run(
        self, kind: str, members: Sequence[Member], order: Order, *, layout: Layout, count: int, own_order: bool = False
    ) -> tuple[list[State], dict[str, Any]]:
        """Runs a pass for members in a program for `count`; idle slots repeat the last member, and are thrown away."""
        slots = [*members, *[members[-1]] * (count - len(members))]
        states = [member.state for member in slots]
        lifted = self.packed([member.trace for member in slots])
        return self._pass(kind, layout, count, own_order).run(states, lifted, order)

    def _pass(self, kind: str, layout: Layout, count: int, own_order: bool) -> Pass:
        key = (kind, layout, count, own_order)
        with self._lock:
            if key not in self._passes:
                rows = self.data.training if kind == "train" else self.data.validation
                assert isinstance(rows, Rows)
                self._passes[key] = Pass(
                    kind, Steps(self.lift), layout=layout, count=count, rows=rows, own_order=own_order
                )
            return self._passes[key]
