"""Rows to be answered: what `search(predict=x_test)` keeps of every configuration."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np

from manyfit.core.errors import UsageError, explain
from manyfit.core.files import writing
from manyfit.core.records import Plan
from manyfit.data.call import Call
from manyfit.data.identity import fingerprint
from manyfit.data.kinds import FRAMES, Ability, FitData, kind_of, leaves
from manyfit.data.row_names import plain_names
from manyfit.data.rows import Rows
from manyfit.ensemble.in_parts import InParts
from manyfit.ensemble.prediction import Forward
from manyfit.store.answers import Answers, AskedRows
from manyfit.training.base import Task

KeepModels: TypeAlias = Callable[[Sequence[tuple[Plan, Any]]], None]
"""What `Task.keep` is: is called with executions and their trained models."""

_WHERE = "search(predict=...)"


def asked_rows(predict: FitData, call: Call, *, keeps: bool = True) -> Rows:
    """The rows of `search(predict=...)`, as arrays.

    Args:
        predict: x of these rows.
        call: of the search, whose x they have to be like.
        keeps: whether predictions of trials are kept at all.

    Raises:
        UsageError: they are not.
        UsageError: a pipeline that cannot be read, no rows, or rows of another form than those that are trained on.
    """
    if not keeps:
        got = "keep_predictions=False, or trials that code of your own runs"
        instead = "Leave predict= out, and call model.predict(x_test) afterwards."
        raise UsageError(explain(_WHERE, got, "a search that keeps predictions of its trials", instead))
    rows = Rows.of(Rows.of(predict).read(_WHERE).x)
    rows.require(Ability.COUNTED, _WHERE)
    rows.check_lengths(_WHERE)
    if not rows.num_rows:
        raise UsageError(explain(_WHERE, "no rows", "the x of rows that are to be answered", "Leave it out."))
    if call.x is not None and not call.rows.kind.is_pipeline and (odd := _other_form(rows, Rows.of(call.x))):
        raise UsageError(explain(_WHERE, *odd, "Encode x and the rows to be answered in the same way."))
    return rows


def _other_form(rows: Rows, like: Rows) -> tuple[str, str] | None:
    """What rows have, and what those of the same model have, where the two differ."""
    mine, theirs = list(leaves(rows.x)), list(leaves(like.x))
    shapes = [_shapes_of(mine), _shapes_of(theirs)]
    if shapes[0] != shapes[1]:
        return f"rows of the shapes {shapes[0]}", f"those of x: {shapes[1]}"
    for one, other in zip(mine, theirs, strict=True):
        if kind_of(one) is FRAMES and kind_of(other) is FRAMES and np.ndim(one) == 2:
            columns = [list(map(str, frame.columns)) for frame in (one, other)]
            if columns[0] != columns[1]:
                return f"the columns {', '.join(columns[0])}", f"those of x: {', '.join(columns[1])}"
    return None


def _shapes_of(parts: Sequence[FitData]) -> list[tuple[int, ...]]:
    return [tuple(leaf.shape[1:]) if hasattr(leaf, "shape") else np.shape(leaf)[1:] for leaf in parts]


class Answering:
    """Keeps what the trained models of a search say of the rows to be answered; a `Task.keep`.

    What fails here is told by the trainer, and costs the trial nothing.

    Args:
        answers: where to.
        rows: to be answered.
        before: what else is kept of these models, and first; None: nothing.
    """

    def __init__(self, answers: Answers, rows: Rows, before: KeepModels | None) -> None:
        self._answers, self._rows, self._before = answers, rows, before
        self._asked = AskedRows(plain_names(rows), fingerprint(rows.x))
        self._in_parts = InParts(Forward(keeps_rows=True))
        self._noted = False

    def __call__(self, trained: Sequence[tuple[Plan, Any]]) -> None:
        """Predicts and keeps, of executions of the search."""
        if self._before is not None:
            self._before(trained)
        wanted = [(plan, model) for plan, model in trained if plan.phase == "search"]
        if not wanted:
            return
        if not self._noted:
            with writing("which rows are to be answered"):
                self._answers.keep_rows(self._asked)
            self._noted = True
        parts = (found for _, found in self._in_parts([model for _, model in wanted], self._rows.x))
        with writing(f"predictions of rows to be answered by trial {wanted[0][0].trial_id}"):
            self._answers.keep([plan.key for plan, _ in wanted], parts, self._asked.content)


def answering(task: Task, answers: Answers, rows: Rows | None) -> Task:
    """A search's task whose trained models answer rows, too; the task itself where there are none."""
    return task if rows is None else dataclasses.replace(task, keep=Answering(answers, rows, task.keep))
