"""Input warping: numbers whose scale was chosen badly are stretched where the loss changes fast.

A weight decay searched from 0 to 0.1 may matter only below 0.001. On that scale no length scale is right: a short one
learns nothing from the rest of the range, a long one sees no difference where it counts. So each ordered dimension has
a monotone map of the unit interval whose shape is learned with the length scales (Snoek et al. 2014).

Notation, per dimension:

| symbol | meaning |
|---|---|
| x | coordinate, 0 to 1 |
| a, b | shape, positive; a = b = 1 leaves the coordinate alone, a < 1 stretches near 0, b < 1 near 1 |
| u | warped coordinate, 0 to 1 |

(1) u = 1 - (1 - x^a)^b                                     a distribution function of Kumaraswamy 1980
(2) du/dx = a b x^(a-1) (1 - x^a)^(b-1)
"""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import NDArray

from manyfit.samplers.gp.kernels import Array, Geometry, squared_distances

SPREAD = 0.5  # of the normal prior of log a and log b around 0
BOUNDS = (-1.5, 1.5)
_TINY = 1e-300
_LEAST_REST = 1e-12  # of 1 - x^a, under powers that may be negative
_END = 1e-3  # slopes are taken no nearer to the ends: there (2) may be infinite


def warp(x: Array, log_a: Array, log_b: Array) -> tuple[Array, Array, Array]:
    """Warped coordinates, eq. (1), and how they change with the shape.

    Args:
        x: coordinates from 0 to 1, any shape.
        log_a: logarithm of a, broadcast against x.
        log_b: logarithm of b, likewise.

    Returns:
        u, du/dlog a and du/dlog b, shaped as x.

    Example:

    >>> warp(np.array([0.0, 0.25, 1.0]), np.log(0.5), 0.0)[0].tolist()
    [0.0, 0.5, 1.0]
    """
    a, b = np.exp(log_a), np.exp(log_b)
    log_x = np.log(np.maximum(x, _TINY))
    power = np.where(x > 0.0, np.exp(a * log_x), 0.0)
    rest = np.maximum(1.0 - power, _LEAST_REST)
    lifted = np.where(power < 1.0, rest**b, 0.0)
    return 1.0 - lifted, a * b * rest ** (b - 1.0) * power * log_x, -b * lifted * np.log(rest)


def slope(x: Array, log_a: Array, log_b: Array) -> Array:
    """du/dx, eq. (2), with x kept 0.001 away from the ends."""
    a, b = np.exp(log_a), np.exp(log_b)
    inside = np.clip(x, _END, 1.0 - _END)
    steepness: Array = a * b * inside ** (a - 1.0) * (1.0 - inside**a) ** (b - 1.0)
    return steepness


@dataclasses.dataclass(frozen=True)
class Warping:
    """The maps of some dimensions of a space.

    Args:
        dimensions: (k,) indices of the warped dimensions.
        log_a: (k,) logarithms of a.
        log_b: (k,) logarithms of b.
    """

    dimensions: NDArray[np.int64]
    log_a: Array
    log_b: Array

    def __call__(self, points: Array) -> Array:
        """(n, d) points in warped coordinates; NaN stays NaN."""
        if not len(self.dimensions):
            return points
        warped, x = points.copy(), points[:, self.dimensions]
        warped[:, self.dimensions] = np.where(np.isnan(x), x, warp(x, self.log_a, self.log_b)[0])
        return warped

    def slopes(self, points: Array) -> Array:
        """(n, d) derivatives of warped coordinates; 1 where nothing is warped, and where a dimension is inactive."""
        found = np.ones(points.shape)
        if len(self.dimensions):
            steepness = slope(points[:, self.dimensions], self.log_a, self.log_b)
            found[:, self.dimensions] = np.where(np.isnan(steepness), 1.0, steepness)
        return found


class Distances:
    """Squared scaled distances of all pairs of points, eq. (1) of `kernels`, as a function of theta.

    Args:
        geometry: how points are compared, and which dimensions are warped.
        points: (n, d), NaN where inactive.
    """

    def __init__(self, geometry: Geometry, points: Array) -> None:
        self._warped = geometry.warped
        self._u = geometry.coordinates(points)
        self._gaps = geometry.gaps(points, points)
        self._active = ~np.isnan(points[:, self._warped])
        self._x = np.where(self._active, points[:, self._warped], 0.5)
        self._weights = np.ones(geometry.num_dimensions)
        self._by_a = self._by_b = np.zeros(self._x.shape)

    def at(self, weights: Array, shapes: Array) -> Array:
        """(n, n) squared distances for (d,) inverse squared length scales and (2 k,) log a and log b."""
        self._weights = weights
        if len(self._warped):
            u, self._by_a, self._by_b = warp(self._x, *shapes.reshape(2, -1))
            self._u[:, self._warped] = np.where(self._active, u - 0.5, 0.0)
        return squared_distances(self._u, self._u, weights, self._gaps)

    def slopes(self, pull: Array) -> tuple[Array, Array]:
        """Derivatives of a sum over pairs, at the theta of the last call of `at`.

        Args:
            pull: (n, n), symmetric: the derivative of the sum by the squared distance of each pair.

        Returns:
            (d,) by the weights, (2 k,) by the shapes.
        """
        moved = self._u * pull.sum(axis=1)[:, None] - pull @ self._u
        by_weight = np.einsum("nj,nj->j", self._u, moved)
        if len(self._gaps.dimensions):
            by_weight[self._gaps.dimensions] += 0.5 * np.tensordot(self._gaps.parts, pull, axes=2)
        turned = 2.0 * self._weights[self._warped] * moved[:, self._warped] * self._active
        by_shape = np.einsum("nk,snk->sk", turned, np.stack([self._by_a, self._by_b]))
        return by_weight, by_shape.ravel()
