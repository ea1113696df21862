"""Numbers between two bounds: `Int` and `Float`.

Notation:
    a, b  lower and upper bound, both included
    s     step: the distance of neighbours (linear), or their ratio (log, reverse_log)
    n, i  number of values, index of a value

    linear grid       x_i = a + i s                            (1)
    log grid          x_i = a s^i                              (2)
    reverse_log grid  x_i = a + b - a s^(n - 1 - i)            (3)
    log integers      bucket of x is [x, x + 1) on a log scale from a to b + 1; its centre is at x + 1/2   (4)

Float grids are computed with decimal arithmetic on the numbers as they were typed, so that ten steps of 0.1 are
1.0 and three are 0.3: binary arithmetic loses the last value of many grids.
"""

from __future__ import annotations

import contextlib
import decimal
import functools
import math
from collections.abc import Iterable, Sequence
from typing import Any, NoReturn, overload

import numpy as np

from manyfit.core.errors import UsageError, explain
from manyfit.core.records import Value
from manyfit.space import scale
from manyfit.space.conditions import Condition, as_value
from manyfit.space.hyperparameter import MAX_TABLE_SIZE, HyperParameter, Kind

#: How far from a grid a number may lie, in steps, and still count as on it.
TOLERANCE = 1e-8

#: The largest whole number up to which floating point, and so the unit interval, tells all integers apart.
MAX_INTEGER = 2**53

#: How many quantile midpoints stand for a continuum.
NUM_MIDPOINTS = 10


class Grid(Sequence[Value]):
    """The values of a hyperparameter in order, made when they are asked for."""

    def __init__(self, hyperparameter: HyperParameter) -> None:
        self._hyperparameter = hyperparameter

    def __len__(self) -> int:
        return self._hyperparameter.num_values or 0

    @overload
    def __getitem__(self, index: int) -> Value: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Value]: ...
    def __getitem__(self, index: int | slice) -> Value | Sequence[Value]:
        chosen = range(len(self))[index]
        if isinstance(chosen, range):
            return tuple(self._hyperparameter.value_at(each) for each in chosen)
        return self._hyperparameter.value_at(chosen)

    def __contains__(self, value: object) -> bool:
        return self._hyperparameter.contains(value)

    def __repr__(self) -> str:
        shown = ", ".join(repr(value) for value in self[:10])
        return f"({shown}{', ...' if len(self) > 10 else ''})"


class Numerical(HyperParameter):
    """What `Int` and `Float` share: bounds, step, sampling, and the checks of all three."""

    def __init__(
        self,
        name: str,
        min_value: Any,
        max_value: Any,
        step: Any = None,
        sampling: str | None = "linear",
        default: Any = None,
        conditions: Iterable[Condition] | None = None,
    ) -> None:
        super().__init__(name, default, conditions)
        self.min_value = self._number("min_value", min_value)
        self.max_value = self._number("max_value", max_value)
        self.step: Any = None if step is None else self._number("step", step, keep=True)
        self.sampling = self._checked_sampling(sampling)
        self._check_bounds()
        self._check_step()
        if default is not None:
            self._check_default()

    def _number(self, argument: str, value: Any, keep: bool = False) -> Any:
        """The argument in this hyperparameter's type; with `keep`, checked and left as typed."""
        raise NotImplementedError

    def _refuse(self, got: str, allowed: str, instead: str) -> NoReturn:
        raise UsageError(explain(self.where, got, allowed, instead))

    def _checked_sampling(self, sampling: Any) -> str:
        chosen = "linear" if sampling is None else sampling
        if isinstance(chosen, str) and chosen.lower() in scale.SAMPLINGS:
            return chosen.lower()
        options = ", ".join(f'"{name}"' for name in scale.SAMPLINGS)
        self._refuse(f"sampling={sampling!r}", f"sampling must be one of {options}", 'Most rates want "log".')

    def _check_bounds(self) -> None:
        low, high = self.min_value, self.max_value
        if low > high:
            self._refuse(
                f"min_value={low}, max_value={high}: min_value {low} is greater than the max_value {high}",
                "min_value <= max_value",
                "Swap the two values.",
            )
        if max(abs(low), abs(high)) > MAX_INTEGER and isinstance(low, int):
            self._refuse(f"min_value={low}, max_value={high}", "integers up to 2**53", "Search for the exponent.")
        if self.sampling != "linear" and low <= 0:
            self._refuse(
                f"sampling='{self.sampling}' does not support negative values, found min_value: {low}",
                "min_value > 0 on a log scale",
                'Raise min_value above 0, or use sampling="linear".',
            )
        if not math.isfinite(high - low) or (self.sampling != "linear" and not math.isfinite(high / low)):
            self._refuse(f"min_value={low}, max_value={high}", "a finite range", "Move the bounds closer together.")

    def _check_step(self) -> None:
        if self.step is None:
            return
        if self.sampling != "linear" and self.step <= 1:
            self._refuse(
                f"expected step > 1 with sampling='{self.sampling}'. Received: step={self.step}",
                "a step > 1, which multiplies the value",
                "Type step=10 for one value per power of ten, or leave step out.",
            )
        if self.step <= 0:
            self._refuse(f"step={self.step}", "step > 0", "Leave step out for every value between the bounds.")

    def _check_default(self) -> None:
        if not self.contains(self._default):
            steps = "" if self.step is None else f" that is reached from it in steps of {self.step}"
            self._refuse(
                f"default={self._default!r}",
                f"a value between {self.min_value} and {self.max_value}{steps}",
                f"Type, for instance, default={self.decode([0.5])[0]!r}.",
            )
        self._default = self.cast(self._default)

    @property
    def default(self) -> Any:
        return self.min_value if self._default is None else self._default

    @functools.cached_property
    def _num_multiples(self) -> int:
        """Length of a log grid (2), counted with the same decimals that make its values."""
        limit = _decimal(self.max_value) * (1 + decimal.Decimal(TOLERANCE))
        ratio = math.log(self.max_value / self.min_value) / math.log(self.step)
        count = int(ratio + TOLERANCE) + 1
        while _decimal(self.min_value) * _decimal(self.step) ** count <= limit:
            count += 1
        while _decimal(self.min_value) * _decimal(self.step) ** (count - 1) > limit:
            count -= 1
        return count

    def _multiple(self, index: int) -> decimal.Decimal:
        """The value of a log grid (2) or of a reverse log grid (3)."""
        low, high, ratio = _decimal(self.min_value), _decimal(self.max_value), _decimal(self.step)
        if self.sampling == "log":
            return min(low * ratio**index, high)
        return low + high - min(low * ratio ** (self._num_multiples - 1 - index), high)

    def _nearest_multiple(self, value: float) -> int:
        mirrored = self.sampling == "reverse_log"
        ascending = self.min_value + self.max_value - value if mirrored else value
        clipped = min(max(ascending, self.min_value), self.max_value)
        index = round(math.log(clipped / self.min_value) / math.log(self.step))
        index = min(index, self._num_multiples - 1)
        return self._num_multiples - 1 - index if mirrored else index

    @functools.cached_property
    def _table(self) -> list[Value] | None:
        count = self.num_values
        return None if count is None or count > MAX_TABLE_SIZE else [self.value_at(index) for index in range(count)]

    def decode(self, positions: Any) -> list[Value]:
        chosen = self.indices(positions).tolist()
        table = self._table
        return [self.value_at(index) for index in chosen] if table is None else [table[index] for index in chosen]

    def midpoints(self, count: int = NUM_MIDPOINTS) -> tuple[Value, ...]:
        """Ascending, distinct values at the middle of `count` equally likely parts: a grid for a continuum."""
        return tuple(dict.fromkeys(self.decode((np.arange(count) + 0.5) / count)))

    def union(self, other: HyperParameter) -> HyperParameter:
        if not isinstance(other, Numerical):
            return other
        whole = isinstance(self, Int) and isinstance(other, Int)
        low, high = min(self.min_value, other.min_value), max(self.max_value, other.max_value)
        sampling = other.sampling if low > 0 else "linear"
        wide: type[Numerical] = Int if whole else Float
        step = _common_step(self, other, sampling)
        both = wide(self.name, low, high, step, sampling, None, self.conditions)
        if both.contains(self.default):
            both._default = both.cast(self.default)
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
        default: value of the first trial, `min_value` if not given.
        conditions: see `HyperParameter`.

    Raises:
        UsageError: a bound, step or default that is not a whole number, bounds in the wrong order, an unknown
            sampling, a log scale that reaches 0, a step that does not lead upwards, a default that is not legal.

    Example:

    >>> list(Int("units", 16, 64, step=16).values)
    [16, 32, 48, 64]
    """

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
        super().__init__(name, min_value, max_value, step, sampling, default, conditions)
        if self.step is None and self.sampling == "linear":
            self.step = 1

    def _number(self, argument: str, value: Any, keep: bool = False) -> int:
        value = as_value(value)
        if isinstance(value, (int, float)) and not isinstance(value, bool) and value == _whole(value):
            return int(value)
        self._refuse(
            f"{argument}={value!r}; {argument} must be an int, Received: {value} of type {type(value)}",
            "a whole number",
            "Use Float for numbers in between.",
        )

    @property
    def num_values(self) -> int:
        if self.step is None:
            return self.max_value - self.min_value + 1
        if self.sampling == "linear":
            return (self.max_value - self.min_value) // self.step + 1
        return self._num_multiples

    @property
    def values(self) -> Sequence[Value]:
        if self.sampling == "linear":
            return range(self.min_value, self.max_value + 1, self.step or 1)
        return self.midpoints() if self.step is None else Grid(self)

    def value_at(self, index: int) -> int:
        if self.sampling == "linear" or self.step is None:
            return self.min_value + index * (self.step or 1)  # (1)
        return int(self._multiple(index))

    def nearest_index(self, value: Any) -> int:
        if self.sampling == "linear" or self.step is None:
            steps = round((value - self.min_value) / (self.step or 1))
            return min(max(steps, 0), self.num_values - 1)
        return self._nearest_multiple(value)

    def contains(self, value: Any) -> bool:
        value = as_value(value)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or value != _whole(value):
            return False
        if not self.min_value <= value <= self.max_value:
            return False
        if self.step is None or self.step == 1:
            return True
        return self.value_at(self.nearest_index(value)) == value

    def cast(self, value: Any) -> int:
        return int(value)

    def encode(self, values: Sequence[Any]) -> np.ndarray:
        numbers = np.clip(np.asarray(values, dtype=float), self.min_value, self.max_value)
        if self.sampling == "linear":
            return self.centres(np.clip(np.rint((numbers - self.min_value) / self.step), 0, self.num_values - 1))
        if self.step is None:
            return self.centres(np.rint(numbers - self.min_value))
        return super().encode(numbers.tolist())

    def centres(self, indices: Any) -> np.ndarray:
        if self.sampling == "linear" or self.step is not None:
            return super().centres(indices)
        numbers = np.asarray(indices, dtype=float) + self.min_value
        if self.sampling == "log":
            return scale.to_quantile(numbers + 0.5, self.min_value, self.max_value + 1, "log")  # (4)
        mirrored = self.min_value + self.max_value - numbers
        return 1.0 - scale.to_quantile(mirrored + 0.5, self.min_value, self.max_value + 1, "log")

    def indices(self, positions: Any) -> np.ndarray:
        if self.sampling == "linear" or self.step is not None:
            return super().indices(positions)
        points = np.asarray(positions, dtype=float)
        mirrored = self.sampling == "reverse_log"
        numbers = scale.to_number(1.0 - points if mirrored else points, self.min_value, self.max_value + 1, "log")
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
        default: value of the first trial, `min_value` if not given.
        conditions: see `HyperParameter`.

    Raises:
        UsageError: a bound, step or default that is not a finite number, bounds in the wrong order, an unknown
            sampling, a log scale that reaches 0, a step that does not lead upwards, a default that is not legal.

    Example:

    >>> list(Float("dropout", 0, 0.5, step=0.1).values)
    [0.0, 0.1, 0.2, 0.3, 0.4, 0.5]
    """

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
        super().__init__(name, min_value, max_value, step, sampling, default, conditions)

    def _number(self, argument: str, value: Any, keep: bool = False) -> float:
        value = as_value(value)
        if isinstance(value, str):
            with contextlib.suppress(ValueError):
                value = float(value)
        if isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value):
            return value if keep else float(value)
        self._refuse(f"{argument}={value!r}", f"a finite number for {argument}", "Type, for instance, 0.1.")

    @property
    def kind(self) -> Kind:
        return "continuous" if self.num_values is None else "ordered"

    @functools.cached_property
    def _num_steps(self) -> int:
        span = (_decimal(self.max_value) - _decimal(self.min_value)) / _decimal(self.step)
        return int(span + decimal.Decimal(TOLERANCE)) + 1

    @property
    def num_values(self) -> int | None:
        if self.min_value == self.max_value:
            return 1
        if self.step is None:
            return None
        return self._num_steps if self.sampling == "linear" else self._num_multiples

    @property
    def values(self) -> Sequence[Value]:
        return self.midpoints() if self.num_values is None else Grid(self)

    def value_at(self, index: int) -> float:
        if self.min_value == self.max_value:
            return self.min_value
        if self.sampling != "linear":
            return float(self._multiple(index))
        exact = _decimal(self.min_value) + index * _decimal(self.step)  # (1)
        gap = _decimal(self.max_value) - exact
        return self.max_value if gap < _decimal(self.step) * decimal.Decimal(TOLERANCE) else float(exact)

    def nearest_index(self, value: Any) -> int:
        if self.min_value == self.max_value:
            return 0
        if self.sampling != "linear":
            return self._nearest_multiple(value)
        steps = round((value - self.min_value) / self.step)
        return min(max(steps, 0), (self.num_values or 1) - 1)

    def contains(self, value: Any) -> bool:
        value = as_value(value)
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            return False
        if not self.min_value <= value <= self.max_value:
            return False
        if self.num_values is None:
            return True
        nearest = self.value_at(self.nearest_index(value))
        return math.isclose(nearest, value, rel_tol=TOLERANCE, abs_tol=TOLERANCE * float(self.step or 0))

    def cast(self, value: Any) -> float:
        return float(value) if self.num_values is None else self.value_at(self.nearest_index(value))

    def encode(self, values: Sequence[Any]) -> np.ndarray:
        if self.num_values is None:
            return scale.to_quantile(values, self.min_value, self.max_value, self.sampling)
        if self.sampling == "linear" and self.num_values > 1:
            numbers = np.asarray(values, dtype=float)
            return self.centres(np.clip(np.rint((numbers - self.min_value) / self.step), 0, self.num_values - 1))
        return super().encode(values)

    def decode(self, positions: Any) -> list[Value]:
        if self.num_values is None:
            return scale.to_number(positions, self.min_value, self.max_value, self.sampling).tolist()
        return super().decode(positions)

    def __repr__(self) -> str:
        return (
            f"Float(name: '{self.name}', min_value: '{self.min_value}', max_value: '{self.max_value}', "
            f"step: '{self.step}', sampling: '{self.sampling}', default: '{self.default}')"
        )


def _decimal(number: float) -> decimal.Decimal:
    """The number as it was typed: 0.1 and not 0.1000000000000000055."""
    return decimal.Decimal(repr(number))


def _whole(number: float) -> float:
    """The number without its fraction; a number that has none (NaN, inf) gives NaN, which equals nothing."""
    return int(number) if math.isfinite(number) else math.nan


def _common_step(first: Numerical, second: Numerical, sampling: str) -> Any:
    """A step whose grid from the lower of the two starts holds both grids; None when there is none."""
    if first.step is None or second.step is None or {first.sampling, second.sampling} != {sampling}:
        return None
    if sampling == "linear":
        offset = _decimal(first.min_value) - _decimal(second.min_value)
        exponent = min(int(part.as_tuple().exponent) for part in (_decimal(first.step), _decimal(second.step), offset))
        unit = decimal.Decimal(1).scaleb(exponent)
        step = math.gcd(*(int(part / unit) for part in (_decimal(first.step), _decimal(second.step), offset))) * unit
        return int(step) if isinstance(first, Int) and isinstance(second, Int) else float(step)
    if first.step == second.step and (second.contains(first.min_value) or first.contains(second.min_value)):
        return first.step
    return None
