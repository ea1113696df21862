"""Parts of the rows to train on, within each other: the smaller ones are in the larger ones.

Classes keep their shares in each part, groups are in it as a whole or not at all, and of rows in the order of time a
part is the latest ones, which follow each other.
"""

from __future__ import annotations

import dataclasses
import functools

import numpy as np

from manyfit.core import seeds
from manyfit.data.call import Call
from manyfit.data.kinds import Ability


@dataclasses.dataclass(frozen=True, eq=False)
class RowParts:
    """An order of the training rows; a part of n rows is the first n of them.

    Attributes:
        order: (rows,) their numbers.
        ends: numbers of rows at which a part may end; None: at any.

    Example:

    >>> parts = RowParts.latest(10)
    >>> parts.numbers(3), parts.nearest(4)
    (array([7, 8, 9]), 4)
    """

    order: np.ndarray
    ends: np.ndarray | None = None

    @classmethod
    def latest(cls, num_rows: int) -> RowParts:
        """Of rows in the order of time."""
        return cls(np.arange(num_rows)[::-1])

    @classmethod
    def by_class(cls, num_rows: int, classes: np.ndarray | None, seed: int) -> RowParts:
        """Each part has every class in proportion, to within a row.

        Args:
            num_rows: of all rows.
            classes: (rows,) the class of each; None: rows are drawn at random.
            seed: of what is drawn.

        Example:

        >>> parts = RowParts.by_class(100, np.array([0] * 90 + [1] * 10), seed=0)
        >>> [int((parts.numbers(size) >= 90).sum()) for size in (10, 30, 50)]
        [1, 3, 5]
        """
        order = seeds.generator(seed, "parts of the rows").permutation(num_rows)
        if classes is None:
            return cls(order)
        order = order[np.argsort(classes[order], kind="stable")]  # as they were shuffled within each class
        _, starts, counts = np.unique(classes[order], return_index=True, return_counts=True)
        within = np.arange(len(order)) - np.repeat(starts, counts)
        # The middle of each row's share of its class: sorted by it, classes come as evenly as they can.
        return cls(order[np.argsort((within + 0.5) / np.repeat(counts, counts), kind="stable")])

    @classmethod
    def by_group(cls, groups: np.ndarray, seed: int) -> RowParts:
        """Parts of whole groups, in a random order.

        Args:
            groups: (rows,) one label per row.
            seed: of what is drawn.

        Example:

        >>> parts = RowParts.by_group(np.array(["a", "b", "b", "c", "c", "c"]), seed=1)
        >>> parts.ends.tolist(), parts.nearest(4)
        ([3, 5, 6], 5)
        """
        names, group_of, counts = np.unique(groups, return_inverse=True, return_counts=True)
        # The order of groups is drawn, and not that of rows: a part is a sample of groups, as all rows are.
        place = seeds.generator(seed, "parts of the rows").permutation(len(names))
        ends = np.cumsum(counts[np.argsort(place)])
        return cls(np.argsort(place[group_of], kind="stable"), ends)

    @property
    def num_rows(self) -> int:
        """Of all of them."""
        return len(self.order)

    def nearest(self, num_rows: int) -> int:
        """The number of rows of the smallest part that has so many."""
        if self.ends is None:
            return min(num_rows, self.num_rows)
        return int(self.ends[min(int(np.searchsorted(self.ends, num_rows)), len(self.ends) - 1)])

    @functools.cached_property
    def _numbers(self) -> dict[int, np.ndarray]:
        return {}

    def numbers(self, num_rows: int) -> np.ndarray:
        """The rows of a part, ascending; the same array at each call."""
        # The same object each time: members that read the same rows are told by it, and share the order of batches.
        if num_rows not in self._numbers:
            self._numbers[num_rows] = np.sort(self.order[:num_rows])
        return self._numbers[num_rows]


def with_validation(call: Call) -> Call:
    """The same call, whose validation rows are given by themselves, so that a part can be taken of the others."""
    if call.get("validation_data") is not None or (held_out := call.validation_rows()) is None:
        return call
    validation = tuple(part for part in held_out.parts if part is not None)
    return call.with_(rows=call.training_rows(), without=("validation_split",), validation_data=validation)


def why_no_parts(call: Call) -> str | None:
    """Why no part of a call's training rows can be taken; None: it can."""
    if call.rows.kind.is_pipeline or not call.rows.can(Ability.TAKEN) or call.num_rows is None:
        return "rows that come as a stream are read as they come"
    # An epoch is so many steps then, however many rows there are.
    return "steps_per_epoch= says how long an epoch is" if call.get("steps_per_epoch") else None
