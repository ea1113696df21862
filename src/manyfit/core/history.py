"""Rules about metrics over epochs: which epoch is best, what an execution's score is, how executions are averaged.

A history maps a metric's name to one entry per epoch: a number, or None where the epoch did not measure it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, SupportsFloat

import numpy as np

from manyfit.core.objective import Objective

History = Mapping[str, Sequence[float | None]]

MOST_ELEMENTS = 1000
"""Of a metric that is an array; one with more is data, and is not recorded."""


def numbers_of(logs: Mapping[str, Any] | None) -> dict[str, float]:
    """Metrics as Python's numbers, whatever they were measured with: the one place that decides what is a number.

    A number of Python or NumPy, an array or tensor of one element are that number; a whole number too large for a float
    is infinite; True is 1. An array of several elements (`F1Score(average=None)`) becomes one metric per element,
    `name[0]`, `name[1]`, or `name[0][1]` with two axes. None, a text, a complex number and other objects are no number:
    they are left out, as what was not measured.

    Example:

    >>> numbers_of({"loss": np.array([0.5]), "f1": np.array([0.25, 1.0]), "phase": "warm-up", "lr": None})
    {'loss': 0.5, 'f1[0]': 0.25, 'f1[1]': 1.0}
    """
    found: dict[str, float] = {}
    for name, value in (logs or {}).items():
        if type(value) is float:  # nearly all of them: every epoch of every member comes through here
            found[name] = value
        elif hasattr(value, "__float__") and not hasattr(value, "__array__"):
            found[name] = _float(value)
        else:
            array = _array(value)
            if array is not None and array.size == 1:
                found[name] = float(array.reshape(()))
            elif array is not None and array.size <= MOST_ELEMENTS:
                for place in np.ndindex(array.shape):
                    found[name + "".join(f"[{index}]" for index in place)] = float(array[place])
    return found


def _float(value: SupportsFloat) -> float:
    try:
        return float(value)
    except OverflowError:  # of a whole number or a fraction of them, which compare with 0
        return math.copysign(math.inf, 1 if value > 0 else -1)  # type: ignore[operator]


def _array(value: object) -> np.ndarray | None:
    """The numbers of an array, a tensor or a list; None where there are none in it."""
    value = value.detach().cpu() if hasattr(value, "detach") else value  # torch's, which may wait for a gradient
    try:
        array = np.asarray(value)
        # Kinds: complex, objects, texts, bytes, times. What is left besides numbers (V) is bfloat16, or no number.
        return None if array.dtype.kind in "cOUSMm" else array.astype(np.float64)
    except (TypeError, ValueError, RuntimeError, NotImplementedError):
        return None


def best_epoch(losses: Sequence[float]) -> int | None:
    """The first epoch with the lowest finite loss; None when no loss is finite.

    NaN at one epoch does not poison the others: a run that diverges is ranked by what it was before, and those weights
    are kept.

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


def why_diverged(history: History, objective: Objective) -> str | None:
    """Why no epoch of an execution counts, of those that measured the objective; None where one does, or none did.

    Example:

    >>> why_diverged({"loss": [math.nan], "accuracy": [0.9]}, Objective("accuracy", "max"))
    'the loss was not finite in any epoch that measured accuracy'
    """
    # NaN says that it was not measured, which is for the scorer to complain about. Infinity was measured.
    measured = [loss for loss in objective.epoch_losses(history) if not math.isnan(loss)]
    if not measured or any(map(math.isfinite, measured)):
        return None
    values = [value for name in objective.names for value in history.get(name, ()) if value is not None]
    if any(map(math.isfinite, values)):
        return f"the loss was not finite in any epoch that measured {objective.name}"
    return f"{objective.name} was never finite"


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


def put(history: dict[str, list[float | None]], logs: Mapping[str, float], epoch: int) -> None:
    """Adds one epoch's logs, filling what was not measured with None; an epoch that is there already is replaced.

    Example:

    >>> history = {"loss": [0.5]}
    >>> put(history, {"loss": 0.4, "val_loss": 0.6}, 1)
    >>> history
    {'loss': [0.5, 0.4], 'val_loss': [None, 0.6]}
    """
    for name in logs:
        history.setdefault(name, [])
    for name, curve in history.items():
        curve.extend([None] * (epoch + 1 - len(curve)))
        curve[epoch] = float(logs[name]) if name in logs else None


def append(history: dict[str, list[float | None]], logs: Mapping[str, float], epoch: int) -> None:
    """Adds one epoch's logs likewise, behind all others: a `fit` of the user's may train twice, from epoch 0 on."""
    put(history, logs, max([epoch, *map(len, history.values())]))
