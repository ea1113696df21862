"""Out-of-sample predictions for the ensemble: of the search-time models, which never trained on validation rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import numpy as np

from manyfit.core.errors import UsageError, explain
from manyfit.training.base import Task
from manyfit.training.fit_arguments import validation_rows


def member_predictions(
    models: Sequence[keras.Model],
    trial_ids: Mapping[keras.Model, str],
    predict: Callable[[str], np.ndarray],
) -> dict[str, np.ndarray]:
    """Predictions on rows that no member trained on, by the member's name.

    A retrained model has seen the validation rows, so the model of the same trial from the search predicts in its
    place.

    Args:
        models: the members.
        trial_ids: the trial of each model that this tuner made.
        predict: what the search-time models of a trial say of the rows that they did not train on.

    Raises:
        UsageError: a model that this tuner did not make.
    """
    predictions: dict[str, np.ndarray] = {}
    for model in models:
        if model not in trial_ids:
            raise UsageError(
                explain(
                    "ensemble(models)",
                    f"{model.name}, a model that this tuner did not make",
                    "models from tuner.retrain() or tuner.get_best_models()",
                    "For other models type kt.Ensemble.fit(models, y, x=x) with rows that none of them trained on.",
                )
            )
        trial_id = trial_ids[model]
        name = f"trial {trial_id}"
        copies = sum(known == name or known.startswith(f"{name} (") for known in predictions)
        predictions[f"{name} ({copies + 1})" if copies else name] = predict(trial_id)
    return predictions


def validation_data(task: Task | None) -> tuple[Any, Any, Any]:
    """The validation rows of the latest search: x, y, sample weights or None.

    Raises:
        UsageError: there was no search in this process, or its validation data are no arrays.
    """
    rows = None if task is None else validation_rows(task.fit_args, task.fit_kwargs)
    if rows is None:
        raise UsageError(
            explain(
                "ensemble()",
                "no validation rows to learn the weights from",
                "x= and y= that no search-time model trained on",
                "Type tuner.ensemble(models, x=x_val, y=y_val) with the validation rows of the search.",
            )
        )
    return rows
