"""The trackers that a tuner's searches, and the steps after them, are told to."""

from __future__ import annotations

from typing import Any

from manyfit import trackers
from manyfit.oracles import Oracle
from manyfit.trackers.handing import TrackerThread


class Tracking:
    """Those of the latest search that named any.

    Args:
        oracle: whose trials are told.
        folder: the project's.
    """

    def __init__(self, oracle: Oracle, folder: str) -> None:
        self._oracle, self._folder = oracle, folder
        self._threads: list[TrackerThread] = []

    def follow(self, given: Any) -> None:
        """Tells other trackers from now on.

        Args:
            given: the `trackers` of a search; None leaves those that there are.

        Raises:
            UsageError: another name, or what is no tracker.
            ImportError: its tool is not installed.
        """
        if given is None:
            return
        # All of them before any begins: a wrong name must not leave threads behind.
        found = trackers.resolved(given)
        self.close()
        self._threads = [TrackerThread(one, self._folder) for one in found]
        for thread in self._threads:
            self._oracle.book.events.listen(thread)

    def close(self) -> None:
        """Tells them nothing more."""
        for thread in self._threads:
            self._oracle.book.events.leave(thread)
            thread.close()
        self._threads = []
