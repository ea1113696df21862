"""The first phase of `fit`: a search that ends when what comes afterwards needs the time, or promises more."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator
from typing import Any

from manyfit.core.clock import Clock
from manyfit.core.errors import SearchError, first_line
from manyfit.fitting.asked import CanDo, FittingTuner, Wishes, trials_of
from manyfit.fitting.holdout import HeldOut
from manyfit.fitting.length import no_time_for_an_epoch
from manyfit.fitting.phase_times import PhaseTimes
from manyfit.fitting.rows import on_how_many_rows, rows_by_costs, why_all_rows
from manyfit.oracles import endings

_ENDED_BY = {
    endings.SearchEnd.SECONDS: "time",
    endings.SearchEnd.TRIALS: "trials",
    endings.SearchEnd.EPOCHS: "trials",
    endings.SearchEnd.SCHEDULE: "schedule",
    endings.SearchEnd.FAILURES: "failures",
    endings.SearchEnd.EXHAUSTED: "space",
    endings.SearchEnd.ORACLE: "space",
    endings.SearchEnd.STOPPED: "stopped",
}


class SearchClock(Clock):
    """The clock of a search that is a part of `fit`: over when the rest is needed for what comes afterwards.

    Once over it stays so: what a last trial changes in the forecast does not begin the search again.

    Args:
        whole: of the whole call.
        needed: seconds that what comes afterwards will take.
    """

    def __init__(self, whole: Clock, needed: Callable[[], float]) -> None:
        super().__init__(within=[whole])
        self._needed = needed
        self._was_over = False

    def left(self) -> float:
        """See `Clock.left`."""
        left = 0.0 if self._was_over else super().left()
        if left and not math.isinf(left):
            left = max(0.0, left - self._needed())
        self._was_over = left == 0.0
        return left


class Searching:
    """The search of one call of `fit`.

    Args:
        tuner: that searches.
        wishes: of the caller.
        times: of the call.
        needed_afterwards: seconds that what comes afterwards will take, as far as is known by now.
        reasons: what was chosen and why; sentences of this phase are added.
        can: what the tuner can do.
        say: takes one line of text for people.
    """

    def __init__(
        self,
        tuner: FittingTuner,
        wishes: Wishes,
        times: PhaseTimes,
        *,
        needed_afterwards: Callable[[], float],
        reasons: list[str],
        can: CanDo,
        say: Callable[[str], None],
    ) -> None:
        self._tuner, self._oracle, self._wishes, self._times = tuner, tuner.oracle, wishes, times
        self._can, self._say = can, say
        self._needed_afterwards = needed_afterwards
        self._reasons = reasons
        self._has_parts = False

    def run(self, held: HeldOut) -> str:
        """Searches for as long as that promises more than what comes afterwards; answers what ended it.

        Raises:
            SearchError: no trial has a score: all failed, or the time was too short for an epoch of one.
        """
        folds = {} if held.cross_validation is None else {"cross_validation": held.cross_validation}
        with self._limits(held):
            try:
                self._times.timed(
                    "search", lambda: self._tuner.search(*held.call.args, **{**held.call.kwargs, **folds})
                )
            except SearchError as error:
                if not self._num_completed():
                    raise
                self._reasons.append(f"The search broke off: {first_line(error)}")
        if not self._num_completed():
            raise no_time_for_an_epoch(self._times.clock.max_seconds, self._oracle.clock.refused_seconds)
        ended = self._tuner.ended_by
        self._reasons.append(f"{self._num_completed()} of {len(self._oracle.trials)} trials have a score.")
        self._reasons += self._of_rows(held)
        # A search that found nothing to begin in what was left has no ending of its own; nor has one on parts of the
        # rows, whose schedule, which is ours, ends where no training fits any more.
        unknown = "trials" if trials_of(self._wishes, self._oracle) is not None else "time"
        if ended is None or (ended is endings.SearchEnd.SCHEDULE and self._has_parts):
            return unknown
        return _ENDED_BY.get(ended, unknown)

    def _num_completed(self) -> int:
        return sum(trial.is_completed for trial in self._oracle.trials.values())

    def _of_rows(self, held: HeldOut) -> list[str]:
        """On how many rows trials have trained, where that was not on all."""
        trials, counted = self._oracle.book.completed(), held.call.counted_rows()
        said = on_how_many_rows(trials, None if counted is None else counted[0])
        said = said or why_all_rows(held.call, trials, self._times.clock.max_seconds)
        return [] if said is None else [said]

    @contextlib.contextmanager
    def _on_parts(self, held: HeldOut, clock: SearchClock) -> Iterator[None]:
        """Within it trials begin on a part of the rows where an epoch of all is dear."""
        limit, oracle, tuner = self._times.clock.max_seconds, self._oracle, self._tuner
        found = rows_by_costs(held, self._can, oracle, clock=clock, limit=limit, say=self._say)
        if found is None:
            yield
            return
        before = oracle.scheduler
        oracle.scheduler, tuner.row_parts = found
        self._has_parts = True
        try:
            yield
        finally:
            oracle.scheduler, tuner.row_parts = before, None

    @contextlib.contextmanager
    def _limits(self, held: HeldOut) -> Iterator[None]:
        """Within it the search has the limits of this call, and not its own."""
        oracle = self._oracle
        sampler: Any = oracle.sampler
        before = oracle.max_trials, getattr(sampler, "max_trials", None)
        oracle.max_trials = trials_of(self._wishes, oracle)
        if hasattr(sampler, "max_trials"):  # one that plans by it
            sampler.max_trials = oracle.max_trials
        clock = SearchClock(self._times.clock, self._needed_afterwards)
        if clock.is_limited:  # else nothing is gained by what is cheap
            oracle.proposals.mind_costs(clock, beliefs=self._wishes.beliefs)
        try:
            with self._tuner.limited(clock), self._on_parts(held, clock):
                yield
        finally:
            oracle.proposals.mind_costs(None)
            oracle.max_trials = before[0]
            if hasattr(sampler, "max_trials"):
                sampler.max_trials = before[1]
