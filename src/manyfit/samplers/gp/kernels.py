"""The covariance between configurations: Matérn-5/2 with one length scale per dimension of a mixed space.

Notation (arrays; n and m count points, d dimensions):

| symbol | meaning |
|---|---|
| x | (n, d) points of the unit cube, NaN where a dimension is inactive |
| D | (d, n, m) squared difference in each dimension |
| w | (d,) inverse squared length scales, w_j = 1 / l_j^2 |
| r2 | (n, m) squared scaled distance, sum_j w_j D_j (1) |
| k | (n, m) correlation (2) |

(2) k(r) = (1 + sqrt(5) r + 5/3 r^2) exp(-sqrt(5) r)          Rasmussen and Williams 2006, eq. 4.17, nu = 5/2
(3) dk/d(r2) = -5/6 (1 + sqrt(5) r) exp(-sqrt(5) r)           finite at r = 0, unlike dk/dr / r by itself

**Input warping**: numbers whose scale was chosen badly are stretched where the loss changes fast. A weight decay
searched from 0 to 0.1 may matter only below 0.001. On that scale no length scale is right: a short one learns nothing
from the rest of the range, a long one sees no difference where it counts. So each ordered dimension has a monotone map
of the unit interval whose shape is learned with the length scales (Snoek et al. 2014).

Notation, per dimension:

| symbol | meaning |
|---|---|
| x | coordinate, 0 to 1 |
| a, b | shape, positive; a = b = 1 leaves the coordinate alone, a < 1 stretches near 0, b < 1 near 1 |
| u | warped coordinate, 0 to 1 |

(4) u = 1 - (1 - x^a)^b                                     a distribution function of Kumaraswamy 1980
(5) du/dx = a b x^(a-1) (1 - x^a)^(b-1)
"""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

_ROOT5 = float(np.sqrt(5.0))
_INACTIVE_GAP = 0.25  # squared distance between an inactive dimension and the middle of an active one


def matern52(r2: Array) -> tuple[Array, Array]:
    """Correlation and its derivative with respect to the squared distance, eqs. (2) and (3).

    Example:

    >>> correlation, slope = matern52(np.array([0.0]))
    >>> float(correlation[0]), round(float(slope[0]), 4)
    (1.0, -0.8333)
    """
    scaled = np.sqrt(r2)
    scaled *= _ROOT5
    decay = np.exp(-scaled)
    scaled += 1.0
    linear = np.multiply(scaled, decay, out=scaled)
    decay *= r2
    decay *= 5.0 / 3.0
    decay += linear
    linear *= -5.0 / 6.0
    return decay, linear


@dataclasses.dataclass(frozen=True)
class Geometry:
    """How points of a mixed, conditional space are compared, dimension by dimension.

    * Continuous and ordered dimensions: the squared difference on the unit interval.
    * Unordered categories: 0 if equal, else 1. That is a squared Euclidean distance too (of scaled one-hot vectors),
      so (1) stays a squared distance and (2) a valid covariance.
    * Inactive dimensions: two inactive points do not differ. An inactive point sits beside the middle of the unit
      interval, half a unit away from it, so that it is different from every active one; the embedding
      x -> (x, 0), inactive -> (1/2, 1/2) keeps (1) a squared distance. Imputing the default instead would make
      branches of a conditional space share coordinates.

    Args:
        unordered: (d,) booleans, true for unordered categories.
        warped: (k,) indices of the dimensions whose scale is learned, see `Warping`.
    """

    unordered: NDArray[np.bool_]
    warped: NDArray[np.int64] = dataclasses.field(default_factory=lambda: np.empty(0, dtype=np.int64))

    @property
    def num_dimensions(self) -> int:
        """d."""
        return int(self.unordered.size)

    def squared_distances(self, left: Array, right: Array, weights: Array) -> Array:
        """r2 of two sets of points, eq. (1).

        Args:
            left: (n, d) points, NaN where inactive.
            right: (m, d) points.
            weights: (d,) w.

        Returns:
            (n, m) squared distances.
        """
        gaps = self.gaps(left, right)
        return squared_distances(self.coordinates(left), self.coordinates(right), weights, gaps)

    def coordinates(self, points: Array) -> Array:
        """(n, d) what of a point moves continuously, around the middle; 0 for a category, and where inactive."""
        found: Array = np.where(np.isnan(points) | self.unordered, 0.0, points - 0.5)
        return found

    def gaps(self, left: Array, right: Array) -> Gaps:
        """What two sets of points, (n, d) and (m, d), differ by besides their coordinates."""
        left_off, right_off = np.isnan(left), np.isnan(right)
        dimensions = np.flatnonzero(self.unordered | left_off.any(axis=0) | right_off.any(axis=0))
        parts = np.empty((len(dimensions), len(left), len(right)))
        for part, j in zip(parts, dimensions, strict=True):
            if self.unordered[j]:  # NaN differs from itself: two inactive points are the same all the same
                both_off = left_off[:, j, None] & right_off[None, :, j]
                part[:] = (left[:, j, None] != right[None, :, j]) & ~both_off
            else:
                part[:] = _INACTIVE_GAP * (left_off[:, j, None] != right_off[None, :, j])
        return Gaps(dimensions, parts)


@dataclasses.dataclass(frozen=True)
class Gaps:
    """What two sets of points differ by besides their coordinates: in categories, and in what is active.

    Args:
        dimensions: (k,) where there is such a thing.
        parts: (k, n, m) of the squared differences there.
    """

    dimensions: NDArray[np.intp]
    parts: Array


def squared_distances(left: Array, right: Array, weights: Array, gaps: Gaps) -> Array:
    """r2, eq. (1), by one product of matrices instead of an (n, m, d) array of differences.

    Args:
        left: (n, d) coordinates, see `Geometry.coordinates`.
        right: (m, d) coordinates.
        weights: (d,) w.
        gaps: between the same points.

    Returns:
        (n, m) squared distances, at least 0.

    Example:

    >>> none = Gaps(np.empty(0, dtype=np.intp), np.empty((0, 1, 1)))
    >>> squared_distances(np.array([[0.0, 0.0]]), np.array([[1.0, 2.0]]), np.array([1.0, 0.5]), none).tolist()
    [[3.0]]
    """
    weighted = left * weights
    squares = weighted @ (-2.0 * right.T)
    squares += (weighted * left).sum(axis=1)[:, None]
    squares += (right * right) @ weights
    np.maximum(squares, 0.0, out=squares)
    if len(gaps.dimensions):
        squares += np.tensordot(weights[gaps.dimensions], gaps.parts, axes=1)
    return squares


WARP_SPREAD = 0.5  # of the normal prior of log a and log b around 0
WARP_BOUNDS = (-1.5, 1.5)
_TINY = 1e-300
_LEAST_REST = 1e-12  # of 1 - x^a, under powers that may be negative
_END = 1e-3  # slopes are taken no nearer to the ends: there (5) may be infinite


def warp(x: Array, log_a: Array, log_b: Array) -> tuple[Array, Array, Array]:
    """Warped coordinates, eq. (4), and how they change with the shape.

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
    """du/dx, eq. (5), with x kept 0.001 away from the ends."""
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
    """Squared scaled distances of all pairs of points, eq. (1), as a function of theta.

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
