"""Files of callbacks that executions must not share."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras

from manyfit.core.records import Plan


def separate_files(callbacks: Sequence[Any], plan: Plan) -> None:
    """Gives an execution's copies of callbacks their own files where sharing one would garble it.

    TensorBoard writes to `<log_dir>/<trial>/execution<n>`, as in KerasTuner; CSVLogger to `<name>-<trial>-<n>.csv`.
    A ModelCheckpoint is left alone: whoever writes last has the file, as in KerasTuner.

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
        if isinstance(callback, keras.callbacks.TensorBoard):
            callback.log_dir = os.path.join(str(callback.log_dir), plan.trial_id, f"execution{plan.execution}")
        elif isinstance(callback, keras.callbacks.CSVLogger):
            path = Path(callback.filename)
            callback.filename = str(path.with_name(f"{path.stem}-{plan.trial_id}-{plan.execution}{path.suffix}"))
