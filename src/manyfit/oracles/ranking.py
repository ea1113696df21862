"""Which trials are the best: those that keep the constraints, then by objective; with several objectives, by front."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from manyfit.core.objective import Objective
from manyfit.oracles.trial import Trial
from manyfit.samplers.outcomes import Constraint, broken
from manyfit.stats import pareto


class Ranking:
    """The order of completed trials.

    Trials that break a constraint come after all that keep them, those that break them least first (Deb 2000). With
    several objectives front comes after front, and within a front the leading objective decides.

    Args:
        objective: what is ranked.
        constraints: on metrics of the trials.
    """

    def __init__(self, objective: Objective, constraints: Sequence[Constraint] = ()) -> None:
        self.objective = objective
        self.constraints = tuple(constraints)

    def broken(self, trial: Trial) -> list[Constraint]:
        """The constraints that a trial breaks."""
        return [each for each in self.constraints if not each.holds(trial.metrics)]

    def order(self, trials: Sequence[Trial]) -> list[Trial]:
        """The trials, best first; ties stay in the order given."""
        excess = [broken(self.constraints, trial.metrics) if self.constraints else 0.0 for trial in trials]
        fronts = self._fronts(trials)
        leading = [self.objective.loss(trial.score) for trial in trials]
        order = sorted(range(len(trials)), key=lambda i: (excess[i], fronts[i], leading[i]))
        return [trials[i] for i in order]

    def best(self, trials: Sequence[Trial]) -> list[Trial]:
        """The best trial, or with several objectives the whole front; trials that break constraints are not in it."""
        kept = [trial for trial in self.order(trials) if not self.broken(trial)]
        if len(self.objective.terms) < 2:
            return kept[:1]
        return [trial for trial, front in zip(kept, self._fronts(kept), strict=True) if front == 0]

    def notes(self, trial: Trial, front: Sequence[Trial]) -> list[str]:
        """Lines about a trial besides its score: its objectives where there are several, the constraints it breaks.

        Args:
            trial: a trial; nothing is said of one without a score.
            front: what `best` returned.
        """
        if trial.score is None:
            return []
        metrics, lines = trial.metrics, []
        if len(self.objective.terms) > 1:
            values = ", ".join(f"{term.name} {metrics.get(term.name, math.nan):.5g}" for term in self.objective.terms)
            place = "nothing dominates it" if trial in front else "another trial dominates it"
            lines.append(f"Objectives: {values} ({place})")
        for each in self.broken(trial):
            lines.append(f"Breaks the constraint {each}: {metrics.get(each.metric, math.nan):.5g}")
        return lines

    def _fronts(self, trials: Sequence[Trial]) -> list[int]:
        """The front of each trial among those that keep the constraints; 0 for all with one objective."""
        if len(self.objective.terms) < 2 or not trials:
            return [0] * len(trials)
        losses = np.array(
            [[term.loss(trial.metrics.get(term.name)) for term in self.objective.terms] for trial in trials]
        )
        losses[[bool(self.broken(trial)) for trial in trials]] = math.inf
        return [int(front) for front in pareto.fronts(losses)]
