"""Choice, Boolean and Fixed."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from manyfit.core.errors import UsageError, UsageTypeError
from manyfit.space import Boolean, Choice, Fixed, Int, Parent

P = (0.0, 0.07, 0.25, 0.5, 0.77, 0.96)

# From KerasTuner 1.4.8: prob_to_value at P, value_to_prob of those values, random_sample with the seeds 0, 1, 7.
GOLDEN = [
    (
        Choice("h", ["a", "b", "c"]),
        ["a", "a", "a", "b", "c", "c"],
        [1 / 6, 1 / 6, 1 / 6, 0.5, 5 / 6, 5 / 6],
        ["c", "a", "a"],
    ),
    (Choice("h", [1, 2, 4]), [1, 1, 1, 2, 4, 4], [1 / 6, 1 / 6, 1 / 6, 0.5, 5 / 6, 5 / 6], [4, 1, 1]),
    (Boolean("h"), [False, False, False, True, True, True], [0.25] * 3 + [0.75] * 3, [True, False, False]),
    (Fixed("h", 3), [3] * 6, [0.5] * 6, [3, 3, 3]),
]


@pytest.mark.parametrize(("hp", "values", "positions", "samples"), GOLDEN, ids=lambda case: str(case)[:30])
def test_embedding_equals_kerastuners(hp, values, positions, samples):
    assert [hp.prob_to_value(p) for p in P] == values
    assert [hp.value_to_prob(value) for value in values] == pytest.approx(positions, abs=1e-15)
    assert [hp.random_sample(seed) for seed in (0, 1, 7)] == samples
    assert hp.prob_to_value(1.0) == values[-1]


def test_a_choice_of_booleans_returns_booleans():
    hp = Choice("h", [True, False])
    assert hp.values == [True, False]  # KerasTuner: [1, 0]
    assert hp.default is True
    assert hp.prob_to_value(0.9) is False
    assert hp.random_sample(0) is False
    assert hp.kind == "unordered"
    assert Choice.from_config(hp.get_config()).prob_to_value(0.1) is True


def test_numbers_are_ordered_and_texts_are_not():
    assert (Choice("h", [1, 2]).kind, Choice("h", [0.1, 0.2]).kind) == ("ordered", "ordered")
    assert Choice("h", ["a", "b"]).kind == "unordered"
    assert Choice("h", [1, 2], ordered=False).kind == "unordered"


def test_ordered_numbers_sit_in_their_order_whatever_the_list_says():
    hp = Choice("h", [32, 16, 64])
    assert hp.encode([16, 32, 64]).tolist() == pytest.approx([1 / 6, 0.5, 5 / 6])
    assert (hp.default, hp.values) == (32, [32, 16, 64])
    unordered = Choice("h", [32, 16, 64], ordered=False)
    assert unordered.encode([32, 16, 64]).tolist() == pytest.approx([1 / 6, 0.5, 5 / 6])


def test_the_list_that_is_returned_is_a_copy():
    hp = Choice("h", [1, 2])
    hp.values.append(3)
    assert hp.values == [1, 2]


def test_defaults():
    assert Choice("h", ["b", "a"]).default == "b"
    assert Choice("h", ["b", "a"], default="a").default == "a"
    assert Boolean("h").default is False
    assert Boolean("h", default=True).default is True


def test_numpy_values_become_pythons():
    hp = Choice("h", np.array([16, 32]))
    assert [type(value) for value in hp.values] == [int, int]
    assert type(Fixed("h", np.float32(0.5)).value) is float
    assert Choice("h", [16, 32]).value_to_prob(np.int64(32)) == 0.75


@pytest.mark.parametrize(
    ("hp", "value", "is_legal"),
    [
        (Choice("h", [1, 2]), 1, True),
        (Choice("h", [1, 2]), 1.0, False),
        (Choice("h", [1, 2]), True, False),
        (Choice("h", [1, 2]), 3, False),
        (Choice("h", [1.0, 2.0]), 1, True),
        (Choice("h", [True, False]), 1, False),
        (Choice("h", ["a"]), "a", True),
        (Choice("h", ["a"]), ["a"], False),
        (Boolean("h"), True, True),
        (Boolean("h"), 1, False),
        (Boolean("h"), np.bool_(False), True),
        (Boolean("h"), None, False),
        (Fixed("h", 1), 1, True),
        (Fixed("h", 1), True, False),
        (Fixed("h", True), 1, False),
        (Fixed("h", "a"), "b", False),
    ],
)
def test_what_is_legal(hp, value, is_legal):
    assert hp.contains(value) is is_legal


def test_legal_values_come_out_in_type():
    assert type(Choice("h", [1.0, 2.0]).cast(1)) is float
    assert Boolean("h").cast(np.bool_(True)) is True
    assert type(Fixed("h", 2).cast(2.0)) is int


def test_positions_of_several_values_at_once():
    assert Boolean("h").encode([True, False, True]).tolist() == [0.75, 0.25, 0.75]
    assert Fixed("h", 2).encode([2, 2]).tolist() == [0.5, 0.5]
    assert (Boolean("h").num_values, Fixed("h", 2).num_values, Choice("h", [1, 2, 3]).num_values) == (2, 1, 3)


def test_which_indices_hold_a_value():
    assert Choice("h", [32, 16, 64]).indices_among([16, 64, 128]) == [0, 2]
    assert Boolean("h").indices_among([True]) == [1]
    assert Int("h", 1, 10**6).indices_among([7, 10**6, -1]) == [6, 10**6 - 1]


@settings(deadline=None)
@given(values=st.lists(st.one_of(st.integers()), min_size=1, max_size=30, unique=True), ordered=st.booleans())
def test_every_value_survives_the_unit_interval(values, ordered):
    hp = Choice("h", values, ordered=ordered)
    assert hp.decode(hp.encode(values)) == values
    assert hp.decode(np.linspace(0, 1, 200)) == sorted(
        hp.decode(np.linspace(0, 1, 200)), key=(sorted(values) if ordered else values).index
    )


@pytest.mark.parametrize(
    ("first", "second", "union"),
    [
        (Choice("h", ["a", "b"]), Choice("h", ["b", "c"]), Choice("h", ["a", "b", "c"])),
        (Choice("h", [1, 2]), Choice("h", [3]), Choice("h", [1, 2, 3])),
        (Choice("h", [1, 2]), Choice("h", ["a"]), Choice("h", ["a"])),
        (Choice("h", [1, 2]), Int("h", 1, 4), Int("h", 1, 4)),
        (Fixed("h", 1), Fixed("h", 2), Fixed("h", 2)),
        (Boolean("h"), Fixed("h", True), Fixed("h", True)),
    ],
)
def test_unions(first, second, union):
    assert first.union(second).same_domain(union)


def test_unions_of_choices_keep_the_first_ones_default():
    assert Choice("h", ["a", "b"], default="b").union(Choice("h", ["c"])).default == "b"
    assert Choice("h", [1, 2], ordered=False).union(Choice("h", [3])).kind == "unordered"


def test_repr_as_in_kerastuner():
    assert repr(Choice("c", ["a", "b"])) == "Choice(name: 'c', values: ['a', 'b'], ordered: False, default: a)"
    assert repr(Boolean("b")) == 'Boolean(name: "b", default: False)'
    assert repr(Fixed("x", 3)) == "Fixed(name: x, value: 3)"


def test_configuration_as_in_kerastuner():
    conditions = [{"class_name": "Parent", "config": {"name": "p", "values": [1]}}]
    under = [Parent("p", 1)]
    assert Choice("c", ["a", "b"], conditions=under).get_config() == {
        "name": "c",
        "default": "a",
        "conditions": conditions,
        "values": ["a", "b"],
        "ordered": False,
    }
    assert Boolean("b").get_config() == {"name": "b", "default": False, "conditions": []}
    assert Fixed("x", True).get_config() == {"name": "x", "conditions": [], "value": True}


_NAMES = 'Choose between names, for instance ["none", "adam"], and turn the name into an object yourself.'

BAD = [
    (
        lambda: Choice("z", []),
        UsageError,
        'Choice("z"): got `values` must be provided for `Choice`: an empty list. Allowed: at least one. Add one.',
    ),
    (
        lambda: Choice("z", [1, "a"]),
        UsageTypeError,
        "Choice(\"z\"): got values=[1, 'a'] with types int, str; A `Choice` can contain only one type of value. "
        f"Allowed: values of one type. {_NAMES}",
    ),
    (
        lambda: Choice("z", [0, 0.5, 1]),
        UsageTypeError,
        'Choice("z"): got values=[0, 0.5, 1] with types float, int; A `Choice` can contain only one type of value. '
        "Allowed: values of one type. Type [0.0, 0.5, 1.0].",
    ),
    (
        lambda: Choice("z", [None, "adam"]),
        UsageTypeError,
        "Choice(\"z\"): got values=[None, 'adam'] with types NoneType, str; "
        f"A `Choice` can contain only one type of value. Allowed: values of one type. {_NAMES}",
    ),
    (
        lambda: Choice("z", [(3, 3), (5, 5)]),
        UsageTypeError,
        'Choice("z"): got values=[(3, 3), (5, 5)] of type tuple; '
        "A `Choice` can contain only `int`, `float`, `str`, or `bool`. "
        f"Allowed: values that fit into a text file. {_NAMES}",
    ),
    (
        lambda: Choice("z", "adam"),
        UsageTypeError,
        "Choice(\"z\"): got values='adam'. Allowed: a list of values. Type ['adam', ...].",
    ),
    (
        lambda: Choice("z", {"adam"}),
        UsageTypeError,
        "Choice(\"z\"): got the set {'adam'}. Allowed: a list, which has an order. Use [...].",
    ),
    (lambda: Choice("z", 3), UsageTypeError, 'Choice("z"): got values=3. Allowed: a list of values. Type [3, ...].'),
    (
        lambda: Choice("z", [1, 2], default=3),
        UsageError,
        'Choice("z"): got values=[1, 2], default=3. Allowed: The default value should be one of the choices. '
        "Type default=1, or add 3 to the values.",
    ),
    (
        lambda: Choice("z", ["a", "b"], ordered=True),
        UsageError,
        "Choice(\"z\"): got ordered=True for ['a', 'b']; `ordered` must be `False` for non-numeric types. "
        "Allowed: ordered=True for numbers only. Leave `ordered` out, or use numbers.",
    ),
    (
        lambda: Choice("z", [1, 2, 1]),
        UsageError,
        'Choice("z"): got 1 more than once in [1, 2, 1]. Allowed: each value once. Remove the copies.',
    ),
    (
        lambda: Choice("z", [0.1, math.nan]),
        UsageError,
        'Choice("z"): got values=[0.1, nan]. Allowed: numbers, NaN is none. Remove the NaN.',
    ),
    (
        lambda: Choice("z", [1, 2]).value_to_prob(7),
        UsageError,
        'Choice("z"): got the value 7. Allowed: one of [1, 2]. Use one of them.',
    ),
    (
        lambda: Boolean("z", default=3),
        UsageError,
        'Boolean("z"): got `default` must be a Python boolean. You passed: default=3. '
        "Allowed: True or False. Use Choice for other values.",
    ),
    (
        lambda: Fixed("z", None),
        UsageError,
        'Fixed("z"): got `Fixed` value must be an `int`, `float`, `str`, or `bool`, found None. '
        "Allowed: a value that fits into a text file. "
        "Use the object in your build function directly, without `hp`.",
    ),
    (
        lambda: Choice(3, [1]),
        UsageTypeError,
        "Choice: got the name 3. Allowed: a name that is a non-empty text. "
        'Type, for instance, hp.Int("units", 16, 64).',
    ),
    (
        lambda: Boolean(""),
        UsageTypeError,
        "Boolean: got the name ''. Allowed: a name that is a non-empty text. "
        'Type, for instance, hp.Int("units", 16, 64).',
    ),
]


@pytest.mark.parametrize(("make", "error", "text"), BAD)
def test_bad_input(make, error, text):
    with pytest.raises(error) as caught:
        make()
    assert str(caught.value) == text


def test_what_is_no_value_of_a_choice_is_named_even_if_it_cannot_be_hashed():
    with pytest.raises(UsageError, match=r"got the value \[1\]"):
        Choice("z", [1, 2]).encode([1, [1]])
