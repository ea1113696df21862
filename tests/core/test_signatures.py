"""Arguments held against their annotations: what is taken, what is refused, and what is said."""

from __future__ import annotations

import dataclasses
import os
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, TypedDict, Unpack

import numpy as np
import pytest
import tiny

from manyfit.core.errors import UsageError, UsageTypeError
from manyfit.core.signatures import (
    NAME,
    above,
    at_least,
    checked_arguments,
    checked_methods,
    is_number,
    is_truth,
    one_of,
    rule_of,
    within,
)


class Further(TypedDict, total=False):
    share: float
    deep: bool


class Tree:
    pass


@checked_arguments(count=at_least(1, 8), rate=above(0), share=within(0, 1, 0.5), mode=one_of("a", "b"), name=NAME)
def plant(
    count: int = 3,
    rate: float | None = None,
    *,
    mode: str = "a",
    name: str | None = None,
    tall: bool = False,
    path: str | os.PathLike[str] = "x",
    trees: Sequence[str] = (),
    sizes: Mapping[str, float] | None = None,
    grow: Callable[[int], int] | None = None,
    way: Literal["up", "down"] = "up",
    tree: Tree | None = None,
    anything: Any = None,
    **further: Unpack[Further],
) -> int:
    return count


@pytest.mark.parametrize(
    "given",
    [
        {"count": np.int64(4), "rate": np.float32(0.5)},
        {"rate": 3, "tall": np.True_},
        {"rate": np.array(0.5), "tall": 1},
        {"path": pathlib.Path("a"), "trees": ("a", "b"), "sizes": {}},
        {"trees": np.array(["a"]), "grow": len, "way": "down", "tree": Tree()},
        {"anything": object(), "share": 0.25, "deep": True, "name": None, "mode": "b"},
    ],
)
def test_what_is_taken(given):
    assert plant(**given) == given.get("count", 3)


@pytest.mark.parametrize(
    ("given", "allowed"),
    [
        ({"count": "3"}, "a whole number of at least 1"),
        ({"count": True}, "a whole number of at least 1"),
        ({"count": 0}, "a whole number of at least 1"),
        ({"count": 2.0}, "a whole number of at least 1"),
        ({"count": None}, "a whole number of at least 1"),
        ({"rate": float("nan")}, "a number above 0, or None"),
        ({"rate": 10**400}, "a number above 0, or None"),
        ({"rate": 0.0}, "a number above 0, or None"),
        ({"mode": "c"}, "one of 'a', 'b'"),
        ({"name": ""}, "a text that is not empty, or None"),
        ({"tall": "no"}, "True or False"),
        ({"tall": 2}, "True or False"),
        ({"path": 5}, "a text or a path"),
        ({"trees": "abc"}, "a list, each of it a text"),
        ({"trees": ["a", 5]}, "a list, each of it a text"),
        ({"sizes": [1]}, "a dict or None"),
        ({"grow": 5}, "a function or None"),
        ({"way": "left"}, "one of 'up', 'down'"),
        ({"tree": Tree}, "a Tree or None"),
        ({"share": 1.0}, "a number between 0 and 1"),
        ({"deep": []}, "True or False"),
    ],
    ids=str,
)
def test_what_is_refused(given, allowed):
    with pytest.raises(UsageError) as caught:
        plant(**given)
    assert isinstance(caught.value, TypeError) and isinstance(caught.value, ValueError)
    (name, value) = next(iter(given.items()))
    where, got, said, instead = tiny.four_parts(caught.value)
    assert where == f"plant({name}=...)" and said == allowed
    assert repr(value)[:70] in got and (name in instead or "Leave it out" in instead)


def test_names_that_there_are_not_and_arguments_that_are_missing():
    @checked_arguments()
    def dig(depth: int, *, wide: bool = False) -> int:
        return depth

    for call, part in (
        (lambda: dig(3, wdie=True), "Type wide=, say"),
        (dig, "Type depth=..., too"),
        (lambda: dig(1, 2), "Name each argument once"),
        (lambda: dig(1, depth=2), "Name each argument once"),
    ):
        with pytest.raises(UsageTypeError) as caught:
            call()
        assert part in tiny.four_parts(caught.value)[3]


def test_classes_and_their_methods():
    @checked_methods("of", "cut")
    @checked_arguments(age=at_least(0))
    @dataclasses.dataclass(frozen=True)
    class Oak:
        age: int = 0

        @classmethod
        def of(cls, age: int) -> Oak:
            return cls(age)

        def cut(self, by: float) -> float:
            return by

    assert Oak(3).cut(1) == 1 and Oak.of(2) == Oak(2)
    for call in (lambda: Oak(-1), lambda: Oak("3"), lambda: Oak.of("3"), lambda: Oak(1).cut("x"), lambda: Oak(aeg=1)):
        with pytest.raises((UsageError, UsageTypeError)) as caught:
            call()
        tiny.four_parts(caught.value)


def test_numbers_and_truths():
    assert all(map(is_number, [0, -1.5, np.float32(2), np.int8(3)]))
    assert not any(map(is_number, [True, "3", None, float("inf"), 1j, [1], np.array([1.0])]))
    assert all(map(is_truth, [True, False, 0, 1, np.False_])) and not any(map(is_truth, [None, 2, "True", 0.0]))


def test_a_literal_allows_its_words_and_says_them():
    rule = rule_of(Literal["up", "down"])
    assert rule.allowed == "one of 'up', 'down'" and rule.holds("down") and not rule.holds("side")
    either = rule_of(Literal["up"] | None)
    assert either.holds(None) and either.holds("up") and not either.holds(1)
