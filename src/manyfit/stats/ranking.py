"""How far the best of many equal trials stands out by luck alone."""

from __future__ import annotations

import functools
import math

from manyfit.core.errors import UsageError, explain


@functools.lru_cache(maxsize=256)
def expected_maximum(count: int) -> float:
    """The mean of the largest of `count` standard normal draws.

    So many standard deviations of pure luck are in the best of `count` equally good trials.

    Raises:
        UsageError: `count` is below 1.

    Source: David and Nagaraja 2003, eq. 3.1.1; tabulated by Tippett 1925.

    Example:

    >>> round(expected_maximum(2), 4), round(expected_maximum(100), 3)
    (0.5642, 2.508)
    """
    if count < 1:
        raise UsageError(explain("expected_maximum(count)", count, "1 or more", "Count the trials that have a score."))
    if count == 1:
        return 0.0
    from scipy import integrate, special  # slow to load, and looking at a project asks for none of it

    # E max = integral of (1 - F^n(z)) over z > 0 minus integral of F^n(z) over z < 0, F the normal law.
    above, _ = integrate.quad(lambda z: -math.expm1(count * special.log_ndtr(z)), 0, 40, epsabs=1e-12, limit=200)
    below, _ = integrate.quad(lambda z: math.exp(count * special.log_ndtr(z)), -40, 0, epsabs=1e-12, limit=200)
    return float(above - below)
