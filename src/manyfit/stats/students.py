"""Quantiles of Student's law without SciPy, which takes longer to load than a comparison of projects to make.

For one number at a time. Where there are arrays of them, or SciPy is loaded anyway, its own are taken.

| notation | meaning |
|---|---|
| n | degrees of freedom, any number above 0 |
| Q(t) | the chance to be above t |
| I_x(a, b) | the regularised incomplete beta function |

    Q(t) = I_x(n / 2, 1 / 2) / 2,   x = n / (n + t^2)                                                            (1)

Q is found from a continued fraction, and t from Newton's steps on log Q as a function of log t. That is a curve which
bends downwards and ends as a straight line, so that steps from its right side never go beyond the solution, however far
out it is. For many degrees t is a normal quantile with corrections in powers of 1 / n.

Sources: Press et al. 2007, section 6.4 (the fraction, by Lentz's method); Abramowitz and Stegun 1964, 26.7.5.
"""

from __future__ import annotations

import math
import statistics

_MANY = 2000.0  # degrees from which on the corrections are right to the last digits
_TINY = 1e-300
_FARTHEST = 350.0  # the logarithm of the largest number whose square is one
_NORMAL = statistics.NormalDist()


def normal_quantile(chance: float) -> float:
    """What a standard normal draw is below with a chance.

    Args:
        chance: 0 to 1, whose quantiles are infinite.

    Example:

    >>> round(normal_quantile(0.975), 4)
    1.96
    """
    return _NORMAL.inv_cdf(chance) if 0 < chance < 1 else math.copysign(math.inf, chance - 0.5)


def student_quantile(degrees: float, chance: float) -> float:
    """What a draw of Student's law is below with a chance.

    Args:
        degrees: of freedom, above 0; infinite ones are a normal law.
        chance: 0 to 1, whose quantiles are infinite.

    Example:

    >>> round(student_quantile(3, 0.975), 4), round(student_quantile(math.inf, 0.975), 4)
    (3.1824, 1.96)
    """
    if chance < 0.5:
        return -student_quantile(degrees, 1 - chance)
    if chance == 0.5:
        return 0.0
    if chance >= 1:
        return math.inf
    if degrees >= _MANY:
        return _of_many_degrees(degrees, normal_quantile(chance))
    wanted = math.log(1 - chance)
    # From the right: where the straight end of the curve, which lies above it, meets what is wanted.
    log_t = max(0.0, (_log_end(degrees) - wanted) / degrees)
    for _ in range(100):
        if log_t > _FARTHEST:
            return math.inf
        t = math.exp(log_t)
        tail = _tail(degrees, t)
        step = (math.log(tail) - wanted) * tail / (t * _density(degrees, t))
        log_t += step
        if abs(step) < 1e-15:
            break
    return math.exp(log_t)


def _log_end(n: float) -> float:
    """log Q(t) + n log t for t without end."""
    return math.lgamma((n + 1) / 2) - math.lgamma(n / 2) + (n / 2 - 1) * math.log(n) - math.log(math.pi) / 2


def _density(n: float, t: float) -> float:
    log_peak = math.lgamma((n + 1) / 2) - math.lgamma(n / 2) - math.log(n * math.pi) / 2
    return math.exp(log_peak - (n + 1) / 2 * math.log1p(t * t / n))


def _tail(n: float, t: float) -> float:
    """Q(t) of (1), for t above 0."""
    a, b, x = n / 2, 0.5, n / (n + t * t)
    # The fraction converges fast on one side only; on the other the function is 1 less its mirror image.
    if x < (a + 1) / (a + b + 2):
        return _incomplete_beta(a, b, x, t * t / (n + t * t)) / 2
    return (1 - _incomplete_beta(b, a, t * t / (n + t * t), x)) / 2


def _incomplete_beta(a: float, b: float, x: float, rest: float) -> float:
    """I_x(a, b); `rest` is 1 - x, without what a subtraction would lose."""
    log_front = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log(rest)
    c, d = 1.0, 1 - (a + b) * x / (a + 1)
    d = 1 / (d if d != 0 else _TINY)
    fraction = d
    for m in range(1, 1000):
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        for term in (even, odd):
            d, c = 1 + term * d, 1 + term / c
            d = 1 / (d if d != 0 else _TINY)
            c = c if c != 0 else _TINY
            fraction *= c * d
        if abs(c * d - 1) < 1e-16:
            break
    return math.exp(log_front) * fraction / a


def _of_many_degrees(n: float, z: float) -> float:
    """26.7.5, whose next term is below a rounding error."""
    first = (z**3 + z) / 4
    second = (5 * z**5 + 16 * z**3 + 3 * z) / 96
    third = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
    fourth = (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160
    return z + first / n + second / n**2 + third / n**3 + fourth / n**4
