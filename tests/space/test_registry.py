"""The rules by which a definition becomes a value: within one build, and from build to build."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from manyfit.core.errors import UsageError
from manyfit.space import Boolean, Fixed, HyperParameters, Int, Parent
from manyfit.space.registry import parents_first

# Within one build.


def test_asking_again_returns_the_same_value():
    hp = HyperParameters()
    hp.values["units"] = 32
    assert (hp.Int("units", 16, 64), hp.Int("units", 16, 64)) == (32, 32)
    assert len(hp.space) == 1


def test_asking_again_with_another_default_is_no_conflict():
    hp = HyperParameters()
    assert hp.Int("units", 16, 64, default=32) == 32
    assert hp.Int("units", 16, 64) == 32


CONFLICTS = [
    (
        lambda hp: hp.Int("h", 1, 9),
        lambda hp: hp.Int("h", 1, 8),
        'hp.Int("h"): got Int("h", min_value=1, max_value=8, step=1, sampling=\'linear\') after '
        "Int(\"h\", min_value=1, max_value=9, step=1, sampling='linear'). ",
    ),
    (
        lambda hp: hp.Int("h", 1, 9),
        lambda hp: hp.Float("h", 1, 9),
        'hp.Float("h"): got Float("h", min_value=1.0, max_value=9.0, step=None, sampling=\'linear\') after '
        "Int(\"h\", min_value=1, max_value=9, step=1, sampling='linear'). ",
    ),
    (
        lambda hp: hp.Choice("h", ["a"]),
        lambda hp: hp.Choice("h", ["a", "b"]),
        "hp.Choice(\"h\"): got Choice(\"h\", values=['a', 'b']) after Choice(\"h\", values=['a']). ",
    ),
    (
        lambda hp: hp.Boolean("h"),
        lambda hp: hp.Fixed("h", True),
        'hp.Fixed("h"): got Fixed("h", value=True) after Boolean("h"). ',
    ),
]


@pytest.mark.parametrize(("first", "second", "text"), CONFLICTS)
def test_two_definitions_in_one_build_are_an_error_that_shows_both(first, second, text):
    hp = HyperParameters()
    first(hp)
    with pytest.raises(UsageError) as caught:
        second(hp)
    assert str(caught.value) == (
        text + "Allowed: one definition for a name within one build. "
        "Use another name for the second; or, if this is meant as a new build, give it hp.copy()."
    )


def test_the_conflict_is_found_in_inactive_scopes_too():
    hp = HyperParameters()
    hp.Boolean("deep")
    with hp.conditional_scope("deep", True):
        hp.Int("layers", 1, 3)
        with pytest.raises(UsageError, match="one definition for a name"):
            hp.Int("layers", 1, 4)


def test_one_name_under_exclusive_conditions_may_mean_two_things():
    hp = HyperParameters()
    hp.Choice("kind", ["a", "b"])
    with hp.conditional_scope("kind", "a"):
        assert hp.Int("size", 1, 9) == 1
    with hp.conditional_scope("kind", "b"):
        assert hp.Float("size", 0.5, 1) is None
    assert hp.values == {"kind": "a", "size": 1}
    other = hp.copy()
    other.values = {"kind": "b"}
    other.Choice("kind", ["a", "b"])
    with other.conditional_scope("kind", "a"):
        assert other.Int("size", 1, 9) is None
    with other.conditional_scope("kind", "b"):
        assert other.Float("size", 0.5, 1) == 0.5


def test_one_name_under_conditions_that_hold_together_may_not():
    hp = HyperParameters()
    hp.Boolean("deep", default=True)
    hp.Boolean("wide", default=True)
    with hp.conditional_scope("deep", True):
        hp.Int("size", 1, 9)
    with hp.conditional_scope("wide", True):
        with pytest.raises(UsageError, match="after Int"):
            hp.Int("size", 1, 5)
        assert hp.Int("size", 1, 9) == 1  # the same thing twice is one thing


def test_a_value_that_was_there_before_wins_over_the_default():
    hp = HyperParameters()
    hp.values["units"] = 48
    assert hp.Int("units", 16, 64, default=32) == 48


def test_a_value_set_by_hand_is_the_users_business():
    hp = HyperParameters()
    hp.Int("units", 16, 64)
    again = hp.copy()
    again.values["units"] = 1000
    assert again.Int("units", 16, 64) == 1000
    wider = hp.copy()
    wider.values["units"] = 1000
    assert wider.Int("units", 16, 128) == 1000


def test_stored_values_come_out_in_the_type_of_the_hyperparameter():
    hp = HyperParameters()
    hp.values.update({"units": 32.0, "rate": 1, "flag": np.bool_(True), "tenth": 0.1 + 0.2})
    assert type(hp.Int("units", 16, 64)) is int
    assert type(hp.Float("rate", 0, 1)) is float
    assert hp.Boolean("flag") is True
    assert hp.Float("tenth", 0, 1, step=0.1) == 0.3
    assert hp.values["tenth"] == 0.3


# From build to build.


def _dependent(hp):
    return hp.Int("b", 0, hp.Int("a", 1, 10))


def test_a_bound_follows_the_value_it_depends_on():
    space = HyperParameters()
    for a in (1, 10, 3):
        hp = space.copy()
        hp.values["a"] = a
        _dependent(hp)
        assert hp.space[1].max_value == a  # KerasTuner: 1, whatever a is
        space.widen(hp)
    assert space.space[1].max_value == 10


def test_a_value_inside_the_new_bounds_stays():
    space = HyperParameters()
    space.values["a"] = 10
    _dependent(space)
    hp = space.copy()
    hp.values.update(a=3, b=2)
    assert _dependent(hp) == 2


def test_a_value_outside_the_new_bounds_keeps_its_quantile():
    space = HyperParameters()
    space.values["a"] = 10
    _dependent(space)
    hp = space.copy()
    hp.values.update(a=3, b=8)
    assert _dependent(hp) == 3  # (8 + 1/2) / 11 of 0..10 is 0.77, which is in the bucket of 3 of 0..3
    assert hp.values == {"a": 3, "b": 3}


@settings(deadline=None)
@given(a=st.integers(1, 10), b=st.integers(0, 10))
def test_a_dependent_value_is_always_legal_and_recorded(a, b):
    space = HyperParameters()
    space.values["a"] = 10
    _dependent(space)
    hp = space.copy()
    hp.values.update(a=a, b=b)
    used = _dependent(hp)
    assert 0 <= used <= a
    assert hp.values == {"a": a, "b": used}
    assert used == b or b > a


def test_a_default_may_depend_on_a_value_too():
    space = HyperParameters()
    space.Int("n", 1, 10, default=5)
    hp = space.copy()
    assert hp.Int("n", 1, 10, default=7) == 5  # a stored value is a stored value
    fresh = space.copy()
    fresh.values.clear()
    assert fresh.Int("n", 1, 10, default=7) == 7


def test_choices_may_change_from_build_to_build():
    space = HyperParameters()
    space.Choice("activation", ["relu", "gelu", "silu"])
    hp = space.copy()
    hp.values["activation"] = "silu"
    assert hp.Choice("activation", ["relu", "tanh"]) == "tanh"  # position 5/6
    assert space.widen(hp)
    assert space.space[0].values == ["relu", "gelu", "silu", "tanh"]


def test_fixed_values_may_change_from_build_to_build():
    space = HyperParameters()
    space.Fixed("batch", 32)
    hp = space.copy()
    assert hp.Fixed("batch", 64) == 64
    assert hp.values == {"batch": 64}


def test_another_type_may_come_in_another_build():
    space = HyperParameters()
    space.Int("size", 1, 9, default=5)
    hp = space.copy()
    assert hp.Choice("size", ["s", "m", "l"]) == "m"
    assert space.widen(hp)
    assert space.space[0].num_values == 3


def test_a_value_proposed_for_a_scope_that_does_not_hold_is_dropped():
    def build(hp):
        layers = hp.Int("layers", 1, hp.Int("max_layers", 1, 4))
        with hp.conditional_scope("layers", [3, 4]):
            return layers, hp.Int("skip", 1, 2)

    space = HyperParameters()
    space.values.update(max_layers=4, layers=4)
    build(space)
    hp = space.copy()
    hp.values.update(max_layers=2, layers=4, skip=2)
    assert build(hp) == (2, None)
    assert hp.values == {"max_layers": 2, "layers": 2}


# Overrides.


def test_a_pinned_hyperparameter_overrides_the_build_function():
    mine = HyperParameters()
    mine.Float("rate", 1e-3, 1e-2, sampling="log", default=5e-3)
    mine.pin()
    hp = mine.copy()
    assert hp.Choice("rate", [0.1, 0.2]) == 5e-3
    assert [type(each).__name__ for each in hp.space] == ["Float"]
    assert hp.pinned == {"rate"}


def test_a_pinned_hyperparameter_overrides_conditional_ones_of_its_name():
    mine = HyperParameters()
    mine.Fixed("momentum", 0.9)
    mine.pin("momentum")
    hp = mine.copy()
    hp.Choice("optimizer", ["adam", "sgd"])
    with hp.conditional_scope("optimizer", "sgd"):
        assert hp.Float("momentum", 0, 0.99) is None
    with hp.conditional_scope("optimizer", "adam"):
        assert hp.Float("momentum", 0, 0.5) == 0.9
    assert [each.name for each in hp.space] == ["momentum", "optimizer"]


def test_a_conditional_pin_counts_where_it_is_active():
    mine = HyperParameters()
    mine.Choice("optimizer", ["adam", "sgd"])
    with mine.conditional_scope("optimizer", "sgd"):
        mine.Fixed("rate", 0.1)
    mine.pin("rate")
    hp = mine.copy()
    assert hp.Float("rate", 0.2, 0.3) == 0.2  # adam: the pin is inactive
    hp = mine.copy()
    hp.values = {"optimizer": "sgd"}
    assert hp.Float("rate", 0.2, 0.3) == 0.1


def test_a_pinned_name_still_has_one_definition_per_build():
    mine = HyperParameters()
    mine.Fixed("units", 3)
    mine.pin()
    hp = mine.copy()
    hp.Int("units", 1, 9)
    with pytest.raises(UsageError, match="one definition"):
        hp.Int("units", 1, 8)


def test_without_a_pin_the_build_function_has_the_last_word():
    space = HyperParameters()
    space.Float("rate", 1e-3, 1e-2)
    assert space.copy().Float("rate", 0.1, 0.2) == 0.1


def test_pins_survive_copies_and_configurations():
    mine = HyperParameters()
    mine.Fixed("units", 3)
    mine.pin()
    assert mine.copy().copy().pinned == {"units"}
    assert HyperParameters.from_config(mine.get_config()).pinned == {"units"}
    assert mine.get_config()["pinned"] == ["units"]
    assert "pinned" not in HyperParameters().get_config()


# Order.


def test_parents_come_first_and_all_else_keeps_its_order():
    child = Boolean("child", conditions=[Parent("parent", 1)])
    grandchild = Int("grandchild", 1, 2, conditions=[Parent("parent", 1), Parent("child", True)])
    parent, other, last = Int("parent", 1, 2), Fixed("other", 1), Fixed("last", 1)
    assert parents_first([grandchild, other, child, parent, last]) == [other, parent, child, grandchild, last]
    assert parents_first([parent, other, child, grandchild, last]) == [parent, other, child, grandchild, last]


def test_children_wait_for_every_hyperparameter_of_the_parents_name():
    first, second = Int("p", 1, 2), Int("p", 1, 3, conditions=[Parent("q", 1)])
    child, q = Boolean("child", conditions=[Parent("p", 1)]), Int("q", 1, 2)
    assert parents_first([first, child, second, q]) == [first, q, second, child]


def test_circles_do_not_hang():
    first, second = Int("a", 1, 2, conditions=[Parent("b", 1)]), Int("b", 1, 2, conditions=[Parent("a", 1)])
    assert parents_first([first, second]) == [first, second]


# What legacy code touches.


def test_private_names_that_kerastuner_code_uses():
    hp = HyperParameters()
    hp.Int("n", 1, 3)
    assert hp._exists("n") and hp._exists("n", []) and not hp._exists("m") and not hp._exists("n", [Parent("a", 1)])
    assert hp._retrieve(Int("k", 2, 5)) == 2
    assert hp._register(Int("n", 1, 3, default=2)) == 1
    assert hp._register(Int("n", 1, 3, default=2), overwrite=True) == 2
    assert hp._register(Int("x", 1, 3, conditions=[Parent("n", 1)])) is None
    assert [each.name for each in hp._space] == ["n", "k", "x"]
    assert list(hp._hps) == ["n", "k", "x"] and hp._conditions == []
    hp._validate_name("n")
