"""Values from a list: `Choice`, `Boolean` and `Fixed`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from manyfit.core.errors import UsageError, UsageTypeError, explain
from manyfit.core.records import Value
from manyfit.space.conditions import Condition, as_value
from manyfit.space.hyperparameter import HyperParameter, Kind


class Choice(HyperParameter):
    """One of a list of values, all of one type (int, float, str or bool).

    An ordered choice sits in the unit interval in the order of its numbers, whatever order the list has, so that
    ``[32, 16, 64]`` (the favourite first) is as easy for a model as ``[16, 32, 64]``.

    Args:
        name: unique name within its scope.
        values: the values, each once.
        ordered: whether neighbouring numbers are alike; True for int and float, False otherwise.
        default: value of the first trial, the first in the list if not given.
        conditions: see `HyperParameter`.

    Raises:
        UsageTypeError: values of several types, of a type that is not allowed (None, lists, functions), or in a set.
        UsageError: no values, a value twice, `ordered` texts, a default that is not among the values.

    Example:

    >>> Choice("flip", [True, False]).values
    [True, False]
    """

    def __init__(
        self,
        name: str,
        values: Iterable[Value],
        ordered: bool | None = None,
        default: Value | None = None,
        conditions: Iterable[Condition] | None = None,
    ) -> None:
        super().__init__(name, default, conditions)
        if isinstance(values, (set, frozenset)):  # its order changes from process to process
            raise UsageTypeError(explain(self.where, f"the set {values!r}", "a list, which has an order", "Use [...]."))
        if isinstance(values, str) or not isinstance(values, Iterable):
            raise UsageTypeError(
                explain(self.where, f"values={values!r}", "a list of values", f"Type [{values!r}, ...].")
            )
        self._values: list[Value] = [as_value(value) for value in values]
        self._check_values()
        self._type = type(self._values[0])
        self.ordered = self._type in (int, float) if ordered is None else bool(ordered)
        self._check_order_and_default()
        # The unit interval follows the numbers; `values` stays in the order of the user, whose first one is the
        # default.
        self._by_position = sorted(self._values) if self.ordered else self._values
        self._index = {value: index for index, value in enumerate(self._by_position)}

    def _check_values(self) -> None:
        shown = self._values
        if not shown:
            raise UsageError(
                explain(self.where, "`values` must be provided for `Choice`: an empty list", "at least one", "Add one.")
            )
        types = {type(value) for value in shown}
        names = sorted(kind.__name__ for kind in types)
        if len(types) > 1:
            hint = f"Type {[float(value) for value in shown]}." if names == ["float", "int"] else _NOT_A_VALUE
            raise UsageTypeError(
                explain(
                    self.where,
                    f"values={shown} with types {', '.join(names)}; A `Choice` can contain only one type of value",
                    "values of one type",
                    hint,
                )
            )
        if not types <= {int, float, str, bool}:
            raise UsageTypeError(
                explain(
                    self.where,
                    f"values={shown} of type {names[0]}; A `Choice` can contain only `int`, `float`, `str`, or `bool`",
                    "values that fit into a text file",
                    _NOT_A_VALUE,
                )
            )
        # NaN equals nothing, not even itself: it could never be looked up again.
        if any(value != value for value in shown):
            raise UsageError(explain(self.where, f"values={shown}", "numbers, NaN is none", "Remove the NaN."))
        twice = [value for index, value in enumerate(shown) if value in shown[:index]]
        if twice:
            raise UsageError(
                explain(self.where, f"{twice[0]!r} more than once in {shown}", "each value once", "Remove the copies.")
            )

    def _check_order_and_default(self) -> None:
        if self.ordered and self._type is str:
            raise UsageError(
                explain(
                    self.where,
                    f"ordered=True for {self._values}; `ordered` must be `False` for non-numeric types",
                    "ordered=True for numbers only",
                    "Leave `ordered` out, or use numbers.",
                )
            )
        if self._default is not None and not self.contains(self._default):
            raise UsageError(
                explain(
                    self.where,
                    f"values={self._values}, default={self._default!r}",
                    "The default value should be one of the choices",
                    f"Type default={self._values[0]!r}, or add {self._default!r} to the values.",
                )
            )

    @property
    def default(self) -> Value:
        return self._values[0] if self._default is None else self._default

    @property
    def values(self) -> list[Value]:
        return list(self._values)

    @property
    def kind(self) -> Kind:
        return "ordered" if self.ordered else "unordered"

    @property
    def num_values(self) -> int:
        return len(self._values)

    def value_at(self, index: int) -> Value:
        return self._by_position[index]

    def nearest(self, values: Sequence[Any]) -> np.ndarray:
        try:
            return np.array([self._index[value] for value in values], dtype=np.int64)
        except (KeyError, TypeError):
            unknown = [value for value in values if not self.contains(value)]
            raise UsageError(
                explain(self.where, f"the value {unknown[0]!r}", f"one of {self._values}", "Use one of them.")
            ) from None

    def contains(self, value: object) -> bool:
        # True equals 1 in Python, so the type is compared where it counts.
        value = as_value(value)
        # Users type 1 for 1.0, and JSON of other programs drops the point.
        if type(value) is int and self._type is float:
            value = float(value)
        return type(value) is self._type and value in self._values

    def cast(self, value: Value) -> Value:
        return self._type(as_value(value))

    def union(self, other: HyperParameter) -> HyperParameter:
        if not isinstance(other, Choice) or self._type is not other._type:  # noqa: SLF001  # another object of the same class
            return other
        values = list(dict.fromkeys([*self._values, *other._values]))  # noqa: SLF001  # another object of the same class
        return Choice(self.name, values, self.ordered and other.ordered, self.default, self.conditions)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "values": list(self._values), "ordered": self.ordered}

    def __repr__(self) -> str:
        return f"Choice(name: '{self.name}', values: {self._values}, ordered: {self.ordered}, default: {self.default})"


class Boolean(HyperParameter):
    """True or False.

    Args:
        name: unique name within its scope.
        default: value of the first trial.
        conditions: see `HyperParameter`.

    Raises:
        UsageError: a default that is neither.

    Example:

    >>> Boolean("batch_norm").prob_to_value(0.7)
    True
    """

    def __init__(self, name: str, default: bool = False, conditions: Iterable[Condition] | None = None) -> None:
        super().__init__(name, default, conditions)
        if not isinstance(self._default, bool):
            raise UsageError(
                explain(
                    self.where,
                    f"`default` must be a Python boolean. You passed: default={default!r}",
                    "True or False",
                    "Use Choice for other values.",
                )
            )

    @property
    def values(self) -> tuple[Value, ...]:
        return (True, False)

    @property
    def kind(self) -> Kind:
        return "unordered"

    @property
    def num_values(self) -> int:
        return 2

    def value_at(self, index: int) -> bool:
        return bool(index)

    def nearest(self, values: Sequence[Any]) -> np.ndarray:
        return np.array([bool(value) for value in values], dtype=np.int64)

    def contains(self, value: object) -> bool:
        return isinstance(as_value(value), bool)

    def cast(self, value: Value) -> bool:
        return bool(value)

    def __repr__(self) -> str:
        return f'Boolean(name: "{self.name}", default: {self.default})'


class Fixed(HyperParameter):
    """A single value that the search leaves alone.

    Args:
        name: unique name within its scope.
        value: an int, float, str or bool.
        conditions: see `HyperParameter`.

    Raises:
        UsageError: a value of another type.

    Example:

    >>> Fixed("epochs", 20).default
    20
    """

    def __init__(self, name: str, value: Value, conditions: Iterable[Condition] | None = None) -> None:
        super().__init__(name, value, conditions)
        self.value: Value = self._default
        # NaN equals nothing, not even itself.
        if not isinstance(self.value, (int, float, str, bool)) or self.value != self.value:
            raise UsageError(
                explain(
                    self.where,
                    f"`Fixed` value must be an `int`, `float`, `str`, or `bool`, found {value!r}",
                    "a value that fits into a text file",
                    "Use the object in your build function directly, without `hp`.",
                )
            )

    @property
    def values(self) -> tuple[Value, ...]:
        return (self.value,)

    @property
    def num_values(self) -> int:
        return 1

    def value_at(self, index: int) -> Value:
        return self.value

    def nearest(self, values: Sequence[Any]) -> np.ndarray:
        return np.zeros(len(values), dtype=np.int64)

    def contains(self, value: object) -> bool:
        value = as_value(value)
        return value == self.value and isinstance(value, bool) == isinstance(self.value, bool)

    def cast(self, value: Value) -> Value:
        return self.value

    def get_config(self) -> dict[str, Any]:
        config = super().get_config()
        del config["default"]
        return {**config, "value": self.value}

    def __repr__(self) -> str:
        return f"Fixed(name: {self.name}, value: {self.value})"


_NOT_A_VALUE = 'Choose between names, for instance ["none", "adam"], and turn the name into an object yourself.'
