"""Grids."""

import fractions

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from manyfit.space.scale import LinearGrid, RatioGrid, as_typed, common_step


@pytest.mark.parametrize(
    ("low", "high", "step", "values"),
    [
        (0, 1, 0.1, [0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0]),
        (0, 1, 0.2, [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]),
        (0, 0.6, 0.1, [0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6]),
        (0, 1, 0.3, [0.0, 0.3, 0.6, 0.9]),
        (0, 1, 1 / 3, [0.0, 1 / 3, 2 / 3, 1.0]),
        (0, 0.1 + 0.2, 0.1, [0.0, 0.1, 0.2, 0.30000000000000004]),
        (0, 0.6, 0.1 + 0.2, [0.0, 0.30000000000000004, 0.6]),  # in binary, 0.6 is short of two steps
        (-1, 1, 0.5, [-1.0, -0.5, 0.0, 0.5, 1.0]),
        (0.2, 0.2, 0.1, [0.2]),
        (0, 1, 3, [0.0]),
    ],
)
def test_steps_of_typed_decimals(low, high, step, values):
    assert list(LinearGrid(low, high, step, float)) == values
    assert len(LinearGrid(low, high, step, float)) == len(values)


def test_the_shortest_text_of_a_float_is_meant():
    assert LinearGrid(0, 1, 0.1, float)[3] == 0.3  # 3 * 0.1 is 0.30000000000000004
    assert as_typed(0.1) == as_typed(1) / 10


def test_powers_of_ten_are_exact():
    assert list(RatioGrid(1e-5, 1e-1, 10, float)) == [1e-5, 1e-4, 1e-3, 1e-2, 1e-1]


def test_ratios_that_miss_the_end():
    assert list(RatioGrid(1, 100, 3, int)) == [1, 3, 9, 27, 81]
    assert list(RatioGrid(1, 243, 3, int)) == [1, 3, 9, 27, 81, 243]  # floor(log 243 / log 3) is 4 in binary


def test_mirrored_ratios_ascend_and_are_dense_at_the_top():
    assert list(RatioGrid(1, 1000, 10, float, mirrored=True)) == [1.0, 901.0, 991.0, 1000.0]


def test_a_million_values_are_a_sequence_without_a_list():
    grid = LinearGrid(0, 1, 1e-6, float)
    assert len(grid) == 1_000_001
    assert (grid[-1], grid[5]) == (1.0, 5e-6)
    assert grid[2:5] == (2e-6, 3e-6, 4e-6)
    with pytest.raises(IndexError):
        grid[1_000_001]
    assert repr(grid).endswith("9e-06, ...)")


def test_nearest_clips_and_rounds():
    grid = LinearGrid(0, 10, 2, int)
    assert grid.nearest([-5, 0.9, 1.1, 9.2, 99]).tolist() == [0, 0, 1, 5, 5]
    ratios = RatioGrid(1, 1000, 10, float)
    assert ratios.nearest([0.1, 3, 4, 1e9]).tolist() == [0, 0, 1, 3]
    assert RatioGrid(1, 1000, 10, float, mirrored=True).nearest([0, 950, 995, 2000]).tolist() == [0, 1, 2, 3]


def test_a_value_is_on_the_grid_up_to_rounding_only():
    grid = LinearGrid(0, 1, 0.1, float)
    assert grid.on(0.1 + 0.2)
    assert not grid.on(0.35)
    assert not grid.on(1.1)
    assert not LinearGrid(0, 1e-6, 1e-7, float).on(1.5e-7)


@settings(deadline=None)
@given(
    low=st.integers(-1000, 1000),
    step=st.integers(1, 400),
    count=st.integers(1, 300),
    decimals=st.integers(0, 5),
    excess=st.fractions(0, fractions.Fraction(9, 10)),
)
def test_linear_grids_against_exact_fractions(low, step, count, decimals, excess):
    unit = fractions.Fraction(1, 10**decimals)
    exact = [low * unit + index * step * unit for index in range(count)]
    high = exact[-1] + excess * step * unit
    grid = LinearGrid(float(exact[0]), float(high), float(step * unit), float)
    assert list(grid) == [float(value) for value in exact] or list(grid)[-1] == float(high)
    assert len(grid) == count
    assert grid.nearest(list(grid)).tolist() == list(range(count))


@pytest.mark.parametrize(
    ("first", "second", "step"),
    [
        (LinearGrid(0, 10, 2, int), LinearGrid(0, 20, 2, int), 2),
        (LinearGrid(0, 10, 2, int), LinearGrid(1, 20, 2, int), 1),
        (LinearGrid(0, 12, 4, int), LinearGrid(0, 12, 6, int), 2),
        (LinearGrid(0, 1, 0.1, float), LinearGrid(0.05, 1, 0.1, float), 0.05),
        (LinearGrid(0, 1, 0.25, float), LinearGrid(0, 1, 0.1, float), 0.05),
        (RatioGrid(1, 100, 10, float), RatioGrid(0.1, 10, 10, float), 10),
        (RatioGrid(1, 100, 10, float), RatioGrid(2, 200, 10, float), None),
        (RatioGrid(1, 100, 10, float), RatioGrid(1, 100, 2, float), None),
        (LinearGrid(1, 100, 10, float), RatioGrid(1, 100, 10, float), None),
        (RatioGrid(1, 100, 10, float, mirrored=True), RatioGrid(1, 1000, 10, float, mirrored=True), None),
    ],
)
def test_a_common_step_holds_both_grids(first, second, step):
    assert common_step(first, second) == step
    if step is not None:
        kind, low, high = type(first), min(first.low, second.low), max(first.high, second.high)
        both = kind(low, high, step, first.as_type)
        assert all(both.on(value) for value in [*first, *second])
        assert isinstance(step, int) == (first.as_type is int and isinstance(first, LinearGrid)) or step == 10


def test_nearest_takes_arrays_of_any_shape():
    assert LinearGrid(0, 1, 0.5, float).nearest(np.array([[0.0, 0.6], [1.0, 2.0]])).tolist() == [[0, 1], [2, 2]]
