"""Predictions as a table: a name for each row, and a column for each number that is said of it."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from manyfit.core.errors import UsageError, explain
from manyfit.core.files import written_whole
from manyfit.data.classes import Classes
from manyfit.data.kinds import FitData, is_nested
from manyfit.oracles import Trial
from manyfit.report import terminal
from manyfit.store.answers import Answers, MeanOfStored
from manyfit.store.predictions import Archive, Kept

ROW_ID, TARGET = "row_id", "y"
_SHOWN = 8  # rows that are printed
_MOST_CELLS = 1 << 18  # of a table that are texts at once


class StoredColumn:
    """One number of each answer in a file, read when it is asked for.

    Args:
        said: (n, C), in a file.
        place: which of the C.
    """

    def __init__(self, said: MeanOfStored, place: int) -> None:
        self._said, self._place = said, place

    def __len__(self) -> int:
        return len(self._said)

    def __getitem__(self, rows: slice) -> np.ndarray:
        return self._said[rows][:, self._place]


class PredictionTable:
    """A table of predictions: print it, write it to a file, or have it as a `pandas.DataFrame`.

    Args:
        columns: name -> (n,) array, or a column in a file, all of one length; the first holds the names of rows.

    Example:

    >>> table = PredictionTable({"row_id": np.array([4, 7]), "trial 0": np.array([0.25, 0.5])})
    >>> table["trial 0"].tolist(), len(table)
    ([0.25, 0.5], 2)
    """

    def __init__(self, columns: Mapping[str, np.ndarray | StoredColumn]) -> None:
        self.columns = dict(columns)

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))

    def __getitem__(self, name: str) -> np.ndarray:
        return self.columns[name][:]

    def to_frame(self) -> Any:
        """The table as a `pandas.DataFrame`.

        Raises:
            ImportError: pandas is not installed: `pip install manyfit[pandas]`, or `to_csv`.
        """
        try:
            import pandas
        except ImportError:
            raise ImportError(
                "to_frame(): pandas is not installed. Type pip install manyfit[pandas], or .to_csv(path)."
            ) from None
        return pandas.DataFrame({name: self[name] for name in self.columns})

    def to_csv(self, path: str | os.PathLike[str]) -> Path:
        """Writes the table with a header, some rows at a time; needs no pandas. Numbers have all their digits.

        Returns:
            The path.

        Raises:
            ProjectError: the disk is full or cannot be written to.
        """
        target = Path(path)
        with (
            written_whole(target, "table", again="call to_csv again.", lasts=True) as partial,
            partial.open("w", newline="", encoding="utf-8") as file,
        ):
            writer = csv.writer(file)
            writer.writerow(self.columns)
            # Texts take many times the room of numbers, and columns in files are read as they are written here.
            at_once = max(1, _MOST_CELLS // len(self.columns))
            for start in range(0, len(self), at_once):
                some = [column[start : start + at_once] for column in self.columns.values()]
                # NumPy's own texts are the shortest that name a number of its type.
                writer.writerows(zip(*(column.astype(str).tolist() for column in some), strict=True))
        return target

    def __str__(self) -> str:
        first = {name: column[:_SHOWN] for name, column in self.columns.items()}
        shown = [{name: column[row] for name, column in first.items()} for row in range(min(_SHOWN, len(self)))]
        table = terminal.table([{name: one.item() for name, one in row.items()} for row in shown], list(self.columns))
        return table if len(self) <= _SHOWN else f"{table}\n... {len(self)} rows in all"


def columns_of(
    prediction: FitData, title: str, classes: Classes | None, where: str
) -> dict[str, np.ndarray | StoredColumn]:
    """A column for each number of a prediction.

    Args:
        prediction: (n, C), or a list or a dictionary of such; in memory, or in a file.
        title: what columns are called by: itself where there is one column; "" for the classes alone.
        classes: their names, or None.
        where: who asks, for messages.

    Raises:
        UsageError: an answer for every pixel or step.

    Example:

    >>> list(columns_of(np.array([[0.2, 0.8]]), "trial 0", Classes(["ham", "spam"]), "predictions()"))
    ['trial 0, ham', 'trial 0, spam']
    """
    if is_nested(prediction):
        parts = prediction.items() if isinstance(prediction, Mapping) else enumerate(prediction)
        return {
            name: column
            for key, part in parts
            for name, column in columns_of(part, f"{title}, {key}" if title else str(key), classes, where).items()
        }
    stored = prediction if isinstance(prediction, MeanOfStored) and len(prediction.shape) == 2 else None
    array = prediction if stored is not None else np.asarray(prediction[:])
    array = array[:, None] if len(array.shape) == 1 else array
    if len(array.shape) > 2:
        got, allowed = f"predictions of shape {array.shape}", "one row of numbers for each row"
        instead = "Type tuner.predictions_archive.get(trial_id, [0]).predictions for the arrays."
        raise UsageError(explain(where, got, allowed, instead))

    def column(place: int) -> np.ndarray | StoredColumn:
        return array[:, place] if stored is None else StoredColumn(stored, place)

    if array.shape[1] == 1:
        return {title or "prediction": column(0)}
    named = classes is not None and len(classes.names) == array.shape[1]
    names = classes.names.tolist() if classes is not None and named else list(range(array.shape[1]))
    return {f"{title}, {name}" if title else str(name): column(place) for place, name in enumerate(names)}


def table_of_validation(
    trials: Sequence[Trial], archive: Archive, classes: Classes | None, *, titled: bool
) -> PredictionTable:
    """What trials said of rows that they did not train on, each the mean of its models; NaN where it said nothing.

    Raises:
        UsageError: nothing was kept, or by none of these trials.
    """
    where, labels = "predictions()", archive.labels()

    def told() -> Iterator[tuple[str, Kept]]:
        """Read anew each time: of many trials there is one in memory."""
        for trial in trials:
            if (one := archive.get(trial.trial_id, archive.executions(trial.trial_id))) is not None:
                yield trial.trial_id, one

    kept = {trial_id: (one.rows, one.row_ids) for trial_id, one in told()}
    if labels is None or not kept:
        instead = "Search with keep_predictions=True and validation rows, or folds, that are arrays."
        raise UsageError(explain(where, "trials of which no predictions were kept", "one of which some were", instead))
    num_rows = len(labels.row_ids)
    stale = [trial_id for trial_id, (rows, _) in kept.items() if rows.max() >= num_rows]
    stale += [t for t, (rows, ids) in kept.items() if t not in stale and (labels.row_ids[rows] != ids).any()]
    seen = np.zeros(num_rows, dtype=bool)
    for trial_id in kept.keys() - set(stale):
        seen[kept[trial_id][0]] = True
    columns: dict[str, np.ndarray] = {}
    for trial_id, one in told():
        if trial_id in stale:
            continue
        places = np.searchsorted(np.flatnonzero(seen), one.rows)
        for name, column in columns_of(one.predictions, f"trial {trial_id}" if titled else "", classes, where).items():
            columns[name] = np.full(int(seen.sum()), np.nan, dtype=np.float32)
            columns[name][places] = column[:]
    names = np.arange(num_rows) if labels.names is None else labels.names.names
    # Where it is to be read as predictions of one model, a target would be taken for one.
    targets = _targets(labels.y, classes) if titled else {}
    whole = {ROW_ID: names, **targets}
    return PredictionTable({**{name: column[seen] for name, column in whole.items()}, **columns})


def table_of_answers(
    trials: Sequence[Trial], answers: Answers, classes: Classes | None, *, titled: bool
) -> PredictionTable:
    """What trials said of the rows of `search(predict=...)`, each the mean of its models.

    Raises:
        UsageError: none of these trials said anything of them.
    """
    where, rows = "predictions(test=True)", answers.rows()
    columns: dict[str, np.ndarray | StoredColumn] = {}
    for trial in trials:
        said = answers.stored(trial.trial_id, answers.executions(trial.trial_id, sorted(trial.executions)))
        if said is not None:
            columns |= columns_of(said, f"trial {trial.trial_id}" if titled else "", classes, where)
    if rows is None or not columns:
        instead = "Type search(..., predict=x_test) or fit(..., predict=x_test)."
        raise UsageError(explain(where, "trials that were asked for no rows", "a search with predict=", instead))
    return PredictionTable({ROW_ID: rows.names.names, **columns})


def _targets(y: FitData, classes: Classes | None) -> dict[str, np.ndarray]:
    """The targets as one column, with the names of classes; none where they are more than one number."""
    if is_nested(y):
        return {}
    array = np.asarray(y)
    array = array[:, 0] if array.ndim == 2 and array.shape[1] == 1 else array
    if array.ndim != 1:
        return {}
    return {TARGET: array if classes is None or array.dtype.kind not in "iu" else classes.names[array]}
