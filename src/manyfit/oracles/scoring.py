"""What trials report, the score that comes of it, and the order of trials by their scores."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from manyfit.core import history as histories
from manyfit.core import seeds
from manyfit.core.checks import closest_name
from manyfit.core.errors import UsageError, explain
from manyfit.core.lifecycle import TrialOutcome
from manyfit.core.objective import MEASURES, Objective
from manyfit.core.records import Ending, Plan, Result
from manyfit.oracles.trial import Trial
from manyfit.samplers.base import Constraint, broken
from manyfit.stats import pareto

_MOST_SHOWN = 30  # names of metrics in a message; an array has one per element


class Scoring:
    """The part of an oracle that takes metrics and scores trials. It keeps nothing: what it hears goes to the trial.

    Args:
        objective: what is ranked.
        constraints: on metrics of the trials.
    """

    def __init__(self, objective: Objective, constraints: Sequence[Constraint] = ()) -> None:
        self.objective = objective
        self.constraints = tuple(constraints)

    def check_whole(self, metrics: Mapping[str, object]) -> None:
        """Checks that what a whole execution has measured holds the objective, and what is bounded.

        Raises:
            UsageError: something is not among them; the message lists what is there.
        """
        self.check(metrics)
        for each in self.constraints:
            # What was not validated is not known yet.
            is_late = each.metric.startswith("val_") and "val_loss" not in metrics
            if each.metric not in metrics and each.metric not in MEASURES and not is_late:
                found = sorted({*metrics, *MEASURES})
                allowed, instead = (
                    f"one of {', '.join(found[:_MOST_SHOWN])}",
                    f"Did you mean {closest_name(each.metric, found)!r}?",
                )
                raise UsageError(explain(f"{each!r}", "a metric that trials do not have", allowed, instead))

    def check(self, metrics: Mapping[str, object]) -> None:
        """Checks that the objective is among metrics.

        Raises:
            UsageError: it is not; the message lists what is there.
        """
        if self.objective.is_complete(metrics):
            return
        names, found = self.objective.names, sorted(metrics)
        missing = next((name for name in names if name not in metrics), self.objective.name)
        elements = [name for name in metrics if name.startswith(f"{missing}[")]
        if elements:
            terms = getattr(self.objective, "objectives", self.objective.terms)
            direction = next((term.direction for term in terms if term.name == missing), self.objective.direction)
            instead = (
                f'Type objective=kt.Objective("{elements[0]}", "{direction}") for one of its {len(elements)} elements, '
                'or have the metric give one number: keras.metrics.F1Score(average="macro"), say.'
            )
        else:
            # No cutoff: even a poor guess shows that it is the name of a logged metric that belongs there.
            closest = closest_name(missing, found) or "loss"
            instead = f'Type objective="{closest}", or compile the model with that metric.'
        shown = found if len(found) <= _MOST_SHOWN else [*found[:_MOST_SHOWN], "..."]
        raise UsageError(
            explain(
                "Objective value missing in metrics reported to the Oracle",
                f"expected: {list(names)}, found: {shown}",
                f"one of {', '.join(shown) or 'the names that fit logs'}",
                instead,
            )
        )

    def report(self, trial: Trial, metrics: Mapping[str, float], step: int) -> None:
        """Takes metrics of a step of a running trial.

        `update_trial` names no execution, so the steps tell: one that was reported before is the next execution's, and
        the trial's score is their mean.

        Args:
            trial: that runs.
            metrics: with the objective among them.
            step: the epoch, counted from 0.

        Raises:
            UsageError: the objective is not among them.
        """
        numbers = histories.numbers_of(metrics)
        self.check(numbers)
        execution = 0
        while max(map(len, trial.running.get(execution, {}).values()), default=0) > step:
            execution += 1
        histories.append(trial.running.setdefault(execution, {}), numbers, step)
        trial.report(numbers, step, self.objective)

    def take_reports(self, trial: Trial, seed: int) -> list[Result]:
        """What `update_trial` was told of a trial that ends, as one result per execution, where there are no others.

        A program that reported and set no status means that the trial is complete.

        Args:
            trial: that has run.
            seed: of the whole search.
        """
        if trial.outcome is None and trial.running:
            trial.conclude(TrialOutcome(Ending.COMPLETED))
        if not trial.is_completed or trial.executions:
            return []
        results = []
        for execution, history in sorted(trial.running.items()):
            own_seed = seeds.seed_of(seed, "execution", trial.trial_id, execution, trial.attempt)
            plan = Plan(trial.trial_id, execution, trial.hyperparameters, own_seed)
            results.append(Result(plan, Ending.COMPLETED, dict(history)))
        return results

    def summary(self, found: Sequence[histories.History]) -> tuple[dict[str, float], int]:
        """Mean metrics at the best epochs of several executions, and the mean of these epochs.

        Args:
            found: one history per execution.
        """
        rows, epochs = [], []
        for history in found:
            scored = histories.score(history, self.objective)
            epochs.append(0 if scored is None else scored[1])
            rows.append(histories.at_epoch(history, epochs[-1]))
        return histories.mean_metrics(rows), sum(epochs) // len(epochs)

    def judge(self, trial: Trial) -> None:
        """Has a trial that was scored end as diverged where no execution ever measured a finite objective."""
        if trial.score is None or self.objective.loss(trial.score) == math.inf:
            trial.score = None
            found = [histories.why_diverged(run.history, self.objective) for run in trial.executions.values()]
            message = trial.message or next(filter(None, found), f"{self.objective.name} was never finite")
            trial.conclude(TrialOutcome(Ending.DIVERGED, message))

    def score(self, trial: Trial) -> None:
        """Sets the trial's score and best step: means over its executions."""
        scored = [run for run in trial.executions.values() if run.score is not None]
        if scored:
            # The mean and not the best: the best of several executions rewards a configuration for its noise.
            trial.score = sum(run.score for run in scored) / len(scored)  # type: ignore[misc]
            trial.best_step = round(sum(run.best_epoch or 0 for run in scored) / len(scored))
        elif not trial.executions and trial.metrics.exists(
            self.objective.name
        ):  # reported through update_trial, and not ended yet
            trial.score = trial.metrics.get_best_value(self.objective.name)
            trial.best_step = trial.metrics.get_best_step(self.objective.name)


class Ranking:
    """The order of completed trials.

    Trials that break a constraint come after all that keep them, those that break them least first (Deb 2000). With
    several objectives front comes after front, and within a front the leading objective decides.

    Args:
        objective: what is ranked.
        constraints: on metrics of the trials.
        measured: what a trial has measured; a book remembers it.
    """

    def __init__(
        self,
        objective: Objective,
        constraints: Sequence[Constraint] = (),
        *,
        measured: Callable[[Trial], Mapping[str, float]] = lambda trial: trial.measured,
    ) -> None:
        self.objective = objective
        self.constraints = tuple(constraints)
        self._measured = measured

    @property
    def is_by_score(self) -> bool:
        """Whether nothing but the score decides."""
        return not self.constraints and len(self.objective.terms) < 2

    def broken(self, trial: Trial) -> list[Constraint]:
        """The constraints that a trial breaks."""
        return [each for each in self.constraints if not each.holds(self._measured(trial))]

    def order(self, trials: Sequence[Trial]) -> list[Trial]:
        """The trials, best first; ties stay in the order given."""
        # Ranked several times per trial: means over executions only where a constraint asks for them (row E).
        excess = [broken(self.constraints, self._measured(trial)) if self.constraints else 0.0 for trial in trials]
        fronts = self._fronts(trials)
        leading = [self.objective.loss(trial.score) for trial in trials]
        order = sorted(range(len(trials)), key=lambda i: (excess[i], fronts[i], leading[i]))
        return [trials[i] for i in order]

    def best(self, trials: Sequence[Trial]) -> list[Trial]:
        """The best trial, or with several objectives the whole front; trials that break constraints are not in it."""
        return self.front_of(self.order(trials))

    def keeping(self, trials: Sequence[Trial]) -> list[Trial]:
        """Those that break no constraint."""
        return [trial for trial in trials if not self.broken(trial)]

    def confirmed_first(self, ordered: list[Trial]) -> list[Trial]:
        """Those that keep the constraints (where none does, all), the confirmed ones first; of trials in order."""
        ranked = (self.keeping(ordered) if self.constraints else ordered) or ordered
        # Not one list sorted by score: a confirmed score has lost the luck that the search's maximum has, so the two
        # cannot be compared, and the confirmed ones would nearly always come last.
        confirmed = [trial for trial in ranked if trial.confirmed is not None]
        confirmed.sort(key=lambda trial: trial.confirmed.rank)  # type: ignore[union-attr]
        return confirmed + [trial for trial in ranked if trial.confirmed is None]

    def front_of(self, ordered: Sequence[Trial]) -> list[Trial]:
        """See `best`; of trials that are in order already."""
        if len(self.objective.terms) < 2:
            first = next((trial for trial in ordered if not self.broken(trial)), None)
            return [] if first is None else [first]
        kept = self.keeping(ordered)
        return [trial for trial, front in zip(kept, self._fronts(kept), strict=True) if front == 0]

    def notes(self, trial: Trial, front: Sequence[Trial]) -> list[str]:
        """Lines about a trial besides its score: its objectives where there are several, the constraints it breaks.

        Args:
            trial: a trial; nothing is said of one without a score.
            front: what `best` returned.
        """
        if trial.score is None:
            return []
        metrics, lines = self._measured(trial), []
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
        found = map(self._measured, trials)
        losses = np.array([[term.loss(one.get(term.name)) for term in self.objective.terms] for one in found])
        # Infinite losses put a trial behind every front of those that keep the constraints.
        losses[[bool(self.broken(trial)) for trial in trials]] = math.inf
        return [int(front) for front in pareto.fronts(losses)]
