"""Checks of arrays that come in from outside."""

from __future__ import annotations

from typing import Any

import numpy as np

from manyfit.core.errors import UsageError, explain


def vector(where: str, values: Any, *, min_size: int = 1) -> np.ndarray:
    """Returns values as a float vector of finite numbers.

    Raises:
        UsageError: not one-dimensional, too short, or with NaN or infinite entries.
    """
    array = np.asarray(values, dtype=float)
    if array.ndim != 1:
        raise UsageError(explain(where, f"an array of shape {array.shape}", "one row of numbers", "Pass a flat list."))
    if array.size < min_size:
        allowed = f"{min_size} or more numbers"
        raise UsageError(explain(where, f"{array.size} numbers", allowed, "Run more executions first."))
    if not np.isfinite(array).all():
        allowed = "finite numbers"
        raise UsageError(explain(where, "NaN or infinity", allowed, "Leave out runs without a score."))
    return array


def score_table(where: str, scores: Any) -> np.ndarray:
    """Returns losses as a float table (contenders, seeds); NaN (not run) and +inf (diverged) are allowed.

    Raises:
        UsageError: not two-dimensional, no contender, or -inf in it.
    """
    table = np.asarray(scores, dtype=float)
    if table.ndim != 2 or table.shape[0] == 0:
        got, allowed = f"an array of shape {table.shape}", "a table (contenders, seeds)"
        raise UsageError(explain(where, got, allowed, "One row per contender, one column per seed."))
    if np.isneginf(table).any():
        allowed = "losses: finite, +inf (diverged) or NaN (not run)"
        raise UsageError(explain(where, "-inf", allowed, "Lower is better; flip the sign of a score to be maximised."))
    return table


def confidence_level(where: str, confidence: Any) -> float:
    """Returns a confidence strictly between 0 and 1.

    Raises:
        UsageError: anything else.
    """
    is_number = isinstance(confidence, (int, float, np.floating, np.integer)) and not isinstance(confidence, bool)
    if not is_number or not 0.0 < confidence < 1.0:
        allowed = "a number between 0 and 1"
        raise UsageError(explain(f"{where}: confidence", confidence, allowed, "Type 0.95 for 95 %."))
    return float(confidence)
