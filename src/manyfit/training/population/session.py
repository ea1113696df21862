"""One call of `Population.train`: members join, train an epoch at a time, report, and leave."""

from __future__ import annotations

import collections
import contextlib
import math
import time
from collections.abc import Sequence

import jax

from manyfit.core.clock import Clock
from manyfit.core.history import numbers_of
from manyfit.core.lifecycle import failure_of
from manyfit.core.records import Decision, Ending, EpochLogs, Plan, Result
from manyfit.training.base import NOTHING_TRAINED, Supply, Task
from manyfit.training.in_time import waited
from manyfit.training.known_costs import KnownCosts
from manyfit.training.limits import MemoryWatch, waiting_told
from manyfit.training.models import take_measures
from manyfit.training.population.admission import Admission
from manyfit.training.population.arrays import num_devices
from manyfit.training.population.data import ResidentRows
from manyfit.training.population.families import ENOUGH_TO_TELL, WideProgram
from manyfit.training.population.grouping import Batch, Outcome, Rules, as_before, form_batches, members_of, python_logs
from manyfit.training.population.layout import num_workers
from manyfit.training.population.member import Member
from manyfit.training.population.rounds import Rounds
from manyfit.training.population.session_time import SessionTime
from manyfit.training.population.sizing import Sizing
from manyfit.training.population.trace import CannotTrace
from manyfit.training.replay import ORDERED

_THAWED = "a callback has changed weights that no step trains, of which rows had been computed"


class Session:
    """Members join, train an epoch at a time, report, and leave, until the supply has nothing more.

    While an epoch computes, members that ended are written out and new ones are built: the accelerator, or the
    threads of XLA, do not wait for Python. Where proposals learn from results, all epochs of a round are waited for,
    so that what is proposed does not depend on which thread was faster; else each batch goes on at once.

    Args:
        supply: hands out executions.
        task: what they are.
        admission: turns plans into members, and holds those that were paused.
        max_members: most members that train at once; None: chosen by measurement.
        shuffle_seed: names the order of the batches.
        costs: what steps have taken; it learns.
    """

    def __init__(
        self,
        supply: Supply,
        task: Task,
        *,
        admission: Admission,
        max_members: int | None,
        shuffle_seed: int,
        costs: KnownCosts,
    ) -> None:
        self.supply, self.task = supply, task
        self.admission, self.aside = admission, admission.aside
        self.shuffle_seed = shuffle_seed
        self.independent = supply.independent
        self.sizing = Sizing(
            max_members,
            learns=not self.independent,
            workers=num_workers(),
            cpu=jax.default_backend() == "cpu" and num_devices() == 1,
            devices=num_devices(),
        )
        self.clock = task.clock or Clock()
        self.time = SessionTime(costs, self.clock)
        self.rounds = Rounds(order_of=self._order_of, exchanges=max_members != 1, clock=self.clock, limits=task.limits)
        self.memory = MemoryWatch(task.limits.max_memory_bytes)
        self.taken: collections.deque[Plan] = collections.deque()  # handed out, and not built yet
        self.many_taken = False  # as many as were asked for
        self.has_more = True  # whether the supply had something when it was asked last
        self.expects_more = False  # further members may come that fill up the programs of those that wait
        self.idle: list[Member] = []  # members between two epochs
        self.ended: list[tuple[Member, bool]] = []

    @property
    def num_active(self) -> int:
        """Members that train, or are about to."""
        return len(self.idle) + sum(len(batch.members) for batch in self.rounds.batches)

    @property
    def _num_built(self) -> int:
        return self.num_active + self.admission.num_waiting

    def run(self) -> None:
        """Trains until there is nothing more to train.

        One turn of the loop: begin an epoch of all members that are idle; while it computes, write out who has ended
        and build who comes next; collect epochs that are over, report them, and part those that go on from those that
        do not. The supply is asked on this thread only, so what it decides depends on results and never on threads.
        """
        try:
            self.memory.start()
            self._admit()
            # Until the supply has nothing: that all in hand has gone to the fallback is no end of a search.
            while self.num_active or self.ended or self.taken or self.admission.num_waiting or self.has_more:
                if not self.clock.allows(self.time.predict_seconds([*self.idle, *self._running()])):
                    self._leave()
                    break
                # Start first: while the programs run, this thread writes out what has ended and builds what comes next.
                self.rounds.start(self._fitting(self._batches()))
                self._finish_ended()
                self.admission.let_rest([*self.idle, *self._running()])
                # Nobody joins here: who trains beside whom is decided once the epochs that run now have ended.
                self._admit(join=False)
                if self._has_work_for_a_worker():
                    self._admit(take=False)
                    continue
                # Epochs that ended together are reported together: one transaction of the store, one answer to each
                # member.
                with self._told_of_waiting():
                    outcomes = self.rounds.collect(everything=not self.independent)
                self._close(outcomes)
                self._keep_to_memory()
                # With members under way, plans are taken in the next turn, while those train. With none, they are taken
                # now: the loop would end with plans left in the supply.
                self._admit(take=not self.num_active and not self.ended)
        except BaseException:
            self.rounds.leave()  # Ctrl+C, say: who wants to go does not wait for what compiles
            raise
        finally:
            self.memory.stop()
            self.rounds.close()
        for program in self.admission.programs.values():
            program.remember()

    def _leave(self) -> None:
        """Ends everything where it is, since the time is up; what has no epoch yet is as if it had not been taken."""
        left, compiling = self.rounds.leave()
        self._end_early([*members_of(left), *self.idle, *self.admission.take_waiting()])
        self.idle = []
        self._give_back()
        self._finish_ended()
        if compiling:
            self.clock.refuse(max(compiling.values()))
            names = ", ".join(dict.fromkeys(member.plan.trial_id for member in members_of(list(compiling))))
            structures = "; ".join(dict.fromkeys(batch.program.structure for batch in compiling))
            self.admission.notify(waited(names, structures))

    @property
    def _is_behind(self) -> bool:
        """Whether members that train have to come to where they were before a kill, while all others wait.

        Decisions rest on who is how far. Were the others to go on meanwhile, a scheduler would see these late, and
        promote others in their place: a search that was killed would become another one.
        """
        return not self.independent and any(each.is_behind for each in (*self.idle, *self._running()))

    def _admit(self, *, take: bool = True, join: bool = True) -> None:
        """Takes plans, and lets waiting members join."""
        if take and not self._is_behind:
            self._build()
        group = self.sizing.group
        if join and self.sizing.joined > self.num_active:
            self.admission.decide(group if self.expects_more else 1)
        while join and (room := self.sizing.joined - self.num_active) > 0:
            # While more is to come, a new program waits until its slots are full: one that is compiled for a single
            # member would be compiled again for four.
            least = 1 if not self.expects_more else group if room >= group else math.inf
            member = self.admission.next_member([*self.idle, *self._running()], group, least)
            if member is None:
                return
            member.begin()
            if member.failure is None and member.epoch >= member.last_epoch:  # `initial_epoch`: there is none to train
                self.ended.append((member, False))
            else:
                self.idle.append(member)

    def _build(self) -> None:
        """Makes plans members that wait, as long as no worker waits for what this thread has to do for it.

        Building takes a hundredth of a second to seconds, and there may be hundreds of plans: so after each build it is
        asked whether an epoch has ended meanwhile, or a program's worth of members is there for a core without work.
        """
        # Proposals that do not depend on results are asked for ahead: many of one program are there together.
        # Where time is limited not before an epoch has ended: all of it might go by with building.
        most = self.sizing.size * (5 if self.independent and self.time.goes_ahead else 1)
        while (room := most - self.num_active - self.admission.num_waiting) > 0:
            if not self.time.has_room_for_build():
                self._give_back()
                break
            if not self.taken:
                self.taken.extend(self.supply.take(min(room, self.sizing.size)))
                self.many_taken = len(self.taken) == self.sizing.size
                self.has_more = bool(self.taken)
                self.expects_more = self.has_more and self.independent
                if not self.taken:
                    return
            plan = self.taken.popleft()
            with waiting_told(self.task.limits.max_seconds, Clock.started(), plan.trial_id, self.admission.notify):
                is_settled = self.admission.admit(plan, may_wait=self._num_built > 0)
            if not is_settled:
                self.taken.appendleft(plan)
                self._halve(self._num_built, "out of memory")
                return
            # So many that there may be more: a worker compiles one program while this thread traces the next.
            ahead = self._compile_ahead if self.many_taken else lambda: None
            self.admission.decide(self.sizing.group, ahead)
            ahead()
            if self.independent and self.rounds.has_outcome:
                return
            # Plans that were refused, or that the fallback has trained, leave nothing behind. With nothing else under
            # way the supply is asked again at once: else the loop would end, and with it the search.
            if self.taken or not (self.num_active or self.admission.num_waiting):
                continue
            if not self.expects_more or self._has_work_for_a_worker():
                return
        self.expects_more = False

    def _compile_ahead(self) -> None:
        """While further members are built, lets a worker without work compile for a program of which two are there.

        By two one can tell in which numbers the members of a program differ. Earlier, what is compiled would be
        thrown away with the second member; later, the worker would have waited.
        """
        group = self.sizing.group
        if not self.independent or group < ENOUGH_TO_TELL:
            return
        for program in self.admission.programs.values():
            waiting = self.admission.waiting_for(program)
            if len(waiting) >= ENOUGH_TO_TELL and not program.is_compiled and self.rounds.is_idle:
                layout = program.choice.best
                count = 1 if layout.members == "sequential" else group
                self.rounds.compile_ahead(Batch(program, tuple(waiting)[:count], layout, count))

    def _has_work_for_a_worker(self) -> bool:
        """Whether a program's worth of members waits while a worker has nothing to do."""
        group = self.sizing.group
        is_free = len(self.rounds.batches) < self.rounds.workers and self.sizing.joined - self.num_active >= group
        return self.independent and is_free and self.admission.most_waiting >= group

    def _running(self) -> list[Member]:
        return members_of(self.rounds.batches)

    def _batches(self) -> list[Batch]:
        """Idle members as batches, whose callbacks have begun the epoch; the others stay idle."""
        later = [member for member in self.idle if self._is_behind and not member.is_behind]
        self.idle = [member for member in self.idle if member not in later]
        for member in self.idle:
            if member.failure is None:
                member.begin_epoch()
        self.idle = self._without_failed(self.idle)
        for member in [each for each in self.idle if each.thawed]:
            self.idle.remove(member)
            self.admission.send_back(member, _THAWED)
        # What a callback has stopped before its first batch ends after it, as in `fit`: by itself.
        stopped = [member for member in self.idle if member.callbacks.stopped]
        going = [member for member in self.idle if not member.callbacks.stopped]
        replays = [(member, replay) for member in going if (replay := self.admission.replay_of(member)) is not None]
        again = as_before(replays, self._rules)
        replayed = members_of(again)
        going = [member for member in going if member not in replayed]
        batches, self.idle = form_batches(going, self.rounds.batches, self.admission.waiting, self._rules)
        self.idle += later
        alone = [Batch(each.program, (each,), each.program.choice.best, 1, one_step=True) for each in stopped]
        return [*again, *batches, *alone]

    def _fitting(self, batches: Sequence[Batch]) -> list[Batch]:
        """Those whose epoch still fits into the time; the members of the others end with what they have."""
        fitting = [batch for batch in batches if self.time.fits(batch)]
        self._end_early([member for batch in batches if batch not in fitting for member in batch.members])
        return fitting

    def _end_early(self, members: Sequence[Member]) -> None:
        """Ends members with what they have; one that has no epoch is as if it had not been taken."""
        self.ended += [(member, True) for member in members if member.has_result]
        for member in members:
            if not member.has_result:
                self.supply.finish(Result(member.plan, Ending.STOPPED, {}, message=NOTHING_TRAINED))

    def _give_back(self) -> None:
        """Gives back what was taken and not built; nothing more is taken."""
        for plan in self.taken:
            self.supply.finish(Result(plan, Ending.STOPPED, {}, message=NOTHING_TRAINED))
        self.taken.clear()
        self.has_more = False

    def _without_failed(self, members: Sequence[Member]) -> list[Member]:
        """Those of which no callback has raised; the others have ended, and nobody beside them."""
        for member in members:
            if member.failure is not None:
                self.supply.finish(member.failed(member.failure))
        return [member for member in members if member.failure is None]

    def _order_of(self, member: Member) -> tuple[int, int]:
        return self._rules.order_of(member)

    @property
    def _rules(self) -> Rules:
        """What grouping has to know; a property, since the size of a group changes while epochs are timed."""
        return Rules(
            group=self.sizing.group,
            workers=self.rounds.workers,
            shuffle=any(member.view.data.shuffle for member in self.idle),
            shuffle_seed=self.shuffle_seed,
            share_order=self.task.may.share_order,
        )

    def _close(self, outcomes: Sequence[Outcome]) -> None:
        """Reports epochs, and parts the members that go on from those that do not.

        All epochs that ended together are reported in one call: the store commits them as one transaction, and a
        scheduler sees them at once. Then each member is parked (paused), ended (by its answer, or since it was its last
        epoch) or idle again. Epochs that failed come last, when it is known how many members were at work.
        """
        reports, reporting, thawed = [], [], []
        num_active = self.num_active + sum(len(outcome.batch.members) for outcome in outcomes)
        failed = [outcome for outcome in outcomes if outcome.error is not None]
        for outcome in outcomes:
            if outcome.error is not None:
                continue
            self._note_time(outcome)
            for number, member in enumerate(outcome.batch.members):
                # What idle slots computed in vain is charged to those that train.
                member.epoch_seconds.append(outcome.seconds / len(outcome.batch.members))
                member.seconds += member.epoch_seconds[-1]
                numbers = self._close_epoch(member, number, outcome)
                if member.failure is not None:
                    continue
                if member.thawed:
                    thawed.append(member)
                    continue
                reporting.append(member)
                if member.epoch >= member.plan.first_epoch:  # else known from before the process was killed
                    reports.append((member.plan, member.epoch, EpochLogs(numbers, outcome.computed)))
                member.epoch += 1
        # By key, not by place: an epoch that was known before the process was killed is not reported, so it has no
        # answer.
        answers = zip((plan.key for plan, _, _ in reports), self.supply.report(reports) if reports else [], strict=True)
        decisions = dict(answers)
        if self.task.watch is not None:  # once the store knows of these epochs
            self.task.watch([member.best_epoch() for member in reporting if member.has_improved])
        for outcome in outcomes:
            self._without_failed(() if outcome.error is not None else outcome.batch.members)
        for member in reporting:
            decision = decisions.get(member.plan.key, Decision.GO_ON)
            if decision is Decision.PAUSE and not member.is_done():  # a callback may have ended it at its rung's end
                self.admission.park(member)
                self._hand_over([(member, member.paused(self.aside))])
            elif decision is Decision.STOP:
                self.ended.append((member, True))
            elif member.is_done():
                self.ended.append((member, False))
            elif (seconds := member.seconds) > (self.task.limits.max_seconds or math.inf):
                self.supply.finish(member.failed(failure_of(self.task.limits.too_slow(seconds))))
            else:
                self.admission.outgrow(member)
                self.idle.append(member)
        self._fail(failed, num_active)
        for member in thawed:
            self.admission.send_back(member, _THAWED)

    def _note_time(self, outcome: Outcome) -> None:
        batch = outcome.batch
        if batch.one_step:
            return  # it would look like a very fast layout
        self.time.note_epoch(outcome)
        if isinstance(batch.program, WideProgram):
            batch.program.count_epoch(batch.members)
        if batch.replay is not None:
            return  # not in what was chosen now
        for layout, seconds in (outcome.layouts or {batch.layout: outcome.seconds}).items():
            batch.program.choice.record(layout, seconds / batch.count / outcome.sharing)
        if batch.count > 1:
            per_member = batch.program.bytes_per_member(batch.layout)
            self.sizing.record(batch.program.key, batch.count, outcome.seconds, per_member)

    def _close_epoch(self, member: Member, number: int, outcome: Outcome) -> dict[str, float]:
        """One member's logs of the epoch, after its callbacks have seen them."""
        logs = python_logs(outcome.logs, number)
        tested = None
        if outcome.test_logs is not None and member.is_validated:
            tested = python_logs(outcome.test_logs, number)
            logs.update({f"val_{name}": value for name, value in tested.items()})
        # What callbacks raise in the middle ends the member before its numbers are told, as in `fit`.
        logs = member.close_epoch(logs, tested) if member.failure is None else logs
        logs.update(member.watch_loss_scale(member.view.training.num_steps or 1))
        numbers = numbers_of(logs)
        if member.failure is None:
            member.record(numbers, self.task.objective)
        return numbers

    def _fail(self, outcomes: Sequence[Outcome], num_active: int) -> None:
        """Ends or sends back the members of epochs that failed; where memory ran out, fewer try again.

        What several members share tells nothing of whose fault it was: a metric that calls back into Python, data that
        could not be read. So each is trained alone, and those that are not to blame lose time only.
        """
        failures = {outcome: failure_of(outcome.error) for outcome in outcomes if outcome.error is not None}
        # That many were too many is nobody's fault, so they try again, fewer at a time. One alone that runs out has
        # failed.
        too_many = num_active > 1 and any(each.ending is Ending.OUT_OF_MEMORY for each in failures.values())
        if too_many:
            self._halve(num_active, "out of memory")
        hopeless = {Ending.TOO_SLOW} if too_many else {Ending.TOO_SLOW, Ending.OUT_OF_MEMORY}
        for outcome, failure in failures.items():
            for member in outcome.batch.members:
                can_repeat = member.view.data.can_be_read_again
                if member.failure is not None:
                    self._without_failed([member])
                elif isinstance(outcome.error, CannotTrace):
                    self.admission.send_back(member, str(outcome.error), as_it_is=not outcome.is_half)
                elif too_many and failure.ending is Ending.OUT_OF_MEMORY and not outcome.is_half:
                    self.admission.rebuild(member)
                elif failure.ending in hopeless or not can_repeat:
                    self.supply.finish(member.failed(failure))
                else:
                    reason = f"an epoch that trials share failed ({failure.line})"
                    self.admission.send_back(member, reason, as_it_is=not outcome.is_half)

    def _halve(self, num_active: int, why: str) -> None:
        size = self.sizing.halve(num_active)
        self.admission.notify(f"{why} with {num_active} members at once; from now on at most {size}")

    def _keep_to_memory(self) -> None:
        """Lets fewer members train at once where this process held more than it may; one alone has failed."""
        used, num_active = self.memory.excess(), self.num_active
        if used is None or not num_active:
            return
        too_large = self.task.limits.too_large(used)
        if num_active > 1:
            self._halve(num_active, str(too_large))
            kept = max(0, self.sizing.size - (num_active - len(self.idle)))
            for member in reversed(self.idle[kept:]):
                self.admission.rebuild(member)
            del self.idle[kept:]
            return
        for member in self.idle:
            self.supply.finish(member.failed(failure_of(too_large)))
        self.idle = []

    def _told_of_waiting(self) -> contextlib.AbstractContextManager[None]:
        """Around what reads data and calls callbacks: the user's code, which is on this thread."""
        streaming = [member for batch in self.rounds.batches if batch.streams for member in batch.members]
        most, trials = self.task.limits.max_seconds, ", ".join(member.plan.trial_id for member in streaming)
        most = None if most is None or not streaming else most * len(streaming)
        return waiting_told(most, Clock.started(), trials, self.admission.notify)

    def _finish_ended(self) -> None:
        ended, self.ended = self.ended, []
        results = []
        for member, _ in ended:
            member.finish()
        going = self._without_failed([member for member, _ in ended])
        for member, stopped in ended:
            if member in going:
                member.program.num_trained += 1
                results.append((member, member.result(self.task.objective, stopped=stopped, aside=self.aside)))
        self._hand_over(results)

    def _hand_over(self, results: Sequence[tuple[Member, Result]]) -> None:
        """Tells the supply of outcomes, after the task has seen and measured the models of written weights.

        In this order, since the supply may commit a trial's end at once: what is kept of its models has to lie in the
        project by then.
        """
        for member, result in results:
            if member.view.data.shuffle and isinstance(member.view.training, ResidentRows):
                result.notes[ORDERED] = self.shuffle_seed if self.task.may.share_order else member.plan.seed
        # All in one call of `keep`: models that end together predict their rows together (row A: 50 calls for four
        # models instead of 200).
        scored = [member for member, result in results if result.ending.has_score]
        kept = [member for member in scored if self.task.keep is not None and member.plan.keeps_predictions]
        if kept and self.time.allows_predictions(kept):
            self._keep(kept)
        elif kept:
            with self.aside.keeping("predictions"):
                raise TimeoutError("the time was up")
        for member in scored if self.task.measures else ():
            member.show_best()
        for member, result in results:
            take_measures(result, member.model, self.task, self.aside)
            result.costs = member.costs()  # now, when the predictions are among them
            self.supply.finish(result)

    def _keep(self, members: Sequence[Member]) -> None:
        assert self.task.keep is not None  # our bug: asked before
        started = time.perf_counter()
        try:
            self.task.keep([(member.plan, member.predictor()) for member in members])
        except Exception:
            for member in members:  # the one that it comes from is left out, and no other
                with self.aside.keeping("predictions"):
                    self.task.keep([(member.plan, member.predictor())])
        for member in members:
            member.predict_seconds += (time.perf_counter() - started) / len(members)
        self.time.note_predictions(members)
