"""Retrains winners on all data, for the number of epochs that their own curves call for."""

from __future__ import annotations

import dataclasses
import statistics
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from manyfit.core.errors import SearchError, UsageError, explain
from manyfit.core.records import Decision, Plan, Result
from manyfit.training.base import Task, Trainer
from manyfit.training.fit_arguments import fit_data
from manyfit.training.models import build_model
from manyfit.training.seeding import seeded
from manyfit.training.weights import load_weights

#: Arguments of `search` that make no sense once the validation rows are trained on.
_VALIDATION_ARGUMENTS = frozenset(
    "validation_data validation_split validation_freq validation_steps validation_batch_size epochs initial_epoch "
    "callbacks".split()
)


@dataclasses.dataclass(frozen=True)
class Candidate:
    """A winner to retrain."""

    trial_id: str
    values: Any  # its HyperParameters
    best_epochs: Sequence[int]  # of its executions, counted from 0
    seed: int


class ListSupply:
    """Hands out a fixed list of executions and keeps their results."""

    def __init__(self, plans: Sequence[Plan]) -> None:
        self._waiting = list(plans)
        self.results: dict[tuple[str, int], Result] = {}

    def take(self, count: int) -> Sequence[Plan]:
        """See `manyfit.training.base.Supply`."""
        taken, self._waiting = self._waiting[:count], self._waiting[count:]
        return taken

    def report(self, epochs: Sequence[tuple[Plan, int, Mapping[str, float]]]) -> Sequence[Decision]:
        """See `manyfit.training.base.Supply`."""
        return [Decision.GO_ON] * len(epochs)

    def finish(self, result: Result) -> None:
        """See `manyfit.training.base.Supply`."""
        self.results[result.plan.key] = result


def num_epochs(best_epochs: Sequence[int], epochs_factor: float) -> int:
    """Epochs to retrain for: the median best epoch, counted from 1, times a factor, because there is more data.

    Example:

    >>> num_epochs([9, 9, 14], 1.2)
    12
    """
    return max(1, round(statistics.median(epoch + 1 for epoch in best_epochs) * epochs_factor))


def retrain(
    candidates: Sequence[Candidate],
    task: Task,
    trainer: Trainer,
    *,
    epochs_factor: float = 1.2,
) -> list[keras.Model]:
    """Trains each candidate anew.

    Args:
        candidates: what to train.
        task: build function, all the data, fit arguments; nothing is ranked.
        trainer: how.
        epochs_factor: see `num_epochs`.

    Returns:
        Trained models in the order of the candidates, each with its `history`.

    Raises:
        UsageError: `epochs_factor` is not above 0.
        SearchError: a candidate failed; the message says which and why.
    """
    if not epochs_factor > 0:
        raise UsageError(
            explain("retrain(epochs_factor=...)", epochs_factor, "more than 0", "Type epochs_factor=1.2, the default.")
        )
    with tempfile.TemporaryDirectory() as folder:
        plans = [
            Plan(
                candidate.trial_id,
                0,
                candidate.values.copy(),
                candidate.seed,
                epochs=num_epochs(candidate.best_epochs, epochs_factor),
                weights_path=str(Path(folder) / f"{candidate.trial_id}.npz"),
            )
            for candidate in candidates
        ]
        supply = ListSupply(plans)
        trainer.train(supply, task)
        return [_finished_model(plan, supply.results[plan.key], task) for plan in plans]


def _finished_model(plan: Plan, result: Result, task: Task) -> keras.Model:
    if not result.ending.has_score:
        raise SearchError(f"retrain: trial {plan.trial_id} ended as {result.ending}.\n{result.message}")
    with seeded(plan.seed):
        model = build_model(task.build, plan.values.copy())
    load_weights(model, str(plan.weights_path))
    history = keras.callbacks.History()
    history.history = {name: list(curve) for name, curve in result.history.items()}
    history.epoch = list(range(plan.epochs or 0))
    model.history = history
    return model


def fit_arguments_for_all_data(
    fit_args: Sequence[Any], fit_kwargs: Mapping[str, Any], x: Any, y: Any, callbacks: Any
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The fit arguments of a search, turned into those of a retraining.

    Args:
        fit_args: positional arguments of `search`.
        fit_kwargs: keyword arguments of `search`.
        x: all rows; None joins the search's training and validation rows.
        y: their targets.
        callbacks: None takes those of the search that watch no metric (a `LearningRateScheduler`, say): without
            validation rows there is nothing for the others to watch.

    Raises:
        UsageError: x is None, and the search's data cannot be joined.
    """
    kwargs = {name: value for name, value in fit_kwargs.items() if name not in _VALIDATION_ARGUMENTS | {"x", "y"}}
    if x is None:
        x, y = _joined_data(fit_args, fit_kwargs)
        kwargs.pop("sample_weight", None)
    if callbacks is None:
        callbacks = [one for one in fit_kwargs.get("callbacks") or [] if not hasattr(one, "monitor")]
    return (() if y is None else (x, y)) or (x,), {**kwargs, "callbacks": callbacks}


def _joined_data(fit_args: Sequence[Any], fit_kwargs: Mapping[str, Any]) -> tuple[Any, Any]:
    x, y = fit_data(fit_args, fit_kwargs)
    validation = fit_kwargs.get("validation_data")
    if validation is None and fit_kwargs.get("validation_split"):
        return x, y
    arrays = isinstance(x, np.ndarray) and isinstance(y, np.ndarray)
    if not arrays or not isinstance(validation, list | tuple) or fit_kwargs.get("sample_weight") is not None:
        raise UsageError(
            explain(
                "retrain()",
                "no x and y, while the data of the search cannot be joined to one array",
                "x= and y= with training and validation rows",
                "Type tuner.retrain(x=x_full, y=y_full).",
            )
        )
    return np.concatenate([x, validation[0]]), np.concatenate([y, validation[1]])
