"""Which kept predictions are of one row: by what is in the rows, by what they are called, by where they lie.

Searches that saw the same arrays have rows of the same content, in whatever order. Searches that saw other encodings of
the same rows have names in common: those of `row_id=`, the index of a frame, or the places in arrays of one length.
Whatever matches them, rows with different targets are never taken for one.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import numpy as np

from manyfit.core.errors import UsageError, explain
from manyfit.data.kinds import FitData, leaves
from manyfit.data.row_names import NamedBy
from manyfit.store.predictions import Kept, Labels


@dataclasses.dataclass(frozen=True, eq=False)
class ToldRows:
    """Kept predictions of one member, with the labels of the search that they come from."""

    name: str
    kept: Kept
    labels: Labels

    def targets(self, places: np.ndarray) -> Labels:
        """What is known of some of its rows, by where they lie among the kept ones."""
        return self.labels.take(self.kept.rows[places])


@dataclasses.dataclass(frozen=True, eq=False)
class Match:
    """The rows that all members predicted.

    Attributes:
        places: for each member, where they lie among its kept rows, in one order.
        note: what is to be said of how they were found; empty where there is nothing.
    """

    places: list[np.ndarray]
    note: str = ""


def rows_in_common(told: Sequence[ToldRows]) -> Match:
    """Finds the rows that all members predicted.

    Names that the user gave to all searches are taken by their word. Else that way is taken which finds most rows:
    their content, the index of frames, or places; of names and places only where all targets agree.

    Raises:
        UsageError: no row is in all of them, or the user's names call rows one that have different targets.
        UsageError: predictions of other rows than the labels'.
    """
    for one in told:
        check_labels(one.name, one.labels, one.kept.rows, one.kept.row_ids)
    if all(one.labels is told[0].labels for one in told):
        return Match(shared_rows([one.kept.row_ids for one in told]))
    if all(_is_named_by(one, NamedBy.ROW_ID) for one in told):
        named = Match(shared_rows([_names(one) for one in told]))
        if (odd := _disagreement(told, named.places)) is not None:
            raise UsageError(
                explain(
                    f"ensemble(), {odd[0]}",
                    f"another target than {told[0].name} for the row {odd[1]!r}",
                    "searches with the same target for each row_id",
                    "Check how row_id= of the searches was made; leave it out to have rows matched by their content.",
                )
            )
        return named
    found = [
        match
        for match in (
            _by_content(told),
            _matched(told, _names, _have_names(told), "by the index of their frames"),
            _matched(told, lambda one: one.kept.rows, _have_order(told), "by their places"),
        )
        if match is not None
    ]
    if not found:
        raise _nothing_in_common()
    return max(found, key=lambda match: len(match.places[0]))  # the first of those that find equally many


def shared_rows(row_ids: Sequence[np.ndarray]) -> list[np.ndarray]:
    """For each array of row identities, where the rows lie that all of them have, in one common order.

    Rows that are there several times are matched as often as all arrays have them: the second copy with the second
    copy. Which of two equal rows is which does not matter, since their features and targets are the same.

    Raises:
        UsageError: no row is in all of them.

    Example:

    >>> [rows.tolist() for rows in shared_rows([np.array([7, 8, 9]), np.array([9, 5, 7])])]
    [[0, 2], [2, 0]]
    """
    # Nearly always all searches validated on the same rows in the same order, and this is all there is to do.
    if all(np.array_equal(ids, row_ids[0]) for ids in row_ids):
        return [np.arange(len(ids)) for ids in row_ids]
    places: list[dict[tuple[Hashable, int], int]] = []
    for ids in row_ids:
        seen: dict[Hashable, int] = {}
        here: dict[tuple[Hashable, int], int] = {}
        for place, identity in enumerate(ids.tolist()):
            seen[identity] = seen.get(identity, -1) + 1
            here[identity, seen[identity]] = place
        places.append(here)
    common = [key for key in places[0] if all(key in here for here in places[1:])]
    if not common:
        raise _nothing_in_common()
    return [np.array([here[key] for key in common]) for here in places]


def check_labels(name: str, labels: Labels, places: np.ndarray, row_ids: np.ndarray) -> None:
    """Refuses predictions of other rows than those at these places among the labels.

    A place alone proves nothing: another search in the same folder may have written other labels since.

    Raises:
        UsageError: they are of other rows.
    """
    if places.max() < len(labels.row_ids) and np.array_equal(labels.row_ids[places], row_ids):
        return
    raise UsageError(
        explain(
            f"ensemble(), {name}",
            "kept predictions of other rows than the latest search's validation rows",
            "predictions of the same rows from every member",
            "Pass x= and y= to have one set of rows predicted by all, or search again with overwrite=True.",
        )
    )


def _by_content(told: Sequence[ToldRows]) -> Match | None:
    try:
        return Match(shared_rows([one.kept.row_ids for one in told]))
    except UsageError:
        return None


def _matched(
    told: Sequence[ToldRows], identities: Callable[[ToldRows], np.ndarray], possible: bool, words: str
) -> Match | None:
    if not possible:
        return None
    try:
        places = shared_rows([identities(one) for one in told])
    except UsageError:
        return None
    if _disagreement(told, places) is not None:
        return None
    return Match(places, f"The searches saw other encodings of these rows; they were matched {words}.")


def _names(one: ToldRows) -> np.ndarray:
    assert one.labels.names is not None  # the caller asks
    return one.labels.names.texts[one.kept.rows]


def _is_named_by(one: ToldRows, *known: NamedBy) -> bool:
    return one.labels.names is not None and one.labels.names.named_by in known


def _have_names(told: Sequence[ToldRows]) -> bool:
    return all(_is_named_by(one, NamedBy.ROW_ID, NamedBy.INDEX) for one in told)


def _have_order(told: Sequence[ToldRows]) -> bool:
    """Whether places tell which row is which: as many rows, in an order that the targets show to be the same.

    Targets that are sorted, or all the same, show no order: those of any two data sets may agree.
    """
    first = told[0].labels
    if any(one.labels.names is None or len(one.labels.row_ids) != len(first.row_ids) for one in told):
        return False
    targets = [_plain(leaf) for leaf in leaves(first.y)]
    steps = [np.diff(leaf.reshape(len(leaf), -1)[:, 0]) for leaf in targets if leaf.dtype.kind in "biuf"]
    return any((step > 0).any() and (step < 0).any() for step in steps)


def _disagreement(told: Sequence[ToldRows], places: Sequence[np.ndarray]) -> tuple[str, Any] | None:
    """A member and the name of a row for which its search has another target than the first one's; None: none has."""
    first, seen = told[0], {id(told[0].labels)}
    for one, rows in zip(told, places, strict=True):
        if id(one.labels) in seen:
            continue  # the members of one search have its labels
        seen.add(id(one.labels))
        here, there = first.targets(places[0]), one.targets(rows)
        pairs = list(zip(leaves(here.y), leaves(there.y), strict=False))
        if len(list(leaves(here.y))) != len(list(leaves(there.y))):
            return one.name, "any"
        for mine, theirs in pairs:
            differs = _differs(_plain(mine), _plain(theirs))
            if differs.any():
                place = int(np.argmax(differs))
                return one.name, str(place if there.names is None else there.names.names[place])
    return None


def _plain(y: FitData) -> np.ndarray:
    """Targets as numbers that can be compared: one-hot rows become the numbers of classes, (n, 1) becomes (n,)."""
    array = np.asarray(y)
    if array.ndim != 2:
        return array
    if array.shape[1] == 1:
        return array[:, 0]
    is_one_hot = bool(((array == 0) | (array == 1)).all() and (array.sum(axis=1) == 1).all())
    return array.argmax(axis=1) if is_one_hot else array


def _differs(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """(n,) whether two targets are different ones."""
    if one.shape != other.shape:
        return np.ones(len(one), dtype=bool)
    if one.dtype.kind in "biuf" and other.dtype.kind in "biuf":  # in single precision, as content is compared
        close = np.isclose(one.astype(np.float64), other.astype(np.float64), rtol=1e-6, atol=0, equal_nan=True)
        same = np.asarray(close)
    else:
        same = np.asarray(one == other)
    return np.logical_not(np.logical_and.reduce(same.reshape(len(one), -1), axis=1))


def _nothing_in_common() -> UsageError:
    return UsageError(
        explain(
            "ensemble()",
            "kept predictions of different rows: not one, with its target, is common to all members",
            "searches that validated on the same rows",
            "Pass the same validation_data=(x, y) to every search, and row_id= where they encode x in different ways; "
            "or pass models, x= and y=.",
        )
    )
