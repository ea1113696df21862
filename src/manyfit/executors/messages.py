"""What the driver (the process with the tuner) and its workers say to each other.

A worker speaks first, and waits for its answer; the driver answers one worker at a time. So oracle and store see one
event after another, as if everything ran in one process, and a worker that dies leaves nothing half said.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from manyfit.core.records import Decision, Plan, Result
from manyfit.training.program_report import Programs

Key = tuple[str, int]  # trial id and execution


# Dataclasses and no dictionaries: both sides run the same version (`worker.versions` sees to it), so a message needs no
# format that outlives it.
@dataclasses.dataclass
class Message:
    """What a worker says. `lines` are for the user: why something trains through `model.fit`, say."""

    lines: Sequence[str] = dataclasses.field(default=(), kw_only=True)


@dataclasses.dataclass
class Hello(Message):
    """A worker is there.

    Attributes:
        versions: see `manyfit.executors.worker.versions`.
        host: the name of its machine.
        process_id: of the process.
        node: what the pool calls its machine.
        devices: the accelerators that it may use, as the environment names them.
    """

    versions: Mapping[str, str]
    host: str
    process_id: int
    node: str = ""
    devices: str = ""


@dataclasses.dataclass
class Idle(Message):
    """Nothing to do; `programs` are those of its trainer, where it has some. Answer: `Begin`, `Forget` or `Stop`."""

    programs: Programs | None = None


@dataclasses.dataclass
class Want(Message):
    """Asks for executions. Answer: `Take`.

    Attributes:
        count: at most so many.
        held_bytes: memory that the process holds beyond what it held before its first execution.
    """

    count: int
    held_bytes: int = 0


@dataclasses.dataclass
class Report(Message):
    """Executions that finished an epoch. Answer: `Decide`."""

    epochs: Sequence[tuple[Key, int, Mapping[str, float]]]


@dataclasses.dataclass
class Finished(Message):
    """An execution has ended. Answer: `Go`.

    Attributes:
        result: without what cannot travel.
        files: path on the driver -> content of the files that were written since: weights, predictions.
    """

    result: Result
    files: Mapping[str, bytes] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass
class Raised(Message):
    """An error that ends the search: a `FatalError` of the user's, a full disk, a bug. Answer: `Stop`."""

    error: BaseException


@dataclasses.dataclass
class OverMemory(Message):
    """The worker uses more memory than it may. It gets no answer: it is ended."""

    used_bytes: int


@dataclasses.dataclass
class Lost(Message):
    """Said by the pool, not by a worker: the worker is gone, with everything that it was training.

    Attributes:
        reason: for people.
        node_lost: its whole machine went, so what it was training is not to blame.
    """

    reason: str
    node_lost: bool = False


@dataclasses.dataclass(frozen=True)
class Work:
    """What is to be trained: the task and how to make its trainer, packed.

    Attributes:
        content: a pickle, in which large arrays are only named.
        arrays: name -> where a worker finds it.
        independent: see `manyfit.training.base.Supply`.
    """

    content: bytes
    arrays: Mapping[str, object]
    independent: bool


@dataclasses.dataclass
class Begin:
    """Train this."""

    work: Work


@dataclasses.dataclass
class Forget:
    """Free paused executions that nobody will continue."""

    keys: Sequence[Key]


@dataclasses.dataclass
class Take:
    """Executions to train; none: nothing more to do."""

    plans: Sequence[Plan]


@dataclasses.dataclass
class Decide:
    """Go on, pause or stop, for each execution that was reported."""

    decisions: Sequence[Decision]


@dataclasses.dataclass
class Go:
    """Carry on."""


@dataclasses.dataclass
class Stop:
    """End yourself."""


Answer = Begin | Forget | Take | Decide | Go | Stop
