"""What models say of rows whose targets nobody knows: those of `search(predict=...)`, kept in single precision.

Unlike predictions of validation rows none is left out and none is rounded: what is kept here is what is handed in.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from manyfit.core.files import replaced
from manyfit.data.kinds import FitData, as_arrays, map_leaves
from manyfit.data.row_names import NamedBy, RowNames
from manyfit.store.arrays import named_arrays, read_nested, reading
from manyfit.store.layout import PredictionFiles


@dataclasses.dataclass(frozen=True, eq=False)
class AskedRows:
    """Which rows are to be answered.

    Attributes:
        names: what the user calls them.
        content: a text that tells these rows from others.
    """

    names: RowNames
    content: str


class Answers:
    """Predictions of the rows to be answered, by trial and execution.

    Args:
        folder: of the project's kept predictions; is made when something is kept.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self._files = PredictionFiles(Path(folder))

    def keep_rows(self, rows: AskedRows) -> None:
        """Keeps which rows they are; what was said of others counts no more."""
        known = {"names": rows.names.names, "named_by": np.array(str(rows.names.named_by))}
        with replaced(self._files.asked_rows) as partial:
            np.savez(partial, content=np.array(rows.content), **known)  # type: ignore[arg-type]  # of `allow_pickle`

    def rows(self) -> AskedRows | None:
        """Which rows they are; None where nothing was kept."""
        path = self._files.asked_rows
        if not path.exists():
            return None
        with reading(path), np.load(path, allow_pickle=False) as arrays:
            return AskedRows(RowNames(arrays["names"], NamedBy(str(arrays["named_by"]))), str(arrays["content"]))

    def keep(self, trial_id: str, execution: int, predictions: FitData, content: str) -> None:
        """Keeps what one model said.

        Args:
            trial_id: of its trial.
            execution: its number.
            predictions: (n, ..., C), or a list or dictionary of such.
            content: of the rows, see `AskedRows`.
        """
        arrays = named_arrays("said", map_leaves(lambda leaf: leaf.astype(np.float32), as_arrays(predictions)))
        with replaced(self._files.of_asked_rows(trial_id, execution)) as partial:
            np.savez(partial, content=np.array(content), **arrays)  # type: ignore[arg-type]  # of `allow_pickle`

    def executions(self, trial_id: str, executions: Sequence[int]) -> list[int]:
        """Those executions of a trial that have said something of the present rows."""
        return [execution for execution in executions if self._one(trial_id, execution) is not None]

    def get(self, trial_id: str, executions: Sequence[int]) -> FitData:
        """The mean of what executions of a trial said of the present rows; None where one of them was not kept."""
        found = [self._one(trial_id, execution) for execution in executions]
        if not found or any(one is None for one in found):
            return None
        return map_leaves(lambda *leaves: np.mean(leaves, axis=0, dtype=np.float64).astype(np.float32), *found)

    def _one(self, trial_id: str, execution: int) -> FitData:
        path, rows = self._files.of_asked_rows(trial_id, execution), self.rows()
        if rows is None or not path.exists():
            return None
        with reading(path), np.load(path, allow_pickle=False) as arrays:
            return read_nested("said", arrays) if str(arrays["content"]) == rows.content else None
