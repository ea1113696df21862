"""Space-filling designs that need no memory: the next point is the one that leaves the most even picture.

Notation (Hickernell 1998): the wrap-around discrepancy of points x_1..x_n in the unit cube is, up to constants,
the mean over all pairs of

(1) prod_j (3/2 - |u| (1 - |u|)),  u = x_ij - x_kj

It is even in every projection, not only in the whole cube, and knows no edges, so it does not drive points into
corners as the largest minimum distance does. Adding a point changes (1) by its sum over the points that are there,
which is what `next_point` minimises. A Sobol sequence would need to know its own scramble and position: it is in
`quasi_random`, for whoever wants one.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from manyfit.space.encoding import Encoding

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
        return candidates[0]
    categories = np.array([(each.num_values or 0) * (each.kind == "unordered") for each in encoding.dimensions])
    best: Array = candidates[int(np.argmin(crowding(candidates, points, categories)))]
    return best
