"""Calls that can be paused.

`model.fit` cannot be left and entered again, so a call that may be paused runs in a thread of its own: pausing is
waiting. Everything stays as it is, the optimizer's slots, the patience of callbacks, the order of the data, so
continuing equals never having stopped. A generator or a greenlet would do without threads, but cannot yield from
inside Keras's own loop.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from manyfit.training.seeding import generator_states, set_generator_states


class Abandoned(BaseException):
    """Raised inside a paused call that nobody will continue. Not an `Exception`: user code must not catch it."""


class SuspendableCall:
    """A call that pauses itself.

    Args:
        function: is called with this object; it calls `pause` wherever it can wait.

    Example:

    >>> call = SuspendableCall(lambda call: [call.pause(), "done"][1])
    >>> call.proceed(), call.proceed(), call.result
    (False, True, 'done')
    """

    def __init__(self, function: Callable[[SuspendableCall], Any]) -> None:
        self.result: Any = None
        self._error: BaseException | None = None
        self._function = function
        # One semaphore for each direction: a lock can only be released where it was taken, which here is the other
        # thread.
        self._go_on, self._handed_back = threading.Semaphore(0), threading.Semaphore(0)
        self._done = self._abandoned = False
        self.generators = generator_states()  # as the call left them when it paused
        # A daemon: a paused call that nobody continues must not keep the process from ending.
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def proceed(self) -> bool:
        """Runs until the call pauses or returns.

        Returns:
            Whether it has returned. What it raised is raised here.
        """
        # Global generators belong to whoever runs. Without the exchange the draws of one execution would shift those of
        # the next, and a pause would change both.
        outer = generator_states()
        set_generator_states(self.generators)
        self._go_on.release()
        try:
            self._handed_back.acquire()
        finally:
            self.generators = generator_states()
            set_generator_states(outer)
        if self._error is not None:
            raise self._error
        return self._done

    def pause(self) -> None:
        """Called from inside: waits until `proceed` is called again.

        Raises:
            Abandoned: `abandon` was called instead.
        """
        self._handed_back.release()
        self._go_on.acquire()
        if self._abandoned:
            raise Abandoned

    def abandon(self) -> None:
        """Ends a paused call and frees what it holds."""
        self._abandoned = True
        self._go_on.release()
        # With a limit: a callback of the user's may hang in its `finally`, and the search need not wait for it.
        self._thread.join(timeout=60.0)

    def _run(self) -> None:
        self._go_on.acquire()
        try:
            if not self._abandoned:
                self.result = self._function(self)
        except Abandoned:
            pass
        # Whatever it is, Ctrl+C included, it is raised where somebody waits for this thread.
        except BaseException as error:
            self._error = error
        finally:
            self._done = True
            self._handed_back.release()
