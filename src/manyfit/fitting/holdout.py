"""Rows that nothing trains on, where the caller of `fit` gave none.

Few rows are cut into folds, of which each is held out in turn: one part of them would say little. Of more rows one part
is held out, which costs a fifth of the time of five folds. Labels keep their shares, groups stay together, and of rows
in the order of time the last ones are held out.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from manyfit.core.errors import UsageError, explain
from manyfit.data.call import Call
from manyfit.data.folds import CrossValidation, blocks_of_time
from manyfit.data.kinds import Ability, FitData, as_arrays, is_nested
from manyfit.data.row_names import index_of
from manyfit.data.rows import Rows, Split
from manyfit.finish.related import FEWEST_GROUPS

NUM_FOLDS = 5
#: Below, the score of one part of the rows says less about the order of configurations than their folds do.
FEWEST_ROWS_OF_ONE_PART = 2_000
#: More held-out rows tell no more that is worth their training.
MOST_HELD_OUT = 10_000
#: Values of y that are whole numbers and no more than these are classes, or are spread like classes with no harm.
_MOST_CLASSES = 100


@dataclasses.dataclass(frozen=True, eq=False)
class HeldOut:
    """A call of `fit` that has rows to validate on.

    Attributes:
        call: to search with.
        cross_validation: the folds of the search; None: the call has validation rows of its own, or wants none.
        said: a sentence for people; None where nothing was decided here.
        order: row numbers of what was passed, in the order of training rows, then validation rows; None: as passed.
        groups: of the rows in that order, for folds of all of them.
        in_order_of_time: whether rows must not be shuffled into folds.
    """

    call: Call
    cross_validation: CrossValidation | None = None
    said: str | None = None
    order: np.ndarray | None = None
    groups: np.ndarray | None = None
    in_order_of_time: bool = False

    @property
    def in_folds(self) -> bool:
        """Whether each trial trains on folds of the rows."""
        return self.cross_validation is not None or self.call.get("cross_validation") is not None

    def related(self) -> dict[str, Any]:
        """What `Tuner.confirm` has to know of validation rows that resemble each other; nothing where that says it."""
        counts = self.call.counted_rows()
        num_validation = 0 if counts is None or self.in_folds else counts[1]
        if num_validation and self.in_order_of_time and len(set(blocks_of_time(num_validation))) >= FEWEST_GROUPS:
            return {"time_ordered": True}
        labels = None if self.groups is None or not num_validation else self.groups[-num_validation:]
        # Of a few groups nobody can say how much they differ: then it is rows of these that are spoken of.
        return {} if labels is None or len(np.unique(labels)) < FEWEST_GROUPS else {"groups": labels}


def hold_out(
    call: Call, *, measures: Sequence[str], groups: ArrayLike | None = None, time_ordered: bool = False, seed: int = 0
) -> HeldOut:
    """The call with rows to validate on; what the caller says of them stays.

    Args:
        call: of `fit`.
        measures: names of metrics that decide; where none is measured on validation rows, all rows train.
        groups: one label per row; rows with the same one are held out together.
        time_ordered: rows are in the order of time; the last ones are held out.
        seed: of what is drawn.

    Raises:
        UsageError: groups and an order of time at once, or beside validation rows of the caller's; groups of another
            length, or of one group only; fewer than two rows; data of which no rows can be held out.

    Example:

    >>> call = Call((np.zeros((50, 3)), np.arange(50) % 2))
    >>> hold_out(call, measures=["val_accuracy"]).said
    'No validation rows were given: the 50 rows are cut into 5 folds, each of which is held out in turn, by class.'
    >>> told = hold_out(call, measures=["val_accuracy"], time_ordered=True)
    >>> told.call.counted_rows(), told.said
    ((40, 10), 'No validation rows were given: the last 10 of 50 rows are held out.')
    """
    _check_one(call, groups, time_ordered=time_ordered)
    if _validation_given(call) or not any(name.startswith("val_") for name in measures):
        return HeldOut(call, in_order_of_time=time_ordered)
    rows = call.rows
    rows.require(Ability.TAKEN, "fit(x) without validation_data", "Type fit(x, ..., validation_data=...).")
    rows.check_lengths("fit(x, y)")
    count = rows.num_rows or 0
    if count < 2:
        got, allowed = f"{count} rows, and no validation_data", "two rows or more"
        raise UsageError(explain("fit(x, y)", got, allowed, "Pass more rows."))
    if time_ordered:
        first = count - min(max(1, count // NUM_FOLDS), MOST_HELD_OUT)
        order = np.arange(count)
        said = f"No validation rows were given: the last {count - first:,} of {count:,} rows are held out."
        split = Split(order[:first], order[first:])
        return HeldOut(_split(call, split, order), said=said, order=order, in_order_of_time=True)
    labels = None if groups is None else _checked_groups(groups, count)
    return _at_random(call, rows, labels, seed)


def _at_random(call: Call, rows: Rows, groups: np.ndarray | None, seed: int) -> HeldOut:
    """Folds of few rows, one part of many: groups together, else classes in proportion."""
    count = rows.num_rows or 0
    in_folds = count < FEWEST_ROWS_OF_ONE_PART
    wanted = NUM_FOLDS if in_folds else max(NUM_FOLDS, -(-count // MOST_HELD_OUT))
    num_folds = min(wanted, count if groups is None else len(np.unique(groups)))
    classes = None if groups is not None else classes_of(rows.y, num_folds)
    # `False`, since classes that are too many to be dealt by are none that it should look for either.
    by_class = None if groups is not None else (False if classes is None else classes)
    folds = CrossValidation(num_folds, groups=groups, stratify=by_class, seed=seed)
    how = ", whole groups" if groups is not None else (", by class" if classes is not None else ", drawn at random")
    if in_folds:
        said = f"the {count:,} rows are cut into {num_folds} folds, each of which is held out in turn{how}."
        return HeldOut(call, folds, f"No validation rows were given: {said}", groups=groups)
    split = folds.resolve(rows.x, rows.y).split(0)
    order = np.concatenate([split.training, split.validation])
    said = f"No validation rows were given: {len(split.validation):,} of {count:,} rows are held out{how}."
    return HeldOut(_split(call, split, order), None, said, order, None if groups is None else groups[order])


def _split(call: Call, split: Split, order: np.ndarray) -> Call:
    """The call on two parts of its rows, which keep the names that they had where they came from."""
    names = call.get("row_id")
    if names is None and index_of(call.rows) is not None:
        return call.with_(rows=split)  # a frame's rows bring theirs along
    row_id = order if names is None else np.asarray(names)[order]
    return call.with_(rows=split, row_id=row_id)


def classes_of(y: FitData, num_folds: int) -> np.ndarray | None:
    """The class of each row, to deal rows into folds by; None where y holds no labels.

    Classes that are too rare for each fold to have one count as one class together.

    Args:
        y: targets.
        num_folds: how many folds.

    Example:

    >>> classes_of(np.array([[1, 0], [0, 1], [0, 1], [1, 0]]), num_folds=2)
    array([0, 1, 1, 0])
    >>> classes_of(np.array([0.1, 2.7]), num_folds=2) is None
    True
    """
    if y is None or is_nested(y):
        return None
    labels = np.asarray(as_arrays(y))
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim == 2 and _is_one_hot(labels):
        labels = labels.argmax(axis=1)
    if labels.ndim != 1 or labels.dtype.kind not in "biufUSO":
        return None
    if labels.dtype.kind == "f" and not (np.isfinite(labels).all() and (labels == np.round(labels)).all()):
        return None
    names, classes, counts = np.unique(
        labels.astype(str) if labels.dtype.kind == "O" else labels, return_inverse=True, return_counts=True
    )
    if len(names) > _MOST_CLASSES and labels.dtype.kind in "iuf":
        return None
    rare = counts < num_folds
    if rare.any():
        # Together they may still be too few: then they go with the largest class, as if nothing were known of them.
        into = counts.argmax() if counts[rare].sum() < num_folds else rare.argmax()
        classes = np.where(rare[classes], into, classes)
    return np.unique(classes, return_inverse=True)[1] if np.bincount(classes).max() >= num_folds else None


def _is_one_hot(labels: np.ndarray) -> bool:
    return labels.dtype.kind in "biuf" and bool(
        ((labels == 0) | (labels == 1)).all() and (labels.sum(axis=1) == 1).all()
    )


def _checked_groups(groups: ArrayLike, num_rows: int) -> np.ndarray:
    labels = np.asarray(groups)
    if labels.shape != (num_rows,):
        got, instead = f"groups of shape {labels.shape} for {num_rows} rows", "Pass the groups of all rows of x."
        raise UsageError(explain("fit(groups=...)", got, "one group per row", instead))
    if len(np.unique(labels)) < 2:
        got, allowed = "one group only", "two groups or more, of which some can be held out"
        raise UsageError(explain("fit(groups=...)", got, allowed, "Leave groups out."))
    return labels


def _validation_given(call: Call) -> list[str]:
    found = ["validation_data"] if call.get("validation_data") is not None else []
    return found + (["validation_split"] if call.get("validation_split") else [])


def _check_one(call: Call, groups: ArrayLike | None, *, time_ordered: bool) -> None:
    """Refuses two answers to one question.

    Raises:
        UsageError: that is so.
    """
    given = _validation_given(call)
    given += ["groups"] if groups is not None else []
    given += ["time_ordered"] if time_ordered else []
    if len(given) > 1 and given[-1] in ("groups", "time_ordered"):
        got, allowed = f"{' and '.join(given)}", "one of them: each says which rows are held out"
        raise UsageError(explain("fit(...)", got, allowed, f"Leave out {given[-1]}=."))
