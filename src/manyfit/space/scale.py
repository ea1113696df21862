"""Scales and grids: the only file that knows what "log" and "reverse_log" mean.

**Scales** lead between a quantile in the unit interval and a number between two bounds. All functions take arrays or
single numbers.

Notation:
    p     quantile, in [0, 1]
    a, b  lower and upper bound, a <= b (0 < a for the two log scales)
    x     number, in [a, b]

    linear       x = a + p (b - a)                       (1)
    log          x = a (b / a)^p                         (2)
    reverse_log  x = a + b - a (b / a)^(1 - p)           (3)   the mirror image of log: dense at b

**Grids** of numbers are evenly spaced, or evenly spaced on a log scale.

Notation:
    a, b  lower and upper bound, both included when the steps reach them
    s     step: the distance of neighbours (linear), or their ratio (log, reverse_log)
    n, i  number of values, index of a value

    linear       x_i = a + i s                    (4)
    log          x_i = a s^i                      (5)
    reverse_log  x_i = a + b - a s^(n - 1 - i)    (6)   the mirror image of log

Computed with decimal arithmetic on the numbers as they were typed, so that ten steps of 0.1 are 1.0 and three
are 0.3: binary arithmetic loses the last value of many grids.
"""

from __future__ import annotations

import abc
import decimal
import math
from collections.abc import Sequence
from typing import overload

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]

SAMPLINGS = ("linear", "log", "reverse_log")


def to_number(quantiles: ArrayLike, low: float, high: float, sampling: str) -> Array:
    """The numbers at the given quantiles, never outside ``[low, high]``.

    Example:

    >>> float(to_number(0.5, 1.0, 100.0, "log"))
    10.0
    """
    p = np.asarray(quantiles, dtype=float)
    if sampling == "linear":
        x = low + p * (high - low)  # (1)
    elif sampling == "log":
        x = _log_number(p, low, high)  # (2)
    else:
        # The mirror image, term by term, so that both scales round alike.
        x = low + (high - _log_number(1.0 - p, low, high))  # (3)
    # The ends by name, because rounding may miss them by a hair from within.
    return np.where(p <= 0.0, low, np.where(p >= 1.0, high, np.clip(x, low, high)))


def to_quantile(numbers: ArrayLike, low: float, high: float, sampling: str) -> Array:
    """The quantiles of the given numbers, in ``[0, 1]``; 0.5 where the bounds are equal.

    Example:

    >>> float(to_quantile(10.0, 1.0, 100.0, "log"))
    0.5
    """
    x = np.clip(np.asarray(numbers, dtype=float), low, high)
    if low == high:
        return np.full_like(x, 0.5)
    if sampling == "linear":
        p = (x - low) / (high - low)  # (1)
    elif sampling == "log":
        p = _log_quantile(x, low, high)  # (2)
    else:
        p = 1.0 - _log_quantile(low + (high - x), low, high)  # (3)
    return np.where(x <= low, 0.0, np.where(x >= high, 1.0, np.clip(p, 0.0, 1.0)))


def _log_number(p: Array, low: float, high: float) -> Array:
    return low * np.power(high / low, p)


def _log_quantile(x: Array, low: float, high: float) -> Array:
    quantiles: Array = np.log(x / low) / np.log(high / low)
    return quantiles


#: How far from a grid a number may lie, in steps, and still count as on it.
TOLERANCE = 1e-8


class Grid(Sequence[float]):
    """Ascending numbers, made when they are asked for, so that a million of them cost nothing.

    Args:
        low: lower bound, the first value (with reverse_log: the lowest that the steps down from `high` reach).
        high: upper bound.
        step: distance or ratio of neighbours.
        as_type: `int` or `float`, the type of the values.
    """

    def __init__(self, low: float, high: float, step: float, as_type: type[int] | type[float]) -> None:
        self.low, self.high, self.step = low, high, step
        self.as_type = as_type
        self._low, self._high, self._step = as_typed(low), as_typed(high), as_typed(step)
        self._count = self._counted()

    @abc.abstractmethod
    def _counted(self) -> int:
        """The number of values."""

    @abc.abstractmethod
    def at(self, index: int) -> float:
        """The value with an index in ``[0, n)``."""

    @abc.abstractmethod
    def nearest(self, numbers: ArrayLike) -> NDArray[np.int64]:
        """The indices of the values nearest (by distance, or by ratio) to an array of numbers."""

    def on(self, number: float) -> bool:
        """Whether a number is one of the values, up to rounding errors."""
        if not self.low <= number <= self.high:
            return False
        here = self.at(int(self.nearest(number)))
        return math.isclose(here, number, rel_tol=TOLERANCE, abs_tol=TOLERANCE * float(self.step))

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, index: int) -> float: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[float]: ...
    def __getitem__(self, index: int | slice) -> float | Sequence[float]:
        chosen = range(self._count)[index]
        return tuple(self.at(each) for each in chosen) if isinstance(chosen, range) else self.at(chosen)

    def __repr__(self) -> str:
        return f"({', '.join(repr(value) for value in self[:10])}{', ...' if len(self) > 10 else ''})"


class LinearGrid(Grid):
    """Evenly spaced numbers (4).

    Example:

    >>> LinearGrid(0, 0.5, 0.1, float)
    (0.0, 0.1, 0.2, 0.3, 0.4, 0.5)
    """

    def _counted(self) -> int:
        return int((self._high - self._low) / self._step + decimal.Decimal(TOLERANCE)) + 1

    def at(self, index: int) -> float:
        # Multiplied, not added up: the error of the tenth step would be ten times that of the first.
        number = self._low + index * self._step  # (4)
        # Three typed thirds miss 1 by a hair, and the user means 1.
        is_end = abs(self._high - number) < self._step * decimal.Decimal(TOLERANCE)
        return self.as_type(self._high if is_end else number)

    def nearest(self, numbers: ArrayLike) -> NDArray[np.int64]:
        steps = np.rint((np.asarray(numbers, dtype=float) - self.low) / self.step)
        return np.clip(steps, 0, self._count - 1).astype(np.int64)


class RatioGrid(Grid):
    """Numbers evenly spaced on a log scale (5), or mirrored (6).

    Args:
        mirrored: whether the grid is dense at `high`.

    Example:

    >>> RatioGrid(1e-4, 1e-1, 10, float)
    (0.0001, 0.001, 0.01, 0.1)
    >>> RatioGrid(1, 1000, 10, int, mirrored=True)
    (1, 901, 991, 1000)
    """

    def __init__(
        self, low: float, high: float, step: float, as_type: type[int] | type[float], *, mirrored: bool = False
    ) -> None:
        self._mirrored = mirrored
        super().__init__(low, high, step, as_type)

    def _counted(self) -> int:
        return int(math.log(self.high / self.low) / math.log(self.step) + TOLERANCE) + 1

    def at(self, index: int) -> float:
        if self._mirrored:
            power = min(self._low * self._step ** (self._count - 1 - index), self._high)
            return self.as_type(self._low + self._high - power)  # (6)
        return self.as_type(min(self._low * self._step**index, self._high))  # (5)

    def extends_to(self, other: Grid) -> bool:
        """Whether a grid of this ratio over the bounds of both would hold the values of both."""
        if self._mirrored:  # hangs on both bounds, so that any change of one moves every value
            return (self.low, self.high) == (other.low, other.high)
        # The starts have to be a whole number of ratios apart, or one grid would fall between the values of the other.
        steps = math.log(other.low / self.low) / math.log(self.step)
        return abs(steps - round(steps)) < TOLERANCE

    def nearest(self, numbers: ArrayLike) -> NDArray[np.int64]:
        x = np.clip(np.asarray(numbers, dtype=float), self.low, self.high)
        power = self.low + self.high - x if self._mirrored else x
        steps = np.rint(np.log(power / self.low) / math.log(self.step))
        indices: NDArray[np.int64] = np.clip(steps, 0, self._count - 1).astype(np.int64)
        return self._count - 1 - indices if self._mirrored else indices


def as_typed(number: float) -> decimal.Decimal:
    """The number as its shortest text has it: 0.1 and not 0.1000000000000000055."""
    return decimal.Decimal(repr(number))


def common_step(first: Grid, second: Grid) -> float | None:
    """A step whose grid, from the lower of the two starts, holds both grids; None when there is none."""
    if type(first) is not type(second):
        return None
    if isinstance(first, RatioGrid):
        return first.step if first.step == second.step and first.extends_to(second) else None
    parts = [abs(part) for part in (first._step, second._step, first._low - second._low)]  # noqa: SLF001  # of this module's own class
    # Whole multiples of the finest decimal: the greatest common divisor is exact there, and meaningless for floats.
    unit = decimal.Decimal(1).scaleb(min(int(part.as_tuple().exponent) for part in parts))
    step = math.gcd(*(int(part / unit) for part in parts)) * unit
    return int(step) if first.as_type is int and second.as_type is int else float(step)
