"""What to do with a budget that is left when a finite space is tried in full: repeat the contenders until settled.

A pure function of the recorded executions, so a search that was killed goes on as it would have.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from manyfit.oracles.ranking import Ranking
from manyfit.oracles.trial import Trial
from manyfit.stats import racing

CONFIDENCE = 0.95
MAX_ROUNDS = 30


@dataclasses.dataclass(frozen=True)
class Replication:
    """Where the repetition of contenders stands."""

    trials: tuple[Trial, ...]
    standing: racing.Standing
    losses: np.ndarray  # (trials, executions), NaN: not run
    budget: int | None  # executions that may still be run

    @property
    def over(self) -> bool:
        """Whether nothing more is to be run."""
        return self.standing.verdict is not None or self.budget == 0

    def next_runs(self, count: int) -> list[tuple[Trial, int]]:
        """Up to `count` (trial, execution) pairs to run now."""
        if self.budget is not None:
            count = min(count, self.budget)
        if count < 1:
            return []
        runs = racing.next_runs(self.losses, self.standing, count=count, max_rounds=MAX_ROUNDS)
        return [(self.trials[contender], execution) for contender, execution in runs]

    def sentence(self) -> str:
        """What was found, and how sure it is."""
        winners = [self.trials[contender].trial_id for contender in self.standing.winning_set]
        runs = int(np.isfinite(self.losses).sum())
        start = f"All {len(self.trials)} configurations were tried, in {runs} executions."
        sure = f"at {self.standing.confidence:.0%} confidence"
        if len(winners) == 1:
            return f"{start} The order is settled: trial {winners[0]} is the best, {sure}."
        names = ", ".join(winners)
        if self.standing.verdict is racing.Verdict.CANNOT_BE_TOLD_APART:
            return (
                f"{start} The order is settled as far as it can be: the best is one of {names}, {sure}; "
                "more runs would hardly tell them apart."
            )
        why = f"{MAX_ROUNDS} runs of each were made" if self.standing.verdict is not None else "the search ended"
        if self.standing.verdict is None and self.budget == 0:
            why = "the budget ended"
        return f"{start} The order is not settled when {why}: the best is one of {names}, {sure}."


def replication(trials: Sequence[Trial], ranking: Ranking, max_executions: int | None) -> Replication | None:
    """Where the repetition of contenders stands, from what was recorded.

    Args:
        trials: all trials; those without a score, or that break a constraint, are no contenders.
        ranking: of the search.
        max_executions: executions that the whole search may run; None: no limit of its own.

    Returns:
        None when there is nothing to compare.
    """
    contenders = tuple(trial for trial in trials if trial.scores and not ranking.broken(trial))
    if not contenders:
        return None
    width = max(max(trial.executions, default=-1) for trial in contenders) + 1
    losses = np.full((len(contenders), width), np.nan)
    for row, trial in zip(losses, contenders, strict=True):
        for index, run in trial.executions.items():
            row[index] = ranking.objective.loss(run.score)
    spent = sum(max(1, len(trial.executions)) for trial in trials)
    budget = None if max_executions is None else max(0, max_executions - spent)
    standing = racing.race(losses, confidence=CONFIDENCE, max_rounds=MAX_ROUNDS)
    return Replication(contenders, standing, losses, budget)
