"""Predictions that a search keeps: half precision, compressed, capped in size, with row identities.

An ensemble of the models of a search can then be fitted without loading or training any of them. Probabilities are
kept as logarithms: half precision then costs a two-thousandth of the log loss at most, while probabilities themselves
would lose everything below 6e-8 and half of what lies next to one.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import zipfile
from typing import Any

import numpy as np

from manyfit.core.errors import UsageError, explain
from manyfit.ensemble.members import as_columns
from manyfit.ensemble.problem import EPSILON

MAX_BYTES = 16 * 2**20  # per trial, before compression


@dataclasses.dataclass(frozen=True, eq=False)
class Kept:
    """Predictions of some rows, and which rows they are."""

    predictions: np.ndarray  # (n, C) float32
    row_ids: np.ndarray  # (n,) uint64
    rows: np.ndarray  # (n,) their places in the data set


def row_identities(*columns: Any) -> np.ndarray:
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
    arrays = [_comparable(array) for column in columns for array in _flat(column)]
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
    for row in range(len(identities)):
        digest = hashlib.blake2b(digest_size=8)
        for array in arrays:
            digest.update(array[row].tobytes() if array.dtype.kind != "O" else repr(array[row]).encode())
        identities[row] = int.from_bytes(digest.digest(), "little")
    return identities


def _comparable(array: Any) -> np.ndarray:
    array = np.asarray(array)
    if array.dtype.kind in "biuf":
        array = array.astype(np.float32) + np.float32(0)  # -0.0 becomes 0.0
    return np.ascontiguousarray(array.reshape(-1, 1) if array.ndim == 1 else array)


def _flat(column: Any) -> list[Any]:
    if isinstance(column, dict):
        return [column[name] for name in sorted(column)]
    if isinstance(column, list | tuple) and column and np.ndim(column[0]) > 0:
        return list(column)
    return [column]


def pack(
    predictions: Any, row_ids: np.ndarray, *, max_bytes: int = MAX_BYTES, positions: np.ndarray | None = None
) -> bytes:
    """Makes bytes of predictions.

    Above the cap, rows are left out: those with the largest identities, so that all trials of a search keep the same.

    Args:
        predictions: (n,) or (n, C).
        row_ids: (n,) from `row_identities`.
        max_bytes: of the half-precision array.
        positions: (n,) places of the rows in their data set; None: 0, 1, 2, ...

    Raises:
        UsageError: predictions and identities differ in number.
    """
    array = as_columns(np.asarray(predictions, dtype=np.float32))
    if len(array) != len(row_ids):
        raise UsageError(
            explain("pack", f"{len(array)} predictions for {len(row_ids)} rows", "one per row", "Predict all rows.")
        )
    rows = np.arange(len(array))
    count = max(1, max_bytes // (2 * array.shape[1]))
    if count < len(rows):
        rows = np.sort(np.argsort(row_ids, kind="stable")[:count])
    kept = array[rows]
    logarithmic = bool(np.isfinite(kept).all() and kept.min() >= 0 and kept.max() <= 1 + 1e-3)
    if logarithmic:
        shift, scale = np.zeros(kept.shape[1]), np.ones(kept.shape[1])
        small = np.log(np.clip(kept, EPSILON, 1.0))
        complement = np.log(np.clip(1.0 - kept.astype(np.float64), EPSILON, 1.0))
        # Next to one the logarithm of the rest is exact where that of the probability is not; the sign says which.
        small = np.where(kept > 0.5, -complement, small)
    else:
        finite = np.where(np.isfinite(kept), kept, np.nan)
        shift = np.nan_to_num(np.nanmean(finite, axis=0)) if np.isfinite(finite).any() else np.zeros(kept.shape[1])
        scale = np.nan_to_num(np.nanstd(finite, axis=0)) if np.isfinite(finite).any() else np.ones(kept.shape[1])
        scale = np.where(scale > 0, scale, 1.0)
        small = (kept - shift) / scale
    return _archived(
        values=small.astype(np.float16),
        row_ids=np.asarray(row_ids, dtype=np.uint64)[rows],
        rows=rows if positions is None else np.asarray(positions)[rows],
        shift=shift,
        scale=scale,
        logarithmic=np.array(logarithmic),
    )


def _archived(**arrays: np.ndarray) -> bytes:
    """What `np.savez` makes, with the places of the rows compressed: numbers in order get small.

    Hashes do not get smaller at all, and rounded logarithms by a seventh only, for four times the time of the rest.
    """
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compresslevel=1) as archive:
        for name, array in arrays.items():
            written = io.BytesIO()
            np.lib.format.write_array(written, array, allow_pickle=False)
            how = zipfile.ZIP_DEFLATED if name == "rows" else zipfile.ZIP_STORED
            archive.writestr(f"{name}.npy", written.getbuffer(), how)
    return buffer.getvalue()


def unpack(packed: bytes) -> Kept:
    """The inverse of `pack`, up to half precision.

    Example:

    >>> p = np.array([[0.001, 0.999], [0.4, 0.6]])
    >>> kept = unpack(pack(p, row_identities(p)))
    >>> bool(np.abs(kept.predictions / p - 1).max() < 4e-3)
    True
    """
    arrays = np.load(io.BytesIO(packed), allow_pickle=False)
    values = arrays["values"].astype(np.float64)
    if bool(arrays["logarithmic"]):
        predictions = np.where(values > 0, 1.0 - np.exp(-values), np.exp(-np.abs(values)))
    else:
        predictions = values * arrays["scale"] + arrays["shift"]
    return Kept(predictions.astype(np.float32), arrays["row_ids"], arrays["rows"])
