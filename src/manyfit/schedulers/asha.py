"""ASHA: successive halving that never waits.

Source: Li, Jamieson, Rostamizadeh, Gonina, Ben-tzur, Hardt, Recht and Talwalkar 2020, Algorithm 2.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

from manyfit.core.records import Progress, Value
from manyfit.core.signatures import checked_arguments
from manyfit.schedulers import base
from manyfit.schedulers.base import Job, Limits, Resume, Room, Scheduler, Start
from manyfit.schedulers.hyperband import check_rungs
from manyfit.schedulers.rungs import RungStanding, ceil_div, entered, num_brackets, rung_epochs, stand


class ASHA(Scheduler):
    """Asynchronous successive halving: whoever is among the best 1 / `factor` of a rung goes on at once.

    A free slot first promotes, from the highest rung downwards; where nobody can be promoted it starts a new
    trial. It needs a limit on the search (trials, epochs or seconds), as it never runs out of trials to start.
    When no more may be started, rungs that can get no more trials promote at least one, so that the best of a
    small space reaches its full length.

    Args:
        max_epochs: epochs of a trial that reaches the last rung.
        factor: one in so many trials is promoted, and trains so many times as long.
        min_epochs: the shortest first rung that is allowed; raise it where the first epochs say little.

    Raises:
        UsageError: an argument that is no integer, `factor` below 2, another below 1, or `min_epochs` above
            `max_epochs`.

    Example:

    >>> from manyfit.schedulers.base import Limits
    >>> asha = ASHA(max_epochs=9, factor=3)
    >>> rung = [Progress(str(i), (0.1 * i,), target_epochs=1) for i in range(3)]
    >>> [(job.trial_id, job.target_epochs) for job in asha.assign(rung, 1, Limits(max_trials=9))]
    [('0', 3)]
    """

    @checked_arguments()
    def __init__(self, max_epochs: int = 100, factor: int = 3, *, min_epochs: int = 1):
        self.max_epochs: int
        self.max_epochs, self.factor, self.min_epochs = check_rungs("ASHA", max_epochs, factor, min_epochs)

    @property
    def rungs(self) -> list[int]:
        """Epochs at which the rungs end, first to last."""
        deepest = num_brackets(self.max_epochs, self.factor, self.min_epochs) - 1
        return rung_epochs(self.max_epochs, self.factor, deepest)

    def assign(self, history: Sequence[Progress], count: int, limits: Limits) -> list[Job]:
        """See `Scheduler.assign`."""
        room = Room(history, limits, count)
        jobs: list[Job] = []
        rungs = self.rungs
        # Promotions before starts: a slot that starts first would never promote as long as there are values to try.
        for number, progress in self._promotable(history, room, rungs):
            more_epochs = rungs[number + 1] - progress.epochs
            if room.fits(more_epochs):
                room.take(more_epochs, start=False)
                tags: dict[str, Value] = {
                    base.EPOCHS: rungs[number + 1],
                    base.INITIAL_EPOCH: progress.epochs,
                    base.ROUND: number + 1,
                    base.TRIAL_ID: progress.trial_id,
                }
                jobs.append(Resume(progress.trial_id, rungs[number + 1], tags))
        while room.can_start and room.fits(rungs[0]):
            room.take(rungs[0], start=True)
            jobs.append(Start(rungs[0], {base.EPOCHS: rungs[0], base.INITIAL_EPOCH: 0, base.ROUND: 0}))
        return jobs

    def _promotable(self, history: Sequence[Progress], room: Room, rungs: list[int]) -> list[tuple[int, Progress]]:
        """(rung, trial) pairs, highest rung first and best first within it.

        From the lowest rung upwards: who stands in a rung, which of them are in its top, and who of these still waits.
        A rung is *closed* when nobody can come into it any more; then its top is known, and counts are rounded so that
        small rungs still send somebody on. Members of the next rung are those who were promoted, and those of the top
        that ended early, who hold their place there.
        """
        found: list[list[tuple[int, Progress]]] = []
        closed = not (room.can_start and room.affords(rungs[0]))  # nobody can come into this rung any more
        members: Sequence[Progress] = history
        for number, (epochs, next_epochs) in enumerate(itertools.pairwise(rungs)):
            standing = stand(members, epochs, next_epochs)
            closed = closed and not standing.unfinished
            chosen = self._top(standing, closed)
            # Only paused ones can go on; others hold their place and are counted, but have nothing left to train.
            waiting = [p for p in chosen if p.paused and p.trial_id not in standing.promoted]
            found.append([(number, progress) for progress in waiting])
            # Whoever is promoted from here will come into the next rung: it is not closed yet.
            closed = closed and not waiting
            ended = {p.trial_id for p in chosen if p.ending is not None}
            members = [p for p in members if entered(p, next_epochs) or p.trial_id in ended]
        # From above: a trial near its full length is worth more than one near its start.
        return [pair for pairs in reversed(found) for pair in pairs]

    def _top(self, standing: RungStanding, closed: bool) -> list[Progress]:
        """Who belongs among the best 1 / factor of a rung as it is now; all of it, once nobody can come in."""
        num_finished = len(standing.finished)
        num_top = ceil_div(num_finished, self.factor) if closed else num_finished // self.factor
        if closed:
            # A trial that failed above holds no place there: in a closed rung the next best takes it.
            num_top = max(0, num_top - len(standing.promoted))
            rest = [p for p in standing.finished if p.trial_id not in standing.promoted]
            available = [p for p in rest if p.paused or (p.ending is not None and p.ending.has_score)]
            return [p for p in standing.finished if p.trial_id in standing.promoted] + available[:num_top]
        return standing.finished[:num_top]

    def settings(self) -> dict[str, Any]:
        """See `Scheduler.settings`."""
        return {
            "name": "ASHA",
            "max_epochs": self.max_epochs,
            "factor": self.factor,
            "min_epochs": self.min_epochs,
        }
