"""Where the seconds of a `fit` go: a clock, and the phases that have used it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from manyfit.core.clock import Clock


class PhaseTimes:
    """Seconds of each phase of a call, those of earlier calls on the same project included.

    Args:
        clock: of the whole call.
        earlier: seconds of each phase so far.
        begins: is told the name of each phase that begins; several steps of one phase are one beginning.

    Attributes:
        clock: as given.
        under_way: the name of the phase that is under way, or that an error has ended; None: there is none.

    Example:

    >>> times = iter([0.0, 3.0])
    >>> phases = PhaseTimes(Clock(10.0), {"search": 5.0})
    >>> phases.clock.spent = lambda: next(times)
    >>> phases.timed("bag", str, 7)
    '7'
    >>> phases.seconds()
    {'search': 5.0, 'bag': 3.0}
    """

    def __init__(
        self, clock: Clock, earlier: Mapping[str, float], *, begins: Callable[[str], None] = lambda name: None
    ) -> None:
        self.clock = clock
        self._begins = begins
        self._ended = dict(earlier)
        self._phase: tuple[str, float] | None = None  # the one that is under way, and when it began
        self._latest = ""  # the one that has begun last

    @property
    def under_way(self) -> str | None:
        """See the class."""
        return None if self._phase is None else self._phase[0]

    def seconds(self) -> dict[str, float]:
        """Seconds of each phase, those of the one that is under way included."""
        found = dict(self._ended)
        if self._phase is not None:
            name, begun = self._phase
            found[name] = found.get(name, 0.0) + self.clock.spent() - begun
        return found

    def timed(self, phase: str, step: Callable[..., Any], *args: Any) -> Any:
        """What a step answers, whose seconds are those of a phase."""
        # One that an error has ended is closed here: who is interrupted tells of the phase that was under way.
        self._ended, self._phase = self.seconds(), (phase, self.clock.spent())
        if phase != self._latest:
            self._latest = phase
            self._begins(phase)
        value = step(*args)
        self._ended, self._phase = self.seconds(), None
        return value
