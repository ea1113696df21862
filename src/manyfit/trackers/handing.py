"""Hands events over to a tracker through a queue: the search neither waits for it nor ends by it."""

from __future__ import annotations

import queue
import threading
import time

from manyfit.core.events import CallEnded, EpochsEnded, Event, TrialEnded, TrialsBegan, logger
from manyfit.report.snapshot import Snapshot
from manyfit.trackers.base import TrackedEnd, TrackedEpoch, Tracker, tell_trial

_MOST_EVENTS = 10_000
_SECONDS_AT_THE_END = 30.0  # a database that is made at the first use takes ten


class TrackerThread:
    """A listener that passes what it hears on to a tracker, in a thread of its own.

    Events wait in a queue that holds so many; what comes when it is full is dropped, and counted. At the end of a call
    it is waited for, so that a program which ends then has told everything; not where nothing more is taken.

    Args:
        tracker: is told.
        folder: of the project.
        most_events: that may wait.
        seconds_at_the_end: that a call waits for the next event to be taken.

    Attributes:
        num_dropped: events that were not told.
    """

    def __init__(
        self,
        tracker: Tracker,
        folder: str,
        *,
        most_events: int = _MOST_EVENTS,
        seconds_at_the_end: float = _SECONDS_AT_THE_END,
    ) -> None:
        self.num_dropped = 0
        self._tracker, self._folder = tracker, folder
        # Before the first event: what had ended by then is not told twice.
        self._before = Snapshot.of(folder)
        self._seconds_at_the_end = seconds_at_the_end
        self._events: queue.Queue[Event | None] = queue.Queue(most_events)
        self._has_died = self._has_warned = self._hangs = False
        self._idle = threading.Event()
        self._num_told = 0
        # A daemon: a tool that hangs does not keep the process from its end.
        name = f"manyfit-{type(tracker).__name__}"
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._thread.start()

    def hear(self, event: Event) -> None:
        """See `manyfit.core.events.Listener`."""
        if self._has_died:
            return
        if isinstance(event, TrialsBegan | EpochsEnded | TrialEnded | CallEnded):
            self._put(event)
        # Once it was waited for in vain: a tool that hangs costs a program these seconds once.
        if isinstance(event, CallEnded) and not self._hangs:
            self._wait()

    def close(self) -> None:
        """Ends its thread, once it has told what waits."""
        self._put(None)

    def _put(self, event: Event | None) -> None:
        # Before it is put: who waits must not see the moment between.
        self._idle.clear()
        try:
            self._events.put_nowait(event)
        except queue.Full:
            self.num_dropped += 1
            self._warn(f"does not keep up: events are dropped, {self.num_dropped} so far")

    def _wait(self) -> None:
        last, since = -1, time.monotonic()
        while not self._has_died and not (self._idle.wait(0.05) and self._events.empty()):
            if self._num_told != last:
                last, since = self._num_told, time.monotonic()
            elif time.monotonic() > since + self._seconds_at_the_end:
                self._hangs = True
                self._warn(f"has taken no event for {self._seconds_at_the_end:g} s: the program does not wait for it")
                return

    def _warn(self, why: str) -> None:
        if not self._has_warned:
            self._has_warned = True
            logger.warning("%s %s", type(self._tracker).__name__, why)

    def _work(self) -> None:
        try:
            self._begin()
            while (event := self._next()) is not None:
                self._tell(event)
                self._num_told += 1
        except BaseException as error:  # a tool may raise SystemExit, too; here it would go unseen
            # What waits is never told; `hear` puts nothing more into the queue, so that memory does not grow.
            self._has_died = True
            if not self._has_warned:
                self._has_warned = True
                logger.warning("%s is told nothing more: it failed", type(self._tracker).__name__, exc_info=error)

    def _next(self) -> Event | None:
        try:
            return self._events.get_nowait()
        except queue.Empty:
            self._idle.set()
            event = self._events.get()
            self._idle.clear()
            return event

    def _begin(self) -> None:
        """Tells of trials that ended before, in another process or without this tracker."""
        known = self._tracker.begin(self._before)
        for trial in self._before.trials:
            if trial.trial_id not in known:
                tell_trial(trial, self._tracker)

    def _tell(self, event: Event) -> None:
        if isinstance(event, TrialsBegan):
            for trial_id, values in event.trials.items():
                self._tracker.trial_began(trial_id, values)
        elif isinstance(event, EpochsEnded):
            told = [
                TrackedEpoch(plan.trial_id, plan.phase, plan.execution, epoch, logs)
                for plan, epoch, logs in event.epochs
            ]
            self._tracker.epochs_ended(told)
        elif isinstance(event, TrialEnded):
            end = TrackedEnd.of(event.score, event.scores, event.reason, is_cut_short=event.is_cut_short)
            self._tracker.trial_ended(event.trial_id, end)
        elif isinstance(event, CallEnded):
            self._tracker.call_ended(Snapshot.of(self._folder))
