"""Predictions as a table: a name for each row, and a column for each number that is said of it."""

from __future__ import annotations

import csv
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from manyfit.core.errors import UsageError, explain
from manyfit.core.files import replaced
from manyfit.data.classes import Classes
from manyfit.data.kinds import FitData, is_nested
from manyfit.oracles import Trial
from manyfit.report import terminal
from manyfit.store.answers import Answers
from manyfit.store.predictions import Archive

ROW_ID, TARGET = "row_id", "y"
_SHOWN = 8  # rows that are printed


class PredictionTable:
    """A table of predictions: print it, write it to a file, or have it as a `pandas.DataFrame`.

    Args:
        columns: name -> (n,) array, all of one length; the first holds the names of rows.

    Example:

    >>> table = PredictionTable({"row_id": np.array([4, 7]), "trial 0": np.array([0.25, 0.5])})
    >>> table["trial 0"].tolist(), len(table)
    ([0.25, 0.5], 2)
    """

    def __init__(self, columns: Mapping[str, np.ndarray]) -> None:
        self.columns = dict(columns)

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))

    def __getitem__(self, name: str) -> np.ndarray:
        return self.columns[name]

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
        return pandas.DataFrame(self.columns)

    def to_csv(self, path: str | os.PathLike[str]) -> Path:
        """Writes the table with a header; needs no pandas. Numbers have all digits that they have in memory.

        Returns:
            The path.

        Raises:
            ProjectError: the disk is full or cannot be written to.
        """
        target = Path(path)
        with replaced(target) as partial, partial.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(self.columns)
            # NumPy's own texts are the shortest that name a number of its type.
            writer.writerows(zip(*(column.astype(str).tolist() for column in self.columns.values()), strict=True))
        return target

    def __str__(self) -> str:
        shown = [{name: column[row] for name, column in self.columns.items()} for row in range(min(_SHOWN, len(self)))]
        table = terminal.table([{name: one.item() for name, one in row.items()} for row in shown], list(self.columns))
        return table if len(self) <= _SHOWN else f"{table}\n... {len(self)} rows in all"


def columns_of(prediction: FitData, title: str, classes: Classes | None, where: str) -> dict[str, np.ndarray]:
    """A column for each number of a prediction.

    Args:
        prediction: (n, C), or a list or a dictionary of such.
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
    array = np.asarray(prediction)
    array = array[:, None] if array.ndim == 1 else array
    if array.ndim > 2:
        got, allowed = f"predictions of shape {array.shape}", "one row of numbers for each row"
        instead = "Type tuner.predictions_archive.get(trial_id, [0]).predictions for the arrays."
        raise UsageError(explain(where, got, allowed, instead))
    if array.shape[1] == 1:
        return {title or "prediction": array[:, 0]}
    named = classes is not None and len(classes.names) == array.shape[1]
    names = classes.names.tolist() if classes is not None and named else list(range(array.shape[1]))
    return {f"{title}, {name}" if title else str(name): array[:, place] for place, name in enumerate(names)}


def table_of_validation(
    trials: Sequence[Trial], archive: Archive, classes: Classes | None, *, titled: bool
) -> PredictionTable:
    """What trials said of rows that they did not train on, each the mean of its models; NaN where it said nothing.

    Raises:
        UsageError: nothing was kept, or by none of these trials.
    """
    where, labels = "predictions()", archive.labels()
    told = {trial.trial_id: archive.get(trial.trial_id, archive.executions(trial.trial_id)) for trial in trials}
    kept = {trial_id: one for trial_id, one in told.items() if one is not None}
    if labels is None or not kept:
        instead = "Search with keep_predictions=True and validation rows, or folds, that are arrays."
        raise UsageError(explain(where, "trials of which no predictions were kept", "one of which some were", instead))
    num_rows = len(labels.row_ids)
    stale = [trial_id for trial_id, one in kept.items() if one.rows.max() >= num_rows]
    stale += [t for t, one in kept.items() if t not in stale and (labels.row_ids[one.rows] != one.row_ids).any()]
    kept = {trial_id: one for trial_id, one in kept.items() if trial_id not in stale}
    seen = np.zeros(num_rows, dtype=bool)
    columns: dict[str, np.ndarray] = {}
    for trial_id, one in kept.items():
        seen[one.rows] = True
        for name, column in columns_of(one.predictions, f"trial {trial_id}" if titled else "", classes, where).items():
            columns[name] = np.full(num_rows, np.nan, dtype=np.float32)
            columns[name][one.rows] = column
    names = np.arange(num_rows) if labels.names is None else labels.names.names
    # Where it is to be read as predictions of one model, a target would be taken for one.
    targets = _targets(labels.y, classes) if titled else {}
    whole = {ROW_ID: names, **targets, **columns}
    return PredictionTable({name: column[seen] for name, column in whole.items()})


def table_of_answers(
    trials: Sequence[Trial], answers: Answers, classes: Classes | None, *, titled: bool
) -> PredictionTable:
    """What trials said of the rows of `search(predict=...)`, each the mean of its models.

    Raises:
        UsageError: none of these trials said anything of them.
    """
    where, rows = "predictions(test=True)", answers.rows()
    columns: dict[str, np.ndarray] = {}
    for trial in trials:
        said = answers.get(trial.trial_id, answers.executions(trial.trial_id, sorted(trial.executions)))
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
