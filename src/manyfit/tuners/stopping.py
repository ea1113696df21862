"""Ends a search by `stop_when`: asks after trials have ended what is expected of the leader."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from manyfit.core.errors import UsageError, explain
from manyfit.core.events import Event, TrialEnded
from manyfit.evidence.stopping import Progressed, StopCondition, checked
from manyfit.oracles import Oracle
from manyfit.stats.posterior import MIN_TRIALS
from manyfit.store.facts import GAINS, Leader

_MOST_OF_TIME = 0.02  # of the search, for finding out what is expected of the leader


class StopsWhen:
    """Listens to a search, and ends it when its condition is met.

    Args:
        condition: of `search`.
        oracle: of the search.
        leader: says who leads; takes longer the more trials there are.
        now: a time in seconds that never goes back.
    """

    def __init__(
        self,
        condition: StopCondition,
        oracle: Oracle,
        leader: Callable[[], Leader | None],
        *,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._condition, self._oracle, self._leader, self._now = condition, oracle, leader, now
        self._next_look = -math.inf
        [objective] = oracle.objective.terms
        known = [] if oracle.book.store is None else oracle.book.store.get(GAINS, [])
        gains = [(int(number), float(value)) for number, value in known]
        self._seen = Progressed(objective.name, objective.direction, 0, gains)

    @classmethod
    def of(
        cls, condition: StopCondition | None, oracle: Oracle, leader: Callable[[], Leader | None]
    ) -> StopsWhen | None:
        """What listens to a search; None where no condition is given.

        Raises:
            UsageTypeError: the condition is none.
            UsageError: several objectives, of which no one trial leads.
        """
        if condition is None:
            return None
        condition = checked(condition)
        if len(oracle.objective.terms) > 1:
            instead = "Leave stop_when out, or search for one of them."
            got = f"{len(oracle.objective.terms)} objectives, by which no one trial leads"
            raise UsageError(explain("search(stop_when)", got, "one objective", instead))
        return cls(condition, oracle, leader)

    def hear(self, event: Event) -> None:
        """See `manyfit.core.events.Listener`."""
        if not isinstance(event, TrialEnded) or self._now() < self._next_look:
            return
        began = self._now()
        num_ended = sum(trial.has_ended for trial in self._oracle.trials.values())
        leader = self._leader()
        expected = None if leader is None else leader.expected
        # With fewer nobody can tell luck from skill; with more it is known, or it never will be.
        is_score = expected is None and leader is not None and leader.num_trials >= MIN_TRIALS
        if is_score and leader is not None:
            expected = leader.score
        # Kept with the project: who goes on after a kill must not count the trials without gain anew.
        num_gains = len(self._seen.gains)
        self._seen = self._seen.with_expected(expected, num_ended, is_score=is_score)
        if len(self._seen.gains) > num_gains:
            self._oracle.book.note(**{GAINS: list(self._seen.gains)})
        self._next_look = began + (self._now() - began) / _MOST_OF_TIME
        if (why := self._condition.why(self._seen)) is not None:
            self._oracle.clock.halt(f"stop_when is met: {why}")
