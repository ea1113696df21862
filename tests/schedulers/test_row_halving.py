"""Who goes on to more rows, and when."""

import math

import pytest

from manyfit.core.errors import UsageError
from manyfit.core.records import ROWS, Ending, Progress
from manyfit.schedulers import Limits, Restart, RowHalving, Start

LIMITS = Limits(max_trials=100)


def ended(name, loss, num_rows=10, ending=Ending.STOPPED):
    return Progress(name, (loss,), ending=ending, tags={} if num_rows is None else {ROWS: num_rows})


def running(name, num_rows=10):
    return Progress(name, running=True, tags={} if num_rows is None else {ROWS: num_rows})


def restarts(history, count=4, limits=LIMITS, rows=(10, 30)):
    jobs = RowHalving(rows).assign(history, count, limits)
    return [(job.trial_id, job.num_rows) for job in jobs if isinstance(job, Restart)]


def test_new_trials_begin_on_the_smallest_part():
    jobs = RowHalving([10, 30], max_epochs=5).assign([], 2, LIMITS)
    assert jobs == [Start(5, {ROWS: 10})] * 2


def test_one_in_three_goes_on_and_the_best_of_those_that_wait():
    two = [ended("a", 0.3), ended("b", 0.2)]
    assert restarts(two) == [] and restarts([*two, running("c")]) == []
    assert restarts([*two, ended("c", 0.9)]) == [("b", 30)]
    # Once b has gone on, nobody else does before there are three more.
    assert restarts([ended("a", 0.3), running("b", 30), ended("c", 0.9), ended("d", 0.1), ended("e", 0.1)]) == []
    more = [ended(name, 0.1 * place) for place, name in enumerate("defg", 1)]
    assert restarts([ended("a", 0.3), running("b", 30), *more]) == [("d", 30)]


def test_the_highest_rung_comes_first():
    history = [ended(f"{place}", place / 10, 30) for place in range(3)]
    history += [ended(f"low {place}", place / 10) for place in range(6)]
    assert restarts(history) == [("0", None)]
    assert restarts(history + [ended(f"more {place}", 0.05) for place in range(3)], count=1) == [("0", None)]


def test_who_fails_on_more_rows_holds_no_place_there():
    history = [ended("a", math.inf, 30, Ending.FAILED), ended("b", 0.2), ended("c", 0.3), ended("d", 0.4)]
    assert restarts(history) == [("b", 30)]
    diverged = [ended("a", math.inf, 10, Ending.DIVERGED), ended("b", 0.2), ended("c", 0.3)]
    assert restarts(diverged) == []  # neither has it been measured by what it has not


def test_where_nothing_comes_any_more_the_best_goes_on_all_the_same():
    no_more = Limits(max_trials=2)
    assert restarts([ended("a", 0.3), running("b")], limits=no_more) == []
    assert restarts([ended("a", 0.3), ended("b", 0.2)], limits=no_more) == [("b", 30)]
    assert restarts([ended("a", 0.3), running("b", 30)], limits=no_more) == []
    assert restarts([ended("a", 0.3), ended("b", 0.2, 30)], limits=no_more) == [("b", None)]
    assert restarts([ended("a", 0.3), ended("b", 0.2, None)], limits=no_more) == []


@pytest.mark.parametrize("rows", [[], [30, 10], [10, 10], [0, 5], [2.5]])
def test_rows_ascend(rows):
    with pytest.raises(UsageError, match="RowHalving"):
        RowHalving(rows)


def test_one_in_one_is_no_halving():
    with pytest.raises(UsageError, match="factor"):
        RowHalving([10], 1)
