"""Several losses at once: dominance, fronts, crowding, and the volume that a front leaves free.

Notation (n points, m losses, lower is better):

| symbol | meaning |
|---|---|
| Y | (n, m) losses |
| F | (f, m) a front: no row dominates another |
| r | (m,) the reference point: what is not below it in every loss counts for nothing |

y dominates z if it is nowhere worse and somewhere better. The hypervolume of F is the volume of the points below r
that F dominates or equals (Zitzler and Thiele 1998). What F leaves free below r is a union of boxes, `free_boxes`.
"""

from __future__ import annotations

import itertools

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

_MAX_BOXES = 4_096


def non_dominated(losses: Array) -> NDArray[np.bool_]:
    """Which rows no other row dominates. Equal rows do not dominate each other; a row with NaN or inf is dominated.

    Args:
        losses: (n, m).

    Returns:
        (n,) booleans.

    Example:

    >>> non_dominated(np.array([[1.0, 2.0], [2.0, 1.0], [2.0, 2.0]])).tolist()
    [True, True, False]
    """
    finite = np.asarray(np.isfinite(losses).all(axis=1))
    known = np.where(finite[:, None], losses, np.inf)
    no_worse = (known[:, None, :] <= known[None, :, :]).all(axis=2)
    better = (known[:, None, :] < known[None, :, :]).any(axis=2)
    kept: NDArray[np.bool_] = finite & ~(no_worse & better).any(axis=0)
    return kept


def fronts(losses: Array) -> NDArray[np.int64]:
    """The front of each row: 0 for those that nothing dominates, 1 for those that only front 0 dominates, and so on.

    Rows that are not finite share the last front (Deb et al. 2002, fast non-dominated sort).

    Example:

    >>> fronts(np.array([[1.0, 1.0], [2.0, 2.0], [np.inf, 0.0]])).tolist()
    [0, 1, 2]
    """
    found = np.full(len(losses), -1)
    level = 0
    while (found < 0).any():
        left = np.flatnonzero(found < 0)
        best = non_dominated(losses[left])
        if not best.any():
            best[:] = True
        found[left[best]] = level
        level += 1
    return found


def crowding(losses: Array) -> Array:
    """How much room each row of one front has: the perimeter of the box between its neighbours (Deb et al. 2002).

    Args:
        losses: (n, m), finite.

    Returns:
        (n,) distances; infinite for the ends of the front.

    Example:

    >>> crowding(np.array([[0.0, 1.0], [0.5, 0.5], [1.0, 0.0]])).tolist()
    [inf, 2.0, inf]
    """
    room = np.zeros(len(losses))
    for column in losses.T:
        order = np.argsort(column, kind="stable")
        span = float(column[order[-1]] - column[order[0]]) if len(order) else 0.0
        if span > 0.0:
            room[order[1:-1]] += (column[order[2:]] - column[order[:-2]]) / span
        if len(order):
            room[order[[0, -1]]] = np.inf
    return room


def places(losses: Array) -> NDArray[np.int64]:
    """The place of each row when all are sorted: by front, then by room in its front, 0 for the first.

    Example:

    >>> places(np.array([[2.0, 2.0], [0.5, 0.5], [1.0, 0.0]])).tolist()
    [2, 0, 1]
    """
    level = fronts(losses)
    room = np.zeros(len(losses))
    finite = np.isfinite(losses).all(axis=1)
    for each in np.unique(level[finite]):
        rows = finite & (level == each)
        room[rows] = crowding(losses[rows])
    order = np.lexsort((-room, level))
    found = np.empty(len(losses), dtype=np.int64)
    found[order] = np.arange(len(losses))
    return found


def free_boxes(front: Array, reference: Array) -> tuple[Array, Array]:
    """The region below the reference that no point of the front dominates, as boxes that do not overlap.

    The first m - 1 losses are cut at every coordinate of the front; above each cell of that grid the last loss is
    free up to the lowest front point that is nowhere above the cell. A front whose grid would have more than 4,096
    cells is thinned to its roomiest points first, so the boxes then also cover some volume that is dominated.

    Args:
        front: (f, m) points.
        reference: (m,).

    Returns:
        (b, m) lower corners, -inf where unbounded, and (b, m) upper corners.

    Example:

    >>> lower, upper = free_boxes(np.array([[0.0, 0.0]]), np.array([1.0, 2.0]))
    >>> lower.tolist(), upper.tolist()
    ([[-inf, -inf], [0.0, -inf]], [[0.0, 2.0], [1.0, 0.0]])
    """
    front = front[(front < reference).all(axis=1)]
    num_losses = len(reference)
    limit = int(_MAX_BOXES ** (1.0 / max(num_losses - 1, 1)))
    if len(front) >= limit:
        front = front[np.argsort(-crowding(front), kind="stable")[: limit - 1]]
    cuts = [np.concatenate([[-np.inf], np.unique(front[:, j]), [reference[j]]]) for j in range(num_losses - 1)]
    lower, upper = [], []
    for cell in itertools.product(*(range(len(cut) - 1) for cut in cuts)):
        low = [cut[i] for cut, i in zip(cuts, cell, strict=True)]
        below = (front[:, :-1] <= low).all(axis=1)
        lower.append([*low, -np.inf])
        ceiling = min(front[below, -1].min(initial=np.inf), reference[-1])
        upper.append([*(cut[i + 1] for cut, i in zip(cuts, cell, strict=True)), ceiling])
    return np.array(lower), np.array(upper)


def hypervolume(losses: Array, reference: Array) -> float:
    """The volume below the reference that the rows dominate.

    Args:
        losses: (n, m); rows that are not below the reference add nothing.
        reference: (m,).

    Example:

    >>> hypervolume(np.array([[0.0, 0.5], [0.5, 0.0]]), np.array([1.0, 1.0]))
    0.75
    """
    inside = losses[(losses < reference).all(axis=1)]
    if not len(inside):
        return 0.0
    front = np.unique(inside[non_dominated(inside)], axis=0)
    ideal = front.min(axis=0)
    lower, upper = free_boxes(front, reference)
    sides = np.maximum(upper, ideal) - np.maximum(lower, ideal)
    return float(np.prod(reference - ideal) - np.prod(sides, axis=1).sum())
