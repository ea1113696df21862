"""A pass over resident rows: all full batches in one call, several, or one per call.

Full batches are turns of one loop whose number is an input (layout "scan"), or eight of them are written out one after
another ("chunk"), or each is a call ("host"). The short batch at the end of the rows has a shape of its own, so it is a
step of its own, inside the function that ends the pass.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from manyfit.training.population.arrays import Arrays, ArrayTree, Function, Lifted, Order, State
from manyfit.training.population.compile import Tier
from manyfit.training.population.data import ResidentRows
from manyfit.training.population.layout import CHUNK, Layout, LayoutChoice, num_workers
from manyfit.training.population.lift import Lift, Members
from manyfit.training.population.passes import Carry, Logs, Pass


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
    """A pass over resident rows.

    Batches are turns of one loop whose number is an input, over an order that has room for all batches of the
    arrays: so the whole data, a fold and a subset of them are one program. The loop may be run in parts (`advance`),
    the next of them in another layout. The short batch at the end is one more turn where the step of the full ones can
    serve it (`Steps.can_mask`), else a step of its own.

    Args:
        kind: see `Pass`.
        lift: see `Pass`.
        layout: see `Pass`.
        count: see `Pass`.
        rows: the data.
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
        rows: ResidentRows,
        own_order: bool = False,
        tier: Tier = "quick",
    ) -> None:
        super().__init__(kind, lift, layout=layout, count=count, shapes=rows.shapes[0], tier=tier)
        self.rows, self.own_order = rows, own_order
        self._prepared: set[Tier] = set()
        self._masks = bool(rows.num_full and rows.tail_size) and self.steps.can_mask(kind)
        self.num_turns = rows.num_full + self._masks
        self._one_thread = self._members.stacked and num_workers() > 1  # the others have programs of their own
        # The short batch comes once per pass, so it is compiled the cheap way: one step for all, not one for each.
        self._tail_members = Members("vmap", self.count)

    @property
    def _loops(self) -> bool:
        return self.layout.steps == "scan"

    @property
    def _ends_in_loop(self) -> bool:
        """Whether the loop answers what the pass does: there is no short batch to come, and nothing to split."""
        return self._loops and self._carries_states and bool(self.num_turns) and not self._has_own_tail

    @property
    def _has_own_tail(self) -> bool:
        return bool(self.rows.tail_size) and not self._masks

    def is_prepared(self, tier: Tier) -> bool:
        """Whether everything is compiled that `run` calls in a tier."""
        return tier in self._prepared

    def prepare(self, states: Sequence[State], lifted: Lifted, order: Order, tier: Tier) -> None:
        """Compiles everything that `run` calls with such arguments."""
        if self.is_prepared(tier):
            return
        full, tail = self._placed(order)
        carry = self._first_carry(states, lifted)
        for name, function, first, last in self._calls(0, self.num_turns):
            arguments = (carry, lifted, self.rows.leaves, *self._cut(full, first, last))
            outputs = self._ready(name, function, arguments, tier).outputs
            carry = outputs[0] if self._loops else outputs
        if not self._ends_in_loop:
            self._ready("end", self._finish, (carry, lifted, self.rows.leaves, tail), tier)
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
        full, _ = self._placed(order)
        cut = self._cut(full, 0, self.num_turns)
        return (self._first_carry(states, lifted), lifted, self.rows.leaves, *cut)

    def run(
        self, states: Sequence[State], lifted: Lifted, order: Order, tier: Tier | None = None
    ) -> tuple[list[State], Logs]:
        """Runs the pass.

        Args:
            states: one per member; left as they are.
            lifted: `Pass.lifted` of the members.
            order: row numbers.
            tier: to run in; None: the fastest that is compiled.

        Returns:
            New states, and the logs with a first axis for members; not waited for.
        """
        progress = self.begin(states, lifted, tier)
        progress = self.advance(progress, lifted, order, first=0, last=self.num_turns)
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
            order: row numbers of the whole pass.
            first: the turn to begin with.
            last: the one after the last, at most `num_turns`.
        """
        full, _ = self._placed(order)
        for name, function, start, stop in self._calls(first, last):
            arguments = (progress.carry, lifted, self.rows.leaves, *self._cut(full, start, stop))
            found = self._call(name, function, arguments, progress.tier)
            carry, logs = found if self._loops else (found, None)
            progress = PassProgress(carry, progress.tier, logs)
        return progress

    def end(
        self, progress: PassProgress, lifted: Lifted, order: Order, *, before: Sequence[State]
    ) -> tuple[list[State], Logs]:
        """What `run` answers, after all turns; `before`: the states at the start."""
        if self._ends_in_loop and progress.logs is not None:
            return self._closed((progress.carry[0], progress.logs), before)
        _, tail = self._placed(order)
        arguments = (progress.carry, lifted, self.rows.leaves, tail)
        return self._closed(self._call("end", self._finish, arguments, progress.tier), before)

    def _placed(self, order: Order) -> Order:
        """An order as the functions take it: with room for every batch of the arrays, on the devices."""
        full, tail = order
        if self._masks:
            # Any rows will do to fill up the short batch; copies of its last one are read already.
            missing = self.rows.batch_size - tail.shape[-1]
            last = np.pad(tail, [(0, 0)] * (tail.ndim - 1) + [(0, missing)], mode="edge")
            full = np.concatenate([full, last[..., None, :]], axis=-2)
        if self._loops:
            room = -(-self.rows.leaves[0].shape[0] // self.rows.batch_size)
            missing = max(0, room - full.shape[-2])
            full = np.pad(full, [(0, 0)] * (full.ndim - 2) + [(0, missing), (0, 0)])
        return self.spread.split((full, tail)) if self.own_order else (full, tail)

    def _calls(self, first: int, last: int) -> list[tuple[str, Function, int, int]]:
        """The calls for some turns: name, function, first turn and the one after the last."""
        if self._loops:
            return [("loop", self.loop, first, last)] if last > first else []
        # What is left after whole chunks goes step by step: a chunk of another length would be a further program.
        length = CHUNK if self.layout.steps == "chunk" else 1
        whole = first + (min(last, self.rows.num_full) - first) // length * length
        calls = [("chunk", self._several_steps, start, start + length) for start in range(first, whole, length)]
        return calls + [("step", self._several_steps, at, at + 1) for at in range(whole, last)]

    def _cut(self, full: np.ndarray, first: int, last: int) -> tuple[np.ndarray | np.int32, ...]:
        num_rows = np.int32(self.rows.num_rows)
        if self._loops:
            return full, num_rows, np.int32(first), np.int32(last)
        # The rows that are left, so that one program serves every step.
        left = num_rows - np.int32(first * self.rows.batch_size)
        return full[:, first:last] if self.own_order else full[first:last], left

    def loop(
        self,
        carry: Carry,
        lifted: Lifted,
        leaves: Arrays,
        full: jax.Array,
        num_rows: jax.Array,
        first: jax.Array,
        last: jax.Array,
    ) -> tuple[Carry, Logs]:
        """Turns of a pass as one function of arrays, ready to be compiled; and the logs after them."""
        bundle = self._bundle_of(lifted, self._members)

        def step(number: jax.Array, carry: Carry) -> Carry:
            rows = jax.lax.dynamic_index_in_dim(full, number, 1 if self.own_order else 0, keepdims=False)
            return self._one_step(carry, bundle, leaves, rows, num_rows - number * self.rows.batch_size)

        carry = jax.lax.fori_loop(first, last, step, jax.tree.map(jnp.asarray, carry))
        return carry, self._logs(self._members, carry, lifted)

    def _several_steps(self, carry: Carry, lifted: Lifted, leaves: Arrays, full: jax.Array, left: jax.Array) -> Carry:
        bundle = self._bundle_of(lifted, self._members)
        for at in range(full.shape[1 if self.own_order else 0]):
            rows = full[:, at] if self.own_order else full[at]
            carry = self._one_step(carry, bundle, leaves, rows, left - at * self.rows.batch_size)
        return carry

    def _one_step(self, carry: Carry, bundle: ArrayTree, leaves: Arrays, rows: jax.Array, left: jax.Array) -> Carry:
        """One turn; `left` is the number of rows that the pass has from here on."""
        batch = self._batch(leaves, rows, self._members)
        real = jnp.minimum(left, self.rows.batch_size) if self._masks else None
        return self._step(0, self._members, carry, bundle, batch, own_batch=self.own_order, rows=real)

    def _finish(self, carry: Carry, lifted: Lifted, leaves: Arrays, tail: jax.Array) -> tuple[ArrayTree, Logs]:
        members = self._members
        if self._has_own_tail:
            members = self._tail_members
            if members.stacked != self._members.stacked:
                carry = tuple(members.bundle(self._members.split(part)) for part in carry)
            number = 1 if self.rows.num_full else 0
            batch = self._batch(leaves, tail, members)
            carry = self._step(
                number, members, carry, self._bundle_of(lifted, members), batch, own_batch=self.own_order
            )
        return self._end(members, carry, lifted)

    def _batch(self, leaves: Arrays, rows: jax.Array, members: Members) -> ArrayTree:
        def read(numbers: jax.Array) -> Arrays:
            # Row numbers are ours, so they are in bounds; the check that JAX would make costs a pass over the batch.
            return tuple(leaf.at[numbers].get(mode="promise_in_bounds") for leaf in leaves)

        if not self.own_order:
            return read(rows)
        return members.bundle([read(rows[member]) for member in range(self.count)])


@dataclasses.dataclass
class Parts:
    """A training pass in parts, as the choice of a layout has it: one that is slow is left within a tenth of an epoch.

    Attributes:
        program: the pass in the batch's layout.
        order: row numbers.
        choice: of the program's layout.
        share: members that the cores' time is divided between: those of the pass, times the passes that run now.
        in_layout: the pass of the same members in another layout, and its `lifted` of them.
        layouts: those that the pass went through, if it is not one alone: with the seconds that all of its turns would
            have taken in each.
        compile_seconds: spent on compiling another layout in the middle of the pass.
    """

    program: RowsPass
    order: Order
    choice: LayoutChoice
    share: int
    in_layout: Callable[[Layout], tuple[RowsPass, Lifted]]
    layouts: dict[Layout, float] = dataclasses.field(default_factory=dict)
    compile_seconds: float = 0.0

    def run(self, states: Sequence[State], lifted: Lifted, tier: Tier) -> tuple[list[State], Logs]:
        """What `RowsPass.run` answers, for what it takes."""
        running, num_turns = self.program, self.program.num_turns
        progress, done = running.begin(states, lifted, tier), 0
        while done < num_turns:
            layout, length = self.choice.next_part(
                running.layout, turns_done=done, num_turns=num_turns, compile_seconds=running.compile_seconds
            )
            if layout != running.layout:
                running, lifted = self.in_layout(layout)
                started = time.perf_counter()
                running.prepare(states, lifted, self.order, tier)
                self.compile_seconds += time.perf_counter() - started
            started = time.perf_counter()
            progress = running.advance(progress, lifted, self.order, first=done, last=done + length)
            if length < num_turns:
                jax.block_until_ready(progress.carry)
                seconds = (time.perf_counter() - started) / length
                self.choice.record_steps(layout, seconds / self.share)
                self.layouts[layout] = min(seconds * num_turns, self.layouts.get(layout, math.inf))
            done += length
        if len(self.layouts) < 2:
            self.layouts.clear()
        return running.end(progress, lifted, self.order, before=states)
