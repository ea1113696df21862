"""Losses of several predictions of the same rows, and the differences between them with their standard errors.

Predictions of the same rows go up and down together, so differences are taken row by row (or resample by resample,
for metrics that need all rows at once) before anything is averaged.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence

import numpy as np
from scipy.special import stdtrit

from manyfit.ensemble.metrics import Metric
from manyfit.ensemble.problem import Problem

_RESAMPLES = 200
_FEW_RESAMPLES = 40  # where a standard error to a tenth is enough


class Losses:
    """Means of losses by name, and paired differences.

    Args:
        metric: which loss.
        problem: the rows.
        predictions: one mapping from names to (n, C) predictions, or several (repeats on other folds), which are
            averaged.
        precise: False makes do with fewer resamples.
    """

    def __init__(
        self, metric: Metric, problem: Problem, predictions: Sequence[Mapping[str, np.ndarray]], *, precise: bool = True
    ) -> None:
        self.metric = metric
        self.problem = problem
        self._rows: dict[str, np.ndarray] = {}  # per row, or per resample
        if metric.row_losses is not None:
            for name in predictions[0]:
                self._rows[name] = np.mean([metric.row_losses(run[name], problem) for run in predictions], axis=0)
            self.mean = {name: _or_inf(float(problem.row_weight @ rows)) for name, rows in self._rows.items()}
            return
        self.mean = {
            name: float(np.mean([metric.loss(run[name], problem) for run in predictions])) for name in predictions[0]
        }
        for resample in self._resamples(_RESAMPLES if precise else _FEW_RESAMPLES):
            for name in predictions[0]:
                loss = np.mean([metric.loss(run[name][resample[0]], resample[1]) for run in predictions])
                self._rows[name] = np.append(self._rows.get(name, np.empty(0)), loss)

    @property
    def num_rows(self) -> float:
        """Effective number of rows: fewer than there are, where weights differ."""
        return 1.0 / float((self.problem.row_weight**2).sum())

    def _resamples(self, count: int) -> list[tuple[np.ndarray, Problem]]:
        """Bootstraps, the same for every name: row indices, and the problem they make."""
        rng = np.random.default_rng(self.problem.num_rows)
        thin = dataclasses.replace(self.problem, predictions=self.problem.predictions[:1])
        everything = np.arange(self.problem.num_rows)
        answer = []
        for _ in range(count):
            counts = rng.multinomial(self.problem.num_rows, self.problem.row_weight)
            if self.metric.weighs:
                answer.append((everything, thin.weighted(counts.astype(np.float64))))
            else:
                rows = np.repeat(everything, counts)
                answer.append((rows, thin.rows(rows)))
        return answer

    def difference(self, name: str, other: str) -> tuple[float, float]:
        """Loss of `name` minus loss of `other`, and its standard error."""
        if name == other:
            return 0.0, 0.0
        estimate = self.mean[name] - self.mean[other]
        with np.errstate(invalid="ignore"):
            apart = self._rows[name] - self._rows[other]
        if self.metric.row_losses is None:
            finite = apart[np.isfinite(apart)]
            return estimate, float(finite.std(ddof=1)) if len(finite) > 1 else np.inf
        weight = self.problem.row_weight
        variance = float((weight**2) @ (apart - estimate) ** 2)
        size = self.num_rows
        return estimate, float(np.sqrt(variance * size / (size - 1))) if size > 1 + 1e-9 else np.inf

    def bounds(self, name: str, other: str, levels: Sequence[float]) -> list[float]:
        """What the expected difference exceeds with each of some probabilities."""
        estimate, error = self.difference(name, other)
        skewness = self._skewness(name, other)
        return [estimate - error * standard_errors(self.num_rows, level, skewness) for level in levels]

    def _skewness(self, name: str, other: str) -> float:
        """Skewness of the rows' differences; 0 for metrics that need all rows at once."""
        if self.metric.row_losses is None or name == other:
            return 0.0
        apart = self._rows[name] - self._rows[other]
        apart = apart - self.problem.row_weight @ apart
        spread = float(np.sqrt(self.problem.row_weight @ apart**2))
        return float(self.problem.row_weight @ (apart / spread) ** 3) if spread > 0 and np.isfinite(spread) else 0.0


def standard_errors(num_rows: float, level: float, skewness: float = 0.0) -> float:
    """How many standard errors a mean minus its expectation stays below, with probability `level`.

    Student's t, corrected for skewness (Hall 1992, "On the removal of skewness by transformation", equation 2.2): most
    rows change little, and a few that one member got badly wrong change much. Without end below ten rows, whose
    standard error means nothing.

    Args:
        num_rows: effective number of rows.
        level: in [0, 1]; below one half the answer is negative.
        skewness: of the rows.

    Example:

    >>> round(standard_errors(10_000, 0.975), 2), round(standard_errors(10, 0.975), 2)
    (1.96, 2.26)
    >>> [round(standard_errors(200, level, skewness=8.0), 2) for level in (0.95, 0.05)]
    [1.24, -4.09]
    """
    if level in (0.0, 1.0) or num_rows < 9.5:
        return math.inf if level > 0.5 else -math.inf
    plain = float(stdtrit(num_rows - 1, level))
    if abs(skewness) < 1e-6:
        return plain
    root = math.sqrt(num_rows)
    inner = 1.0 + skewness * (plain / root - skewness / (6 * num_rows))
    return 3.0 * root / skewness * (math.cbrt(inner) - 1.0)


def _or_inf(value: float) -> float:
    return value if np.isfinite(value) else np.inf
