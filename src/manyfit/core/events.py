"""What happens in a search, told to whoever listens: displays, records, trackers. None of them can stop it.

Events are told after their facts are committed, in the thread that commits them, so a listener does no more than take
note; what takes longer is for a thread of its own.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol, TypeAlias

from manyfit.core.records import Plan, Values

logger = logging.getLogger("manyfit")


@dataclasses.dataclass(frozen=True)
class CallBegan:
    """A call of the user's has begun, before anything is checked or read: "a search", "a fit", "a bag", ..."""

    what: str


@dataclasses.dataclass(frozen=True)
class CallEnded:
    """It returns, or raises.

    Attributes:
        what: as it began.
        is_complete: whether it returns.
    """

    what: str
    is_complete: bool = True


@dataclasses.dataclass(frozen=True)
class PhaseBegan:
    """A part of `fit` has begun: "search", "combine", "bag", ...

    Attributes:
        name: of the phase.
        seconds_left: of the whole call; infinite without a limit.
    """

    name: str
    seconds_left: float = float("inf")


@dataclasses.dataclass(frozen=True)
class RunsPlanned:
    """A step other than a search knows what it will train.

    Attributes:
        num_runs: executions.
        num_epochs: of all of them together; None: nobody knows.
    """

    num_runs: int
    num_epochs: int | None = None


@dataclasses.dataclass(frozen=True)
class StepBegan:
    """A step on the project has begun: "a search", "a confirmation", "a retraining", "a bag"."""

    what: str


@dataclasses.dataclass(frozen=True)
class StepEnded:
    """It is over, however it ended."""

    what: str


@dataclasses.dataclass(frozen=True)
class TrialsBegan:
    """Trials were handed out: their ids and values."""

    trials: Mapping[str, Values]


@dataclasses.dataclass(frozen=True)
class EpochsEnded:
    """Executions have finished an epoch: (plan, epoch from 0, what it logged), of all members of a population."""

    epochs: Sequence[tuple[Plan, int, Mapping[str, float]]]


@dataclasses.dataclass(frozen=True)
class ExecutionsEnded:
    """Executions are over, whatever became of them."""

    plans: Sequence[Plan]


@dataclasses.dataclass(frozen=True)
class TrialEnded:
    """A trial is over, or this attempt of it.

    Attributes:
        trial_id: the trial.
        score: None: it has none.
        reason: why it ended as it did; None: it ran to its end.
        scores: of its executions.
        is_cut_short: whether a scheduler or a limit stopped it; its score stands.
        num_rows: of the training rows, those that it has seen; None: all.
    """

    trial_id: str
    score: float | None
    reason: str | None
    scores: Sequence[float] = ()
    is_cut_short: bool = False
    num_rows: int | None = None


Event: TypeAlias = (
    CallBegan
    | CallEnded
    | PhaseBegan
    | RunsPlanned
    | StepBegan
    | StepEnded
    | TrialsBegan
    | EpochsEnded
    | ExecutionsEnded
    | TrialEnded
)


class Listener(Protocol):
    """Who hears of events."""

    def hear(self, event: Event) -> None:
        """Takes note of one, quickly."""


class Events:
    """Tells listeners. One that raises is told nothing more, and a line in the log `manyfit` says why.

    Example:

    >>> class Broken:
    ...     def hear(self, event):
    ...         raise ValueError("no terminal")
    >>> events = Events()
    >>> events.listen(Broken())
    >>> events.tell(StepBegan("a search"))
    >>> events.num_listeners
    0
    """

    def __init__(self) -> None:
        self._listeners: list[Listener] = []

    @property
    def num_listeners(self) -> int:
        """Those that are told of events."""
        return len(self._listeners)

    def listen(self, listener: Listener) -> None:
        """Has a listener told of all events from now on."""
        self._listeners.append(listener)

    def leave(self, listener: Listener) -> None:
        """The inverse of `listen`; nothing happens where it does not listen."""
        self._listeners = [one for one in self._listeners if one is not listener]

    @contextlib.contextmanager
    def call(self, what: str) -> Iterator[None]:
        """Within it a call of the user's is under way.

        Args:
            what: "a search", "a confirmation", "a bag", "a retraining", "an ensemble", "a fit".
        """
        self.tell(CallBegan(what))
        is_complete = False  # also where a generator is closed, or KeyboardInterrupt comes
        try:
            yield
            is_complete = True
        finally:
            self.tell(CallEnded(what, is_complete))

    @contextlib.contextmanager
    def listening(self, listener: Listener | None) -> Iterator[None]:
        """Within it a listener is told of all events; None: nobody is."""
        if listener is not None:
            self.listen(listener)
        try:
            yield
        finally:
            if listener is not None:
                self.leave(listener)

    def tell(self, event: Event) -> None:
        """Tells all listeners of an event."""
        for listener in list(self._listeners):
            try:
                listener.hear(event)
            except Exception:  # whatever it is: a search of two days does not end for a line on a screen
                self.leave(listener)
                logger.warning("%s is told nothing more: it failed", type(listener).__name__, exc_info=True)
