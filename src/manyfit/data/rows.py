"""Rows of what Keras takes as data: counted, taken out, and split into those that train and those that validate."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, TypeAlias, TypeVar

import numpy as np

from manyfit.core.errors import UsageError, explain

FitData: TypeAlias = Any
"""What Keras takes as x, as y or as sample weights: an array or a DataFrame, lists, tuples and dicts of them, or
something that is read in passes (a generator, a `tf.data` pipeline, a grain loader). There is no type for "whatever
Keras's adapters know": they ask it what it can, and so do the functions of this file."""

_Data = TypeVar("_Data")


@dataclasses.dataclass(frozen=True, eq=False)
class Split:
    """Row numbers to train on and row numbers to validate on.

    One whose two parts share a row cannot be made: that no fold leaks into its own training is a matter of
    construction, not of care.

    Raises:
        UsageError: a part is empty, or a row is in both.
    """

    training: np.ndarray  # integers, ascending
    validation: np.ndarray

    def __post_init__(self) -> None:
        where = "CrossValidation"  # what the user typed; splits come from nowhere else
        for name, rows in (("training", self.training), ("validation", self.validation)):
            if len(rows) == 0:
                raise UsageError(explain(where, f"an empty {name} part", "at least one row", "Use fewer folds."))
        # Checked at each construction, though it costs a sort: a leak makes every score of a search too good, silently.
        shared = np.intersect1d(self.training, self.validation)
        if len(shared):
            got = f"{len(shared)} rows in both parts, for instance row {shared[0]}"
            raise UsageError(
                explain(where, got, "parts that share no row", "Pass a splitter whose test rows are not in training.")
            )


def num_rows(data: FitData) -> int | None:
    """Rows of an array, or of the first array in a list, tuple or dict of them; None where there is no telling."""
    if isinstance(data, Mapping):
        data = list(data.values())
    # A list of arrays is several inputs, a list of numbers is data: the first element tells.
    if isinstance(data, list | tuple) and data and hasattr(data[0], "shape"):
        data = data[0]
    shape = getattr(data, "shape", None)
    if shape is not None and len(shape) > 0:
        return None if shape[0] is None else int(shape[0])
    return len(data) if isinstance(data, list) else None


def take_rows(data: _Data, rows: np.ndarray) -> _Data:
    """Rows of an array, or of each array in a list, tuple or dict of them."""
    given: FitData = data
    if isinstance(given, Mapping):
        return {name: take_rows(part, rows) for name, part in given.items()}  # type: ignore[return-value]
    if isinstance(given, list | tuple) and given and hasattr(given[0], "shape"):
        return type(given)([take_rows(part, rows) for part in given])  # type: ignore[return-value]
    if hasattr(given, "iloc"):  # a DataFrame, whose [] would take columns
        return given.iloc[rows]
    return given[rows] if hasattr(given, "shape") else np.asarray(given)[rows]
