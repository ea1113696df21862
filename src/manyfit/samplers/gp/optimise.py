"""Finding the best point of an acquisition function over a mixed space.

Gradient steps move numbers with many values, a search among neighbours moves the rest; both start from the best of
a pool of random points, points near the best trials so far, and those points pushed onto the faces of the cube
(optima of real searches like to sit on bounds, and uniform points are never there).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

from manyfit.samplers.gp.kernels import Array

Score = Callable[[Array], Array]
"""(m, d) points -> (m,) values, higher is better."""

ScoreWithSlopes = Callable[[Array], tuple[Array, Array]]
"""(m, d) points -> (m,) values and their (m, d) slopes."""

_SCALES = (0.003, 0.02, 0.1, 0.3)


@dataclasses.dataclass(frozen=True)
class Lattice:
    """The coordinates that a proposal may take.

    Args:
        levels: for each dimension the sorted coordinates of its values, or None for a continuous one.
        unordered: (d,) booleans, true for unordered categories.
        coarse_below: ordered dimensions with fewer values are searched value by value, not by gradient.
    """

    levels: Sequence[Array | None]
    unordered: NDArray[np.bool_]
    coarse_below: int = 12

    @property
    def num_dimensions(self) -> int:
        """d."""
        return len(self.levels)

    @property
    def smooth(self) -> NDArray[np.bool_]:
        """(d,) true where gradient steps make sense."""
        return np.array(
            [
                not self.unordered[j] and (levels is None or len(levels) >= self.coarse_below)
                for j, levels in enumerate(self.levels)
            ],
            dtype=bool,
        )

    def snap(self, points: Array) -> Array:
        """Moves every coordinate to the nearest one allowed; NaN stays NaN."""
        snapped = np.clip(points, 0.0, 1.0)
        for j, levels in enumerate(self.levels):
            if levels is not None:
                column = snapped[:, j]
                if len(levels) == 1:
                    snapped[:, j] = np.where(np.isnan(column), column, levels[0])
                    continue
                index = np.clip(np.searchsorted(levels, column), 1, len(levels) - 1)
                below, above = levels[index - 1], levels[index]
                nearest = np.where(column - below <= above - column, below, above)
                snapped[:, j] = np.where(np.isnan(column), column, nearest)
        return snapped

    def uniform(self, num_points: int, rng: np.random.Generator) -> Array:
        """(num_points, d) points, every value of a finite dimension equally likely."""
        points = rng.random((num_points, self.num_dimensions))
        for j, levels in enumerate(self.levels):
            if levels is not None:
                points[:, j] = levels[(points[:, j] * len(levels)).astype(int)]
        return points

    def perturbed(self, centers: Array, num_each: int, rng: np.random.Generator) -> Array:
        """Points near centers: each moves some coordinates, by a scale of its own, and sends a few to a bound.

        Returns:
            (len(centers) * num_each, d) points.
        """
        points = np.repeat(centers, num_each, axis=0)
        shape = points.shape
        moved = rng.random(shape) < np.maximum(rng.random((shape[0], 1)), 1.0 / shape[1])
        scale = np.asarray(_SCALES)[rng.integers(len(_SCALES), size=(shape[0], 1))]
        step = scale * rng.standard_normal(shape)
        fresh = self.uniform(shape[0], rng)
        redrawn = self.unordered | (rng.random(shape) < 0.05)
        target = np.where(redrawn, fresh, points + step)
        faces = (rng.random(shape) < 0.05) & ~self.unordered
        target = np.where(faces, np.round(rng.random(shape)), target)
        return self.snap(np.where(moved, target, points))

    def neighbours(self, point: Array) -> Array:
        """All points that differ in one coarse dimension by one or two values, or in one category; (m, d)."""
        found = []
        for j, levels in enumerate(self.levels):
            if levels is None or np.isnan(point[j]):
                continue
            if self.unordered[j]:
                others = levels[levels != point[j]]
            else:
                index = int(np.argmin(np.abs(levels - point[j])))
                others = np.concatenate([levels[max(index - 2, 0) : index], levels[index + 1 : index + 3]])
            block = np.repeat(point[None, :], len(others), axis=0)
            block[:, j] = others
            found.append(block)
        return np.concatenate(found) if found else np.empty((0, point.size))


def climb(score: ScoreWithSlopes, starts: Array, lattice: Lattice, max_iterations: int) -> Array:
    """Gradient ascent from several starts at once, smooth dimensions only, then a snap to the lattice.

    The starts form one problem, the sum of their scores, so that each step evaluates all of them in one batch.

    Returns:
        (m, d) end points.
    """
    free = lattice.smooth[None, :] & ~np.isnan(starts)
    if not free.any():
        return starts
    points = starts.copy()

    def negative(flat: Array) -> tuple[float, Array]:
        points[free] = flat
        value, slopes = score(points)
        return -float(value.sum()), -slopes[free]

    found = minimize(
        negative,
        starts[free],
        jac=True,
        method="L-BFGS-B",
        bounds=[(0.0, 1.0)] * int(free.sum()),
        options={"maxiter": max_iterations, "maxcor": 20},
    )
    points[free] = found.x
    return lattice.snap(points)


def step_through(score: Score, points: Array, lattice: Lattice, max_steps: int) -> Array:
    """Greedy ascent among neighbours in coarse dimensions, each start for itself.

    Returns:
        (m, d) end points.
    """
    points = points.copy()
    for i, point in enumerate(points):
        best, value = point, score(point[None, :])[0]
        for _ in range(max_steps):
            around = lattice.neighbours(best)
            if not len(around):
                break
            values = score(around)
            k = int(np.argmax(values))
            if values[k] <= value:
                break
            best, value = around[k], values[k]
        points[i] = best
    return points
