"""Epochs of several members: which run in one program, on which threads, over which data."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import heapq
import itertools
import math
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ALL_COMPLETED, FIRST_COMPLETED, Future, wait
from typing import Any

import numpy as np

from manyfit.core.clock import Clock
from manyfit.core.limits import NO_LIMITS, TrialLimits
from manyfit.core.threads import LeavableThreads
from manyfit.training.base import OutOfTime
from manyfit.training.population.arrays import Arrays, Lifted, Order, State
from manyfit.training.population.compile import Tier, compile_function
from manyfit.training.population.data import ResidentRows
from manyfit.training.population.grouping import Batch, Outcome
from manyfit.training.population.layout import Layout, num_workers
from manyfit.training.population.lift import Lift, Steps
from manyfit.training.population.member import Member
from manyfit.training.population.passes import Logs, Pass
from manyfit.training.population.program import SharedProgram
from manyfit.training.population.replaying import Ran
from manyfit.training.population.rows_pass import Parts, RowsPass
from manyfit.training.population.streaming import Streaming

_THREADS = 64  # most of them wait: for a program that another one compiles, or for their turn to train
_LOOK_SECONDS = 0.2  # between two looks at batches that may take too long
_TRAINS, _COMPILES, _COMPILES_AHEAD = range(3)  # who gets a core first


class Cores:
    """Cores of a CPU, or the one accelerator, taken in turn: who waits with the lowest rank first, then who came first.

    More programs than cores at the same time would slow each other down, and what was timed would tell nothing of a
    layout. And no compilation begins while training is ready: what it would bring later, training brings now.

    Args:
        count: how many may be taken at the same time.
    """

    def __init__(self, count: int) -> None:
        self._idle, self._lent = count, 0
        self._waiting: list[tuple[int, int]] = []
        self._tickets = itertools.count()
        self._changed = threading.Condition()

    @property
    def num_waiting(self) -> int:
        """Callers that wait for a core."""
        return len(self._waiting)

    @contextlib.contextmanager
    def taken(self, rank: int) -> Iterator[None]:
        """Inside, one of the cores is the caller's."""
        with self._changed:
            ticket = rank, next(self._tickets)
            heapq.heappush(self._waiting, ticket)
            self._changed.wait_for(lambda: self._idle > 0 and self._waiting[0] == ticket)
            heapq.heappop(self._waiting)
            self._idle -= 1
            self._changed.notify_all()
        try:
            yield
        finally:
            with self._changed:
                self._give_back()

    def lend(self) -> None:
        """Gives out another core in place of one that somebody is at who is waited for no more."""
        with self._changed:
            self._lent += 1
            self._idle += 1
            self._changed.notify_all()

    def _give_back(self) -> None:
        if self._lent:  # its own is with another already
            self._lent -= 1
            return
        self._idle += 1
        self._changed.notify_all()


class Rounds:
    """Trains epochs of batches, in the background where the data are resident.

    Args:
        order_of: names the order in which a member reads its rows: seed and epoch.
        exchanges: whether passes are compiled quickly at first. Their numbers differ in the last bits then, and when
            they are exchanged depends on timing.
        clock: when it is over, nobody waits any more.
        limits: of each member. One program is all its members' own, so where it does not come back none of them can;
            it may take as long as all that are under way may, one after the other.
    """

    def __init__(
        self,
        *,
        order_of: Callable[[Member], tuple[int, int]],
        exchanges: bool = True,
        clock: Clock | None = None,
        limits: TrialLimits = NO_LIMITS,
    ) -> None:
        self.order_of, self.exchanges = order_of, exchanges
        self._clock, self._limits = clock or Clock(), limits
        self._begun: dict[Batch, float] = {}  # since when a batch is under way
        self._late: set[Batch] = set()  # those that are waited for no more
        self._is_left = False
        self._leaving = threading.Lock()
        self._compiling: dict[Batch, float] = {}  # those that wait for a program, and since when
        self.workers = num_workers()
        self._cores = Cores(self.workers)
        self._exchanging = threading.Lock()  # beside those that train, so that no epoch waits for it; one at a time
        self._is_closing = False
        # Threads, not processes: XLA lets go of the interpreter while it compiles and computes, and the rows lie in
        # memory once. They may be left, since XLA cannot be interrupted.
        self._pool = LeavableThreads(_THREADS, name="population")
        self._running: dict[Future[Outcome], Batch] = {}
        self._streaming: list[Batch] = []  # trained in `collect`: the user's code reads the data
        # What is compiled for batches that are not complete yet, by program and version.
        self._ahead: dict[tuple[SharedProgram, int], Future[None]] = {}

    def close(self) -> None:
        """Waits for what runs, and lets the threads go; where time is limited, they are left to end by themselves."""
        self._is_closing = True
        is_left = self._is_left or self._clock.is_limited or bool(self._late)
        self._pool.shutdown(wait=not is_left, cancel_futures=True)

    def leave(self) -> tuple[list[Batch], dict[Batch, float]]:
        """Waits for nothing any more: what runs now ends without bringing anything.

        Returns:
            The batches that were under way; and those that a program was compiled for, for how many seconds.
        """
        with self._leaving:
            self._is_left = True
        left, compiling, now = self.batches, dict(self._compiling), self._clock.now()
        self._running.clear()
        self._streaming.clear()
        return left, {batch: now - since for batch, since in compiling.items()}

    @property
    def batches(self) -> list[Batch]:
        """Those that are under way."""
        return [*self._running.values(), *self._streaming]

    @property
    def has_outcome(self) -> bool:
        """Whether an epoch has ended that was not collected yet."""
        return any(future.done() for future in self._running)

    @property
    def is_idle(self) -> bool:
        """Whether a core has nothing to train, to compile or (one of them) to build."""
        return len(self.batches) + sum(not future.done() for future in self._ahead.values()) < self.workers - 1

    def compile_ahead(self, batch: Batch) -> None:
        """Begins to compile what batches like this one will need, over resident rows; once per version of a program."""
        key = batch.program, batch.program.num_versions
        if not batch.streams and key not in self._ahead:
            self._ahead[key] = self._pool.submit(self._compile, batch)

    def start(self, batches: Sequence[Batch]) -> None:
        """Begins an epoch of each batch."""
        for batch in batches:
            self._begun[batch] = self._clock.now()
            if batch.streams:
                self._streaming.append(batch)
                continue
            if self.exchanges and batch.replay is None:
                for due in batch.program.due_exchanges(batch.layout, batch.count, batch.epochs_left):
                    self._pool.submit(self.exchange, due)
            self._running[self._pool.submit(self._epoch, batch)] = batch
        self._begun = {batch: self._begun[batch] for batch in self.batches}  # no longer of those that have ended

    def collect(self, *, everything: bool) -> list[Outcome]:
        """Waits until some epochs have ended, or all of them, or the time is up."""
        outcomes = self._streamed()
        while self._running and (everything or not outcomes or self.has_outcome):
            seconds = min(self._clock.left(), self._until_late())
            mode = ALL_COMPLETED if everything else FIRST_COMPLETED
            done, _ = wait(self._running, None if math.isinf(seconds) else seconds, mode)
            if not done and self._clock.is_over():
                break
            outcomes += self._leave_late()
            # In the order in which they were begun: what is reported does not depend on which thread was faster.
            for future in [future for future in self._running if future in done]:
                batch, outcome = self._running.pop(future), future.result()
                if not outcome.awaits_test:
                    outcomes.append(outcome)
                    continue
                # Here, and not on the thread of the batch: the user's code runs on one thread, as in `fit`.
                batch.begin_tests()
                self._running[self._pool.submit(self._epoch, batch, outcome)] = batch
        return outcomes

    def _most_seconds(self) -> float:
        """That a batch may be under way: where members share a machine, each waits for the others."""
        if self._limits.max_seconds is None:
            return math.inf
        return self._limits.max_seconds * sum(len(batch.members) for batch in self.batches)

    def _until_late(self) -> float:
        if self._limits.max_seconds is None:
            return math.inf
        began = min((self._begun[batch] for batch in self._running.values()), default=math.inf)
        return min(_LOOK_SECONDS, max(0.0, began + self._most_seconds() - self._clock.now()))

    def _leave_late(self) -> list[Outcome]:
        """Batches that have been under way for too long, which are waited for no more."""
        most, now = self._most_seconds(), self._clock.now()
        late = [
            (future, batch)
            for future, batch in self._running.items()
            if now - self._begun[batch] >= most and not future.done()
        ]
        outcomes = []
        for future, batch in late:
            with self._leaving:
                self._late.add(batch)
            del self._running[future]
            self._cores.lend()
            where = "while its program compiled" if batch in self._compiling else "in one epoch"
            error = self._limits.too_slow(now - self._begun[batch], where)
            outcomes.append(Outcome(batch, {}, None, now - self._begun[batch], 1, error))
        return outcomes

    def _streamed(self) -> list[Outcome]:
        """Trains an epoch of the batches over streams: each stream is read once for all that train on it."""
        by_data: dict[int, list[Batch]] = {}
        for batch in self._streaming:
            by_data.setdefault(id(batch.members[0].view.data), []).append(batch)
        outcomes = []
        for some in by_data.values():
            own = Clock(
                None
                if self._limits.max_seconds is None
                else self._limits.max_seconds * sum(len(b.members) for b in some),
                within=[self._clock],
                now=self._clock.now,
            )
            own.start()
            try:
                outcomes += Streaming(some[0].members[0].view.data, self._pool, self._order, own).epoch(some)
            except OutOfTime:  # in the middle of it: these are left
                if self._clock.is_over():
                    break
                error = self._limits.too_slow(own.spent(), "in one epoch")
                outcomes += [Outcome(batch, {}, None, own.spent(), 1, error) for batch in some]
            self._streaming = [batch for batch in self._streaming if batch not in some]
        return outcomes

    def _epoch(self, batch: Batch, trained: Outcome | None = None) -> Outcome:
        """Trains and validates one batch over resident rows; runs on a thread of the pool.

        Args:
            batch: the members.
            trained: what training brought, where only the validation is still to come.
        """
        seconds, sharing, splits = 0.0, 1, batch.splits_tests
        logs: dict[str, dict[str, np.ndarray]] = {}
        layouts: dict[Layout, float] = {}
        ran = Ran()
        if trained is not None:
            seconds, logs["train"], ran, layouts = trained.seconds, trained.logs, trained.ran, dict(trained.layouts)
        try:
            states = batch.states()
            for kind in ("test",) if trained is not None else ("train",) if splits else self._kinds(batch):
                if kind == "train" and batch.one_step:
                    started = time.perf_counter()
                    states[0], logs[kind] = self._first_step(batch.members[0], states[0])
                    seconds += time.perf_counter() - started
                    continue
                program, lifted, order, tier = self._prepared(kind, batch, states)
                ran = ran.with_pass(kind, program, tier)
                # Compiled before it takes a core: seconds are those of training, and another batch may train meanwhile.
                with self._cores.taken(_TRAINS):
                    sharing = min(self.workers, max(1, len(self._running)))
                    started = time.perf_counter()
                    if kind == "train":
                        in_layout = functools.partial(self._in_layout, batch, program.own_order)
                        pacing = batch.program.choice if batch.replay is None else batch.replay.run
                        may_leave = self._clock.is_limited or self._limits.max_seconds is not None
                        is_left = (lambda: self._is_left or batch in self._late) if may_leave else None
                        parts = Parts(program, order, pacing, batch.count * sharing, in_layout, is_left)
                        states, found = parts.run(states, lifted, tier)
                        started += parts.compile_seconds
                        layouts = parts.layouts
                        ran = dataclasses.replace(ran, layouts=parts.path, is_one=parts.is_one)
                    else:
                        states, found = program.run(states, lifted, order, tier)
                    logs[kind] = {name: np.asarray(value) for name, value in found.items()}
                    elapsed = time.perf_counter() - started
                    seconds += elapsed
                    if kind == "test":
                        layouts = {layout: of_epoch + elapsed for layout, of_epoch in layouts.items()}
                    if not layouts:  # else these are the seconds of several layouts
                        program.tiers.record(tier, elapsed)
            # Only now, after training and validation went well: an epoch that fails half-way can be trained again.
            with self._leaving:
                self._go_on(batch)
                batch.take_over(states)
        # Whatever it was: the session knows whether members fail, fall back or try again, a thread does not.
        except Exception as error:
            return Outcome(batch, {} if trained is None else trained.logs, None, seconds, sharing, error)
        awaits_test = splits and trained is None
        return Outcome(
            batch, logs["train"], logs.get("test"), seconds, sharing,
            awaits_test=awaits_test, layouts=layouts, ran=ran,
        )  # fmt: skip

    def _in_layout(self, batch: Batch, own_order: bool, layout: Layout) -> tuple[RowsPass, Lifted]:
        """The training pass of a batch in another layout, and what it takes beside the states."""
        lift = None if batch.replay is None else batch.replay.lift
        program = batch.program.rows_pass("train", layout, batch.count, own_order=own_order, lift=lift)
        # Anew: a member that came meanwhile may have made it another version, with more numbers lifted.
        return program, program.lifted([member.trace for member in batch.slots])

    def _first_step(self, member: Member, state: State) -> tuple[State, dict[str, np.ndarray]]:
        """A member's state after the first batch of its epoch, and the logs, for a slot each."""
        rows = self._read("train", member).numbers[0]
        training = member.view.training
        assert isinstance(training, ResidentRows)  # our bug: streams have their own way
        batch = tuple(leaf.addressable_data(0)[rows] for leaf in training.leaves)
        steps = Steps(Lift(member.trace))

        def step(state: State, batch: Arrays) -> tuple[State, Logs]:
            after, metrics, step_logs = steps.train(0, {}, state, member.trace.start_metrics, batch)
            return after, steps.logs("train", {}, metrics, step_logs)

        # Nothing is lifted, and no program is kept: it happens once in a member's life, in its last epoch.
        state, logs = compile_function(step, (state, batch), effort="quick").call(state, batch)
        return state, {name: np.asarray(value)[None] for name, value in logs.items()}

    def _compile(self, batch: Batch) -> None:
        states = batch.states()
        with contextlib.suppress(Exception):  # it comes up again when the members train, and is told then
            for kind in self._kinds(batch):
                self._prepared(kind, batch, states, _COMPILES_AHEAD)

    def exchange(self, due: Pass) -> None:
        """Compiles the steps of a pass in full, one pass at a time."""
        # What goes wrong costs speed: training goes on as it was compiled first.
        with self._exchanging, contextlib.suppress(Exception):
            if self._is_closing:
                due.forgo_exchange()  # a later search may have enough to train
            else:
                due.exchange()

    def _kinds(self, batch: Batch) -> tuple[str, ...]:
        return ("train", "test") if batch.validates else ("train",)

    def _prepared(
        self, kind: str, batch: Batch, states: Sequence[State], rank: int = _COMPILES
    ) -> tuple[RowsPass, Any, Order, Tier]:
        """A batch's program, compiled and trusted, and what it takes beside the states."""
        replay = batch.replay
        order, own = self._order(kind, batch, is_own=replay is not None and kind in replay.run.own_orders)
        lift = None if replay is None else replay.lift
        program = batch.program.rows_pass(kind, batch.layout, batch.count, own_order=own, lift=lift)
        lifted = program.lifted([member.trace for member in batch.slots])
        tier = (replay and replay.run.tier(kind)) or (program.tiers.tier if self.exchanges else "full")
        self._compiling[batch] = self._clock.now()
        try:
            with contextlib.nullcontext() if program.is_prepared(tier) else self._cores.taken(rank):
                self._go_on(batch)
                batch.program.probe(batch.layout, wait=False)  # a thread of another batch may be at it
                self._go_on(batch)
                program.prepare(states, lifted, order, tier)
                batch.program.ensure_probed(batch.layout)
        finally:
            del self._compiling[batch]
        self._go_on(batch)
        return program, lifted, order, tier

    def _go_on(self, batch: Batch) -> None:
        """Ends a thread that was left.

        Raises:
            OutOfTime: it was.
        """
        if self._is_left or batch in self._late:
            raise OutOfTime

    def _order(self, kind: str, batch: Batch, *, is_own: bool = False) -> tuple[Order, bool]:
        """What a pass reads, and whether each member has its own order; `is_own`: be it the same."""
        names = [self._name_of_order(kind, member) for member in batch.slots]
        # Read once per order, not once per slot: the host shuffles while nobody trains.
        orders = {name: self._read(kind, member) for name, member in zip(names, batch.slots, strict=True)}
        # One order for all is worth a program of its own: a batch of rows is then read once for all members.
        if len(orders) == 1 and not is_own:
            return orders[names[0]], False
        own = [orders[name] for name in names]
        numbers, num_rows = (np.stack([getattr(order, name) for order in own]) for name in ("numbers", "num_rows"))
        return Order(own[0].leaves, numbers, num_rows), True

    def _name_of_order(self, kind: str, member: Member) -> tuple[Any, ...]:
        """What the order depends on in which a member reads its batches: rows, seed and epoch."""
        if kind == "test" or not member.view.data.shuffle:
            return (id(member.view),)
        return id(member.view), *self.order_of(member)

    def _read(self, kind: str, member: Member) -> Order:
        rows = member.view.training if kind == "train" else member.view.validation
        assert isinstance(rows, ResidentRows)
        shuffle = member.view.data.shuffle
        if kind == "train" and shuffle:
            return rows.shuffled(shuffle, *self.order_of(member))
        return rows.in_order()
