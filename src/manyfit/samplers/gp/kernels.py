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
    scaled = _ROOT5 * np.sqrt(r2)
    decay = np.exp(-scaled)
    linear = (1.0 + scaled) * decay
    return linear + (5.0 / 3.0) * r2 * decay, (-5.0 / 6.0) * linear


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

    def squared_differences(self, left: Array, right: Array) -> Array:
        """D of two sets of points.

        Args:
            left: (n, d) points, NaN where inactive.
            right: (m, d) points.

        Returns:
            (d, n, m) squared differences.
        """
        filled_left, filled_right = self._filled(left), self._filled(right)
        differences = filled_left.T[:, :, None] - filled_right.T[:, None, :]
        squares: Array = np.square(differences, out=differences)
        squares[self.unordered] = squares[self.unordered] > 0.0
        left_off, right_off = np.isnan(left), np.isnan(right)
        for j in np.flatnonzero((left_off.any(axis=0) | right_off.any(axis=0)) & ~self.unordered):
            squares[j] += _INACTIVE_GAP * (left_off[:, j, None] != right_off[None, :, j])
        return squares

    def signed_differences(self, left: Array, right: Array) -> Array:
        """x_j - x'_j, of which (1) is the weighted sum of squares; 0 where a dimension has no slope.

        Returns:
            (d, n, m) differences.
        """
        filled_left, filled_right = self._filled(left), self._filled(right)
        differences: Array = filled_left.T[:, :, None] - filled_right.T[:, None, :]
        differences[self.unordered] = 0.0
        return differences * ~np.isnan(left).T[:, :, None]

    def _filled(self, points: Array) -> Array:
        """Points without NaN: the middle for numbers, a category of its own for categories."""
        return np.where(np.isnan(points), np.where(self.unordered, -1.0, 0.5), points)
