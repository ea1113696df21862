"""`fit`: search, combine, bag or confirm, within one limit, and the best of what that has come to.

The steps are those that users call one by one; here they are called for them. What is done when follows from what
trials have cost and how good they were (`phases.py`): first the search (`searching.py`), then what its best trials are
good for (`afterwards.py`).
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator

from manyfit.core.clock import Clock
from manyfit.core.events import PhaseBegan
from manyfit.data.call import Call
from manyfit.fitting import asked, in_hand
from manyfit.fitting.afterwards import Afterwards
from manyfit.fitting.asked import CanDo, FittingTuner, Wishes
from manyfit.fitting.length import with_length
from manyfit.fitting.phase_times import PhaseTimes
from manyfit.fitting.possible_steps import PossibleSteps
from manyfit.fitting.record import FitRecord
from manyfit.fitting.searching import Searching
from manyfit.fitting.signals import Interruptible, what_is_kept
from manyfit.fitting.standing import Standing
from manyfit.fitting.winner import Winner


def fit(
    tuner: FittingTuner,
    call: Call,
    wishes: Wishes,
    can: CanDo,
    *,
    say: Callable[[str], None],
    now: Callable[[], float] | None = None,
) -> Winner:
    """See `Tuner.fit`.

    Args:
        tuner: that searches.
        call: of `search`.
        wishes: limits, and how rows are held out.
        say: takes one line of text for people.
        can: what the tuner can do.
        now: a time in seconds that never goes back.

    Raises:
        UsageError: several objectives, no limit at all, or as `hold_out` and `search` say.
        SearchError: no trial has a score: all failed, or the time was too short for an epoch of one.
    """
    if can.trains and can.in_epochs:
        call = with_length(call, tuner.oracle, say)
    return _Fit(tuner, wishes, can, say, now=now).run(call)


class _Fit:
    """One call of `fit`: a winner at every moment, whatever ends it."""

    def __init__(
        self,
        tuner: FittingTuner,
        wishes: Wishes,
        can: CanDo,
        say: Callable[[str], None],
        *,
        now: Callable[[], float] | None,
    ) -> None:
        self._tuner, self._oracle = tuner, tuner.oracle
        self._wishes, self._can, self._say = wishes, can, say
        self._reasons: list[str] = []
        folder = tuner.store.layout.winner
        self._earlier = FitRecord(folder).read()
        limit = asked.seconds_of(wishes, tuner.oracle)
        self._clock = Clock(limit, spent_seconds=self._earlier.seconds, now=now)
        self._times = PhaseTimes(self._clock, self._earlier.phases, begins=self._phase_begins)
        self._standing = Standing(
            folder, self._oracle.objective, max_seconds=limit, phases=self._times.seconds, say=say, now=now
        )
        self._afterwards: Afterwards | None = None

    def run(self, call: Call) -> Winner:
        self._clock.start()
        asked.check_objective(self._oracle)
        asked.check_limits(self._wishes, self._oracle, self._say)
        told = functools.partial(what_is_kept, "fit", self._oracle, self._tuner.project_dir)
        asking = self._oracle.requests.during("the fit", self._clock)
        with Interruptible(told, self._say), asking, self._keeping():
            if (winner := self._of_earlier_call()) is not None:
                return winner
            if self._earlier.seconds:
                self._say(f"fit: goes on after {self._earlier.seconds:.0f} s of earlier calls.")
            try:
                winner = self._of_phases(call)
                self._times.timed("save", self._standing.put, winner)
            except KeyboardInterrupt:  # a second one, while this is handled, is raised
                if (kept := self._interrupted()) is None:
                    raise
                return kept
            self._standing.note(finished=True)
            return winner

    def _of_phases(self, call: Call) -> Winner:
        held = asked.rows_held_out(call, self._wishes, self._can, self._oracle, self._say)
        verbose = call.get("verbose", 1)
        steps = PossibleSteps(self._tuner, self._can, held, verbose=verbose, tell=self._reasons.append)
        afterwards = self._afterwards = Afterwards(self._tuner, steps, times=self._times, reasons=self._reasons)
        searching = Searching(
            self._tuner,
            self._wishes,
            self._times,
            needed_afterwards=afterwards.needed_seconds,
            reasons=self._reasons,
            can=self._can,
            say=self._say,
        )
        ended_by = searching.run(held)
        with self._tuner.limited(self._clock):
            return afterwards.winner(ended_by, lambda: searching.run(held))

    def _phase_begins(self, name: str) -> None:
        self._oracle.book.events.tell(PhaseBegan(name, self._clock.left()))

    @contextlib.contextmanager
    def _keeping(self) -> Iterator[None]:
        """Within it the best model so far, and the seconds that were spent, are kept on the disk."""
        self._tuner.standing = self._standing
        try:
            yield
        finally:
            self._tuner.standing = None

    def _of_earlier_call(self) -> Winner | None:
        """The winner of a call that came to its end, where nothing is left of the limit; None: it is not there."""
        if not (self._earlier.is_finished and self._clock.is_over()):
            return None
        if (winner := in_hand.on_disk(self._tuner)) is not None:
            limit = self._clock.max_seconds or 0.0
            self._say(
                f"fit: nothing is left of {limit:g} s, so this is the winner of an earlier call. To go on, raise "
                f"max_seconds= ({2 * limit:g}, say)."
            )
        return winner

    def _interrupted(self) -> Winner | None:
        """The best there is when somebody has interrupted; None: there is nothing yet."""
        phase = self._times.under_way
        during = "" if phase is None else f" in the phase {phase!r}"
        self._reasons.append(f"Interrupted{during}: this was the best so far. The same call of fit goes on.")
        self._standing.flush()
        self._standing.note(finished=False)
        hand = None if self._afterwards is None else self._afterwards.hand
        return in_hand.interrupted(self._tuner, self._standing, hand, self._times.seconds(), self._reasons)
