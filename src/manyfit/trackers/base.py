"""What another tool is told of a search: the contract of a tracker, and a finished project told as if it ran."""

from __future__ import annotations

import abc
import dataclasses
import math
import statistics
from collections.abc import Mapping, Sequence

from manyfit.core.records import Ending, Values
from manyfit.core.signatures import checked_arguments
from manyfit.report.snapshot import RecordedTrial, Snapshot

_SEARCH = "search"


@dataclasses.dataclass(frozen=True)
class TrackedEpoch:
    """An execution has finished an epoch.

    Attributes:
        trial_id: of its trial.
        phase: what it runs for: "search", "confirm", "fold", "retrain", ...
        execution: its number within the phase.
        epoch: from 0.
        metrics: that were logged.
    """

    trial_id: str
    phase: str
    execution: int
    epoch: int
    metrics: Mapping[str, float]

    @property
    def prefix(self) -> str:
        """What names of metrics begin with: nothing for the first run of the search, "confirm2/" for a later one.

        Example:

        >>> TrackedEpoch("07", "search", 0, 0, {}).prefix, TrackedEpoch("07", "confirm", 1, 0, {}).prefix
        ('', 'confirm2/')
        """
        if self.phase == _SEARCH:
            return "" if self.execution == 0 else f"run{self.execution + 1}/"
        return f"{self.phase}{self.execution + 1}/"


@dataclasses.dataclass(frozen=True)
class TrackedEnd:
    """How a trial ended.

    Attributes:
        score: None: it has none.
        spread: standard deviation over its executions; None: it has fewer than two.
        reason: why it ended as it did; None: it ran to its end.
        is_cut_short: whether a scheduler or a limit stopped it; its score stands.
    """

    score: float | None
    spread: float | None = None
    reason: str | None = None
    is_cut_short: bool = False

    @classmethod
    def of(
        cls, score: float | None, scores: Sequence[float], reason: str | None = None, *, is_cut_short: bool = False
    ) -> TrackedEnd:
        """An end, by the scores of the trial's executions.

        Example:

        >>> TrackedEnd.of(2.0, [1.0, 3.0]).spread
        1.4142135623730951
        """
        # As the trial's own spread is: with n - 1.
        finite = [one for one in scores if math.isfinite(one)]
        return cls(score, statistics.stdev(finite) if len(finite) > 1 else None, reason, is_cut_short)


class Tracker(abc.ABC):
    """Tells another tool of a search.

    All calls come from one thread, which is not the search's, in the order of what happened. A tracker may take its
    time, and may raise: then it is told nothing more, one warning says why, and the search goes on.
    """

    @abc.abstractmethod
    def begin(self, snapshot: Snapshot) -> frozenset[str]:
        """The project is there; it may have trials from before.

        Args:
            snapshot: of the project.

        Returns:
            Ids of the trials that the tool already knows as ended: those are not told again.
        """

    @abc.abstractmethod
    def trial_began(self, trial_id: str, values: Values) -> None:
        """A trial was handed out; after an interruption it may be one that was begun before."""

    @abc.abstractmethod
    def epochs_ended(self, epochs: Sequence[TrackedEpoch]) -> None:
        """Executions have finished an epoch; all members of a population at once."""

    @abc.abstractmethod
    def trial_ended(self, trial_id: str, end: TrackedEnd) -> None:
        """A trial is over."""

    @abc.abstractmethod
    def call_ended(self, snapshot: Snapshot) -> None:
        """A call of the user's is over: a search, a confirmation, ...

        Args:
            snapshot: of the project, with what was confirmed so far.
        """


@checked_arguments()
def tell_all(snapshot: Snapshot, tracker: Tracker) -> None:
    """Tells a tracker of a whole project, as if it ran once more. What the tool knows as ended is left out."""
    known = tracker.begin(snapshot)
    for trial in snapshot.trials:
        if trial.trial_id not in known:
            tell_trial(trial, tracker)
    tracker.call_ended(snapshot)


def tell_trial(trial: RecordedTrial, tracker: Tracker) -> None:
    """Tells a tracker of a trial that has ended; of one that has not, nothing."""
    if trial.ended_at is None:
        return
    tracker.trial_began(trial.trial_id, trial.values)
    for run in trial.runs:
        curves = run.curves
        for epoch in range(run.first_epoch, run.num_epochs):
            metrics = {name: curve[epoch] for name, curve in curves.items()}
            known = {name: value for name, value in metrics.items() if value is not None}
            tracker.epochs_ended([TrackedEpoch(trial.trial_id, run.phase, run.execution, epoch, known)])
    tracker.trial_ended(trial.trial_id, end_of(trial))


def end_of(trial: RecordedTrial) -> TrackedEnd:
    """How a recorded trial ended."""
    scores = [run.score for run in trial.searched if run.score is not None]
    score = trial.score if trial.is_completed else None
    return TrackedEnd.of(score, scores, trial.message, is_cut_short=trial.ending == Ending.STOPPED)
