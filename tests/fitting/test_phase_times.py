"""Where the seconds of a `fit` go."""

from __future__ import annotations

from manyfit.core.clock import Clock
from manyfit.fitting.phase_times import PhaseTimes


def test_steps_of_one_phase_are_one_beginning_and_all_their_seconds():
    told, now = [], [0.0]
    phases = PhaseTimes(Clock(100.0), {}, begins=told.append)
    phases.clock.spent = lambda: now[0]
    for phase, seconds in (("search", 5.0), ("combine", 1.0), ("combine", 2.0), ("search", 3.0), ("combine", 1.0)):
        phases.timed(phase, lambda seconds=seconds: now.append(now.pop() + seconds))
    assert told == ["search", "combine", "search", "combine"]
    assert phases.seconds() == {"search": 8.0, "combine": 4.0}
