"""Files of callbacks that executions must not share."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras

from manyfit.core.records import Plan


def separate_files(callbacks: Sequence[Any], plan: Plan) -> None:
    """Gives an execution's copies of callbacks their own files where sharing one would garble it.

    A CSVLogger writes to `<name>-<trial>-<n>.csv`. A ModelCheckpoint is left alone: whoever writes last has the file,
    as in KerasTuner. TensorBoard's folders are the tuner's business (`interop.tensorboard`).

    Args:
        callbacks: the copies; changed in place.
        plan: the execution.

    Example:

    >>> logger = keras.callbacks.CSVLogger("log.csv")
    >>> separate_files([logger], Plan("0007", 1, {}, seed=0))
    >>> logger.filename
    'log-0007-1.csv'
    """
    for callback in callbacks:
        if isinstance(callback, keras.callbacks.CSVLogger):
            path = Path(callback.filename)
            callback.filename = str(path.with_name(f"{path.stem}-{plan.trial_id}-{plan.execution}{path.suffix}"))
