"""HyperParameters as users see it."""

import copy
import json
import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from spaces import spaces

from manyfit.core.errors import UsageError, UsageKeyError, UsageTypeError
from manyfit.space import Boolean, Choice, Encoding, Fixed, Float, HyperParameters, Int, Parent
from manyfit.space.hyperparameters import deserialize, serialize


def test_each_kind_returns_its_value():
    hp = HyperParameters()
    assert hp.Int("i", 1, 9, step=2, sampling="linear", default=3) == 3
    assert hp.Float("f", 1, 9) == 1.0
    assert hp.Choice("c", ["x", "y"], ordered=False, default="y") == "y"
    assert hp.Boolean("b", True) is True
    assert hp.Fixed("v", 7) == 7
    assert hp.values == {"i": 3, "f": 1.0, "c": "y", "b": True, "v": 7}
    assert [type(each) for each in hp.space] == [Int, Float, Choice, Boolean, Fixed]


@pytest.mark.parametrize(
    "ask",
    [
        lambda hp, **parent: hp.Int("h", 1, 9, **parent),
        lambda hp, **parent: hp.Float("h", 1, 9, **parent),
        lambda hp, **parent: hp.Choice("h", [1], **parent),
        lambda hp, **parent: hp.Boolean("h", **parent),
        lambda hp, **parent: hp.Fixed("h", 1, **parent),
    ],
)
def test_each_kind_takes_a_parent(ask):
    hp = HyperParameters()
    hp.Choice("p", [1, 2, 3])
    assert ask(hp, parent_name="p", parent_values=[2, 3]) is None
    assert ask(hp, parent_name="p", parent_values=1) is not None
    assert [each.conditions for each in hp.space[1:]] == [[Parent("p", [2, 3])], [Parent("p", [1])]]
    assert "h" in hp


def test_get_brackets_and_in():
    hp = HyperParameters()
    hp.Choice("p", ["a", "b"])
    with hp.conditional_scope("p", "b"):
        hp.Int("n", 1, 3)
    assert (hp.get("p"), hp["p"], "p" in hp) == ("a", "a", True)
    assert "n" not in hp and "nope" not in hp and 3 not in hp
    hp.values["tuner/epochs"] = 4  # a value without a hyperparameter, as Hyperband writes it
    assert hp.get("tuner/epochs") == 4 and "tuner/epochs" in hp


def test_an_active_hyperparameter_without_a_value_has_its_default():
    hp = HyperParameters()
    hp.Int("n", 2, 3)
    hp.values.clear()
    assert hp.get("n") == 2 and "n" in hp


# Name scopes.


def test_name_scopes_nest_and_end():
    hp = HyperParameters()
    with hp.name_scope("a"):
        hp.Int("n", 1, 3)
        with hp.name_scope("b"):
            hp.Int("n", 2, 3)
    hp.Int("n", 3, 3)
    assert hp.values == {"a/n": 1, "a/b/n": 2, "n": 3}


def test_names_are_looked_for_inside_the_scope_first():
    hp = HyperParameters()
    hp.Int("n", 1, 9)
    hp.Int("m", 5, 9)
    with hp.name_scope("a"):
        hp.Int("n", 2, 9)
        assert hp.get("n") == 2
        assert hp.get("m") == 5  # KerasTuner: KeyError 'a/m does not exist.'
        assert hp.get("a/n") == 2
        assert hp.is_active("n") and "m" in hp
    assert hp.get("n") == 1


def test_parents_are_looked_for_inside_the_scope_first():
    hp = HyperParameters()
    hp.Choice("p", [1, 2])
    hp.Choice("q", [1, 2])
    with hp.name_scope("a"):
        hp.Choice("p", [1, 2], default=2)
        assert hp.Int("n", 1, 9, parent_name="p", parent_values=2) == 1
        assert hp.Int("m", 1, 9, parent_name="q", parent_values=1) == 1
    assert hp.space[-2].conditions == [Parent("a/p", 2)]
    assert hp.space[-1].conditions == [Parent("q", 1)]


def test_a_name_scope_ends_with_an_exception():
    hp = HyperParameters()
    with pytest.raises(RuntimeError), hp.name_scope("a"):
        raise RuntimeError
    hp.Int("n", 1, 2)
    assert list(hp.values) == ["n"]


# Conditional scopes.


def test_scopes_that_hold_and_scopes_that_do_not():
    hp = HyperParameters()
    hp.Choice("p", ["a", "b"])
    with hp.conditional_scope("p", "a"):
        assert hp.Int("x", 1, 2) == 1
    with hp.conditional_scope("p", ["b"]):
        assert hp.Int("y", 1, 2) is None
    assert hp.active_scopes == [[Parent("p", "a")]]
    assert hp.inactive_scopes == [[Parent("p", "b")]]
    assert hp.is_active("x") and not hp.is_active("y") and not hp.is_active("z")
    assert hp.is_active(hp.space[1]) and not hp.is_active(hp.space[2])
    assert hp.values == {"p": "a", "x": 1}


def test_nested_scopes_hold_together():
    hp = HyperParameters()
    hp.Boolean("a", default=True)
    with hp.conditional_scope("a", True):
        hp.Boolean("b")
        with hp.conditional_scope("b", True):
            hp.Int("c", 1, 2)
    assert hp.space[-1].conditions == [Parent("a", True), Parent("b", True)]
    assert hp.active_scopes == [[Parent("a", True)]]
    assert hp.inactive_scopes == [[Parent("a", True), Parent("b", True)]]


def test_a_grandparent_may_be_named():
    hp = HyperParameters()
    hp.Choice("a", [1, 2])
    hp.Choice("b", [1, 2])
    with hp.conditional_scope("a", 1), hp.conditional_scope("b", 1):
        assert hp.Int("c", 1, 2, parent_name="a", parent_values=[1, 2]) == 1  # KerasTuner: "... not defined"
    assert hp.space[-1].conditions == [Parent("a", 1), Parent("b", 1), Parent("a", [1, 2])]


def test_a_conditional_parent_brings_its_conditions():
    hp = HyperParameters()
    hp.Choice("optimizer", ["sgd", "adam"])
    with hp.conditional_scope("optimizer", "sgd"):
        hp.Boolean("nesterov", default=True)
    with hp.conditional_scope("nesterov", True):  # KerasTuner: "... not defined"
        assert hp.Float("momentum", 0.1, 0.9) == 0.1
    assert hp.space[-1].conditions == [Parent("optimizer", "sgd"), Parent("nesterov", True)]
    hp.values["optimizer"] = "adam"
    assert not hp.is_active("momentum")


def test_a_parent_that_exists_twice_must_be_unambiguous():
    hp = HyperParameters()
    hp.Choice("p", ["a", "b"])
    for value in "ab":
        with hp.conditional_scope("p", value):
            hp.Choice("size", [1, 2])
    with pytest.raises(UsageError) as caught:
        hp.Int("n", 1, 2, parent_name="size", parent_values=1)
    assert str(caught.value) == (
        'parent_name="size": got size, which exists 2 times, under '
        "[[Parent(name: 'p', values: ['a'])], [Parent(name: 'p', values: ['b'])]]. "
        "Allowed: a parent that is unambiguous here. Open the conditional scope of the one you mean first."
    )
    with hp.conditional_scope("p", "b"):
        assert hp.Int("n", 1, 2, parent_name="size", parent_values=1) is None


def test_ones_and_zeros_mean_booleans_where_the_parent_is_one():
    hp = HyperParameters()
    hp.Boolean("p")
    with hp.conditional_scope("p", [1]):
        hp.Int("n", 1, 2)
    assert hp.space[-1].conditions[0].values == [True]
    assert hp.space[-1].conditions[0].values[0] is True


def test_a_conditional_scope_ends_with_an_exception():
    hp = HyperParameters()
    hp.Boolean("p")
    with pytest.raises(RuntimeError), hp.conditional_scope("p", True):
        raise RuntimeError
    assert hp.Int("n", 1, 2) == 1
    assert hp.space[-1].conditions == []


# Merging, widening, filling in.


def test_merge_as_in_kerastuner():
    hp = HyperParameters()
    hp.Int("a", 0, 100)
    hp.Fixed("b", 2)
    hp.Int("c", 10, 100, default=30)
    other = HyperParameters()
    other.Fixed("a", 3)
    hp.merge(other)
    assert hp.values == {"a": 3, "b": 2, "c": 30}
    third = HyperParameters()
    third.Fixed("a", 5)
    third.Choice("d", [1, 2, 3], default=1)
    hp.merge(third, overwrite=False)
    assert hp.values == {"a": 3, "b": 2, "c": 30, "d": 1}
    assert [each.name for each in hp.space] == ["a", "b", "c", "d"]  # KerasTuner lists overwritten ones twice


def test_merge_resets_the_value_of_what_it_overwrites():
    hp, other = HyperParameters(), HyperParameters()
    hp.values["n"] = 7
    hp.Int("n", 1, 9)
    other.Int("n", 1, 9, default=4)
    hp.merge(other)
    assert hp.values == {"n": 4}


def test_merge_takes_lists_and_keeps_conditions():
    hp = HyperParameters()
    hp.merge([Boolean("p"), Int("n", 1, 3, conditions=[Parent("p", True)])])
    assert hp.values == {"p": False}
    hp.values["p"] = True
    hp.merge([])
    assert hp.values == {"p": True, "n": 1}


def test_merge_does_not_share_its_hyperparameters():
    hp, other = HyperParameters(), HyperParameters()
    other.Int("n", 1, 3)
    hp.merge(other)
    hp.space[0].max_value = 99
    assert other.space[0].max_value == 3


def test_widen_adds_what_is_new_and_says_whether_anything_was():
    space, hp = HyperParameters(), HyperParameters()
    hp.Int("n", 1, 3, default=2)
    assert space.widen(hp) and not space.widen(hp)
    assert space.values == {"n": 2}
    narrower = HyperParameters()
    narrower.Int("n", 2, 3)
    assert not space.widen(narrower)
    wider = HyperParameters()
    wider.Int("n", 0, 3)
    assert space.widen(wider)
    assert (space.space[0].min_value, space.space[0].max_value, space.values) == (0, 3, {"n": 2})


def test_widen_leaves_pinned_names_alone():
    space, hp = HyperParameters(), HyperParameters()
    space.Int("n", 1, 3)
    space.pin()
    hp.Int("n", 0, 9)
    hp.Boolean("p", default=True)
    hp.Int("n", 0, 9, parent_name="p", parent_values=True)
    assert space.widen(hp)
    assert [(each.name, each.num_values) for each in space.space] == [("n", 3), ("p", 2)]


@settings(deadline=None)
@given(first=spaces(), second=spaces())
def test_widening_settles_and_never_loses_values(first, second):
    space = first.copy()
    space.widen(second)
    before = space.get_config()
    assert not space.widen(second)
    assert space.get_config() == before
    for each in [*first.space, *second.space]:
        wide = space._lookup(each)
        alike = type(wide) is type(each) and type(wide.default) is type(each.default)
        if alike and not isinstance(each, Fixed):  # of others, the second counts
            ends = [each.value_at(0), each.value_at(each.num_values - 1)] if each.num_values else []
            assert all(wide.contains(value) for value in [*each.values, *ends])


def test_filling_in_drops_the_inactive_and_gives_defaults():
    hp = HyperParameters()
    hp.Choice("p", ["a", "b"])
    hp.Int("x", 1, 9, parent_name="p", parent_values="a", default=4)
    hp.Int("y", 1, 9, parent_name="p", parent_values="b", default=5)
    hp.values["p"] = "b"
    hp.values["tuner/epochs"] = 3
    kept = hp.values
    hp.ensure_active_values()
    assert hp.values == {"p": "b", "y": 5, "tuner/epochs": 3}
    assert hp.values is kept


def test_filling_in_with_a_generator_is_random_and_repeatable():
    def filled(seed):
        hp = HyperParameters()
        hp.Float("x", 0, 1)
        hp.Float("y", 0, 1)
        hp.values.clear()
        hp.ensure_active_values(np.random.default_rng(seed))
        return hp.values

    assert filled(3) == filled(3) != filled(4)


# Copies, JSON.


def test_a_copy_is_independent_and_starts_a_new_build():
    hp = HyperParameters()
    hp.Choice("p", [1, 2])
    with hp.name_scope("s"), hp.conditional_scope("p", 1):
        twin = hp.copy()
    assert (twin.active_scopes, twin.inactive_scopes, twin._conditions, twin._name_scopes) == ([], [], [], [])
    twin.values["p"] = 2
    twin.Choice("p", [1, 2, 3])
    assert hp.values == {"p": 1} and len(hp.space[0].values) == 2


def test_the_space_of_many_trials_is_held_once():
    def build(hp):
        return hp.Int("units", 8, 64, step=8), hp.Choice("activation", ["relu", "tanh"]), hp.Float("rate", 0.1, 0.9)

    search = HyperParameters()
    build(search)
    trials = [search.shared_copy() for _ in range(2)]
    for trial, units in zip(trials, (8, 16), strict=True):
        trial.values["units"] = units
        assert build(trial)[0] == units
        assert all(one is other for one, other in zip(trial.space, search.space, strict=True))
    assert search.values["units"] == 8
    trials[0] = trials[0].shared_copy()
    assert trials[0].Int("units", 8, 128, step=8) == 8  # another definition is an object of its own
    assert trials[0].space[0].max_value == 128 and trials[1].space[0].max_value == search.space[0].max_value == 64


def test_configuration_as_in_kerastuner():
    hp = HyperParameters()
    hp.Choice("c", ["a", "b"])
    with hp.conditional_scope("c", ["a"]):
        hp.Int("n", 0, 5)
    # The config that KerasTuner 1.4.8 gives for these calls.
    assert json.loads(json.dumps(hp.get_config())) == {
        "space": [
            {
                "class_name": "Choice",
                "config": {"name": "c", "default": "a", "conditions": [], "values": ["a", "b"], "ordered": False},
            },
            {
                "class_name": "Int",
                "config": {
                    "name": "n",
                    "default": None,
                    "conditions": [{"class_name": "Parent", "config": {"name": "c", "values": ["a"]}}],
                    "min_value": 0,
                    "max_value": 5,
                    "step": 1,
                    "sampling": "linear",
                },
            },
        ],
        "values": {"c": "a", "n": 0},
    }


@settings(deadline=None)
@given(hp=spaces())
def test_configurations_there_and_back(hp):
    config = json.loads(json.dumps(hp.get_config()))
    twin = HyperParameters.from_config(config)
    assert twin.get_config() == hp.get_config() == hp.copy().get_config()
    assert [type(value) for value in twin.values.values()] == [type(value) for value in hp.values.values()]
    assert Encoding(twin).defaults() == Encoding(hp).defaults()
    assert pickle.loads(pickle.dumps(hp)).get_config() == copy.deepcopy(hp).get_config() == hp.get_config()


def test_serialize_and_deserialize():
    hp = HyperParameters()
    hp.Int("n", 1, 3)
    assert serialize(hp)["class_name"] == "HyperParameters"
    assert deserialize(serialize(hp)).values == {"n": 1}
    assert repr(deserialize(serialize(Boolean("b")))) == repr(Boolean("b"))


def test_repr_shows_names_and_values():
    hp = HyperParameters()
    hp.Int("n", 1, 3)
    assert repr(hp) == "HyperParameters(space: ['n'], values: {'n': 1})"


# Bad input.


def _scoped(hp):
    hp.Choice("kind", ["a", "b"])
    hp.Int("n", 1, 3, parent_name="kind", parent_values="b")


BAD = [
    (
        lambda hp: hp["knd"],
        UsageKeyError,
        'hp.get("knd"): got knd does not exist. Allowed: one of kind, n. Did you mean "kind"?',
    ),
    (
        lambda hp: hp.get("else"),
        UsageKeyError,
        'hp.get("else"): got else does not exist. Allowed: one of kind, n. '
        "Ask for it with hp.Int, hp.Choice and so on first.",
    ),
    (
        lambda hp: hp.get("n"),
        UsageError,
        'hp.get("n"): got n is currently inactive. Allowed: a hyperparameter whose conditions hold. '
        'Ask with `if "n" in hp:` first.',
    ),
    (
        lambda hp: hp.Int("m", 1, 2, parent_name="kin", parent_values="a"),
        UsageError,
        'parent_name="kin": got `HyperParameter` named: kin not defined. Allowed: one of kind, n. Did you mean "kind"?',
    ),
    (
        lambda hp: hp.Int("m", 1, 2, parent_name="kind"),
        UsageError,
        "hp: got parent_name='kind', parent_values=None. Allowed: both or neither. "
        'Type, for instance, parent_name="optimizer", parent_values=["sgd"].',
    ),
    (
        lambda hp: hp.Boolean("m", parent_values=3),
        UsageError,
        "hp: got parent_name=None, parent_values=3. Allowed: both or neither. "
        'Type, for instance, parent_name="optimizer", parent_values=["sgd"].',
    ),
    (
        lambda hp: hp.Int("kind", 1, 2, parent_name="kind", parent_values="a"),
        UsageError,
        'hp: "kind": got A conditional `HyperParameter` cannot have the same name as its parent. '
        "Found: kind and parent_name: kind. Allowed: a name of its own. Rename one of the two.",
    ),
    (
        lambda hp: hp.Int(3, 1, 2),
        UsageTypeError,
        'Int: got the name 3. Allowed: a name that is a non-empty text. Type, for instance, hp.Int("units", 16, 64).',
    ),
    (
        lambda hp: hp.name_scope(3).__enter__(),
        UsageTypeError,
        'hp.name_scope: got 3. Allowed: a text. Type hp.name_scope("3").',
    ),
    (
        lambda hp: hp.merge(3),
        UsageTypeError,
        "HyperParameters.merge: got 3. Allowed: a HyperParameters object or a list of hyperparameters. "
        "Type, for instance, tuner.oracle.get_space().",
    ),
    (
        lambda hp: hp.widen(["n"]),
        UsageTypeError,
        "HyperParameters.widen: got ['n']. Allowed: a HyperParameters object or a list of hyperparameters. "
        "Type, for instance, tuner.oracle.get_space().",
    ),
    (
        lambda hp: hp.pin("m"),
        UsageKeyError,
        "hp.pin: got m does not exist. Allowed: one of kind, n. Ask for it with hp.Int, hp.Choice and so on first.",
    ),
    (
        lambda hp: deserialize({"class_name": "Foo", "config": {}}),
        UsageError,
        "deserialize: got Unknown object: 'Foo'. Allowed: a class_name out of Fixed, Float, Int, Choice, Boolean. "
        "Check that the file was written by `get_config`.",
    ),
]


@pytest.mark.parametrize(("use", "error", "text"), BAD)
def test_bad_input(use, error, text):
    hp = HyperParameters()
    _scoped(hp)
    before = hp.get_config()
    with pytest.raises(error) as caught:
        use(hp)
    assert str(caught.value) == text
    assert hp.get_config() == before


def test_an_empty_space_has_nothing_to_suggest():
    with pytest.raises(KeyError, match=r"units does not exist\. Allowed: a registered name\. Ask for it"):
        HyperParameters().get("units")
