"""Classes that have names: texts in y become numbers once, at the door, and names again in what estimators predict.

Libraries differ in what they take for a class: XGBoost wants 0, 1, 2, ..., Keras knows numbers only. And kept
predictions, folds and ensembles need one order of the columns. So a project has one list of classes, sorted, and
everything inside works with places in it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from manyfit.core.errors import UsageError, explain
from manyfit.data.call import Call
from manyfit.data.rows import FitData

_FACT = "classes"  # where the project keeps them


class ProjectFacts(Protocol):
    """What is needed of a project's store."""

    def get(self, name: str, default: object = None) -> Any: ...
    def put(self, **facts: object) -> None: ...


def named_classes(where: str, y: FitData) -> np.ndarray | None:
    """(n,) texts, where y holds names of classes; None where it holds numbers, or is no array.

    Args:
        where: who asks, for messages.
        y: targets: an array, a list, or a Series, categorical or not.

    Raises:
        UsageError: several columns of names, names that are missing, or names among other things.
    """
    if y is None or isinstance(y, dict) or not (hasattr(y, "__array__") or isinstance(y, list | tuple)):
        return None
    try:
        array = np.asarray(y)
    except ValueError:  # a list of arrays of several outputs, which are no names
        return None
    if array.dtype.kind in "UT":
        names = array.astype(str)
    elif array.dtype.kind == "O" and any(isinstance(one, str) for one in array.flat):
        _check_texts(where, array)
        names = array.astype(str)
    else:
        return None
    if names.ndim == 2 and names.shape[1] == 1:
        names = names[:, 0]
    if names.ndim != 1:
        raise UsageError(
            explain(
                where,
                f"names of classes of shape {names.shape}",
                "one class per row",
                "For several labels pass a column of 0 and 1 for each: sklearn.preprocessing.MultiLabelBinarizer.",
            )
        )
    return names


def _check_texts(where: str, array: np.ndarray) -> None:
    odd = [(row, one) for row, one in enumerate(array.flat) if not isinstance(one, str)]
    if odd:
        row, one = odd[0]
        # What is missing differs by library: None, NaN, pandas.NA. All of them are unlike themselves, or have no type.
        raise UsageError(
            explain(
                where,
                f"names of classes, and in {len(odd)} rows something else: {one!r} of type {type(one).__name__} in row "
                f"{row}",
                "a text for each row",
                "Leave out the rows without a class, or make texts of all: y.astype(str).",
            )
        )


class Classes:
    """The names of a project's classes; their places are the numbers that everything inside works with.

    Args:
        names: sorted, all different.

    Example:

    >>> classes = Classes(["ham", "spam"])
    >>> classes.numbers("evaluate(y)", ["spam", "ham", "spam"]).tolist()
    [1, 0, 1]
    """

    def __init__(self, names: Sequence[str]) -> None:
        self.names = np.asarray(names, dtype=str)

    @classmethod
    def of_project(cls, facts: ProjectFacts) -> Classes | None:
        """Those of a project; None where its classes are numbers."""
        known = facts.get(_FACT)
        return None if known is None else cls(known)

    def numbers(self, where: str, y: FitData) -> FitData:
        """Targets with numbers in place of names; those that are numbers stay as they are.

        Args:
            where: who asks, for messages.
            y: targets.

        Raises:
            UsageError: y has a class that is not among these.
        """
        names = named_classes(where, y)
        if names is None:
            return y
        unknown = sorted(set(names.tolist()).difference(self.names.tolist()))
        if unknown:
            raise UsageError(
                explain(
                    where,
                    f"the class {unknown[0]!r}",
                    f"classes that the search had: {', '.join(map(repr, self.names.tolist()[:20]))}",
                    "Leave out these rows, or search with rows of every class and overwrite=True.",
                )
            )
        return np.searchsorted(self.names, names)


def with_class_numbers(call: Call, facts: ProjectFacts) -> tuple[Call, Classes | None]:
    """A call of `fit` whose targets are numbers, and the names of their classes, if they have any.

    The first search of a project writes the names down; what comes later has to do with these.

    Args:
        call: of `search` or `retrain`.
        facts: of the project.

    Raises:
        UsageError: a class that the project does not know, or names that are no names of classes.
    """
    where, validation = "search(x, y)", call.get("validation_data")
    held_out = validation[1] if isinstance(validation, list | tuple) and len(validation) > 1 else None
    found = [names for names in (named_classes(where, y) for y in (call.y, held_out)) if names is not None]
    if not found:
        return call, Classes.of_project(facts)
    classes = Classes.of_project(facts)
    if classes is None:
        classes = Classes(sorted(set(np.concatenate(found).tolist())))
        facts.put(**{_FACT: classes.names.tolist()})
    call = call.with_(y=classes.numbers(where, call.y))
    if held_out is not None:
        x, y, *weights = validation
        call = call.with_(validation_data=(x, classes.numbers(where, y), *weights))
    return call, classes
