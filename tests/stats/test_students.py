"""Quantiles of Student's law: SciPy's."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.stats
from scipy import special

from manyfit.stats.students import normal_quantile, student_quantile

CHANCES = [0.001, 0.025, 0.4, 0.6, 0.75, 0.9, 0.95, 0.975, 0.99, 0.995, 0.9995, 0.999999]
DEGREES = [0.3, 1, 1.5, 2, 2.7, 3, 4, 5, 7, 10, 20, 33.3, 100, 399, 999.5, 1999.9, 2000, 2500, 1e4, 1e6, 1e9]


@pytest.mark.parametrize("degrees", DEGREES)
def test_quantiles_are_scipys(degrees):
    found = [student_quantile(degrees, chance) for chance in CHANCES]
    np.testing.assert_allclose(found, special.stdtrit(degrees, CHANCES), rtol=1e-11)


def test_quantiles_are_right_where_a_closed_form_says_so():
    for chance in CHANCES[:-1]:  # beyond, the tangent is further off than the quantile
        assert student_quantile(1, chance) == pytest.approx(math.tan(math.pi * (chance - 0.5)), rel=1e-12)
        known = 2 * (chance - 0.5) * math.sqrt(2 / (4 * chance * (1 - chance)))
        assert student_quantile(2, chance) == pytest.approx(known, rel=1e-12)


def test_normal_quantiles_are_scipys():
    found = [normal_quantile(chance) for chance in CHANCES]
    np.testing.assert_allclose(found, special.ndtri(CHANCES), rtol=1e-14)
    np.testing.assert_allclose([student_quantile(math.inf, each) for each in CHANCES], found)


@pytest.mark.parametrize("degrees", [0.5, 1, 30, 1e5, math.inf])
def test_the_ends_are_infinite_and_the_middle_is_nought(degrees):
    assert [student_quantile(degrees, chance) for chance in (0.0, 0.5, 1.0)] == [-math.inf, 0.0, math.inf]
    assert [normal_quantile(chance) for chance in (0.0, 0.5, 1.0)] == [-math.inf, 0.0, math.inf]


def test_what_no_float_reaches_is_infinite_and_what_is_unknown_stays_so():
    assert student_quantile(1e-3, 0.975) == math.inf == -student_quantile(1e-3, 0.025)
    assert math.isnan(student_quantile(math.nan, 0.975))


@pytest.mark.parametrize(("degrees", "chance"), [(2.5, 0.8), (17, 0.999)])
def test_a_quantile_is_where_the_law_says_the_chance(degrees, chance):
    assert scipy.stats.t.cdf(student_quantile(degrees, chance), degrees) == pytest.approx(chance, rel=1e-12)
