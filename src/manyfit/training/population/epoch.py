"""One epoch of several members as compiled functions: a training pass and a test pass over resident rows."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from manyfit.training.population.data import Rows
from manyfit.training.population.program import Compiled, Layout, Members, State, Steps, compile_function

Order = tuple[np.ndarray, np.ndarray]
"""Row numbers of a pass: full batches (steps, rows) and the short last one (rows,); a first axis for members if own."""


class Pass:
    """A training or test pass over rows, compiled for a number of members and a layout.

    Args:
        kind: "train" or "test".
        steps: the family's steps.
        layout: how to run them.
        count: number of members.
        rows: the data.
        own_order: whether each member reads the rows in its own order.
    """

    def __init__(
        self, kind: str, steps: Steps, *, layout: Layout, count: int, rows: Rows, own_order: bool = False
    ) -> None:
        self.kind, self.steps, self.layout, self.count, self.rows = kind, steps, layout, count, rows
        self.own_order = own_order
        self._function = steps.train if kind == "train" else steps.test
        self._members = Members(layout.members, count)
        # Once per pass, so compiled the cheap way: one step for all members, not one step for each.
        self._tail_members = Members("vmap", count)
        self._compiled: dict[str, Compiled] = {}
        self._lock = threading.Lock()

    @property
    def compile_seconds(self) -> float:
        """Time spent in compiling this pass so far."""
        return sum(compiled.seconds for compiled in self._compiled.values())

    def run(self, states: Sequence[State], lifted: Any, order: Order) -> tuple[list[State], dict[str, Any]]:
        """Runs the pass.

        Args:
            states: one per member; left as they are.
            lifted: `Lift.values` of the members, stacked: a first axis for members.
            order: row numbers.

        Returns:
            New states, and the logs with a first axis for members; not waited for.
        """
        full, tail = order
        leaves = self.rows.leaves
        if self.layout.steps == "scan":
            carry = self._call("scan", self._scan, (list(states), lifted, leaves, full))
        else:
            carry = self._call("begin", self._begin, (list(states), lifted))
            for number in range(self.rows.num_full):
                rows = full[:, number] if self.own_order else full[number]
                carry = self._call("step", self._host_step, (carry, lifted, leaves, rows))
        return self._call("finish", self._finish, (carry, lifted, leaves, tail))

    def _call(self, name: str, function: Callable[..., Any], arguments: Sequence[Any]) -> Any:
        if name not in self._compiled:
            with self._lock:
                if name not in self._compiled:
                    # What runs once per pass is not worth the time of the optimising compiler.
                    quick = name not in ("scan", "step")
                    self._compiled[name] = compile_function(function, arguments, quick=quick)
        return self._compiled[name].call(*arguments)

    def _scan(self, states: Any, lifted: Any, leaves: Any, full: Any) -> Any:
        lifted_bundle = self._lifted(lifted, self._members)

        def step(carry: Any, rows: Any) -> tuple[Any, None]:
            return self._step(0, self._members, carry, lifted_bundle, self._batch(leaves, rows)), None

        carry = self._begin(states, lifted)
        if not self.rows.num_full:
            return carry
        return jax.lax.scan(step, carry, jnp.swapaxes(full, 0, 1) if self.own_order else full)[0]

    def _host_step(self, carry: Any, lifted: Any, leaves: Any, rows: Any) -> Any:
        return self._step(0, self._members, carry, self._lifted(lifted, self._members), self._batch(leaves, rows))

    def _begin(self, states: Any, lifted: Any) -> Any:
        """Carry of a pass: states, metrics at their start, and the last logs of steps that log on their own."""
        members = self._members
        bundle, metrics = members.bundle(states), members.repeat(self.steps.trace.start_metrics)
        if self.kind not in self.steps.trace.step_log_names:
            return bundle, metrics, members.repeat(())
        first = 0
        size = self.rows.batch_size if self.rows.num_full else self.rows.tail_size
        shapes = jax.eval_shape(
            lambda lifted, state, metrics, batch: self._function(first, lifted, state, metrics, batch)[2],
            jax.tree.map(lambda leaf: leaf[0], lifted),
            states[0],
            self.steps.trace.start_metrics,
            self.rows.batch_shapes(size),
        )
        return bundle, metrics, members.repeat(tuple(jnp.zeros(shape.shape, shape.dtype) for shape in shapes))

    def _step(self, number: int, members: Members, carry: Any, lifted: Any, batch: Any) -> Any:
        def one(state: Any, metrics: Any, logs: Any, lifted: Any, own: Any, shared: Any) -> Any:
            out = self._function(number, lifted, state, metrics, own if self.own_order else shared)
            return jax.tree.map(
                lambda new, old: jax.lax.convert_element_type(new, old.dtype), out, (state, metrics, logs)
            )

        own = batch if self.own_order else members.repeat(())
        outs = members.map(one, *carry, lifted, own, shared=None if self.own_order else batch)
        return outs if members.stacked else tuple(map(list, zip(*outs, strict=True)))

    def _finish(self, carry: Any, lifted: Any, leaves: Any, tail: Any) -> tuple[list[State], dict[str, Any]]:
        members = self._members
        if self.rows.tail_size:
            members = self._tail_members
            carry = tuple(members.bundle(self._members.split(part)) for part in carry)
            number = 1 if self.rows.num_full else 0
            batch = self._batch(leaves, tail, members)
            carry = self._step(number, members, carry, self._lifted(lifted, members), batch)
        states, metrics, step_logs = carry

        def logs(lifted: Any, metrics: Any, step_logs: Any, _: Any) -> dict[str, Any]:
            return self.steps.logs(self.kind, lifted, metrics, step_logs)

        found = members.map(logs, self._lifted(lifted, members), metrics, step_logs)
        return members.split(states), members.stack(found)

    def _lifted(self, lifted: Any, members: Members) -> Any:
        if members.stacked:
            return lifted
        return [jax.tree.map(lambda leaf, at=member: leaf[at], lifted) for member in range(self.count)]

    def _batch(self, leaves: Any, rows: Any, members: Members | None = None) -> Any:
        def read(numbers: Any) -> tuple[Any, ...]:
            return tuple(leaf.at[numbers].get(mode="promise_in_bounds") for leaf in leaves)

        if not self.own_order:
            return read(rows)
        each = [read(rows[member]) for member in range(self.count)]
        return (members or self._members).bundle(each)
