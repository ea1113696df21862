"""Trains estimators in scikit-learn's manner (`fit`, `predict`, `predict_proba`) beside Keras models.

An estimator is fitted in one go: one epoch. Gradient boosting is stopped early on the validation rows, and its rounds
are its epochs, so that retraining knows for how many rounds. Metrics have Keras's names: `loss` is log loss or mean
squared error, then `accuracy` and, for two classes, `auc`; or `mse`, `mae`, `rmse` and `r2`. Any other objective is
looked up among scikit-learn's scorers: `kt.Objective("val_f1_macro", "max")`.
"""

from __future__ import annotations

import dataclasses
import inspect
import math
import pickle
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeGuard

import keras
import numpy as np
from scipy.stats import rankdata

from manyfit.core.clock import Clock
from manyfit.core.costs import Costs
from manyfit.core.errors import UsageError, explain
from manyfit.core.files import rewritten, sealed, unsealed, written_whole
from manyfit.core.lifecycle import failure_of
from manyfit.core.records import Configuration, Ending, Plan, Result
from manyfit.data.classes import named_classes
from manyfit.data.kinds import Ability, is_nested
from manyfit.data.rows import FitData, Rows
from manyfit.training.base import NOTHING_TRAINED, BestEpoch, OutOfTime, Supply, Task, judge
from manyfit.training.boosting import (
    Estimator,
    LabelledRows,
    RoundClock,
    fit_boosting,
    last_step,
    library_of,
    set_rounds,
)
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


def load_estimator(path: Path, *, trust: bool = False) -> Estimator:
    """Reads an estimator, which is a pickle.

    Args:
        path: as `write_estimator` was given it.
        trust: load it whoever wrote it, and run whatever code is in it.

    Raises:
        ProjectError: it was not written by this user on this machine, and `trust` is False.
    """
    return pickle.loads(unsealed(path, "estimator", trust=trust))


class Estimators(KerasFit):
    """Trains what a build function returns, one after another: estimators here, Keras models as `KerasFit` does."""

    _rounds: RoundClock | None = None  # what ends the boosting that is fitted now

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
        started, clock = time.perf_counter(), task.clock or Clock()
        self._rounds = RoundClock(clock) if clock.is_limited else None
        result = Result(plan, Ending.COMPLETED, {}, costs=Costs(type(last_step(estimator)).__name__))
        try:
            self._fit(estimator, plan, task, result)
        except OutOfTime:
            result.ending, result.message = Ending.STOPPED, NOTHING_TRAINED
        except Exception as error:
            result.fail(failure_of(error))
        result.seconds = time.perf_counter() - started
        return result

    def _fit(self, estimator: Estimator, plan: Plan, task: Task, result: Result) -> None:
        train, validation = rows_of(plan, task)
        clock, name, num_rows = task.clock or Clock(), type(last_step(estimator)).__name__, len(train.y)
        # What is fitted in one go cannot be ended; of boosting one round has to fit, and the clock ends the others.
        if not self.costs.fits(clock, {"epoch": 1}, name, rows=num_rows):
            raise OutOfTime
        started = clock.now()
        with seeded(plan.seed):
            set_seed(estimator, plan.seed)
            fitted = self.fit(estimator, plan, train, validation)
        logs = self.measure(fitted.estimator, task, train, validation)
        per_round = (clock.now() - started) / fitted.num_rounds
        self.costs.note("epoch", name, per_round, rows=num_rows)
        result.costs = Costs(name, epoch=per_round)
        # One measurement, at the place of the best round; the empty places say how many rounds there were, from which a
        # retraining knows for how long.
        before, after = fitted.best_round, fitted.num_rounds - fitted.best_round - 1
        result.history = {name: [*[None] * before, value, *[None] * after] for name, value in logs.items()}
        stopped = self._rounds is not None and self._rounds.has_ended
        result.ending, result.message = judge(result.history, task.objective, stopped=stopped)
        if not result.ending.has_score:
            return
        final = fitted.estimator if task.classes is None else with_names(fitted.estimator, task.classes)
        if plan.weights_path is not None:
            with self.aside.keeping("estimators"):
                write_estimator(pickle_path(plan.weights_path), final)
        if task.watch is not None and task.objective is not None:
            loss = min(task.objective.epoch_losses(result.history), default=math.inf)
            task.watch([BestEpoch(plan, result.num_epochs, loss, final)])
        if plan.keeps_predictions and task.keep is not None:
            started = time.perf_counter()
            with self.aside.keeping("predictions"):
                task.keep([(plan, final)])
            result.costs = dataclasses.replace(result.costs, predict=time.perf_counter() - started)

    def fit(self, estimator: Estimator, plan: Plan, train: LabelledRows, validation: LabelledRows | None) -> Fitted:
        """Fits an estimator. Override it to fit otherwise."""
        return fit_estimator(estimator, plan, train, validation, self._rounds)

    def measure(
        self, estimator: Estimator, task: Task, train: LabelledRows, validation: LabelledRows | None
    ) -> dict[str, float]:
        """What is logged of a fitted estimator. Override it to log something else."""
        wanted = () if task.objective is None else task.objective.names
        logs = measured(estimator, train, [name for name in wanted if not name.startswith("val_")])
        if validation is not None:
            names = [name.removeprefix("val_") for name in wanted if name.startswith("val_")]
            found = measured(estimator, validation, names)
            logs.update({f"val_{name}": value for name, value in found.items()})
        return logs

    def trains_in_epochs(self, values: Configuration, task: Task) -> bool:
        """Whether training on might be better; what is fitted in one go is done."""
        model = task.build(values.copy())
        return not is_estimator(model) or library_of(model) is not None


class ClassNamer:
    """A fitted classifier that was trained on numbers of classes, and answers with their names.

    What is not defined here is the estimator's own: `model.feature_importances_`, `model.named_steps`.

    Args:
        estimator: fitted, or to be fitted by `fit`, with places in `classes` as targets.
        classes: all classes, sorted. The estimator may have seen some of them only.

    Attributes:
        classes_: likewise, as scikit-learn calls them.
    """

    def __init__(self, estimator: Estimator, classes: np.ndarray) -> None:
        self.estimator = estimator
        self.classes = classes
        self.classes_ = np.asarray(classes)

    def __getattr__(self, name: str) -> Any:
        # Python asks for its own hooks while an object is copied or unpickled, before it has an estimator.
        if (name.startswith("__") and name != "__sklearn_tags__") or "estimator" not in self.__dict__:
            raise AttributeError(name)
        return getattr(self.estimator, name)

    def __repr__(self) -> str:
        return f"ClassNamer({self.estimator!r}, {self.classes_.tolist()})"

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """The arguments, and those of the estimator by `estimator__name`, as scikit-learn has it."""
        own: dict[str, Any] = {"estimator": self.estimator, "classes": self.classes}
        inner = self.estimator.get_params(deep=True) if deep else {}
        return {**own, **{f"estimator__{name}": value for name, value in inner.items()}}

    def set_params(self, **params: Any) -> ClassNamer:
        """Sets arguments of the estimator, by `estimator__name`."""
        self.estimator.set_params(**{name.removeprefix("estimator__"): value for name, value in params.items()})
        return self

    def numbers(self, y: FitData) -> np.ndarray:
        """(n,) places of classes; those that are not known get the number of classes."""
        given = np.asarray(y).reshape(-1)
        given = given.astype(str) if self.classes_.dtype.kind == "U" else given
        places = np.searchsorted(self.classes_, given).clip(max=len(self.classes_) - 1)
        return np.where(self.classes_[places] == given, places, len(self.classes_))

    def fit(self, x: FitData, y: FitData, **options: Any) -> ClassNamer:
        """Trains the estimator anew."""
        self.estimator.fit(x, self.numbers(y), **options)
        return self

    def predict(self, x: FitData) -> np.ndarray:
        """(n,) names."""
        return self.classes_[np.asarray(self.estimator.predict(x)).reshape(-1).astype(int)]

    @property
    def predict_proba(self) -> Callable[[FitData], np.ndarray]:
        """Rows -> (n, classes) probabilities, 0 for classes that were not seen; absent where the estimator has none."""
        inner = self.estimator.predict_proba

        def probabilities(x: FitData) -> np.ndarray:
            found = np.asarray(inner(x))
            placed = np.zeros((len(found), len(self.classes_)), found.dtype)
            placed[:, np.asarray(self.estimator.classes_).astype(int)] = found
            return placed

        return probabilities

    def score(self, x: FitData, y: FitData, sample_weight: FitData = None) -> float:
        """The share of rows whose class is right."""
        right = self.predict(x) == np.asarray(y).reshape(-1)
        return float(np.average(right, weights=sample_weight))


def with_names(estimator: Estimator, names: Sequence[str]) -> Estimator:
    """A fitted estimator that answers with names of classes; one that predicts no classes stays as it is."""
    classifies = len(getattr(estimator, "classes_", ())) > 0
    return ClassNamer(estimator, np.asarray(names, dtype=str)) if classifies else estimator


def check_rows(rows: Rows) -> None:
    """Refuses rows that no estimator can be fitted to.

    Raises:
        UsageError: there are no targets, x holds several arrays, or it is a pipeline that cannot be read into arrays;
            or y holds names of classes among other things.
    """
    where = "search(x, y) with an estimator"
    if not rows.kind.is_pipeline and (rows.num_rows is None or rows.y is None or is_nested(rows.x)):
        instead = "Pass one array or DataFrame with a row per example as x, and y: np.hstack([x_one, x_other]), say."
        raise UsageError(explain(where, rows.describe(), "arrays: one x, and a target for each of its rows", instead))
    if rows.kind.is_pipeline:
        rows.require(Ability.AS_ARRAYS, where)
    named_classes("search(x, y)", rows.y)  # refuses what is no name


def rows_of(plan: Plan, task: Task) -> tuple[LabelledRows, LabelledRows | None]:
    """Training and validation rows of an execution: x, targets as scikit-learn wants them, sample weights or None.

    Raises:
        UsageError: x is no array, or there are no targets.
    """
    call = task.call_of(plan)
    validation = call.validation_rows()
    return _labelled(call.training_rows()), None if validation is None else _labelled(validation)


def _labelled(rows: Rows) -> LabelledRows:
    check_rows(rows)
    rows = rows.read("search(x, y) with an estimator")
    return LabelledRows(rows.x, targets(rows.y), row_weights(rows.sample_weight))


def targets(y: FitData) -> np.ndarray:
    """Classes or values, one column as a vector; one-hot rows become class numbers."""
    array = np.asarray(y)
    if array.dtype.kind == "O" and not any(isinstance(one, str) for one in array.flat):
        array = np.asarray(array.tolist())  # numbers in pandas's types for columns with gaps
    if array.ndim == 2 and array.shape[1] == 1:
        return array[:, 0]
    if array.ndim == 2 and np.isin(array, (0, 1)).all() and (array.sum(axis=1) == 1).all():
        return array.argmax(axis=1)
    return array


def row_weights(weight: FitData) -> np.ndarray | None:
    """(n,) sample weights."""
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


class Fitted(NamedTuple):
    """What came of a fit."""

    estimator: Estimator
    best_round: int = 0  # counted from 0
    num_rounds: int = 1  # 1 for what is fitted in one go


def fit_estimator(
    estimator: Estimator,
    plan: Plan,
    train: LabelledRows,
    validation: LabelledRows | None,
    rounds: RoundClock | None = None,
) -> Fitted:
    """Fits, boosting with early stopping where there are validation rows, and until its clock is over."""
    library = library_of(estimator)
    if library == "xgboost" and hasattr(type(last_step(estimator)), "predict_proba"):
        # It takes 0, 1, 2, ... only; a fold may lack a class, and classes may be -1 and 1.
        present = np.unique(train.y)
        if train.y.ndim == 1 and not np.array_equal(present, np.arange(len(present))):
            namer = ClassNamer(estimator, present)
            inner = _fit_numbers(namer, plan, train, validation, rounds)
            return inner._replace(estimator=namer)
    if library is not None:
        if plan.phase in _ONE_RUN and plan.epochs is not None:
            set_rounds(estimator, plan.epochs)
        return Fitted(estimator, *fit_boosting(estimator, train, validation, rounds))
    # k-nearest neighbours, say, know no weights; in a search over several kinds they train without.
    name = None if train.weight is None else name_of_weights(estimator)
    estimator.fit(train.x, train.y, **({} if name is None else {name: train.weight}))
    return Fitted(estimator)


def _fit_numbers(
    namer: ClassNamer,
    plan: Plan,
    train: LabelledRows,
    validation: LabelledRows | None,
    rounds: RoundClock | None,
) -> Fitted:
    """Fits the estimator inside a `ClassNamer` to places of classes."""
    train = train._replace(y=namer.numbers(train.y))
    # A class that is not trained on gets a number of its own, which early stopping leaves out.
    validation = None if validation is None else validation._replace(y=namer.numbers(validation.y))
    return fit_estimator(namer.estimator, plan, train, validation, rounds)


def name_of_weights(estimator: Any) -> str | None:
    """The keyword of `fit` that sample weights go by, None if there is none.

    scikit-learn wraps `fit` (since 1.3), so only a signature that looks through wrappers tells the truth.
    """
    # A pipeline's own `fit` takes any keyword, and refuses one that is not "step__name" only when it is called.
    if type(estimator).__module__ == "sklearn.pipeline" and getattr(estimator, "steps", None):
        last, step = estimator.steps[-1]
        name = None if step in (None, "passthrough") else name_of_weights(step)
        return None if name is None else f"{last}__{name}"
    parameters = inspect.signature(estimator.fit).parameters
    takes_any = any(each.kind is each.VAR_KEYWORD for each in parameters.values())
    return "sample_weight" if takes_any or "sample_weight" in parameters else None


def measured(estimator: Estimator, rows: LabelledRows, wanted: Sequence[str] = ()) -> dict[str, float]:
    """Metrics of a fitted estimator by Keras's names.

    Args:
        estimator: what is measured.
        rows: on these.
        wanted: further names, which scikit-learn may have scorers for; "score" is the estimator's own.

    Example:

    >>> from sklearn.dummy import DummyClassifier
    >>> rows = LabelledRows(np.zeros((4, 1)), np.array([0, 0, 0, 1]))
    >>> measured(DummyClassifier().fit(rows.x, rows.y), rows, ["balanced_accuracy"])["balanced_accuracy"]
    0.5
    """
    x, y, weight = rows
    if isinstance(estimator, ClassNamer):  # scorers know what is positive among numbers, and not among names
        numbers = estimator.numbers(y)
        if (numbers < len(estimator.classes_)).all():
            return measured(estimator.estimator, LabelledRows(x, numbers, weight), wanted)
    row_weight = np.ones(len(y)) if weight is None else weight
    row_weight = row_weight / row_weight.sum()
    if hasattr(estimator, "predict_proba"):
        logs = _class_metrics(estimator, x, y, row_weight)
    elif len(getattr(estimator, "classes_", ())):
        logs = {"accuracy": float(row_weight @ (np.asarray(estimator.predict(x)).reshape(-1) == y))}
    else:
        logs = value_metrics(np.asarray(estimator.predict(x), dtype=float), y, row_weight)
    # scikit-learn is asked only for what is not known by Keras's names: its scorers predict all rows again.
    for name in wanted:
        if name not in logs:
            logs.update(_scored(name, estimator, x, y, weight))
    return logs


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
    if name == "score":
        return {name: float(estimator.score(x, y))}
    if name not in get_scorer_names():
        return {}
    arguments = {} if weight is None else {"sample_weight": weight}
    return {name: float(get_scorer(name)(estimator, x, y, **arguments))}


def write_estimator(path: Path, estimator: Estimator) -> None:
    """Writes an estimator; the file is complete or absent.

    Raises:
        ProjectError: the disk is full or the file cannot be written.
    """
    with rewritten(path, "estimator") as partial:
        partial.write_bytes(sealed(pickle.dumps(estimator)))


def save_final(model: Any, path: Path) -> Path:
    """Saves what a user is given: a Keras model or an ensemble as it does itself, an estimator as a plain pickle.

    Returns:
        The path; that of an estimator ends in `.pickle`.

    Raises:
        ProjectError: the disk is full or the file cannot be written.
    """
    again = "call again with the same path."
    if isinstance(model, keras.Model):
        with written_whole(path, "model", again=again, lasts=True) as partial:
            model.save(partial)
        return path
    if hasattr(model, "evaluate"):  # an ensemble; estimators lack it
        model.save(path)
        return path
    path = path.with_suffix(".pickle")
    with written_whole(path, "estimator", again=again, lasts=True) as partial:
        partial.write_bytes(pickle.dumps(model))
    return path
