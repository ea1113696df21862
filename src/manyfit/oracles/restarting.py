"""Trials that are trained anew on more rows, and what they are again where nothing has come of that."""

from __future__ import annotations

from collections.abc import Mapping

from manyfit.core.records import ROWS, Value
from manyfit.oracles.trial import RESTARTS, Before, Trial
from manyfit.schedulers.base import EARLIER_EPOCHS


def begin_on(trial: Trial, num_rows: int | None) -> None:
    """Queues a trial to be trained anew on more rows.

    That is another attempt, as a retry is: the rows of the database that tell of the one before stay.

    Args:
        trial: that has ended on a part of the rows.
        num_rows: to train on; None: all.
    """
    # Kept until the new training has come to something: one that does not fit into the time takes nothing away.
    before = Before(dict(trial.executions), dict(trial.tags), trial.attempt)
    trial.begin_again()
    trial.before = before
    counted = {RESTARTS: 1, EARLIER_EPOCHS: max((run.num_epochs for run in before.executions.values()), default=0)}
    _tag(
        trial, {**trial.tags, ROWS: num_rows, **{name: int(trial.tags.get(name, 0)) + n for name, n in counted.items()}}
    )


def put_back(trial: Trial, before: Before) -> None:
    """Makes a trial what it was before `begin_on`."""
    trial.executions, trial.attempt, trial.before = dict(before.executions), before.attempt, None
    _tag(trial, before.tags)


def _tag(trial: Trial, tags: Mapping[str, Value | None]) -> None:
    """Sets a trial's tags, and shows them among its values, as KerasTuner does; None: none of that name."""
    for name in (ROWS, RESTARTS, EARLIER_EPOCHS):
        trial.hyperparameters.values.pop(name, None)
    trial.tags = {name: tag for name, tag in tags.items() if tag is not None}
    trial.hyperparameters.values.update(trial.tags)
