"""`synchronized`: one thread at a time in the methods of an oracle."""

from __future__ import annotations

import functools
import threading
import weakref
from collections.abc import Callable
from typing import Any, Protocol, TypeVar

from manyfit.core.errors import UsageTypeError, explain
from manyfit.core.lifecycle import TrialStatus
from manyfit.core.signatures import FUNCTION, checked_arguments
from manyfit.oracles.trial import Trial, trial_named

Method = TypeVar("Method", bound=Callable[..., Any])


class HasTrials(Protocol):
    """What is read of an oracle."""

    @property
    def trials(self) -> dict[str, Trial]:
        """By id."""


# Outside of the oracles, which stay copyable and picklable: a lock is neither.
_LOCKS: weakref.WeakKeyDictionary[object, threading.RLock] = weakref.WeakKeyDictionary()
_MAKING = threading.Lock()


@checked_arguments(method=FUNCTION)
def synchronized(method: Method) -> Method:
    """Decorates a method of an oracle: while a thread is in one such method, others wait before theirs.

    A thread that is inside may call further ones. After an exception nobody is locked out.

    Args:
        method: of a subclass of `Oracle`. One that is called `end_trial` may be called with a trial's id and a
            status, as before KerasTuner 1.1: it gets the trial.
    """

    @functools.wraps(method)
    def call(self: HasTrials, *args: Any, **kwargs: Any) -> Any:
        # Re-entrant: `create_trial` of a user's calls ours, and both are decorated.
        with lock_of(self):
            if method.__name__ == "end_trial":
                args, kwargs = (ended_trial(self, *args, **kwargs),), {}
            return method(self, *args, **kwargs)

    return call  # type: ignore[return-value]


def lock_of(oracle: object) -> threading.RLock:
    """The lock of an oracle."""
    with _MAKING:
        return _LOCKS.setdefault(oracle, threading.RLock())


def ended_trial(
    oracle: HasTrials, trial: Trial | str | None = None, status: str | None = None, trial_id: str | None = None
) -> Trial:
    """The trial that a call of `end_trial` means: given itself, or by its id and its status."""
    if trial is None or isinstance(trial, str):
        trial = trial_named(str(trial_id if trial is None else trial), oracle.trials)
    if not isinstance(trial, Trial):
        allowed, instead = "a trial, or the id of one", "Type oracle.end_trial(trial)."
        raise UsageTypeError(explain("end_trial(trial)", f"{trial!r}", allowed, instead))
    if status is not None:
        trial.status = status
    elif trial.status == TrialStatus.RUNNING and trial_id is not None:
        trial.status = TrialStatus.COMPLETED
    return trial
