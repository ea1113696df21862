"""What a search with scikit-learn's estimators does with rows, folds, weights and scores.

scikit-learn is an optional extra; this file and `sklearn_tuner` are loaded only by those who ask for `SklearnTuner`.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Protocol, TypeAlias

import numpy as np

from manyfit.core.checks import is_whole
from manyfit.core.errors import UsageError, UsageTypeError, explain
from manyfit.core.records import Configuration, Plan
from manyfit.data.folds import FoldPlan, Folds
from manyfit.data.rows import Split
from manyfit.ensemble.members import model_predictions
from manyfit.training.base import Task
from manyfit.training.boosting import Estimator, LabelledRows
from manyfit.training.estimators import Estimators, Fitted, name_of_weights

Metric: TypeAlias = Callable[..., float]
"""A function of (true targets, predicted targets), as `sklearn.metrics` has them, or a scorer of (model, X, y)."""

RowNumbers: TypeAlias = np.ndarray
"""(n,) whole numbers, or n booleans: which rows."""


class SklearnModel(Protocol):
    """What scikit-learn's estimators and pipelines have in common, as far as a search asks for it."""

    def fit(self, X: object, y: object = None, **parameters: object) -> SklearnModel:
        """Trains, and returns itself."""

    def predict(self, X: object) -> np.ndarray:
        """One answer per row."""

    def score(self, X: object, y: object = None) -> float:
        """How good its predictions are; more is better."""


class SklearnSplitter(Protocol):
    """Makes folds of rows, as the classes of `sklearn.model_selection` do."""

    def split(self, X: object, y: object = None, groups: object = None) -> Iterator[tuple[RowNumbers, RowNumbers]]:
        """Pairs of (training rows, test rows), one per fold."""


CrossValidator: TypeAlias = SklearnSplitter | int | Iterable[tuple[RowNumbers, RowNumbers]]
"""What `cv` may be: a splitter, a number of folds, or the pairs of rows themselves."""


def import_sklearn(who: str) -> Any:
    """scikit-learn.

    Args:
        who: the class that needs it, for the message.

    Raises:
        ImportError: it is not installed.
    """
    try:
        import sklearn
    except ImportError:
        raise ImportError(
            f"{who}: scikit-learn is not installed. Please install scikit-learn (sklearn) before using {who}: "
            "pip install manyfit[sklearn]."
        ) from None
    return sklearn


def as_scorer(scoring: Metric | str | None) -> Metric | None:
    """A scorer from its name or itself.

    Raises:
        UsageError: no scorer has this name.
        UsageTypeError: it cannot be called.
    """
    if isinstance(scoring, str):
        from sklearn.metrics import get_scorer, get_scorer_names

        if scoring not in get_scorer_names():
            raise UsageError(
                explain(
                    "SklearnTuner(scoring)",
                    scoring,
                    "a name out of sklearn.metrics.get_scorer_names()",
                    'Type scoring="accuracy", say.',
                )
            )
        return get_scorer(scoring)
    if scoring is not None and not callable(scoring):
        raise UsageTypeError(
            explain(
                "SklearnTuner(scoring)",
                type(scoring).__name__,
                "a scorer, its name, or None",
                "Type scoring=sklearn.metrics.make_scorer(sklearn.metrics.f1_score), say.",
            )
        )
    return scoring


def as_metrics(metrics: Metric | Sequence[Metric] | None) -> list[Metric]:
    """A list of metric functions from one, a list, or None.

    Raises:
        UsageTypeError: one of them is no function with a name.
    """
    # Names are what results are logged under; a lambda has one, a partial function has none.
    given: list[Any] = [] if metrics is None else list(metrics) if isinstance(metrics, list | tuple) else [metrics]
    for metric in given:
        if not callable(metric) or not hasattr(metric, "__name__"):
            raise UsageTypeError(
                explain(
                    "SklearnTuner(metrics)",
                    f"{metric!r} of type {type(metric).__name__}",
                    "functions metric(y_true, y_pred), as sklearn.metrics has them",
                    "Type metrics=[sklearn.metrics.accuracy_score], say.",
                )
            )
    return given


def as_splitter(cv: CrossValidator | None) -> SklearnSplitter | int:
    """A splitter from one, from a list of (training rows, test rows), or from None; a number of folds stays one.

    Raises:
        UsageTypeError: it is none of these.
    """
    from sklearn.model_selection import KFold, check_cv

    # KerasTuner's default: shuffled, and the same for every search, so that scores of two searches can be compared.
    if cv is None:
        return KFold(5, shuffle=True, random_state=1)
    if hasattr(cv, "split") or is_whole(cv):
        return cv  # type: ignore[return-value]  # it was asked for what makes it one
    try:
        return check_cv(list(cv))  # type: ignore[arg-type]  # what is no list is refused below
    except TypeError:
        raise UsageTypeError(
            explain(
                "SklearnTuner(cv)",
                f"{cv!r} of type {type(cv).__name__}",
                "a splitter of sklearn.model_selection, a number of folds, or a list of (training, test) rows",
                "Type cv=5, say.",
            )
        ) from None


def as_rows(*columns: object) -> list[Any]:
    """X, y, weights and groups in forms whose rows can be taken, checked to be equally long.

    Raises:
        UsageError: they are not.
    """
    from sklearn.utils import indexable

    try:
        return list(indexable(*columns))
    except (ValueError, TypeError) as error:
        raise UsageError(
            explain(
                "search(X, y, sample_weight, groups)",
                str(error),
                "as many rows in each of them: arrays, lists, DataFrames, Series or sparse matrices",
                "Check how they were split.",
            )
        ) from error


def take(rows: RowNumbers, *columns: object) -> list[Any]:
    """These rows of each column, in the form that it has (a DataFrame stays one); None stays None."""
    from sklearn.utils import _safe_indexing  # in scikit-learn's public reference, underscore or not

    return [None if column is None else _safe_indexing(column, rows) for column in columns]


def fit(model: SklearnModel, X: object, y: object, sample_weight: object) -> SklearnModel:
    """Fits an estimator, with weights where it takes any. A pipeline hands them to its last step.

    Returns:
        The estimator.
    """
    if sample_weight is None:
        return model.fit(X, y)
    name = name_of_weights(model)
    # A warning and no error: a search over several kinds of estimators goes on, and its score still has the weights.
    if name is None:
        warnings.warn(
            explain(
                f"search(sample_weight=...) with {type(model).__name__}",
                "an estimator whose fit takes no weights, so it was trained without; its score has them",
                "estimators whose fit has sample_weight",
                "Choose another estimator, or leave sample_weight out.",
            ),
            stacklevel=2,
        )
        return model.fit(X, y)
    return model.fit(X, y, **{name: np.asarray(sample_weight)})


def _takes(function: Callable[..., object], name: str) -> bool:
    parameters = inspect.signature(function).parameters
    return name in parameters or any(each.kind is each.VAR_KEYWORD for each in parameters.values())


def measure(
    model: SklearnModel,
    X: object,
    y: object,
    sample_weight: object,
    *,
    scoring: Metric | None,
    metrics: Sequence[Metric],
) -> dict[str, float]:
    """The score and the metrics of a fitted estimator on rows that it has not seen.

    Weights go only where they are taken. A scorer is an object around a metric: whether *it* passes weights on cannot
    be seen from its own signature, which takes anything, so the metric inside it is asked.

    Args:
        model: fitted.
        X: rows.
        y: targets, or None.
        sample_weight: weights, or None.
        scoring: a scorer; None: the estimator's `score`.
        metrics: functions of (true targets, predicted targets).

    Returns:
        "score", and each metric by its name.
    """
    weights = None if sample_weight is None else np.asarray(sample_weight)
    if scoring is None:
        score = _weighted(model.score, weights, X, y)
    else:
        score = _weighted(scoring, weights, model, X, y, judge=getattr(scoring, "_score_func", scoring))
    measured = {"score": float(score)}
    if metrics:
        predicted = model.predict(X)
        measured.update({name_of(metric): float(_weighted(metric, weights, y, predicted)) for metric in metrics})
    return measured


def name_of(metric: Metric) -> str:
    """The name that a metric is logged under."""
    return str(metric.__name__)  # type: ignore[attr-defined]  # `as_metrics` refuses those without one


def _weighted(
    function: Metric, weights: np.ndarray | None, *args: object, judge: Callable[..., object] | None = None
) -> float:
    """Calls a score with weights where it takes them; `judge` is the function inside a scorer."""
    if weights is None or not _takes(judge or function, "sample_weight"):
        return function(*args)
    return function(*args, sample_weight=weights)


def plan_of_folds(splits: Sequence[tuple[RowNumbers, RowNumbers]]) -> FoldPlan:
    """The folds of a search as the steps after it take them.

    Raises:
        UsageError: a fold has no rows, or rows that it trains on.
    """

    def numbered(rows: RowNumbers) -> np.ndarray:
        rows = np.asarray(rows)
        return np.flatnonzero(rows) if rows.dtype.kind == "b" else np.sort(rows)

    made = [Split(numbered(training), numbered(testing)) for training, testing in splits]
    return FoldPlan(Folds(len(made), lambda repeat: made), len(made))


class ScoringTrainer(Estimators):
    """Trains for the steps after a search as `SklearnTuner.run_trial` does in it, and logs the same.

    Args:
        scoring: a scorer; None: the estimator's `score`.
        metrics: functions of (true targets, predicted targets).
    """

    def __init__(self, scoring: Metric | None, metrics: Sequence[Metric]) -> None:
        super().__init__()
        self._scoring = scoring
        self._metrics = metrics

    def fit(self, estimator: Estimator, plan: Plan, train: LabelledRows, validation: LabelledRows | None) -> Fitted:
        """See `Estimators.fit`: here nothing stops early, since a fold's rows are those that it is scored on."""
        del plan, validation
        fit(estimator, *train)  # type: ignore[arg-type]  # whatever has `fit` and `predict`
        return Fitted(estimator)

    def measure(
        self, estimator: Estimator, task: Task, train: LabelledRows, validation: LabelledRows | None
    ) -> dict[str, float]:
        """See `Estimators.measure`: the score and the metrics, on the rows of the fold."""
        del task, train
        if validation is None:
            return {}
        return measure(estimator, *validation, scoring=self._scoring, metrics=self._metrics)  # type: ignore[arg-type]  # likewise

    def trains_in_epochs(self, values: Configuration, task: Task) -> bool:
        """No: what a build function returns is fitted as it is."""
        del values, task
        return False


class InOrder:
    """A fitted classifier that predicts a column for each of a search's classes, whichever it has seen.

    Args:
        model: fitted.
        names: of all classes, sorted.
    """

    def __init__(self, model: SklearnModel, names: np.ndarray) -> None:
        self._model = model
        self._places = np.searchsorted(names, np.asarray(model.classes_).astype(str))  # type: ignore[attr-defined]  # classifiers have them
        self._num_classes = len(names)

    def predict(self, x: object) -> np.ndarray:
        """(n, classes) probabilities, or 1 for the class that was decided on."""
        found = np.asarray(model_predictions(self._model, x, 1024))
        placed = np.zeros((len(found), self._num_classes))
        placed[:, self._places] = found
        return placed
