"""What a winner says of the rows to be answered, as a table to hand in."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from manyfit.core.errors import UsageError, explain
from manyfit.data.classes import Classes
from manyfit.data.kinds import KNOWN, UNKNOWN, FitData, kind_of, leaves, map_leaves
from manyfit.data.row_names import names_from, plain_names
from manyfit.data.rows import Rows
from manyfit.ensemble.ensemble import Ensemble
from manyfit.ensemble.in_parts import MOST_NUMBERS
from manyfit.ensemble.members import EnsembleMember, model_predictions
from manyfit.ensemble.outputs import Prediction
from manyfit.ensemble.together import combined
from manyfit.finish.prediction_table import ROW_ID, PredictionTable, columns_of
from manyfit.store.answers import Answers
from manyfit.store.predictions import Archive

_WHERE = "submission(ids=...)"


class AskedSearch(Protocol):
    """What a tuner knows of its latest search."""

    @property
    def asked(self) -> Rows | None:
        """The rows of `search(predict=...)`."""


class AskedTuner(Protocol):
    """What is asked of the tuner whose search was given rows to be answered; `Tuner` is one."""

    @property
    def latest_search(self) -> AskedSearch | None:
        """What it has searched in this process."""

    @property
    def predictions_archive(self) -> Archive:
        """Where the predictions of the search are kept."""


def submission(
    predictor: Any,
    tuner: AskedTuner | None,
    x: FitData = None,
    ids: Any = None,
    *,
    classes: Sequence[str] | None = None,
) -> PredictionTable:
    """What a model or an ensemble says of the rows to be answered.

    Args:
        predictor: a model or an ensemble.
        tuner: whose search was given `predict=`; None: there is none, and `x` says the rows.
        x: rows; None: those of the search.
        ids: a name for each row; None: the index of their frame, or 0, 1, 2, ...
        classes: their names; None: as the ensemble says, where it is one.

    Raises:
        UsageError: no rows, or ids that do not fit them.
    """
    if x is not None:
        unknown = [leaf for leaf in leaves(x) if kind_of(leaf) is UNKNOWN]
        if unknown:
            got = f"{type(unknown[0]).__name__}"
            raise UsageError(explain("submission(x)", got, f"what Keras takes: {KNOWN}", UNKNOWN.instead))
    latest = None if tuner is None else tuner.latest_search
    asked = Rows.of(x) if x is not None else None if latest is None else latest.asked
    said = answers_of(predictor, None if asked is None else asked.x)
    names_of_classes = predictor.classes if isinstance(predictor, Ensemble) and classes is None else classes
    known = None if names_of_classes is None else Classes(names_of_classes)
    columns = columns_of(said, "", known, "submission()")
    count = len(next(iter(columns.values())))
    if ids is not None:
        names = names_from(ids, _WHERE, "Type ids=x_test.index, say.")
    elif asked is not None:
        names = plain_names(asked).names
    else:
        before = None if tuner is None else Answers.beside(tuner.predictions_archive).rows()
        names = np.arange(count) if before is None else before.names.names
    if len(names) != count:
        got = f"{len(names)} ids for {count} rows"
        raise UsageError(explain(_WHERE, got, "one per row", "Pass the ids of the rows of predict=, in their order."))
    return PredictionTable({ROW_ID: names, **columns})


def answers_of(predictor: Any, x: FitData) -> Prediction:
    """What a model or an ensemble says of the rows to be answered.

    Members that have a model predict; those of other programs say what they were given with.

    Args:
        predictor: a model or an ensemble.
        x: the rows; None where only what was kept is at hand.

    Raises:
        UsageError: no rows, and nothing that was kept of a member; or a member of another program without `test=`.
    """
    if not isinstance(predictor, Ensemble):
        if x is None:
            raise _no_rows(type(predictor).__name__)
        return model_predictions(predictor, x, 1024)
    used = [predictor.members[index] for index in predictor.pool.support]
    if x is not None and all(member.models for member in used):
        return predictor.predict(x)
    kept = [None if (x is not None and one.models) or one.test is None else one.test() for one in used]
    for member, said in zip(used, kept, strict=True):
        if said is None and not (x is not None and member.models):
            raise _no_rows(member.name)
    return _together(predictor, used, kept, x)


def _together(
    predictor: Ensemble, used: Sequence[EnsembleMember], kept: Sequence[FitData | None], x: FitData
) -> Prediction:
    """What members say together, some rows at a time: those of whom nothing was kept predict."""
    count = len(next(leaves(next(said for said in kept if said is not None))))
    columns = max(1, predictor.num_outputs) * len(used)
    at_once, found = max(1, MOST_NUMBERS // columns), []
    for start in range(0, count, at_once):
        part = slice(start, start + at_once)
        told = [
            member.predict(Rows.of(x).take(part).x)
            if said is None
            else map_leaves(functools.partial(_some, part), said)
            for member, said in zip(used, kept, strict=True)
        ]
        found.append(combined(told, predictor.pool, predictor.task, predictor.outputs, predictor.num_outputs))
    return map_leaves(lambda *parts: np.concatenate(parts), *found)


def _some(rows: slice, array: FitData) -> np.ndarray:
    return np.asarray(array[rows])


def _no_rows(name: str) -> UsageError:
    return UsageError(
        explain(
            f"predictions of the rows to be answered, by {name}",
            "neither a model with rows, nor what was predicted before",
            "rows that were given as search(predict=x_test) or fit(predict=x_test); of another program its predictions",
            'Type predict=x_test, or x=x_test here; kt.OutsidePredictions("oof.csv", test="test.csv").',
        )
    )
