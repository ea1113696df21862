"""What is read off all trials again and again, kept in order: of a change only the trial that changed is read anew."""

from __future__ import annotations

import bisect
import itertools
import threading
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Generic, TypeVar

from manyfit.core.objective import Objective
from manyfit.core.records import Observation, Progress, SteadyDict
from manyfit.oracles.trial import Trial

_Item = TypeVar("_Item")


class BookedTrials(SteadyDict[str, Trial]):
    """The trials of a book in the order of their start, and which of them have changed since that was last asked.

    It is a dictionary like any other to those who put trials in and take them out, KerasTuner's programs among them.

    Args:
        trials: to begin with.
        before: those in whose place these come.

    Attributes:
        changed: ids of trials that came, went or changed; whoever reads them takes them out.
        next_place: counts them.
    """

    def __init__(
        self, trials: Mapping[str, Trial] | Iterable[tuple[str, Trial]] = (), before: BookedTrials | None = None
    ) -> None:
        super().__init__()
        self.changed: dict[str, None] = {} if before is None else before.changed
        self._places: dict[str, int] = {}
        # Places are not given twice: who reads changes may know some trials of before, and some of now.
        self.next_place: Iterator[int] = itertools.count() if before is None else before.next_place
        self.update(trials)

    def place(self, trial_id: str) -> int | None:
        """A number that grows in the order of the trials; None: there is no such trial."""
        return self._places.get(trial_id)

    def __setitem__(self, trial_id: str, trial: Trial) -> None:
        if trial_id not in self._places:
            self._places[trial_id] = next(self.next_place)
        super().__setitem__(trial_id, trial)
        trial.tell_changes(self.changed, trial_id)

    def __delitem__(self, trial_id: str) -> None:
        super().__delitem__(trial_id)
        self._gone(trial_id)

    def _gone(self, trial_id: str) -> None:
        self._places.pop(trial_id, None)
        self.changed[trial_id] = None

    # A dictionary changes itself in all these ways without asking the two above.
    def pop(self, trial_id: str, *default: Any) -> Any:
        found = super().pop(trial_id, *default)
        self._gone(trial_id)
        return found

    def popitem(self) -> tuple[str, Trial]:
        found = super().popitem()
        self._gone(found[0])
        return found

    def clear(self) -> None:
        for trial_id in self:
            del self[trial_id]

    def setdefault(self, trial_id: str, default: Trial) -> Trial:
        if trial_id not in self:
            self[trial_id] = default
        return self[trial_id]

    def update(self, *others: Any, **named: Trial) -> None:
        for trial_id, trial in dict(*others, **named).items():
            self[trial_id] = trial

    def __ior__(self, other: Any) -> BookedTrials:  # type: ignore[override,misc]  # as dictionaries have it
        self.update(other)
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return SteadyDict, (dict(self),)  # a copy is nobody's book


class _Ordered(Generic[_Item]):
    """Things in the order of their places, each of which is found without going through the others."""

    def __init__(self) -> None:
        self.places: list[Any] = []
        self.items: list[_Item] = []

    def put(self, place: Any, item: _Item) -> None:
        """Takes a thing in, in place of the one that is there."""
        at = bisect.bisect_left(self.places, place)
        if at < len(self.places) and self.places[at] == place:
            self.items[at] = item
        else:
            self.places.insert(at, place)
            self.items.insert(at, item)

    def drop(self, place: Any) -> None:
        """Lets the thing of this place go, if there is one."""
        at = bisect.bisect_left(self.places, place)
        if at < len(self.places) and self.places[at] == place:
            del self.places[at], self.items[at]


class TrialViews:
    """What samplers, schedulers and rankings read of the trials of a book.

    Each is asked for whenever a trial begins or ends. Going through all trials at each question would be quadratic in
    their number; so what was read of a trial stays until the trial says that it has changed. Of trials that are under
    way the curves are read anew, since they grow.

    Args:
        objective: what is ranked.
        trials: of the book.
    """

    def __init__(self, objective: Objective, trials: BookedTrials) -> None:
        self._objective = objective
        self.trials = trials
        self._lock = threading.RLock()  # somebody may plot or print while the search runs
        self._places: dict[str, int] = {}  # of the trials, as the views below know them
        self._ranks: dict[str, tuple[float, int]] = {}  # of those that are ranked, likewise
        self._unended: _Ordered[Trial] = _Ordered()
        self._completed: _Ordered[Trial] = _Ordered()
        self._ranked: _Ordered[Trial] = _Ordered()
        self._apart: set[str] = set()  # completed trials whose place among others is no matter of their score alone
        self._measured: dict[str, dict[str, float]] = {}
        self._observations: _Ordered[Observation] = _Ordered()
        self._progress: _Ordered[Progress] = _Ordered()
        self._unobserved: dict[str, Trial] = {}  # trials that have ended, of which the view does not know yet
        self._unread: dict[str, Trial] = {}  # trials of whose progress the view does not know yet

    def unended(self) -> list[Trial]:
        """Trials that were started and have not ended, in the order of start."""
        with self._lock:
            self._catch_up()
            return list(self._unended.items)

    def completed(self) -> list[Trial]:
        """Trials that have ended as ones that are ranked, in the order of start."""
        with self._lock:
            self._catch_up()
            return list(self._completed.items)

    def are_apart(self) -> bool:
        """Whether the score alone does not order the completed trials: one has a part of the rows, or was confirmed."""
        with self._lock:
            self._catch_up()
            return bool(self._apart)

    def by_score(self) -> list[Trial] | None:
        """Completed trials, best score first; None where the score alone does not order them."""
        with self._lock:
            return None if self.are_apart() else list(self._ranked.items)

    def measured(self, trial: Trial) -> dict[str, float]:
        """`Trial.measured`; of completed trials it is worked out once."""
        with self._lock:
            self._catch_up()
            # To what was reported anybody may add. A trial that is not the book's own tells nobody of changes.
            if trial.is_reported or trial.trial_id not in self._ranks or self.trials.get(trial.trial_id) is not trial:
                return trial.measured
            if trial.trial_id not in self._measured:
                self._measured[trial.trial_id] = trial.measured
            return self._measured[trial.trial_id]

    def observations(self) -> list[Observation]:
        """What samplers may know: every trial that ended, in the order of start."""
        with self._lock:
            self._catch_up()
            while self._unobserved:
                trial_id, trial = self._unobserved.popitem()
                self._observations.put(self._places[trial_id], trial.observation(self._objective))
            return list(self._observations.items)

    def progress(self) -> list[Progress]:
        """What schedulers may know: every trial that was started, in that order."""
        with self._lock:
            self._catch_up()
            while self._unread:
                trial_id, trial = self._unread.popitem()
                self._progress.put(self._places[trial_id], trial.progress(self._objective))
            for place, trial in zip(self._unended.places, self._unended.items, strict=True):
                if trial.is_underway:
                    self._progress.put(place, trial.progress(self._objective))
            return list(self._progress.items)

    def _catch_up(self) -> None:
        while changed := self.trials.changed:
            trial_id, _ = changed.popitem()  # first: should it change meanwhile, it is there once more
            self._forget(trial_id)
            trial, place = self.trials.get(trial_id), self.trials.place(trial_id)
            if trial is not None and place is not None:
                self._take(trial_id, trial, place)

    def _forget(self, trial_id: str) -> None:
        if (place := self._places.pop(trial_id, None)) is not None:
            for drop in (self._unended.drop, self._completed.drop, self._observations.drop, self._progress.drop):
                drop(place)
        if (rank := self._ranks.pop(trial_id, None)) is not None:
            self._ranked.drop(rank)
        self._apart.discard(trial_id)
        self._measured.pop(trial_id, None)
        self._unobserved.pop(trial_id, None)
        self._unread.pop(trial_id, None)

    def _take(self, trial_id: str, trial: Trial, place: int) -> None:
        self._places[trial_id] = place
        self._unread[trial_id] = trial
        if not trial.has_ended:
            self._unended.put(place, trial)
            return
        self._unobserved[trial_id] = trial
        if trial.is_completed:
            self._completed.put(place, trial)
            rank = self._ranks[trial_id] = self._objective.loss(trial.score), place
            self._ranked.put(rank, trial)
            if trial.num_rows is not None or trial.confirmed is not None:
                self._apart.add(trial_id)
