"""Checks of what was passed to `search`, before the first model is trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from manyfit.core.checks import whole_number
from manyfit.core.errors import UsageError, explain
from manyfit.core.objective import Objective


def check_fit_arguments(
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    objective: Objective,
    *,
    has_validation: bool = False,
    max_epochs: int | None = None,
) -> None:
    """Checks the arguments of `search` that `model.fit` would refuse, or silently accept, later.

    Args:
        args: positional arguments.
        kwargs: keyword arguments.
        objective: what is ranked.
        has_validation: whether validation rows come from elsewhere (folds).
        max_epochs: of a trial, where a scheduler says so; None: as the arguments say.

    Raises:
        UsageError: x and y of different length, no epochs, a `val_` objective without validation data, or one that no
            epoch measures (`validation_freq`).
    """
    _check_lengths("search(x, y)", *fit_data(args, kwargs))
    validation_data = kwargs.get("validation_data")
    if isinstance(validation_data, list | tuple) and len(validation_data) >= 2:
        _check_lengths("search(validation_data=(x, y))", validation_data[0], validation_data[1])
    epochs = kwargs.get("epochs", 1)
    if isinstance(epochs, int) and epochs < 1:
        raise UsageError(explain("search(epochs=...)", epochs, "a whole number of at least 1", "Type epochs=10, say."))
    needs_validation = [name for name in objective.names if name.startswith("val_")]
    if needs_validation and not has_validation and validation_data is None and not kwargs.get("validation_split"):
        name = needs_validation[0]
        raise UsageError(
            explain(
                "search(...)",
                f'no validation data, with objective="{name}"',
                "validation_data= or validation_split=",
                f'Add validation_split=0.2, or type objective="{name.removeprefix("val_")}".',
            )
        )
    if needs_validation:
        _check_frequency(
            kwargs.get("validation_freq", 1), epochs if max_epochs is None else max_epochs, needs_validation
        )


def _check_frequency(frequency: Any, epochs: Any, names: Sequence[str]) -> None:
    first = min(frequency, default=1) if isinstance(frequency, list | tuple | set) else frequency
    if not isinstance(first, int) or not isinstance(epochs, int) or first <= epochs:
        return
    raise UsageError(
        explain(
            "search(validation_freq=...)",
            f"validation_freq={frequency} with epochs={epochs}, so {names[0]} is never measured",
            "a first validation within the epochs of a trial",
            f"Type validation_freq=1, or epochs={first} or more.",
        )
    )


def check_retrain(top: Any, x: Any, y: Any) -> None:
    """Checks the arguments of `retrain`.

    Raises:
        UsageError: `top` is neither a number of at least 1 nor ids of trials, y without x, or x and y of different
            length.
    """
    ids = isinstance(top, list | tuple) and len(top) > 0 and all(isinstance(one, str) for one in top)
    if not ids:
        allowed = "a whole number of at least 1, or a list of trial ids"
        whole_number("retrain(top=...)", top, allowed=allowed, instead="Type retrain(top=4), say.")
    if x is None and y is not None:
        raise UsageError(explain("retrain(x, y)", "y without x", "both or neither", "Add x=."))
    _check_lengths("retrain(x, y)", x, y)


def validation_rows(args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[Any, Any, Any] | None:
    """The validation rows that `model.fit` would use: x, y and sample weights (or None).

    Returns:
        None where there are none, or where they are no arrays (a generator, a `tf.data` pipeline).
    """
    validation = kwargs.get("validation_data")
    if isinstance(validation, list | tuple) and len(validation) in (2, 3):
        return (*validation, None)[:3] if len(validation) == 2 else tuple(validation)  # type: ignore[return-value]
    fraction = kwargs.get("validation_split")
    x, y = fit_data(args, kwargs)
    rows = num_rows(x)
    if not fraction or y is None or rows is None:
        return None
    first = int(rows * (1.0 - fraction))  # Keras takes the last rows, and rounds like this

    def cut(data: Any) -> Any:
        if data is None:
            return None
        if isinstance(data, Mapping):
            return {name: cut(part) for name, part in data.items()}
        if isinstance(data, list | tuple) and data and hasattr(data[0], "shape"):
            return type(data)([cut(part) for part in data])
        return data[first:]

    return cut(x), cut(y), cut(kwargs.get("sample_weight"))


def fit_data(args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[Any, Any]:
    """x and y, however they were passed to `fit`."""
    x = args[0] if args else kwargs.get("x")
    y = args[1] if len(args) > 1 else kwargs.get("y")
    return x, y


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
            explain(
                where,
                f"x with {rows} rows and y with {labels}",
                "as many rows in x as in y",
                "Check how they were split.",
            )
        )
