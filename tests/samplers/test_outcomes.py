"""Constraints, and one order over trials with constraints and several objectives."""

from __future__ import annotations

import math

import pytest

from manyfit.core.errors import UsageError
from manyfit.core.records import Ending, Observation
from manyfit.samplers.base import Constraint, broken, standings

SMALL = Constraint("bytes", max=100.0)
GOOD = Constraint("accuracy", min=0.5)


def trial(*losses: float, vectors=(), **metrics: float) -> Observation:
    return Observation("0", {}, Ending.COMPLETED if losses else Ending.FAILED, losses, metrics=metrics, vectors=vectors)


def test_a_bound_itself_is_kept_and_a_missing_metric_keeps_nothing() -> None:
    assert SMALL.holds({"bytes": 100.0}) and not SMALL.holds({"bytes": 100.5})
    assert GOOD.holds({"accuracy": 0.5}) and not GOOD.holds({"accuracy": 0.4})
    assert not SMALL.holds({}) and not SMALL.holds({"bytes": math.nan})
    assert (str(SMALL), str(GOOD)) == ("bytes <= 100", "accuracy >= 0.5")


def test_excess_is_a_share_of_the_bound() -> None:
    assert broken([SMALL, GOOD], {"bytes": 150.0, "accuracy": 0.25}) == 0.5 + 0.5
    assert broken([SMALL, GOOD], {"bytes": 50.0, "accuracy": 0.75}) == 0.0
    assert broken([Constraint("x", max=0.0)], {"x": 3.0}) == 3.0
    assert broken([SMALL], {}) == math.inf


@pytest.mark.parametrize("bounds", [{}, {"max": 1.0, "min": 0.0}, {"max": math.nan}, {"min": math.inf}])
def test_bounds_are_one_finite_number(bounds) -> None:
    with pytest.raises(UsageError, match=r"one finite bound|a finite number"):
        Constraint("x", **bounds)


def test_one_objective_stands_by_its_loss() -> None:
    assert standings([trial(2.0, 4.0), trial(1.0), trial(), trial(math.nan)]).tolist() == [3.0, 1.0, math.inf, math.inf]


def test_constraints_come_before_losses_and_failures_last() -> None:
    """In this order: keeps all and 0.9, breaks by half and 0.1, breaks by twice and 0.0, failed."""
    trials = [trial(0.1, bytes=150.0), trial(), trial(0.9, bytes=90.0), trial(0.0, bytes=300.0)]
    assert standings(trials, [SMALL]).tolist() == [1.0, math.inf, 0.0, 2.0]


def test_several_objectives_stand_by_front_then_by_room() -> None:
    """(0, 4), (1, 1), (4, 0) are the front and (2, 2) behind it; the ends of a front have all the room."""
    trials = [trial(a, vectors=((a, b),)) for a, b in ((2.0, 2.0), (1.0, 1.0), (0.0, 4.0), (4.0, 0.0))]
    places = standings([*trials, trial()])
    assert places[0] == 3.0 and places[1] == 2.0 and {places[2], places[3]} == {0.0, 1.0} and places[4] == math.inf


def test_replicates_of_several_objectives_are_averaged() -> None:
    each = trial(1.0, 3.0, vectors=((1.0, 10.0), (3.0, 20.0)))
    assert each.mean_vector == (2.0, 15.0)
    assert each.of_objective(1).losses == (10.0, 20.0)
    assert trial(1.0, 3.0, vectors=((1.0, math.inf), (3.0, 20.0))).of_objective(0).losses == (3.0,)
