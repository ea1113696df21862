"""Gradient boosting that stops early: what LightGBM, XGBoost, CatBoost and scikit-learn call the same things.

Boosting at the end of a pipeline stops early, too: the steps before it are fitted first, and transform both parts.

None of the libraries is imported here: who hands in an estimator has imported its library.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

import numpy as np

from manyfit.core.clock import Clock
from manyfit.data.rows import FitData, Rows

_ROUNDS = {"lightgbm": "n_estimators", "xgboost": "n_estimators", "catboost": "iterations", "sklearn": "max_iter"}
_MIN_PATIENCE = 10  # rounds without a better one before boosting stops; a tenth of the most rounds where that is more


class Estimator(Protocol):
    """What is fitted in scikit-learn's manner. What it learned stands in attributes that each library names itself."""

    def fit(self, x: FitData, y: FitData, **options: Any) -> object: ...

    def get_params(self, deep: bool = True) -> dict[str, Any]: ...

    def set_params(self, **params: Any) -> object: ...

    def __getattr__(self, name: str) -> Any: ...


class LabelledRows(NamedTuple):
    """Rows as estimators take them."""

    x: FitData
    y: np.ndarray  # class numbers or values; one column as a vector
    weight: np.ndarray | None = None  # (n,), None: all weigh alike

    @property
    def weights(self) -> dict[str, np.ndarray]:
        """The argument of `fit`, left out where there is none: not every estimator knows it."""
        return {} if self.weight is None else {"sample_weight": self.weight}


def last_step(estimator: Any) -> Any:
    """What predicts: the last step of a pipeline of scikit-learn, anything else itself."""
    while type(estimator).__module__ == "sklearn.pipeline" and getattr(estimator, "steps", None):
        estimator = estimator.steps[-1][1]
    return estimator


def library_of(estimator: object) -> str | None:
    """The library whose early stopping is used, or None for estimators that are fitted in one go."""
    last = last_step(estimator)
    name = type(last).__module__.partition(".")[0]
    if name == "sklearn":
        stops = type(last).__name__.startswith("HistGradientBoosting")
        return name if stops and "X_val" in inspect.signature(last.fit).parameters else None
    return name if name in _ROUNDS and hasattr(last, "get_params") else None


def set_rounds(estimator: Estimator, num_rounds: int) -> None:
    """Sets the number of boosting rounds, and lets nothing end them earlier."""
    library = library_of(estimator)
    assert library is not None  # our bug: the caller asks
    last = last_step(estimator)
    last.set_params(**{_ROUNDS[library]: num_rounds})
    if library == "sklearn":
        # It would hold out rows of its own otherwise, just those that a retraining adds.
        last.set_params(early_stopping=False)
    for name in ("early_stopping_rounds", "early_stopping_round"):
        if last.get_params().get(name) is not None:  # without validation rows they raise
            last.set_params(**{name: None})


class RoundClock:
    """Ends boosting between two rounds when a clock is over; LightGBM, XGBoost and CatBoost ask it after each.

    Args:
        clock: of the task.

    Attributes:
        has_ended: whether it has ended a fit.
        order: when LightGBM asks it, among its callbacks.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.order = 40  # LightGBM asks by it: after it has noted what the round measured
        self._best: tuple[float, int] | None = None
        self.has_ended = False

    def is_over(self) -> bool:
        """Whether boosting is to end now."""
        self.has_ended = self.has_ended or self._clock.is_over()
        return self.has_ended

    def __call__(self, env: Any) -> None:
        """LightGBM's way: an exception says which round was the best."""
        results = env.evaluation_result_list or []
        if results:  # the first metric decides, as in its own early stopping
            value, is_higher_better = results[0][2], results[0][3]
            loss = -value if is_higher_better else value
            self._best = min(self._best or (loss, env.iteration), (loss, env.iteration))
        if self.is_over():
            best = env.iteration if self._best is None else self._best[1]
            raise sys.modules["lightgbm"].callback.EarlyStopException(best, results)

    def after_iteration(self, info: Any) -> bool:
        """CatBoost's way: whether to go on."""
        del info
        return not self.is_over()

    def of_xgboost(self) -> Any:
        """A callback of XGBoost, which wants a class of its own: whether to end."""

        def after_iteration(callback: Any, model: Any, epoch: int, evals_log: Any) -> bool:
            del callback, model, epoch, evals_log
            return self.is_over()

        base = sys.modules["xgboost"].callback.TrainingCallback
        return type("UntilTheTimeIsUp", (base,), {"after_iteration": after_iteration})()


def fit_boosting(
    estimator: Estimator, train: LabelledRows, held_out: LabelledRows | None, time: RoundClock | None = None
) -> tuple[int, int]:
    """Fits until validation rows show no gain for a while; without such rows for all rounds.

    Args:
        estimator: of one of the four libraries, or a pipeline that ends with one.
        train: training rows.
        held_out: validation rows; they count alike, since two of the libraries know no weights of them. Rows of a
            class that is not trained on are left out: the libraries refuse them.
        time: may end it between two rounds; scikit-learn's boosting does not ask.

    Returns:
        The best round, counted from 0, and the number of rounds that were fitted; 0 and 1 without validation rows.
    """
    library = library_of(estimator)
    assert library is not None  # our bug: the caller asks
    last: Estimator = last_step(estimator)
    if last is not estimator:
        steps: Any = estimator
        before = steps[:-1]
        train = train._replace(x=before.fit_transform(train.x, train.y))
        held_out = None if held_out is None else held_out._replace(x=before.transform(held_out.x))
        steps.steps[:-1] = before.steps  # a pipeline with a memory fits copies
        return fit_boosting(last, train, held_out, time)
    asked = {} if time is None else _asking(library, last, time)
    try:
        return _fit_rounds(library, last, train, held_out, asked)
    finally:
        if time is not None and library == "xgboost":
            last.set_params(callbacks=None)  # else it would be written with the estimator


def _asking(library: str, estimator: Estimator, time: RoundClock) -> dict[str, Any]:
    """The arguments of `fit` by which a library asks after each round; XGBoost has a setting for that."""
    if library == "xgboost" and estimator.get_params().get("callbacks") is None:
        estimator.set_params(callbacks=[time.of_xgboost()])
    return {"callbacks": [time]} if library in ("lightgbm", "catboost") else {}


def _fit_rounds(
    library: str, last: Estimator, train: LabelledRows, held_out: LabelledRows | None, asked: Mapping[str, Any]
) -> tuple[int, int]:
    if held_out is None:
        last.fit(train.x, train.y, **train.weights, **_categories(library, train.x), **asked)
        return 0, 1
    if hasattr(type(last), "predict_proba"):
        known = np.flatnonzero(np.isin(held_out.y, train.y))
        if len(known) < len(held_out.y):
            held_out = LabelledRows(Rows.of(held_out.x).take(known).x, held_out.y[known])
    # Patience grows with the rounds that the user allows: who types 5,000 has a small learning rate.
    most = last.get_params().get(_ROUNDS[library]) or 100
    return _FIT[library](last, train, held_out, max(_MIN_PATIENCE, int(most) // 10), asked)


def _categories(library: str, x: FitData) -> dict[str, list[str]]:
    """CatBoost wants to be told which columns of a frame are categories; the others see it."""
    if library != "catboost" or not hasattr(x, "columns"):
        return {}
    found = [name for name, kind in zip(x.columns, x.dtypes, strict=True) if str(kind) == "category"]
    return {"cat_features": found} if found else {}


def _fit_lightgbm(
    estimator: Estimator, train: LabelledRows, held_out: LabelledRows, patience: int, asked: Mapping[str, Any]
) -> tuple[int, int]:
    # From where the user's own import has put it: an import here would make it a package that Manyfit needs.
    lightgbm = sys.modules["lightgbm"]
    callbacks = [lightgbm.early_stopping(patience, verbose=False), lightgbm.log_evaluation(0)]
    callbacks += asked.get("callbacks", [])
    if "eval_X" in inspect.signature(estimator.fit).parameters:  # since 4.7, which warns of the other
        options: dict[str, Any] = {"eval_X": held_out.x, "eval_y": held_out.y}
    else:
        options = {"eval_set": [held_out[:2]]}
    estimator.fit(train.x, train.y, callbacks=callbacks, **options, **train.weights)
    [curves] = estimator.evals_result_.values()
    # LightGBM counts rounds from 1, and says 0 where it did not stop early at all.
    return max(estimator.best_iteration_ - 1, 0), len(next(iter(curves.values())))


def _fit_xgboost(
    estimator: Estimator, train: LabelledRows, held_out: LabelledRows, patience: int, asked: Mapping[str, Any]
) -> tuple[int, int]:
    del asked  # it has a setting for that
    estimator.set_params(early_stopping_rounds=patience)
    estimator.fit(train.x, train.y, eval_set=[held_out[:2]], verbose=False, **train.weights)
    [curves] = estimator.evals_result().values()
    num_rounds = len(next(iter(curves.values())))
    # Ended after its first round it has not asked its early stopping yet.
    return int(estimator.best_iteration) if num_rounds > 1 else 0, num_rounds


def _fit_catboost(
    estimator: Estimator, train: LabelledRows, held_out: LabelledRows, patience: int, asked: Mapping[str, Any]
) -> tuple[int, int]:
    options = {"early_stopping_rounds": patience, "verbose": False, **_categories("catboost", train.x)}
    estimator.fit(train.x, train.y, eval_set=held_out[:2], **options, **train.weights, **asked)
    curves = estimator.get_evals_result()["validation"]
    return int(estimator.get_best_iteration() or 0), len(next(iter(curves.values())))


def _fit_sklearn(
    estimator: Estimator, train: LabelledRows, held_out: LabelledRows, patience: int, asked: Mapping[str, Any]
) -> tuple[int, int]:
    del asked  # nobody can ask here
    estimator.set_params(early_stopping=True, n_iter_no_change=patience)
    estimator.fit(train.x, train.y, X_val=held_out.x, y_val=held_out.y, **train.weights)
    curve = np.asarray(estimator.validation_score_)[1:]  # the first is before any tree
    return int(curve.argmax()), len(curve)


_FIT: dict[str, Callable[[Estimator, LabelledRows, LabelledRows, int, Mapping[str, Any]], tuple[int, int]]] = {
    "lightgbm": _fit_lightgbm,
    "xgboost": _fit_xgboost,
    "catboost": _fit_catboost,
    "sklearn": _fit_sklearn,
}
