"""Budgets: what members cost, and methods that stay within a budget."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from manyfit.core.errors import UsageError, explain
from manyfit.ensemble.choice import Fit
from manyfit.ensemble.members import Member, measure_latency
from manyfit.ensemble.methods import Context
from manyfit.ensemble.pools import Pool
from manyfit.ensemble.problem import Problem
from manyfit.ensemble.selection import greedy_path, own_losses
from manyfit.ensemble.settings import Budget


@dataclasses.dataclass(frozen=True, eq=False)
class Costs:
    """What each member costs; members without a model cost nothing."""

    num_bytes: np.ndarray  # (M,)
    latency_seconds: np.ndarray | None = None  # (M,) per row, when measured

    def fits(self, members: Sequence[int], budget: Budget) -> bool:
        """Whether these members together stay within a budget."""
        chosen = list(members)
        if budget.max_members is not None and len(chosen) > budget.max_members:
            return False
        if budget.max_bytes is not None and self.num_bytes[chosen].sum() > budget.max_bytes:
            return False
        if budget.max_latency_seconds is None or self.latency_seconds is None:
            return True
        return bool(self.latency_seconds[chosen].sum() <= budget.max_latency_seconds)


def member_costs(members: Sequence[Member], budget: Budget, x: Any) -> Costs:
    """Weighs and, for a latency budget, times every member.

    Raises:
        UsageError: a latency budget without `x`, or with members that have no model.
        UsageError: no member alone fits the budget.
    """
    if not budget.limited:
        return Costs(np.zeros(len(members)))
    num_bytes = np.array([member.num_bytes for member in members], dtype=np.float64)
    latency = None
    if budget.max_latency_seconds is not None:
        if x is None or not all(member.models for member in members):
            raise UsageError(
                explain(
                    "Budget(max_latency_seconds)",
                    "members that cannot be timed",
                    "members with models, and x",
                    "Pass x=x_val; one batch of it is predicted a few times.",
                )
            )
        latency = np.array([measure_latency(member, x) for member in members])
    costs = Costs(num_bytes, latency)
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


def within(fit: Fit, budget: Budget, costs: Costs) -> Fit:
    """The same fit of methods, on the members that greedy selection would buy with the budget."""
    if not budget.limited:
        return fit

    def limited(problem: Problem, context: Context) -> dict[str, Pool]:
        chosen = affordable(problem, context, budget, costs)
        pools = fit(problem.members(chosen), context)
        return {name: pool.expand(chosen, problem.num_members) for name, pool in pools.items()}

    return limited


def affordable(problem: Problem, context: Context, budget: Budget, costs: Costs) -> np.ndarray:
    """Indices of members chosen greedily until nothing more fits the budget.

    The first is the best member that fits. Then the member that helps most among those that still fit, and so on;
    once no more helps, the rest of the budget is not spent.
    """
    own = own_losses(problem, context.metric)
    fitting = [index for index in np.argsort(own, kind="stable") if costs.fits([int(index)], budget)]
    chosen = [int(fitting[0])]
    while True:
        open_ones = [i for i in range(problem.num_members) if i not in chosen and costs.fits([*chosen, i], budget)]
        if not open_ones:
            break
        among = np.array([*chosen, *open_ones])
        path = greedy_path(problem.members(among), context.metric, num_steps=context.settings.num_steps)
        new = next((int(among[member]) for member, _ in path if member >= len(chosen)), None)
        if new is None:
            break
        chosen.append(new)
    return np.sort(chosen)
