"""What the driver knows of one worker."""

from __future__ import annotations

import dataclasses
import enum
import itertools

from manyfit.core.records import Plan
from manyfit.executors.messages import Key

_turns = itertools.count()


class State(enum.Enum):
    """What a worker does, seen from the driver."""

    STARTING = "starting"  # nothing was heard of it
    IDLE = "idle"  # it waits for a task
    WANTING = "wanting"  # in a task, it waits for executions, and trains none meanwhile
    BUSY = "busy"  # it was answered, and will say something
    RETURNING = "returning"  # likewise, and what it says next is that it is idle
    RETIRING = "retiring"  # it ends itself, and another takes its place


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

    def rest(self, state: State) -> None:
        """It waits from now on."""
        self.state, self.waiting_since = state, next(_turns)
