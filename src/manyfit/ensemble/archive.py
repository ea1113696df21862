"""The folder in which a search keeps its predictions: one small file per execution, and one with the labels.

Labels lie beside the predictions, so that an ensemble can be fitted in another process, or from several projects,
without the data. Every file is complete or absent: it is written under another name and renamed.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from manyfit.core.errors import UsageError, explain
from manyfit.core.files import replaced
from manyfit.ensemble.kept import MAX_BYTES, Kept, pack, unpack

_LABELS = "labels.npz"


@dataclasses.dataclass(frozen=True, eq=False)
class Labels:
    """The rows that a search validates on, without their features."""

    row_ids: np.ndarray  # (n,) uint64, of all rows of the data set
    y: np.ndarray  # (n, ...)
    sample_weight: np.ndarray | None  # (n,)


class Archive:
    """Kept predictions of one project.

    Args:
        folder: is created when something is kept.
        max_bytes: of one execution's predictions in half precision, before compression; beyond it rows are left out,
            the same of every execution.
    """

    def __init__(self, folder: str | os.PathLike[str], *, max_bytes: int = MAX_BYTES) -> None:
        self.folder = Path(folder)
        self.max_bytes = max_bytes

    def keep_labels(self, labels: Labels) -> None:
        """Keeps the labels of the data set; those of another data set are replaced."""
        weight = {} if labels.sample_weight is None else {"sample_weight": np.asarray(labels.sample_weight)}
        with replaced(self.folder / _LABELS) as partial:
            np.savez_compressed(partial, row_ids=labels.row_ids, y=labels.y, **weight)  # type: ignore[arg-type]

    def labels(self) -> Labels | None:
        """The labels, or None if nothing was kept."""
        path = self.folder / _LABELS
        if not path.exists():
            return None
        with np.load(path, allow_pickle=False) as arrays:
            weight = arrays["sample_weight"] if "sample_weight" in arrays.files else None
            return Labels(arrays["row_ids"], arrays["y"], weight)

    def keep(
        self, trial_id: str, execution: int, predictions: Any, row_ids: np.ndarray, positions: np.ndarray | None = None
    ) -> None:
        """Keeps the predictions of one execution.

        Args:
            trial_id: of its trial.
            execution: its number.
            predictions: (n,) or (n, C).
            row_ids: (n,) identities of the rows that were predicted.
            positions: (n,) their places in the data set; None: all rows, in order.
        """
        packed = pack(predictions, row_ids, max_bytes=self.max_bytes, positions=positions)
        with replaced(self._path(trial_id, execution)) as partial:
            partial.write_bytes(packed)

    def executions(self, trial_id: str) -> list[int]:
        """Executions of a trial whose predictions were kept, in order."""
        return sorted(int(path.stem.rpartition("-")[2]) for path in self.folder.glob(f"{trial_id}-*.npz"))

    def get(self, trial_id: str, executions: Sequence[int]) -> Kept | None:
        """What executions of a trial said of the rows that they did not train on; None if one of them was not kept.

        Rows that several of them predicted get the mean. Rows are in the order of the data set.

        Raises:
            UsageError: two executions disagree about which row lies at a place: they saw different data.
        """
        paths = [self._path(trial_id, execution) for execution in executions]
        if not paths or not all(path.exists() for path in paths):
            return None
        parts = [unpack(path.read_bytes()) for path in paths]
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
        total = np.zeros((len(places), parts[0].predictions.shape[1]))
        np.add.at(total, inverse, np.concatenate([part.predictions for part in parts]))
        return Kept((total / counts[:, None]).astype(np.float32), row_ids[first], places)

    def _path(self, trial_id: str, execution: int) -> Path:
        return self.folder / f"{trial_id}-{execution}.npz"
