"""The results of a search that is in memory, as rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from manyfit.oracles import Execution, Trial
from manyfit.report.results import Results, Row
from manyfit.schedulers.base import num_inherited


def results_of(trials: Sequence[Trial], max_epochs: int | None = None, *, direction: str | None = None) -> Results:
    """The results of trials.

    Args:
        trials: in the order of the rows.
        max_epochs: of a full training, where a scheduler decides how long trials train.
        direction: "max" or "min" of the objective; None: several, and no trial is first.
    """
    rows = [row for trial in trials for row in _rows(trial)]
    curves = [point for trial in trials for run in trial.executions.values() for point in _curve(trial, run)]
    return Results(rows, curves, max_epochs=max_epochs, direction=direction)


def _rows(trial: Trial) -> list[Row]:
    runs = sorted(trial.executions.items())
    # A trial that failed before its first epoch is a row as well: a table without it would look as if all went well.
    if not runs:
        nothing = Row(
            trial.trial_id, 0, trial.status, str(trial.ending or ""), -1, trial.hyperparameters.values,
            trial.score, None, 0, {}, 0.0, trial.message,
        )  # fmt: skip
        return [nothing]
    return [
        Row(
            trial.trial_id,
            index,
            trial.status,
            str(run.ending),
            run.seed,
            dict(trial.hyperparameters.values),
            run.score,
            run.best_epoch,
            run.num_epochs,
            dict(run.metrics),
            run.seconds,
            run.message,
        )
        for index, run in runs
    ]


def _curve(trial: Trial, run: Execution) -> list[dict[str, Any]]:
    points = []
    for epoch in range(num_inherited(trial.tags), run.num_epochs):
        logs = {name: curve[epoch] for name, curve in run.history.items() if curve[epoch] is not None}
        points.append({"trial_id": trial.trial_id, "execution": run.index, "epoch": epoch, **logs})
    return points
