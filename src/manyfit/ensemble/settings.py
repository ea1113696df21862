"""What an expert may change about the fitting of an ensemble."""

from __future__ import annotations

import dataclasses


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

    num_folds: int | None = None  # of the cross-fitting that chooses and states the gain; None: 5, fewer for many rows
    confidence: float = 0.95  # of the interval of the stated gain, and that what displaces the default is better
    proof: float = 0.84  # confidence that the gain is worth having, for several members to be taken: one standard error
    refuse: bool = True  # no proven gain: return the single best member
    least_gain: float = 0.01  # share of the single best member's loss that several members must surely save
    temperature: bool = True  # fit one temperature after pooling, where that helps (probabilities only)
    num_steps: int = 25  # of greedy selection
    max_candidates: int = 50  # members that the slower methods look at
    budget: Budget = dataclasses.field(default_factory=Budget)
    quantiles: tuple[float, ...] | None = None  # of the outputs, for quantile regression
    direction: str | None = None  # "min" or "max", for a metric whose direction nobody can know
    batch_size: int = 1024  # rows per batch when members predict

    def folds(self, num_rows: int) -> int:
        """Folds for so many rows: the more rows, the less is lost by fitting on a smaller share of them.

        Example:

        >>> Settings().folds(200), Settings().folds(2_000), Settings().folds(20_000), Settings().folds(3)
        (5, 4, 3, 3)
        """
        wanted = self.num_folds or (5 if num_rows < 1000 else 4 if num_rows < 4000 else 3)
        return max(3, min(wanted, num_rows))  # nesting leaves out two folds and fits on the rest
