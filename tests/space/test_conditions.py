"""Conditions."""

import numpy as np
import pytest

from manyfit.core.errors import UsageError, UsageTypeError
from manyfit.space import Condition, Parent
from manyfit.space.conditions import all_active


def test_a_single_value_is_a_list_of_one():
    assert Parent("optimizer", "sgd").values == ["sgd"]
    assert Parent("layers", (1, 2)).values == [1, 2]
    assert Parent("layers", range(2, 4)).values == [2, 3]
    assert Parent("layers", {3, 1, 2}).values == [1, 2, 3]


def test_it_holds_for_its_values_only():
    condition = Parent("layers", [2, 3])
    assert condition.is_active({"layers": 2})
    assert not condition.is_active({"layers": 1})


def test_an_inactive_parent_switches_off():
    assert not Parent("layers", [2, 3]).is_active({"units": 2})


def test_all_conditions_must_hold():
    both = [Parent("a", 1), Parent("b", 2)]
    assert all_active(both, {"a": 1, "b": 2})
    assert not all_active(both, {"a": 1, "b": 3})
    assert all_active([], {})


def test_configuration_as_in_kerastuner_there_and_back():
    condition = Parent("optimizer", ["sgd", "adam"])
    assert condition.get_config() == {"name": "optimizer", "values": ["sgd", "adam"]}
    assert Parent.from_config(condition.get_config()) == condition


def test_equal_conditions_are_equal_keys():
    assert {Parent("a", [1]): "one"}[Parent("a", 1)] == "one"
    assert Parent("a", [1]) != Parent("b", [1])
    assert Parent("a", [1]) != Parent("a", [1, 2])
    assert Parent("a", [1]) != "a"


def test_repr_shows_name_and_values():
    assert repr(Parent("a", [1, 2])) == "Parent(name: 'a', values: [1, 2])"


def test_numpy_values_become_pythons():
    values = Parent("a", [np.int64(2), np.float64(0.5), np.bool_(True)]).values
    assert [type(value) for value in values] == [int, float, bool]


def test_the_base_cannot_be_made():
    with pytest.raises(TypeError, match="abstract"):
        Condition()


@pytest.mark.parametrize("value", [None, [1], object])
def test_values_that_are_no_values(value):
    with pytest.raises(UsageTypeError, match="Can contain only `int`, `float`, `str`, or `bool`"):
        Parent("a", [value])


def test_no_values_at_all():
    with pytest.raises(UsageError, match=r'Parent\("a"\): got no parent values. Allowed: at least one. Name the'):
        Parent("a", [])
