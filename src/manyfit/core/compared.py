"""Which trials may be ranked beside each other: a score of a part of the rows is another thing than one of all."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

from manyfit.core.records import Ending


class Ranked(Protocol):
    """What is read of a trial."""

    @property
    def num_rows(self) -> int | None:
        """Training rows that it has seen; None: all."""

    @property
    def ending(self) -> str | None:
        """How it ended."""


AnyTrial = TypeVar("AnyTrial", bound=Ranked)


def on_most_rows(trials: Sequence[AnyTrial], loss: Callable[[AnyTrial], float]) -> list[AnyTrial]:
    """Those trials that may be compared: the ones that were trained on all rows, where there are any.

    A score of a part of the rows is that of a worse model of its configuration, and the best of many. Only where
    nothing else is there are such trials ranked; or where the time has cut off all that trained on all rows, before one
    came to what a part of them gave.

    Args:
        trials: with a score.
        loss: of a trial; lower is better.
    """
    whole = [trial for trial in trials if trial.num_rows is None]
    if len(whole) in (0, len(trials)):
        return list(trials)
    # Nothing in hand is given up for less: a training that the time has cut off has not shown what it can be.
    was_cut_off = all(trial.ending == Ending.STOPPED for trial in whole)
    best_of_part = min(loss(trial) for trial in trials if trial.num_rows is not None)
    return list(trials) if was_cut_off and best_of_part < min(map(loss, whole)) else whole
