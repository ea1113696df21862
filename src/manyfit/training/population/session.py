"""One call of `Population.train`: members join, train an epoch at a time, report, and leave."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np

from manyfit.core.records import Decision, Ending, Result
from manyfit.training.base import Supply, Task
from manyfit.training.keras_fit import scalar_logs
from manyfit.training.models import ending_of
from manyfit.training.population import keras_side
from manyfit.training.population.capture import CannotTrace
from manyfit.training.population.data import FitArguments
from manyfit.training.population.epoch import Order
from manyfit.training.population.family import Family
from manyfit.training.population.layout import num_workers
from manyfit.training.population.member import Member
from manyfit.training.population.program import Layout

if TYPE_CHECKING:
    from manyfit.training.population.admission import Admission


@dataclasses.dataclass(frozen=True)
class Batch:
    """Members that run an epoch in one program: one of them, or several of one family."""

    family: Family
    members: tuple[Member, ...]
    layout: Layout
    count: int


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What an epoch of a batch brought; `test_logs` where it ended with a validation."""

    batch: Batch
    logs: dict[str, np.ndarray]
    test_logs: dict[str, np.ndarray] | None
    seconds: float
    error: Exception | None = None
    timed: bool = False  # nothing was compiled meanwhile


class Session:
    """Members join, train an epoch at a time, report, and leave, until the supply has nothing more.

    While an epoch computes, members that ended are written out and new ones are built: the accelerator, or the
    threads of XLA, do not wait for Python.

    Args:
        supply: hands out executions.
        task: what they are.
        data: the task's data.
        admission: turns plans into members, and holds those that were paused.
        max_members: most members that train at once.
        shuffle_seed: names the order of the batches.
    """

    def __init__(
        self,
        supply: Supply,
        task: Task,
        *,
        data: FitArguments,
        admission: Admission,
        max_members: int,
        shuffle_seed: int,
    ) -> None:
        self.supply, self.task, self.data = supply, task, data
        self.admission = admission
        self.max_members = max_members
        self.shuffle_seed = shuffle_seed
        self.workers = num_workers()
        # Proposals that do not depend on results may be asked for ahead, so that many of one family are there together.
        self.max_waiting = 4 * max_members if getattr(supply, "independent", False) else 0
        self.active: list[Member] = []
        self.ended: list[tuple[Member, bool]] = []

    def run(self) -> None:
        """Trains until there is nothing more to train."""
        with ThreadPoolExecutor(self.workers, thread_name_prefix="population") as pool:
            self._admit()
            while self.active or self.ended:
                futures = [pool.submit(self._epoch, batch) for batch in self._batches()]
                self._finish_ended()
                self._admit(join=False)
                self._collect(futures)
                self._admit(take=not self.active and not self.ended)

    def _admit(self, *, take: bool = True, join: bool = True) -> None:
        """Takes plans, and lets waiting members join."""
        if take:
            room = self.max_members + self.max_waiting - len(self.active) - self.admission.num_waiting
            if room > 0:
                for plan in self.supply.take(room):
                    self.admission.admit(plan)
        while join and len(self.active) < self.max_members:
            member = self.admission.next_member(self.active)
            if member is None:
                return
            if member.callbacks.any and not member.begun:
                member.show()
                member.callbacks.train_begin()
                member.adopt()
            member.begun = True
            self.active.append(member)

    def _batches(self) -> list[Batch]:
        by_family: dict[int, list[Member]] = {}
        for member in self.active:
            if member.callbacks.any:
                member.show()
                member.callbacks.epoch_begin(member.epoch)
                member.adopt()
            by_family.setdefault(id(member.family), []).append(member)
        batches = []
        for members in by_family.values():
            family = members[0].family
            left = sum(member.last_epoch - member.epoch for member in (*members, *family.waiting))
            layout = family.choice.choose(left, family.compile_seconds)
            count = 1 if layout.members == "sequential" else family.count_for(len(members), self.max_members)
            for start in range(0, len(members), count):
                batches.append(Batch(family, tuple(members[start : start + count]), layout, count))
        return batches

    def _epoch(self, batch: Batch) -> Outcome:
        """Trains and validates one batch; runs on a worker thread."""
        started = time.perf_counter()
        compiled_before = batch.family.compile_seconds
        family, members = batch.family, batch.members
        try:
            family.verify(batch.layout)
            if family.mismatch is not None:
                return Outcome(batch, {}, None, 0.0, CannotTrace(family.mismatch))
            order, own_order = self._order("train", members, batch.count)
            states, logs = family.run(
                "train", members, order, layout=batch.layout, count=batch.count, own_order=own_order
            )
            test_logs = None
            if any(self.data.validates_at(member.epoch) for member in members):
                for member, state in zip(members, states, strict=False):
                    member.state = state
                order, own_order = self._order("test", members, batch.count)
                states, test_logs = family.run(
                    "test", members, order, layout=batch.layout, count=batch.count, own_order=own_order
                )
                test_logs = {name: np.asarray(value) for name, value in test_logs.items()}
            logs = {name: np.asarray(value) for name, value in logs.items()}
        except Exception as error:
            return Outcome(batch, {}, None, time.perf_counter() - started, error)
        for member, state in zip(members, states, strict=False):
            member.state = state
        timed = family.compile_seconds == compiled_before
        return Outcome(batch, logs, test_logs, time.perf_counter() - started, timed=timed)

    def _order(self, kind: str, members: Sequence[Member], count: int) -> tuple[Order, bool]:
        """The row numbers of a pass, and whether each member has its own."""
        names = [self._name_of_order(kind, member) for member in members]
        orders = {name: self._read(kind, member) for name, member in zip(names, members, strict=True)}
        if len(orders) == 1:
            return orders[names[0]], False
        own = [orders[name] for name in names]
        own += [own[-1]] * (count - len(own))
        return (np.stack([full for full, _ in own]), np.stack([tail for _, tail in own])), True

    def _name_of_order(self, kind: str, member: Member) -> tuple[Any, ...]:
        """What the order depends on in which a member reads its batches: rows, seed and epoch."""
        if kind == "test" or not self.data.shuffle:
            return (id(member.view),)
        return id(member.view), *self._seed_of_order(member)

    def _seed_of_order(self, member: Member) -> tuple[int, int]:
        return member.plan.seed if self.task.own_order else self.shuffle_seed, member.epoch

    def _read(self, kind: str, member: Member) -> Order:
        if kind == "test":
            return member.view.validation.in_order()
        rows = member.view.training
        return rows.shuffled(self.data.shuffle, *self._seed_of_order(member)) if self.data.shuffle else rows.in_order()

    def _collect(self, futures: Sequence[Future[Outcome]]) -> None:
        """Waits for an epoch, reports it, and parts those that go on from those that do not."""
        reports, reporting = [], []
        for future in futures:
            outcome = future.result()
            batch = outcome.batch
            if outcome.error is not None:
                self._fail(batch, outcome.error)
                continue
            parallel = self.workers if batch.layout.members == "sequential" else 1
            per_member = outcome.seconds / len(batch.members)
            if outcome.timed:
                batch.family.choice.record(batch.layout, outcome.seconds / batch.count / min(parallel, len(futures)))
            for number, member in enumerate(batch.members):
                member.seconds += per_member
                numbers = self._close_epoch(member, number, outcome)
                reporting.append(member)
                if member.epoch >= member.plan.first_epoch:  # else known from before the process was killed
                    reports.append((member.plan, member.epoch, numbers))
                member.epoch += 1
        answers = zip((plan.key for plan, _, _ in reports), self.supply.report(reports) if reports else [], strict=True)
        decisions = dict(answers)
        self.active = []
        for member in reporting:
            decision = decisions.get(member.plan.key, Decision.GO_ON)
            if decision is Decision.PAUSE:
                self.admission.park(member)
                self.supply.finish(member.paused())
            elif decision is Decision.STOP:
                self.ended.append((member, True))
            elif member.is_done():
                self.ended.append((member, False))
            else:
                self.active.append(member)

    def _close_epoch(self, member: Member, number: int, outcome: Outcome) -> dict[str, float]:
        """One member's logs of the epoch, after its callbacks have seen them."""
        logs = keras_side.python_logs({name: value[number] for name, value in outcome.logs.items()})
        tested = None
        if outcome.test_logs is not None and self.data.validates_at(member.epoch):
            tested = keras_side.python_logs({name: value[number] for name, value in outcome.test_logs.items()})
            logs.update({f"val_{name}": value for name, value in tested.items()})
        logs.update(member.watch_loss_scale(member.view.training.num_steps))
        if member.callbacks.any:
            member.show()
            logs = member.callbacks.epoch_end(member.epoch, logs, tested)
            member.adopt()
        numbers = scalar_logs(logs)
        member.last_logs = logs
        member.record(numbers, self.task.objective)
        return numbers

    def _fail(self, batch: Batch, error: Exception) -> None:
        if isinstance(error, CannotTrace):
            for member in batch.members:
                self.admission.send_back(member, str(error))
            return
        ending = ending_of(error)
        if ending is Ending.OUT_OF_MEMORY and self.max_members > 1 and len(self.active) > 1:
            self.max_members = max(1, math.ceil(len(self.active) / 2))
            self.admission.notify(f"out of memory; from now on {self.max_members} members at once")
            for member in batch.members:
                self.admission.rebuild(member)
            return
        for member in batch.members:
            self.supply.finish(
                Result(
                    member.plan,
                    ending,
                    member.history,
                    seconds=member.seconds,
                    message=f"{type(error).__name__}: {error}",
                    extra={"error": error},
                )
            )

    def _finish_ended(self) -> None:
        ended, self.ended = self.ended, []
        for member, stopped in ended:
            if member.callbacks.any:
                member.show()
                member.callbacks.train_end(member.last_logs)
                member.adopt()
            member.family.num_trained += 1
            self.supply.finish(member.result(self.task.objective, stopped=stopped))
