"""What one trial may take, seconds and memory, and how much memory this process holds."""

from __future__ import annotations

import ctypes
import dataclasses
import gc
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path

from manyfit.core.checks import is_whole, seconds_or_none
from manyfit.core.errors import UsageError, explain
from manyfit.core.lifecycle import OverMemoryError, TooSlowError

LOOK_SECONDS = 0.05  # between two looks at the memory
_UNITS = {"": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
_UNITS |= {"KIB": 1 << 10, "MIB": 1 << 20, "GIB": 1 << 30, "TIB": 1 << 40}
_SIZE = re.compile(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([KMGT]i?B)?\s*", re.IGNORECASE)


def bytes_or_none(where: str, size: object) -> int | None:
    """A size of memory in bytes; None stays None.

    Args:
        where: the argument, for the message.
        size: bytes, or a text with a unit.

    Raises:
        UsageError: it is neither None, nor a whole number of at least 1, nor a text like "2GB".

    Example:

    >>> bytes_or_none("max_memory", "2GB"), bytes_or_none("max_memory", "1.5 GiB")
    (2000000000, 1610612736)
    """
    if size is None:
        return None
    found = None
    if is_whole(size):
        found = int(size)
    elif isinstance(size, str) and (match := _SIZE.fullmatch(size)):
        found = round(float(match[1]) * _UNITS[(match[2] or "").upper()])
    if found is None or found < 1:
        allowed = 'bytes as a whole number, a text like "2GB" or "512 MiB", or None'
        raise UsageError(explain(where, repr(size), allowed, 'Type max_memory="4GB", say, or leave it out.'))
    return found


@dataclasses.dataclass(frozen=True)
class TrialLimits:
    """What one training run of a trial may take.

    Attributes:
        max_seconds: from the beginning of its build on; None: no limit.
        max_memory_bytes: that the process which trains it may hold in the machine's memory; None: no limit.
    """

    max_seconds: float | None = None
    max_memory_bytes: int | None = None

    @classmethod
    def of(cls, max_seconds_per_trial: object, max_memory: object) -> TrialLimits:
        """What the user has typed.

        Raises:
            UsageError: no such limit, or one on memory where the system does not tell what a process holds.
        """
        max_bytes = bytes_or_none("max_memory", max_memory)
        if max_bytes is not None and not held_bytes():
            allowed = "a limit where the system tells what a process holds: Linux"
            raise UsageError(explain("max_memory", f"a limit on {sys.platform}", allowed, "Leave it out."))
        return cls(seconds_or_none("max_seconds_per_trial", max_seconds_per_trial), max_bytes)

    def __bool__(self) -> bool:
        """Whether there is any."""
        return self.max_seconds is not None or self.max_memory_bytes is not None

    def too_slow(self, seconds: float, where: str = "") -> TooSlowError:
        """What ends a run that has taken too long.

        Args:
            seconds: that it has taken.
            where: it ran, in words that go behind "after so many seconds".
        """
        return TooSlowError(
            f"not done after {seconds:.3g} seconds{where and f' {where}'} (max_seconds_per_trial={self.max_seconds:g})"
        )

    def too_large(self, used_bytes: int) -> OverMemoryError:
        """What ends a run during which its process holds too much."""
        most = readable(self.max_memory_bytes or 0)
        return OverMemoryError(f"the process that trains it holds {readable(used_bytes)} (max_memory={most})")


NO_LIMITS = TrialLimits()


class MemoryGauge:
    """Looks at what this process holds, now and then.

    Args:
        max_bytes: that it may hold; None: there is no limit, and nothing is looked at.
        held: bytes that the process holds.
        now: a time in seconds.

    Example:

    >>> times = iter([0.0, 0.01, 0.2])
    >>> gauge = MemoryGauge(100, held=lambda: 150, now=lambda: next(times))
    >>> gauge.excess(), gauge.excess(), gauge.excess()
    (150, None, 150)
    """

    def __init__(
        self,
        max_bytes: int | None,
        *,
        held: Callable[[], int] | None = None,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._max_bytes, self._held, self._now = max_bytes, held or held_bytes, now
        self._next = -float("inf")

    def excess(self) -> int | None:
        """The bytes that are held, where they are too many even after what nobody uses is given back; else None."""
        # After every batch, and a look costs as much as a small batch: so not more often than needed.
        if self._max_bytes is None or (now := self._now()) < self._next:
            return None
        self._next = now + LOOK_SECONDS
        if self._held() <= self._max_bytes:
            return None
        give_back()
        used = self._held()
        return used if used > self._max_bytes else None


def held_bytes() -> int:
    """Memory of this process that is its own: arrays shared with other processes, and files, do not count.

    0 where the system does not tell (it does on Linux).
    """
    try:
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    except OSError:
        return 0
    # Anonymous pages only: shared arrays are mapped files, counted once per machine and not once per worker.
    sizes = dict(line.split(":", 1) for line in lines if ":" in line)
    return int(sizes.get("RssAnon", "0 kB").split()[0]) * 1024


def give_back() -> None:
    """Collects what is unreachable and returns freed memory to the system."""
    gc.collect()
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc keeps freed memory for later
        if trim is not None:
            trim(0)


def readable(num_bytes: int) -> str:
    """Bytes for people.

    Example:

    >>> readable(3 * 2**30), readable(5 * 2**20)
    ('3.0 GiB', '5 MiB')
    """
    return f"{num_bytes / 2**30:.1f} GiB" if num_bytes >= 2**30 else f"{num_bytes / 2**20:.0f} MiB"
