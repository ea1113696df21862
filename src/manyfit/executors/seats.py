"""What the driver knows of one worker, and the rules by which it uses it."""

from __future__ import annotations

import dataclasses
import enum
import itertools
import time

from manyfit.core.limits import NO_LIMITS, TrialLimits
from manyfit.core.records import Plan
from manyfit.executors.messages import Key

_turns = itertools.count()  # and no clock: two workers may begin to wait within one tick
_WORTH_BYTES = 128 << 20
_GRACE_SECONDS = 2.0  # for what a worker does after its last look at the clock: weights, predictions
_MAX_SHARE_OF_STARTS = 0.02  # of a worker's time, to give the system memory back


class State(enum.Enum):
    """What a worker does, seen from the driver."""

    STARTING = "starting"  # nothing was heard of it
    IDLE = "idle"  # it waits for a task
    WANTING = "wanting"  # in a task, it waits for executions, and trains none meanwhile
    BUSY = "busy"  # it was answered, and will say something
    RETURNING = "returning"  # likewise, and what it says next is that it is idle
    RETIRING = "retiring"  # it ends itself, and another takes its place


@dataclasses.dataclass(frozen=True)
class WorkerRules:
    """How workers are used.

    Attributes:
        where: the executor's name, for messages.
        max_losses: an execution that has lost so many workers ends as failed.
        start_seconds: how long a first worker may take.
        recycle_after: a worker ends after so many executions; None: never.
        max_held_bytes: a worker ends that holds so much more than before its first execution, or less where a new
            one costs little (see `Seat.holds_too_much`); None: never.
        max_memory_bytes: what a worker may use, for messages; None: no cap.
        limits: of each execution.
    """

    where: str
    max_losses: int = 4
    start_seconds: float = 60.0
    recycle_after: int | None = None
    max_held_bytes: int | None = None
    max_memory_bytes: int | None = None
    limits: TrialLimits = NO_LIMITS

    def within(self, limits: TrialLimits) -> WorkerRules:
        """These rules for executions that have limits of their own."""
        caps = [cap for cap in (self.max_memory_bytes, limits.max_memory_bytes) if cap is not None]
        return dataclasses.replace(self, limits=limits, max_memory_bytes=min(caps, default=None))


@dataclasses.dataclass
class Seat:
    """One worker.

    Attributes:
        worker: its name.
        state: what it does.
        place: process and machine, for messages.
        wanted: executions that it has asked for.
        held: what it was given and has not finished.
        known_epochs: of those, the epochs that it has reported.
        reserved: what nobody else may have: continuations of what it has paused.
        to_forget: paused executions that it may free.
        num_finished: executions.
        held_bytes: memory beyond what it held before its first execution.
        waiting_since: a number that is smaller for those who have waited longer.
        started_seconds: when it was started, by `time.monotonic`.
        greeted_seconds: when it was there.
        answered_seconds: when it was answered the last time.
    """

    worker: str
    state: State = State.STARTING
    place: str = ""
    wanted: int = 1
    held: dict[Key, Plan] = dataclasses.field(default_factory=dict)
    known_epochs: dict[Key, int] = dataclasses.field(default_factory=dict)
    reserved: list[Plan] = dataclasses.field(default_factory=list)
    to_forget: list[Key] = dataclasses.field(default_factory=list)
    num_finished: int = 0
    held_bytes: int = 0
    waiting_since: int = 0
    started_seconds: float = dataclasses.field(default_factory=time.monotonic)
    greeted_seconds: float = 0.0
    answered_seconds: float = 0.0

    def rest(self, state: State) -> None:
        """It waits from now on."""
        self.state, self.waiting_since = state, next(_turns)

    def holds_too_much(self, max_held_bytes: int, now_seconds: float) -> bool:
        """Whether another should take its place: it holds more than it may, or a start costs little of its time.

        Example:

        >>> seat = Seat("a", started_seconds=0.0, greeted_seconds=4.0, held_bytes=200 << 20)
        >>> [seat.holds_too_much(512 << 20, now) for now in (100.0, 205.0)], seat.holds_too_much(150 << 20, 5.0)
        ([False, True], True)
        """
        start, worked = self.greeted_seconds - self.started_seconds, now_seconds - self.greeted_seconds
        is_worth = self.held_bytes > _WORTH_BYTES and start <= _MAX_SHARE_OF_STARTS * worked
        return self.held_bytes > max_held_bytes or is_worth

    def hangs(self, max_seconds: float | None, now_seconds: float) -> bool:
        """Whether nothing was heard of it for longer than what it holds may take, one after the other.

        Example:

        >>> seat = Seat("a", State.BUSY, answered_seconds=10.0, held={("3", 0): Plan("3", 0, {}, seed=1)})
        >>> [seat.hangs(5.0, now) for now in (14.0, 16.9, 17.1)], seat.hangs(None, 99.0)
        ([False, False, True], False)
        """
        if max_seconds is None or self.state is not State.BUSY or not self.held:
            return False
        return now_seconds - self.answered_seconds > len(self.held) * max_seconds + _GRACE_SECONDS
