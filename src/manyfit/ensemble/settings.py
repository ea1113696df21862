"""What an expert may change about the fitting of an ensemble."""

from __future__ import annotations

import dataclasses
import math


@dataclasses.dataclass(frozen=True)
class Budget:
    """The most that an ensemble may cost. `None` means no limit.

    Members are chosen under the budget first; then every method weighs only those.
    """

    max_members: int | None = None
    max_bytes: int | None = None  # of the weights of all members together
    max_latency_seconds: float | None = None  # per row, all members together; needs `x`, is measured

    @property
    def limited(self) -> bool:
        """Whether there is any limit."""
        return not (self.max_members is None and self.max_bytes is None and self.max_latency_seconds is None)


@dataclasses.dataclass(frozen=True)
class Settings:
    """Fine points of `Ensemble.fit`; the defaults are what we would choose.

    Example:

    >>> Settings(num_folds=10).num_folds
    10
    """

    num_folds: int = 5  # of the cross-fitting that chooses the method and states the gain
    confidence: float = 0.95  # of the interval of the stated gain; the gain is proven when all of it is above zero
    refuse: bool = True  # no proven gain: return the single best member
    temperature: bool = True  # fit one temperature after pooling, where that helps (probabilities only)
    num_steps: int = 25  # of greedy selection
    max_candidates: int = 50  # members that the slower methods look at
    budget: Budget = dataclasses.field(default_factory=Budget)
    quantiles: tuple[float, ...] | None = None  # of the outputs, for quantile regression
    direction: str | None = None  # "min" or "max", for a metric whose direction nobody can know
    batch_size: int = 1024  # rows per batch when members predict

    def standard_errors(self) -> float:
        """Half width of the two-sided interval, in standard errors.

        Example:

        >>> round(Settings().standard_errors(), 2)
        1.96
        """
        from scipy.special import ndtri

        return float(ndtri(0.5 + self.confidence / 2)) if self.confidence < 1 else math.inf
