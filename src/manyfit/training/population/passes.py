"""One epoch of several members as compiled functions: a training pass and a test pass, over resident rows or a stream.

A pass carries, from step to step, a bundle each of the members' states, their metrics, and the last logs of steps
that log on their own. It is begun, stepped and ended. Here is what all passes have in common, and the pass over a
stream, which calls a function per batch, since nobody knows how many will come; `rows_pass` has the other one.

Every member's results must be those that it would have had alone. So what members share is read only (rows, the numbers
written into the program), states never mix, and the state that goes in is left as it is: only the carry between two
calls gives its memory away (`donate`).

On a CPU members' arrays are stacked and cut by NumPy instead of by a kernel per variable and member: this saved 1.6
processor seconds of row A with a warm cache (`benchmarks/results/speed.md`). `STACKS_AT_HAND` switches it.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import TypeAlias

import jax
import numpy as np

from manyfit.training.population.arrays import Arrays, ArrayTree, Function, Lifted, State
from manyfit.training.population.compile import Compiled, Effort, Tier, Tiers, exchanges
from manyfit.training.population.data import Stream
from manyfit.training.population.layout import Layout
from manyfit.training.population.lift import Lift, Members, Steps
from manyfit.training.population.sharding import spread
from manyfit.training.population.trace import Trace

STACKS_AT_HAND = True

Carry: TypeAlias = tuple[ArrayTree, ArrayTree, ArrayTree]
"""Bundles of states, of metrics, and of the last logs of steps that log on their own."""

Logs: TypeAlias = dict[str, jax.Array]
"""Name -> a number per member."""


class Pass:
    """What passes over rows and over streams have in common.

    Args:
        kind: "train" or "test".
        lift: what the members' steps are, and in which numbers they differ.
        layout: how to run them.
        count: number of members; a multiple of the devices that they are divided between.
        shapes: of the first batch.
        tier: that its steps are compiled in at first.
    """

    def __init__(
        self,
        kind: str,
        lift: Lift,
        *,
        layout: Layout,
        count: int,
        shapes: Sequence[jax.ShapeDtypeStruct],
        tier: Tier = "quick",
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
        self._compiled: dict[tuple[str, Effort], Compiled] = {}
        self._lock = threading.Lock()
        self._is_exchanging = False
        self.tiers = Tiers(tier)

    def _take(self, lift: Lift) -> None:
        self._lifted: tuple[tuple[Trace, ...], Lifted] = (), {}  # the latest members' traces, and their numbers
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
        known, lifted = self._lifted
        # The same members train on, epoch after epoch; those of a wide program have one trace.
        if len(known) != len(traces) or any(one is not other for one, other in zip(known, traces, strict=True)):
            # Stacked by NumPy: a few numbers are not worth a call of the device.
            packed = jax.tree.map(lambda *values: np.stack(values), *(self.lift.values(trace) for trace in traces))
            lifted = self.spread.split(packed)
            self._lifted = tuple(traces), lifted
        return lifted

    def _ready(self, name: str, function: Function, arguments: Sequence[ArrayTree], tier: Tier) -> Compiled:
        once = name in ("begin", "end")
        key: tuple[str, Effort] = (name, "once" if once else tier)
        # Asked without the lock first: a stream comes here for every batch, from several threads.
        if key not in self._compiled:
            with self._lock:
                if key not in self._compiled:
                    donate = () if once else self._donates
                    compiled = self.spread.compile(
                        function, arguments, effort=key[1], one_thread=self._one_thread, donate=donate
                    )
                    self._compiled[key] = compiled if key[1] == "quick" else compiled.for_good()
        return self._compiled[key]

    def _call(self, name: str, function: Function, arguments: Sequence[ArrayTree], tier: Tier) -> ArrayTree:
        return self._ready(name, function, arguments, tier).call(*arguments)

    def begins_exchange(self, work_left_seconds: float) -> bool:
        """Whether its steps are to be compiled in full now, which is for the caller to do then: `exchange`.

        Args:
            work_left_seconds: of training as it is compiled now.
        """
        quick = [compiled.seconds for (_, effort), compiled in list(self._compiled.items()) if effort == "quick"]
        if self._is_exchanging or self.tiers.tier == "full" or not self.tiers.seconds or not quick:
            return False
        self._is_exchanging = exchanges.pays(work_left_seconds, compile_seconds=sum(quick))
        return self._is_exchanging

    def forgo_exchange(self) -> None:
        """Does not exchange after all; `begins_exchange` is asked again then."""
        self._is_exchanging = False

    def exchange(self) -> None:
        """Compiles the steps in full; the runs that begin afterwards use them."""
        for (name, effort), compiled in list(self._compiled.items()):
            if effort == "quick" and compiled.again is not None:
                found = compiled.again("full")
                exchanges.record_cost(quick=compiled.seconds, full=found.seconds)
                self._compiled.setdefault((name, "full"), found.for_good())
                self._compiled[name, effort] = compiled.for_good()
        self.tiers.tier = "full"

    def _beginning(self, states: Sequence[State], lifted: Lifted) -> tuple[ArrayTree, ...]:
        """What a pass begins with: its first carry, or the arguments of the function that makes one."""
        opened = self.opened(states)
        return (opened, *self._start(states[0], lifted)) if self._carries_states else (opened, lifted)

    def _begun(self, beginning: tuple[ArrayTree, ...], tier: Tier) -> Carry:
        """The carry before the first step; the states are left as they are."""
        if not self._carries_states:
            return self._call("begin", self._begin, beginning, tier)
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
        real: ArrayTree = None,
    ) -> Carry:
        """One step of all members.

        `lifted` is a bundle, and where each member has its own batch, so are `batch` and how many of its rows are
        `real` (None: all of them, by the program).
        """

        def one(
            state: State, metrics: Arrays, logs: Arrays, lifted: Lifted, own: ArrayTree, shared: ArrayTree
        ) -> Carry:
            # A carry keeps its types from step to step: a scan refuses others, and a call would be another program.
            out = self._function(number, lifted, state, metrics, *(own if own_batch else shared))
            return jax.tree.map(
                lambda new, old: jax.lax.convert_element_type(new, old.dtype), out, (state, metrics, logs)
            )

        own, shared = members.repeat(()), (batch, real)
        if own_batch:
            own = shared if members.stacked else list(zip(batch, real or [None] * members.count, strict=True))
        outs = members.map(one, *carry, lifted, own, shared=None if own_batch else shared)
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
        taken = self.steps.trace.without_idle
        states = [(each[0], taken(each[1]), () if self.kind == "test" else each[2]) for each in states]
        if self._stacks_at_hand:
            return jax.tree.map(lambda *leaves: np.stack([np.asarray(leaf) for leaf in leaves]), *states)
        # Elsewhere the program stacks them itself: the arrays of members lie on the device, each for itself.
        return self.spread.gather(states)

    def _closed(self, found: tuple[ArrayTree, ArrayTree], before: Sequence[State]) -> tuple[list[State], Logs]:
        """States of all members, and logs, from what the last function of a pass answers."""
        logs = self.spread.joined(found[1])
        states = self._cut_apart(found[0]) if self._stacks_at_hand else self.spread.scatter(found[0])
        # What did not go in did not come out.
        both, given_back = zip(states, before, strict=True), self.steps.trace.with_idle
        states = [(new[0], given_back(new[1], old[1]), old[2] if self.kind == "test" else new[2]) for new, old in both]
        return states, logs

    def _cut_apart(self, stacked: ArrayTree) -> list[State]:
        """Each member's share of stacked states, in arrays of its own: one that lives on does not keep the others'."""
        # NumPy's, since the next pass stacks them again: to put each on the device took longer than to train (row G3).
        leaves, structure = jax.tree.flatten(jax.tree.map(np.asarray, stacked))
        shares = [[np.array(leaf[member]) for leaf in leaves] for member in range(self.count)]
        return [jax.tree.unflatten(structure, share) for share in shares]

    def _bundle_of(self, lifted: Lifted, members: Members) -> ArrayTree:
        """A bundle of the members' lifted numbers."""
        if members.stacked:
            return lifted
        return [jax.tree.map(lambda leaf, at=member: leaf[at], lifted) for member in range(self.count)]


class StreamPass(Pass):
    """A pass over batches that come one by one; every member takes each of them.

    Args:
        kind: see `Pass`.
        lift: see `Pass`.
        layout: see `Pass`.
        count: see `Pass`.
        stream: the data.
        tier: see `Pass`; nothing is exchanged in the middle of a stream.
    """

    def __init__(
        self, kind: str, lift: Lift, *, layout: Layout, count: int, stream: Stream, tier: Tier = "full"
    ) -> None:
        super().__init__(kind, lift, layout=layout, count=count, shapes=stream.shapes[0], tier=tier)

    def extend(self, lift: Lift) -> None:
        """Takes over a lift that knows of further shapes."""
        self._take(lift)

    def begin(self, states: Sequence[State], lifted: Lifted) -> Carry:
        """The carry before the first batch; states are left as they are."""
        return self._begun(self._beginning(states, self._numbers_of(lifted, 0)), self.tiers.tier)

    def feed(self, carry: Carry, lifted: Lifted, number: int, batch: Arrays) -> Carry:
        """The carry after a batch, whose shape has this number; the old one is used up."""

        def step(carry: Carry, lifted: Lifted, batch: Arrays) -> Carry:
            return self._step(number, self._members, carry, self._bundle_of(lifted, self._members), batch)

        arguments = (carry, self._numbers_of(lifted, number), batch)
        return self._call(f"step {number}", step, arguments, self.tiers.tier)

    def end(self, carry: Carry, lifted: Lifted, before: Sequence[State]) -> tuple[list[State], Logs]:
        """New states, and the logs with a first axis for members; not waited for. `before`: the states at the start."""
        # Only what the metrics' results need: the shapes of a stream may become more, and each would be another
        # program.
        numbers = {name: packed for name, packed in lifted.items() if name == "results"}
        end = lambda carry, lifted: self._end(self._members, carry, lifted)  # noqa: E731
        return self._closed(self._call("end", end, (carry, numbers), self.tiers.tier), before)

    def _numbers_of(self, lifted: Lifted, number: int) -> Lifted:
        """What one step needs of the lifted numbers: shapes that come later do not make it another program."""
        return {name: packed for name, packed in lifted.items() if name == f"{self.kind} {number}"}
