"""Results as files of rows: CSV for everybody, Parquet for what is read again. The only file that imports pyarrow."""

from __future__ import annotations

import csv
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

from manyfit.core.checks import check_extra
from manyfit.core.errors import UsageError, explain
from manyfit.core.files import replaced


def write_csv(rows: Sequence[Mapping[str, Any]], output: Path | None) -> None:
    """Writes rows as a CSV file.

    Args:
        rows: name of a column -> value; a row may lack some.
        output: the file; None: standard output.

    Raises:
        UsageError: it cannot be written.
    """
    if output is None:
        _write_csv(rows, sys.stdout)
        return
    try:
        with replaced(output) as partial, partial.open("w", newline="", encoding="utf-8") as file:
            _write_csv(rows, file)
    except OSError as error:
        raise _unwritable(output, error) from None


def _write_csv(rows: Sequence[Mapping[str, Any]], file: TextIO) -> None:
    writer = csv.writer(file)
    columns = columns_of(rows)
    writer.writerow(map(_as_text, columns))
    writer.writerows([_as_text(row.get(name)) for name in columns] for row in rows)


def _as_text(value: Any) -> Any:
    """A cell that spreadsheets take for what it is, and for no formula: names and values may be a stranger's.

    Example:

    >>> _as_text("=1+1"), _as_text("-1.5"), _as_text("adam")
    ("'=1+1", '-1.5', 'adam')
    """
    if not isinstance(value, str) or not value.startswith(("=", "+", "-", "@", "\t", "\r")):
        return value
    try:
        float(value)
    except ValueError:
        return f"'{value}"
    return value


def columns_of(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The columns of rows, in the order in which they first come."""
    return list(dict.fromkeys(name for row in rows for name in row))


def write_parquet(rows: Sequence[Mapping[str, Any]], output: Path) -> None:
    """Writes rows as a Parquet file. A column whose values are of several types is one of texts.

    Args:
        rows: name of a column -> value; a row may lack some.
        output: the file.

    Raises:
        ImportError: `pip install manyfit[parquet]`.
        UsageError: it cannot be written.
    """
    check_extra("pyarrow", "parquet")
    import pyarrow
    from pyarrow import parquet

    columns = {name: _of_one_type([row.get(name) for row in rows]) for name in columns_of(rows)}
    try:
        with replaced(output) as partial:
            parquet.write_table(pyarrow.table(columns), partial)
    except OSError as error:
        raise _unwritable(output, error) from None


def _of_one_type(values: Sequence[Any]) -> list[Any]:
    """The values, as texts where they have several types; whole numbers among others are such numbers.

    Example:

    >>> _of_one_type([1, 2.5, None]), _of_one_type([True, 1]), _of_one_type(["a", 1])
    ([1.0, 2.5, None], ['True', '1'], ['a', '1'])
    """
    # Arrow has one type per column; a choice of "auto" or 32 is two.
    types = {type(value) for value in values if value is not None}
    if len(types) <= 1:
        return list(values)
    if types == {int, float}:
        return [None if value is None else float(value) for value in values]
    return [None if value is None else str(value) for value in values]


def _unwritable(output: Path, error: OSError) -> UsageError:
    got = f"{output}, which cannot be written ({error.strerror or error})"
    return UsageError(explain("manyfit export -o", got, "a file in a writable folder", "Type another."))
