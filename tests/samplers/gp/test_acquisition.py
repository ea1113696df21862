"""Log expected improvement, far into the tail."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.stats import norm

from manyfit.samplers.gp.acquisition import log_expected_improvement, log_expected_improvement_slopes, log_h

# log(phi(z) + z Phi(z)) with mpmath 1.3.0 at 60 digits, independent of our formula for the tail.
REFERENCE = {
    6.0: 1.7917594692541145,
    1.0: 0.08002621884930694,
    0.0: -0.91893853320467274,
    -0.5: -1.6205162643873199,
    -1.0: -2.4851210257126413,
    -1.5: -3.5299359208057099,
    -5.0: -16.74430116266099,
    -10.0: -55.553122036122356,
    -30.0: -457.724653760598,
    -99.0: -4910.6094842154551,
    -101.0: -5110.649473554864,
}


@pytest.mark.parametrize(("z", "expected"), REFERENCE.items())
def test_golden_log_h(z: float, expected: float) -> None:
    np.testing.assert_allclose(log_h(np.array([z]))[0], expected, rtol=1e-11, atol=1e-12)


def test_no_seam_where_the_formulas_meet() -> None:
    for seam in (-1.0, -100.0):
        below, above = log_h(np.nextafter([seam, seam], [-np.inf, np.inf]))
        assert abs(above - below) < 1e-9 * abs(seam)


def test_golden_expected_improvement_is_the_integral_that_defines_it() -> None:
    mean, deviation, incumbent = 0.4, 0.7, 0.1
    integral = quad(lambda y: (incumbent - y) * norm.pdf(y, mean, deviation), -10, incumbent)[0]
    ours = log_expected_improvement(np.array([mean]), np.array([deviation**2]), incumbent)[0]
    assert np.exp(ours) == pytest.approx(integral, rel=1e-8)


@pytest.mark.parametrize("mean", [-2.0, 0.3, 5.0, 60.0])
def test_slopes_equal_finite_differences(mean: float) -> None:
    step = 1e-6

    def value(m: float, v: float) -> float:
        return float(log_expected_improvement(np.array([m]), np.array([v]), 0.2)[0])

    _, by_mean, by_variance = log_expected_improvement_slopes(np.array([mean]), np.array([0.5]), 0.2)
    np.testing.assert_allclose(by_mean[0], (value(mean + step, 0.5) - value(mean - step, 0.5)) / (2 * step), rtol=1e-5)
    numeric = (value(mean, 0.5 + step) - value(mean, 0.5 - step)) / (2 * step)
    np.testing.assert_allclose(by_variance[0], numeric, rtol=1e-5)
