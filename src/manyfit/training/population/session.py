"""One call of `Population.train`: members join, train an epoch at a time, report, and leave."""

from __future__ import annotations

import collections
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import jax

from manyfit.core.lifecycle import failure_of
from manyfit.core.records import Decision, Ending, Plan, Result
from manyfit.training.base import Supply, Task
from manyfit.training.keras_fit import scalar_logs
from manyfit.training.measuring import take_measures
from manyfit.training.population import keras_side
from manyfit.training.population.arrays import num_devices
from manyfit.training.population.batch import Batch, Outcome
from manyfit.training.population.data import FitArguments
from manyfit.training.population.layout import Layout, num_workers
from manyfit.training.population.member import Member
from manyfit.training.population.program import Family
from manyfit.training.population.rounds import Rounds
from manyfit.training.population.sizing import Sizing
from manyfit.training.population.trace import CannotTrace

if TYPE_CHECKING:
    from manyfit.training.population.admission import Admission


_ENOUGH_TO_TELL = 2  # members of a family


class Session:
    """Members join, train an epoch at a time, report, and leave, until the supply has nothing more.

    While an epoch computes, members that ended are written out and new ones are built: the accelerator, or the
    threads of XLA, do not wait for Python. Where proposals learn from results, all epochs of a round are waited for,
    so that what is proposed does not depend on which thread was faster; else each batch goes on at once.

    Args:
        supply: hands out executions.
        task: what they are.
        data: the task's data.
        admission: turns plans into members, and holds those that were paused.
        max_members: most members that train at once; None: chosen by measurement.
        shuffle_seed: names the order of the batches.
    """

    def __init__(
        self,
        supply: Supply,
        task: Task,
        *,
        data: FitArguments,
        admission: Admission,
        max_members: int | None,
        shuffle_seed: int,
    ) -> None:
        self.supply, self.task, self.data = supply, task, data
        self.admission = admission
        self.shuffle_seed = shuffle_seed
        self.independent = bool(getattr(supply, "independent", False))
        self.sizing = Sizing(
            max_members,
            learns=not self.independent,
            workers=num_workers(),
            cpu=jax.default_backend() == "cpu" and num_devices() == 1,
            devices=num_devices(),
        )
        self.rounds = Rounds(data, order_of=self._order_of)
        self.taken: collections.deque[Plan] = collections.deque()  # handed out, and not built yet
        self.many_taken = False  # as many as were asked for
        self.expects_more = False  # further members may come that fill up the programs of those that wait
        self.idle: list[Member] = []  # members between two epochs
        self.ended: list[tuple[Member, bool]] = []

    @property
    def num_active(self) -> int:
        """Members that train, or are about to."""
        return len(self.idle) + sum(len(batch.members) for batch in self.rounds.batches)

    def run(self) -> None:
        """Trains until there is nothing more to train."""
        try:
            self._admit()
            while self.num_active or self.ended or self.taken:
                self.rounds.start(self._batches())
                self._finish_ended()
                self._admit(join=False)
                if self._has_work_for_a_worker():
                    self._admit(take=False)
                    continue
                self._close(self.rounds.collect(everything=not self.independent))
                self._admit(take=not self.num_active and not self.ended)
        finally:
            self.rounds.close()
        for family in self.admission.families.values():
            family.remember()

    def _admit(self, *, take: bool = True, join: bool = True) -> None:
        """Takes plans, and lets waiting members join."""
        if take:
            self._build()
        group = self.sizing.group
        while join and (room := self.sizing.joined - self.num_active) > 0:
            least = 1 if not self.expects_more else group if room >= group else math.inf
            member = self.admission.next_member([*self.idle, *self._running()], group, least)
            if member is None:
                return
            member.begin()
            self.idle.append(member)

    def _build(self) -> None:
        """Makes plans members that wait, as long as no worker waits for what this thread has to do for it."""
        # Proposals that do not depend on results are asked for ahead: many of one family are there together.
        most = self.sizing.size * (5 if self.independent else 1)
        while (room := most - self.num_active - self.admission.num_waiting) > 0:
            if not self.taken:
                self.taken.extend(self.supply.take(min(room, self.sizing.size)))
                self.many_taken = len(self.taken) == self.sizing.size
                self.expects_more = bool(self.taken) and self.independent
                if not self.taken:
                    return
            self.admission.admit(self.taken.popleft())
            if self.many_taken:  # so there may be more
                self._compile_ahead()
            if self.independent and self.rounds.has_outcome:
                return
            if not self.taken and (not self.expects_more or self._has_work_for_a_worker()):
                return
        self.expects_more = False

    def _compile_ahead(self) -> None:
        """While further members are built, lets a worker without work compile for a family of which two are there.

        By two one can tell in which numbers the members of a family differ.
        """
        group = self.sizing.group
        if not self.independent or group < _ENOUGH_TO_TELL:
            return
        for family in self.admission.families.values():
            if len(family.waiting) >= _ENOUGH_TO_TELL and not family.is_compiled and self.rounds.is_idle:
                layout = family.choice.best
                count = 1 if layout.members == "sequential" else group
                self.rounds.compile_ahead(Batch(family, tuple(family.waiting)[:count], layout, count))

    def _has_work_for_a_worker(self) -> bool:
        """Whether a program's worth of members waits while a worker has nothing to do."""
        group = self.sizing.group
        is_free = len(self.rounds.batches) < self.rounds.workers and self.sizing.joined - self.num_active >= group
        return self.independent and is_free and self.admission.most_waiting >= group

    def _running(self) -> list[Member]:
        return _members_of(self.rounds.batches)

    def _batches(self) -> list[Batch]:
        """Idle members as batches. Those of a family whose members stand side by side wait for each other."""
        by_family: dict[int, list[Member]] = {}
        for member in self.idle:
            by_family.setdefault(id(member.family), []).append(member)
        batches: list[Batch] = []
        self.idle = []
        for members in by_family.values():
            family = members[0].family
            running = [batch for batch in self.rounds.batches if batch.family is family]
            for layout, some in self._laid_out(family, members, running):
                now, later = self._parted(some, layout, running)
                self.idle += later
                if now:
                    batches += self._split(family, now, layout)
        for member in (member for batch in batches for member in batch.members):
            if member.callbacks.any:
                member.show()
                member.callbacks.epoch_begin(member.epoch)
                member.adopt()
        return batches

    def _laid_out(
        self, family: Family, members: list[Member], running: Sequence[Batch]
    ) -> list[tuple[Layout, list[Member]]]:
        """The layouts that idle members of a family train their next epoch in.

        Where each core has a program of its own, one of them tries the layout that is to be timed, and the others go
        on in the best one so far: nobody waits for what may be slower.
        """
        left = sum(member.last_epoch - member.epoch for member in (*members, *family.waiting))
        layout, best = family.choice.choose(left, family.compile_seconds), family.choice.best
        if layout == best or self.rounds.workers == 1:
            return [(layout, members)]
        num_trying = 0 if any(batch.layout == layout for batch in running) else self.sizing.group
        parts = [(layout, members[:num_trying]), (best, members[num_trying:])]
        return [(each, some) for each, some in parts if some]

    def _parted(
        self, members: list[Member], layout: Layout, running: Sequence[Batch]
    ) -> tuple[list[Member], list[Member]]:
        """Those that begin their next epoch now, and those that wait for others of their family under way.

        Members that read the same rows share the reading and the products with them; once they stand beside members
        of another epoch, they do so to the end. So a few wait for those that will be as far as they are.
        """
        if self.rounds.workers == 1:
            waits = any(batch.layout != layout or layout.members != "sequential" for batch in running)
        else:
            waits = len(members) < self.sizing.group and any(batch.layout != layout for batch in running)
        if waits:
            return [], members
        if self.rounds.workers == 1 or layout.members == "sequential" or self.task.own_order or not self.data.shuffle:
            return members, []
        coming = {(view, seed, epoch + 1) for view, seed, epoch in map(self._rows_of, _members_of(running))}
        full, rest = self._by_rows(members)
        later = [member for member in rest if self._rows_of(member) in coming]
        return [*full, *(member for member in rest if member not in later)], later

    def _split(self, family: Family, members: list[Member], layout: Layout) -> list[Batch]:
        epochs = max(member.last_epoch - member.epoch for member in members)
        parts: list[tuple[list[Member], int]] = []
        if layout.members == "sequential":
            parts = [(members, 1)]
        elif self.rounds.workers == 1:
            parts = [(sorted(members, key=self._order_of), family.count_for(len(members), self.sizing.group))]
        else:
            group, workers = self.sizing.group, self.rounds.workers
            for some in filter(None, self._by_rows(members)):
                count = family.slots_on_cores(len(some), group, layout, workers=workers, epochs=epochs)
                parts.append((some, count))
        return [
            Batch(family, tuple(some[start : start + count]), layout, count)
            for some, count in parts
            for start in range(0, len(some), count)
        ]

    def _by_rows(self, members: Sequence[Member]) -> tuple[list[Member], list[Member]]:
        """Members that fill up programs with others that read the same rows, one such program after another; and the
        rest, those that read the same rows next to each other."""
        same: dict[tuple[int, int, int], list[Member]] = {}
        for member in sorted(members, key=self._order_of):
            same.setdefault(self._rows_of(member), []).append(member)
        full, rest = [], []
        for some in same.values():
            num_full = len(some) // self.sizing.group * self.sizing.group
            full += some[:num_full]
            rest += some[num_full:]
        return full, rest

    def _rows_of(self, member: Member) -> tuple[int, int, int]:
        """Equal for members that read the same rows in the same order in their next epoch."""
        return id(member.view), *self._order_of(member)

    def _order_of(self, member: Member) -> tuple[int, int]:
        """Seed and epoch: what names the order in which a member reads its batches."""
        return member.plan.seed if self.task.own_order else self.shuffle_seed, member.epoch

    def _close(self, outcomes: Sequence[Outcome]) -> None:
        """Reports epochs, and parts the members that go on from those that do not."""
        reports, reporting = [], []
        num_active = self.num_active + sum(len(outcome.batch.members) for outcome in outcomes)
        failed = [outcome for outcome in outcomes if outcome.error is not None]
        for outcome in outcomes:
            if outcome.error is not None:
                continue
            self._note_time(outcome)
            for number, member in enumerate(outcome.batch.members):
                member.seconds += outcome.seconds / len(outcome.batch.members)
                numbers = self._close_epoch(member, number, outcome)
                reporting.append(member)
                if member.epoch >= member.plan.first_epoch:  # else known from before the process was killed
                    reports.append((member.plan, member.epoch, numbers))
                member.epoch += 1
        answers = zip((plan.key for plan, _, _ in reports), self.supply.report(reports) if reports else [], strict=True)
        decisions = dict(answers)
        for member in reporting:
            decision = decisions.get(member.plan.key, Decision.GO_ON)
            if decision is Decision.PAUSE and not member.is_done():  # a callback may have ended it at its rung's end
                self.admission.park(member)
                self._hand_over([(member, member.paused())])
            elif decision is Decision.STOP:
                self.ended.append((member, True))
            elif member.is_done():
                self.ended.append((member, False))
            else:
                self.idle.append(member)
        self._fail(failed, num_active)

    def _note_time(self, outcome: Outcome) -> None:
        batch = outcome.batch
        batch.family.choice.record(batch.layout, outcome.seconds / batch.count / outcome.sharing)
        if batch.count > 1:
            per_member = batch.family.bytes_per_member(batch.layout)
            self.sizing.record(batch.family.key, batch.count, outcome.seconds, per_member)

    def _close_epoch(self, member: Member, number: int, outcome: Outcome) -> dict[str, float]:
        """One member's logs of the epoch, after its callbacks have seen them."""
        logs = keras_side.python_logs({name: value[number] for name, value in outcome.logs.items()})
        tested = None
        if outcome.test_logs is not None and self.data.validates_at(member.epoch):
            tested = keras_side.python_logs({name: value[number] for name, value in outcome.test_logs.items()})
            logs.update({f"val_{name}": value for name, value in tested.items()})
        logs.update(member.watch_loss_scale(member.view.training.num_steps or 1))
        if member.callbacks.any:
            member.show()
            logs = member.callbacks.epoch_end(member.epoch, logs, tested)
            member.adopt()
        numbers = scalar_logs(logs)
        member.last_logs = logs
        member.record(numbers, self.task.objective)
        return numbers

    def _fail(self, outcomes: Sequence[Outcome], num_active: int) -> None:
        """Ends or sends back the members of epochs that failed; where memory ran out, fewer try again."""
        failures = {outcome: failure_of(outcome.error) for outcome in outcomes if outcome.error is not None}
        too_many = num_active > 1 and any(each.ending is Ending.OUT_OF_MEMORY for each in failures.values())
        if too_many:
            size = self.sizing.halve(num_active)
            self.admission.notify(f"out of memory with {num_active} members at once; from now on at most {size}")
        for outcome, failure in failures.items():
            for member in outcome.batch.members:
                if isinstance(outcome.error, CannotTrace):
                    self.admission.send_back(member, str(outcome.error))
                elif too_many and failure.ending is Ending.OUT_OF_MEMORY:
                    self.admission.rebuild(member)
                else:
                    self.supply.finish(member.failed(failure))

    def _finish_ended(self) -> None:
        ended, self.ended = self.ended, []
        results = []
        for member, stopped in ended:
            if member.callbacks.any:
                member.show()
                member.callbacks.train_end(member.last_logs)
                member.adopt()
            member.family.num_trained += 1
            results.append((member, member.result(self.task.objective, stopped=stopped)))
        self._hand_over(results)

    def _hand_over(self, results: Sequence[tuple[Member, Result]]) -> None:
        """Tells the supply of outcomes, after the task has seen and measured the models of written weights."""
        scored = [member for member, result in results if result.ending.has_score]
        kept = [member for member in scored if self.task.keep is not None and member.plan.weights_path is not None]
        for member in scored if self.task.measures else kept:
            member.show_best()
        if kept and self.task.keep is not None:
            try:
                self.task.keep([(member.plan, member.model) for member in kept])
            except Exception:
                if len(results) == 1:
                    raise
                for one in results:  # what stands before the one that fails is told
                    self._hand_over([one])
                return
        for member, result in results:
            take_measures(result, member.model, self.task)
            self.supply.finish(result)


def _members_of(batches: Sequence[Batch]) -> list[Member]:
    return [member for batch in batches for member in batch.members]
