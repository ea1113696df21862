"""KerasTuner's helpers around what `run_trial` and `HyperModel.fit` return."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from manyfit.core import history as histories
from manyfit.core.objective import Objective
from manyfit.space.categorical import Boolean, Choice, Fixed
from manyfit.space.hyperparameters import HyperParameters
from manyfit.training.outcomes import to_histories


def average_metrics_dicts(metrics_dicts: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Means of metrics over executions.

    Example:

    >>> average_metrics_dicts([{"loss": 1.0}, {"loss": 3.0}])
    {'loss': 2.0}
    """
    return histories.mean_metrics(metrics_dicts)


def validate_trial_results(results: Any, objective: Objective, func_name: str) -> None:
    """Checks what a user's function returned.

    Args:
        results: what it returned.
        objective: what is ranked.
        func_name: the function's name, for messages.

    Raises:
        FatalTypeError: None, or something of another type.
        FatalValueError: a dict without the objective.
    """
    to_histories(results, objective, func_name)


def convert_to_metrics_dict(results: Any, objective: Objective) -> dict[str, float]:
    """The metrics of what a user's function returned: at the best epoch, averaged over a list.

    Example:

    >>> convert_to_metrics_dict([0.25, 0.75], Objective("val_loss", "min"))
    {'val_loss': 0.5}
    """
    rows = []
    for history in to_histories(results, objective, "run_trial()"):
        metrics = histories.at_epoch(history, _best_epoch(history, objective))
        if len(objective.names) > 1 and objective.has_value(metrics):
            metrics[objective.name] = objective.get_value(metrics)
        rows.append(metrics)
    return histories.mean_metrics(rows)


def get_best_step(results: Any, objective: Objective) -> int:
    """The best epoch of what a user's function returned, counted from 0; the mean, rounded down, over a list."""
    epochs = [_best_epoch(history, objective) for history in to_histories(results, objective, "run_trial()")]
    return sum(epochs) // len(epochs)


def _best_epoch(history: histories.History, objective: Objective) -> int:
    scored = histories.score(history, objective)
    last = max(map(len, history.values()), default=1) - 1
    return last if scored is None else scored[1]


def convert_hyperparams_to_hparams(hyperparams: HyperParameters, hparams_api: Any = None) -> dict[Any, Any]:
    """A trial's values under TensorBoard's HParams.

    Args:
        hyperparams: the trial's.
        hparams_api: the module `tensorboard.plugins.hparams.api`; None imports it.

    Returns:
        `HParam` -> value, for each active hyperparameter.
    """
    if hparams_api is None:
        import importlib

        hparams_api = importlib.import_module("tensorboard.plugins.hparams.api")
    found = {}
    for hp in hyperparams.space:
        if hyperparams.is_active(hp):
            value = hyperparams.values.get(hp.name, hp.default)
            found[hparams_api.HParam(hp.name, _domain(hp, hparams_api))] = value
    return found


def _domain(hp: Any, api: Any) -> Any:
    if isinstance(hp, Boolean):
        return api.Discrete([True, False])
    if isinstance(hp, Fixed | Choice):
        return api.Discrete(list(hp.values))
    if hp.step is not None and (type(hp).__name__ == "Float" or hp.step != 1):
        return api.Discrete(list(hp.values))
    interval = api.IntInterval if type(hp).__name__ == "Int" else api.RealInterval
    return interval(hp.min_value, hp.max_value)
