"""Rows that are recognised again: fingerprints of whole data sets, identities of single rows."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping

import numpy as np

from manyfit.core.errors import UsageError, explain
from manyfit.data.call import Call
from manyfit.data.kinds import Ability, FitData, is_nested, kind_of, leaves
from manyfit.data.rows import Rows

_MAX_READ_BYTES = 1 << 26  # of a data set, for its fingerprint


def fingerprint(*data: object) -> str:
    """A short text that tells data apart: equal arrays give equal texts. What is no array counts by its type alone.

    Example:

    >>> fingerprint(np.zeros(3)) == fingerprint(np.zeros(3)), fingerprint(np.zeros(3)) == fingerprint(np.ones(3))
    (True, False)
    """
    digest = hashlib.blake2b(digest_size=8)
    for part in data:
        _feed(digest, part)
    return digest.hexdigest()


def _feed(digest: hashlib.blake2b, part: FitData) -> None:
    if isinstance(part, Mapping):
        # By name: two dictionaries that are equal may have been filled in another order.
        for name in sorted(part, key=str):
            digest.update(str(name).encode())
            _feed(digest, part[name])
    elif is_nested(part):
        for one in part:
            _feed(digest, one)
    elif part is None or isinstance(part, bool | int | float | str):
        digest.update(repr(part).encode())
    elif Ability.COUNTED in (kind := kind_of(part)).can:
        # With type and shape, since zeros have the same bytes in every one.
        array = np.ascontiguousarray(kind.as_array(part))
        digest.update(f"{array.dtype}{array.shape}".encode())
        digest.update(repr(array.tolist()).encode() if array.dtype.hasobject else array.tobytes())
    else:
        digest.update(type(part).__name__.encode())


def fingerprints_of(call: Call) -> dict[str, str]:
    """Fingerprints of the rows that a call of `fit` trains and validates on, for no more than tenths of a second.

    Args:
        call: of `fit`, or of anything else that may have x, y and validation data among its arguments.

    Returns:
        "training" and "validation" -> a text; without those that cannot be told apart unread (pipelines), or are none.
    """
    try:
        parts = {"training": call.training_rows(), "validation": call.validation_rows()}
    except UsageError:  # arguments of the user's own function, which mean something else
        return {}
    prints = {name: _fingerprint_of_rows(rows) for name, rows in parts.items() if rows is not None}
    return {name: text for name, text in prints.items() if text is not None}


def _fingerprint_of_rows(rows: Rows) -> str | None:
    if rows.num_rows is None or not rows.can(Ability.TAKEN):
        return None
    one = rows.take(slice(0, 1))
    row_bytes = sum(kind_of(leaf).as_array(leaf).nbytes for part in one.parts for leaf in leaves(part))
    # Of large data sets evenly spaced rows: who changes data changes more than one row in so many.
    step = -(-rows.num_rows * row_bytes // _MAX_READ_BYTES)
    some = rows.take(slice(None, None, step)) if step > 1 else rows
    return fingerprint(rows.num_rows, *some.parts)


def row_identities(*columns: FitData) -> np.ndarray:
    """(n,) uint64 identities of rows, from their content: equal rows have equal identities, on every machine.

    Numbers are compared in single precision, so it does not matter in which type they are given.

    Args:
        *columns: arrays with n rows each, for instance x and y; dictionaries and lists of arrays are fine.

    Raises:
        UsageError: the arrays differ in the number of rows.

    Example:

    >>> a = row_identities(np.array([[1.0, 2.0], [3.0, 4.0]]), np.array([0, 1]))
    >>> b = row_identities(np.array([[3.0, 4.0], [1.0, 2.0]]), np.array([1, 0]))
    >>> bool(a[0] == b[1] and a[1] == b[0] and a[0] != a[1])
    True
    """
    arrays = [_comparable(array) for column in columns for array in _in_order(column)]
    lengths = {len(array) for array in arrays}
    if len(lengths) != 1:
        raise UsageError(
            explain(
                "row_identities",
                f"arrays with {', '.join(map(str, sorted(lengths)))} rows",
                "arrays with the same number of rows",
                "Give the x and y of one data set.",
            )
        )
    identities = np.empty(lengths.pop(), dtype=np.uint64)
    # Row by row, though slow in Python: a digest has to be the same on every machine, which `hash` is not.
    for row in range(len(identities)):
        digest = hashlib.blake2b(digest_size=8)
        for array in arrays:
            digest.update(array[row].tobytes() if array.dtype.kind != "O" else repr(array[row]).encode())
        identities[row] = int.from_bytes(digest.digest(), "little")
    return identities


def _comparable(column: FitData) -> np.ndarray:
    array = kind_of(column).as_array(column)
    if array.dtype.kind in "biuf":
        array = array.astype(np.float32) + np.float32(0)  # -0.0 becomes 0.0
    return np.ascontiguousarray(array.reshape(-1, 1) if array.ndim == 1 else array)


def _in_order(column: FitData) -> Iterator[FitData]:
    """The arrays of a column; of dictionaries by name, since two that are equal may have been filled differently."""
    if isinstance(column, Mapping):
        for name in sorted(column, key=str):
            yield from _in_order(column[name])
    elif is_nested(column):
        for part in column:
            yield from _in_order(part)
    elif column is not None:
        yield column
