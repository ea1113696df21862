"""What models say of rows whose targets nobody knows: those of `search(predict=...)`, kept in single precision.

Unlike predictions of validation rows none is left out and none is rounded: what is kept here is what is handed in.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from manyfit.core.files import rewritten, written_whole
from manyfit.core.untrusted import archive
from manyfit.data.kinds import FitData, as_arrays, map_leaves
from manyfit.data.row_names import NamedBy, RowNames
from manyfit.store.arrays import reading, restored
from manyfit.store.checksums import IsSound, unknown
from manyfit.store.layout import PredictionFiles
from manyfit.store.parts import PartsWriter, StoredArray
from manyfit.store.predictions import Archive

_AT_ONCE = 1 << 14  # rows of a mean


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
        is_sound: whether a file is what was written; one that is not counts as not kept.
    """

    def __init__(self, folder: str | os.PathLike[str], *, is_sound: IsSound = unknown) -> None:
        self._files, self._is_sound = PredictionFiles(Path(folder)), is_sound

    @classmethod
    def beside(cls, archive: Archive) -> Answers:
        """Those in the folder of an archive."""
        return cls(archive.folder, is_sound=archive.is_sound)

    def keep_rows(self, rows: AskedRows) -> None:
        """Keeps which rows they are; what was said of others counts no more."""
        known = {"names": rows.names.names, "named_by": np.array(str(rows.names.named_by))}
        with written_whole(self._files.asked_rows, "the rows to be answered") as partial:
            np.savez(partial, content=np.array(rows.content), **known)  # type: ignore[arg-type]  # of `allow_pickle`

    def rows(self) -> AskedRows | None:
        """Which rows they are; None where nothing was kept."""
        path = self._files.asked_rows
        if not path.exists() or not self._is_sound(path):
            return None
        with reading(path), archive(path) as arrays:
            return AskedRows(RowNames(arrays["names"], NamedBy(str(arrays["named_by"]))), str(arrays["content"]))

    def keep(self, keys: Sequence[tuple[str, int]], parts: Iterable[Sequence[FitData]], content: str) -> None:
        """Keeps what models said, as they say it.

        Args:
            keys: trial and execution of each model.
            parts: some rows after others, what each model said of them: (n, ..., C), or a list or dictionary of such.
            content: of the rows, see `AskedRows`.
        """
        paths = [self._files.of_asked_rows(*key) for key in keys]
        with contextlib.ExitStack() as stack:
            writers = [stack.enter_context(PartsWriter(path.parent)) for path in paths]
            for part in parts:
                for writer, said in zip(writers, part, strict=True):
                    writer.add(as_arrays(said))
            for writer, path in zip(writers, paths, strict=True):
                with rewritten(path, "predictions of rows to be answered") as partial:
                    writer.save(partial, "said", {"content": np.array(content)})

    def executions(self, trial_id: str, executions: Sequence[int]) -> list[int]:
        """Those executions of a trial that have said something of the present rows."""
        return [execution for execution in executions if self._one(trial_id, execution) is not None]

    def get(self, trial_id: str, executions: Sequence[int]) -> FitData:
        """The mean of what executions of a trial said of the present rows; None where one of them was not kept."""
        said = self.stored(trial_id, executions)
        return None if said is None else map_leaves(lambda leaf: leaf[:], said)

    def stored(self, trial_id: str, executions: Sequence[int]) -> FitData:
        """The same, as arrays that are read some rows at a time: `MeanOfStored`."""
        found = [self._one(trial_id, execution) for execution in executions]
        if not found or any(one is None for one in found):
            return None
        return map_leaves(lambda *arrays: MeanOfStored(arrays), *found)

    def _one(self, trial_id: str, execution: int) -> FitData:
        path, rows = self._files.of_asked_rows(trial_id, execution), self.rows()
        if rows is None or not path.exists() or not self._is_sound(path):
            return None
        with reading(path), archive(path) as arrays:
            if str(arrays["content"]) != rows.content:
                return None
            structure = arrays.get("said.structure")
        if structure is None:
            return StoredArray(path, "said")
        return restored(structure, lambda number: StoredArray(path, f"said.{number}"))


class MeanOfStored:
    """The mean of several arrays of one shape, of which rows are read when they are asked for.

    Args:
        arrays: that can be sliced.
    """

    def __init__(self, arrays: Sequence[StoredArray]) -> None:
        self._arrays = arrays
        self.shape = arrays[0].shape

    def __len__(self) -> int:
        return int(self.shape[0])

    def __getitem__(self, rows: slice) -> np.ndarray:
        if len(self._arrays) == 1:
            return self._arrays[0][rows]
        start, stop, step = rows.indices(len(self))
        found = np.empty((max(0, stop - start), *self.shape[1:]), dtype=np.float32)
        # In parts: the sum is in double precision.
        for begin in range(start, stop, _AT_ONCE):
            part = slice(begin, min(begin + _AT_ONCE, stop))
            some = [array[part] for array in self._arrays]
            found[part.start - start : part.stop - start] = np.mean(some, axis=0, dtype=np.float64)
        return found[::step]
