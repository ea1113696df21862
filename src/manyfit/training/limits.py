"""Holds one training run to its limits, and says what of it this process cannot end.

Between two batches a run that has passed a limit ends, and a program that compiles is left in its thread. What neither
comes back nor is left is code in the middle of something: a build function, a generator, one step of XLA. Python cannot
end that from outside without leaving things half done, so it is waited for, and said once which executor could end it.
"""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import keras

from manyfit.core.causes import place_of
from manyfit.core.clock import Clock
from manyfit.core.limits import LOOK_SECONDS, MemoryGauge, TrialLimits, give_back, held_bytes
from manyfit.training.base import OutOfTime

_GRACE_SECONDS = 1.0  # for a step that ends just now


class OverLimit(OutOfTime):
    """A run has passed a limit of its own in the middle of an epoch; `limit` says which."""

    def __init__(self, limit: Exception) -> None:
        super().__init__(str(limit))
        self.limit = limit


class RunLimits:
    """The limits of one training run.

    Args:
        limits: of the task.
        clock: of the task; the run's own is within it.
        notify: takes one line of text for people.

    Attributes:
        clock: of this run. It does not count while the run is paused.

    Example:

    >>> limits = RunLimits(TrialLimits(max_seconds=60), Clock(), print)
    >>> with limits.counting("3"):
    ...     limits.check()
    """

    def __init__(self, limits: TrialLimits, clock: Clock, notify: Callable[[str], None]) -> None:
        self._limits, self._outer, self._notify = limits, clock, notify
        self.clock = Clock(limits.max_seconds, within=[clock], now=clock.now)
        self._gauge = MemoryGauge(limits.max_memory_bytes)

    @contextlib.contextmanager
    def counting(self, trials: str) -> Iterator[None]:
        """Counts the seconds inside, and says once when they are too many for what can be ended.

        Args:
            trials: that run inside, for the line.
        """
        self.clock.start()
        try:
            with waiting_told(self._limits.max_seconds, self.clock, trials, self._notify):
                yield
        finally:
            self.clock.stop()

    def check(self) -> None:
        """Ends the run if it has passed a limit of its own.

        Raises:
            OverLimit: it has.
        """
        if self._limits.max_seconds is not None and self.clock.spent() >= self._limits.max_seconds:
            raise OverLimit(self._limits.too_slow(self.clock.spent()))
        used = self._gauge.excess()
        if used is not None:
            raise OverLimit(self._limits.too_large(used))

    def check_own(self, over: OutOfTime) -> None:
        """Fails the run if it is its own time that was up, and not that of the call.

        Args:
            over: what has left the epoch.

        Raises:
            TooSlowError: its own time was up.
            OverMemoryError: its process held too much.
        """
        if isinstance(over, OverLimit):
            raise over.limit from None
        if self._limits.max_seconds is not None and not self._outer.is_over() and self.clock.is_over():
            raise self._limits.too_slow(self.clock.spent(), "while a program compiled") from None
        if self.clock.refused_seconds is not None:  # by who waited for a program
            self._outer.refuse(self.clock.refused_seconds)

    def callbacks(self) -> list[keras.callbacks.Callback]:
        """What looks at the limits between two batches; nothing where there are none."""
        return [WithinLimits(self)] if self._limits else []


class WithinLimits(keras.callbacks.Callback):
    """Leaves `fit` between two batches when the run has passed a limit.

    Args:
        limits: of the run.
    """

    def __init__(self, limits: RunLimits) -> None:
        super().__init__()
        self._limits = limits

    def on_epoch_begin(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        self._limits.check()

    def on_train_batch_end(self, batch: int, logs: Mapping[str, Any] | None = None) -> None:
        self._limits.check()

    def on_test_batch_end(self, batch: int, logs: Mapping[str, Any] | None = None) -> None:
        self._limits.check()


class MemoryWatch:
    """Looks all the time at what this process holds: what a step takes is gone when it has ended.

    Args:
        max_bytes: that it may hold; None: there is no limit, and nothing is looked at.
    """

    def __init__(self, max_bytes: int | None) -> None:
        self._max_bytes, self._most = max_bytes, 0
        self._is_over = threading.Event()

    def start(self) -> None:
        """Begins to look."""
        if self._max_bytes is not None:
            threading.Thread(target=self._look, name="memory-watch", daemon=True).start()

    def stop(self) -> None:
        """The inverse of `start`."""
        self._is_over.set()

    def excess(self) -> int | None:
        """The most bytes that were held since this was asked the last time, where they were too many; else None."""
        most, self._most = self._most, 0
        if self._max_bytes is None or most <= self._max_bytes:
            return None
        give_back()  # what is held for nothing shall not be found again
        return most

    def _look(self) -> None:
        while not self._is_over.wait(LOOK_SECONDS):
            self._most = max(self._most, held_bytes())


@contextlib.contextmanager
def waiting_told(max_seconds: float | None, clock: Clock, trials: str, notify: Callable[[str], None]) -> Iterator[None]:
    """Says that this process waits for something that it cannot end, if what is inside takes longer than it may.

    Args:
        max_seconds: it may take; None: nothing is said.
        clock: counts them.
        trials: that wait, for the line.
        notify: takes the line.
    """
    if max_seconds is None:
        yield
        return
    waiting = threading.current_thread().ident

    def tell() -> None:
        if clock.spent() < max_seconds:
            return  # it counts by another time than this thread's
        frames = sys._current_frames()  # noqa: SLF001  # documented, for just this
        line = place_of(frames.get(waiting or 0))
        at = f", at {line}" if line else ""
        notify(
            f"trial {trials} has taken longer than max_seconds_per_trial={max_seconds:g}{at}: this process waits until "
            "it comes back, since running code cannot be ended from outside. In a process of its own it can: type "
            "executor=kt.ProcessExecutor() where the tuner is made"
        )

    # A thread and not a look in between: there is nothing in between of a call that does not return.
    timer = threading.Timer(max(0.0, max_seconds - clock.spent()) + _GRACE_SECONDS, tell)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
