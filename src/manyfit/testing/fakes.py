"""Honest fakes: small stand-ins that keep the contract of what they stand for, and record what was done to them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from manyfit.core.records import Decision, Plan, Result
from manyfit.training.base import FixedSupply


class ListSupply(FixedSupply):
    """A `Supply` of a fixed list of plans that checks its trainer, and answers reports as a test wants it.

    Args:
        plans: handed out in this order.
        decide: answers one report (plan, epoch, logs); None: every member goes on.
        independent: whether plans may be asked for far ahead, as where proposals do not depend on results.

    Attributes:
        reports: every report, in the order in which they came.
        results: trial and execution -> result.
    """

    def __init__(
        self,
        plans: Sequence[Plan],
        *,
        decide: Callable[[Plan, int, Mapping[str, float]], Decision] | None = None,
        independent: bool = True,
    ) -> None:
        super().__init__(plans)
        self._decide = decide
        self._running: set[tuple[str, int]] = set()
        self.independent = independent
        self.reports: list[tuple[Plan, int, dict[str, float]]] = []

    def take(self, count: int) -> Sequence[Plan]:
        """Up to `count` of the plans that are left."""
        plans = super().take(count)
        self._running.update(plan.key for plan in plans)
        return plans

    def report(self, epochs: Sequence[tuple[Plan, int, Mapping[str, float]]]) -> Sequence[Decision]:
        """Keeps the reports and answers them."""
        decisions = []
        for plan, epoch, logs in epochs:
            assert plan.key in self._running, f"{plan.key} reported but was not running"
            self.reports.append((plan, epoch, dict(logs)))
            decisions.append(Decision.GO_ON if self._decide is None else self._decide(plan, epoch, logs))
        return decisions

    def finish(self, result: Result) -> None:
        """Keeps a result; each plan is finished once."""
        key = result.plan.key
        assert key in self._running, f"{key} finished but was not running"
        self._running.discard(key)
        super().finish(result)

    @property
    def running(self) -> frozenset[tuple[str, int]]:
        """Executions that were taken and are not finished."""
        return frozenset(self._running)

    def put(self, plan: Plan) -> None:
        """Adds a plan, for instance to resume a paused execution."""
        self._waiting.append(plan)
