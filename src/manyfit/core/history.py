"""Rules about metrics over epochs: which epoch is best, what an execution's score is, how executions are averaged.

A history maps a metric's name to one entry per epoch: a number, or None where the epoch did not measure it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from manyfit.core.objective import Objective

History = Mapping[str, Sequence[float | None]]


def best_epoch(losses: Sequence[float]) -> int | None:
    """The first epoch with the lowest finite loss; None when no loss is finite.

    NaN at one epoch does not poison the others.

    Example:

    >>> best_epoch([float("nan"), 0.5, 0.3, float("inf"), 0.3])
    2
    """
    best: int | None = None
    for epoch, loss in enumerate(losses):
        if math.isfinite(loss) and (best is None or loss < losses[best]):
            best = epoch
    return best


def at_epoch(history: History, epoch: int) -> dict[str, float]:
    """The metrics that were measured at an epoch."""
    logs = {}
    for name, curve in history.items():
        value = curve[epoch] if epoch < len(curve) else None
        if value is not None:
            logs[name] = float(value)
    return logs


def score(history: History, objective: Objective) -> tuple[float, int] | None:
    """An execution's score: the objective at its best epoch, in the metric's own direction, and that epoch.

    Returns:
        (value, epoch index), or None when the objective was never finite.

    Example:

    >>> score({"val_accuracy": [0.7, 0.9, None]}, Objective("val_accuracy", "max"))
    (0.9, 1)
    """
    losses = objective.epoch_losses(history)
    epoch = best_epoch(losses)
    return None if epoch is None else (objective.value(losses[epoch]), epoch)


def mean_metrics(rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Means over executions of the metrics that all of them have.

    Example:

    >>> mean_metrics([{"loss": 1.0, "mae": 2.0}, {"loss": 3.0}])
    {'loss': 2.0}
    """
    if not rows:
        return {}
    names = [name for name in rows[0] if all(name in row for row in rows)]
    return {name: math.fsum(row[name] for row in rows) / len(rows) for name in names}


def is_diverged(logs: Mapping[str, float]) -> bool:
    """Whether one epoch's logs hold a number that is not finite."""
    return any(not math.isfinite(value) for value in logs.values())


def append(history: dict[str, list[float | None]], logs: Mapping[str, float], epoch: int) -> None:
    """Adds one epoch's logs, filling what was not measured with None.

    Example:

    >>> history = {"loss": [0.5]}
    >>> append(history, {"loss": 0.4, "val_loss": 0.6}, 1)
    >>> history
    {'loss': [0.5, 0.4], 'val_loss': [None, 0.6]}
    """
    for name in logs:
        history.setdefault(name, [])
    for name, curve in history.items():
        curve.extend([None] * (epoch - len(curve)))
        curve.append(float(logs[name]) if name in logs else None)
