"""The mean over folds, and how sure it is.

| notation | meaning |
|---|---|
| x_1..x_J | scores of J folds (all folds of all repeats) |
| n1, n2 | training and validation rows of one fold |

Training sets of different folds share most of their rows, so the scores are not independent, and Student's interval for
their mean is too narrow. Nadeau and Bengio widen the variance of the mean from S^2 / J to (1 / J + n2 / n1) S^2.
"""

from __future__ import annotations

import math
from typing import Any

from scipy import special

from manyfit.core.errors import UsageError, explain
from manyfit.stats.arrays import confidence_level, vector
from manyfit.stats.intervals import Interval


def fold_interval(scores: Any, validation_ratio: float, confidence: float = 0.95) -> Interval:
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
    error = math.sqrt((1 / x.size + validation_ratio) * float(x.var(ddof=1)))
    reach = float(special.stdtrit(x.size - 1, (1 + confidence) / 2)) * error
    return Interval(mean, mean - reach, mean + reach, confidence, int(x.size))
