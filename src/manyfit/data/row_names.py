"""What rows are called, whatever is in them: by `row_id=`, by the index of a frame, or by their places.

`manyfit.data.identity` knows a row again by its content, which is the safest as long as the content stays. Members that
see other encodings of the same rows (one-hot for a network, categories for boosting) have no content in common; there
the names of rows tell which is which. Names are kept as they were given, and compared as texts: a file knows no types.
"""

from __future__ import annotations

import dataclasses
import enum
import functools
import re
from collections.abc import Hashable, Iterator
from typing import Any

import numpy as np

from manyfit.core.errors import UsageError, explain
from manyfit.data.call import Call
from manyfit.data.kinds import FRAMES, Ability, FitData, Indices, kind_of, leaves
from manyfit.data.rows import Rows

_FLOAT = re.compile(r"-?\d+\.\d*(?:[eE][+-]?\d+)?")


class NamedBy(enum.StrEnum):
    """Where the names of rows come from."""

    ROW_ID = "row_id"  # the user said them
    INDEX = "index"  # of a pandas frame
    POSITION = "position"  # 0, 1, 2, ...


@dataclasses.dataclass(frozen=True, eq=False)
class RowNames:
    """One name per row, all different.

    Attributes:
        names: (n,) integers, or texts.
        named_by: who gave them.

    Example:

    >>> RowNames(np.array([3, 1]), NamedBy.ROW_ID).texts.tolist()
    ['3', '1']
    """

    names: np.ndarray
    named_by: NamedBy

    def take(self, indices: Indices) -> RowNames:
        """Some of them."""
        return RowNames(self.names[indices], self.named_by)

    @functools.cached_property
    def texts(self) -> np.ndarray:
        """(n,) the names as texts, for comparison with those of other searches and of files."""
        return self.names.astype(str)


def names_from(given: Any, where: str, instead: str) -> np.ndarray:
    """(n,) names of rows as integers, or as texts; whole numbers of any type become integers.

    Args:
        given: an array, a list, a Series or an index with one name per row.
        where: who asks, for messages.
        instead: what to type instead, for messages.

    Raises:
        UsageError: not one name per row, a name that is missing, or the same name twice.

    Example:

    >>> names_from([7.0, 8.0], "search(row_id=...)", "").tolist(), names_from(["a", 8], "", "").tolist()
    ([7, 8], ['a', '8'])
    """
    array = np.asarray(given)
    allowed = "one name per row, all different: integers or texts"
    if array.ndim != 1:
        raise UsageError(explain(where, f"an array of shape {array.shape}", allowed, instead))
    if array.dtype.kind in "iu":
        names = array.astype(np.int64)
    else:
        texts = list(map(text_of, array.tolist() if array.dtype.kind != "M" else array.astype(str)))
        if (missing := next((row for row, text in enumerate(texts) if not text), None)) is not None:
            raise UsageError(explain(where, f"no name for row {missing}", allowed, instead))
        whole = bool(texts) and array.dtype.kind == "f" and all(text.lstrip("-").isdigit() for text in texts)
        names = np.array(list(map(int, texts)), dtype=np.int64) if whole else np.array(texts, dtype=str)
    if (twice := repeated(names)) is not None:
        raise UsageError(explain(where, f"the name {twice!r} for more than one row", allowed, instead))
    return names


def text_of(name: Hashable) -> str:
    """A name as texts compare it: 7, 7.0 and "7.0" are "7"; "" is what is missing (None, NaN, NaT, an empty text).

    Example:

    >>> [text_of(one) for one in (7.0, "7.00e+00", "007", " 7b", None)]
    ['7', '7', '007', '7b', '']
    """
    if name is None or type(name).__name__ in ("NAType", "NaTType") or name != name:
        return ""
    text = str(name).strip()
    # Integers become floats on their way through tables and files; other texts are left as they are.
    return str(int(float(text))) if _FLOAT.fullmatch(text) and float(text).is_integer() else text


def repeated(names: np.ndarray) -> Any:
    """The first name, in order, that is there more than once; None where all are different."""
    found, counts = np.unique(names, return_counts=True)
    return found[counts > 1][0].item() if (counts > 1).any() else None


def names_of_kept_rows(row_id: Any, call: Call, *, has_folds: bool) -> RowNames | None:
    """The names of the rows whose predictions a search keeps.

    Args:
        row_id: what the user gave: a name for each row of x, and behind these for each row of `validation_data`; None:
            nothing.
        call: of the search.
        has_folds: whether all rows of x validate, and not those that the call holds out.

    Returns:
        None where nothing is held out, or where rows have no order of their own: those of pipelines.

    Raises:
        UsageError: names for another number of rows, of rows that cannot be counted, or that are none; see
            `names_from`.
    """
    held_out = None if has_folds else call.validation_rows()
    kept = call.rows if has_folds else held_out
    separate = call.get("validation_data") is not None and not has_folds
    if row_id is not None:
        whole = _given_names(row_id, call.rows, held_out if separate else None)
        if kept is None or (count := kept.num_rows) is None:
            return None
        return whole.take(slice(len(whole.names) - count, None))
    if kept is None or kept.num_rows is None or not kept.can(Ability.TAKEN):
        return None
    if (index := index_of(kept)) is not None:
        return RowNames(index, NamedBy.INDEX)
    first = 0 if has_folds or separate else (call.num_rows or kept.num_rows) - kept.num_rows
    return RowNames(np.arange(first, first + kept.num_rows), NamedBy.POSITION)


def plain_names(rows: Rows) -> RowNames:
    """Names of rows that nobody has given any: the index of a frame, or their places."""
    index = index_of(rows)
    return (
        RowNames(np.arange(rows.num_rows or 0), NamedBy.POSITION) if index is None else RowNames(index, NamedBy.INDEX)
    )


def _given_names(row_id: Any, rows: Rows, separate: Rows | None) -> RowNames:
    where, instead = "search(row_id=...)", "Type row_id=frame.index, say, of the frame that x was made of."
    for one in (rows, separate):
        if one is not None:
            one.require(Ability.TAKEN, where, "Pass x and y as arrays, or leave row_id out.")
    names = names_from(row_id, where, instead)
    counts = [rows.num_rows or 0, *([] if separate is None else [separate.num_rows or 0])]
    if len(names) != sum(counts):
        of = f"{counts[0]} rows of x" + ("" if separate is None else f" and {counts[1]} rows of validation_data")
        if separate is not None:
            instead = "Type row_id=[*row_id_of_x, *row_id_of_x_val]."
        allowed = "one name per row" + ("" if separate is None else ", those of x first")
        raise UsageError(explain(where, f"{len(names)} names for {of}", allowed, instead))
    return RowNames(names, NamedBy.ROW_ID)


def index_of(rows: Rows) -> np.ndarray | None:
    """(n,) what the index of a frame calls the rows; None where there is no frame, or its index only counts.

    An index that has a name twice, or one that is missing, names no row.
    """
    for frame in _frames_of(rows):
        index = frame.index
        # A new index of 0, 1, 2, ... says nothing that places do not say.
        if type(index).__name__ == "RangeIndex" and index.start == 0 and index.step == 1:
            continue
        try:
            return names_from(index, "", "")
        except UsageError:
            continue
    return None


def _frames_of(rows: Rows) -> Iterator[FitData]:
    for part in rows.parts[:2]:
        yield from (leaf for leaf in leaves(part) if kind_of(leaf) is FRAMES)
