"""Checks of what was passed to `search`, before the first model is trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from manyfit.core.errors import UsageError, explain
from manyfit.core.objective import Objective


def check_fit_arguments(args: Sequence[Any], kwargs: Mapping[str, Any], objective: Objective) -> None:
    """Checks the arguments of `search` that `model.fit` would refuse, or silently accept, later.

    Raises:
        UsageError: x and y of different length, no epochs, or a `val_` objective without validation data.
    """
    x = args[0] if args else kwargs.get("x")
    y = args[1] if len(args) > 1 else kwargs.get("y")
    _check_lengths("search(x, y)", x, y)
    validation_data = kwargs.get("validation_data")
    if isinstance(validation_data, list | tuple) and len(validation_data) >= 2:
        _check_lengths("search(validation_data=(x, y))", validation_data[0], validation_data[1])
    epochs = kwargs.get("epochs", 1)
    if isinstance(epochs, int) and epochs < 1:
        raise UsageError(explain("search(epochs=...)", epochs, "a whole number of at least 1", "Type epochs=10, say."))
    needs_validation = [name for name in objective.names if name.startswith("val_")]
    if needs_validation and validation_data is None and not kwargs.get("validation_split"):
        name = needs_validation[0]
        raise UsageError(
            explain(
                "search(...)",
                f'no validation data, with objective="{name}"',
                "validation_data= or validation_split=",
                f'Add validation_split=0.2, or type objective="{name.removeprefix("val_")}".',
            )
        )


def check_retrain(top: Any, x: Any, y: Any) -> None:
    """Checks the arguments of `retrain`.

    Raises:
        UsageError: `top` is below 1, y without x, or x and y of different length.
    """
    if isinstance(top, bool) or not hasattr(top, "__index__") or top < 1:
        raise UsageError(explain("retrain(top=...)", top, "a whole number of at least 1", "Type retrain(top=4), say."))
    if x is None and y is not None:
        raise UsageError(explain("retrain(x, y)", "y without x", "both or neither", "Add x=."))
    _check_lengths("retrain(x, y)", x, y)


def num_rows(data: Any) -> int | None:
    """Rows of an array, or of the first array in a list, tuple or dict of them; None where there is no telling."""
    if isinstance(data, Mapping):
        data = list(data.values())
    if isinstance(data, list | tuple) and data and hasattr(data[0], "shape"):
        data = data[0]
    shape = getattr(data, "shape", None)
    if shape is not None and len(shape) > 0:
        return None if shape[0] is None else int(shape[0])
    return len(data) if isinstance(data, list) else None


def _check_lengths(where: str, x: Any, y: Any) -> None:
    if x is None or y is None:
        return
    rows, labels = num_rows(x), num_rows(y)
    if rows is not None and labels is not None and rows != labels:
        raise UsageError(
            explain(where, f"x with {rows} rows and y with {labels}", "as many rows in x as in y", "Check how they were split.")
        )
