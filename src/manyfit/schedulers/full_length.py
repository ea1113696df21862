"""Schedulers that train every trial to its full length, or end it for good: nothing is ever paused here.

`FullBudget` is what a search without early stopping does. `MedianRule` ends a trial whose best is worse than what the
others had on average by then (Golovin et al. 2017, Vizier, section 3.2.2).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from manyfit.core.errors import UsageError, explain
from manyfit.core.records import Decision, Progress
from manyfit.core.signatures import checked_arguments
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
        # Every trial is started at once where slots allow: nothing that is learned later changes how long one trains.
        room = Room(history, limits, count, has_branches=self.may_branch)
        jobs: list[Job] = []
        while room.can_start and room.fits(self.max_epochs):
            room.take(self.max_epochs, start=True)
            jobs.append(Start(self.max_epochs))
        return jobs

    def settings(self) -> dict[str, Any]:
        """See `Scheduler.settings`."""
        return {"name": "FullBudget", "max_epochs": self.max_epochs}


class MedianRule(Scheduler):
    """Stops a trial after an epoch if its best loss so far is above the median of the others' running averages.

    The others are all trials that have come as far, ended or not: Vizier takes ended ones only, of which a
    population that trains together has none when it matters. Stopped trials do not come back. Unlike halving it
    has no budget in mind; on the LCBench surrogate it halves the epochs per trial.

    Args:
        max_epochs: epochs of each trial that is not stopped. None leaves it to the user's fit arguments.
        grace_epochs: nobody is stopped before this many epochs.
        min_trials: nobody is stopped before this many others have come as far.

    Raises:
        UsageError: an argument that is no integer of 1 or more.

    Example:

    >>> others = [Progress(str(i), (0.5, 0.4, 0.3)) for i in range(5)]
    >>> slow = Progress("slow", (0.9, 0.8, 0.7), running=True)
    >>> MedianRule(grace_epochs=3).decide([*others, slow], ["slow"])
    [<Decision.STOP: 'stop'>]
    """

    stop_reason = "its best was worse than the median of the others by then"
    may_pause = False  # who is stopped does not come back

    @checked_arguments()
    def __init__(self, max_epochs: int | None = None, *, grace_epochs: int = 3, min_trials: int = 5):
        # A part, not a base class: a median rule is no full budget, and `isinstance` should say so.
        self._full = FullBudget(max_epochs)
        self.max_epochs = self._full.max_epochs
        hint = "Type for instance {}."
        self.grace_epochs = check_count("MedianRule", "grace_epochs", grace_epochs, low=1, hint=hint.format(3))
        self.min_trials = check_count("MedianRule", "min_trials", min_trials, low=1, hint=hint.format(5))

    def assign(self, history: Sequence[Progress], count: int, limits: Limits) -> list[Job]:
        """See `Scheduler.assign`."""
        return self._full.assign(history, count, limits)

    def decide(self, history: Sequence[Progress], trial_ids: Sequence[str]) -> list[Decision]:
        """See `Scheduler.decide`."""
        rows = {progress.trial_id: row for row, progress in enumerate(history)}
        averages = _running_averages(history)
        return [self._decide(history[rows[trial_id]], np.delete(averages, rows[trial_id], 0)) for trial_id in trial_ids]

    def _decide(self, progress: Progress, others: np.ndarray) -> Decision:
        epochs = progress.epochs
        if epochs < self.grace_epochs or epochs == self.max_epochs:
            return Decision.GO_ON
        # Averages of the others, best of its own: a noisy last epoch of the one must not end it, a lucky one of the
        # others must not either.
        at_same_epoch = others[:, epochs - 1]
        at_same_epoch = at_same_epoch[~np.isnan(at_same_epoch)]
        if at_same_epoch.size < self.min_trials or all(loss != loss for loss in progress.curve):
            return Decision.GO_ON
        return Decision.STOP if progress.best_loss() > np.median(at_same_epoch) else Decision.GO_ON

    def settings(self) -> dict[str, Any]:
        """See `Scheduler.settings`."""
        return {
            "name": "MedianRule",
            "max_epochs": self.max_epochs,
            "grace_epochs": self.grace_epochs,
            "min_trials": self.min_trials,
        }


def _running_averages(history: Sequence[Progress]) -> np.ndarray:
    """Mean loss up to each epoch, shape (trials, epochs of the longest); NaN beyond a trial's end or before a loss."""
    longest = max((progress.epochs for progress in history), default=0)
    curves = np.full((len(history), longest), np.nan)
    for row, progress in zip(curves, history, strict=True):
        row[: progress.epochs] = progress.curve
    logged = ~np.isnan(curves)
    counts = logged.cumsum(axis=1)
    averages = np.full(curves.shape, np.nan)
    np.divide(np.where(logged, curves, 0.0).cumsum(axis=1), counts, out=averages, where=counts > 0)
    for row, progress in zip(averages, history, strict=True):
        # Who ended early says nothing about later epochs: carrying its average on would lower the bar.
        row[progress.epochs :] = np.nan
    return averages
