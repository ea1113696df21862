"""Which configurations were tried, which are left, and which of them fills the largest gap.

The space-filling design of `next_point` needs no memory: the next point is the one that leaves the most even picture.

Notation (Hickernell 1998): the wrap-around discrepancy of points x_1..x_n in the unit cube is, up to constants,
the mean over all pairs of

(1) prod_j (3/2 - |u| (1 - |u|)),  u = x_ij - x_kj

It is even in every projection, not only in the whole cube, and knows no edges, so it does not drive points into
corners as the largest minimum distance does. Adding a point changes (1) by its sum over the points that are there,
which is what `next_point` minimises. A Sobol sequence would need to know its own scramble and position: it is in
`non_adaptive`, for whoever wants one.
"""

from __future__ import annotations

import dataclasses
import operator
from collections.abc import Hashable, Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from manyfit.core.records import Observation, Value, Values
from manyfit.space.encoding import Encoding

#: Finite spaces of up to this many configurations are listed to find what is left.
MAX_LISTED = 20_000


class _Settled:
    """Trials that have ended, as one space has them: what was worked out at one proposal serves all that follow.

    By the identity of a trial's values, which are held on to, so that no other's can have the same number.
    """

    def __init__(self, signature: str) -> None:
        self.signature = signature
        self._known: dict[int, tuple[Values, dict[str, Value], Hashable]] = {}
        self.latest = _Listed([], [], frozenset())

    def of(self, encoding: Encoding, values: Values) -> tuple[dict[str, Value], Hashable]:
        """The values as the space has them, and their key."""
        found = self._known.get(id(values))
        if found is None or found[0] is not values:
            adapted = encoding.adapt(values)
            found = self._known[id(values)] = values, adapted, encoding.key(adapted)
        return found[1], found[2]

    def listed(self, encoding: Encoding, completed: Sequence[Observation]) -> _Listed:
        """The same of a history, and the keys of its own trials."""
        # The history of the question before and a few trials: none of those that were there is gone through.
        before = self.latest
        same = list(map(operator.is_, before.trials, completed))
        is_longer = len(same) == len(before.trials) and False not in same
        new = completed[len(same) :] if is_longer else completed
        rows = [self.of(encoding, each.values) for each in new]
        own = {key for each, (_, key) in zip(new, rows, strict=True) if not each.earlier}
        # Another one and not the same, changed: other threads may read it.
        self.latest = _Listed(
            list(completed),
            before.rows + rows if is_longer else rows,
            before.own | own if is_longer else frozenset(own),
        )
        return self.latest


@dataclasses.dataclass(frozen=True)
class _Listed:
    """What is known of one history."""

    trials: list[Observation]
    rows: list[tuple[dict[str, Value], Hashable]]
    own: frozenset[Hashable]  # keys of the trials of this search


_latest = _Settled("")


def _listed(encoding: Encoding, completed: Sequence[Observation]) -> _Listed:
    global _latest
    known = _latest
    if known.signature != encoding.signature:
        known = _latest = _Settled(encoding.signature)
    return known.listed(encoding, completed)


def settled(encoding: Encoding, completed: Sequence[Observation]) -> list[tuple[dict[str, Value], Hashable]]:
    """Values of trials as today's space has them, and their keys.

    A search of 2,000 trials asks 2,000 times, and all but the last few are the same each time.

    Args:
        encoding: of the space.
        completed: the trials; their values do not change any more.
    """
    return list(_listed(encoding, completed).rows)


def keys_of(encoding: Encoding, configurations: Iterable[Values]) -> set[Hashable]:
    """The keys of configurations in today's space.

    A hyperparameter that was discovered after a trial ran had its default in that trial, so it counts as that.
    """
    return {encoding.key(encoding.adapt(values)) for values in configurations}


def tried(encoding: Encoding, completed: Sequence[Observation], pending: Sequence[Values]) -> set[Hashable]:
    """The keys of all configurations that ended, in whatever way, or are on their way."""
    return {*_listed(encoding, completed).own, *keys_of(encoding, pending)}


def untried(encoding: Encoding, known: set[Hashable]) -> list[dict[str, Value]] | None:
    """What is left of a finite space, in grid order.

    Returns:
        Configurations, an empty list if all were tried; None if the space is infinite or too large to list. In a
        space that large chance alone finds what is new, unless nearly all of it has been tried.
    """
    if encoding.num_configurations(MAX_LISTED) is None:
        return None
    # With as many values as the longest dimension has, the grid of a finite space leaves nothing out.
    longest = max((each.num_values or 0 for each in encoding.dimensions), default=1)
    return [values for values in encoding.enumerate(max(longest, 1)) if encoding.key(values) not in known]


def draw_new(encoding: Encoding, known: set[Hashable], count: int, rng: np.random.Generator) -> list[dict[str, Value]]:
    """Random configurations, each new: by the space's own distribution, without replacement.

    Collisions are redrawn. After some in a row, what is left of a finite space is listed and drawn from evenly, so
    that every last configuration is found, and exhaustion is a fact and not a guess.

    Args:
        encoding: of the space.
        known: keys that are taken; not changed.
        count: how many are wanted.
        rng: the source of randomness.

    Returns:
        Up to `count` configurations; fewer only if no more are left.
    """
    known = set(known)
    found: list[dict[str, Value]] = []
    # In a row, not in total: a long search has many collisions, and each proves nothing about what is left.
    failures = 0
    while len(found) < count and failures < 100:
        values = encoding.random(rng)
        key = encoding.key(values)
        if key in known:
            failures += 1
            continue
        failures = 0
        known.add(key)
        found.append(values)
    if len(found) < count:
        # None (too large to list) counts as nothing found: a space that large is practically never exhausted.
        left = untried(encoding, known) or []
        chosen = rng.permutation(len(left))[: count - len(found)]
        found += [left[i] for i in chosen]
    return found


Array = NDArray[np.float64]

_NUM_CANDIDATES = 512
_AVERAGE = 4.0 / 3.0  # of (1) in one dimension, over uniform pairs: what a dimension says that is not active in both


def crowding(candidates: Array, points: Array, num_categories: Array) -> Array:
    """The sum of eq. (1) over points, for each candidate: how crowded its place is.

    Args:
        candidates: (m, d), NaN where inactive.
        points: (n, d).
        num_categories: (d,) number of categories of unordered dimensions, 0 for others.

    Returns:
        (m,).
    """
    # Dimension by dimension: an array of (candidates, points, dimensions) would take gigabytes in long searches.
    product = np.ones((len(candidates), len(points)))
    for j, categories in enumerate(num_categories):
        gap = np.abs(candidates[:, j, None] - points[None, :, j])
        if categories:
            # Equal categories count as equal numbers do; the others share what keeps the average.
            other = (_AVERAGE * categories - 1.5) / (categories - 1)
            factor = np.where(gap == 0.0, 1.5, other)
        else:
            factor = 1.5 - gap * (1.0 - gap)
        product *= np.where(np.isnan(gap), _AVERAGE, factor)
    total: Array = product.sum(axis=1)
    return total


def next_point(encoding: Encoding, points: Array, rng: np.random.Generator, candidates: Array | None = None) -> Array:
    """A point that fills the largest gap between points.

    Args:
        encoding: of the space.
        points: (n, d) points that are there.
        rng: draws the candidates.
        candidates: (m, d) to choose from; None: anywhere.

    Returns:
        (d,) coordinates of a legal configuration.
    """
    if candidates is None:
        candidates = encoding.snap(rng.random((_NUM_CANDIDATES, len(encoding))))
    if not len(points):
        first: Array = candidates[0]
        return first
    categories = np.array([(each.num_values or 0) * (each.kind == "unordered") for each in encoding.dimensions])
    best: Array = candidates[int(np.argmin(crowding(candidates, points, categories)))]
    return best
