"""A context that belongs to the process, and is entered by its threads."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager


class SharedContext:
    """A context that threads are in together: the first that comes enters it, the last that leaves ends it.

    For what a process has once, such as a function of a module that is another one meanwhile, or a setting of a
    library.

    Args:
        make: makes the context, anew whenever nobody was inside. It may end in another thread than it began in.

    Example:

    >>> said = []
    >>> @contextlib.contextmanager
    ... def told():
    ...     said.append("begun")
    ...     yield
    ...     said.append("ended")
    >>> shared = SharedContext(told)
    >>> with shared.inside(), shared.inside():
    ...     said.append("inside")
    >>> said
    ['begun', 'inside', 'ended']
    """

    def __init__(self, make: Callable[[], AbstractContextManager[None]]) -> None:
        self._make = make
        self._lock = threading.Lock()
        self._num_inside = 0
        self._entered = contextlib.ExitStack()

    @contextlib.contextmanager
    def inside(self) -> Iterator[None]:
        """Enters it for this thread."""
        with self._lock:
            if self._num_inside == 0:
                self._entered.enter_context(self._make())
            self._num_inside += 1
        try:
            yield
        finally:
            with self._lock:
                self._num_inside -= 1
                if self._num_inside == 0:
                    self._entered.close()
