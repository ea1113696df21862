import math

import pytest

from manyfit.core.errors import UsageError
from manyfit.core.records import Decision, Ending, Progress
from manyfit.schedulers.base import PARENT, Limits, Room
from manyfit.schedulers.full_length import FullBudget


def test_best_loss_skips_epochs_that_were_not_logged():
    progress = Progress("0", curve=(math.nan, 3.0, math.nan, 2.0))
    assert progress.epochs == 4
    assert progress.best_loss() == 2.0
    assert progress.best_loss(3) == 3.0
    assert progress.best_loss(1) == math.inf


@pytest.mark.parametrize(
    ("progress", "paused"),
    [(Progress("0"), True), (Progress("0", running=True), False), (Progress("0", ending=Ending.STOPPED), False)],
)
def test_paused_is_neither_running_nor_ended(progress, paused):
    assert progress.paused is paused


@pytest.mark.parametrize("name", ["max_trials", "max_total_epochs", "num_configurations"])
def test_limits_refuse_negative_numbers(name):
    with pytest.raises(UsageError, match=rf"Limits\({name}=...\): got -1. Allowed: 0 or more"):
        Limits(**{name: -1})


def test_room_charges_running_trials_up_to_their_target_and_paused_ones_what_they_trained():
    history = [
        Progress("0", curve=(1.0,) * 3, target_epochs=9, running=True),  # 9
        Progress("1", curve=(1.0,) * 3, target_epochs=9),  # 3
        Progress("2", curve=(1.0,) * 2, target_epochs=9, ending=Ending.COMPLETED),  # 2
    ]
    room = Room(history, Limits(max_total_epochs=20), count=9)
    assert room.fits(6) and not room.fits(7)
    room.take(4, start=True)
    assert room.fits(2) and not room.fits(3)
    assert room.slots == 8


def test_room_takes_the_smaller_of_trials_and_configurations():
    assert Limits(max_trials=5, num_configurations=3).max_starts == 3
    assert Limits(num_configurations=3).max_starts == 3
    assert Limits().max_starts is None
    assert not Room([Progress("0")] * 3, Limits(max_trials=5, num_configurations=3), 1).can_start
    assert not Room([], Limits(max_trials=5, exhausted=True), 1).can_start


def test_full_budget_starts_until_a_limit():
    scheduler = FullBudget(max_epochs=10)
    assert len(scheduler.assign([], 3, Limits())) == 3
    assert len(scheduler.assign([], 8, Limits(max_trials=5))) == 5
    assert len(scheduler.assign([], 8, Limits(max_total_epochs=39))) == 3
    running = [Progress(str(i), target_epochs=10, running=True) for i in range(3)]
    assert scheduler.assign(running, 8, Limits(max_total_epochs=39)) == []
    assert scheduler.assign([], 8, Limits(exhausted=True)) == []


def test_full_budget_never_interrupts():
    progress = Progress("0", curve=(1.0,) * 10, target_epochs=10, running=True)
    assert FullBudget(max_epochs=10).decide([progress], ["0"]) == [Decision.GO_ON]
    unknown = Progress("0", curve=(1.0,) * 10, running=True)
    assert FullBudget().decide([unknown], ["0"]) == [Decision.GO_ON]


def test_full_budget_refuses_a_cap_on_epochs_without_epochs():
    with pytest.raises(UsageError, match=r"Add `epochs=\.\.\.` to search"):
        FullBudget().assign([], 1, Limits(max_total_epochs=5))


@pytest.mark.parametrize("wrong", [0, -1, 2.5, True, "20"])
def test_full_budget_refuses_what_is_no_count(wrong):
    with pytest.raises(UsageError, match=r"FullBudget\(max_epochs=...\)"):
        FullBudget(max_epochs=wrong)


def test_a_search_without_branches_counts_its_trials_without_going_through_them():
    class Untouched(list):
        def __iter__(self):
            raise AssertionError("gone through")

    history = Untouched([Progress(str(n), (0.5,), None, Ending.COMPLETED, False, {}) for n in range(5)])
    assert len(FullBudget().assign(history, 10, Limits(max_trials=8))) == 3
    # A branch is no start, where there may be some.
    branch = Progress("b", (0.5,), None, Ending.COMPLETED, False, {PARENT: "0"})
    room = Room([*list.__iter__(history), branch], Limits(max_trials=6), 10)
    room.take(None, start=True)
    assert not room.can_start
