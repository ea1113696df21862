"""The clock of a search."""

import math

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
