"""What is left of a search's budget: its time, and executions for a space that was tried in full."""

from __future__ import annotations

import time

from manyfit.core.lifecycle import TrialState
from manyfit.core.objective import Objective
from manyfit.oracles.book import TrialBook
from manyfit.oracles.replication import Replication, replication
from manyfit.oracles.trial import Trial
from manyfit.space.encoding import Encoding
from manyfit.space.hyperparameters import HyperParameters


class Budget:
    """The part of an oracle that keeps its clock, and decides whether contenders are repeated."""

    book: TrialBook
    objective: Objective
    hyperparameters: HyperParameters
    max_trials: int | None
    max_seconds: float | None
    waiting: list[str]
    ongoing_trials: dict[str, Trial]
    _exhausted: bool
    _clock_started: float | None = None
    _spent_seconds: float = 0.0

    # Repeating contenders --------------------------------------------------------------------------------------

    #: Whether a budget that is left when a finite space is exhausted goes to further executions of the contenders.
    replicates: bool = False

    def may_replicate(self) -> bool:
        """Whether everything was tried, and time is left."""
        return self.ends_with_contenders() and not self.out_of_time()

    def ends_with_contenders(self) -> bool:
        """Whether everything was tried, so that what is left of the budget is for the contenders."""
        if not self.replicates or len(self.objective.terms) > 1:
            return False
        size = Encoding(self.hyperparameters).num_configurations(limit=len(self.book.trials))
        return self._exhausted or size is not None

    def replication(self, executions_per_trial: int | None) -> Replication | None:
        """Where the repetition of contenders stands; None when there is nothing to compare.

        Args:
            executions_per_trial: of the tuner; None counts calls of a user's `run_trial`, whatever each returns.
        """
        by_call = executions_per_trial is None
        budget = None if self.max_trials is None else self.max_trials * (executions_per_trial or 1)
        return replication(list(self.book.trials.values()), self.book.ranking, budget, by_call=by_call)

    def rescore(self, trial: Trial) -> None:
        """Takes further executions of a completed trial into its score."""
        trial.running.clear()
        self.score_trial(trial)
        self.book.end(trial)

    # Time ------------------------------------------------------------------------------------------------------

    def start_clock(self) -> None:
        """Starts counting the seconds of the search; those of earlier runs of the project count, too.

        What an interrupted run in this process left in the middle (Ctrl-C in a notebook) is to be run again.
        """
        for trial in self.book.trials.values():
            if trial.state is TrialState.RUNNING:
                trial.running.clear()
                trial.move(TrialState.QUEUED)
                self.waiting.append(trial.trial_id)
        self.ongoing_trials.clear()
        self._clock_started = time.monotonic()

    def stop_clock(self) -> None:
        """Stores the seconds that were spent."""
        self._spent_seconds = self.spent_seconds()
        self._clock_started = None
        if self.book.store is not None:
            self.book.store.put(spent_seconds=self._spent_seconds)

    def spent_seconds(self) -> float:
        """Seconds that the search has taken so far."""
        running = 0.0 if self._clock_started is None else time.monotonic() - self._clock_started
        return self._spent_seconds + running

    def out_of_time(self) -> bool:
        """Whether `max_seconds` is over."""
        return self.max_seconds is not None and self.spent_seconds() >= self.max_seconds

    def score_trial(self, trial: Trial) -> None:
        """Sets the trial's score: see `Oracle`."""
        raise NotImplementedError
