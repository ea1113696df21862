"""The life of a trial: its states and their allowed steps, what its executions make of it, what an exception means.

Trainers, executors, oracles, tuners and the steps after the search ask here: *is it paused, has it ended, may it run
again, does this error end the search?* Nothing in this file knows Keras or JAX, so a worker or a report may ask, too.

A trial is one configuration; its *executions* are training runs of it with a seed each. While executions run the trial
is RUNNING; what became of it is not stored a second time but follows from its executions (`outcome_of`). That is why a
search that was killed between the last execution's commit and the trial's goes on as if nothing had happened.

```
            hand out               score, or no retry left
    QUEUED ----------> RUNNING --------------------------> ENDED
      ^                 |  ^ |                               |
      |   interrupted,  |  | | target reached                | its score turned out not to be
      +---- failed -----+  | v                               | finite, and a retry is left
      |            promote PAUSED ------ not promoted -----> ENDED
      +------------------------------------------------------+
```
"""

from __future__ import annotations

import dataclasses
import enum
import re
from collections.abc import Mapping
from typing import Protocol

from manyfit.core.causes import Cause, cause_of, traceback_of
from manyfit.core.errors import FailedTrialError, FatalError, ManyfitError, ProjectError
from manyfit.core.records import Ending, Failure


class TrialState(enum.Enum):
    """Where a trial stands."""

    QUEUED = "queued"  # to be handed out: new, interrupted, or failed with a retry left
    RUNNING = "running"  # handed out, and neither paused nor ended
    PAUSED = "paused"  # reached its target; a scheduler may have it continued
    ENDED = "ended"


_ENDED = TrialState.ENDED
_STEPS: Mapping[TrialState, frozenset[TrialState]] = {
    TrialState.QUEUED: frozenset({TrialState.RUNNING}),
    TrialState.RUNNING: frozenset({TrialState.QUEUED, TrialState.PAUSED, TrialState.ENDED}),
    TrialState.PAUSED: frozenset({TrialState.RUNNING, TrialState.ENDED}),
    # A score that is not finite is found out only when the trial is scored, which is after it ended.
    TrialState.ENDED: frozenset({TrialState.ENDED, TrialState.QUEUED}),
}


def may_step(now: TrialState, to: TrialState) -> bool:
    """Whether a trial may go from one state to another."""
    return to in _STEPS[now]


def step(now: TrialState, to: TrialState) -> TrialState:
    """The next state of a trial. A step that is not allowed is a bug of ours, not something a user can cause.

    Example:

    >>> step(TrialState.RUNNING, TrialState.PAUSED)
    <TrialState.PAUSED: 'paused'>
    """
    assert may_step(now, to), f"a trial went from {now.value} to {to.value}"
    return to


# What executions make of their trial ---------------------------------------------------------------------------


class Ended(Protocol):
    """What is read of an execution that has come back: `core.records.Result` and the book's executions are some."""

    @property
    def ending(self) -> Ending:
        """How it ended."""

    @property
    def message(self) -> str | None:
        """Why, for every ending but COMPLETED."""

    @property
    def final(self) -> bool:
        """Whether it failed in a way that forbids a retry."""


@dataclasses.dataclass(frozen=True)
class TrialOutcome:
    """What became of a trial."""

    ending: Ending
    message: str | None = None
    final: bool = False  # no retry, although it has no score
    decided_by: tuple[int, ...] = ()  # indices of the executions that say so

    @property
    def may_be_retried(self) -> bool:
        """Whether the trial has no score, and another attempt might give it one."""
        return not self.ending.has_score and not self.final


def is_paused(run: Ended) -> bool:
    """Whether an execution waits to be continued."""
    return run.ending is Ending.PAUSED


def outcome_of(executions: Mapping[int, Ended]) -> TrialOutcome | None:
    """What the executions of a trial make of it.

    One execution without a score decides: the mean over the others would be of fewer runs than the other trials', and
    leave out just the run that went wrong. Otherwise the trial was stopped early if one of its executions was. Ties go
    to the lowest index and not to the first that ended, so that the answer is the same after a restart.

    Args:
        executions: by index; of the trial's current attempt.

    Returns:
        None while the trial has not ended: no execution came back yet, or one waits to be continued.

    Example:

    >>> from manyfit.core.records import Plan, Result
    >>> done, stopped = (Result(Plan("0", 0, {}, 1), e, {}) for e in (Ending.COMPLETED, Ending.STOPPED))
    >>> outcome_of({0: done, 1: stopped})
    TrialOutcome(ending=<Ending.STOPPED: 'stopped'>, message=None, final=False, decided_by=(1,))
    """
    runs = dict(sorted(executions.items()))
    failed = {index: run for index, run in runs.items() if not run.ending.has_score}
    if failed:
        # A final one goes first: what the user's code forbids to retry must not be retried because of another's.
        index = next((index for index, run in failed.items() if run.final), min(failed))
        return TrialOutcome(failed[index].ending, failed[index].message, failed[index].final, (index,))
    if not runs or any(is_paused(run) for run in runs.values()):
        return None
    stopped = {index: run for index, run in runs.items() if run.ending is Ending.STOPPED}
    deciding = stopped or runs
    messages = [run.message for run in [*deciding.values(), *runs.values()] if run.message is not None]
    ending = Ending.STOPPED if stopped else Ending.COMPLETED
    return TrialOutcome(ending, messages[0] if messages else None, decided_by=tuple(deciding))


class TrialStatus:
    """KerasTuner's words for where a trial stands. They mix state and outcome, so here they are only a view of both."""

    RUNNING = "RUNNING"  # proposed, not ended
    IDLE = "IDLE"  # nothing to propose until a running trial reports
    INVALID = "INVALID"  # this attempt failed; may be retried
    STOPPED = "STOPPED"  # no trial: the search is over
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"


class Life:
    """Where a trial stands, how it ended once that is known, and KerasTuner's view of the two.

    Attributes:
        state: where it stands; `move` changes it.
        ending: how the latest attempt ended; None while that is not known. It is known a moment before the state is
            ENDED where a retry has to be decided upon.
        final: whether it failed in a way that forbids a retry.
    """

    def __init__(self) -> None:
        self.state = TrialState.QUEUED
        self.ending: Ending | None = None
        self.final = False
        self._other_status: str | None = None  # of KerasTuner's, where no state of ours is meant: IDLE, STOPPED

    def move(self, to: TrialState) -> None:
        """Takes a step. What the last attempt came to is forgotten when another is to run."""
        self.state = step(self.state, to)
        if to in (TrialState.QUEUED, TrialState.RUNNING):
            self.ending, self.final, self._other_status = None, False, None

    def conclude(self, outcome: TrialOutcome) -> None:
        """Takes what became of it: it has ended with a score, or without hope of one.

        Otherwise it stays where it is until somebody who knows the number of retries decides.
        """
        self.ending, self.final = outcome.ending, outcome.final
        if not outcome.may_be_retried:
            self.move(TrialState.ENDED)

    @property
    def has_ended(self) -> bool:
        """Whether it is over, and how is known."""
        return self.state is TrialState.ENDED and self.ending is not None

    @property
    def is_completed(self) -> bool:
        """Whether it has ended as one that is ranked."""
        # Asked of every trial whenever trials are ranked, so the member of the enumeration is looked up once (row E).
        return self.state is _ENDED and self.ending is not None and self.ending.has_score

    @property
    def is_underway(self) -> bool:
        """Whether it is handed out, or about to be: part of what a scheduler has on the way."""
        return self.state in (TrialState.QUEUED, TrialState.RUNNING)

    # KerasTuner's view -----------------------------------------------------------------------------------------

    def status(self, attempt: int) -> str:
        """KerasTuner's word for it.

        Args:
            attempt: how often it was retried.
        """
        if self._other_status is not None:
            return self._other_status
        if self.ending is None:
            waits_for_retry = self.state is TrialState.QUEUED and attempt > 0
            return TrialStatus.INVALID if waits_for_retry else TrialStatus.RUNNING
        if self.ending.has_score:
            return TrialStatus.COMPLETED
        return TrialStatus.FAILED if self.state is TrialState.ENDED else TrialStatus.INVALID

    def set_status(self, status: str, attempt: int) -> None:
        """Takes KerasTuner's word. Programs set it before `end_trial`, and again whenever they like.

        So no step is forbidden here, other than in `move`: what a user's program says holds, whatever was before.
        """
        if status == self.status(attempt):
            return
        failed = self.ending if self.ending is not None and not self.ending.has_score else Ending.FAILED
        self._other_status = None
        if status == TrialStatus.RUNNING:
            self.state, self.ending, self.final = TrialState.RUNNING, None, False
        elif status == TrialStatus.COMPLETED:
            self.state, self.ending, self.final = TrialState.ENDED, Ending.COMPLETED, False
        elif status == TrialStatus.FAILED:
            self.state, self.ending, self.final = TrialState.ENDED, failed, True
        elif status == TrialStatus.INVALID:
            self.state, self.ending, self.final = TrialState.RUNNING, failed, False
        else:
            self._other_status = status

    def set_ending(self, ending: Ending) -> None:
        """Says more than a status that was set: why it failed, for instance."""
        self.ending = ending
        self.state = TrialState.ENDED if ending.has_score else self.state

    # The store's columns ---------------------------------------------------------------------------------------

    def runs_again(self, attempt: int) -> bool:
        """What rows call `is_running`: whether it runs once more when the process that wrote the row has died.

        An attempt that waits for a retry does so anyway: its status says it.
        """
        return self.is_underway and self.status(attempt) == TrialStatus.RUNNING

    @classmethod
    def of_row(cls, status: str, ending: str | None, *, is_running: bool) -> Life:
        """The life of a trial whose row was written in another process, of this version or an earlier one."""
        life = cls()
        if status == TrialStatus.RUNNING:
            life.state = TrialState.QUEUED if is_running else TrialState.PAUSED
        elif status != TrialStatus.INVALID:  # a retry waits in the queue, where every life begins
            life.set_status(status, 0)
            life.state = TrialState.ENDED
            life.ending = life.ending if ending is None else Ending(ending)
        return life


# What an exception means ---------------------------------------------------------------------------------------

#: The user's word, and a store that cannot be written: going on would be of no use.
_ENDS_SEARCH = (FatalError, ProjectError)

# What JAX, TensorFlow and torch say. "oom" only as a word: there is one in "room".
_OUT_OF_MEMORY = re.compile(
    r"out of memory|resource_?exhausted|\boom\b|bad_alloc|(failed|unable) to allocate|can('|no)t allocate memory",
    re.IGNORECASE,
)


class OversizedModelError(FailedTrialError):
    """The model has more trainable parameters than `max_model_size`."""


class TooSlowError(FailedTrialError):
    """A training run has taken longer than `max_seconds_per_trial`."""


class OverMemoryError(FailedTrialError):
    """The process that trains holds more than `max_memory`."""


def failure_of(error: BaseException) -> Failure:
    """What an exception means that building or training a trial raised: the one place that decides it.

    Call it in the `except` block; it raises again what is no failure of the trial.

    Args:
        error: what was caught.

    Raises:
        FatalError: the error is one: the user's code says that the whole search is to stop.
        ProjectError: the error is one: the store cannot be written, so nothing further would be kept.
        BaseException: the error is no `Exception`: Ctrl+C, or the end of the process.

    Example:

    >>> failure_of(MemoryError("no room")).ending
    <Ending.OUT_OF_MEMORY: 'out of memory'>
    """
    if isinstance(error, _ENDS_SEARCH) or not isinstance(error, Exception):
        raise error
    if isinstance(error, FailedTrialError):  # what the user's code says about its own trial needs no traceback
        cause = Cause(type(error).__name__, str(error))
        return Failure(_ending_of(error), str(cause), True, error, cause)
    cause = cause_of(error)
    return Failure(_ending_of(error), f"{traceback_of(error)}\n{cause}", False, error, cause)


def _ending_of(error: Exception) -> Ending:
    if isinstance(error, OversizedModelError | TooSlowError):
        return Ending.TOO_LARGE if isinstance(error, OversizedModelError) else Ending.TOO_SLOW
    # By text, since the libraries' own classes would have to be imported to ask for them, and change their names.
    if isinstance(error, MemoryError | OverMemoryError) or _OUT_OF_MEMORY.search(f"{type(error).__name__}: {error}"):
        return Ending.OUT_OF_MEMORY
    return Ending.FAILED


def stand_in(error: BaseException) -> Exception:
    """An error with the same text that means the same, for one that cannot travel to another process."""
    # The more special class first. Their constructors take one text; a user's subclass may not.
    kinds: tuple[type[ManyfitError], ...] = (
        *_ENDS_SEARCH, OversizedModelError, TooSlowError, OverMemoryError, FailedTrialError,
    )  # fmt: skip
    text = f"{type(error).__name__}: {error}"
    return next((kind(text) for kind in kinds if isinstance(error, kind)), RuntimeError(text))
