"""The clock of a search."""

import math
import pickle

import pytest

from manyfit.core.clock import Clock


class Times:
    """A time that goes when it is told to."""

    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


@pytest.fixture
def times():
    return Times()


def test_only_what_lies_between_start_and_stop_counts(times):
    clock = Clock(now=times)
    times.now += 5
    assert clock.spent() == 0
    clock.start()
    times.now += 3
    assert clock.spent() == 3
    clock.stop()
    times.now += 50
    assert clock.spent() == 3
    clock.start()
    times.now += 1
    assert clock.spent() == 4


def test_a_clock_that_is_started_twice_counts_once(times):
    clock = Clock(now=times)
    clock.start()
    times.now += 2
    clock.start()
    times.now += 2
    assert clock.spent() == 4


def test_earlier_runs_of_a_project_count(times):
    clock = Clock(10, spent_seconds=4, now=times)
    assert (clock.spent(), clock.left()) == (4, 6)
    clock.set_spent(7)
    assert clock.left() == 3


def test_the_limit_is_the_last_second_that_is_allowed(times):
    clock = Clock(10, now=times)
    clock.start()
    assert clock.allows() and clock.allows(10) and not clock.allows(10.5) and not clock.is_over()
    times.now += 9
    assert clock.allows(1) and not clock.allows(1.5)
    times.now += 1
    assert clock.left() == 0 and not clock.allows() and clock.is_over()
    times.now += 1
    assert clock.left() == 0


def test_without_a_limit_everything_fits(times):
    clock = Clock(now=times)
    clock.start()
    times.now += 1e9
    assert clock.left() == math.inf and clock.allows(1e12) and not clock.is_over()
    clock.max_seconds = 5
    assert clock.is_over()


def test_a_clock_is_over_with_any_that_it_is_within(times):
    call = Clock(10, now=times)
    call.start()
    times.now += 4
    step = Clock(8, within=[call, Clock()], now=times)
    step.start()
    assert (step.left(), step.spent()) == (6, 0) and step.is_limited
    call.max_seconds = 20
    assert step.left() == 8
    times.now += 8
    assert step.is_over() and not call.is_over()
    endless = Clock(within=[Clock()])
    assert endless.left() == math.inf and not endless.is_limited and Clock(within=[call]).is_limited


def test_a_clock_that_travels_goes_on_there_with_what_is_left(times):
    clock = Clock(10, spent_seconds=3, now=times)
    there = pickle.loads(pickle.dumps(clock))
    assert there.is_running and 0 < there.left() <= 7
    make, (left, sent) = clock.__reduce__()
    assert left == 7 and make(left, sent - 100).is_over(), "it was under way for longer than was left"
    assert make(left, sent + 100).left() > 6, "a time of day that was set back gives nothing"
    endless = pickle.loads(pickle.dumps(Clock()))
    assert endless.left() == math.inf and not endless.is_limited


def test_a_raised_limit_raises_those_around_it_and_lets_steps_begin_again(times):
    outer = Clock(60.0, now=times)
    long = Clock(500.0, now=times)
    clock = Clock(30.0, within=[outer, long, Clock(now=times)], now=times)
    clock.refused_seconds = outer.refused_seconds = 45.0
    assert clock.begins_nothing()
    clock.raise_limits(100.0)
    assert clock.limits() == [100.0, 100.0, 500.0, None]
    assert not clock.begins_nothing() and not outer.begins_nothing()
