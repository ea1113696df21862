"""Counting and listing the configurations of finite spaces."""

import itertools
import time

import pytest
from hypothesis import assume, given, settings
from spaces import spaces

from manyfit.space import Boolean, Choice, Encoding, Fixed, Float, HyperParameters, Int, Parent
from manyfit.space.configurations import grid_values
from manyfit.space.registry import parents_first


def _all(hp, **arguments):
    return list(Encoding(hp).enumerate(**arguments))


def test_the_default_comes_first_then_the_values_in_order():
    assert grid_values(Int("h", 1, 3, default=2)) == [2, 1, 3]
    assert grid_values(Choice("h", ["x", "y", "z"], default="y")) == ["y", "x", "z"]
    assert grid_values(Boolean("h")) == [False, True]
    assert grid_values(Fixed("h", 3)) == [3]
    assert grid_values(Float("h", 0, 1, step=0.5)) == [0.0, 0.5, 1.0]


def test_ten_midpoints_and_the_default_stand_for_a_continuum():
    values = grid_values(Float("h", 0, 1, default=0.3))
    assert values == pytest.approx([0.3, 0.05, 0.15, 0.25, 0.35, 0.45, 0.55, 0.65, 0.75, 0.85, 0.95])
    assert len(grid_values(Float("h", 0, 1), num_continuous=4)) == 5


def test_log_integers():
    # The values that KerasTuner 1.4.8 tries for Int("l", 1, 20, sampling="log", default=3), in our order.
    assert grid_values(Int("l", 1, 20, sampling="log", default=3)) == [3, 1, 2, 5, 7, 9, 13, 18]
    assert grid_values(Int("l", 1, 10, sampling="log")) == list(range(1, 11))  # KerasTuner: not 6, 8 and 9


def test_order_of_kerastuner():
    hp = HyperParameters()
    hp.Choice("a", ["x", "y", "z"], default="y")
    with hp.conditional_scope("a", ["y", "z"]):
        hp.Int("n", 1, 3, default=2)
    hp.Boolean("b")
    hp.Float("f", 0, 1, step=0.5)
    tried = [tuple(values.values()) for values in _all(hp)]
    # The 42 configurations of KerasTuner 1.4.8's GridSearch, in its order for a = y and x. For a = z it lets n vary
    # slowest of all, because its values happen to be listed in another order; ours is the same everywhere.
    inner = list(itertools.product([False, True], [0.0, 0.5, 1.0]))
    assert tried[:18] == [("y", n, *rest) for n in (2, 1, 3) for rest in inner]
    assert tried[18:24] == [("x", *rest) for rest in inner]
    assert tried[24:] == [("z", n, *rest) for n in (2, 1, 3) for rest in inner]


def test_the_first_configuration_is_the_one_of_defaults():
    hp = HyperParameters()
    hp.Choice("a", ["x", "y"], default="y")
    hp.Float("f", 0, 1, default=0.7)
    assert next(Encoding(hp).enumerate()) == Encoding(hp).defaults() == {"a": "y", "f": 0.7}


def test_listing_is_lazy():
    hp = HyperParameters()
    for index in range(20):
        hp.Int(f"n{index}", 1, 10)
    begun = time.process_time()
    assert len(list(itertools.islice(Encoding(hp).enumerate(), 3))) == 3
    assert time.process_time() - begun < 5  # 10**20 configurations


def test_counts_by_hand():
    hp = HyperParameters()
    encoding = Encoding(hp)
    assert (encoding.num_configurations(), list(encoding.enumerate())) == (1, [{}])
    hp.Choice("a", ["x", "y", "z"])
    hp.Fixed("b", 1)
    assert Encoding(hp).num_configurations() == 3
    with hp.conditional_scope("a", ["y", "z"]):
        hp.Int("n", 1, 5)
        with hp.conditional_scope("n", [4, 5]):
            hp.Boolean("c")
    assert Encoding(hp).num_configurations() == 1 + 2 * (3 + 2 * 2)


def test_a_continuum_counts_as_infinite_and_a_long_grid_as_too_many():
    hp = HyperParameters()
    hp.Int("n", 1, 10_000, sampling="log")
    assert Encoding(hp).num_configurations() == 10_000
    assert Encoding(hp).num_configurations(limit=10_000) == 10_000
    assert Encoding(hp).num_configurations(limit=9_999) is None
    hp.Float("f", 0, 1)
    assert Encoding(hp).num_configurations() is None


def test_a_continuum_that_can_never_be_active_does_not_count():
    hp = HyperParameters()
    hp.Fixed("a", 1)
    hp.Float("f", 0, 1, parent_name="a", parent_values=2)
    assert Encoding(hp).num_configurations() == 1


def test_conditions_on_long_grids():
    hp = HyperParameters()
    hp.Int("n", 1, 10**6)
    hp.Boolean("b", parent_name="n", parent_values=[7, 10**6, 10**7])
    assert Encoding(hp).num_configurations() == 10**6 + 2


def test_two_conditions_on_one_parent():
    hp = HyperParameters()
    hp.Int("p", 1, 4)
    with hp.conditional_scope("p", [1, 2]), hp.conditional_scope("p", [2, 3]):
        hp.Int("n", 1, 5)
    assert Encoding(hp).num_configurations() == 3 + 5


def test_independent_switches_are_counted_one_by_one():
    hp = HyperParameters()
    for index in range(60):
        hp.Boolean(f"s{index}")
        hp.Int(f"n{index}", 1, 3, parent_name=f"s{index}", parent_values=True)
    begun = time.process_time()
    assert Encoding(hp).num_configurations(limit=10**40) == 4**60
    assert time.process_time() - begun < 5  # one by one: 10**36 steps


def test_one_switch_for_many():
    hp = HyperParameters()
    hp.Int("layers", 1, 20)
    for layer in range(20):
        with hp.conditional_scope("layers", list(range(layer + 1, 21))):
            hp.Choice(f"units_{layer}", [16, 32])
    assert Encoding(hp).num_configurations() == sum(2**layers for layers in range(1, 21))


def test_what_waits_for_what_is_not_there_never_counts():
    hp = HyperParameters()
    hp.merge([Int("a", 1, 3), Int("b", 1, 9, conditions=[Parent("gone", 1)])])
    hp.merge([Int("c", 1, 9, conditions=[Parent("b", 1)])])
    assert Encoding(hp).num_configurations() == len(_all(hp)) == 3


def test_circles_of_conditions_are_never_active():
    hp = HyperParameters()
    hp.merge([Int("a", 1, 3), Int("b", 1, 2, conditions=[Parent("c", 1)]), Int("c", 1, 2, conditions=[Parent("b", 1)])])
    assert Encoding(hp).num_configurations() == len(_all(hp)) == 3


def test_two_hyperparameters_of_one_name_share_it():
    hp = HyperParameters()
    hp.Choice("kind", ["a", "b"])
    hp.Int("size", 1, 3, parent_name="kind", parent_values="a")
    hp.Choice("size", [10, 20], parent_name="kind", parent_values="b")
    assert Encoding(hp).num_configurations() == 5
    assert [values["size"] for values in _all(hp)] == [1, 2, 3, 10, 20]


def _brute_force(hp):
    """Every combination of values, active or not, seen through the conditions."""
    found = set()
    space = parents_first(hp.space)
    for combination in itertools.product(*([each.value_at(i) for i in range(each.num_values)] for each in space)):
        values = {}
        for each, value in zip(space, combination, strict=True):
            if all(condition.is_active(values) for condition in each.conditions):
                values[each.name] = value
        found.add(tuple((name, type(value), value) for name, value in values.items()))
    return found


@settings(max_examples=150, deadline=None)
@given(hp=spaces(finite=True))
def test_count_and_list_agree_with_brute_force(hp):
    size = 1
    for each in hp.space:
        size *= each.num_values
    assume(size <= 5_000)
    expected = _brute_force(hp)
    listed = _all(hp, num_continuous=10**6)
    assert {tuple((name, type(value), value) for name, value in values.items()) for values in listed} == expected
    assert len(listed) == len(expected) == Encoding(hp).num_configurations()


@settings(max_examples=50, deadline=None)
@given(hp=spaces(max_size=4))
def test_what_is_listed_is_valid_and_distinct(hp):
    encoding = Encoding(hp)
    listed = list(itertools.islice(encoding.enumerate(num_continuous=3), 300))
    assert all(encoding.is_valid(values) for values in listed)
    assert len({encoding.key(values) for values in listed}) == len(listed)
    assert listed[0] == encoding.defaults()
