"""Intervals for one row of numbers: how well a few noisy scores pin down what they estimate.

Also the checks of arrays that come in from outside, which all of `stats` uses.

| notation | meaning |
|---|---|
| x_1..x_n | the numbers: independent draws of one law, or (x_1..x_J) the scores of J folds of all repeats |
| m, S | their mean and standard deviation (divisor n - 1) |
| n1, n2 | training and validation rows of one fold |

Training sets of different folds share most of their rows, so the scores are not independent, and Student's interval for
their mean is too narrow. Nadeau and Bengio widen the variance of the mean from S^2 / J to (1 / J + n2 / n1) S^2.
"""

from __future__ import annotations

import dataclasses
import enum
import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

from manyfit.core.errors import UsageError, explain
from manyfit.stats.students import normal_quantile, student_quantile

Array = NDArray[np.float64]


def vector(where: str, values: ArrayLike, *, min_size: int = 1) -> Array:
    """Returns values as a float vector of finite numbers.

    Raises:
        UsageError: not one-dimensional, too short, or with NaN or infinite entries.
    """
    array = np.asarray(values, dtype=float)
    if array.ndim != 1:
        raise UsageError(explain(where, f"an array of shape {array.shape}", "one row of numbers", "Pass a flat list."))
    if array.size < min_size:
        allowed = f"{min_size} or more numbers"
        raise UsageError(explain(where, f"{array.size} numbers", allowed, "Run more executions first."))
    if not np.isfinite(array).all():
        allowed = "finite numbers"
        raise UsageError(explain(where, "NaN or infinity", allowed, "Leave out runs without a score."))
    return array


def score_table(where: str, scores: ArrayLike) -> Array:
    """Returns losses as a float table (contenders, seeds); NaN (not run) and +inf (diverged) are allowed.

    Raises:
        UsageError: not two-dimensional, no contender, or -inf in it.
    """
    table = np.asarray(scores, dtype=float)
    if table.ndim != 2 or table.shape[0] == 0:
        got, allowed = f"an array of shape {table.shape}", "a table (contenders, seeds)"
        raise UsageError(explain(where, got, allowed, "One row per contender, one column per seed."))
    if np.isneginf(table).any():
        allowed = "losses: finite, +inf (diverged) or NaN (not run)"
        raise UsageError(explain(where, "-inf", allowed, "Lower is better; flip the sign of a score to be maximised."))
    return table


def confidence_level(where: str, confidence: object) -> float:
    """Returns a confidence strictly between 0 and 1.

    Raises:
        UsageError: anything else.
    """
    # A bool is an int to Python; confidence=True is a slip, and as a number it would be 100 %.
    is_number = isinstance(confidence, (int, float, np.floating, np.integer)) and not isinstance(confidence, bool)
    number = float(confidence) if is_number else math.nan  # type: ignore[arg-type]
    if not 0.0 < number < 1.0:
        allowed = "a number between 0 and 1"
        raise UsageError(explain(f"{where}: confidence", confidence, allowed, "Type 0.95 for 95 %."))
    return number


@dataclasses.dataclass(frozen=True, slots=True)
class Interval:
    """An estimate, and where the truth lies with the stated confidence. Infinite ends: the data say nothing yet."""

    estimate: float
    low: float
    high: float
    confidence: float
    count: int  # numbers it rests on

    @property
    def half_width(self) -> float:
        """Half the distance between the two ends."""
        return (self.high - self.low) / 2

    def __contains__(self, value: float) -> bool:
        return self.low <= value <= self.high

    def __str__(self) -> str:
        if not math.isfinite(self.half_width):
            return f"{self.estimate:.4g} (n={self.count}, no interval)"
        return f"{self.estimate:.4g} [{self.low:.4g}, {self.high:.4g}]"


def _around(center: float, half_width: float, confidence: float, count: int) -> Interval:
    return Interval(center, center - half_width, center + half_width, confidence, count)


def mean_interval(values: ArrayLike, confidence: float = 0.95) -> Interval:
    """Student's interval for a mean.

    Exact for normal noise; for symmetric heavy tails it covers more often than stated. It holds for a number of
    runs that was fixed beforehand, not for one that was looked at after each run: `racing` is made for that.

    Args:
        values: one number per run, at least 1. One run alone has an infinite interval.
        confidence: between 0 and 1.

    Raises:
        UsageError: no numbers, NaN or infinite ones, or a confidence outside (0, 1).

    Source: Student 1908.

    Example:

    >>> print(mean_interval([0.90, 0.92, 0.91, 0.93]))
    0.915 [0.8945, 0.9355]
    """
    x = vector("mean_interval(values)", values)
    confidence = confidence_level("mean_interval", confidence)
    # One run has no spread: no honest interval is finite, and an error would hide the mean.
    if x.size == 1:
        return _around(float(x[0]), math.inf, confidence, 1)
    t = student_quantile(x.size - 1, (1 + confidence) / 2)
    return _around(float(x.mean()), t * float(x.std(ddof=1)) / math.sqrt(x.size), confidence, x.size)


def fold_interval(scores: ArrayLike, validation_ratio: float, confidence: float = 0.95) -> Interval:
    """The corrected interval for a mean over folds.

    Args:
        scores: one number per fold.
        validation_ratio: n2 / n1, for instance 1 / 4 with five folds.
        confidence: between 0 and 1.

    Returns:
        An infinite interval with one fold.

    Raises:
        UsageError: no scores, NaN or infinite ones, a ratio that is not above 0, or a confidence outside (0, 1).

    Source: Nadeau and Bengio 2003, section 4 (the corrected resampled t-test), for J scores

        mean +- t_{J-1} sqrt((1 / J + n2 / n1) S^2).                                                         (1)

    Example:

    >>> print(fold_interval([0.90, 0.92, 0.91, 0.93, 0.89], 0.25))
    0.91 [0.8806, 0.9394]
    """
    x = vector("fold_interval(scores)", scores)
    confidence = confidence_level("fold_interval", confidence)
    if not validation_ratio > 0:
        got = f"validation_ratio={validation_ratio!r}"
        raise UsageError(explain("fold_interval", got, "a number above 0", "Pass validation rows / training rows."))
    mean = float(x.mean())
    if x.size == 1:
        return Interval(mean, -math.inf, math.inf, confidence, 1)
    # (1). The second term does not shrink with more repeats: they share rows.
    error = math.sqrt((1 / x.size + validation_ratio) * float(x.var(ddof=1)))
    reach = student_quantile(x.size - 1, (1 + confidence) / 2) * error
    return Interval(mean, mean - reach, mean + reach, confidence, int(x.size))


class Scale(enum.StrEnum):
    """On which scale an interval is symmetric, so that its ends stay where the metric can be."""

    PLAIN = "plain"  # anything, also negative
    LOG = "log"  # 0 or more: a log loss, a squared error
    LOGIT = "logit"  # between 0 and 1, no mean of rights and wrongs: AUC, F1
    LOG1M = "log1m"  # 1 or less: R2
    WILSON = "wilson"  # a share of rows: accuracy


def scaled_interval(
    estimate: float,
    variance: float,
    degrees: float,
    *,
    scale: Scale = Scale.PLAIN,
    confidence: float = 0.95,
    skewness: float = 0.0,
    num_rows: float = math.inf,
    most_rows: float = math.inf,
) -> Interval:
    """An interval by Student's law on the scale of the metric, carried back to its own units.

    Args:
        estimate: the metric.
        variance: of the estimate, in the metric's units; NaN if unknown, and then the ends are infinite.
        degrees: of freedom of `variance`.
        scale: on which the ends are at equal distance.
        confidence: between 0 and 1.
        skewness: of the estimate itself: of what is averaged, by the root of how many. Counts on the log scale, where a
            loss that is rare and large may not have been seen yet.
        num_rows: the rows that decide at the bounds, where a variance is 0 because all went right: all rows for
            an accuracy, those of the rarer class for AUC.
        most_rows: what the effective number of rows cannot exceed: rows times runs.

    Raises:
        UsageError: a confidence outside (0, 1).

    Source: the delta method on log, logit and log(1 - x); shares by Wilson 1927 with an effective number of rows,
    p (1 - p) / variance, reduced by the degrees of freedom (Korn and Graubard 1998; Dean and Pagano 2015); skewed
    means by Hall 1992.

    Example:

    >>> print(scaled_interval(1.0, 0.0, 39, scale=Scale.WILSON, num_rows=40))
    1 [0.9072, 1]
    """
    confidence = confidence_level("scaled_interval", confidence)
    if not (math.isfinite(variance) and degrees > 0):
        return Interval(estimate, -math.inf, math.inf, confidence, _count(num_rows))
    z = normal_quantile((1 + confidence) / 2)
    t = student_quantile(degrees, (1 + confidence) / 2)
    error = math.sqrt(max(variance, 0.0))
    reach = t * error
    low, high = estimate - reach, estimate + reach
    match scale:
        case Scale.LOG if estimate > 0:
            # The wider of the two on each side: the logarithm knows the bound, Hall's formula the shape.
            low, high = estimate * _exp(-reach / estimate), estimate * _exp(reach / estimate)
            low = min(low, max(0.0, estimate - error * _unskewed(t, skewness)))
            high = max(high, estimate - error * _unskewed(-t, skewness))
        case Scale.LOG:
            low = max(low, min(0.0, estimate))
        case Scale.LOG1M if estimate < 1:
            rest = 1 - estimate
            low, high = 1 - rest * _exp(reach / rest), 1 - rest * _exp(-reach / rest)
        case Scale.LOG1M:
            high = min(high, max(1.0, estimate))
        case Scale.LOGIT if 0 < estimate < 1 and variance > 0:
            center, half = math.log(estimate / (1 - estimate)), reach / (estimate * (1 - estimate))
            low, high = 1 / (1 + _exp(half - center)), 1 / (1 + _exp(-center - half))
        case Scale.LOGIT | Scale.WILSON:
            inside = estimate * (1 - estimate)
            size = min(inside / variance, most_rows) if inside > 0 and variance > 0 else num_rows
            low, high = _wilson(min(max(estimate, 0.0), 1.0), size * (z / t) ** 2, z)
    # On a curved scale an end may miss the estimate by a rounding error.
    return Interval(estimate, min(low, estimate), max(high, estimate), confidence, _count(num_rows))


_MOST_SKEWNESS = 0.3  # beyond it the cubic turns around within the range of use


def _unskewed(t: float, skewness: float) -> float:
    """The quantile of a mean's t-statistic, which leans the other way than what is averaged (Hall 1992)."""
    a = min(max(skewness, -_MOST_SKEWNESS), _MOST_SKEWNESS)
    return t if abs(a) < 1e-6 else 3 / a * (float(np.cbrt(1 + a * (t - a / 6))) - 1)


def _count(num_rows: float) -> int:
    return int(num_rows) if math.isfinite(num_rows) else 0


def _exp(power: float) -> float:
    # Not math.exp: an end beyond all floats is infinite, and no error.
    with np.errstate(over="ignore"):
        return float(np.exp(power))


def _wilson(share: float, size: float, z: float) -> tuple[float, float]:
    if not size > 0:
        return 0.0, 1.0
    # Multiplied out by the size, which may be next to nothing.
    center = (share * size + z * z / 2) / (size + z * z)
    half = z / (size + z * z) * math.sqrt(share * (1 - share) * size + z * z / 4)
    # At the bounds the formula meets them up to rounding.
    return max(0.0, center - half) if share > 0 else 0.0, min(1.0, center + half) if share < 1 else 1.0
