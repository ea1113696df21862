"""Where a search stands, from its events: numbers alone, no terminal. Cheap, since the search waits for it."""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from manyfit.core.events import EpochsEnded, Event, ExecutionsEnded, StepBegan, StepEnded, TrialEnded, TrialsBegan
from manyfit.core.objective import Objective
from manyfit.core.records import Plan, Values
from manyfit.store.facts import Leader, SearchPlan

Key = tuple[str, str, int]  # of a member: trial, phase, execution


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
        """Seconds until the limit; infinite without one."""


@dataclasses.dataclass
class MemberState:
    """An execution that trains."""

    trial_id: str
    values: Values
    epochs: int = 0
    curve: list[float | None] = dataclasses.field(default_factory=list)


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
        self.begin("a search")

    def begin(self, what: str) -> None:
        """Begins to count anew, for a step."""
        self.what = what
        self.began_at = self.last_at = self.now()
        self.first_epoch_at: float | None = None
        self.num_first = 0  # epochs that were reported then: what they took is not known
        self.members: dict[Key, MemberState] = {}
        self.values: dict[str, Values] = {}
        self.scores: dict[str, float] = {}
        self._on_parts: dict[str, float] = {}  # scores of a part of the rows, shown as long as there are no others
        self._ended_ids: set[str] = set()
        self.reasons: dict[str, str] = {}  # of trials that failed
        self.num_begun = self.num_ended = self.num_epochs = 0

    def hear(self, event: Event) -> None:
        """See `manyfit.core.events.Listener`."""
        with self.lock:
            self.last_at = self.now()
            if isinstance(event, StepBegan):
                self.begin(event.what)
            elif isinstance(event, TrialsBegan):
                self.values.update(event.trials)
                self.num_begun += len(event.trials)
            elif isinstance(event, EpochsEnded):
                if self.first_epoch_at is None:
                    self.first_epoch_at, self.num_first = self.last_at, len(event.epochs)
                for plan, epoch, logs in event.epochs:
                    self._epoch(plan, epoch, logs)
            elif isinstance(event, ExecutionsEnded):
                for plan in event.plans:
                    self.members.pop(_key(plan), None)
            elif isinstance(event, TrialEnded):
                self._ended(event)
            elif isinstance(event, StepEnded):
                self.members.clear()

    def _epoch(self, plan: Plan, epoch: int, logs: Mapping[str, float]) -> None:
        self.num_epochs += 1
        known = self.members.setdefault(_key(plan), MemberState(plan.trial_id, self._values_of(plan)))
        known.epochs = epoch + 1
        objective = self.sources.objective
        known.curve.append(objective.get_value(logs) if objective.has_value(logs) else None)

    def _values_of(self, plan: Plan) -> Values:
        values: Values = self.values.get(plan.trial_id) or dict(getattr(plan.values, "values", {}))
        return values

    def _ended(self, event: TrialEnded) -> None:
        # By their ids: one that is tried again, or trained anew on more rows, ends more than once.
        self._ended_ids.add(event.trial_id)
        self.num_ended = len(self._ended_ids)
        if event.score is None:
            self.reasons[event.trial_id] = event.reason or ""
            return
        self._on_parts.pop(event.trial_id, None)
        (self.scores if event.num_rows is None else self._on_parts)[event.trial_id] = event.score

    # What follows from it, to be asked under the lock ------------------------------------------------------------

    @property
    def elapsed(self) -> float:
        """Seconds of this step."""
        return self.now() - self.began_at

    @property
    def all_epochs(self) -> int | None:
        """Epochs that the whole search may train; None: nobody knows."""
        plan = self.sources.plan()
        if self.what != "a search" or plan.max_trials is None or plan.max_epochs is None:
            return None
        return plan.max_trials * plan.max_epochs * plan.executions_per_trial

    def pace(self) -> float | None:
        """Seconds per epoch, all members together; None before a few have ended, since the first are the slowest."""
        later = self.num_epochs - self.num_first
        if self.first_epoch_at is None or later < 4 * max(1, self.num_first):
            return None
        return (self.last_at - self.first_epoch_at) / later

    def seconds_left(self) -> float | None:
        """Until epochs or seconds are used up, whichever comes first; None: nobody knows."""
        limit = self.sources.left()
        known = [limit] if limit != float("inf") else []
        total, pace = self.all_epochs, self.pace()
        if total and pace is not None:
            known.append(pace * max(0, total - self.num_epochs))
        return min(known, default=None)

    def best(self) -> tuple[str, float] | None:
        """The best trial that has ended, and its score."""
        loss = self.sources.objective.loss
        scores = self.scores or self._on_parts
        ranked = sorted(scores, key=lambda trial_id: loss(scores[trial_id]))
        return (ranked[0], scores[ranked[0]]) if ranked else None

    def best_that_trains(self) -> tuple[str, float] | None:
        """The trial of the member that has come furthest, and its best value so far."""
        loss, found = self.sources.objective.loss, []
        for member in self.members.values():
            found += [(loss(value), member.trial_id, value) for value in member.curve if value is not None]
        _, trial_id, value = min(found, default=(0.0, "", None), key=lambda one: one[0])
        return None if value is None else (trial_id, value)

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
