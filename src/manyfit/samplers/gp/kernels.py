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
        warped: (k,) indices of the dimensions whose scale is learned, see `warping`.
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
