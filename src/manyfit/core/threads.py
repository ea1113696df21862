"""Threads that may be left at work: neither a call that returns nor the end of the process waits for them.

XLA cannot be interrupted while it compiles. So what compiles does so in such a thread, and whoever waits for it may
stop waiting. Python's own pools will not do: at the end of a process they wait for their threads.
"""

from __future__ import annotations

import atexit
import concurrent.futures
import contextlib
import ctypes
import functools
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import Any, ParamSpec, TypeAlias, TypeVar

_P = ParamSpec("_P")
_T = TypeVar("_T")
_Work: TypeAlias = tuple["Future[Any]", Callable[[], Any]]

working: set[Future[Any]] = set()
"""What the threads of this process are at."""


class LeavableThreads(Executor):
    """A pool of threads that the end of the process does not wait for.

    Args:
        most: threads, made as they are needed.
        name: of the threads begins with this.

    Example:

    >>> with LeavableThreads(2, name="example") as threads:
    ...     threads.submit(sum, [1, 2]).result()
    3
    """

    def __init__(self, most: int, *, name: str) -> None:
        self._most, self._name = most, name
        self._waiting: queue.SimpleQueue[_Work | None] = queue.SimpleQueue()
        self._idle = threading.Semaphore(0)
        self._lock = threading.Lock()
        self._is_shut = False
        self._threads: list[threading.Thread] = []
        _watch_the_end()

    def submit(self, fn: Callable[_P, _T], /, *args: _P.args, **kwargs: _P.kwargs) -> Future[_T]:
        """See `concurrent.futures.Executor.submit`."""
        future: Future[_T] = Future()
        with self._lock:
            if self._is_shut:
                raise RuntimeError("no work is taken after shutdown")  # as Python's own pools say it
            self._waiting.put((future, functools.partial(fn, *args, **kwargs)))
            # Who is idle takes it; each has counted itself, so that two pieces of work never count on the same thread.
            if not self._idle.acquire(blocking=False) and len(self._threads) < self._most:
                thread = threading.Thread(target=self._work, name=f"{self._name}-{len(self._threads)}", daemon=True)
                self._threads.append(thread)
                thread.start()
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """See `concurrent.futures.Executor.shutdown`."""
        with self._lock:
            self._is_shut = True
            with contextlib.suppress(queue.Empty):
                while cancel_futures:
                    if (work := self._waiting.get_nowait()) is not None:
                        work[0].cancel()
            self._waiting.put(None)
        for thread in self._threads if wait else ():
            thread.join()

    def _work(self) -> None:
        while (work := self._waiting.get()) is not None:
            _do(*work)
            del work  # a thread that waits holds nothing
            self._idle.release()
        self._waiting.put(None)  # for the next one


def _do(future: Future[Any], call: Callable[[], Any]) -> None:
    if not future.set_running_or_notify_cancel():
        return
    working.add(future)
    try:
        result = call()
    except BaseException as error:  # it is raised where somebody waits for the result
        future.set_exception(error)
    else:
        future.set_result(result)
    finally:
        working.discard(future)


# The end of the process ------------------------------------------------------------------------------------------
#
# Python lets daemon threads be when it ends, but one that is inside of XLA does not take that well. XLA asks for the
# interpreter now and then; Python before 3.14 ends a thread that does so too late by unwinding its stack; XLA's code
# must not be unwound, so C++ aborts the process. And then the libraries take down what the thread still uses. So where
# a thread is at work, C++ is told to put such a thread to sleep instead, and the process ends as soon as Python has:
# with its own exit status, which glibc tells `on_exit` and nobody else.


@functools.cache
def _watch_the_end() -> None:
    atexit.register(_end)


def _end() -> None:
    left = [future for future in working if not future.done()]
    if left and not _leave():
        concurrent.futures.wait(left)


def _leave() -> bool:
    """Prepares the end of this process beside threads that work; whether the system has the means."""
    try:
        libc, libstdcxx = ctypes.CDLL(None), ctypes.CDLL("libstdc++.so.6")
        set_terminate, on_exit = libstdcxx["_ZSt13set_terminatePFvvE"], libc["on_exit"]
        pause, end = (ctypes.cast(function, ctypes.c_void_p) for function in (libc["pause"], libc["_exit"]))
    except (OSError, AttributeError):  # no Linux, or one with another C library
        return False
    set_terminate(pause)
    on_exit(end, None)
    return True
