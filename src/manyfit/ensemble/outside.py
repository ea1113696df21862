"""Predictions that another program has made: a frame, or a CSV file, with a name for each row."""

from __future__ import annotations

import csv
import dataclasses
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from manyfit.core.errors import UsageError, explain
from manyfit.core.signatures import NAME, Allowed, checked_arguments
from manyfit.data.classes import Classes
from manyfit.data.kinds import is_nested
from manyfit.data.row_names import RowNames, repeated, text_of
from manyfit.ensemble.members import EnsembleMember

Source: TypeAlias = Any
"""A pandas frame or series, a mapping from names of columns to arrays, or the path of a CSV file."""

_TABLE = Allowed(
    "a frame, a series, a mapping from names of columns to arrays, or the path of a CSV file",
    # Whether a file is there is asked when it is read, in words of its own.
    lambda one: isinstance(one, str | os.PathLike) or hasattr(one, "iloc") or hasattr(one, "keys"),
    "oof.csv",
)
_ID_NAMES = ("row_id", "id")  # of columns, in any case; the first that is there


@dataclasses.dataclass(frozen=True, eq=False)
class _Table:
    """Columns of a table, and a name for each of its rows."""

    texts: np.ndarray  # (n,) names of rows
    columns: Mapping[str, np.ndarray]

    def places_of(self, names: np.ndarray) -> np.ndarray:
        """Where rows of these names lie; -1 for those that are not there."""
        order = np.argsort(self.texts)
        found = order[np.minimum(np.searchsorted(self.texts[order], names), len(order) - 1)]
        return np.where(self.texts[found] == names, found, -1)


@checked_arguments(rows=_TABLE, name=NAME, row_id=NAME)
@dataclasses.dataclass(frozen=True, eq=False)
class OutsidePredictions:
    """Predictions of another program, as a member of an ensemble.

    They must be of rows that its model was not trained on: out-of-fold predictions, or those of validation rows. Rows
    are found by their names: those that `search(row_id=...)` was given, the index of its frame, or places from 0 on.
    Rows that the search did not keep are left out, so a file may have more than it.

    Args:
        rows: a frame, a series, a mapping from names of columns to arrays, or the path of a CSV file: a column of names
            and a column of predictions, or one for each class.
        test: likewise, of the rows of `search(predict=...)`, for `submission`; None: there are none.
        name: of the member; None: the file's, or "outside".
        row_id: the column of names; None: "row_id" or "id", and the index of a frame that has neither.

    Example:

    >>> from manyfit.data.row_names import NamedBy
    >>> outside = OutsidePredictions({"id": ["b", "a"], "p": [0.9, 0.2]}, name="forest")
    >>> like = EnsembleMember("net", predictions=np.array([[0.1], [0.7]]))
    >>> outside.member(RowNames(np.array(["a", "b"]), NamedBy.ROW_ID), None, like, None).predictions.ravel()
    array([0.2, 0.9], dtype=float32)
    """

    rows: Source
    test: Source = None
    name: str | None = None
    row_id: str | None = None

    @classmethod
    def of_each(cls, given: Iterable[Any]) -> list[OutsidePredictions]:
        """What a user may pass beside tuners: such objects, or what they are made of.

        Raises:
            UsageError: neither a frame nor a path.
        """
        found: list[OutsidePredictions] = []
        for one in given:
            if isinstance(one, cls):
                found.append(one)
            elif isinstance(one, str | os.PathLike):
                found.append(cls(one))
            elif isinstance(one, Mapping) or hasattr(one, "iloc"):
                found.append(cls(one, name=f"outside {len(found) + 1}" if found else None))
            else:
                allowed = "tuners; frames, or paths of CSV files, with predictions and a column of names of rows"
                instead = 'Type others=["oof.csv"], say, with the columns row_id and prediction.'
                raise UsageError(explain("ensemble(others)", type(one).__name__, allowed, instead))
        return found

    @property
    def title(self) -> str:
        """The member's name."""
        if self.name is not None:
            return self.name
        return Path(self.rows).stem if isinstance(self.rows, str | os.PathLike) else "outside"

    def member(
        self, names: RowNames | None, asked: RowNames | None, like: EnsembleMember, classes: Classes | None
    ) -> EnsembleMember:
        """The member, on the rows of a search.

        Args:
            names: of the rows; None: the search knows none.
            asked: of the rows that are to be answered; None: the search was asked for none.
            like: a member of the search on these rows, which says how many columns there are.
            classes: of the search, where they have names: columns that are called so may be in any order.

        Raises:
            UsageError: no names of rows, or the same one twice; a row of the search that is not there; columns that are
                not those of the search's models; numbers that are not finite.
            UsageError: `test` beside a search that was asked for no rows.
        """
        where = self._where("rows")
        if names is None:
            got = "a search whose rows have no names: a pipeline, or one of an earlier version"
            instead = "Search again with arrays, and row_id= with a name for each row."
            raise UsageError(explain(where, got, "a search on arrays or frames", instead))
        predictions = self._predictions(self.rows, where, names.texts, like, classes)
        if self.test is None:
            return EnsembleMember(self.title, None, predictions, like.row_ids)
        where = self._where("test")
        if asked is None:
            got, instead = "predictions of rows that the search was not asked for", "Type search(..., predict=x_test)."
            raise UsageError(explain(where, got, "test= beside a search with predict=", instead))
        said = self._predictions(self.test, where, asked.texts, like, classes)
        return EnsembleMember(self.title, None, predictions, like.row_ids, test=lambda: said)

    def _where(self, part: str) -> str:
        return f"ensemble(others), {part} of {self.title!r}"

    def _predictions(
        self, source: Source, where: str, names: np.ndarray, like: EnsembleMember, classes: Classes | None
    ) -> np.ndarray:
        table = _table_of(source, where, self.row_id)
        places = table.places_of(names)
        if (missing := np.flatnonzero(places < 0)).size:
            found = len(names) - len(missing)
            got = (
                f"{found} of the {len(names)} rows of the search; none for the row {names[missing[0]]!r}, for instance"
            )
            instead = (
                "Predict these rows as well; names are those of search(row_id=...), of a frame's index, or places."
            )
            raise UsageError(explain(where, got, "a prediction for each row of the search", instead))
        return _columns_of(table, where, like, classes)[places]


def _columns_of(table: _Table, where: str, like: EnsembleMember, classes: Classes | None) -> np.ndarray:
    """(n, C) in single precision: the columns of predictions, those that are called like classes in their order."""
    if is_nested(like.predictions) or np.ndim(like.predictions) > 2:  # type: ignore[arg-type]  # no list of arrays here
        got, allowed = "a table beside models that answer with several outputs, pixels or steps", "one row of numbers"
        raise UsageError(explain(where, got, allowed, "Type kt.Ensemble.fit(predictions=[...], y=y)."))
    width = np.shape(like.predictions)[1] if np.ndim(like.predictions) == 2 else 1  # type: ignore[arg-type]
    order = list(table.columns)
    called = classes.names.tolist() if classes is not None else list(map(str, range(width)))
    if sorted(order) == sorted(called):
        order = called
    # One probability of two classes is that of the second; `alignment.stack_predictions` makes them alike.
    if not (len(order) == width or {len(order), width} == {1, 2}):
        got = f"{len(order)} columns of predictions ({', '.join(order[:8])})"
        allowed = f"{width}, as the models of the search answer"
        raise UsageError(explain(where, got, allowed, "Leave out other columns than names of rows and predictions."))
    return np.stack([_numbers(where, name, table.columns[name]) for name in order], axis=1)


def _numbers(where: str, name: str, column: np.ndarray) -> np.ndarray:
    try:
        array = np.asarray(column).astype(np.float32)
    except (ValueError, TypeError) as error:
        got, allowed = f"the column {name!r}, which holds no numbers ({error})", "numbers"
        raise UsageError(explain(where, got, allowed, "Leave out columns that are no predictions.")) from error
    if (bad := np.flatnonzero(~np.isfinite(array))).size:
        got = f"{array[bad[0]]} in line {bad[0]} of the column {name!r}, and {len(bad)} such numbers in all"
        raise UsageError(explain(where, got, "finite numbers", "Look at the model that predicted these rows."))
    return array


# Reading ----------------------------------------------------------------------------------------------------------


def _table_of(source: Source, where: str, row_id: str | None) -> _Table:
    index = None
    if isinstance(source, str | os.PathLike):
        columns = _read_csv(Path(source), where)
    elif hasattr(source, "iloc"):
        frame = source.to_frame("prediction") if hasattr(source, "to_frame") and np.ndim(source) == 1 else source
        columns, index = {str(name): frame[name].to_numpy() for name in frame.columns}, frame.index
    else:
        columns = {str(name): np.asarray(column) for name, column in source.items()}
    name = _id_column(list(columns), where, row_id, has_index=index is not None)
    given = index if name is None else columns.pop(name)
    texts = np.array([text_of(one) for one in np.asarray(given).tolist()], dtype=str)
    if not columns or not len(texts):
        raise UsageError(explain(where, "no predictions", "a row and a column of them, or more", "Look at the file."))
    if (missing := np.flatnonzero(texts == "")).size:
        got = f"no name in line {missing[0]}, and {len(missing)} such lines in all"
        raise UsageError(explain(where, got, "a name for each row", "Leave these rows out."))
    if (twice := repeated(texts)) is not None:
        instead = "Leave one of them out, or average what several models said of a row."
        raise UsageError(explain(where, f"the row {twice!r} more than once", "each row once", instead))
    return _Table(texts, columns)


def _id_column(columns: Sequence[str], where: str, row_id: str | None, *, has_index: bool) -> str | None:
    """The column of names; None for the index."""
    wanted = _ID_NAMES if row_id is None else (row_id,)
    for one in wanted:
        for name in columns:
            if name == one or (row_id is None and name.lower() == one):
                return name
    if has_index and row_id is None:
        return None
    got = f"the columns {', '.join(columns[:8])}, and none of them is {' or '.join(map(repr, wanted))}"
    instead = 'Type kt.OutsidePredictions(file, row_id="name of that column").'
    raise UsageError(explain(where, got, "a column with a name for each row", instead))


def _read_csv(path: Path, where: str) -> dict[str, np.ndarray]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            lines = list(_lines(file, where))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        got = f'"{path}", which cannot be read ({error})'
        raise UsageError(explain(where, got, "a CSV file with a header", "Check the path.")) from error
    header, *rows = lines or [[]]
    return {name: np.array([row[place] for row in rows], dtype=object) for place, name in enumerate(header)}


def _lines(file: Iterator[str], where: str) -> Iterator[list[str]]:
    header: list[str] | None = None
    for number, line in enumerate(csv.reader(file), start=1):
        if not line:
            continue
        if header is not None and len(line) != len(header):
            got = f"{len(line)} values in line {number} of the file, and {len(header)} columns"
            raise UsageError(explain(where, got, "as many values as columns in each line", "Look at that line."))
        header = header or line
        yield line
