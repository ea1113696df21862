"""A pass over resident rows: all batches in one call, several, or one per call.

Batches are turns of one loop whose number is an input (layout "scan"), or eight of them are written out one after
another ("chunk"), or each is a call ("host"). The short batch at the end of the rows is filled up with copies, which
the step does not see; a step that cannot be masked has one of its own, inside the function that ends the pass.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import time
from collections.abc import Callable, Sequence
from typing import Protocol

import jax
import jax.numpy as jnp
import numpy as np

from manyfit.training.base import OutOfTime
from manyfit.training.population.arrays import Arrays, ArrayTree, Function, Lifted, Order, State
from manyfit.training.population.compile import Tier
from manyfit.training.population.layout import CHUNK, Layout, num_workers
from manyfit.training.population.lift import Lift, Members
from manyfit.training.population.passes import Carry, Logs, Pass

_FIRST_PART = 20  # of an epoch that may be left: a share of it that tells how long a step takes
_PART_SECONDS = 1.0  # of such an epoch, after which it is asked whether it was left


@dataclasses.dataclass(frozen=True)
class PassProgress:
    """A pass after some of its batches.

    Attributes:
        carry: what it goes on with.
        tier: that it runs in, to its end.
        logs: those so far, where the loop answers them.
    """

    carry: Carry
    tier: Tier
    logs: Logs | None = None


class RowsPass(Pass):
    """A pass over resident rows; it holds none, so that it serves all that lie in arrays of one length.

    Batches are turns of one loop whose number is an input, over an order that has room for all batches of the arrays:
    so the whole data, a fold and a subset of them are one program. The short batch at the end is a turn like the others
    where the step can be masked (see `masking`), else a step of its own. The loop may be run in parts (`advance`), the
    next of them in another layout.

    Args:
        kind: see `Pass`.
        lift: see `Pass`.
        layout: see `Pass`.
        count: see `Pass`.
        shapes: see `Pass`.
        own_order: whether each member reads the rows in its own order.
        tier: see `Pass`.
    """

    def __init__(
        self,
        kind: str,
        lift: Lift,
        *,
        layout: Layout,
        count: int,
        shapes: Sequence[jax.ShapeDtypeStruct],
        own_order: bool = False,
        tier: Tier = "quick",
    ) -> None:
        super().__init__(kind, lift, layout=layout, count=count, shapes=shapes, tier=tier)
        self.own_order = own_order
        self._batch_size = shapes[0].shape[0]
        self._masks = self.steps.can_mask(kind)
        self._prepared: set[Tier] = set()
        self._one_thread = self._members.stacked and num_workers() > 1  # the others have programs of their own
        # The short batch comes once per pass, so it is compiled the cheap way: one step for all, not one for each.
        self._tail_members = Members("vmap", self.count)

    @functools.cached_property
    def steps_name(self) -> str:
        """Names what is compiled: the steps, and what is an input of them."""
        return self.lift.name(self.kind)

    @property
    def _loops(self) -> bool:
        return self.layout.steps == "scan"

    def num_turns(self, order: Order) -> int:
        """Batches that are read one like the other: all of them, or those that are full."""
        # Members that stand side by side have equally many batches.
        num_rows = int(np.max(order.num_rows))
        return -(-num_rows // self._batch_size) if self._masks else num_rows // self._batch_size

    def _has_tail(self, order: Order) -> bool:
        """Whether there is a short batch that is a step of its own."""
        return self.num_turns(order) < order.numbers.shape[-2]

    def _ends_in_loop(self, order: Order) -> bool:
        """Whether the loop answers what the pass does: there is no short batch to come, and nothing to split."""
        return self._loops and self._carries_states and not self._has_tail(order)

    def is_prepared(self, tier: Tier) -> bool:
        """Whether everything is compiled that `run` calls in a tier."""
        return tier in self._prepared

    def prepare(self, states: Sequence[State], lifted: Lifted, order: Order, tier: Tier) -> None:
        """Compiles everything that `run` calls with such arguments."""
        if self.is_prepared(tier):
            return
        carry = self._first_carry(states, lifted)
        for name, function, first, last in self._calls(0, self.num_turns(order)):
            arguments = (carry, lifted, order.leaves, *self._turns(order, first, last))
            outputs = self._ready(name, function, arguments, tier).outputs
            carry = outputs[0] if self._loops else outputs
        if not self._ends_in_loop(order):
            self._ready("end", self._finish, (carry, lifted, order.leaves, self._tail(order)), tier)
        self._prepared.add(tier)

    def exchange(self) -> None:
        """See `Pass.exchange`."""
        super().exchange()
        self._prepared.add("full")

    def _first_carry(self, states: Sequence[State], lifted: Lifted) -> Carry:
        """What `begin` answers, or its shapes: everything is compiled before anything runs."""
        beginning = self._beginning(states, lifted)
        if self._carries_states:
            return beginning
        return self._ready("begin", self._begin, beginning, self.tiers.tier).outputs

    def loop_arguments(self, states: Sequence[State], lifted: Lifted, order: Order) -> tuple[ArrayTree, ...]:
        """What `loop` takes for all of its turns; arrays or their shapes."""
        turns = self._turns(order, 0, self.num_turns(order))
        return (self._first_carry(states, lifted), lifted, order.leaves, *turns)

    def run(
        self, states: Sequence[State], lifted: Lifted, order: Order, tier: Tier | None = None
    ) -> tuple[list[State], Logs]:
        """Runs the pass.

        Args:
            states: one per member; left as they are.
            lifted: `Pass.lifted` of the members.
            order: what is read.
            tier: to run in; None: the fastest that is compiled.

        Returns:
            New states, and the logs with a first axis for members; not waited for.
        """
        progress = self.begin(states, lifted, tier)
        progress = self.advance(progress, lifted, order, first=0, last=self.num_turns(order))
        return self.end(progress, lifted, order, before=states)

    def begin(self, states: Sequence[State], lifted: Lifted, tier: Tier | None = None) -> PassProgress:
        """A pass before its first batch; states are left as they are."""
        tier = tier or self.tiers.tier
        return PassProgress(self._begun(self._beginning(states, lifted), tier), tier)

    def advance(self, progress: PassProgress, lifted: Lifted, order: Order, *, first: int, last: int) -> PassProgress:
        """A pass after some more of its turns; in layouts that give memory away, `progress` is used up.

        Args:
            progress: of this pass, or of one for the same members and rows in another layout.
            lifted: `Pass.lifted` of the members.
            order: what the whole pass reads.
            first: the batch to begin with.
            last: the one after the last.
        """
        for name, function, start, stop in self._calls(first, last):
            arguments = (progress.carry, lifted, order.leaves, *self._turns(order, start, stop))
            found = self._call(name, function, arguments, progress.tier)
            carry, logs = found if self._loops else (found, None)
            progress = PassProgress(carry, progress.tier, logs)
        return progress

    def end(
        self, progress: PassProgress, lifted: Lifted, order: Order, *, before: Sequence[State]
    ) -> tuple[list[State], Logs]:
        """What `run` answers, after all turns; `before`: the states at the start."""
        if self._ends_in_loop(order) and progress.logs is not None:
            return self._closed((progress.carry[0], progress.logs), before)
        arguments = (progress.carry, lifted, order.leaves, self._tail(order))
        return self._closed(self._call("end", self._finish, arguments, progress.tier), before)

    def _calls(self, first: int, last: int) -> list[tuple[str, Function, int, int]]:
        """The calls for some turns: name, function, first batch and the one after the last."""
        if self._loops:
            return [("loop", self.loop, first, last)] if last > first else []
        # What is left after whole chunks goes step by step: a chunk of another length would be a further program.
        length = CHUNK if self.layout.steps == "chunk" else 1
        whole = first + (last - first) // length * length
        calls = [("chunk", self._several_steps, start, start + length) for start in range(first, whole, length)]
        return calls + [("step", self._several_steps, at, at + 1) for at in range(whole, last)]

    def _turns(self, order: Order, first: int, last: int) -> tuple[ArrayTree, ...]:
        """What the functions take of an order: batches, how many rows there are from the first one on, and which turns
        a loop makes."""
        numbers, num_rows = order.numbers, np.asarray(order.num_rows, np.int32)
        if not self._loops:
            numbers = numbers[..., first:last, :]
            given: tuple[ArrayTree, ...] = numbers, num_rows - np.int32(first * self._batch_size)
            return tuple(map(self.spread.split, given)) if self.own_order else given
        # With room for every batch of the arrays, so that it is one program for all numbers of them.
        missing = max(0, -(-order.leaves[0].shape[0] // self._batch_size) - numbers.shape[-2])
        numbers = np.pad(numbers, [(0, 0)] * (numbers.ndim - 2) + [(0, missing), (0, 0)])
        given = (*map(self.spread.split, (numbers, num_rows)),) if self.own_order else (numbers, num_rows)
        return (*given, np.int32(first), np.int32(last))

    def _tail(self, order: Order) -> ArrayTree:
        """Row numbers of the short batch that is a step of its own; none if there is no such batch."""
        size = int(np.max(order.num_rows)) % self._batch_size if self._has_tail(order) else 0
        tail = order.numbers[..., -1, :size]
        return self.spread.split(tail) if self.own_order else tail

    def loop(
        self,
        carry: Carry,
        lifted: Lifted,
        leaves: Arrays,
        numbers: jax.Array,
        num_rows: jax.Array,
        first: jax.Array,
        last: jax.Array,
    ) -> tuple[Carry, Logs]:
        """Batches of a pass as one function of arrays, ready to be compiled; and the logs after them."""
        bundle = self._bundle_of(lifted, self._members)

        def step(turn: jax.Array, carry: Carry) -> Carry:
            rows = jax.lax.dynamic_index_in_dim(numbers, turn, 1 if self.own_order else 0, keepdims=False)
            return self._one_step(carry, bundle, leaves, rows, num_rows - turn * self._batch_size)

        carry = jax.lax.fori_loop(first, last, step, jax.tree.map(jnp.asarray, carry))
        return carry, self._logs(self._members, carry, lifted)

    def _several_steps(
        self, carry: Carry, lifted: Lifted, leaves: Arrays, numbers: jax.Array, num_rows: jax.Array
    ) -> Carry:
        bundle = self._bundle_of(lifted, self._members)
        for at in range(numbers.shape[-2]):
            carry = self._one_step(carry, bundle, leaves, numbers[..., at, :], num_rows - at * self._batch_size)
        return carry

    def _one_step(self, carry: Carry, bundle: ArrayTree, leaves: Arrays, rows: jax.Array, num_rows: jax.Array) -> Carry:
        """One step of all members, on the batch of these row numbers, which is followed by the rest of `num_rows`."""
        members = self._members
        batch = self._batch(leaves, rows, members)
        real = None
        if self._masks:
            real = jnp.minimum(num_rows, self._batch_size)
            real = members.bundle([real[member] for member in range(self.count)]) if self.own_order else real
        return self._step(0, members, carry, bundle, batch, own_batch=self.own_order, real=real)

    def _finish(self, carry: Carry, lifted: Lifted, leaves: Arrays, tail: jax.Array) -> tuple[ArrayTree, Logs]:
        members = self._members
        if tail.shape[-1]:
            members = self._tail_members
            if members.stacked != self._members.stacked:
                carry = tuple(members.bundle(self._members.split(part)) for part in carry)
            batch = self._batch(leaves, tail, members)
            carry = self._step(
                tail.shape[-1], members, carry, self._bundle_of(lifted, members), batch, own_batch=self.own_order
            )
        return self._end(members, carry, lifted)

    def _batch(self, leaves: Arrays, rows: jax.Array, members: Members) -> ArrayTree:
        def read(numbers: jax.Array) -> Arrays:
            # Row numbers are ours, so they are in bounds; the check that JAX would make costs a pass over the batch.
            return tuple(leaf.at[numbers].get(mode="promise_in_bounds") for leaf in leaves)

        if not self.own_order:
            return read(rows)
        return members.bundle([read(rows[member]) for member in range(self.count)])


class Pacing(Protocol):
    """In which layout a pass goes on; see `LayoutChoice`, whose methods these are."""

    def next_part(
        self, layout: Layout, *, turns_done: int, num_turns: int, compile_seconds: float
    ) -> tuple[Layout, int]: ...
    def record_steps(self, layout: Layout, seconds: float) -> None: ...


@dataclasses.dataclass
class Parts:
    """A training pass in parts, as the choice of a layout has it: one that is slow is left within a tenth of an epoch.

    Attributes:
        program: the pass in the batch's layout.
        order: row numbers.
        choice: of the program's layout.
        share: members that the cores' time is divided between: those of the pass, times the passes that run now.
        in_layout: the pass of the same members in another layout, and its `lifted` of them.
        is_left: whether nobody waits for the pass any more; asked about once a second. None: it is never left.
        layouts: those that the pass went through, if it is not one alone: with the seconds that all of its turns would
            have taken in each.
        path: those that it went through, each with the turn up to which it went.
        is_one: whether all of it had the same steps: a member that comes meanwhile may make them another version.
        compile_seconds: spent on compiling another layout in the middle of the pass.
    """

    program: RowsPass
    order: Order
    choice: Pacing
    share: int
    in_layout: Callable[[Layout], tuple[RowsPass, Lifted]]
    is_left: Callable[[], bool] | None = None
    layouts: dict[Layout, float] = dataclasses.field(default_factory=dict)
    path: list[tuple[Layout, int]] = dataclasses.field(default_factory=list)
    is_one: bool = True
    compile_seconds: float = 0.0

    def run(self, states: Sequence[State], lifted: Lifted, tier: Tier) -> tuple[list[State], Logs]:
        """What `RowsPass.run` answers, for what it takes.

        Raises:
            OutOfTime: it was left.
        """
        running, num_turns = self.program, self.program.num_turns(self.order)
        progress, done = running.begin(states, lifted, tier), 0
        most = num_turns if self.is_left is None else max(1, num_turns // _FIRST_PART)
        while done < num_turns:
            layout, length = self.choice.next_part(
                running.layout, turns_done=done, num_turns=num_turns, compile_seconds=running.compile_seconds
            )
            if layout != running.layout:
                running, lifted = self.in_layout(layout)
                self.is_one = self.is_one and running.steps_name == self.program.steps_name
                started = time.perf_counter()
                running.prepare(states, lifted, self.order, tier)
                self.compile_seconds += time.perf_counter() - started
            if self.is_left is not None and self.is_left():
                raise OutOfTime
            length = min(length, most)
            started = time.perf_counter()
            progress = running.advance(progress, lifted, self.order, first=done, last=done + length)
            if length < num_turns:
                jax.block_until_ready(progress.carry)
                seconds = (time.perf_counter() - started) / length
                most = num_turns if self.is_left is None else max(1, int(_PART_SECONDS / max(seconds, 1e-9)))
                self.choice.record_steps(layout, seconds / self.share)
                self.layouts[layout] = min(seconds * num_turns, self.layouts.get(layout, math.inf))
            done += length
            if self.path and self.path[-1][0] == layout:
                self.path.pop()
            self.path.append((layout, done))
        if len(self.layouts) < 2:
            self.layouts.clear()
        return running.end(progress, lifted, self.order, before=states)
