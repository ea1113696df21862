"""Which configurations were tried, and which are left."""

from __future__ import annotations

import itertools
from collections.abc import Hashable, Iterable, Sequence

import numpy as np

from manyfit.core.records import Observation, Value, Values
from manyfit.space.encoding import Encoding

#: Finite spaces of up to this many configurations are listed to find what is left.
MAX_LISTED = 20_000


def keys_of(encoding: Encoding, configurations: Iterable[Values]) -> set[Hashable]:
    """The keys of configurations in today's space.

    A hyperparameter that was discovered after a trial ran had its default in that trial, so it counts as that.
    """
    return {encoding.key(encoding.adapt(values)) for values in configurations}


def tried(encoding: Encoding, completed: Sequence[Observation], pending: Sequence[Values]) -> set[Hashable]:
    """The keys of all configurations that ended, in whatever way, or are on their way."""
    own = (each.values for each in completed if not each.earlier)
    return keys_of(encoding, itertools.chain(own, pending))


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
        left = untried(encoding, known) or []
        chosen = rng.permutation(len(left))[: count - len(found)]
        found += [left[i] for i in chosen]
    return found
