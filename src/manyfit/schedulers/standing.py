"""Who stands where on a ladder of rungs: read off the history, never stored.

A trial *enters* a rung when its target is at least the rung's epochs, and *finishes* it when it has trained that
long or has ended with a result before: a trial that a callback of the user ended early cannot go further, so its
score stands for all higher rungs.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

from manyfit.core.errors import UsageError, explain
from manyfit.core.records import Ending, Progress
from manyfit.schedulers.base import REPLACED_ENDINGS


@dataclasses.dataclass(frozen=True)
class RungStanding:
    """One rung: the trials that hold a place in it, best first among those that finished it."""

    finished: list[Progress]
    unfinished: list[Progress]
    promoted: frozenset[str]  # ids of finished trials that hold a place in the next rung

    @property
    def num_places(self) -> int:
        """Places taken."""
        return len(self.finished) + len(self.unfinished)


def entered(progress: Progress, epochs: int) -> bool:
    """Whether the trial was ever sent to a rung that ends at this epoch."""
    return (progress.target_epochs or 0) >= epochs


def failed_before(progress: Progress, epochs: int) -> bool:
    """Whether the trial failed, for a reason that says nothing about its values, before it finished this rung."""
    return progress.ending in REPLACED_ENDINGS and progress.epochs < epochs


def loss_at(progress: Progress, epochs: int) -> float:
    """The loss by which a trial is ranked in a rung: the latest one at the rung's end, from where it would go on.

    A peak that is over is in the trial's score already, and says less about what more epochs would bring. A trial
    that ended before the rung did has nothing but its score, the best of its curve.

    Source: Li et al. 2018, Algorithm 1 (the loss "after" r_i epochs).

    Example:

    >>> overfitted = Progress("0", (0.4, 0.2, 0.3), target_epochs=3)
    >>> loss_at(overfitted, 2), loss_at(overfitted, 3)
    (0.2, 0.3)
    """
    if progress.ending is Ending.DIVERGED:
        return math.inf
    if progress.epochs < epochs:
        return progress.best_loss(epochs)
    logged = [loss for loss in progress.curve[:epochs] if loss == loss]
    return logged[-1] if logged else math.inf


def stand(members: Sequence[Progress], epochs: int, next_epochs: int | None) -> RungStanding:
    """Reads one rung off the history.

    Args:
        members: the trials that hold a place in this rung or failed in it, in the order of their start.
        epochs: where this rung ends.
        next_epochs: where the next one ends; None for the last.

    Raises:
        UsageError: several trials finished the rung, and not one logged its objective in it.
    """
    holding = [p for p in members if not failed_before(p, epochs)]
    finished = [p for p in holding if p.ending is not None or (p.epochs >= epochs and not _still_in(p, epochs))]
    ids = {p.trial_id for p in finished}
    unfinished = [p for p in holding if p.trial_id not in ids]
    _check_logged(finished, epochs)
    finished.sort(key=lambda p: loss_at(p, epochs))  # stable: of equal losses the earlier start comes first
    promoted: frozenset[str] = frozenset()
    if next_epochs is not None:
        promoted = frozenset(
            p.trial_id for p in finished if entered(p, next_epochs) and not failed_before(p, next_epochs)
        )
    return RungStanding(finished, unfinished, promoted)


def _still_in(progress: Progress, epochs: int) -> bool:
    """Whether a trial at the end of a rung is still being reported by its trainer as running in it."""
    return progress.running and progress.target_epochs == epochs


def _check_logged(finished: Sequence[Progress], epochs: int) -> None:
    trained = [p for p in finished if p.ending is None]
    if len(trained) > 1 and not any(loss == loss for p in trained for loss in p.curve[:epochs]):
        raise UsageError(
            explain(
                "Hyperband, ASHA: a rung",
                f"{len(trained)} trials without a logged objective in their first {epochs} epochs",
                "an objective that is logged before the first rung ends",
                f"Pass min_epochs={epochs + 1} or more, or validate in every epoch (validation_freq=1).",
            )
        )
