"""Rows that are recognised again: fingerprints of whole data sets, identities of single rows."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from manyfit.core.errors import UsageError, explain
from manyfit.data.call import Call
from manyfit.data.kinds import Ability, FitData, is_nested, kind_of, leaves
from manyfit.data.rows import Rows

_MAX_READ_BYTES = 1 << 26  # of a data set, for its fingerprint
_MOST_ROWS, _MOST_NUMBERS = 200_000, 1 << 24  # that are looked at for repeated rows
_MOST_COLUMNS = 32  # by which rows are told apart at first
_BLOCK = 4096  # rows whose numbers are mixed at once


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


# Rows that are there twice ------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class RepeatedRows:
    """How many rows of validation are among those that are trained on; of folds, how many rows are there twice.

    Attributes:
        num_rows: that were looked at: those of validation, or all where there are folds.
        num_repeated: of these, those whose features another row has: one that is trained on, or an earlier one.
        num_same_target: of these, those whose target it has, too.
        num_training: rows that are trained on, and were looked at; evenly spaced ones of a large data set.
        num_distinct: of these, those that differ in their features.
    """

    num_rows: int
    num_repeated: int
    num_same_target: int
    num_training: int
    num_distinct: int

    @classmethod
    def of_call(cls, call: Call) -> dict[str, Any] | None:
        """What `repeated_rows` finds in a call of `fit`, as the store keeps it; None where nothing can be said."""
        try:
            training, validation = call.training_rows(), call.validation_rows()
            found = repeated_rows(training, validation)
        except Exception:  # arguments of the user's own function may mean anything; the search says what is wrong
            return None
        return None if found is None else {**dataclasses.asdict(found), "is_held_out": validation is not None}


def repeated_rows(training: Rows, validation: Rows | None) -> RepeatedRows | None:
    """Looks for rows of validation among those that are trained on, for no more than tenths of a second.

    Rows of many columns are compared by those 32 that vary most, and then in full where they agree.

    Args:
        training: rows that are trained on.
        validation: rows that validate; None: folds of the training rows do.

    Returns:
        What was found; None where rows cannot be compared: pipelines, texts, other shapes.

    Example:

    >>> x = np.arange(12.0).reshape(6, 2)
    >>> found = repeated_rows(Rows(x[:4], [0, 1, 0, 1]), Rows(x[3:], [1, 1, 1]))
    >>> found.num_repeated, found.num_same_target, found.num_rows
    (1, 1, 3)
    """
    both = [training] if validation is None else [training, validation]
    if any(rows.num_rows is None or not rows.can(Ability.TAKEN) or rows.x is None for rows in both):
        return None
    some = [
        rows.take(slice(None, None, step)) if (step := -(-(rows.num_rows or 0) // _MOST_ROWS)) > 1 else rows
        for rows in both
    ]
    tables = [_tables(rows.x) for rows in some]
    if any(one is None for one in tables) or len({tuple(each.shape[1] for each in one or ()) for one in tables}) > 1:
        return None
    features, *others = [one for one in tables if one is not None]
    held = others[0] if others else features
    columns = [_telling(table) for table in held]
    trained, checked = _mixed(features, columns), _mixed(held, columns)
    found = np.isin(checked, trained) if others else _is_earlier(trained)
    if any(len(chosen) < table.shape[1] for chosen, table in zip(columns, held, strict=True)) and found.any():
        found, trained, checked = _in_full(features, held, found, trained, checked, is_fold=not others)
    targets = [None if rows.y is None else _tables(rows.y) for rows in some]
    same = 0
    if found.any() and all(one is not None for one in targets):
        told = [_mixed(one or [], [np.arange(table.shape[1]) for table in one or []]) for one in targets]
        with_target = [trained + np.uint64(3) * told[0], checked + np.uint64(3) * told[-1]]
        matched = np.isin(with_target[1], with_target[0]) if others else _is_earlier(with_target[0])
        same = int((found & matched).sum())
    return RepeatedRows(len(checked), int(found.sum()), same, len(trained), len(np.unique(trained)))


def _tables(part: FitData) -> list[np.ndarray] | None:
    """The arrays of a part as (n, columns); None where one is none of numbers."""
    arrays = [kind_of(leaf).as_array(leaf) for leaf in _in_order(part)]
    if any(array.dtype.kind not in "biuf" or not array.size for array in arrays):
        return None
    return [array.reshape(len(array), -1) for array in arrays]


def _telling(table: np.ndarray) -> np.ndarray:
    """The columns that vary most, of many: borders of pictures are the same in all of them."""
    if table.shape[1] <= _MOST_COLUMNS:
        return np.arange(table.shape[1])
    some = table[:: max(1, len(table) // 512)].astype(np.float32)
    with np.errstate(invalid="ignore", over="ignore"):
        spread = np.nan_to_num(some.std(axis=0))
    return np.sort(np.argsort(-spread, kind="stable")[:_MOST_COLUMNS])


def _mixed(tables: list[np.ndarray], columns: list[np.ndarray]) -> np.ndarray:
    """(n,) uint64, of rows by some columns: equal rows have equal numbers, others hardly ever."""
    mixed = np.zeros(len(tables[0]), np.uint64)
    place = 1
    for table, chosen in zip(tables, columns, strict=True):
        salts = (np.arange(place, place + len(chosen), dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15))[None]
        place += len(chosen)
        for start in range(0, len(table), _BLOCK):
            block = _comparable(table[start : start + _BLOCK][:, chosen]).view(np.uint32).astype(np.uint64) + salts
            # The finalizer of SplitMix64 (Steele, Lea and Flood 2014): sums of what it makes of cells do not collide.
            for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
                block = (block ^ (block >> np.uint64(shift))) * np.uint64(factor)
            mixed[start : start + _BLOCK] += (block ^ (block >> np.uint64(31))).sum(axis=1, dtype=np.uint64)
    return mixed


def _is_earlier(mixed: np.ndarray) -> np.ndarray:
    """(n,) of each row, whether an equal one comes before it."""
    found = np.ones(len(mixed), bool)
    found[np.unique(mixed, return_index=True)[1]] = False
    return found


def _in_full(
    features: list[np.ndarray],
    held: list[np.ndarray],
    found: np.ndarray,
    trained: np.ndarray,
    checked: np.ndarray,
    *,
    is_fold: bool,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Looks at all columns of the rows that agree so far, as many of them as there is time for."""
    width = sum(table.shape[1] for table in held)
    most = max(1, _MOST_NUMBERS // width)
    alike = np.flatnonzero(np.isin(trained, checked[found]))[:most]
    suspects = alike if is_fold else np.flatnonzero(found)[:most]
    every = [np.arange(table.shape[1]) for table in held]
    trained, checked = trained.copy(), checked if is_fold else checked.copy()
    trained[alike] = _mixed([table[alike] for table in features], every)
    if is_fold:
        return _is_earlier(trained), trained, trained
    checked[suspects] = _mixed([table[suspects] for table in held], every)
    return np.isin(checked, trained), trained, checked
