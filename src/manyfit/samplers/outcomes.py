"""Constraints on what comes out of a trial, besides its objective."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping

from manyfit.core.errors import UsageError, explain


@dataclasses.dataclass(frozen=True)
class Constraint:
    """A bound on a metric of the trials: its size, its latency, or anything that is logged.

    Args:
        metric: its name.
        max: most that is allowed; None: no upper bound.
        min: least that is allowed; None: no lower bound.

    Raises:
        UsageError: neither bound is given, or both, or it is not finite.

    Example:

    >>> Constraint("model_bytes", max=1e6).holds({"model_bytes": 2e5})
    True
    """

    metric: str
    max: float | None = None
    min: float | None = None

    def __post_init__(self) -> None:
        given = [each for each in (self.max, self.min) if each is not None]
        if len(given) != 1 or not math.isfinite(given[0]):
            raise UsageError(
                explain(
                    f'Constraint("{self.metric}")',
                    f"max={self.max}, min={self.min}",
                    "one finite bound, max= or min=",
                    "Use two constraints for an interval.",
                )
            )

    def excess(self, metrics: Mapping[str, float]) -> float:
        """By how much the bound is broken: at most 0 if it is kept, NaN if the metric is missing."""
        value = metrics.get(self.metric, math.nan)
        return value - self.max if self.max is not None else (self.min or 0.0) - value

    def holds(self, metrics: Mapping[str, float]) -> bool:
        """Whether the bound is kept; a missing metric keeps nothing."""
        return self.excess(metrics) <= 0.0
