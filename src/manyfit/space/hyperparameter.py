"""The base of all hyperparameters, and how their values sit in the unit interval.

Notation:
    n  number of values, None when it is a continuum
    i  index of a value, 0 <= i < n
    p  position of a value in [0, 1]

    p = (i + 1/2) / n    centre of the value's bucket    (1)
    i = floor(p n)       bucket that holds a position    (2)
"""

from __future__ import annotations

import copy
import functools
import random
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, TypeVar

import numpy as np
from numpy.typing import ArrayLike

from manyfit.core.errors import UsageTypeError, explain
from manyfit.core.records import Value
from manyfit.core.seeds import fresh_seed
from manyfit.space import conditions
from manyfit.space.conditions import Condition, as_value

Kind = Literal["continuous", "ordered", "unordered"]
V = TypeVar("V", bound=Value)
"""Of one kind: what `Choice` and `Fixed` are given is what they give."""

#: Hyperparameters with at most this many values keep them in a table.
MAX_TABLE_SIZE = 4096


class HyperParameter:
    """One dimension of a search space: a name, the legal values, and when it is active.

    Subclasses with finitely many values define `num_values`, `value_at` and `nearest`; the embedding in the unit
    interval (equations 1 and 2) follows. Objects are treated as constants once they are made.

    Args:
        name: unique name within its scope.
        default: the value of the first trial.
        conditions: the conditions that must all hold for it to be active.

    Raises:
        UsageTypeError: the name is not a text, or is empty.
    """

    def __init__(self, name: str, default: Value | None = None, conditions: Iterable[Condition] | None = None) -> None:
        if not isinstance(name, str) or not name:
            raise UsageTypeError(
                explain(
                    type(self).__name__,
                    f"the name {name!r}",
                    "a name that is a non-empty text",
                    'Type, for instance, hp.Int("units", 16, 64).',
                )
            )
        self.name = name
        self._default = as_value(default)
        self.conditions: list[Condition] = list(conditions or [])

    @property
    def where(self) -> str:
        """How errors name this hyperparameter."""
        return f'{type(self).__name__}("{self.name}")'

    @property
    def key(self) -> tuple[str, tuple[Condition, ...]]:
        """What tells hyperparameters apart: the name and the conditions."""
        return self.name, tuple(self.conditions)

    @property
    def default(self) -> Any:
        """The value of the first trial."""
        return self._default

    @property
    def values(self) -> Sequence[Value]:
        """The legal values in order; for a continuum, ten quantile midpoints that stand for it."""
        raise NotImplementedError

    @property
    def kind(self) -> Kind:
        """Whether values form a continuum, steps in an order, or categories without order."""
        return "ordered"

    @property
    def num_values(self) -> int | None:
        """How many legal values there are; None for a continuum."""
        raise NotImplementedError

    def contains(self, value: object) -> bool:
        """Whether `value` is legal here."""
        raise NotImplementedError

    def cast(self, value: Value) -> Value:
        """A legal value in this hyperparameter's own type and precision (16.0 becomes 16 in an `Int`)."""
        raise NotImplementedError

    def value_at(self, index: int) -> Value:
        """The value with this index."""
        raise NotImplementedError

    def nearest(self, values: Sequence[Any]) -> np.ndarray:
        """The indices of `values`, or of the legal values nearest to them."""
        raise NotImplementedError

    def indices_among(self, values: Sequence[Any]) -> list[int]:
        """The indices of those of its values that equal one of `values`."""
        if self._table is not None:
            return [index for index, value in enumerate(self._table) if value in values]
        return sorted(set(self.nearest([value for value in values if self.contains(value)]).tolist()))

    def centres(self, indices: ArrayLike) -> np.ndarray:
        """The positions of the values with these indices: the centres of their buckets."""
        return (np.asarray(indices, dtype=float) + 0.5) / (self.num_values or 1)  # (1)

    def indices(self, positions: ArrayLike) -> np.ndarray:
        """The indices of the buckets that hold these positions."""
        count = self.num_values or 0
        buckets = np.floor(np.asarray(positions, dtype=float) * count)  # (2)
        inside: np.ndarray = np.clip(buckets, 0, count - 1).astype(np.int64)
        return inside

    def encode(self, values: Sequence[Any]) -> np.ndarray:
        """The positions of many values, as one array."""
        return self.centres(self.nearest(values))

    def decode(self, positions: ArrayLike) -> list[Value]:
        """The values at many positions."""
        return self.take(self.indices(positions))

    def take(self, indices: np.ndarray) -> list[Value]:
        """The values with these indices."""
        table = self._table
        return [self.value_at(index) if table is None else table[index] for index in indices.tolist()]

    @functools.cached_property
    def _table(self) -> list[Value] | None:
        count = self.num_values or 0
        return [self.value_at(index) for index in range(count)] if 0 < count <= MAX_TABLE_SIZE else None

    def value_to_prob(self, value: Value) -> float:
        """The position of `value` in the unit interval."""
        return float(self.encode([value])[0])

    def prob_to_value(self, prob: float) -> Value:
        """The value at a position of the unit interval."""
        return self.decode([prob])[0]

    def random_sample(self, seed: int | np.random.Generator | None = None) -> Value:
        """A random value by this hyperparameter's own distribution.

        Args:
            seed: an integer (the draw equals KerasTuner's for that integer), a generator, or None for a fresh
                seed from the operating system.
        """
        if isinstance(seed, np.random.Generator):
            return self.prob_to_value(float(seed.random()))
        # Python's generator and not NumPy's: KerasTuner draws so, and a seed has to give the same value.
        return self.prob_to_value(random.Random(fresh_seed() if seed is None else seed).random())

    def same_domain(self, other: HyperParameter) -> bool:
        """Whether both have the same type and the same legal values; defaults and conditions may differ."""
        return type(self) is type(other) and self._domain() == other._domain()

    def union(self, other: HyperParameter) -> HyperParameter:
        """A hyperparameter that allows the values of both; `other` itself where no common domain exists."""
        return other

    def under(self, conditions: Iterable[Condition]) -> HyperParameter:
        """The same hyperparameter under other conditions."""
        # Shallow: everything but the conditions is constant once made, tables included.
        twin = copy.copy(self)
        twin.conditions = list(conditions)
        return twin

    def describe(self) -> str:
        """The call that makes it, without default and conditions, for messages."""
        arguments = ", ".join(f"{key}={value!r}" for key, value in self._domain().items())
        comma = ", " if arguments else ""
        return f'{type(self).__name__}("{self.name}"{comma}{arguments})'

    def _domain(self) -> dict[str, Any]:
        # What may differ between two builds without being another definition.
        skipped = ("name", "default", "conditions", "ordered")
        return {key: value for key, value in self.get_config().items() if key not in skipped}

    def get_config(self) -> dict[str, Any]:
        """The arguments of the constructor, as JSON."""
        return {
            "name": self.name,
            "default": self.default,
            "conditions": [
                {"class_name": type(condition).__name__, "config": condition.get_config()}
                for condition in self.conditions
            ],
        }

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> HyperParameter:
        """A hyperparameter from what `get_config` gave."""
        arguments = dict(config)
        arguments["conditions"] = [
            item if isinstance(item, Condition) else conditions.of_config(item)
            for item in arguments.get("conditions") or []
        ]
        return cls(**arguments)
