"""Where a call stands, from its events: numbers alone, no terminal. Cheap, since the search waits for it."""

from __future__ import annotations

import dataclasses
import math
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from manyfit.core.events import (
    CallBegan,
    CallEnded,
    EpochsEnded,
    Event,
    ExecutionsEnded,
    PhaseBegan,
    RunsPlanned,
    StepBegan,
    StepEnded,
    TrialEnded,
    TrialsBegan,
)
from manyfit.core.objective import Objective
from manyfit.core.records import Plan, Values
from manyfit.store.facts import Leader, SearchPlan

Key = tuple[str, str, int]  # of a member: trial, phase, execution
SEARCH = "a search"


class ProgressSources(Protocol):
    """What a board asks of a search besides its events, whenever it is drawn."""

    objective: Objective

    def plan(self) -> SearchPlan:
        """How far the search is to go."""

    def leader(self) -> Leader | None:
        """Who leads, as it was last looked at."""

    def programs(self) -> Sequence[Mapping[str, Any]]:
        """Records of the programs that were compiled so far."""

    def spent(self) -> Mapping[str, float]:
        """Seconds of parts of the search that no execution knows of."""

    def left(self) -> float:
        """Seconds until the search's limit; infinite without one."""


@dataclasses.dataclass
class MemberState:
    """An execution that trains.

    Attributes:
        name: of its trial; "07/3" is the third run of trial 07, where a step makes several of each.
    """

    trial_id: str
    name: str
    values: Values
    epochs: int = 0
    curve: list[float | None] = dataclasses.field(default_factory=list)


class StepProgress:
    """What is counted of one step: a search, a confirmation, the folds of a bag."""

    def __init__(self, what: str, now: float) -> None:
        self.what = what
        self.began_at = now
        self.first_epoch_at: float | None = None
        self.num_first = 0  # epochs that were reported then: what they took is not known
        self.num_begun = self.num_ended = self.num_runs = self.num_epochs = 0
        self.ended: set[str] = set()  # trials
        self.least_epochs = 1  # that tell a pace
        self.planned: RunsPlanned | None = None

    def add_epochs(self, count: int, now: float) -> None:
        """Notes that so many executions have ended an epoch."""
        if self.first_epoch_at is None:
            self.first_epoch_at, self.num_first, self.least_epochs = now, count, 4 * count
        self.num_epochs += count

    def pace(self, now: float) -> float | None:
        """Seconds per epoch, all members together; None before a few have ended, since the first are the slowest."""
        later = self.num_epochs - self.num_first
        if self.first_epoch_at is None or later < max(1, self.least_epochs):
            return None
        return (now - self.first_epoch_at) / later


@dataclasses.dataclass
class Phase:
    """A part of `fit`."""

    name: str
    began_at: float
    seconds_left: float  # of the whole call, when it began
    seconds: float | None = None  # that it took; None: it is under way


class Board:
    """Takes note of events; everything it knows is read under its lock.

    Args:
        sources: of what events do not tell.
        now: seconds that never go back. Tests pass their own.
    """

    def __init__(self, sources: ProgressSources, *, now: Callable[[], float] = time.monotonic) -> None:
        self.sources = sources
        self.now = now
        self.lock = threading.Lock()
        # Calls contain steps, and `fit` contains calls: what is shown belongs to the outermost.
        self._depth = 0
        self.begin(SEARCH)

    def begin(self, what: str) -> None:
        """Begins anew, for a call."""
        self.what = what
        self.began_at = self.last_at = self.now()
        self.step = StepProgress(what, self.began_at)
        self.phases: list[Phase] = []
        self.members: dict[Key, MemberState] = {}
        self.values: dict[str, Values] = {}
        self.scores: dict[str, float] = {}
        self._on_parts: dict[str, float] = {}  # scores of a part of the rows, shown as long as there are no others
        self.reasons: dict[str, str] = {}  # of trials that failed
        self.trained: dict[Key, None] = {}  # executions that have ended, in their order
        self.num_epochs = 0  # of all steps of the call
        # The book counts seconds for the whole life of the tuner; a call shows its own.
        self._parts_before = self._parts()

    def hear(self, event: Event) -> None:
        """See `manyfit.core.events.Listener`."""
        with self.lock:
            self._hear(event)

    def _hear(self, event: Event) -> None:
        now = self.last_at = self.now()
        if isinstance(event, CallBegan | StepBegan):
            self._depth += 1
            if self._depth == 1:
                self.begin(event.what)
            elif self.step.what != event.what or self.step.num_epochs:
                # A step of the call, or a call of its own within `fit`: counted by itself.
                self.step, self.members = StepProgress(event.what, now), {}
        elif isinstance(event, CallEnded | StepEnded):
            self._depth = max(0, self._depth - 1)
            # Those that a limit has cut off are reported by nobody.
            self.members.clear()
            if self._depth == 0:
                self._end_phase(now)
        elif isinstance(event, PhaseBegan):
            self._end_phase(now)
            self.phases.append(Phase(event.name, now, event.seconds_left))
            self.step, self.members = StepProgress(event.name, now), {}
        elif isinstance(event, RunsPlanned):
            self.step.planned = event
        elif isinstance(event, TrialsBegan):
            self.values.update(event.trials)
            self.step.num_begun += len(event.trials)
        elif isinstance(event, EpochsEnded):
            self.step.add_epochs(len(event.epochs), now)
            self.num_epochs += len(event.epochs)
            for plan, epoch, logs in event.epochs:
                self._epoch(plan, epoch, logs)
        elif isinstance(event, ExecutionsEnded):
            self.step.num_runs += len(event.plans)
            for plan in event.plans:
                self.members.pop(_key(plan), None)
                self.trained[_key(plan)] = None
        else:
            self._ended(event)

    def _end_phase(self, now: float) -> None:
        if self.phases and self.phases[-1].seconds is None:
            self.phases[-1].seconds = now - self.phases[-1].began_at

    def _epoch(self, plan: Plan, epoch: int, logs: Mapping[str, float]) -> None:
        known = self.members.get(_key(plan))
        if known is None:
            own = getattr(plan.values, "values", None)
            values: Values = self.values.get(plan.trial_id) or (dict(own) if isinstance(own, Mapping) else {})
            # Only where a trial has one run at a time its id says which member it is.
            several = plan.phase != "search" or self.sources.plan().executions_per_trial > 1
            name = f"{plan.trial_id}/{plan.execution + 1}" if several else plan.trial_id
            known = self.members[_key(plan)] = MemberState(plan.trial_id, name, values)
        known.epochs = epoch + 1
        objective = self.sources.objective
        known.curve.append(objective.get_value(logs) if objective.has_value(logs) else None)

    def _ended(self, event: TrialEnded) -> None:
        # By their ids: one that is tried again, or trained anew on more rows, ends more than once.
        self.step.ended.add(event.trial_id)
        self.step.num_ended = len(self.step.ended)
        if event.score is None:
            self.reasons[event.trial_id] = event.reason or ""
            return
        self._on_parts.pop(event.trial_id, None)
        (self.scores if event.num_rows is None else self._on_parts)[event.trial_id] = event.score

    # What follows from it, to be asked under the lock ------------------------------------------------------------

    @property
    def elapsed(self) -> float:
        """Seconds of this call."""
        return self.now() - self.began_at

    @property
    def num_runs(self) -> int:
        """Executions that have ended in this call."""
        return len(self.trained)

    @property
    def is_searching(self) -> bool:
        """Whether trials are searched right now: no other step is under way."""
        return self.step.what in (SEARCH, "search")

    @property
    def all_epochs(self) -> int | None:
        """Epochs that the step may train; None: nobody knows."""
        if self.step.planned is not None:
            return self.step.planned.num_epochs
        plan = self.sources.plan()
        if not self.is_searching or plan.max_trials is None or plan.max_epochs is None:
            return None
        return plan.max_trials * plan.max_epochs * plan.executions_per_trial

    def pace(self) -> float | None:
        """Seconds per epoch, all members together; None: too few have ended."""
        return self.step.pace(self.last_at)

    def seconds_left(self) -> float | None:
        """Of the step, until epochs or seconds are used up, whichever comes first; None: nobody knows."""
        limit = self.sources.left() if self.is_searching else self.call_seconds_left()
        known = [limit] if limit is not None and limit != math.inf else []
        # Epochs tell more than the limit where they end first, and nothing before a pace is known.
        total, pace = self.all_epochs, self.pace()
        if total and pace is not None:
            known.append(pace * max(0, total - self.step.num_epochs))
        return min(known, default=None)

    def call_seconds_left(self) -> float | None:
        """Of the whole `fit`; None: it has no limit, or this is no `fit`."""
        if not self.phases or self.phases[-1].seconds_left == math.inf:
            return None
        return max(0.0, self.phases[-1].seconds_left - (self.now() - self.phases[-1].began_at))

    def phase_seconds(self) -> dict[str, float]:
        """What each phase of `fit` has taken, the one under way included."""
        found: dict[str, float] = {}
        for phase in self.phases:
            seconds = self.now() - phase.began_at if phase.seconds is None else phase.seconds
            found[phase.name] = found.get(phase.name, 0.0) + seconds
        return found

    def parts(self) -> dict[str, float]:
        """Seconds of this call that went into compiling, proposing, storing."""
        before = self._parts_before
        return {name: max(0.0, seconds - before.get(name, 0.0)) for name, seconds in self._parts().items()}

    def _parts(self) -> dict[str, float]:
        compiled = math.fsum(one["compile_seconds"] for one in self.sources.programs())
        return {"compile": compiled, **self.sources.spent()}

    def best(self) -> tuple[str, float] | None:
        """The best trial that has ended, and its score."""
        loss = self.sources.objective.loss
        scores = self.scores or self._on_parts
        ranked = sorted(scores, key=lambda trial_id: loss(scores[trial_id]))
        return (ranked[0], scores[ranked[0]]) if ranked else None

    def best_that_trains(self) -> tuple[str, float] | None:
        """The member that has come furthest, and its best value so far."""
        loss, found = self.sources.objective.loss, []
        for member in self.members.values():
            found += [(loss(value), member.name, value) for value in member.curve if value is not None]
        _, name, value = min(found, default=(0.0, "", None), key=lambda one: one[0])
        return None if value is None else (name, value)

    def within(self, error: float) -> list[str]:
        """Trials whose scores are no further from the best than that, best first, the best left out."""
        best = self.best()
        if best is None:
            return []
        loss = self.sources.objective.loss
        near = [one for one, score in self.scores.items() if abs(score - best[1]) <= error and one != best[0]]
        return sorted(near, key=lambda trial_id: loss(self.scores[trial_id]))

    def varied(self) -> list[str]:
        """Hyperparameters in which the members that train differ."""
        seen: dict[str, set[Any]] = {}
        for member in self.members.values():
            for name, value in member.values.items():
                seen.setdefault(name, set()).add(value)
        return [name for name, values in seen.items() if len(values) > 1 and not name.startswith("tuner/")]


def _key(plan: Plan) -> Key:
    return plan.trial_id, plan.phase, plan.execution
