"""What the seconds of a `fit` are spent on, of made-up histories."""

from __future__ import annotations

import math

import numpy as np
import pytest

from manyfit.core.clock import Clock
from manyfit.fitting import phases
from manyfit.fitting.phases import (
    Bag,
    Made,
    Tried,
    bag_seconds,
    best_bag,
    gain_of_search,
    is_over,
    larger_bag,
    seconds_for_the_end,
    training_on,
)
from manyfit.fitting.searching import SearchClock


def tried(losses, seconds: float = 1.0, **options) -> list[Tried]:
    return [Tried(loss, seconds, **options) for loss in losses]


@pytest.fixture(autouse=True)
def half_a_spread(monkeypatch):
    """Rules, and not the figures that were measured, are what is tested here."""
    monkeypatch.setattr(phases, "GAIN_OF_BAG", {(1, 1): 0.5, (2, 1): 0.5, (3, 1): 0.5, (3, 2): 0.6})


def test_the_promise_of_trials_is_the_record_of_an_exponential_tail():
    """The witness: of draws from an exponential, how much lower the best of n + m is than the best of n."""
    rng = np.random.default_rng(0)
    num_draws, more = 20, 10
    draws = rng.exponential(size=(4_000, num_draws + more))
    # Losses with an exponential tail of good ones: minus the draws, so that the best stands out.
    before, after = -draws[:, :num_draws].max(axis=1), -draws.max(axis=1)
    truth = float(np.mean(before - after))
    promised = np.mean([gain_of_search(tried(-row[:num_draws]), float(more)) for row in draws[:200]])
    assert truth == pytest.approx(math.log((num_draws + more) / num_draws), rel=0.1)
    # The spread is that of the better half behind the best one, which is wider than the scale of its tail.
    assert truth < promised < 3 * truth


def test_a_search_promises_less_with_every_trial_and_more_where_trials_are_cheap():
    losses = [0.1 * number for number in range(40)]
    assert gain_of_search(tried(losses[:10]), 10) > gain_of_search(tried(losses[:10] * 4), 10)
    assert gain_of_search(tried(losses, seconds=1), 10) > gain_of_search(tried(losses, seconds=5), 10)
    # What is compiled for each counts for each, and for a structure once.
    dear, shared = (tried(losses, compile_seconds=4, structure=name) for name in (None, "one"))
    assert gain_of_search(dear, 10) == gain_of_search(tried(losses, seconds=5), 10)
    assert gain_of_search(shared, 10) == pytest.approx(gain_of_search(tried(losses, seconds=1.1), 10))


def test_a_search_goes_on_as_long_as_nothing_is_known():
    assert gain_of_search(tried([0.3, 0.2]), 5) == math.inf
    assert best_bag(tried([0.2, 0.3]), 1_000, 5) is None


def test_a_bag_comes_when_further_trials_promise_less():
    losses = [0.1 + 0.01 * number for number in range(100)]
    sizes = [best_bag(tried(losses[:count]), 100.0, 5) for count in (4, 10, 100)]
    assert [None if bag is None else bag.top for bag in sizes] == [None, 1, 3]
    assert sizes[1].gain > gain_of_search(tried(losses[:10]), sizes[1].seconds)
    assert sizes[1].gain == pytest.approx(0.5 * 0.025)


def test_a_bag_is_as_large_as_the_time_allows():
    many = tried([0.1 + 0.01 * number for number in range(100)])
    assert [best_bag(many, left, 5).top for left in (5.0, 10.0, 15.0)] == [1, 2, 3]
    assert best_bag(many, 4.9, 5) is None
    assert best_bag(many[:2], math.inf, 5).top == 2  # no limit: nothing else is to be done with the time


def test_a_larger_bag_keeps_the_models_of_the_smaller_one_and_has_its_pace():
    many = tried([0.1 + 0.01 * number for number in range(100)])
    made = Made(Bag(2, 10.0, 0.0), lead=0.1, is_used=True)
    found = larger_bag(many, 100.0, 5, made, pace=0.2, may_search=False)
    assert (found.top, found.repeats, found.seconds) == (3, 2, pytest.approx(0.2 * (30.0 - 10.0)))
    assert found.gain == pytest.approx(0.1 * spread_of_better_half(many))
    # What it would gain there is far less than what the search would in the same seconds at the pace of a trial each.
    assert larger_bag(many[:10], 100.0, 5, made, may_search=True) is None


def spread_of_better_half(many):
    return phases.spread_of([one.loss for one in many])


def test_after_a_bag_that_was_worse_a_larger_one_has_to_make_up_for_that():
    many = tried([0.1 + 0.01 * number for number in range(100)])
    step = 0.1 * spread_of_better_half(many)
    behind, close = (Made(Bag(3, 15.0, 0.0), lead=lead, is_used=False) for lead in (-2 * step, -step / 2))
    assert larger_bag(many, 100.0, 5, behind, may_search=False) is None
    assert larger_bag(many, 100.0, 5, close, may_search=False).repeats == 2


def test_training_on_takes_as_many_models_as_fit():
    many = tried([0.1 + 0.01 * number for number in range(100)], build_seconds=0.5)
    assert [training_on(many, left, may_search=False).top for left in (2.5, 5.0, 100.0)] == [1, 2, 3]
    assert training_on(many, 2.0, may_search=False) is None


def test_a_search_is_over_where_the_better_half_is_equally_good():
    assert not is_over(tried([0.0] * 9)), "too few to tell"
    assert is_over(tried([0.0] * 5 + [0.3] * 5))
    assert not is_over(tried([0.0] * 4 + [0.3] * 6))
    # And then no step promises anything.
    assert best_bag(tried([0.0] * 10), 100.0, 5) is None
    assert training_on(tried([0.0] * 10), 100.0, may_search=False) is None


def test_what_the_time_has_stopped_costs_as_much_as_the_others():
    best, other = (
        Tried(0.1, seconds=1.0, in_full=False),
        Tried(0.2, seconds=6.0, build_seconds=0.1, compile_seconds=2.0),
    )
    assert bag_seconds([best, other], top=1, num_folds=5) == 30.0
    assert bag_seconds([best, other], top=2, num_folds=5) == 62.5


def test_some_time_is_kept_for_the_end():
    assert seconds_for_the_end(None) == 0
    assert seconds_for_the_end(100.0) == 5.0
    assert seconds_for_the_end(100.0, combining=8.0) == 8.0


def test_a_search_that_is_over_stays_so():
    """The bag that it ended for does not fit any more a moment later; that is no time for another trial."""
    needed = iter([5.0, 20.0, 0.0])
    clock = SearchClock(Clock(20.0), lambda: next(needed))
    assert [clock.left() for _ in range(3)] == [15.0, 0.0, 0.0]
    assert clock.begins_nothing()
    assert math.isinf(SearchClock(Clock(), lambda: 1.0).left())
