"""What trials report, and the score that comes of it: the part of `Oracle` that hears."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from manyfit.core import history as histories
from manyfit.core import seeds
from manyfit.core.lifecycle import TrialOutcome
from manyfit.core.objective import Objective
from manyfit.core.records import Ending, Plan, Result
from manyfit.oracles.checks import check_measured
from manyfit.oracles.synchronized import synchronized
from manyfit.oracles.trial import Trial

if TYPE_CHECKING:
    from manyfit.oracles.book import TrialBook


class Scoring:
    """The base of `Oracle` that takes metrics and scores trials."""

    if TYPE_CHECKING:
        objective: Objective
        seed: int
        book: TrialBook
        overrides: Any

        @property
        def trials(self) -> dict[str, Trial]: ...

    @synchronized
    def update_trial(self, trial_id: str, metrics: Mapping[str, float], step: int = 0) -> Trial:
        """Reports metrics of a running trial, for `run_trial` overrides that train with a loop of their own.

        Args:
            trial_id: the trial.
            metrics: with the objective among them.
            step: the epoch, counted from 0; where it was reported before, another execution begins.

        Raises:
            UsageError: the objective is not among the metrics.
        """
        self.check_objective(metrics)
        trial = self.trials[trial_id]
        numbers = {name: float(value) for name, value in metrics.items()}
        execution = 0
        while max(map(len, trial.running.get(execution, {}).values()), default=0) > step:
            execution += 1  # a step that was reported before is another execution's: the trial's score is their mean
        histories.append(trial.running.setdefault(execution, {}), numbers, step)
        trial.report(numbers, step, self.objective)
        return trial

    def check_objective(self, metrics: Mapping[str, Any]) -> None:
        """Checks that the objective is among metrics.

        Raises:
            UsageError: it is not; the message lists what is there.
        """
        check_measured(self.objective, metrics)

    def hear(self, trial: Trial, found: Sequence[histories.History]) -> None:
        """Calls an `update_trial` of the user's, once, with the metrics at the best epoch, as KerasTuner does.

        Args:
            trial: that has run.
            found: one history per execution.
        """
        if not self.overrides("update_trial") or trial.is_reported:
            return
        rows, epochs = [], []
        for history in found:
            scored = histories.score(history, self.objective)
            epochs.append(0 if scored is None else scored[1])
            rows.append(histories.at_epoch(history, epochs[-1]))
        self.update_trial(trial.trial_id, histories.mean_metrics(rows), step=sum(epochs) // len(epochs))

    def score_trial(self, trial: Trial) -> None:
        """Sets the trial's score and best step: means over its executions. Override it to score otherwise."""
        scored = [run for run in trial.executions.values() if run.score is not None]
        if scored:
            trial.score = sum(run.score for run in scored) / len(scored)  # type: ignore[misc]
            trial.best_step = round(sum(run.best_epoch or 0 for run in scored) / len(scored))
        elif trial.metrics.exists(self.objective.name):  # reported through update_trial, and not ended yet
            trial.score = trial.metrics.get_best_value(self.objective.name)
            trial.best_step = trial.metrics.get_best_step(self.objective.name)

    def _own_trial(self, trial: Trial) -> Trial:
        """The trial in the book that a copy stands for, with what the copy says."""
        known = self.trials.get(trial.trial_id, trial)
        if known is not trial:
            known.hyperparameters, known.status, known.message = trial.hyperparameters, trial.status, trial.message
        return known

    def _take_reports(self, trial: Trial) -> None:
        """Takes what `update_trial` reported as the trial's executions, where there are no others."""
        if trial.outcome is None and trial.running:
            trial.conclude(TrialOutcome(Ending.COMPLETED))
        if not trial.is_completed or trial.executions:
            return
        for execution, history in sorted(trial.running.items()):
            seed = seeds.seed_of(self.seed, "execution", trial.trial_id, execution, trial.attempt)
            plan = Plan(trial.trial_id, execution, trial.hyperparameters, seed)
            self.book.add_execution(Result(plan, Ending.COMPLETED, dict(history)))
