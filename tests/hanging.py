"""What waits for ever fails its test instead of the whole run; on POSIX."""

from __future__ import annotations

import contextlib
import signal


@contextlib.contextmanager
def nothing_hangs(seconds=60):
    """Fails what takes longer. Not by a `TimeoutError`: that is an `OSError`, which readers of files answer for."""

    def give_up(number, frame):
        raise AssertionError("it hangs")

    before = signal.signal(signal.SIGALRM, give_up)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
