"""Tables as they come (numbers, texts, dates, gaps) as what a brand's library takes.

One step in front of each estimator of `kt.brands`, with two ways to say "category": a column of pandas's type for
categories, which boosting libraries read by themselves, or a column of 0 and 1 for each. What is in a table is found
out when it is fitted, so a space needs not be told; a table of numbers without gaps goes through as it is.
"""

from __future__ import annotations

import numbers
from collections.abc import Iterator
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, TransformerMixin

from manyfit.core.errors import UsageError, explain

_MISSING = "(missing or new)"
_MAX_NATIVE = 250  # scikit-learn's histograms have 255 bins; a column with more texts is split as numbers
_MAX_COLUMNS = 30  # rarer texts share the column of those that are missing


class TableEncoder(TransformerMixin, BaseEstimator):  # type: ignore[misc]  # scikit-learn has no types
    """Makes numbers, or numbers and categories, of a table.

    Numbers and booleans stay; dates become days; texts and categories become categories, those that are missing or
    that the training rows did not have one of their own.

    Args:
        native: whether categories become columns of pandas's type (where the table is a pandas frame); otherwise a
            column of 0 and 1 for each.
        fill: whether gaps among numbers are filled with the median, for estimators that take none.

    Example:

    >>> encoder = TableEncoder(fill=True).fit(np.array([["a", 1.0], ["b", np.nan], ["a", 3.0]], dtype=object))
    >>> encoder.transform(np.array([["b", None]], dtype=object)).tolist()
    [[0.0, 1.0, 0.0, 2.0]]
    """

    def __init__(self, native: bool = False, fill: bool = False) -> None:
        self.native = native
        self.fill = fill

    def fit(self, x: Any, y: Any = None) -> TableEncoder:
        """Learns which columns hold texts, which texts, and the medians of the others."""
        del y
        self.n_features_in_ = x.shape[1] if hasattr(x, "shape") else len(x[0])
        self.is_table_ = _is_table(x)
        self.levels_: list[list[str] | None] = []
        self.medians_: list[float] = []
        if not self.is_table_:
            return self
        most = _MAX_NATIVE if self.native else _MAX_COLUMNS
        for name, column in _columns(x):
            values = _numbers(column)
            if values is not None:
                known = values[np.isfinite(values)]
                self.levels_.append(None)
                self.medians_.append(float(np.median(known)) if len(known) else 0.0)
                continue
            texts, counts = np.unique(_texts(name, column), return_counts=True)
            common = texts[np.argsort(-counts, kind="stable")][:most]
            self.levels_.append(sorted(text for text in common.tolist() if text != _MISSING))
            self.medians_.append(0.0)
        return self

    def transform(self, x: Any) -> Any:
        """The table for the next step: an array of numbers, or a frame with categories.

        Raises:
            UsageError: other columns than those it was fitted to.
        """
        if not self.is_table_:
            return x
        columns = list(_columns(x))
        if len(columns) != len(self.levels_):
            got, allowed = f"a table with {len(columns)} columns", f"{len(self.levels_)} columns, as in training"
            raise UsageError(explain("predict(x)", got, allowed, "Pass the columns that the search had."))
        if self.native and hasattr(x, "columns") and any(levels is not None for levels in self.levels_):
            return self._frame(x, columns)
        parts = []
        for (name, column), levels, median in zip(columns, self.levels_, self.medians_, strict=True):
            if levels is None:
                parts.append(self._filled(column, median)[:, None])
            elif self.native:  # no pandas: in the order of the alphabet, as numbers
                parts.append(_places(levels, _texts(name, column))[:, None])
            else:
                parts.append(np.eye(len(levels) + 1)[_places(levels, _texts(name, column))])
        return np.hstack(parts).astype(float)

    def _filled(self, column: Any, median: float) -> np.ndarray:
        values = _numbers(column)
        if values is None:  # texts in a column of numbers
            values = np.full(len(column), np.nan)
        return np.where(np.isnan(values), median, values) if self.fill else values

    def _frame(self, x: Any, columns: list[tuple[str, Any]]) -> Any:
        """With names of our own: libraries refuse brackets and commas in them."""
        import pandas as pd  # there, since x is one of its frames

        made: dict[str, Any] = {}
        for place, ((name, column), levels) in enumerate(zip(columns, self.levels_, strict=True)):
            if levels is None:
                made[f"column{place}"] = self._filled(column, self.medians_[place])
                continue
            codes = _places(levels, _texts(name, column))
            few = len(levels) < _MAX_NATIVE
            kind = [*levels, _MISSING]
            made[f"column{place}"] = pd.Categorical.from_codes(codes, kind) if few else codes.astype(float)
        return pd.DataFrame(made, index=x.index)


def _is_table(x: Any) -> bool:
    """Whether it has columns to be looked at one by one: a frame, or an array of objects or of numbers with gaps."""
    if hasattr(x, "columns"):
        return True
    if hasattr(x, "tocsr"):
        return False
    array = np.asarray(x)
    return array.ndim == 2 and (array.dtype.kind not in "biuf" or bool(np.isnan(array.astype(float)).any()))


def _columns(x: Any) -> Iterator[tuple[str, Any]]:
    """Name and values of each column."""
    if hasattr(x, "columns"):
        yield from ((str(name), x.iloc[:, place]) for place, name in enumerate(x.columns))
    else:
        array = np.asarray(x)
        yield from ((str(place), array[:, place]) for place in range(array.shape[1]))


def _numbers(column: Any) -> np.ndarray | None:
    """(n,) numbers with NaN for gaps; days of dates; None where the column holds texts or categories."""
    kind = column.dtype.kind
    if kind in "biuf":
        frames = hasattr(column, "to_numpy")
        return np.asarray(column.to_numpy(dtype=float, na_value=np.nan) if frames else column.astype(float))
    if kind in "mM":
        unit = "timedelta64[s]" if kind == "m" else "datetime64[s]"
        seconds = np.asarray(column.to_numpy(dtype=unit) if hasattr(column, "to_numpy") else column.astype(unit))
        return np.where(np.isnat(seconds), np.nan, seconds.astype("int64") / 86400.0)
    values = np.asarray(column, dtype=object)
    known = [one for one in values.tolist() if not _is_missing(one)]
    if kind == "O" and known and all(isinstance(one, numbers.Real) for one in known):
        return np.array([np.nan if _is_missing(one) else float(one) for one in values.tolist()])
    return None


def _is_missing(value: object) -> bool:
    # None, NaN and NaT (unlike themselves), pandas.NA (which refuses to say).
    return value is None or type(value).__name__ == "NAType" or value != value


def _texts(name: str, column: Any) -> np.ndarray:
    """(n,) texts.

    Raises:
        UsageError: the column holds something else: lists, say.
    """
    values = np.asarray(column, dtype=object).tolist()
    odd = next((one for one in values if isinstance(one, list | tuple | dict | set | np.ndarray)), None)
    if odd is not None:
        raise UsageError(
            explain(
                f"x, column {name!r}",
                f"values of type {type(odd).__name__}",
                "numbers, texts, categories, booleans, dates, and gaps",
                "Make a column of each part, or drop it: x.drop(columns=[...]).",
            )
        )
    return np.array([_MISSING if _is_missing(one) else str(one) for one in values], dtype=object)


def _places(levels: list[str], texts: np.ndarray) -> np.ndarray:
    """(n,) places of texts among levels; the place behind the last one for texts that are none of them."""
    known = {level: place for place, level in enumerate(levels)}
    return np.array([known.get(text, len(levels)) for text in texts.tolist()], dtype=int)


def gaps_or_texts(x: Any) -> str | None:
    """What a network cannot take of a table, in words: a column of texts, or of numbers with gaps; None: nothing."""
    if not _is_table(x):
        return None
    for name, column in _columns(x):
        values = _numbers(column)
        if values is None:
            return f"texts or categories in column {name!r}"
        if column.dtype.kind not in "biuf" or type(column.dtype).__module__.startswith("pandas"):
            return f"{column.dtype} in column {name!r}"
        if np.isnan(values).any():
            return f"{int(np.isnan(values).sum())} missing values in column {name!r}"
    return None
