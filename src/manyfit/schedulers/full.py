"""Every trial its full epochs: what a search without early stopping does."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from manyfit.core.errors import UsageError, explain
from manyfit.core.records import Progress
from manyfit.schedulers.base import Job, Limits, Room, Scheduler, Start, check_count


class FullBudget(Scheduler):
    """Starts trials while the limits allow, and trains each to its end.

    Args:
        max_epochs: epochs of each trial. None leaves it to the user's fit arguments.

    Raises:
        UsageError: `max_epochs` is no integer of 1 or more.

    Example:

    >>> from manyfit.schedulers.base import Limits
    >>> FullBudget(max_epochs=20).assign([], 8, Limits(max_trials=2))
    [Start(target_epochs=20, tags={}), Start(target_epochs=20, tags={})]
    """

    may_pause = may_stop = False

    def __init__(self, max_epochs: int | None = None):
        if max_epochs is not None:
            max_epochs = check_count("FullBudget", "max_epochs", max_epochs, low=1, hint="Type for instance 20.")
        self.max_epochs = max_epochs

    def assign(self, history: Sequence[Progress], count: int, limits: Limits) -> list[Job]:
        """See `Scheduler.assign`.

        Raises:
            UsageError: `max_total_epochs` is asked for while the epochs of a trial are unknown.
        """
        if limits.max_total_epochs is not None and self.max_epochs is None:
            raise UsageError(
                explain(
                    "search(max_total_epochs=...)",
                    f"{limits.max_total_epochs} without the epochs of a trial",
                    "a limit on epochs where a trial's own epochs are known",
                    "Add `epochs=...` to search().",
                )
            )
        room = Room(history, limits, count)
        jobs: list[Job] = []
        while room.can_start and room.fits(self.max_epochs):
            room.take(self.max_epochs, start=True)
            jobs.append(Start(self.max_epochs))
        return jobs

    def settings(self) -> dict[str, Any]:
        """See `Scheduler.settings`."""
        return {"name": "FullBudget", "max_epochs": self.max_epochs}
