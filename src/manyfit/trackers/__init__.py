"""Where people already look: a search told, as it runs or afterwards, to MLflow, Weights & Biases or Optuna.

`tuner.search(..., trackers=["mlflow"])` tells it live, `manyfit export PROJECT --to mlflow` afterwards. `base.py` has
the contract: a tracker of one's own is a subclass of `Tracker`. `handing.py` keeps tools that hang or raise away from
the search. TensorBoard is a callback of Keras (`training/tensorboard.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from manyfit.core.errors import UsageError, explain
from manyfit.trackers.base import TrackedEnd, TrackedEpoch, Tracker, tell_all
from manyfit.trackers.mlflow import MLflow
from manyfit.trackers.optuna import OptunaStudy, export_study, storage_address
from manyfit.trackers.wandb import WandB

__all__ = [
    "MLflow",
    "OptunaStudy",
    "TrackedEnd",
    "TrackedEpoch",
    "Tracker",
    "WandB",
    "export_study",
    "resolved",
    "storage_address",
    "tell_all",
]

_BY_NAME = {"mlflow": MLflow, "wandb": WandB, "optuna": OptunaStudy}


def resolved(given: Any) -> list[Tracker]:
    """The trackers of `search(trackers=...)`.

    Args:
        given: a list of names and trackers, or one of them; None gives none.

    Raises:
        UsageError: another name, or what is no tracker.
        ImportError: the tool is not installed.

    Example:

    >>> resolved(None)
    []
    """
    if given is None:
        return []
    several: Sequence[Any] = given if isinstance(given, list | tuple) else [given]
    return [_resolved(one) for one in several]


def _resolved(one: Any) -> Tracker:
    if isinstance(one, Tracker):
        return one
    if isinstance(one, str) and one in _BY_NAME:
        return _BY_NAME[one]()
    allowed = f"{', '.join(map(repr, _BY_NAME))}, or a kt.trackers.Tracker"
    raise UsageError(explain("search(trackers=[...])", repr(one), allowed, 'Type trackers=["mlflow"], say.'))
