"""Scales: between a quantile in the unit interval and a number between two bounds.

The only file that knows what "log" and "reverse_log" mean. All functions take arrays or single numbers.

Notation:
    p     quantile, in [0, 1]
    a, b  lower and upper bound, a <= b (0 < a for the two log scales)
    x     number, in [a, b]

    linear       x = a + p (b - a)                       (1)
    log          x = a (b / a)^p                         (2)
    reverse_log  x = a + b - a (b / a)^(1 - p)           (3)   the mirror image of log: dense at b
"""

from __future__ import annotations

from typing import Any

import numpy as np

SAMPLINGS = ("linear", "log", "reverse_log")


def to_number(quantiles: Any, low: float, high: float, sampling: str) -> Any:
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
        x = low + (high - _log_number(1.0 - p, low, high))  # (3)
    # The ends by name, because rounding may miss them by a hair from within.
    return np.where(p <= 0.0, low, np.where(p >= 1.0, high, np.clip(x, low, high)))


def to_quantile(numbers: Any, low: float, high: float, sampling: str) -> Any:
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


def _log_number(p: Any, low: float, high: float) -> Any:
    return low * np.power(high / low, p)


def _log_quantile(x: Any, low: float, high: float) -> Any:
    return np.log(x / low) / np.log(high / low)
