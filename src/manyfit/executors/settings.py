"""Checks of the arguments of executors."""

from __future__ import annotations

from typing import Any

from manyfit.core.errors import UsageError, explain


def check_count(where: str, name: str, value: Any, *, optional: bool = False) -> Any:
    """A whole number of at least 1, or None where that is allowed.

    Raises:
        UsageError: something else.
    """
    if optional and value is None:
        return None
    if isinstance(value, bool) or not hasattr(value, "__index__") or value < 1:
        allowed = "a whole number of at least 1" + (", or None" if optional else "")
        raise UsageError(explain(f"{where}({name})", value, allowed, f"Type {name}=1, say."))
    return int(value)
