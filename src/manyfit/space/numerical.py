"""Numbers between two bounds: `Int` and `Float`.

Notation:
    a, b  lower and upper bound, both included
    x     a value

    whole numbers on a log scale: the bucket of x is [x, x + 1) on a log scale from a to b + 1, and its centre
    is at x + 1/2    (1)
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Iterable, Sequence
from typing import Any, NoReturn, TypeGuard

import numpy as np
from numpy.typing import ArrayLike

from manyfit.core.errors import UsageError, explain
from manyfit.core.records import Value
from manyfit.core.signatures import is_number
from manyfit.space import scale
from manyfit.space.conditions import Condition, as_value
from manyfit.space.hyperparameter import HyperParameter, Kind
from manyfit.space.scale import Grid, LinearGrid, RatioGrid, common_step

#: The largest whole number up to which floating point, and so the unit interval, tells all integers apart.
MAX_INTEGER = 2**53

#: Numbers that YAML reads as texts, since no point is in them: 1e-4. Other texts are a mistake.
_READ_AS_TEXT = re.compile(r"[-+]?\d+e[-+]?\d+", re.IGNORECASE)

#: How many quantile midpoints stand for a continuum.
NUM_MIDPOINTS = 10


class Numerical(HyperParameter):
    """What `Int` and `Float` share: bounds, step, sampling, and the checks of all three."""

    def __init__(
        self,
        name: str,
        min_value: float,
        max_value: float,
        step: float | None = None,
        sampling: str | None = "linear",
        default: float | None = None,
        conditions: Iterable[Condition] | None = None,
    ) -> None:
        super().__init__(name, default, conditions)
        self.min_value = self._type(self._number("min_value", min_value))
        self.max_value = self._type(self._number("max_value", max_value))
        self.step: Any = None if step is None else self._number("step", step)
        self.sampling = self._checked_sampling(sampling)
        self._check_bounds()
        self._check_step()
        if default is not None:
            self._check_default()

    _type: type[int] | type[float]

    def _number(self, argument: str, value: object) -> Any:
        """The argument, if it is a number that this hyperparameter can work with."""
        raise NotImplementedError

    def _refuse(self, got: str, allowed: str, instead: str) -> NoReturn:
        raise UsageError(explain(self.where, got, allowed, instead))

    def _checked_sampling(self, sampling: object) -> str:
        chosen = "linear" if sampling is None else sampling
        if isinstance(chosen, str) and chosen.lower() in scale.SAMPLINGS:
            return chosen.lower()
        options = ", ".join(f'"{name}"' for name in scale.SAMPLINGS)
        self._refuse(f"sampling={sampling!r}", f"sampling must be one of {options}", 'Most rates want "log".')

    def _check_bounds(self) -> None:
        low, high = self.min_value, self.max_value
        bounds = f"min_value={low}, max_value={high}"
        if low > high:
            self._refuse(
                f"{bounds}: min_value {low} is greater than the max_value {high}",
                "min_value <= max_value",
                "Swap the two values.",
            )
        # Beyond 2**53 neighbouring integers share a float, so that a position would stand for several values.
        if self._type is int and max(abs(low), abs(high)) > MAX_INTEGER:
            self._refuse(bounds, "whole numbers up to 2**53", "Search for the exponent, or use Float.")
        if self.sampling != "linear" and low <= 0:
            self._refuse(
                f"sampling='{self.sampling}' does not support negative values, found min_value: {low}",
                "min_value > 0 on a log scale",
                'Raise min_value above 0, or use sampling="linear".',
            )
        if not math.isfinite(high - low) or (self.sampling != "linear" and not math.isfinite(high / low)):
            self._refuse(bounds, "a finite range", "Move the bounds closer together.")

    def _check_step(self) -> None:
        if self.step is None:
            return
        if self.sampling != "linear" and self.step <= 1:
            self._refuse(
                f"For HyperParameters.{type(self).__name__}(name='{self.name}'), expected step > 1 with "
                f"sampling='{self.sampling}'. Received: step={self.step}",
                "a step > 1, which multiplies the value",
                "Type step=10 for one value per power of ten, or leave step out.",
            )
        if self.step <= 0:
            self._refuse(f"step={self.step}", "step > 0", "Leave step out for every value between the bounds.")

    def _check_default(self) -> None:
        if not self.contains(self._default):
            steps = "" if self.step in (None, 1) else f" that is reached from {self.min_value} with step={self.step}"
            self._refuse(
                f"default={self._default!r}",
                f"a value between {self.min_value} and {self.max_value}{steps}",
                f"Type, for instance, default={self.prob_to_value(0.5)!r}.",
            )
        # A default of 0.30000000000000004 becomes the grid's 0.3, or it would never equal a proposal.
        self._default = self.cast(self._default)

    @property
    def default(self) -> Any:
        if self._default is not None:
            return self._default
        # A mirrored grid is counted from above, so its lowest value may lie above the lower bound.
        return self.min_value if self.grid is None else self.grid.at(0)

    @functools.cached_property
    def grid(self) -> Grid | None:
        """The legal values, if they are spaced by a step; None for a continuum and for log integers."""
        if self.step is None:
            return None
        if self.sampling == "linear":
            return LinearGrid(self.min_value, self.max_value, self.step, self._type)
        mirrored = self.sampling == "reverse_log"
        return RatioGrid(self.min_value, self.max_value, self.step, self._type, mirrored=mirrored)

    @property
    def values(self) -> Sequence[Value]:
        return self.midpoints() if self.grid is None else self.grid

    def midpoints(self, count: int = NUM_MIDPOINTS) -> tuple[Value, ...]:
        """Ascending, distinct values at the middle of `count` equally likely parts: a grid for a continuum."""
        return tuple(dict.fromkeys(self.decode((np.arange(count) + 0.5) / count)))

    def contains(self, value: object) -> bool:
        value = as_value(value)
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            return False
        if not self.min_value <= value <= self.max_value:
            return False
        return self.grid is None or value in self._known or self.grid.on(value)

    def cast(self, value: Value) -> Value:
        if self.grid is None or value in self._known:
            return self._type(value)
        return self.grid.at(int(self.grid.nearest(value)))

    @functools.cached_property
    def _known(self) -> frozenset[Value]:
        """Values that are legal for sure, to be quick in the common case."""
        return frozenset(self._table or ())

    def union(self, other: HyperParameter) -> HyperParameter:
        if not isinstance(other, Numerical):
            return other
        whole = isinstance(self, Int) and isinstance(other, Int)
        low, high = min(self.min_value, other.min_value), max(self.max_value, other.max_value)
        # A log scale that reaches 0 has no quantiles; the wider range wins over the finer scale.
        sampling = other.sampling if low > 0 else "linear"
        step = None
        if self.grid is not None and other.grid is not None and {self.sampling, other.sampling} == {sampling}:
            step = common_step(self.grid, other.grid)
        wide: type[Numerical] = Int if whole else Float
        both = wide(self.name, low, high, step, sampling, None, self.conditions)
        if self._default is not None and both.contains(self._default):
            both._default = both.cast(self._default)  # noqa: SLF001  # another object of the same class
        return both

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "min_value": self.min_value,
            "max_value": self.max_value,
            "step": self.step,
            "sampling": self.sampling,
        }


class Int(Numerical):
    """A whole number; both bounds are included.

    Args:
        name: unique name within its scope.
        min_value: lower bound.
        max_value: upper bound.
        step: distance between neighbours; with log sampling, their ratio. Without it: every integer.
        sampling: "linear", "log" (small values as likely as large ones, by ratio) or "reverse_log".
        default: value of the first trial, the lowest if not given.
        conditions: see `HyperParameter`.

    Raises:
        UsageError: a bound or step that is not a whole number, bounds in the wrong order, an unknown sampling,
            a log scale that reaches 0, a step that does not lead upwards, a default that is not a legal value.

    Example:

    >>> list(Int("units", 16, 64, step=16).values)
    [16, 32, 48, 64]
    """

    _type = int

    def __init__(
        self,
        name: str,
        min_value: int,
        max_value: int,
        step: int | None = None,
        sampling: str | None = "linear",
        default: int | None = None,
        conditions: Iterable[Condition] | None = None,
    ) -> None:
        if step is None and (sampling is None or str(sampling).lower() == "linear"):
            step = 1
        super().__init__(name, min_value, max_value, step, sampling, default, conditions)

    def _number(self, argument: str, value: object) -> int:
        value = as_value(value)
        if _is_whole(value):
            return int(value)
        self._refuse(
            f"{argument}={value!r}; {argument} must be an int, Received: {value} of type {type(value)}",
            "a whole number",
            "Use Float for numbers in between.",
        )

    def cast(self, value: Value) -> int:
        return int(value)

    @property
    def num_values(self) -> int:
        return int(self.max_value - self.min_value + 1) if self.grid is None else len(self.grid)

    def value_at(self, index: int) -> int:
        return int(self.min_value + index if self.grid is None else self.grid.at(index))

    def contains(self, value: object) -> bool:
        return _is_whole(as_value(value)) and super().contains(value)

    def nearest(self, values: Sequence[Any]) -> np.ndarray:
        if self.grid is not None:
            return self.grid.nearest(values)
        offsets = np.rint(np.asarray(values, dtype=float)) - self.min_value
        inside: np.ndarray = np.clip(offsets, 0, self.num_values - 1).astype(np.int64)
        return inside

    def centres(self, indices: ArrayLike) -> np.ndarray:
        if self.grid is not None:
            return super().centres(indices)
        mirrored = self.sampling == "reverse_log"
        offsets = np.asarray(indices, dtype=float)
        numbers = self.max_value - offsets if mirrored else self.min_value + offsets
        quantiles = scale.to_quantile(numbers + 0.5, self.min_value, self.max_value + 1, "log")  # (1)
        return 1.0 - quantiles if mirrored else quantiles

    def indices(self, positions: ArrayLike) -> np.ndarray:
        if self.grid is not None:
            return super().indices(positions)
        mirrored = self.sampling == "reverse_log"
        p = np.asarray(positions, dtype=float)
        numbers = scale.to_number(1.0 - p if mirrored else p, self.min_value, self.max_value + 1, "log")
        # The top of the scale is b + 1, which is no legal value: position 1 belongs to b.
        offsets = np.clip(np.floor(numbers) - self.min_value, 0, self.num_values - 1).astype(np.int64)
        return self.num_values - 1 - offsets if mirrored else offsets

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "default": self._default}

    def __repr__(self) -> str:
        return (
            f"Int(name: '{self.name}', min_value: {self.min_value}, max_value: {self.max_value}, "
            f"step: {self.step}, sampling: {self.sampling}, default: {self.default})"
        )


class Float(Numerical):
    """A real number; both bounds are included.

    Args:
        name: unique name within its scope.
        min_value: lower bound.
        max_value: upper bound.
        step: distance between neighbours; with log sampling, their ratio. Without it: a continuum.
        sampling: "linear", "log" (equal chances per power of ten) or "reverse_log".
        default: value of the first trial, the lowest if not given.
        conditions: see `HyperParameter`.

    Raises:
        UsageError: a bound or step that is not a finite number, bounds in the wrong order, an unknown sampling,
            a log scale that reaches 0, a step that does not lead upwards, a default that is not a legal value.

    Example:

    >>> list(Float("dropout", 0, 0.5, step=0.1).values)
    [0.0, 0.1, 0.2, 0.3, 0.4, 0.5]
    """

    _type = float

    def _number(self, argument: str, value: object) -> float:
        value = as_value(value)
        if isinstance(value, str) and _READ_AS_TEXT.fullmatch(value):
            value = float(value)
        if isinstance(value, (int, float)) and is_number(value):
            return value
        self._refuse(f"{argument}={value!r}", f"a finite number for {argument}", "Type, for instance, 0.1.")

    @functools.cached_property
    def grid(self) -> Grid | None:
        if self.min_value == self.max_value:
            return LinearGrid(self.min_value, self.max_value, 1, float)
        return super().grid

    @property
    def kind(self) -> Kind:
        return "continuous" if self.grid is None else "ordered"

    @property
    def num_values(self) -> int | None:
        return None if self.grid is None else len(self.grid)

    def value_at(self, index: int) -> float:
        assert self.grid is not None
        return self.grid.at(index)

    def nearest(self, values: Sequence[Any]) -> np.ndarray:
        assert self.grid is not None
        return self.grid.nearest(values)

    def encode(self, values: Sequence[Any]) -> np.ndarray:
        if self.grid is None:
            return scale.to_quantile(values, self.min_value, self.max_value, self.sampling)
        return super().encode(values)

    def decode(self, positions: ArrayLike) -> list[Value]:
        if self.grid is None:
            numbers: list[Value] = scale.to_number(positions, self.min_value, self.max_value, self.sampling).tolist()
            return numbers
        return super().decode(positions)

    def __repr__(self) -> str:
        return (
            f"Float(name: '{self.name}', min_value: '{self.min_value}', max_value: '{self.max_value}', "
            f"step: '{self.step}', sampling: '{self.sampling}', default: '{self.default}')"
        )


def _is_whole(value: object) -> TypeGuard[float]:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    return isinstance(value, int) or (math.isfinite(value) and value == int(value))
