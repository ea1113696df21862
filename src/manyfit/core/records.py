"""The records that samplers, schedulers, trainers and the store exchange."""

from __future__ import annotations

import dataclasses
import enum
import math
from collections.abc import ItemsView, Iterator, Mapping, ValuesView
from typing import Any, Protocol, TypeVar

from manyfit.core.causes import Cause
from manyfit.core.costs import Costs

Value = bool | int | float | str
Values = Mapping[str, Value]
"""One configuration: hyperparameter name -> value, active hyperparameters only."""

PARENT_EPOCH = "tuner/parent_epoch"
"""Tag of a branch: after how many epochs of its parent it begins. Here, since who reads results knows no scheduler."""

SEARCH = "search"
"""The phase of executions that the search itself ran. Here, since who reads results knows no oracle."""

ROWS = "tuner/rows"
"""Tag of a trial that trains on a part of the rows: on how many."""
SHARE = "share_of_rows"
"""Note of an execution that was trained on a part of the rows: on which share of them."""


_Key = TypeVar("_Key")
_Item = TypeVar("_Item")


class SteadyDict(dict[_Key, _Item]):
    """A dictionary that may grow while another thread goes through it, which then sees what was there when it began.

    Trials come and go while somebody plots or prints them from a thread of his own.

    Example:

    >>> numbers = SteadyDict({"one": 1})
    >>> for name in numbers:
    ...     numbers["two"] = 2
    >>> numbers
    {'one': 1, 'two': 2}
    """

    # Each copy is made at once: no other thread runs in between.
    def __iter__(self) -> Iterator[_Key]:
        return iter(dict.copy(self))

    def values(self) -> ValuesView[_Item]:  # type: ignore[override]  # a view as of any other dictionary
        return dict.copy(self).values()

    def items(self) -> ItemsView[_Key, _Item]:  # type: ignore[override]  # likewise
        return dict.copy(self).items()


def num_inherited(tags: Values) -> int:
    """Epochs of a trial that its parent has trained, by its tags; 0 where it began by itself."""
    return int(tags.get(PARENT_EPOCH, 0))


class Configuration(Protocol):
    """What a build function is called with: a trial's `HyperParameters`.

    Core knows no space, so it asks for the one thing that it hands on: a copy, because a build function may change
    what it is given.
    """

    def copy(self) -> Configuration:
        """One of the same values, whose changes stay its own."""
        ...


class Ending(enum.StrEnum):
    """Why an execution or a trial ended."""

    COMPLETED = "completed"  # it ran to its last epoch, or a callback of the user ended it
    STOPPED = "stopped"  # a scheduler, a time limit or the user ended it early
    PAUSED = "paused"  # a scheduler may have it continued; of executions only
    DIVERGED = "diverged"  # its objective was never finite
    FAILED = "failed"  # an exception
    TOO_LARGE = "too large"  # more parameters than `max_model_size`
    OUT_OF_MEMORY = "out of memory"
    TOO_SLOW = "too slow"  # not done within `max_seconds_per_trial`

    @property
    def has_score(self) -> bool:
        """Whether trials that ended so are ranked."""
        return self in _WITH_SCORE


# Looked up once: rankings ask every trial, several times per trial that ends.
_WITH_SCORE = (Ending.COMPLETED, Ending.STOPPED, Ending.PAUSED)


class Decision(enum.Enum):
    """The answer that a trainer gets after each epoch of a member."""

    GO_ON = "go on"
    PAUSE = "pause"  # keep the state, train others meanwhile
    STOP = "stop"


@dataclasses.dataclass(frozen=True, slots=True)
class Observation:
    """What a sampler may know of one finished (or early stopped) trial. Lower losses are better, always."""

    trial_id: str
    values: Values
    ending: Ending
    losses: tuple[float, ...] = ()  # one per execution that has a score; sign already flipped for "max"
    epochs: int | None = None  # epochs trained by the longest execution
    full: bool = True  # False: a scheduler stopped it before its full budget
    curve: tuple[float, ...] = ()  # loss per epoch, mean over executions, NaN where not measured
    metrics: Mapping[str, float] = dataclasses.field(default_factory=dict)  # means, for constraints
    vectors: tuple[tuple[float, ...], ...] = ()  # several objectives: their losses, for each of `losses`
    earlier: bool = False  # from an earlier search: it tells where to look, and was not tried in this one
    share: float = 1.0  # of the training rows that it was trained on
    # What one of its executions cost; None where it was not measured. No part of what makes two searches the same:
    # the same search costs more on another day.
    costs: Costs | None = dataclasses.field(default=None, compare=False)

    def of_objective(self, index: int) -> Observation:
        """This trial as a search for one of several objectives alone sees it.

        An execution that lacks a finite value of any objective has none at all, so that all objectives are known of
        the same trials. Curves are those of the leading objective, so they are left out.
        """
        known = tuple(vector[index] for vector in self.vectors if all(map(math.isfinite, vector)))
        return dataclasses.replace(self, losses=known, curve=(), vectors=())

    @property
    def mean_vector(self) -> tuple[float, ...]:
        """Mean losses of several objectives over executions; `inf` for a trial without a score."""
        if not self.vectors or not self.ending.has_score:
            return (math.inf,) * len(self.vectors[0] if self.vectors else ())
        return tuple(math.fsum(column) / len(column) for column in zip(*self.vectors, strict=True))

    @property
    def loss(self) -> float:
        """Mean loss over executions; `inf` for a trial without a score."""
        if not self.losses or not self.ending.has_score:
            return math.inf
        return math.fsum(self.losses) / len(self.losses)


@dataclasses.dataclass(frozen=True, slots=True)
class Progress:
    """What a scheduler may know of one trial: how far it is, and how it has done so far."""

    trial_id: str
    curve: tuple[float, ...] = ()  # loss per finished epoch, mean over executions; NaN: not logged, inf: diverged
    target_epochs: int | None = None  # train up to here, then pause or end; None: as the user's fit arguments say
    ending: Ending | None = None  # None while it is running or paused
    running: bool = False  # handed out, or about to be again after an interruption; neither paused nor ended
    tags: Mapping[str, Value] = dataclasses.field(default_factory=dict)  # what the scheduler noted on it

    @property
    def epochs(self) -> int:
        """Epochs behind it."""
        return len(self.curve)

    @property
    def paused(self) -> bool:
        """Whether it waits for a promotion: started, not running, not ended."""
        return self.ending is None and not self.running

    def best_loss(self, epochs: int | None = None) -> float:
        """Lowest loss within the first `epochs` epochs (None: all); `inf` when none of them was logged or finite."""
        return min((loss for loss in self.curve[:epochs] if loss == loss), default=math.inf)


@dataclasses.dataclass(frozen=True, slots=True)
class Computed:
    """How an epoch was computed: what timing decides, and the last bits of its numbers depend on.

    Two texts that only the trainer reads which has written them: an epoch that a killed process had reported is trained
    again as it was then.

    Attributes:
        program: what was compiled, and for which machine; many epochs have it in common.
        run: how the epoch ran in it.
    """

    program: str
    run: str


class EpochLogs(dict[str, float]):
    """What an epoch logged, name -> number, as trainers report it.

    Args:
        logs: the numbers.
        computed: how; None where nothing depends on timing.
    """

    def __init__(self, logs: Mapping[str, float], computed: Computed | None = None) -> None:
        super().__init__(logs)
        self.computed = computed

    @classmethod
    def how(cls, logs: Mapping[str, float]) -> Computed | None:
        """How logs were computed, where they say so."""
        return logs.computed if isinstance(logs, cls) else None


@dataclasses.dataclass(frozen=True, slots=True)
class Origin:
    """What an execution begins with that goes on from another one: that one's state after so many epochs.

    Weights, the optimizer's slots and the states of random layers are copied; the learning rate is the execution's own.
    """

    trial_id: str
    execution: int
    epoch: int

    @property
    def key(self) -> tuple[str, int]:
        """Names the other execution within a search."""
        return self.trial_id, self.execution


@dataclasses.dataclass(frozen=True)
class Plan:
    """One execution for a trainer to train."""

    trial_id: str
    execution: int
    values: Configuration  # the trial's `HyperParameters`
    seed: int
    epochs: int | None = None  # train up to this epoch (not including it); None: as the user's fit arguments say
    first_epoch: int = 0  # the first one to report; those before are behind it (a resumed execution)
    # How its epochs were computed that were reported before: all before `first_epoch`; and that one, where a process
    # was killed in the middle of it, so that what was decided after its last report is decided again.
    computed: tuple[Computed | None, ...] = ()
    state_path: str | None = None  # where the state of a paused execution goes, and is taken from; None: not stored
    weights_path: str | None = None  # where the weights of the best epoch go (training/weights.py), None: not wanted
    phase: str = "search"  # what it is run for; the book keeps the executions of each phase apart
    attempt: int = 0  # how often its trial has failed and was retried
    # From 0: its weights are kept, and not those of the best epoch; of the last one, where it ends before. What it
    # says of its rows is kept even where no weights are written.
    kept_epoch: int | None = None
    origin: Origin | None = None  # what it begins with; None: a model as it is built
    num_rows: int | None = None  # train on so many of the training rows (`Task.parts` says on which); None: on all

    def rank(self, epoch: int, loss: float) -> float:
        """What decides which epoch's weights are kept: the lowest of these.

        Example:

        >>> plan = Plan("0", 0, {}, seed=1, kept_epoch=2)
        >>> [plan.rank(epoch, loss=0.5) for epoch in range(4)]
        [-1.0, -2.0, -3.0, inf]
        """
        if self.kept_epoch is None:
            return loss
        return -1.0 - epoch if epoch <= self.kept_epoch else math.inf

    @property
    def keeps_predictions(self) -> bool:
        """Whether what its model says of rows is of use after the training."""
        return self.weights_path is not None or self.kept_epoch is not None

    @property
    def key(self) -> tuple[str, int]:
        """Names this execution within a search."""
        return self.trial_id, self.execution

    @property
    def goes_on_otherwise(self) -> bool:
        """Whether it goes on from its own state, with other values than before: its curve and its best are one."""
        return self.origin is not None and self.origin.key == self.key

    def is_known(self, epoch: int) -> bool:
        """Whether an epoch was reported before, by a process that was killed or that paused it."""
        return epoch < len(self.computed)


@dataclasses.dataclass(frozen=True)
class Failure:
    """An execution that an exception ended, and what that means; made by `core.lifecycle.failure_of`."""

    ending: Ending
    message: str  # the traceback, and the cause as its last line
    final: bool  # the user's code asks for no retry
    error: Exception
    # Told where the error was raised: one that travels to another process loses its traceback and its chain.
    cause: Cause

    @property
    def line(self) -> str:
        """The cause in one line."""
        return str(self.cause)


@dataclasses.dataclass
class Result:
    """What became of one execution."""

    plan: Plan
    ending: Ending
    history: dict[str, list[float | None]]  # metric name -> one entry per epoch, None where it was not measured
    seconds: float = 0.0
    message: str | None = None  # the reason, for every ending but COMPLETED
    num_parameters: int | None = None  # trainable ones
    measures: dict[str, float] = dataclasses.field(default_factory=dict)  # of `core.objective.MEASURES`
    failure: Failure | None = None  # the exception that ended it, where one did
    notes: dict[str, Any] = dataclasses.field(default_factory=dict)  # further facts for the book, as JSON keeps them
    costs: Costs | None = None  # None: not measured
    # Of a trial that a user's `run_trial` ran elsewhere, one of the two: what it trained by Manyfit's own means, or
    # what it returned. None both: the call failed.
    executions: tuple[Result, ...] | None = None
    histories: list[dict[str, list[float | None]]] | None = None

    @classmethod
    def of_failure(cls, plan: Plan, failure: Failure, *, seconds: float = 0.0) -> Result:
        """The result of an execution that an exception ended before its first epoch."""
        return cls(plan, failure.ending, {}, seconds, failure.message, failure=failure)

    def fail(self, failure: Failure) -> None:
        """Takes the exception that ended it; the epochs before stay."""
        self.ending, self.message, self.failure = failure.ending, failure.message, failure

    @property
    def final(self) -> bool:
        """Whether it failed in a way that forbids a retry of its trial."""
        return self.failure is not None and self.failure.final

    @property
    def num_epochs(self) -> int:
        """Epochs that were trained."""
        return max((len(curve) for curve in self.history.values()), default=0)

    @property
    def is_unbegun(self) -> bool:
        """Whether it was stopped before its first epoch had ended: as if it had never been handed out."""
        return self.ending is Ending.STOPPED and self.num_epochs == 0 and self.histories is None
