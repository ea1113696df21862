"""The rows that something is trained, tested or chosen on: x, y and sample weights as one thing.

`Rows` wraps what a user gave, once, at the door, and says what it can do: be counted, cut, joined, read into arrays,
read again. Nothing else asks what class an array is of; what a kind of data cannot do is refused before training, in
four parts, by `Rows.require`. Which kinds there are says `manyfit.data.kinds`.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
from collections.abc import Iterator, Mapping

import numpy as np

from manyfit.core.errors import UsageError, explain
from manyfit.data.kinds import (
    ENDLESS_GENERATOR,
    GENERATOR,
    PYDATASET,
    TF_DATA,
    UNKNOWN,
    Ability,
    FitData,
    Indices,
    Kind,
    as_arrays,
    is_nested,
    kind_of,
    leaves,
    map_leaves,
    unpacked,
)

#: Of a pipeline that is read into arrays for convenience only: training itself needs the memory.
MAX_READ_BYTES = 2**30


@dataclasses.dataclass(frozen=True, eq=False)
class Split:
    """Row numbers to train on and row numbers to validate on.

    One whose two parts share a row cannot be made: that no fold leaks into its own training is a matter of
    construction, not of care.

    Raises:
        UsageError: a part is empty, or a row is in both.
    """

    training: np.ndarray  # integers, ascending
    validation: np.ndarray

    def __post_init__(self) -> None:
        where = "CrossValidation"  # what the user typed; splits come from nowhere else
        for name, rows in (("training", self.training), ("validation", self.validation)):
            if len(rows) == 0:
                raise UsageError(explain(where, f"an empty {name} part", "at least one row", "Use fewer folds."))
        # Checked at each construction, though it costs a sort: a leak makes every score of a search too good, silently.
        shared = np.intersect1d(self.training, self.validation)
        if len(shared):
            got = f"{len(shared)} rows in both parts, for instance row {shared[0]}"
            raise UsageError(
                explain(where, got, "parts that share no row", "Pass a splitter whose test rows are not in training.")
            )


@dataclasses.dataclass(frozen=True, eq=False)
class Rows:
    """x, y and sample weights that belong together, row by row.

    Args:
        x: an array, a nested structure of arrays, or a pipeline that brings all three along.
        y: targets of the same rows, nested or not; None where x brings them along, or where there are none.
        sample_weight: one array, or one per output; None: all rows count alike.
        steps: batches in one pass of a pipeline, where that is less than all of it.

    Example:

    >>> rows = Rows.of({"a": np.arange(4), "b": np.arange(8).reshape(4, 2)}, np.array([0, 1, 0, 1]))
    >>> rows.num_rows, rows.take(np.array([3, 0])).x["a"], rows.join(rows).num_rows
    (4, array([3, 0]), 8)
    >>> print(rows.describe())
    4 rows, x as dict of 2 (NumPy array), y as NumPy array
    """

    x: FitData = None
    y: FitData = None
    sample_weight: FitData = None
    steps: int | None = None

    @classmethod
    def of(cls, x: FitData, y: FitData = None, sample_weight: FitData = None) -> Rows:
        """The rows of what `fit` and its siblings are given."""
        return cls(x, y, sample_weight)

    @property
    def parts(self) -> tuple[FitData, FitData, FitData]:
        """x, y and sample weights."""
        return self.x, self.y, self.sample_weight

    @functools.cached_property
    def num_rows(self) -> int | None:
        """How many; None where that cannot be told without reading them."""
        for leaf in leaves(self.x):
            kind = kind_of(leaf)
            if Ability.COUNTED not in kind.can:
                return None
            shape = getattr(leaf, "shape", None)
            if shape is None:
                return len(leaf)
            return None if shape[0] is None else int(shape[0])
        return None

    @functools.cached_property
    def kind(self) -> Kind:
        """The kind of the data; where they are of several kinds, the one that can do least."""
        return min(self.kinds, key=lambda kind: len(kind.can), default=UNKNOWN)

    @functools.cached_property
    def kinds(self) -> set[Kind]:
        """The kinds of all arrays in it."""
        return {self._kind_of(leaf) for part in self.parts for leaf in leaves(part)}

    def _kind_of(self, leaf: FitData) -> Kind:
        kind = kind_of(leaf)
        return ENDLESS_GENERATOR if kind is GENERATOR and self.steps is not None else kind

    @property
    def num_batches(self) -> float | None:
        """Batches in one pass of a pipeline; None: nobody knows, or it is none; inf: it goes on for ever."""
        if self.steps is not None:
            return self.steps
        return self.kind.num_batches(self.x) if self.kind.is_pipeline else None

    def can(self, ability: Ability) -> bool:
        """Whether all of the data can do it."""
        if ability is Ability.AS_ARRAYS and self.num_batches == math.inf:
            return False
        if ability is Ability.LABELLED and not self.kind.is_pipeline:
            return self.y is not None
        return ability in self.kind.can

    def require(self, ability: Ability, where: str, instead: str | None = None) -> None:
        """Refuses data that cannot do what a step wants.

        Args:
            ability: what it wants.
            where: who wants it, as the user typed it.
            instead: what to type instead; None: what the registry says of the kind.

        Raises:
            UsageError: they cannot.
        """
        if not self.can(ability):
            own = self.kind.instead if ability in (Ability.JOINED, Ability.READ_AGAIN) else "Pass x and y as arrays."
            raise UsageError(explain(where, self.describe(), ability.value, instead or own))

    def describe(self) -> str:
        """In a few words, for messages."""
        found = [] if self.num_rows is None else [f"{self.num_rows} rows"]
        for name, part in zip(("x", "y", "sample_weight"), self.parts, strict=True):
            if part is None:
                continue
            kinds = dict.fromkeys(self._kind_of(leaf).name for leaf in leaves(part))
            each = " and ".join(kinds) if kinds else "nothing"
            if is_nested(part):
                each = f"{type(part).__name__} of {sum(1 for _ in leaves(part))} ({each})"
            found.append(f"{name} as {each}")
        return ", ".join(found) or "no data"

    def take(self, indices: Indices) -> Rows:
        """Some of the rows, by their numbers or as a slice.

        Raises:
            UsageError: they cannot be taken out one by one.
        """
        self.require(Ability.TAKEN, "rows by their numbers")
        x, y, weight = (map_leaves(lambda leaf: kind_of(leaf).take(leaf, indices), part) for part in self.parts)
        return Rows(x, y, weight)

    def join(self, other: Rows, where: str = "rows of two data sets") -> Rows:
        """These rows and others behind them.

        Args:
            other: of the same structure.
            where: who asks, for messages.

        Raises:
            UsageError: they cannot be joined: pipelines, other structures, shapes, columns or names, or weights in one
                of the two only, which would have to be invented for the other.
        """
        for rows in (self, other):
            rows.require(Ability.JOINED, where)
        joined = []
        for name, one, two in zip(("x", "y", "sample_weight"), self.parts, other.parts, strict=True):
            if (one is None) != (two is None):
                raise _cannot_join(where, f"{name} in one part of the data only")
            try:
                joined.append(map_leaves(_joined, one, two))
            except ValueError as error:
                raise _cannot_join(where, f"{name} in two parts that do not fit ({error})") from error
        return Rows(*joined)

    def read(self, where: str = "rows as arrays", *, max_bytes: float = math.inf) -> Rows:
        """The rows as arrays: a pipeline is read once, from its beginning; arrays stay as they are.

        Args:
            where: who asks, for messages.
            max_bytes: of the arrays that are read.

        Raises:
            UsageError: they can be read once only, go on for ever, are larger than `max_bytes`, or their batches do not
                fit together.
        """
        if not self.kind.is_pipeline:
            return self
        self.require(Ability.AS_ARRAYS, where)
        batches: list[tuple[FitData, ...]] = []
        num_bytes = 0
        for batch in self._batches():
            batches.append(tuple(map(as_arrays, unpacked(batch))))
            num_bytes += sum(array.nbytes for part in batches[-1] for array in leaves(part))
            if num_bytes > max_bytes:
                got, allowed = f"{self.describe()} of more than {max_bytes:,} bytes", "rows that fit into memory"
                raise UsageError(explain(where, got, allowed, "Pass fewer rows as arrays."))
        if not batches:
            raise UsageError(explain(where, "a pipeline without a batch", "at least one batch", "Look at its source."))
        try:
            whole = [map_leaves(lambda *arrays: np.concatenate(arrays), *part) for part in zip(*batches, strict=True)]
        except ValueError as error:
            got = f"batches that do not fit together ({error})"
            raise UsageError(explain(where, got, "batches of one shape per row", "Pass arrays.")) from error
        return Rows(*whole)

    def _batches(self) -> Iterator[FitData]:
        if self.kind is PYDATASET:
            number = self.num_batches
            return (self.x[index] for index in range(0 if number is None else int(number)))
        batches = self.x.as_numpy_iterator() if self.kind is TF_DATA else iter(self.x)
        return itertools.islice(batches, self.steps)

    def check_lengths(self, where: str) -> None:
        """Refuses arrays of different length.

        Args:
            where: the call, for the message.

        Raises:
            UsageError: x, y or sample weights have another number of rows.
        """
        counts = {
            f"{name}{place}": number
            for name, part in zip(("x", "y", "sample_weight"), self.parts, strict=True)
            for place, leaf in _places(part)
            if (number := Rows(leaf).num_rows) is not None
        }
        if len(set(counts.values())) > 1:
            names = list(counts)
            other = next(name for name in names if counts[name] != counts[names[0]])
            got = f"{names[0]} with {counts[names[0]]} rows and {other} with {counts[other]}"
            raise UsageError(
                explain(where, got, f"as many rows in {names[0]} as in {other}", "Check how they were split.")
            )


def _joined(one: FitData, other: FitData) -> FitData:
    kinds = kind_of(one), kind_of(other)
    if kinds[0] is kinds[1]:
        return kinds[0].join(one, other)
    return np.concatenate([kind.as_array(leaf) for kind, leaf in zip(kinds, (one, other), strict=True)])


def _cannot_join(where: str, got: str) -> UsageError:
    allowed = "x=, y= and weights with training and validation rows, or parts of one structure"
    return UsageError(explain(where, got, allowed, "Pass x=, y= and sample_weight= of all rows."))


def _places(part: FitData, place: str = "") -> Iterator[tuple[str, FitData]]:
    """The arrays of nested data with where they are: `["name"]`, `[0]`."""
    if not is_nested(part):
        yield from () if part is None else [(place, part)]
        return
    for key, each in part.items() if isinstance(part, Mapping) else enumerate(part):
        yield from _places(each, f"{place}[{key!r}]")
