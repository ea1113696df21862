"""Conditions: when a hyperparameter is active."""

from __future__ import annotations

import abc
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np

from manyfit.core.errors import UsageError, UsageTypeError, explain
from manyfit.core.records import Value

#: The values of a parent for which a condition holds: one, or several.
ParentValues: TypeAlias = Value | Iterable[Value]


def as_value(value: object) -> Any:
    """A NumPy scalar as the Python value it holds; anything else as it is."""
    return value.item() if isinstance(value, np.generic) else value


class Condition(abc.ABC):
    """Says whether a hyperparameter is active, given the values of the active ones before it."""

    @abc.abstractmethod
    def is_active(self, values: Mapping[str, Value]) -> bool:
        """Whether the condition holds for these values."""

    @abc.abstractmethod
    def get_config(self) -> dict[str, Any]:
        """The arguments of the constructor, as JSON."""

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Condition:
        """A condition from what `get_config` gave."""
        return cls(**config)


class Parent(Condition):
    """Holds when the hyperparameter called `name` has one of `values`.

    Args:
        name: full name of the parent, name scopes included.
        values: one value or several (int, float, str or bool).

    Raises:
        UsageTypeError: a value of another type.
        UsageError: no values at all.

    Example:

    >>> Parent("optimizer", ["sgd"]).is_active({"optimizer": "sgd"})
    True
    >>> Parent("optimizer", ["sgd"]).is_active({})
    False
    """

    def __init__(self, name: str, values: ParentValues) -> None:
        self.name = name
        if isinstance(values, (set, frozenset)):
            values = sorted(values, key=repr)  # the order of a set changes from process to process
        listed = [values] if isinstance(values, str) or not isinstance(values, Iterable) else list(values)
        self.values: list[Value] = [as_value(value) for value in listed]
        where = f'Parent("{name}")'
        for value in self.values:
            if not isinstance(value, (str, int, float, bool)):
                raise UsageTypeError(
                    explain(
                        where,
                        f"the value {value!r}",
                        "Can contain only `int`, `float`, `str`, or `bool`",
                        "Use the value that the parent hyperparameter takes.",
                    )
                )
        if not self.values:
            raise UsageError(
                explain(where, "no parent values", "at least one", "Name the parent values that switch this on.")
            )

    def is_active(self, values: Mapping[str, Value]) -> bool:
        return self.name in values and values[self.name] in self.values

    def get_config(self) -> dict[str, Any]:
        return {"name": self.name, "values": list(self.values)}

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Parent) and self.name == other.name and self.values == other.values

    def __hash__(self) -> int:
        return hash((self.name, tuple(self.values)))

    def __repr__(self) -> str:
        return f"Parent(name: '{self.name}', values: {self.values})"


def to_config(condition: Condition) -> dict[str, Any]:
    """A condition as ``{"class_name": ..., "config": ...}``."""
    return {"class_name": type(condition).__name__, "config": condition.get_config()}


def of_config(config: Mapping[str, Any]) -> Condition:
    """The condition described by ``{"class_name": "Parent", "config": {...}}``.

    Raises:
        UsageError: another class name.
    """
    if config.get("class_name") != Parent.__name__:
        raise UsageError(
            explain(
                "conditions",
                f"Unknown object: {config.get('class_name')!r}",
                'the class_name "Parent"',
                "Check that the file was written by `get_config`.",
            )
        )
    return Parent.from_config(config["config"])


def all_active(conditions: Sequence[Condition], values: Mapping[str, Value]) -> bool:
    """Whether every one of the conditions holds."""
    # The empty list first: most hyperparameters have no conditions, and this is called for each in each trial.
    return not conditions or all(condition.is_active(values) for condition in conditions)
