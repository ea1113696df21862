"""What a search keeps for later: predictions of rows that an execution did not train on, and where models come from."""

from __future__ import annotations

import dataclasses
import functools
import weakref
from collections.abc import Iterator, MutableMapping, Sequence
from typing import Any

import numpy as np

from manyfit.core.files import writing
from manyfit.core.records import Plan
from manyfit.data.folds import FoldPlan
from manyfit.data.identity import row_identities
from manyfit.data.rows import FitData, num_rows, take_rows
from manyfit.ensemble.prediction import Forward
from manyfit.store.predictions import Archive, Labels
from manyfit.training.base import Task


@dataclasses.dataclass(frozen=True, eq=False)
class DataSet:
    """The rows that executions validate on: all of `x`, or for each execution the rows of its fold."""

    x: FitData  # arrays with one row each, or a list or a dictionary of such
    y: FitData
    sample_weight: FitData

    @classmethod
    def of(cls, task: Task, folds: FoldPlan | None) -> DataSet | None:
        """The rows of a search; None where they are no arrays, so that nobody can tell one row from another."""
        call = task.call
        rows = call.validation_rows() if folds is None else (call.x, call.y, call.sample_weight)
        if rows is None or num_rows(rows[0]) is None or num_rows(rows[1]) != num_rows(rows[0]):
            return None
        return cls(*rows)

    @functools.cached_property
    def row_ids(self) -> np.ndarray:
        """(n,) identities of the rows, of features and targets together."""
        return row_identities(self.x, np.asarray(self.y))


class Keeper:
    """What a trainer calls with the trained models of a search: see `Task.keep`.

    A prediction that fails costs the trial nothing: what is not kept is predicted anew when it is asked for. A write
    that fails is told by the trainer (`training.base.Bookkeeping`), and costs the trial nothing either.

    Args:
        archive: where to.
        data: the rows.
        folds: the folds of a cross-validated search, or None.
    """

    def __init__(self, archive: Archive, data: DataSet, folds: FoldPlan | None) -> None:
        self._archive = archive
        self._data = data
        self._folds = folds
        self._forward = Forward(keeps_rows=folds is None)
        self._labelled = False
        self.reason: str | None = None  # why the latest execution was not kept

    def __call__(self, trained: Sequence[tuple[Plan, Any]]) -> None:
        """Predicts and keeps; executions of other phases than the search are left alone."""
        # Confirmation and retraining have rows of their own; their predictions would be taken for the search's.
        of_search = [(plan, model) for plan, model in trained if plan.phase == "search"]
        if self._folds is None:
            self._predict(of_search, self._data.x, self._data.row_ids, None)
            return
        # Each execution has rows of its own here, so there is nothing to predict together.
        for plan, model in of_search:
            positions = self._folds.split_for(plan).validation
            x, row_ids = take_rows(self._data.x, positions), self._data.row_ids[positions]
            self._predict([(plan, model)], x, row_ids, positions)

    def _predict(
        self, trained: Sequence[tuple[Plan, Any]], x: FitData, row_ids: np.ndarray, positions: np.ndarray | None
    ) -> None:
        """Predicts the same rows with each model, and keeps what it said of them."""
        try:
            found = self._forward.predict_several([model for _, model in trained], x)
        # Whatever it is: several outputs, a model that predicts by other means, no memory. The trial has its score.
        except Exception as error:
            if len(trained) == 1:
                self.reason = f"{type(error).__name__}: {error}"
            else:  # it harms the one it comes from only
                for one in trained:
                    self._predict([one], x, row_ids, positions)
            return
        for (plan, _), predictions in zip(trained, found, strict=True):
            self._keep(plan, predictions, row_ids, positions)

    def _keep(self, plan: Plan, predictions: np.ndarray, row_ids: np.ndarray, positions: np.ndarray | None) -> None:
        data = self._data
        with writing(f"kept predictions of trial {plan.trial_id}"):
            # Labels go first: a kill between the two leaves labels without predictions, which is nothing kept yet.
            if not self._labelled:
                self._archive.keep_labels(Labels(data.row_ids, np.asarray(data.y), _array(data.sample_weight)))
                self._labelled = True
            self._archive.keep(plan.trial_id, plan.execution, predictions, row_ids, positions)


def keeping(task: Task, archive: Archive, folds: FoldPlan | None) -> Task:
    """A search's task whose trained models leave predictions behind; the task itself where its rows are no arrays."""
    data = DataSet.of(task, folds)
    return task if data is None else dataclasses.replace(task, keep=Keeper(archive, data, folds))


def _array(values: object) -> np.ndarray | None:
    return None if values is None else np.asarray(values)


class ModelOrigins(MutableMapping[Any, str]):
    """Which trial a model came from, as long as the model lives. By identity: some estimators cannot be hashed."""

    def __init__(self) -> None:
        self._known: dict[int, tuple[Any, str]] = {}

    def __getitem__(self, model: object) -> str:
        reference, trial_id = self._known[id(model)]
        if reference() is not model:  # the number of a model that is gone may be another's by now
            raise KeyError(model)
        return trial_id

    def __setitem__(self, model: object, trial_id: str) -> None:
        # A plain WeakKeyDictionary hashes its keys, which scikit-learn's estimators with `__eq__` refuse.
        key = id(model)
        self._known[key] = weakref.ref(model, lambda _: self._known.pop(key, None)), trial_id

    def __delitem__(self, model: object) -> None:
        del self._known[id(model)]

    def __contains__(self, model: object) -> bool:
        return id(model) in self._known and self._known[id(model)][0]() is model

    def __iter__(self) -> Iterator[Any]:
        return (model for reference, _ in list(self._known.values()) if (model := reference()) is not None)

    def __len__(self) -> int:
        return len(self._known)
