"""Fronts and volumes: small cases by hand, the rest against counting points and against another library's numbers."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from manyfit.stats import pareto

losses = arrays.arrays(float, st.tuples(st.integers(1, 12), st.integers(2, 3)), elements=st.integers(0, 5).map(float))


def dominates(a, b):
    return bool((a <= b).all() and (a < b).any())


@given(losses)
def test_non_dominated_is_its_definition(rows):
    expected = [not any(dominates(other, row) for other in rows) for row in rows]
    assert pareto.non_dominated(rows).tolist() == expected


@given(losses)
def test_every_front_is_dominated_by_the_one_before(rows):
    level = pareto.fronts(rows)
    for row, own in zip(rows, level, strict=True):
        above = rows[level == own - 1]
        assert own == 0 or any(dominates(other, row) for other in above)
        assert not any(dominates(other, row) for other in rows[level == own])


def test_what_is_not_finite_comes_last():
    rows = np.array([[np.nan, 0.0], [3.0, 3.0], [np.inf, -5.0], [1.0, 1.0]])
    assert pareto.non_dominated(rows).tolist() == [False, False, False, True]
    assert pareto.fronts(rows).tolist() == [2, 1, 2, 0]
    assert pareto.places(rows)[[3, 1]].tolist() == [0, 1]
    assert pareto.fronts(np.full((2, 2), np.nan)).tolist() == [0, 0]


# Nine points each from default_rng(0), two decimals, reference 1.1: volumes by Optuna 5.0.0 (`compute_hypervolume`).
@pytest.mark.parametrize(("num_losses", "volume"), [(2, 1.1504), (3, 0.648953), (4, 0.68749403)])
def test_golden_hypervolumes(num_losses, volume):
    rng = np.random.default_rng(0)
    for width in range(2, num_losses + 1):
        rows = rng.random((9, width)).round(2)
    assert pareto.hypervolume(rows, np.full(num_losses, 1.1)) == pytest.approx(volume, rel=1e-12)


@given(losses)
def test_free_boxes_and_the_dominated_volume_fill_the_cube(rows):
    """Cell centres of an integer grid: each is dominated, or in exactly one box."""
    num_losses = rows.shape[1]
    reference = np.full(num_losses, 6.0)
    lower, upper = pareto.free_boxes(rows[pareto.non_dominated(rows)], reference)
    centres = np.stack(np.meshgrid(*[np.arange(6) + 0.5] * num_losses), axis=-1).reshape(-1, num_losses)
    dominated = (centres[:, None] >= rows[None]).all(axis=2).any(axis=1)
    inside = ((centres[:, None] > lower) & (centres[:, None] < upper)).all(axis=2).sum(axis=1)
    assert (inside == ~dominated).all()
    assert pareto.hypervolume(rows, reference) == pytest.approx(dominated.sum())


def test_a_front_with_too_many_boxes_is_thinned():
    angles = np.random.default_rng(1).random((200, 3)) + 0.01
    front = angles / np.linalg.norm(angles, axis=1, keepdims=True)
    lower, upper = pareto.free_boxes(1.0 - front, np.full(3, 1.1))
    assert len(lower) == len(upper) <= 4096


def test_nothing_below_the_reference_has_no_volume():
    assert pareto.hypervolume(np.array([[2.0, 0.0]]), np.ones(2)) == 0.0


@given(losses)
def test_places_are_a_permutation_that_keeps_fronts_in_order(rows):
    places, level = pareto.places(rows), pareto.fronts(rows)
    assert sorted(places) == list(range(len(rows)))
    assert (np.diff(level[np.argsort(places)]) >= 0).all()
