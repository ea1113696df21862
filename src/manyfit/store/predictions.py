"""Predictions that a search keeps: half precision, capped in size, with row identities and the labels beside them.

An ensemble of the models of a search can then be fitted without loading or training any of them, in another process, or
from several projects. One small file per execution, and one with the labels; every file is complete or absent.

Probabilities are kept as logarithms: half precision then costs a two-thousandth of the log loss at most, while
probabilities themselves would lose everything below 6e-8 and half of what lies next to one.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import os
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

from manyfit.core.errors import ProjectError, UsageError, explain
from manyfit.core.files import replaced
from manyfit.store.layout import PredictionFiles

MAX_BYTES = 16 * 2**20  # per trial, before compression
_SMALLEST = 1e-7  # where Keras's cross-entropies cut probabilities off, too


@dataclasses.dataclass(frozen=True, eq=False)
class Kept:
    """Predictions of some rows, and which rows they are."""

    predictions: np.ndarray  # (n, ..., C) float32
    row_ids: np.ndarray  # (n,) uint64
    rows: np.ndarray  # (n,) their places in the data set


def pack(
    predictions: ArrayLike, row_ids: np.ndarray, *, max_bytes: int = MAX_BYTES, positions: np.ndarray | None = None
) -> bytes:
    """Makes bytes of predictions.

    Above the cap, rows are left out: those with the largest identities, so that all trials of a search keep the same.

    Args:
        predictions: (n,), (n, C), or (n, ..., C) with an answer for every pixel or step.
        row_ids: (n,) from `row_identities`.
        max_bytes: of the half-precision array.
        positions: (n,) places of the rows in their data set; None: 0, 1, 2, ...

    Raises:
        UsageError: predictions and identities differ in number.
    """
    array = np.asarray(predictions, dtype=np.float32)
    shape = array.shape[1:] or (1,)
    array = array.reshape(len(array), -1)
    if len(array) != len(row_ids):
        raise UsageError(
            explain("pack", f"{len(array)} predictions for {len(row_ids)} rows", "one per row", "Predict all rows.")
        )
    rows = np.arange(len(array))
    count = max(1, max_bytes // (2 * array.shape[1]))
    if count < len(rows):
        # The smallest identities, not the first rows: a search with folds sees other rows in every execution, and all
        # executions have to keep the same ones for their predictions to be combined.
        rows = np.sort(np.argsort(row_ids, kind="stable")[:count])
    kept = array[rows]
    logarithmic = bool(np.isfinite(kept).all() and kept.min() >= 0 and kept.max() <= 1 + 1e-3)
    if logarithmic:
        shift, scale = np.zeros(kept.shape[1]), np.ones(kept.shape[1])
        small = np.log(np.clip(kept, _SMALLEST, 1.0))
        complement = np.log(np.clip(1.0 - kept.astype(np.float64), _SMALLEST, 1.0))
        # Next to one the logarithm of the rest is exact where that of the probability is not; the sign says which.
        small = np.where(kept > 0.5, -complement, small)
    else:
        finite = np.where(np.isfinite(kept), kept, np.nan)
        shift = np.nan_to_num(np.nanmean(finite, axis=0)) if np.isfinite(finite).any() else np.zeros(kept.shape[1])
        scale = np.nan_to_num(np.nanstd(finite, axis=0)) if np.isfinite(finite).any() else np.ones(kept.shape[1])
        scale = np.where(scale > 0, scale, 1.0)
        small = (kept - shift) / scale
    places = rows if positions is None else np.asarray(positions)[rows]
    buffer = io.BytesIO()
    # Not compressed: identities are noise, and rounded logarithms shrink by a seventh for four times the time. Places
    # are small numbers, so a type that just holds them does for them what compression would.
    np.savez(
        buffer,
        values=small.astype(np.float16),
        row_ids=np.asarray(row_ids, dtype=np.uint64)[rows],
        rows=places.astype(np.min_scalar_type(int(places.max(initial=0)))),
        shift=shift,
        scale=scale,
        shape=np.array(shape),
        logarithmic=np.array(logarithmic),
    )
    return buffer.getvalue()


def unpack(packed: bytes) -> Kept:
    """The inverse of `pack`, up to half precision.

    Example:

    >>> from manyfit.data.identity import row_identities
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
    if "shape" in arrays.files:  # versions before 0.2 kept columns only
        predictions = predictions.reshape(len(predictions), *arrays["shape"])
    return Kept(predictions.astype(np.float32), arrays["row_ids"], arrays["rows"].astype(np.int64))


@dataclasses.dataclass(frozen=True, eq=False)
class Labels:
    """The rows that a search validates on, without their features."""

    row_ids: np.ndarray  # (n,) uint64, of all rows of the data set
    y: np.ndarray  # (n, ...)
    sample_weight: np.ndarray | None  # (n,)


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Tells in words that a file is not what was written; pickles are never loaded, whoever put them there."""
    try:
        yield
    except (ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise ProjectError(
            explain(
                f'kept predictions "{path}"',
                f"a file that is damaged ({str(error).splitlines()[0]})",
                "arrays as Manyfit wrote them",
                "Delete the file, and pass models, x and y to have them predicted now.",
            )
        ) from error


class Archive:
    """Kept predictions of one project.

    Args:
        folder: is created when something is kept.
        max_bytes: of one execution's predictions in half precision, before compression; beyond it rows are left out,
            the same of every execution.
    """

    def __init__(self, folder: str | os.PathLike[str], *, max_bytes: int = MAX_BYTES) -> None:
        self.folder = Path(folder)
        self._files = PredictionFiles(self.folder)
        self.max_bytes = max_bytes

    def keep_labels(self, labels: Labels) -> None:
        """Keeps the labels of the data set; those of another data set are replaced."""
        weight = {} if labels.sample_weight is None else {"sample_weight": np.asarray(labels.sample_weight)}
        with replaced(self._files.labels) as partial:
            np.savez_compressed(partial, row_ids=labels.row_ids, y=labels.y, **weight)  # type: ignore[arg-type]

    def labels(self) -> Labels | None:
        """The labels, or None if nothing was kept."""
        path = self._files.labels
        if not path.exists():
            return None
        with _reading(path), np.load(path, allow_pickle=False) as arrays:
            weight = arrays["sample_weight"] if "sample_weight" in arrays.files else None
            return Labels(arrays["row_ids"], arrays["y"], weight)

    def keep(
        self,
        trial_id: str,
        execution: int,
        predictions: ArrayLike,
        row_ids: np.ndarray,
        positions: np.ndarray | None = None,
    ) -> None:
        """Keeps the predictions of one execution.

        Args:
            trial_id: of its trial.
            execution: its number.
            predictions: see `pack`.
            row_ids: (n,) identities of the rows that were predicted.
            positions: (n,) their places in the data set; None: all rows, in order.
        """
        packed = pack(predictions, row_ids, max_bytes=self.max_bytes, positions=positions)
        with replaced(self._files.of(trial_id, execution)) as partial:
            partial.write_bytes(packed)

    def executions(self, trial_id: str) -> list[int]:
        """Executions of a trial whose predictions were kept, in order."""
        return self._files.executions(trial_id)

    def get(self, trial_id: str, executions: Sequence[int]) -> Kept | None:
        """What executions of a trial said of the rows that they did not train on; None if one of them was not kept.

        Rows that several of them predicted get the mean. Rows are in the order of the data set.

        Raises:
            UsageError: two executions disagree about which row lies at a place: they saw different data.
        """
        paths = [self._files.of(trial_id, execution) for execution in executions]
        if not paths or not all(path.exists() for path in paths):
            return None
        parts = []
        for path in paths:
            with _reading(path):
                parts.append(unpack(path.read_bytes()))
        if len(parts) == 1:
            return parts[0]
        rows = np.concatenate([part.rows for part in parts])
        row_ids = np.concatenate([part.row_ids for part in parts])
        places, first, inverse, counts = np.unique(rows, return_index=True, return_inverse=True, return_counts=True)
        if not np.array_equal(row_ids, row_ids[first][inverse]):
            raise UsageError(
                explain(
                    f"kept predictions of trial {trial_id}",
                    "executions that validated on different data",
                    "one data set for all executions of a trial",
                    "Search again with overwrite=True, or pass x= and y= to be predicted now.",
                )
            )
        total = np.zeros((len(places), *parts[0].predictions.shape[1:]))
        np.add.at(total, inverse, np.concatenate([part.predictions for part in parts]))
        return Kept((total / counts.reshape(-1, *[1] * (total.ndim - 1))).astype(np.float32), row_ids[first], places)
