"""Trains estimators in scikit-learn's manner (`fit`, `predict`, `predict_proba`) beside Keras models.

An estimator is fitted in one go: one epoch. Gradient boosting is stopped early on the validation rows, and its rounds
are its epochs, so that retraining knows for how many rounds. Metrics have Keras's names: `loss` is log loss or mean
squared error, then `accuracy` and, for two classes, `auc`; or `mse`, `mae`, `rmse` and `r2`. Any other objective is
looked up among scikit-learn's scorers: `kt.Objective("val_f1_macro", "max")`.
"""

from __future__ import annotations

import inspect
import pickle
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TypeGuard

import keras
import numpy as np
from scipy.stats import rankdata

from manyfit.core.errors import UsageError, explain
from manyfit.core.files import written_whole
from manyfit.core.lifecycle import failure_of
from manyfit.core.objective import Objective
from manyfit.core.records import Configuration, Ending, Plan, Result
from manyfit.data.rows import FitData, Rows
from manyfit.training.base import Supply, Task, judge
from manyfit.training.boosting import Estimator, LabelledRows, fit_with_early_stopping, library_of, set_rounds
from manyfit.training.keras_fit import KerasFit
from manyfit.training.seeding import seeded

_SMALLEST = 1e-7  # as in Keras's cross-entropies
_ONE_RUN = ("retrain", "longer")  # phases whose plans say for how many rounds


def is_estimator(model: object) -> TypeGuard[Estimator]:
    """Whether it fits and predicts in scikit-learn's manner, and is no Keras model."""
    fits = callable(getattr(model, "fit", None)) and not isinstance(model, keras.Model | type)
    return fits and (callable(getattr(model, "predict", None)) or callable(getattr(model, "predict_proba", None)))


def pickle_path(weights_path: str | Path) -> Path:
    """Where an estimator lies whose execution has this path for weights."""
    return Path(weights_path).with_suffix(".pickle")


def load_estimator(path: Path) -> Estimator:
    """Reads an estimator that this project wrote. Open projects of people you trust only: it is a pickle."""
    return pickle.loads(path.read_bytes())


class Estimators(KerasFit):
    """Trains what a build function returns, one after another: estimators here, Keras models as `KerasFit` does."""

    def _train_one(self, plan: Plan, supply: Supply, task: Task) -> Result:
        try:
            with seeded(plan.seed):
                estimator = task.build(plan.values)
        except Exception:
            return super()._train_one(plan, supply, task)  # builds again, and tells what went wrong
        if not is_estimator(estimator):
            # Built once more than needed where it is no estimator: a Keras model then starts from the state of the
            # generators that it would have without this class.
            return super()._train_one(plan, supply, task)
        started = time.perf_counter()
        result = Result(plan, Ending.COMPLETED, {})
        try:
            self._fit(estimator, plan, task, result)
        except Exception as error:
            result.fail(failure_of(error))
        result.seconds = time.perf_counter() - started
        return result

    @staticmethod
    def _fit(estimator: Estimator, plan: Plan, task: Task, result: Result) -> None:
        train, validation = rows_of(plan, task)
        with seeded(plan.seed):
            set_seed(estimator, plan.seed)
            best_round, num_rounds = fit_estimator(estimator, plan, train, validation)
        logs = measured(estimator, train, "", task.objective)
        if validation is not None:
            logs.update(measured(estimator, validation, "val_", task.objective))
        # One measurement, at the place of the best round; the empty places say how many rounds there were, from which a
        # retraining knows for how long.
        after = [None] * (num_rounds - best_round - 1)
        result.history = {name: [*[None] * best_round, value, *after] for name, value in logs.items()}
        result.ending, result.message = judge(result.history, task.objective, stopped=False)
        if plan.weights_path is not None and result.ending.has_score:
            write_estimator(pickle_path(plan.weights_path), estimator)
            if task.keep is not None:
                task.keep([(plan, estimator)])

    def trains_in_epochs(self, values: Configuration, task: Task) -> bool:
        """Whether training on might be better; what is fitted in one go is done."""
        model = task.build(values.copy())
        return not is_estimator(model) or library_of(model) is not None


def rows_of(plan: Plan, task: Task) -> tuple[LabelledRows, LabelledRows | None]:
    """Training and validation rows of an execution: x, targets as scikit-learn wants them, sample weights or None.

    Raises:
        UsageError: x is no array, or there are no targets.
    """
    call = task.call_of(plan)
    x, y = call.x, call.y
    if call.num_rows is None or y is None:
        raise UsageError(
            explain(
                "search(x, y) with an estimator",
                f"x of type {type(x).__name__}, y of type {type(y).__name__}",
                "arrays",
                "Pass x and y as arrays or DataFrames.",
            )
        )
    validation = call.validation_rows()
    return _labelled(call.training_rows()), None if validation is None else _labelled(validation)


def _labelled(rows: Rows) -> LabelledRows:
    return LabelledRows(rows.x, _targets(rows.y), _weights(rows.sample_weight))


def _targets(y: FitData) -> np.ndarray:
    """Class numbers or values, one column as a vector; one-hot rows become class numbers."""
    array = np.asarray(y)
    if array.ndim == 2 and array.shape[1] == 1:
        return array[:, 0]
    if array.ndim == 2 and np.isin(array, (0, 1)).all() and (array.sum(axis=1) == 1).all():
        return array.argmax(axis=1)
    return array


def _weights(weight: FitData) -> np.ndarray | None:
    return None if weight is None else np.asarray(weight, dtype=float).reshape(-1)


def set_seed(estimator: Estimator, seed: int) -> None:
    """Gives the execution's seed to every part of an estimator that has a `random_state` of None."""
    if not hasattr(estimator, "get_params"):
        return
    # A `random_state` that the user has set is a wish, and stays.
    free = {
        name: seed % 2**31
        for name, value in estimator.get_params(deep=True).items()
        if value is None and (name == "random_state" or name.endswith("__random_state"))
    }
    if free:
        estimator.set_params(**free)


def fit_estimator(
    estimator: Estimator, plan: Plan, train: LabelledRows, validation: LabelledRows | None
) -> tuple[int, int]:
    """Fits; returns the best round, counted from 0, and the number of rounds (0 and 1 for what is fitted in one go)."""
    x, y, weight = train
    if library_of(estimator) is not None:
        if plan.phase in _ONE_RUN and plan.epochs is not None:
            set_rounds(estimator, plan.epochs)
        if validation is not None:
            return fit_with_early_stopping(estimator, train, validation)
    # k-nearest neighbours, say, know no weights; in a search over several kinds they train without.
    takes_weights = weight is not None and "sample_weight" in inspect.signature(estimator.fit).parameters
    estimator.fit(x, y, **({"sample_weight": weight} if takes_weights else {}))
    return 0, 1


def measured(estimator: Estimator, rows: LabelledRows, prefix: str, objective: Objective | None) -> dict[str, float]:
    """Metrics of a fitted estimator by Keras's names; and the objective, if scikit-learn has a scorer of that name."""
    x, y, weight = rows
    row_weight = np.ones(len(y)) if weight is None else weight
    row_weight = row_weight / row_weight.sum()
    if hasattr(estimator, "predict_proba"):
        logs = _class_metrics(estimator, x, y, row_weight)
    elif len(getattr(estimator, "classes_", ())):
        logs = {"accuracy": float(row_weight @ (np.asarray(estimator.predict(x)).reshape(-1) == y))}
    else:
        logs = value_metrics(np.asarray(estimator.predict(x), dtype=float), y, row_weight)
    # scikit-learn is asked only for what is not known by Keras's names: its scorers predict all rows again.
    for name in () if objective is None else objective.names:
        plain = name.removeprefix("val_")
        if plain not in logs and name.startswith("val_") == (prefix == "val_"):
            logs.update(_scored(plain, estimator, x, y, weight))
    return {f"{prefix}{name}": value for name, value in logs.items()}


def _class_metrics(estimator: Estimator, x: FitData, y: np.ndarray, row_weight: np.ndarray) -> dict[str, float]:
    output = estimator.predict_proba(x)
    if isinstance(output, list) or y.ndim > 1:  # several labels
        columns = np.stack([np.asarray(part)[:, -1] for part in output], axis=1) if isinstance(output, list) else output
        chosen = np.clip(np.where(y > 0.5, columns, 1 - columns), _SMALLEST, 1)
        right = ((columns > 0.5) == (y > 0.5)).mean(axis=1)
        return {"loss": float(row_weight @ -np.log(chosen).mean(axis=1)), "accuracy": float(row_weight @ right)}
    probabilities, classes = np.asarray(output), np.asarray(estimator.classes_)
    places = np.searchsorted(classes, y).clip(max=len(classes) - 1)
    known = classes[places] == y  # a class that was not in the training rows got no probability
    chosen = np.where(known, probabilities[np.arange(len(y)), places], 0.0)
    logs = {
        "loss": float(row_weight @ -np.log(np.clip(chosen, _SMALLEST, 1))),
        "accuracy": float(row_weight @ (classes[probabilities.argmax(axis=1)] == y)),
    }
    if len(classes) == 2 and len(np.unique(y)) == 2:
        logs["auc"] = _auc(probabilities[:, 1], y == classes[1], row_weight)
    return logs


def _auc(score: np.ndarray, positive: np.ndarray, row_weight: np.ndarray) -> float:
    """Chance that a positive row is ranked above a negative one; by ranks where all rows weigh alike."""
    # Ranks give the same in n log n steps, and hold in memory what pairs do not.
    if np.ptp(row_weight) == 0:
        ones = int(positive.sum())
        excess = rankdata(score)[positive].sum() - ones * (ones + 1) / 2
        return float(excess / (ones * (len(score) - ones)))
    above = (score[positive][:, None] > score[~positive]) + 0.5 * (score[positive][:, None] == score[~positive])
    pairs = row_weight[positive][:, None] * row_weight[~positive]
    return float((above * pairs).sum() / pairs.sum())


def value_metrics(predicted: np.ndarray, y: np.ndarray, row_weight: np.ndarray) -> dict[str, float]:
    """Metrics of predicted values; several outputs are averaged.

    Example:

    >>> value_metrics(np.array([1.0, 3.0]), np.array([1.0, 2.0]), np.full(2, 0.5))["mse"]
    0.5
    """
    truth = y.reshape(len(y), -1).astype(float)
    error = predicted.reshape(truth.shape) - truth
    mse = float((row_weight @ error**2).mean())
    spread = float((row_weight @ (truth - row_weight @ truth) ** 2).mean())
    return {
        "loss": mse,
        "mse": mse,
        "rmse": float(np.sqrt(mse)),
        "mae": float((row_weight @ np.abs(error)).mean()),
        "r2": 1 - mse / spread if spread > 0 else float("nan"),
    }


def _scored(
    name: str, estimator: Estimator, x: FitData, y: np.ndarray, weight: np.ndarray | None
) -> Mapping[str, float]:
    try:
        from sklearn.metrics import get_scorer, get_scorer_names
    except ImportError:
        return {}
    if name not in get_scorer_names():
        return {}
    arguments = {} if weight is None else {"sample_weight": weight}
    return {name: float(get_scorer(name)(estimator, x, y, **arguments))}


def write_estimator(path: Path, estimator: Estimator) -> None:
    """Writes an estimator; the file is complete or absent.

    Raises:
        ProjectError: the disk is full or the file cannot be written.
    """
    with written_whole(path, "estimator") as partial:
        partial.write_bytes(pickle.dumps(estimator))
