"""Predictions that a search keeps: half precision, capped in size, with row identities and the labels beside them.

An ensemble of the models of a search can then be fitted without loading or training any of them, in another process, or
from several projects. One small file per execution, and one with the labels; every file is complete or absent.

Probabilities are kept as logarithms: half precision then costs a two-thousandth of the log loss at most, while
probabilities themselves would lose everything below 6e-8 and half of what lies next to one.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from manyfit.core.errors import UsageError, explain
from manyfit.core.files import rewritten, written_whole
from manyfit.core.untrusted import archive, plain_file
from manyfit.data.kinds import FitData, Indices, is_nested, leaves, map_leaves
from manyfit.data.row_names import NamedBy, RowNames
from manyfit.store.arrays import named_arrays, read_nested, reading, restored, structure_of
from manyfit.store.checksums import IsSound, unknown
from manyfit.store.layout import PredictionFiles

MAX_BYTES = 16 * 2**20  # per trial, before compression
_MANY_NUMBERS = 1_000  # of the prediction of a row
_SMALLEST = 1e-7  # where Keras's cross-entropies cut probabilities off, too


@dataclasses.dataclass(frozen=True, eq=False)
class Kept:
    """Predictions of some rows, and which rows they are."""

    predictions: FitData  # (n, ..., C) float32, or a list or dictionary of such, one for each output
    row_ids: np.ndarray  # (n,) uint64
    rows: np.ndarray  # (n,) their places in the data set

    def take(self, places: Indices) -> Kept:
        """Some of the rows, by where they lie here."""
        predictions = map_leaves(lambda output: output[places], self.predictions)
        return Kept(predictions, self.row_ids[places], self.rows[places])


def pack(
    predictions: FitData, row_ids: np.ndarray, *, max_bytes: int = MAX_BYTES, positions: np.ndarray | None = None
) -> bytes:
    """Makes bytes of predictions.

    Above the cap, rows are left out: those with the largest identities, so that all trials of a search keep the same.

    Args:
        predictions: (n,), (n, C), or (n, ..., C) with an answer for every pixel or step; of several outputs a list or a
            dictionary of such.
        row_ids: (n,) from `row_identities`.
        max_bytes: of the half-precision arrays.
        positions: (n,) places of the rows in their data set; None: 0, 1, 2, ...

    Raises:
        UsageError: predictions and identities differ in number.
    """
    outputs = [np.asarray(output, dtype=np.float32) for output in leaves(predictions)]
    wrong = next((len(output) for output in outputs if len(output) != len(row_ids)), None)
    if wrong is not None:
        raise UsageError(
            explain("pack", f"{wrong} predictions for {len(row_ids)} rows", "one per row", "Predict all rows.")
        )
    kept = rows_kept(row_ids, sum(math.prod(output.shape[1:]) for output in outputs), max_bytes=max_bytes)
    rows = np.arange(len(row_ids)) if kept is None else kept
    places = rows if positions is None else np.asarray(positions)[rows]
    buffer = io.BytesIO()
    # Not compressed: identities are noise, and rounded logarithms shrink by a seventh for four times the time. Places
    # are small numbers, so a type that just holds them does for them what compression would.
    entries = _entries([output[rows] for output in outputs], predictions)
    np.savez(
        buffer,
        row_ids=np.asarray(row_ids, dtype=np.uint64)[rows],
        rows=places.astype(np.min_scalar_type(int(places.max(initial=0)))),
        **entries,  # type: ignore[arg-type]  # of `allow_pickle`, which is no array's name here
    )
    return buffer.getvalue()


def rows_kept(row_ids: np.ndarray, numbers: int, *, max_bytes: int = MAX_BYTES) -> np.ndarray | None:
    """The places of the rows whose predictions find room; None: all do.

    The smallest identities, not the first rows: a search with folds sees other rows in every execution, and all
    executions have to keep the same ones for their predictions to be combined.

    Args:
        row_ids: (n,) from `row_identities`.
        numbers: of the prediction of a row.
        max_bytes: of all of them in half precision.

    Example:

    >>> rows_kept(np.array([7, 1, 9, 3]), 10, max_bytes=40)
    array([1, 3])
    """
    count = max(1, max_bytes // (2 * max(1, numbers)))
    return None if count >= len(row_ids) else np.sort(np.argsort(row_ids, kind="stable")[:count])


def _entries(outputs: Sequence[np.ndarray], predictions: FitData) -> dict[str, np.ndarray]:
    """What a file holds of all outputs: those of one by their plain names, as versions before 0.2 have them."""
    encoded = list(map(_encoded, outputs))
    if not is_nested(predictions):
        return encoded[0]
    numbered = {f"{number}.{name}": part for number, one in enumerate(encoded) for name, part in one.items()}
    return {**numbered, "structure": structure_of(predictions)}


def _encoded(output: np.ndarray) -> dict[str, np.ndarray]:
    """What a file holds of one output."""
    kept = output.reshape(len(output), -1)
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
    return {
        "values": small.astype(np.float16),
        "shift": shift,
        "scale": scale,
        "shape": np.array(output.shape[1:] or (1,)),
        "logarithmic": np.array(logarithmic),
    }


def _decoded(arrays: Mapping[str, np.ndarray]) -> np.ndarray:
    """The inverse of `_encoded`, up to half precision."""
    values = arrays["values"].astype(np.float64)
    if bool(arrays["logarithmic"]):
        output = np.where(values > 0, 1.0 - np.exp(-values), np.exp(-np.abs(values)))
    else:
        output = values * arrays["scale"] + arrays["shift"]
    if "shape" in arrays:  # versions before 0.2 kept columns only
        output = output.reshape(len(output), *arrays["shape"])
    return output.astype(np.float32)


def unpack(packed: bytes) -> Kept:
    """The inverse of `pack`, up to half precision.

    Example:

    >>> from manyfit.data.identity import row_identities
    >>> p = np.array([[0.001, 0.999], [0.4, 0.6]])
    >>> kept = unpack(pack(p, row_identities(p)))
    >>> bool(np.abs(kept.predictions / p - 1).max() < 4e-3)
    True
    """
    with archive(packed) as found:
        arrays = dict(found)
    predictions = (
        restored(arrays["structure"], lambda number: _decoded(_beginning(f"{number}.", arrays)))
        if "structure" in arrays
        else _decoded(arrays)
    )
    return Kept(predictions, arrays["row_ids"], arrays["rows"].astype(np.int64))


def _beginning(prefix: str, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name.removeprefix(prefix): arrays[name] for name in arrays if name.startswith(prefix)}


@dataclasses.dataclass(frozen=True, eq=False)
class Labels:
    """The rows that a search validates on, without their features."""

    row_ids: np.ndarray  # (n,) uint64, of all rows of the data set
    y: FitData  # (n, ...), or a list or dictionary of such, one for each output
    sample_weight: FitData  # (n,), or one for each output; None: all count alike
    groups: np.ndarray | None = None  # (n,) numbers: rows of one are not independent of each other; None: all are
    names: RowNames | None = None  # what the user calls the rows; None: nobody knows (before 0.2, and of pipelines)

    def take(self, places: Indices) -> Labels:
        """Some of the rows, by where they lie here."""
        y, weight = (map_leaves(lambda leaf: leaf[places], part) for part in (self.y, self.sample_weight))
        groups = None if self.groups is None else self.groups[places]
        names = None if self.names is None else self.names.take(places)
        return Labels(self.row_ids[places], y, weight, groups, names)


@dataclasses.dataclass(frozen=True, eq=False)
class RowLosses:
    """What one run scored on each row: the metric plus the row's influence on it, so that the mean is the metric."""

    metric: str  # Manyfit's name of it; "" for a function of the user's
    value: float  # the metric, over all rows
    rows: np.ndarray  # (n,) float32, from half precision
    rows_are: str  # names the rows and their order: runs can be compared row by row where it is the same
    scale: str  # on which intervals are symmetric: see `manyfit.stats.intervals.Scale`


def name_of_rows(row_ids: np.ndarray) -> str:
    """Names rows and their order by their identities.

    Example:

    >>> name_of_rows(np.array([1, 2])) == name_of_rows(np.array([2, 1]))
    False
    """
    return hashlib.sha256(np.ascontiguousarray(row_ids, dtype=np.uint64).tobytes()).hexdigest()[:16]


class Archive:
    """Kept predictions of one project.

    Args:
        folder: is created when something is kept.
        max_bytes: of one execution's predictions in half precision, before compression; beyond it rows are left out,
            the same of every execution.
        is_sound: whether a file is what was written; one that is not counts as not kept.
    """

    def __init__(
        self, folder: str | os.PathLike[str], *, max_bytes: int = MAX_BYTES, is_sound: IsSound = unknown
    ) -> None:
        self.folder, self.is_sound = Path(folder), is_sound
        self._files = PredictionFiles(self.folder)
        self.max_bytes = max_bytes

    def __getstate__(self) -> dict[str, Any]:
        # A worker writes, and whoever committed it knows what: the database stays where the search is.
        return {**vars(self), "is_sound": unknown}

    def has_room_for(self, num_rows: int) -> bool:
        """Whether so few rows find room, however much is predicted of each, within reason."""
        return 2 * num_rows * _MANY_NUMBERS <= self.max_bytes

    def rows_kept(self, row_ids: np.ndarray, numbers: int) -> np.ndarray | None:
        """See the function of this name."""
        return rows_kept(row_ids, numbers, max_bytes=self.max_bytes)

    def keep_labels(self, labels: Labels) -> None:
        """Keeps the labels of the data set; those of another data set are replaced."""
        parts = {"y": labels.y, "sample_weight": labels.sample_weight, "groups": labels.groups}
        arrays = {name: array for part, data in parts.items() for name, array in named_arrays(part, data).items()}
        if labels.names is not None:
            arrays |= {"names": labels.names.names, "named_by": np.array(str(labels.names.named_by))}
        with written_whole(self._files.labels, "kept targets") as partial:
            np.savez_compressed(partial, row_ids=labels.row_ids, **arrays)  # type: ignore[arg-type]

    def labels(self) -> Labels | None:
        """The labels, or None if nothing was kept."""
        path = self._files.labels
        if not path.exists() or not self.is_sound(path):
            return None
        with reading(path), archive(path) as arrays:
            y, weight, groups = (read_nested(name, arrays) for name in ("y", "sample_weight", "groups"))
            known = RowNames(arrays["names"], NamedBy(str(arrays["named_by"]))) if "names" in arrays else None
            return Labels(arrays["row_ids"], y, weight, groups, known)

    def keep(
        self,
        trial_id: str,
        execution: int,
        predictions: FitData,
        row_ids: np.ndarray,
        positions: np.ndarray | None = None,
        *,
        phase: str = "search",
    ) -> None:
        """Keeps the predictions of one execution.

        Args:
            trial_id: of its trial.
            execution: its number.
            predictions: see `pack`.
            row_ids: (n,) identities of the rows that were predicted.
            positions: (n,) their places in the data set; None: all rows, in order.
            phase: what the execution was run for: "search", or "fold" after it.
        """
        packed = pack(predictions, row_ids, max_bytes=self.max_bytes, positions=positions)
        with rewritten(self._files.of(trial_id, execution, phase=phase), "kept predictions") as partial:
            partial.write_bytes(packed)

    def keep_losses(self, trial_id: str, phase: str, execution: int, losses: RowLosses) -> None:
        """Keeps what one run scored on each row: two bytes each, so many more runs than predictions find room."""
        if 2 * len(losses.rows) > self.max_bytes:
            return
        spread = float(np.abs(losses.rows - losses.value).max(initial=0.0)) or 1.0
        with rewritten(self._files.of(trial_id, execution, phase=phase), "kept row losses") as partial:
            np.savez(
                partial,
                # Of the deviations, in their own unit: half precision has three digits, and nothing above 65,504.
                deviations=((losses.rows - losses.value) / spread).astype(np.float16),
                spread=np.float64(spread),
                value=np.float64(losses.value),
                names=np.array([losses.metric, losses.rows_are, losses.scale]),
            )

    def losses(self, trial_id: str, phase: str, execution: int) -> RowLosses | None:
        """What `keep_losses` has kept; None where nothing was."""
        path = self._files.of(trial_id, execution, phase=phase)
        if not path.exists() or not self.is_sound(path):
            return None
        with reading(path), archive(path) as arrays:
            value, spread = float(arrays["value"]), float(arrays["spread"])
            rows = (value + spread * arrays["deviations"].astype(np.float64)).astype(np.float32)
            metric, rows_are, scale = map(str, arrays["names"])
            return RowLosses(metric, value, rows, rows_are, scale)

    def executions(self, trial_id: str) -> list[int]:
        """Executions of a trial whose predictions were kept, in order."""
        found = self._files.executions(trial_id)
        return [execution for execution in found if self.is_sound(self._files.of(trial_id, execution))]

    def get(self, trial_id: str, executions: Sequence[int], *, phase: str = "search") -> Kept | None:
        """What executions of a trial said of the rows that they did not train on; None if one of them was not kept.

        Rows that several of them predicted get the mean. Rows are in the order of the data set.

        Raises:
            UsageError: two executions disagree about which row lies at a place: they saw different data.
        """
        paths = [self._files.of(trial_id, execution, phase=phase) for execution in executions]
        if not paths or not all(path.exists() and self.is_sound(path) for path in paths):
            return None
        parts = []
        for path in paths:
            with reading(path):
                parts.append(unpack(plain_file(path).read_bytes()))
        return together(trial_id, parts)


def together(trial_id: str, parts: Sequence[Kept]) -> Kept:
    """What several models of a trial said, as one: the mean where several predicted a row, in the data set's order.

    Raises:
        UsageError: two of them disagree about which row lies at a place: they saw different data.
    """
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

    def mean(*outputs: np.ndarray) -> np.ndarray:
        total = np.zeros((len(places), *outputs[0].shape[1:]))
        np.add.at(total, inverse, np.concatenate(outputs))
        return (total / counts.reshape(-1, *[1] * (total.ndim - 1))).astype(np.float32)

    return Kept(map_leaves(mean, *(part.predictions for part in parts)), row_ids[first], places)
