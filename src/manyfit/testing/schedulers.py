"""The conformance suite for schedulers, and the small fake oracle that it runs them with.

To check a new scheduler, subclass the suite in a test file:

    class TestMyScheduler(SchedulerSuite):
        def make(self) -> Scheduler:
            return MyScheduler(max_epochs=9)
"""

from __future__ import annotations

import abc
import dataclasses
import json
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from manyfit.core.records import Decision, Ending, Progress
from manyfit.schedulers.base import (
    EARLIER_EPOCHS,
    PARENT,
    ROWS,
    Branch,
    Job,
    Limits,
    Restart,
    Scheduler,
    Start,
    num_inherited,
)

Curve = Callable[[int, int], float]  # (number of the trial, epoch from 1) -> loss


def falling_curve(trial: int, epoch: int) -> float:
    """A loss that falls towards a limit of its own; trials differ, and later epochs tell more of the limit."""
    limit = (trial * 37 % 101) / 101
    return limit + (1 + trial * 53 % 7) / (3 + epoch)


@dataclasses.dataclass
class FakeOracle:
    """Trains trials whose losses are given, one epoch at a time; its only memory is the history.

    A trial whose curve is infinite from its first epoch on diverges at its first; `fail_at` names trials that
    fail at an epoch.
    """

    limits: Limits = dataclasses.field(default_factory=Limits)
    curve: Curve = falling_curve
    fail_at: dict[int, int] = dataclasses.field(default_factory=dict)
    fail_as: Ending = Ending.FAILED
    slots: int = 1
    space_size: int | None = None  # configurations that the sampler has, unknown to the scheduler
    fit_epochs: int = 9  # epochs of a trial whose target is None
    history: list[Progress] = dataclasses.field(default_factory=list)
    jobs: list[Job] = dataclasses.field(default_factory=list)
    decisions: set[Decision] = dataclasses.field(default_factory=set)

    def fill(self, scheduler: Scheduler) -> int:
        """Hands out jobs to the free slots; returns how many trials are running."""
        limits = self.limits
        if self.space_size is not None and self.num_starts >= self.space_size:
            limits = dataclasses.replace(limits, exhausted=True)
        num_free = self.slots - sum(progress.running for progress in self.history)
        if num_free == 0:
            return self.slots
        served_all = True
        for job in scheduler.assign(tuple(self.history), num_free, limits):
            served_all &= self._serve(job)
        if not served_all:
            return self.fill(scheduler)  # the space is known to be exhausted now
        return sum(progress.running for progress in self.history)

    def _serve(self, job: Job) -> bool:
        if isinstance(job, Start):
            if self.space_size is not None and self.num_starts >= self.space_size:
                return False
            name = f"{len(self.history):04d}"
            self.history.append(Progress(name, (), job.target_epochs, running=True, tags=dict(job.tags)))
        elif isinstance(job, Branch):
            self._branch(job)
        elif isinstance(job, Restart):
            self._restart(job)
        else:
            row, progress = self._find(job.trial_id)
            assert progress.paused, f"{job} resumes a trial that is not paused: {progress}"
            assert job.target_epochs > progress.epochs, f"{job} trains nothing: {progress}"
            tags = {**progress.tags, **job.tags}
            self.history[row] = dataclasses.replace(progress, target_epochs=job.target_epochs, running=True, tags=tags)
        self.jobs.append(job)
        return True

    def _branch(self, job: Branch) -> None:
        _, parent = self._find(job.parent_id)
        _, replaced = self._find(job.replaces)
        assert parent.paused and parent.epochs == job.parent_epoch, f"{job} begins with a state that is gone: {parent}"
        assert not replaced.running, f"{job} takes the place of a trial that is running: {replaced}"
        assert job.target_epochs > job.parent_epoch, f"{job} trains nothing"
        inherited = (math.nan,) * job.parent_epoch  # epochs that it has not trained itself
        tags = {**job.tags, **job.lineage}
        name = f"{len(self.history):04d}"
        self.history.append(Progress(name, inherited, job.target_epochs, running=True, tags=tags))

    def _restart(self, job: Restart) -> None:
        row, progress = self._find(job.trial_id)
        assert progress.ending is not None and progress.ending.has_score, f"{job} trains one that runs: {progress}"
        before = progress.tags.get(ROWS)
        assert before is not None and (job.num_rows or math.inf) > float(before), f"{job} has no more rows: {progress}"
        tags = {name: tag for name, tag in {**progress.tags, **job.tags}.items() if name != ROWS}
        tags |= {} if job.num_rows is None else {ROWS: job.num_rows}
        tags[EARLIER_EPOCHS] = int(progress.tags.get(EARLIER_EPOCHS, 0)) + progress.epochs
        self.history[row] = Progress(progress.trial_id, (), job.target_epochs, running=True, tags=tags)

    def _find(self, trial_id: str) -> tuple[int, Progress]:
        return next((row, p) for row, p in enumerate(self.history) if p.trial_id == trial_id)

    def train(self, scheduler: Scheduler, rows: Sequence[int]) -> None:
        """Trains these running trials for one epoch each, and does what the scheduler decides."""
        reported = []
        for row in rows:
            progress = self.history[row]
            epoch = progress.epochs + 1
            if self.fail_at.get(row) == epoch:
                self.history[row] = dataclasses.replace(progress, running=False, ending=self.fail_as)
                continue
            loss = self.curve(row, epoch)
            progress = dataclasses.replace(progress, curve=(*progress.curve, loss))
            if loss == math.inf and progress.best_loss() == math.inf:
                self.history[row] = dataclasses.replace(progress, running=False, ending=Ending.DIVERGED)
                continue
            self.history[row] = progress
            reported.append(row)
        ids = [self.history[row].trial_id for row in reported]
        for row, decision in zip(reported, scheduler.decide(tuple(self.history), ids), strict=True):
            self._apply(row, decision, scheduler.max_epochs or self.fit_epochs)

    def _apply(self, row: int, decision: Decision, full_epochs: int) -> None:
        progress = self.history[row]
        self.decisions.add(decision)
        if decision is Decision.PAUSE:
            self.history[row] = dataclasses.replace(progress, running=False)
        elif decision is Decision.STOP:
            self.history[row] = dataclasses.replace(progress, running=False, ending=Ending.STOPPED)
        elif progress.epochs >= full_epochs:
            self.history[row] = dataclasses.replace(progress, running=False, ending=Ending.COMPLETED)

    def run(self, make: Callable[[], Scheduler], *, order: np.random.Generator | None = None) -> list[Progress]:
        """Runs a search to its end.

        Args:
            make: called for every question, so that no scheduler sees two of them: each question is a restart.
            order: None: all running trials train an epoch together; a generator: one at a time, drawn from it.
        """
        while self.fill(make()) > 0:
            rows = [row for row, progress in enumerate(self.history) if progress.running]
            if order is not None:
                rows = [int(order.choice(rows))]
            self.train(make(), rows)
        return self.history

    @property
    def num_epochs(self) -> int:
        """Epochs trained so far."""
        own = sum(max(0, progress.epochs - num_inherited(progress.tags)) for progress in self.history)
        return own + sum(int(progress.tags.get(EARLIER_EPOCHS, 0)) for progress in self.history)

    @property
    def num_starts(self) -> int:
        """Trials that began with values of the sampler: all but branches of others."""
        return sum(PARENT not in progress.tags for progress in self.history)


class SchedulerSuite(abc.ABC):
    """Tests that every scheduler has to pass. They need a scheduler of 9 epochs or fewer, and at least 2."""

    @abc.abstractmethod
    def make(self) -> Scheduler:
        """A scheduler with the same settings at every call."""

    def full_epochs(self) -> int:
        """Epochs of a full training."""
        return self.make().max_epochs or FakeOracle.fit_epochs

    def test_max_trials_is_never_passed_and_the_search_ends(self) -> None:
        # Fewer than a rung holds, about one, and many; with one slot, some, and more slots than trials.
        for max_trials in (1, 2, 7, 40):
            for slots in (1, 3, 64):
                oracle = FakeOracle(Limits(max_trials=max_trials), slots=slots)
                history = oracle.run(self.make)
                assert oracle.num_starts <= max_trials
                assert not any(progress.running for progress in history)
                assert max(progress.epochs for progress in history) == self.full_epochs()

    def test_max_total_epochs_is_never_passed_however_many_slots_there_are(self) -> None:
        if self.make().max_epochs is None:
            return  # a cap on epochs is refused there, see `FullBudget`
        for max_total_epochs in (0, 1, 13, 100):
            for slots in (1, 16):
                limits = Limits(max_trials=60, max_total_epochs=max_total_epochs)
                oracle = FakeOracle(limits, slots=slots)
                oracle.run(self.make)
                assert oracle.num_epochs <= max_total_epochs
                if max_total_epochs == 100:
                    assert oracle.num_epochs >= 100 - self.full_epochs() + 1 or oracle.num_starts == 60

    def test_no_more_jobs_than_slots(self) -> None:
        for count in (1, 5):
            assert len(self.make().assign((), count, Limits(max_trials=20))) <= count

    def test_jobs_are_sane(self) -> None:
        oracle = FakeOracle(Limits(max_trials=30), slots=4)
        oracle.run(self.make, order=np.random.default_rng(0))
        for job in oracle.jobs:  # that only paused trials are resumed, and forwards, is checked by the oracle
            assert job.target_epochs is None or 1 <= job.target_epochs <= self.full_epochs()
            assert all(isinstance(key, str) for key in job.tags)

    def test_answers_are_a_pure_function_of_history(self) -> None:
        def one_for_all() -> Callable[[], Scheduler]:
            scheduler = self.make()
            return lambda: scheduler

        for slots in (1, 5):
            fresh = FakeOracle(Limits(max_trials=25), slots=slots).run(self.make, order=np.random.default_rng(1))
            kept = FakeOracle(Limits(max_trials=25), slots=slots).run(one_for_all(), order=np.random.default_rng(1))
            assert fresh == kept

    def test_asking_twice_gives_one_answer(self) -> None:
        oracle = FakeOracle(Limits(max_trials=12), slots=3)
        for _ in range(15):
            first = self.make().assign(tuple(oracle.history), 3, oracle.limits)
            assert self.make().assign(tuple(oracle.history), 3, oracle.limits) == first
            if oracle.fill(self.make()) == 0:
                break
            oracle.train(self.make(), [row for row, progress in enumerate(oracle.history) if progress.running])

    def test_a_small_space_still_finds_its_best(self) -> None:
        for known in (False, True):
            limits = Limits(num_configurations=8) if known else Limits()
            for slots in (1, 3, 8):
                oracle = FakeOracle(limits, slots=slots, space_size=8)
                history = oracle.run(self.make)
                assert oracle.num_starts == 8
                assert max(progress.epochs for progress in history) == self.full_epochs()

    def test_failing_trials_do_not_hang_the_search(self) -> None:
        for ending in (Ending.FAILED, Ending.OUT_OF_MEMORY):
            fail_at = {row: 1 + row % 4 for row in range(0, 40, 2)}
            oracle = FakeOracle(Limits(max_trials=40), fail_at=fail_at, fail_as=ending, slots=4)
            history = oracle.run(self.make)
            assert max(progress.epochs for progress in history) == self.full_epochs()

    def test_a_search_in_which_all_trials_fail_or_diverge_ends(self) -> None:
        everybody = dict.fromkeys(range(20), 1)
        assert FakeOracle(Limits(max_trials=20), fail_at=everybody, slots=3).run(self.make)
        diverging = FakeOracle(Limits(max_trials=20), curve=lambda trial, epoch: math.inf, slots=3)
        assert all(progress.ending is Ending.DIVERGED for progress in diverging.run(self.make))

    def test_epochs_without_a_logged_objective_are_no_news(self) -> None:
        def gappy(trial: int, epoch: int) -> float:
            return falling_curve(trial, epoch) if epoch == 1 or epoch % 2 == 0 else math.nan

        history = FakeOracle(Limits(max_trials=20), curve=gappy, slots=2).run(self.make)
        assert max(progress.epochs for progress in history) == self.full_epochs()

    def test_it_pauses_stops_and_branches_only_where_it_says_so(self) -> None:
        # Trainers prepare for pauses by what `may_pause` says: a pause that comes all the same would lose a training.
        for order in (None, np.random.default_rng(2)):
            oracle = FakeOracle(Limits(max_trials=30), slots=4)
            oracle.run(self.make, order=order)
            assert self.make().may_pause or Decision.PAUSE not in oracle.decisions
            assert self.make().may_stop or Decision.STOP not in oracle.decisions
            assert self.make().may_branch or not any(isinstance(job, Branch) for job in oracle.jobs)
            assert self.make().may_restart or not any(isinstance(job, Restart) for job in oracle.jobs)

    def test_settings_are_json_and_name_the_scheduler(self) -> None:
        settings: dict[str, Any] = self.make().settings()
        assert json.loads(json.dumps(settings)) == settings
        # Projects store it, so it outlives the name of a class: `HyperbandScheduler` has always been "Hyperband" there.
        assert settings["name"].removesuffix("Scheduler") == type(self.make()).__name__.removesuffix("Scheduler")

    def test_decisions_come_one_per_trial_in_order(self) -> None:
        target = self.full_epochs()
        history = [Progress(f"{i}", (1.0 + i,), target, running=True) for i in range(4)]
        decisions = self.make().decide(history, ["2", "0"])
        assert len(decisions) == 2 and all(isinstance(decision, Decision) for decision in decisions)
