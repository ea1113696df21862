"""Metrics that trainers measure by themselves when an objective or a constraint names them."""

from __future__ import annotations

from collections.abc import Iterable

MEASURES = {
    "num_parameters": "trainable parameters",
    "model_bytes": "memory of all weights, trainable or not",
    "predict_seconds": "time of one prediction for one row, compiled; the fastest of several",
    "train_seconds": "time of the training run; of an execution in a population, its share",
}
"""Name -> what it is. One number per execution, not per epoch; smaller is better for all of them."""


def measures_among(names: Iterable[str]) -> tuple[str, ...]:
    """Those of the names that trainers have to measure, in order.

    Example:

    >>> measures_among(["val_loss", "model_bytes"])
    ('model_bytes',)
    """
    return tuple(name for name in names if name in MEASURES)
