"""The base of all hyperparameters."""

import pytest

from manyfit.space import Boolean, Choice, Fixed, Float, HyperParameter, Int, Parent


def test_the_base_has_a_name_a_default_and_conditions_like_kerastuners():
    hp = HyperParameter("base", default=0)
    assert hp.get_config() == {"name": "base", "default": 0, "conditions": []}
    assert HyperParameter.from_config(hp.get_config()).default == 0
    assert HyperParameter("base").default is None


@pytest.mark.parametrize(
    "use",
    [
        lambda hp: hp.values,
        lambda hp: hp.num_values,
        lambda hp: hp.prob_to_value(0.5),
        lambda hp: hp.value_to_prob(1),
        lambda hp: hp.random_sample(1),
        lambda hp: hp.contains(1),
        lambda hp: hp.cast(1),
        lambda hp: hp.value_at(0),
    ],
)
def test_the_base_has_no_values(use):
    with pytest.raises(NotImplementedError):
        use(HyperParameter("base"))


@pytest.mark.parametrize(
    "hp",
    [
        Int("h", 1, 9, default=3),
        Int("h", 1, 64, step=2, sampling="log"),
        Float("h", 0.1, 0.9, step=0.1),
        Float("h", 1e-4, 1, sampling="reverse_log"),
        Choice("h", ["b", "a"], default="a"),
        Boolean("h", default=True),
        Fixed("h", "x"),
    ],
)
def test_configurations_there_and_back(hp):
    conditional = hp.under([Parent("p", [1]), Parent("q", "x")])
    assert hp.conditions == []
    twin = type(hp).from_config(conditional.get_config())
    assert repr(twin) == repr(hp)
    assert twin.conditions == conditional.conditions
    assert twin.key == conditional.key == ("h", (Parent("p", [1]), Parent("q", "x")))
    assert twin.same_domain(hp) and hp.same_domain(twin)


@pytest.mark.parametrize(
    ("first", "second", "is_same"),
    [
        (Int("h", 1, 9), Int("h", 1, 9, default=3), True),
        (Int("h", 1, 9), Int("h", 1, 8), False),
        (Int("h", 1, 9), Int("h", 1, 9, step=2), False),
        (Int("h", 1, 9), Float("h", 1, 9), False),
        (Choice("h", [1, 2]), Choice("h", [1, 2], ordered=False), True),
        (Choice("h", [1, 2]), Choice("h", [1, 3]), False),
        (Boolean("h"), Boolean("h", default=True), True),
        (Fixed("h", 1), Fixed("h", 2), False),
    ],
)
def test_same_domain_looks_at_the_values_only(first, second, is_same):
    assert first.same_domain(second) is is_same


def test_a_description_is_the_call_that_makes_it():
    assert Int("h", 1, 9, default=2).describe() == "Int(\"h\", min_value=1, max_value=9, step=1, sampling='linear')"
    assert Choice("h", ["a"]).describe() == "Choice(\"h\", values=['a'])"
    assert Boolean("h").describe() == 'Boolean("h")'
