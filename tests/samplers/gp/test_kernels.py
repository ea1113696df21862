"""The Matérn kernel on mixed, conditional points."""

from __future__ import annotations

import numpy as np
from sklearn.gaussian_process.kernels import Matern

from manyfit.samplers.gp.kernels import Geometry, matern52


def test_golden_matern_is_that_of_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    left, right = rng.random((7, 3)), rng.random((5, 3))
    lengths = np.array([0.3, 1.0, 4.0])
    ours = matern52(Geometry(np.zeros(3, dtype=bool)).squared_distances(left, right, lengths**-2))[0]
    theirs = Matern(length_scale=lengths, nu=2.5)(left, right)
    np.testing.assert_allclose(ours, theirs, atol=1e-12)


def test_slope_equals_finite_differences_also_near_zero() -> None:
    r2 = np.array([1e-6, 1e-3, 0.3, 2.0, 40.0])
    step = 1e-7 * np.maximum(r2, 1e-2)
    numeric = (matern52(r2 + step)[0] - matern52(r2 - step)[0]) / (2 * step)
    np.testing.assert_allclose(matern52(r2)[1], numeric, rtol=1e-4)


def test_categories_differ_equally_and_inactive_ones_are_a_category() -> None:
    geometry = Geometry(np.array([True]))
    points = np.array([[0.1], [0.5], [0.9], [np.nan]])
    np.testing.assert_array_equal(geometry.squared_distances(points, points, np.array([3.0])), 3.0 - 3.0 * np.eye(4))


def test_inactive_numbers_are_like_each_other_and_unlike_all_active_ones() -> None:
    geometry = Geometry(np.array([False]))
    active = np.array([[np.nan], [0.5], [0.0]])
    squares = geometry.squared_distances(np.array([[np.nan]]), active, np.array([2.0]))
    np.testing.assert_allclose(squares[0], [0.0, 0.5, 1.0])


def test_property_correlations_of_mixed_conditional_points_are_positive_semidefinite() -> None:
    rng = np.random.default_rng(1)
    geometry = Geometry(np.array([False, True, False, True]))
    for _ in range(20):
        points = rng.random((40, 4))
        points[:, [1, 3]] = np.round(points[:, [1, 3]] * 3)
        points[rng.random(points.shape) < 0.3] = np.nan
        correlation = matern52(geometry.squared_distances(points, points, 10.0 ** rng.uniform(-1, 2, 4)))[0]
        assert np.linalg.eigvalsh(correlation).min() > -1e-10
