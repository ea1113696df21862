"""One epoch of several members as compiled functions: a training pass and a test pass, over resident rows or a stream.

A pass carries, from step to step, a bundle each of the members' states, their metrics, and the last logs of steps
that log on their own. It is begun, stepped and ended. Over resident rows all full batches may be one function (layout
"scan": one call per epoch, the batches picked by row numbers inside, their number an input), or eight of them
("chunk"), or one ("host"); a stream calls a function per batch, since nobody knows how many will come. The short batch
at the end of the rows has a shape of its own, so it is a step of its own, inside the function that ends the pass.

Every member's results must be those that it would have had alone. So what members share is read only (rows, the numbers
written into the program), states never mix, and the state that goes in is left as it is: only the carry between two
calls gives its memory away (`donate`).

On a CPU members' arrays are stacked and cut by NumPy instead of by a kernel per variable and member: this saved 1.6
processor seconds of row A with a warm cache (`benchmarks/results/speed.md`). `STACKS_AT_HAND` switches it.
"""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Sequence
from typing import TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from manyfit.training.population.arrays import Arrays, ArrayTree, Function, Lifted, Order, State
from manyfit.training.population.compile import Compiled
from manyfit.training.population.data import ResidentRows, Stream
from manyfit.training.population.layout import Layout, num_workers
from manyfit.training.population.lift import Lift, Members, Steps
from manyfit.training.population.sharding import spread
from manyfit.training.population.trace import Trace

STACKS_AT_HAND = True
CHUNK = 8
"""Steps that a program of layout "chunk" holds."""

Carry: TypeAlias = tuple[ArrayTree, ArrayTree, ArrayTree]
"""Bundles of states, of metrics, and of the last logs of steps that log on their own."""

Logs: TypeAlias = dict[str, jax.Array]
"""Name -> a number per member."""


@dataclasses.dataclass(frozen=True)
class PassProgress:
    """A pass after some of its batches: what it carries on, and its logs so far where the loop answers them."""

    carry: Carry
    logs: Logs | None = None


class Pass:
    """What passes over rows and over streams have in common.

    Args:
        kind: "train" or "test".
        lift: what the members' steps are, and in which numbers they differ.
        layout: how to run them.
        count: number of members; a multiple of the devices that they are divided between.
        shapes: of the first batch.
    """

    def __init__(
        self, kind: str, lift: Lift, *, layout: Layout, count: int, shapes: Sequence[jax.ShapeDtypeStruct]
    ) -> None:
        self.kind, self.layout = kind, layout
        self.spread = spread()
        self.count = max(1, count // self.spread.num_devices)  # of one device: what the program sees
        self._take(lift)
        self._shapes = shapes
        self._members = Members(layout.members, self.count)
        on_cpu = self.spread.num_devices == 1 and jax.default_backend() == "cpu"
        self._stacks_at_hand = STACKS_AT_HAND and self._members.stacked and on_cpu
        # Whether states lie between passes as they are carried from step to step, so that nothing has to be compiled
        # to begin with.
        self._carries_states = on_cpu and (self._stacks_at_hand or not self._members.stacked)
        self._donates: tuple[int, ...] = () if layout.steps == "scan" else (0,)  # a call's carry to the next one
        self._one_thread = False
        self._compiled: dict[str, Compiled] = {}
        self._lock = threading.Lock()

    def _take(self, lift: Lift) -> None:
        self.lift = lift.only(self.kind)
        self.steps = Steps(self.lift)
        self._function = self.steps.train if self.kind == "train" else self.steps.test

    @property
    def compile_seconds(self) -> float:
        """Time spent in compiling this pass so far."""
        return sum(compiled.seconds for compiled in list(self._compiled.values()))

    @property
    def num_bytes(self) -> int:
        """Memory that the largest of its functions takes while it runs."""
        return max((compiled.num_bytes for compiled in list(self._compiled.values())), default=0)

    def lifted(self, traces: Sequence[Trace]) -> Lifted:
        """The members' lifted numbers, with a first axis for members."""
        # Stacked by NumPy: a few numbers are not worth a call of the device.
        packed = jax.tree.map(lambda *values: np.stack(values), *(self.lift.values(trace) for trace in traces))
        return self.spread.split(packed)

    def _ready(
        self, name: str, function: Function, arguments: Sequence[ArrayTree], *, donate: tuple[int, ...] = ()
    ) -> Compiled:
        # Asked without the lock first: a stream comes here for every batch, from several threads.
        if name not in self._compiled:
            with self._lock:
                if name not in self._compiled:
                    # What runs once per pass is not worth the time of the optimising compiler.
                    quick = name in ("begin", "end")
                    self._compiled[name] = self.spread.compile(
                        function, arguments, quick=quick, one_thread=self._one_thread, donate=donate
                    )
        return self._compiled[name]

    def _call(
        self, name: str, function: Function, arguments: Sequence[ArrayTree], *, donate: tuple[int, ...] = ()
    ) -> ArrayTree:
        return self._ready(name, function, arguments, donate=donate).call(*arguments)

    def _beginning(self, states: Sequence[State], lifted: Lifted) -> tuple[ArrayTree, ...]:
        """What a pass begins with: its first carry, or the arguments of the function that makes one."""
        opened = self.opened(states)
        return (opened, *self._start(states[0], lifted)) if self._carries_states else (opened, lifted)

    def _begun(self, beginning: tuple[ArrayTree, ...]) -> Carry:
        """The carry before the first step; the states are left as they are."""
        if not self._carries_states:
            return self._call("begin", self._begin, beginning)
        # What the first call gives away must not be the members' own.
        return jax.device_put(beginning, may_alias=False) if self._donates else beginning

    def _begin(self, states: ArrayTree, lifted: Lifted) -> Carry:
        """The carry before the first step, where the program has to stack what comes one by one."""
        members = self._members
        bundle = states if self._stacks_at_hand else members.bundle(states)
        metrics, logs = self._start_of_one(members.split(bundle)[0], lifted)
        return bundle, members.repeat(metrics), members.repeat(logs)

    def _start(self, state: State, lifted: Lifted) -> tuple[ArrayTree, ArrayTree]:
        """Bundles of the metrics and the logs at the start of a pass, made by NumPy; `state` is of any member."""
        metrics, logs = self._start_of_one(state, lifted)
        if not self._members.stacked:
            return [metrics] * self.count, [logs] * self.count
        repeated = jax.tree.map(lambda leaf: np.stack([leaf] * self.count), (metrics, logs))
        return repeated[0], repeated[1]

    def _start_of_one(self, state: State, lifted: Lifted) -> tuple[ArrayTree, ArrayTree]:
        """A member's metrics at their start, and what stands in for the last logs of steps that log on their own.

        A loop needs all that it carries at its start. Logs come with the first step only, so their shapes are asked for
        without running it, and zeros stand in for them.
        """
        metrics = self.steps.trace.start_metrics
        if self.kind not in self.steps.trace.step_log_names:
            return metrics, ()
        shapes = jax.eval_shape(
            lambda lifted, state, metrics, batch: self._function(0, lifted, state, metrics, batch)[2],
            jax.tree.map(lambda leaf: leaf[0], lifted),
            state,
            metrics,
            self._shapes,
        )
        return metrics, tuple(np.zeros(shape.shape, shape.dtype) for shape in shapes)

    def _step(
        self,
        number: int,
        members: Members,
        carry: Carry,
        lifted: ArrayTree,
        batch: ArrayTree,
        *,
        own_batch: bool = False,
    ) -> Carry:
        """One step of all members; `lifted` is a bundle, and so is `batch` where each member has its own."""

        def one(state: State, metrics: Arrays, logs: Arrays, lifted: Lifted, own: Arrays, shared: Arrays) -> Carry:
            # A carry keeps its types from step to step: a scan refuses others, and a call would be another program.
            out = self._function(number, lifted, state, metrics, own if own_batch else shared)
            return jax.tree.map(
                lambda new, old: jax.lax.convert_element_type(new, old.dtype), out, (state, metrics, logs)
            )

        own = batch if own_batch else members.repeat(())
        outs = members.map(one, *carry, lifted, own, shared=None if own_batch else batch)
        if members.stacked:
            return outs
        states, metrics, logs = (list(part) for part in zip(*outs, strict=True))
        return states, metrics, logs

    def _end(self, members: Members, carry: Carry, lifted: Lifted) -> tuple[ArrayTree, Logs]:
        """States, one per member or stacked, and logs with a first axis for members."""
        states = carry[0] if self._stacks_at_hand else members.split(carry[0])
        return states, self._logs(members, carry, lifted)

    def _logs(self, members: Members, carry: Carry, lifted: Lifted) -> Logs:
        """The logs after a step, with a first axis for members."""
        _, metrics, step_logs = carry

        def logs(lifted: Lifted, metrics: Arrays, step_logs: Arrays, _: object) -> Logs:
            return self.steps.logs(self.kind, lifted, metrics, step_logs)

        return members.stack(members.map(logs, self._bundle_of(lifted, members), metrics, step_logs))

    def opened(self, states: Sequence[State]) -> ArrayTree:
        """What a pass is given of the members' states: a test has nothing to do with the optimizer's."""
        if self.kind == "test":
            states = [(trainable, fixed, ()) for trainable, fixed, _ in states]
        if self._stacks_at_hand:
            return jax.tree.map(lambda *leaves: np.stack([np.asarray(leaf) for leaf in leaves]), *states)
        # Elsewhere the program stacks them itself: the arrays of members lie on the device, each for itself.
        return self.spread.gather(states)

    def _closed(self, found: tuple[ArrayTree, ArrayTree], before: Sequence[State]) -> tuple[list[State], Logs]:
        """States of all members, and logs, from what the last function of a pass answers."""
        logs = self.spread.joined(found[1])
        states = self._cut_apart(found[0]) if self._stacks_at_hand else self.spread.scatter(found[0])
        if self.kind == "test":
            # The optimizer did not go in, so it did not come out.
            states = [(new[0], new[1], old[2]) for new, old in zip(states, before, strict=True)]
        return states, logs

    def _cut_apart(self, stacked: ArrayTree) -> list[State]:
        """Each member's share of stacked states, in arrays of its own: one that lives on does not keep the others'."""
        at_hand = jax.tree.map(np.asarray, stacked)
        shares = [jax.tree.map(lambda leaf, at=member: leaf[at], at_hand) for member in range(self.count)]
        return jax.device_put(shares, may_alias=False)

    def _bundle_of(self, lifted: Lifted, members: Members) -> ArrayTree:
        """A bundle of the members' lifted numbers."""
        if members.stacked:
            return lifted
        return [jax.tree.map(lambda leaf, at=member: leaf[at], lifted) for member in range(self.count)]


class RowsPass(Pass):
    """A pass over resident rows.

    Full batches are turns of one loop whose number is an input, over an order that has room for all batches of
    the arrays: so the whole data, a fold and a subset of them are one program. The loop may be run in parts
    (`advance`), the next of them in another layout.

    Args:
        kind: see `Pass`.
        lift: see `Pass`.
        layout: see `Pass`.
        count: see `Pass`.
        rows: the data.
        own_order: whether each member reads the rows in its own order.
    """

    def __init__(
        self, kind: str, lift: Lift, *, layout: Layout, count: int, rows: ResidentRows, own_order: bool = False
    ) -> None:
        super().__init__(kind, lift, layout=layout, count=count, shapes=rows.shapes[0])
        self.rows, self.own_order = rows, own_order
        self.prepared = False
        self._one_thread = self._members.stacked and num_workers() > 1  # the others have programs of their own
        # The short batch comes once per pass, so it is compiled the cheap way: one step for all, not one for each.
        self._tail_members = Members("vmap", self.count)

    @property
    def _loops(self) -> bool:
        return self.layout.steps == "scan"

    @property
    def _ends_in_loop(self) -> bool:
        """Whether the loop answers what the pass does: there is no short batch to come, and nothing to split."""
        return self._loops and self._carries_states and bool(self.rows.num_full) and not self.rows.tail_size

    def prepare(self, states: Sequence[State], lifted: Lifted, order: Order) -> None:
        """Compiles everything that `run` calls with such arguments."""
        if self.prepared:
            return
        full, tail = self._placed(order)
        carry = self._first_carry(states, lifted)
        for name, function, first, last in self._calls(0, self.rows.num_full):
            arguments = (carry, lifted, self.rows.leaves, *self._cut(full, first, last))
            outputs = self._ready(name, function, arguments, donate=self._donates).outputs
            carry = outputs[0] if self._loops else outputs
        if not self._ends_in_loop:
            self._ready("end", self._finish, (carry, lifted, self.rows.leaves, tail))
        self.prepared = True

    def _first_carry(self, states: Sequence[State], lifted: Lifted) -> Carry:
        """What `begin` answers, or its shapes: everything is compiled before anything runs."""
        beginning = self._beginning(states, lifted)
        return beginning if self._carries_states else self._ready("begin", self._begin, beginning).outputs

    def loop_arguments(self, states: Sequence[State], lifted: Lifted, order: Order) -> tuple[ArrayTree, ...]:
        """What `loop` takes for all full batches; arrays or their shapes."""
        full, _ = self._placed(order)
        cut = self._cut(full, 0, self.rows.num_full)
        return (self._first_carry(states, lifted), lifted, self.rows.leaves, *cut)

    def run(self, states: Sequence[State], lifted: Lifted, order: Order) -> tuple[list[State], Logs]:
        """Runs the pass.

        Args:
            states: one per member; left as they are.
            lifted: `Pass.lifted` of the members.
            order: row numbers.

        Returns:
            New states, and the logs with a first axis for members; not waited for.
        """
        progress = self.advance(self.begin(states, lifted), lifted, order, first=0, last=self.rows.num_full)
        return self.end(progress, lifted, order, before=states)

    def begin(self, states: Sequence[State], lifted: Lifted) -> PassProgress:
        """A pass before its first batch; states are left as they are."""
        return PassProgress(self._begun(self._beginning(states, lifted)))

    def advance(self, progress: PassProgress, lifted: Lifted, order: Order, *, first: int, last: int) -> PassProgress:
        """A pass after some more of its full batches; in layouts that give memory away, `progress` is used up.

        Args:
            progress: of this pass, or of one for the same members and rows in another layout.
            lifted: `Pass.lifted` of the members.
            order: row numbers of the whole pass.
            first: the full batch to begin with.
            last: the one after the last.
        """
        full, _ = self._placed(order)
        for name, function, start, stop in self._calls(first, last):
            arguments = (progress.carry, lifted, self.rows.leaves, *self._cut(full, start, stop))
            found = self._call(name, function, arguments, donate=self._donates)
            progress = PassProgress(*found) if self._loops else PassProgress(found)
        return progress

    def end(
        self, progress: PassProgress, lifted: Lifted, order: Order, *, before: Sequence[State]
    ) -> tuple[list[State], Logs]:
        """What `run` answers, after all full batches; `before`: the states at the start."""
        if self._ends_in_loop and progress.logs is not None:
            return self._closed((progress.carry[0], progress.logs), before)
        _, tail = self._placed(order)
        return self._closed(self._call("end", self._finish, (progress.carry, lifted, self.rows.leaves, tail)), before)

    def _placed(self, order: Order) -> Order:
        """An order as the functions take it: with room for every batch of the arrays, on the devices."""
        full, tail = order
        if self._loops:
            room = -(-self.rows.leaves[0].shape[0] // self.rows.batch_size)
            missing = max(0, room - full.shape[-2])
            full = np.pad(full, [(0, 0)] * (full.ndim - 2) + [(0, missing), (0, 0)])
        return self.spread.split((full, tail)) if self.own_order else (full, tail)

    def _calls(self, first: int, last: int) -> list[tuple[str, Function, int, int]]:
        """The calls for some full batches: name, function, first batch and the one after the last."""
        if self._loops:
            return [("loop", self.loop, first, last)] if last > first else []
        # What is left after whole chunks goes step by step: a chunk of another length would be a further program.
        length = CHUNK if self.layout.steps == "chunk" else 1
        whole = first + (last - first) // length * length
        calls = [("chunk", self._several_steps, start, start + length) for start in range(first, whole, length)]
        return calls + [("step", self._several_steps, at, at + 1) for at in range(whole, last)]

    def _cut(self, full: np.ndarray, first: int, last: int) -> tuple[np.ndarray | np.int32, ...]:
        if self._loops:
            return full, np.int32(first), np.int32(last)
        return (full[:, first:last] if self.own_order else full[first:last],)

    def loop(
        self, carry: Carry, lifted: Lifted, leaves: Arrays, full: jax.Array, first: jax.Array, last: jax.Array
    ) -> tuple[Carry, Logs]:
        """Full batches of a pass as one function of arrays, ready to be compiled; and the logs after them."""
        bundle = self._bundle_of(lifted, self._members)

        def step(number: jax.Array, carry: Carry) -> Carry:
            rows = jax.lax.dynamic_index_in_dim(full, number, 1 if self.own_order else 0, keepdims=False)
            return self._one_step(carry, bundle, leaves, rows)

        carry = jax.lax.fori_loop(first, last, step, jax.tree.map(jnp.asarray, carry))
        return carry, self._logs(self._members, carry, lifted)

    def _several_steps(self, carry: Carry, lifted: Lifted, leaves: Arrays, full: jax.Array) -> Carry:
        bundle = self._bundle_of(lifted, self._members)
        for at in range(full.shape[1 if self.own_order else 0]):
            carry = self._one_step(carry, bundle, leaves, full[:, at] if self.own_order else full[at])
        return carry

    def _one_step(self, carry: Carry, bundle: ArrayTree, leaves: Arrays, rows: jax.Array) -> Carry:
        batch = self._batch(leaves, rows, self._members)
        return self._step(0, self._members, carry, bundle, batch, own_batch=self.own_order)

    def _finish(self, carry: Carry, lifted: Lifted, leaves: Arrays, tail: jax.Array) -> tuple[ArrayTree, Logs]:
        members = self._members
        if self.rows.tail_size:
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


class StreamPass(Pass):
    """A pass over batches that come one by one; every member takes each of them.

    Args:
        kind: see `Pass`.
        lift: see `Pass`.
        layout: see `Pass`.
        count: see `Pass`.
        stream: the data.
    """

    def __init__(self, kind: str, lift: Lift, *, layout: Layout, count: int, stream: Stream) -> None:
        super().__init__(kind, lift, layout=layout, count=count, shapes=stream.shapes[0])

    def extend(self, lift: Lift) -> None:
        """Takes over a lift that knows of further shapes."""
        self._take(lift)

    def begin(self, states: Sequence[State], lifted: Lifted) -> Carry:
        """The carry before the first batch; states are left as they are."""
        return self._begun(self._beginning(states, self._numbers_of(lifted, 0)))

    def feed(self, carry: Carry, lifted: Lifted, number: int, batch: Arrays) -> Carry:
        """The carry after a batch, whose shape has this number; the old one is used up."""

        def step(carry: Carry, lifted: Lifted, batch: Arrays) -> Carry:
            return self._step(number, self._members, carry, self._bundle_of(lifted, self._members), batch)

        arguments = (carry, self._numbers_of(lifted, number), batch)
        return self._call(f"step {number}", step, arguments, donate=self._donates)

    def end(self, carry: Carry, lifted: Lifted, before: Sequence[State]) -> tuple[list[State], Logs]:
        """New states, and the logs with a first axis for members; not waited for. `before`: the states at the start."""
        # Only what the metrics' results need: the shapes of a stream may become more, and each would be another
        # program.
        numbers = {name: packed for name, packed in lifted.items() if name == "results"}
        end = lambda carry, lifted: self._end(self._members, carry, lifted)  # noqa: E731
        return self._closed(self._call("end", end, (carry, numbers)), before)

    def _numbers_of(self, lifted: Lifted, number: int) -> Lifted:
        """What one step needs of the lifted numbers: shapes that come later do not make it another program."""
        return {name: packed for name, packed in lifted.items() if name == f"{self.kind} {number}"}
