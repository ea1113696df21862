"""What a search keeps for later: predictions of rows that an execution did not train on, and where models come from."""

from __future__ import annotations

import dataclasses
import functools
import weakref
from collections.abc import Iterable, Iterator, MutableMapping, Sequence
from typing import Any

import numpy as np

from manyfit.core.files import writing
from manyfit.core.records import Plan
from manyfit.data.folds import FoldPlan
from manyfit.data.identity import row_identities
from manyfit.data.kinds import Ability, as_arrays
from manyfit.data.row_names import RowNames
from manyfit.data.rows import MAX_READ_BYTES, Rows
from manyfit.ensemble.in_parts import MOST_NUMBERS, InParts
from manyfit.ensemble.prediction import Forward
from manyfit.finish.row_losses import row_losses
from manyfit.oracles.book import TrialBook
from manyfit.store import ProjectStore
from manyfit.store.predictions import Archive, Labels, name_of_rows
from manyfit.training.base import Task
from manyfit.training.seeding import seeded


class Keeper:
    """What a trainer calls with the trained models of a search: see `Task.keep`.

    A prediction that fails costs the trial nothing: what is not kept is predicted anew when it is asked for. A write
    that fails is told by the trainer (`training.base.Bookkeeping`), and costs the trial nothing either.

    Args:
        archive: where to.
        rows: that executions validate on, or with folds all of them.
        folds: the folds of a cross-validated search, or None.
        phase: of the executions that are kept. Labels are kept with those of the search alone: they are its rows'.
        objective: the name in the logs of what is ranked.
        names: what the user calls the rows; None: nothing.
    """

    def __init__(
        self,
        archive: Archive,
        rows: Rows,
        folds: FoldPlan | None,
        phase: str = "search",
        *,
        objective: str = "",
        names: RowNames | None = None,
    ) -> None:
        self._archive = archive
        self._phase = phase
        self._given = rows
        self._folds = folds
        self._objective = objective
        self._names = names
        self._forward = Forward(keeps_rows=folds is None)
        self._in_parts = InParts(self._forward)
        self._latest: tuple[np.ndarray, Rows] | None = None
        self._labelled = phase != "search"
        self.reason: str | None = None  # why the latest execution was not kept

    @functools.cached_property
    def _rows(self) -> tuple[Rows, np.ndarray] | None:
        """The rows as arrays, and the identity of each, of features and targets together; None where it fails.

        A pipeline that is too large, or breaks, is not read again for the next trial.
        """
        try:
            if not self._given.kind.is_pipeline:
                return self._given, row_identities(self._given.x, self._given.y)
            # A seed of its own: code of the user's that draws while it is read here leaves no trace in the trials.
            with seeded(0):
                rows = self._given.read("kept predictions", max_bytes=MAX_READ_BYTES)
            rows.require(Ability.LABELLED, "kept predictions")
            row_ids = row_identities(rows.x, rows.y)
            # Pipelines may come in another order in another process: here the order is that of what is in the rows.
            order = np.argsort(row_ids, kind="stable")
            return rows.take(order), row_ids[order]
        except Exception as error:
            self.reason = f"{type(error).__name__}: {error}"
            return None

    def __call__(self, trained: Sequence[tuple[Plan, Any]]) -> None:
        """Predicts and keeps: of the search what a model said, of a confirmation what it scored on each row."""
        fresh = [(plan, model) for plan, model in trained if plan.kept_epoch is not None]
        if fresh and self._folds is None:
            self._score(fresh)
        # Of other phases (a longer training) nothing is kept: it would be taken for the search's.
        wanted = [(plan, model) for plan, model in trained if plan.phase == self._phase]
        if self._folds is None:
            self._predict(wanted, None)
            return
        # Each execution has rows of its own here, so there is nothing to predict together.
        for plan, model in wanted:
            self._predict([(plan, model)], self._folds.split_for(plan).validation)

    def _score(self, trained: Sequence[tuple[Plan, Any]]) -> None:
        if self._rows is None:
            return
        rows, row_ids = self._rows
        rows_are = name_of_rows(row_ids)
        y, weight = as_arrays(rows.y), as_arrays(rows.sample_weight)
        for some in self._few_at_once(trained, rows):
            found = self._forward.predict_several([model for _, model in some], rows.x)
            for (plan, model), predictions in zip(some, found, strict=True):
                losses = row_losses(model, self._objective, y, predictions, sample_weight=weight, rows_are=rows_are)
                if losses is not None:
                    with writing(f"row losses of trial {plan.trial_id}"):
                        self._archive.keep_losses(plan.trial_id, plan.phase, plan.execution, losses)

    def _few_at_once(self, trained: Sequence[tuple[Plan, Any]], rows: Rows) -> Iterator[Sequence[tuple[Plan, Any]]]:
        """Models, as many at once as leave room for what all of them say of the rows; one at least."""
        if len(trained) == 1 or self._archive.has_room_for(rows.num_rows or 0):
            return iter([trained])
        most = max(1, MOST_NUMBERS // ((rows.num_rows or 1) * self._in_parts.numbers_of([trained[0][1]], rows.x)))
        return (trained[start : start + most] for start in range(0, len(trained), most))

    def _predict(self, trained: Sequence[tuple[Plan, Any]], positions: np.ndarray | None) -> None:
        """Predicts the same rows with each model, and keeps what it said of them."""
        if not trained or self._rows is None:
            return
        rows, row_ids = self._rows
        try:
            positions = self._that_are_kept(trained[0][1], positions)
            x = rows.x if positions is None else self._taken(positions).x
            found = self._forward.predict_several([model for _, model in trained], x)
        # Whatever it is: a model that predicts by other means, no memory. The trial has its score.
        except Exception as error:
            if len(trained) == 1:
                self.reason = f"{type(error).__name__}: {error}"
            else:  # it harms the one it comes from only
                for one in trained:
                    self._predict([one], positions)
            return
        for (plan, _), predictions in zip(trained, found, strict=True):
            with writing(f"kept predictions of trial {plan.trial_id}"):
                # Labels go first: a kill between the two leaves labels without predictions, which is nothing kept yet.
                if not self._labelled:
                    self._archive.keep_labels(self._labels(rows, row_ids))
                    self._labelled = True
                own = row_ids if positions is None else row_ids[positions]
                self._archive.keep(plan.trial_id, plan.execution, predictions, own, positions, phase=self._phase)

    def _that_are_kept(self, model: object, positions: np.ndarray | None) -> np.ndarray | None:
        """Those of some rows whose predictions find room in the archive: others need not be predicted.

        Args:
            model: tells how many numbers there are for each row.
            positions: of the rows; None: all.

        Returns:
            Their places; None: all rows.
        """
        assert self._rows is not None  # our bug: its caller asks
        rows, row_ids = self._rows
        if self._archive.has_room_for(len(row_ids)):
            return positions
        own = row_ids if positions is None else row_ids[positions]
        places = self._archive.rows_kept(own, self._in_parts.numbers_of([model], rows.x))
        if places is None:
            return positions
        return places if positions is None else positions[places]

    def _taken(self, positions: np.ndarray) -> Rows:
        """Some of the rows; the very same ones if they are asked for again, so that they stay on the device."""
        assert self._rows is not None  # our bug: its caller asks
        if self._latest is None or not np.array_equal(self._latest[0], positions):
            self._latest = positions, self._rows[0].take(positions)
        return self._latest[1]

    def _labels(self, rows: Rows, row_ids: np.ndarray) -> Labels:
        related = None if self._folds is None else self._folds.folds.related
        return Labels(row_ids, as_arrays(rows.y), as_arrays(rows.sample_weight), related, self._names)


def keeping(task: Task, archive: Archive, folds: FoldPlan | None, names: RowNames | None = None) -> Task:
    """A search's task whose trained models leave predictions behind; the task itself where its rows allow none."""
    rows = task.call.validation_rows() if folds is None else task.call.rows
    # Without arrays nobody can tell one row from another, and without targets there is nothing to compare with.
    if rows is None or not (rows.can(Ability.AS_ARRAYS) and rows.can(Ability.LABELLED)):
        return task
    objective = "" if task.objective is None else task.objective.name
    return dataclasses.replace(task, keep=Keeper(archive, rows, folds, objective=objective, names=names))


def drop_weights(
    store: ProjectStore,
    book: TrialBook,
    num_kept_models: int,
    trial_ids: Iterable[str],
    *,
    of_search_only: bool = False,
) -> set[str]:
    """Deletes the weights of trials that are not among the best, and returns which are.

    Args:
        store: of the project.
        book: of its trials.
        num_kept_models: of so many the weights stay, and with several objectives those of the whole front.
        trial_ids: whose weights may be there.
        of_search_only: leave those of the steps after the search.
    """
    best = {one.trial_id for one in book.kept(num_kept_models)}
    # Those that wait or run go on from what lies there.
    still = {one.trial_id for one in book.unended() if one.is_open}
    store.delete_weights(set(trial_ids) - best - still, of_search_only=of_search_only)
    return best


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
