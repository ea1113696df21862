"""Epochs over data that come batch by batch: one pass over them feeds every member."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor, Future, wait

import jax
import numpy as np

from manyfit.core.clock import Clock
from manyfit.training.base import OutOfTime
from manyfit.training.population.arrays import ArrayTree, Lifted, Order
from manyfit.training.population.data import FitArguments, ResidentRows, Stream
from manyfit.training.population.grouping import Batch, Outcome
from manyfit.training.population.passes import StreamPass
from manyfit.training.population.trace import CannotTrace

_SPENT = (
    "the data came to an end: there was no batch for this epoch. A generator can be read once; pass a PyDataset or a "
    "tf.data.Dataset, which begin anew, or a generator that goes on for ever, with steps_per_epoch"
)


class Streaming:
    """Trains epochs of which the training data, the validation data or both are streams.

    Args:
        data: what is trained on.
        pool: threads for the programs; data are read on the calling thread, which runs the user's code.
        order: row numbers of a pass over rows, and whether each member has its own; where only one of training and
            validation is a stream.
        clock: when it is over, an epoch is left in its middle.
    """

    def __init__(
        self, data: FitArguments, pool: Executor, order: Callable[[str, Batch], tuple[Order, bool]], clock: Clock
    ) -> None:
        self.data, self.pool, self.order, self.clock = data, pool, order, clock

    def epoch(self, batches: Sequence[Batch]) -> list[Outcome]:
        """Trains and validates an epoch of each batch of members.

        Raises:
            OutOfTime: the clock is over.
        """
        runs = [_Run(batch) for batch in batches]
        # In threads, since each may compile.
        self._each(runs, lambda run: run.batch.program.ensure_probed(run.batch.layout))
        self._pass_over("train", runs, self.data.training)
        validating = [run for run in runs if run.batch.validates]
        for run in _alive(validating):
            if run.batch.splits_tests:
                run.begin_tests()
        self._pass_over("test", validating, self.data.validation)
        return [run.outcome() for run in runs]

    def _pass_over(self, kind: str, runs: Sequence[_Run], source: ResidentRows | Stream | None) -> None:
        if isinstance(source, ResidentRows):
            self._each(runs, lambda run: run.over_rows(kind, self.order))
        elif source is not None and _alive(runs):
            self._each(runs, lambda run: run.begin(kind))
            try:
                self._feed(runs, source)
            # Members that have failed already keep their own reason.
            except Exception as error:  # the user's data failed: no member can have this epoch
                for run in _alive(runs):
                    run.error = error
            self._each(runs, lambda run: run.end(kind))

    def _feed(self, runs: Sequence[_Run], source: Stream) -> None:
        num_shapes, num_batches = len(source.shapes), 0
        training: list[Future[None]] = []
        try:
            for number, leaves in source.batches():
                self._wait(training)  # this batch was read while the one before was trained on
                num_batches += 1
                if self.clock.is_over():
                    raise OutOfTime
                if len(source.shapes) > num_shapes:
                    num_shapes = len(source.shapes)
                    self._extend(_alive(runs))
                more = [run for run in _alive(runs) if num_batches == 1 or not run.batch.one_step]
                if not more:
                    break
                training = [self.pool.submit(run.feed, number, leaves) for run in more]
        finally:
            self._wait(training)
        if not num_batches:
            raise ValueError(_SPENT)

    def _each(self, runs: Sequence[_Run], action: Callable[[_Run], None]) -> None:
        self._wait([self.pool.submit(run.guarded, action) for run in _alive(runs)])

    def _wait(self, futures: Sequence[Future[None]]) -> None:
        """Waits for all of them.

        Raises:
            OutOfTime: the clock is over before.
        """
        while True:
            left = self.clock.left()
            if not wait(futures, None if math.isinf(left) else left).not_done:
                return
            if self.clock.is_over():
                raise OutOfTime

    def _extend(self, runs: Sequence[_Run]) -> None:
        """Adds the step for a shape that came up in the middle of a pass."""
        # Once per program, before any of its batches goes on: all have to agree on what is lifted.
        for program in {id(run.batch.program): run.batch.program for run in runs}.values():
            own = [run for run in runs if run.batch.program is program]
            members = [member for run in own for member in run.batch.members]
            try:
                for member in members:
                    member.complete_trace()
                program.extend([member.trace for member in members])
            except (CannotTrace, ValueError) as error:
                for run in own:
                    run.error = CannotTrace(str(error))
            for run in _alive(own):
                run.refresh()


def _alive(runs: Sequence[_Run]) -> list[_Run]:
    return [run for run in runs if run.error is None]


class _Run:
    """One batch of members on its way through an epoch."""

    def __init__(self, batch: Batch) -> None:
        self.batch = batch
        self.states = batch.states()
        self.logs: dict[str, dict[str, np.ndarray]] = {}
        self.seconds = 0.0
        self.error: Exception | None = None
        self.is_half = False
        self._pass: StreamPass | None = None
        self._carry: ArrayTree = None
        self._lifted: Lifted = {}

    def guarded(self, action: Callable[[_Run], None]) -> None:
        """Does something, and keeps the error if it fails."""
        try:
            action(self)
        except Exception as error:
            self.error = error

    def over_rows(self, kind: str, order: Callable[[str, Batch], tuple[Order, bool]]) -> None:
        """A whole pass over resident rows."""
        numbers, own = order(kind, self.batch)
        rows_pass = self.batch.program.rows_pass(kind, self.batch.layout, self.batch.count, own_order=own)
        lifted = rows_pass.lifted([member.trace for member in self.batch.slots])
        tier = rows_pass.tiers.tier
        rows_pass.prepare(self.states, lifted, numbers, tier)
        started = time.perf_counter()
        self.states, found = rows_pass.run(self.states, lifted, numbers, tier)
        self._close(kind, found, started)

    def begin_tests(self) -> None:
        """After training: the members take over its states, which callbacks may change before the validation."""
        self.batch.take_over(self.states)
        self.is_half = True
        self.batch.begin_tests()
        self.states = self.batch.states()

    def begin(self, kind: str) -> None:
        """Before the first batch of a pass."""
        self._pass = self.batch.program.stream_pass(kind, self.batch.layout, self.batch.count)
        self.refresh()
        self._carry = self._pass.begin(self.states, self._lifted)

    def refresh(self) -> None:
        """Takes over what the program has learned of further shapes."""
        assert self._pass is not None
        self._pass.extend(self.batch.program.lift)
        self._lifted = self._pass.lifted([member.trace for member in self.batch.slots])

    def feed(self, number: int, leaves: tuple[jax.Array, ...]) -> None:
        """Trains on, or tests, a batch of data."""

        def step(_: _Run) -> None:
            assert self._pass is not None
            compiled = self._pass.compile_seconds
            started = time.perf_counter()
            self._carry = jax.block_until_ready(self._pass.feed(self._carry, self._lifted, number, leaves))
            elapsed = time.perf_counter() - started
            # What another batch of members compiles meanwhile may have begun before this one: never less than nothing.
            self.seconds += max(0.0, elapsed - (self._pass.compile_seconds - compiled))

        self.guarded(step)

    def end(self, kind: str) -> None:
        """After the last batch of a pass."""
        assert self._pass is not None
        started = time.perf_counter()
        self.states, found = self._pass.end(self._carry, self._lifted, self.states)
        self._carry = None
        self._close(kind, found, started)

    def _close(self, kind: str, found: Mapping[str, jax.Array], started: float) -> None:
        self.logs[kind] = {name: np.asarray(value) for name, value in found.items()}
        self.seconds += time.perf_counter() - started

    def outcome(self) -> Outcome:
        """What the epoch brought; members get their new states where all went well."""
        if self.error is not None:
            return Outcome(self.batch, self.logs["train"] if self.is_half else {}, None, self.seconds, 1, self.error)
        self.batch.take_over(self.states)
        return Outcome(self.batch, self.logs["train"], self.logs.get("test"), self.seconds, 1)
