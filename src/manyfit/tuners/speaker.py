"""What a search says while it runs, in KerasTuner's words."""

from __future__ import annotations

import sys
from typing import Any

from manyfit.oracles import Oracle, Trial, TrialStatus
from manyfit.report import terminal
from manyfit.report.colours import is_rich, trial_line


class Speaker:
    """The base of tuners that prints."""

    oracle: Oracle
    verbose: Any
    display: str = "auto"

    def _shows(self) -> bool:
        return self.verbose not in (0, "0", False)

    def _say(self, text: str) -> None:
        if self._shows():
            print(text, flush=True)

    def _say_begin(self, trial: Trial) -> None:
        if self._shows() and not is_rich(self.display):
            best = self.oracle.get_best_trials(1)
            values = trial.hyperparameters.values
            self._say(
                terminal.trial_begin(trial.number + 1, values, best[0].hyperparameters.values if best else values)
            )

    def _say_end(self, trial: Trial) -> None:
        if not self._shows():
            return
        best = self.oracle.get_best_trials(1)
        again = trial.trial_id in self.oracle.waiting
        if again:
            left = self.oracle.max_retries_per_trial - trial.attempt + 1
            self._say(f"Trial {trial.trial_id} failed {trial.attempt} times. {left} retries left.")
        if again or trial.status == TrialStatus.FAILED:
            print(f"Trial {trial.trial_id} failed: {_last_line(trial.message)}", file=sys.stderr, flush=True)
        if is_rich(self.display):
            self._say_end_to_people(trial, best[0].score if best else None)
            return
        self._say(
            terminal.trial_end(
                trial.number + 1,
                (trial.ended_at or 0.0) - trial.started_at,
                objective=self.oracle.objective.name,
                score=trial.score,
                best=best[0].score if best else None,
                elapsed_seconds=self.oracle.clock.spent(),
            )
        )

    def _say_end_to_people(self, trial: Trial, best: float | None) -> None:
        trial_line(
            trial.trial_id,
            trial.hyperparameters.values,
            status=trial.status,
            seconds=(trial.ended_at or 0.0) - trial.started_at,
            score=trial.score,
            best=best,
            objective=self.oracle.objective.name,
            num_ended=len(self.oracle.end_order),
            max_trials=self.oracle.max_trials,
            elapsed_seconds=self.oracle.clock.spent(),
        )


def _last_line(message: str | None) -> str:
    return (message or "").strip().splitlines()[-1] if message else ""
