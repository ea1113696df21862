"""What an expert may change about the fitting of an ensemble, and what its members cost."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from manyfit.core.errors import UsageError, explain
from manyfit.ensemble.members import EnsembleMember, measure_latency


@dataclasses.dataclass(frozen=True)
class CostBudget:
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


@dataclasses.dataclass(frozen=True, eq=False)
class RowCuts:
    """Which rows belong together where weights are cross-fitted.

    Attributes:
        groups: (n,) labels; rows with one label stay in one fold, and count as one observation. For rows in the order
            of time: `manyfit.data.folds.blocks_of_time`.
        folds: (n,) the fold whose models predicted each row, or (repeats, n): then a fold's models are left out with
        its
            rows. At least three folds.
        num_models: that each member averages when it predicts new rows; None: as many as predicted each row. Where
        there
            are repeats, they tell what averaging gains, and the stated gain is that of such means.
        again: (n,) whether another model of each configuration has predicted a row, too: `EnsembleMember.again` is its
            prediction there, and the member's own elsewhere. With one repeat that tells what averaging gains.
    """

    groups: ArrayLike | None = None
    folds: ArrayLike | None = None
    num_models: int | None = None
    again: ArrayLike | None = None


@dataclasses.dataclass(frozen=True)
class EnsembleSettings:
    """Fine points of `Ensemble.fit`; the defaults are what we would choose.

    Example:

    >>> EnsembleSettings(num_folds=10).num_folds
    10
    """

    num_folds: int | None = None  # of the cross-fitting that chooses and states the gain; None: 5, fewer for many rows
    confidence: float = 0.95  # of the interval of the stated gain, and that what displaces the default is better
    likely: float = 0.84  # confidence that the gain is worth having, for several members to be taken: a standard error
    proof: float = 0.95  # the same, for the word "proven"
    refuse: bool = True  # no proven gain: return the single best member
    least_gain: float = 0.01  # share of the single best member's loss that several members must surely save
    temperature: bool = True  # fit one temperature after pooling, where that helps (probabilities only)
    num_steps: int = 25  # of greedy selection
    max_candidates: int = 50  # members that the slower methods look at
    budget: CostBudget = dataclasses.field(default_factory=CostBudget)
    quantiles: tuple[float, ...] | None = None  # of the outputs, for quantile regression
    direction: str | None = None  # "min" or "max", for a metric whose direction nobody can know
    batch_size: int = 1024  # rows per batch when members predict

    def folds(self, num_rows: int) -> int:
        """Folds for so many rows: the more rows, the less is lost by fitting on a smaller share of them.

        Example:

        >>> [EnsembleSettings().folds(num_rows) for num_rows in (200, 2_000, 20_000, 3)]
        [5, 4, 3, 3]
        """
        # More rows, fewer folds: the time to fit grows with both.
        wanted = self.num_folds or (5 if num_rows < 1000 else 4 if num_rows < 4000 else 3)
        return max(3, min(wanted, num_rows))  # nesting leaves out two folds and fits on the rest


@dataclasses.dataclass(frozen=True, eq=False)
class MemberCosts:
    """What each member costs; members without a model cost nothing."""

    num_bytes: np.ndarray  # (M,)
    latency_seconds: np.ndarray | None = None  # (M,) per row, when measured

    def fits(self, members: Sequence[int], budget: CostBudget) -> bool:
        """Whether these members together stay within a budget."""
        chosen = list(members)
        if budget.max_members is not None and len(chosen) > budget.max_members:
            return False
        if budget.max_bytes is not None and self.num_bytes[chosen].sum() > budget.max_bytes:
            return False
        if budget.max_latency_seconds is None or self.latency_seconds is None:
            return True
        return bool(self.latency_seconds[chosen].sum() <= budget.max_latency_seconds)


def member_costs(members: Sequence[EnsembleMember], budget: CostBudget, x: object) -> MemberCosts:
    """Weighs and, for a latency budget, times every member.

    Raises:
        UsageError: a latency budget without `x`, or with members that have no model.
        UsageError: no member alone fits the budget.
    """
    # Weighing an estimator pickles it, so nothing is weighed where nobody asked.
    if not budget.limited:
        return MemberCosts(np.zeros(len(members)))
    num_bytes = np.array([member.num_bytes for member in members], dtype=np.float64)
    latency = None
    if budget.max_latency_seconds is not None:
        if x is None or not all(member.models for member in members):
            raise UsageError(
                explain(
                    "CostBudget(max_latency_seconds)",
                    "members that cannot be timed",
                    "members with models, and x",
                    "Pass x=x_val; one batch of it is predicted a few times.",
                )
            )
        latency = np.array([measure_latency(member, x) for member in members])
    costs = MemberCosts(num_bytes, latency)
    if not any(costs.fits([index], budget) for index in range(len(members))):
        cheapest = int(np.argmin(num_bytes))
        raise UsageError(
            explain(
                "Ensemble.fit(settings)",
                f"a budget that no member fits; the smallest, {members[cheapest].name!r}, has "
                f"{int(num_bytes[cheapest])} bytes",
                "a budget for at least one member",
                "Raise the budget.",
            )
        )
    return costs
