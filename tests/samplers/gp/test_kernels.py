"""The Matérn kernel on mixed, conditional points."""

from __future__ import annotations

import numpy as np
from sklearn.gaussian_process.kernels import Matern

from manyfit.samplers.gp.kernels import Geometry, matern52


def test_golden_matern_is_that_of_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    left, right = rng.random((7, 3)), rng.random((5, 3))
    lengths = np.array([0.3, 1.0, 4.0])
    squares = Geometry(np.zeros(3, dtype=bool)).squared_differences(left, right)
    ours = matern52(np.tensordot(lengths**-2, squares, axes=1))[0]
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
    np.testing.assert_array_equal(geometry.squared_differences(points, points)[0], 1.0 - np.eye(4))


def test_inactive_numbers_are_like_each_other_and_unlike_all_active_ones() -> None:
    geometry = Geometry(np.array([False]))
    squares = geometry.squared_differences(np.array([[np.nan]]), np.array([[np.nan], [0.5], [0.0]]))
    np.testing.assert_allclose(squares[0, 0], [0.0, 0.25, 0.5])


def test_property_correlations_of_mixed_conditional_points_are_positive_semidefinite() -> None:
    rng = np.random.default_rng(1)
    geometry = Geometry(np.array([False, True, False, True]))
    for _ in range(20):
        points = rng.random((40, 4))
        points[:, [1, 3]] = np.round(points[:, [1, 3]] * 3)
        points[rng.random(points.shape) < 0.3] = np.nan
        squares = geometry.squared_differences(points, points)
        correlation = matern52(np.tensordot(10.0 ** rng.uniform(-1, 2, 4), squares, axes=1))[0]
        assert np.linalg.eigvalsh(correlation).min() > -1e-10
