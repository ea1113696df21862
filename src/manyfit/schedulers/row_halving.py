"""Successive halving over rows: many trials on a part of the rows, the best of them on more, the best of these on all.

Source: Li, Jamieson, Rostamizadeh, Gonina, Ben-tzur, Hardt, Recht and Talwalkar 2020 (ASHA), with rows for epochs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from manyfit.core.errors import UsageError, explain
from manyfit.core.records import Progress
from manyfit.core.signatures import checked_arguments
from manyfit.schedulers.base import ROWS, Job, Limits, Restart, Room, Scheduler, Start, check_count
from manyfit.schedulers.full_length import FullBudget
from manyfit.schedulers.rungs import ceil_div


class RowHalving(Scheduler):
    """Trains new trials on a part of the rows, and one in `factor` of them anew on more.

    All validate on the same rows, so that scores compare, and all have the same number of epochs. Whoever is the best
    of those that wait goes on as soon as one in `factor` may: no slot waits for a rung to be full. Where nothing more
    can come, the best goes on whatever its number, so that one trial at least is trained on all rows.

    Trials that have seen fewer rows are never ranked beside those that have seen all.

    Args:
        rows: training rows of each rung but the last, which has all, ascending. The parts lie within each other;
            classes keep their shares in them.
        factor: one in so many goes on.
        max_epochs: epochs of each training. None leaves it to the user's fit arguments.

    Raises:
        UsageError: rows that do not ascend, none, or fewer than 1 of them; `factor` below 2; `max_epochs` below 1.

    Example:

    >>> from manyfit.core.records import Ending
    >>> halving = RowHalving([1_000])
    >>> part = {ROWS: 1_000}
    >>> tried = [Progress(str(i), (0.1 * i,), ending=Ending.STOPPED, tags=part) for i in range(3)]
    >>> [(type(job).__name__, job.num_rows) for job in halving.assign(tried, 1, Limits(max_trials=9))]
    [('Restart', None)]
    """

    may_pause = may_stop = False
    may_restart = True

    @checked_arguments()
    def __init__(self, rows: Sequence[int], factor: int = 3, *, max_epochs: int | None = None) -> None:
        self._full = FullBudget(max_epochs)
        self.max_epochs = self._full.max_epochs
        hint = "Type rows=[5_000, 20_000], say."
        self.rows = [check_count("RowHalving", "rows", number, low=1, hint=hint) for number in rows]
        if not self.rows or sorted(set(self.rows)) != self.rows:
            raise UsageError(explain("RowHalving(rows=...)", list(rows), "numbers of rows that ascend", hint))
        self.factor = check_count("RowHalving", "factor", factor, low=2, hint="Type 3, say.")

    def rung_of(self, progress: Progress) -> int:
        """The rung that a trial trains in, or has trained in last; the last one has all rows."""
        num_rows = progress.tags.get(ROWS)
        # Numbers that are none of these: the rungs were others when it began.
        return len(self.rows) if num_rows is None else sum(rung < int(num_rows) for rung in self.rows[:-1])

    def assign(self, history: Sequence[Progress], count: int, limits: Limits) -> list[Job]:
        """See `Scheduler.assign`.

        Raises:
            UsageError: `max_total_epochs` is asked for while the epochs of a trial are unknown.
        """
        # Asked before anything is taken out of the room: whether trials can still come is a question of the limits.
        starts = self._full.assign(history, count, limits)
        room = Room(history, limits, count)
        jobs: list[Job] = []
        # Before new ones, as in ASHA: a slot that starts first would never promote as long as there are values to try.
        for progress, rung in self._chosen(history, nothing_comes=not starts):
            if room.fits(self.max_epochs):
                room.take(self.max_epochs, start=False)
                jobs.append(Restart(progress.trial_id, self.max_epochs, self.rows_of(rung + 1)))
        while starts and room.can_start and room.fits(self.max_epochs):
            room.take(self.max_epochs, start=True)
            jobs.append(Start(self.max_epochs, {ROWS: self.rows[0]}))
        return jobs

    def rows_of(self, rung: int) -> int | None:
        """Rows of a rung; None: all."""
        return self.rows[rung] if rung < len(self.rows) else None

    def _chosen(self, history: Sequence[Progress], *, nothing_comes: bool) -> list[tuple[Progress, int]]:
        """Who goes on, with the rung that they are in: the highest rung first, and the best first within it."""
        rungs = {progress.trial_id: self.rung_of(progress) for progress in history}
        found: list[list[tuple[Progress, int]]] = []
        for rung in range(len(self.rows)):
            here = [progress for progress in history if rungs[progress.trial_id] == rung]
            waiting = [progress for progress in here if progress.ending is not None and progress.ending.has_score]
            waiting.sort(key=Progress.best_loss)  # stable: of equal losses the earlier start comes first
            # One that has failed above holds no place there.
            above = [p for p in history if rungs[p.trial_id] > rung and (p.ending is None or p.ending.has_score)]
            nothing_comes = nothing_comes and all(progress.ending is not None for progress in here)
            reached = len(waiting) + len(above)
            places = ceil_div(reached, self.factor) if nothing_comes else reached // self.factor
            chosen = waiting[: max(0, places - len(above))]
            found.append([(progress, rung) for progress in chosen])
            nothing_comes = nothing_comes and not chosen  # they come into the next rung
        return [pair for pairs in reversed(found) for pair in pairs]

    def settings(self) -> dict[str, Any]:
        """See `Scheduler.settings`."""
        return {"name": "RowHalving", "rows": self.rows, "factor": self.factor, "max_epochs": self.max_epochs}
