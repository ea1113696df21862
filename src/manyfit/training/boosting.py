"""Gradient boosting that stops early: what LightGBM, XGBoost, CatBoost and scikit-learn call the same things.

None of the libraries is imported here: who hands in an estimator has imported its library.
"""

from __future__ import annotations

import inspect
import sys
from typing import Any

import numpy as np

_ROUNDS = {"lightgbm": "n_estimators", "xgboost": "n_estimators", "catboost": "iterations", "sklearn": "max_iter"}
_MIN_PATIENCE = 10  # rounds without a better one before boosting stops; a tenth of the most rounds where that is more


def library_of(estimator: Any) -> str | None:
    """The library whose early stopping is used, or None for estimators that are fitted in one go."""
    name = type(estimator).__module__.partition(".")[0]
    if name == "sklearn":
        stops = type(estimator).__name__.startswith("HistGradientBoosting")
        return name if stops and "X_val" in inspect.signature(estimator.fit).parameters else None
    return name if name in _ROUNDS and hasattr(estimator, "get_params") else None


def set_rounds(estimator: Any, num_rounds: int) -> None:
    """Sets the number of boosting rounds, and lets nothing end them earlier."""
    library = library_of(estimator)
    assert library is not None  # our bug: the caller asks
    estimator.set_params(**{_ROUNDS[library]: num_rounds})
    if library == "sklearn":
        estimator.set_params(early_stopping=False)


def fit_with_early_stopping(
    estimator: Any, x: Any, y: Any, weight: Any, validation: tuple[Any, Any]
) -> tuple[int, int]:
    """Fits until validation rows show no gain for a while.

    Args:
        estimator: of one of the four libraries.
        x: training rows.
        y: their targets.
        weight: (n,) sample weights, or None.
        validation: x and y of validation rows.

    Returns:
        The best round, counted from 0, and the number of rounds that were fitted.
    """
    library = library_of(estimator)
    assert library is not None  # our bug: the caller asks
    weights = {} if weight is None else {"sample_weight": weight}
    most = estimator.get_params().get(_ROUNDS[library]) or 100
    patience = max(_MIN_PATIENCE, int(most) // 10)
    return globals()[f"_fit_{library}"](estimator, x, y, weights, validation, patience)


def _fit_lightgbm(
    estimator: Any, x: Any, y: Any, weights: dict[str, Any], validation: tuple[Any, Any], patience: int
) -> tuple[int, int]:
    lightgbm = sys.modules["lightgbm"]
    callbacks = [lightgbm.early_stopping(patience, verbose=False), lightgbm.log_evaluation(0)]
    if "eval_X" in inspect.signature(estimator.fit).parameters:  # since 4.7, which warns of the other
        held_out: dict[str, Any] = {"eval_X": validation[0], "eval_y": validation[1]}
    else:
        held_out = {"eval_set": [validation]}
    estimator.fit(x, y, callbacks=callbacks, **held_out, **weights)
    [curves] = estimator.evals_result_.values()
    return max(estimator.best_iteration_ - 1, 0), len(next(iter(curves.values())))


def _fit_xgboost(
    estimator: Any, x: Any, y: Any, weights: dict[str, Any], validation: tuple[Any, Any], patience: int
) -> tuple[int, int]:
    estimator.set_params(early_stopping_rounds=patience)
    estimator.fit(x, y, eval_set=[validation], verbose=False, **weights)
    [curves] = estimator.evals_result().values()
    return int(estimator.best_iteration), len(next(iter(curves.values())))


def _fit_catboost(
    estimator: Any, x: Any, y: Any, weights: dict[str, Any], validation: tuple[Any, Any], patience: int
) -> tuple[int, int]:
    estimator.fit(x, y, eval_set=validation, early_stopping_rounds=patience, verbose=False, **weights)
    curves = estimator.get_evals_result()["validation"]
    return int(estimator.get_best_iteration() or 0), len(next(iter(curves.values())))


def _fit_sklearn(
    estimator: Any, x: Any, y: Any, weights: dict[str, Any], validation: tuple[Any, Any], patience: int
) -> tuple[int, int]:
    estimator.set_params(early_stopping=True, n_iter_no_change=patience)
    estimator.fit(x, y, X_val=validation[0], y_val=validation[1], **weights)
    curve = np.asarray(estimator.validation_score_)[1:]  # the first is before any tree
    return int(curve.argmax()), len(curve)
