"""The one clock of a search: how much of its time is spent, and what still fits."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence


class Clock:
    """Counts the seconds between `start` and `stop`, over all runs of a project, against a limit.

    Args:
        max_seconds: the limit; None: there is none.
        spent_seconds: what earlier runs took.
        within: clocks of calls that this one's is a part of: when one of them is over, so is this one.
        now: a time in seconds that never goes back; None: `time.monotonic`. Tests pass their own, so
            that none of them has to wait.

    Attributes:
        refused_seconds: what a step takes at least, as far as is known, that was not begun, or was left, since it did
            not fit; None: there was none.
        halted: why it is over although time may be left; None: it is not. `start` forgets it.

    Example:

    >>> times = iter([100.0, 103.0, 103.0])
    >>> clock = Clock(10, spent_seconds=2, now=lambda: next(times))
    >>> clock.start()
    >>> clock.spent(), clock.left()
    (5.0, 5.0)

    A step of 30 seconds in a call that has 3 left:

    >>> Clock(30, within=[Clock(3)]).left()
    3.0
    """

    def __init__(
        self,
        max_seconds: float | None = None,
        *,
        spent_seconds: float = 0.0,
        within: Sequence[Clock] = (),
        now: Callable[[], float] | None = None,
    ) -> None:
        self.max_seconds = max_seconds
        self.within = tuple(within)
        self._before = spent_seconds
        self._now = now or time.monotonic
        self._started: float | None = None
        self.refused_seconds: float | None = None
        self.halted: str | None = None

    @classmethod
    def started(cls, max_seconds: float | None = None, *, within: Sequence[Clock] = ()) -> Clock:
        """A clock that counts from now on.

        Args:
            max_seconds: see `Clock`.
            within: see `Clock`.
        """
        clock = cls(max_seconds, within=within)
        clock.start()
        return clock

    def __reduce__(self) -> tuple[Callable[..., Clock], tuple[float | None, float]]:
        # A clock that travels to another process goes on there with what is left when it arrives. The time of day is
        # all that two processes share: a worker takes seconds to start.
        left = self.left()
        return _arrived, (None if math.isinf(left) else left, time.time())

    def now(self) -> float:
        """A time in seconds to measure steps by: that of the call that it is a part of, where there is one."""
        return self.within[-1].now() if self.within else self._now()

    def start(self) -> None:
        """Counts from now on; a clock that runs already goes on counting from now."""
        # What ran since an earlier `start` counts: a search inside a longer call shares its clock.
        self._before = self.spent()
        self._started = self._now()
        self.refused_seconds = self.halted = None

    def stop(self) -> None:
        """Stops counting; what was spent stays."""
        self._before = self.spent()
        self._started = None

    def set_spent(self, seconds: float) -> None:
        """Takes what earlier runs of the project have spent, in place of what was known."""
        self._before = seconds

    @property
    def is_running(self) -> bool:
        """Whether it counts."""
        return self._started is not None

    def spent(self) -> float:
        """Seconds that were counted so far."""
        return self._before + (0.0 if self._started is None else self._now() - self._started)

    def left(self) -> float:
        """Seconds until the limit, or that of a clock that this one is within, at least 0; infinite without one."""
        if self.halted is not None:
            return 0.0
        own = math.inf if self.max_seconds is None else max(0.0, self.max_seconds - self.spent())
        return min([own, *(clock.left() for clock in self.within)])

    @property
    def is_limited(self) -> bool:
        """Whether it will ever be over."""
        return self.max_seconds is not None or any(clock.is_limited for clock in self.within)

    def allows(self, seconds: float = 0.0) -> bool:
        """Whether something that takes so long still fits. When nothing is left, nothing does, however short."""
        # Not `seconds <= left` alone: with nothing left, work that is predicted to take no time would still be begun.
        left = self.left()
        return left > 0.0 and seconds <= left

    def is_over(self) -> bool:
        """Whether the limit is reached."""
        return not self.allows()

    def refuse(self, seconds: float) -> None:
        """Notes that a step was not begun, or was left, which takes so long: nothing new begins afterwards."""
        self.refused_seconds = seconds

    def halt(self, why: str, *, outer: bool = False) -> None:
        """Ends it now, from any thread: what runs ends with what it has.

        Args:
            why: in words.
            outer: whether the calls that its own is a part of end as well.
        """
        # A plain assignment, which needs no lock: the thread that searches reads it between two steps.
        self.halted = why
        for clock in self.within if outer else ():
            clock.halt(why, outer=True)

    def limits(self) -> list[float | None]:
        """Its limit, and those of the clocks that it is within."""
        return [self.max_seconds, *(limit for clock in self.within for limit in clock.limits())]

    def raise_limits(self, seconds: float) -> None:
        """Raises every limit that is lower, its own and those of the clocks that it is within."""
        if self.max_seconds is not None:
            self.max_seconds = max(self.max_seconds, seconds)
        # What did not fit into the time before may fit now.
        self.refused_seconds = None
        for clock in self.within:
            clock.raise_limits(seconds)

    def begins_nothing(self) -> bool:
        """Whether the limit is reached, or what is left was too short for a step; what runs may still end."""
        return self.refused_seconds is not None or self.is_over()


def _arrived(left: float | None, sent: float) -> Clock:
    """A clock in another process than the one that it was started in."""
    under_way = max(0.0, time.time() - sent)  # the time of day may have been set back meanwhile
    return Clock.started(None if left is None else max(0.0, left - under_way))
