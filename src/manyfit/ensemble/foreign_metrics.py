"""From whatever names a metric to a `Metric`: our own, those of Keras and scikit-learn, scorers, callables.

Keras and scikit-learn are loaded only when a metric of theirs is meant.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, SupportsFloat, TypeAlias

import numpy as np

from manyfit.core.errors import UsageError, explain
from manyfit.core.objective import infer_metric_direction
from manyfit.ensemble.metrics import Metric, default_metric, named_metric, pinball
from manyfit.ensemble.problem import EnsembleProblem, PredictionTask

if TYPE_CHECKING:  # neither is needed for metrics of our own
    import keras

    KerasJudge: TypeAlias = "keras.losses.Loss | keras.metrics.Metric"  # or a function of Keras such as `mse`

# scikit-learn metrics that take probabilities or scores; its other classification metrics take decisions.
_TAKES_SCORES = (
    "roc_auc_score", "average_precision_score", "log_loss", "brier_score_loss", "top_k_accuracy_score",
    "d2_log_loss_score", "d2_brier_score", "hinge_loss", "ndcg_score", "dcg_score", "label_ranking_loss",
    "label_ranking_average_precision_score", "coverage_error",
)  # fmt: skip
_FOR_PROBABILITIES = ("log_loss", "brier", "accuracy", "auc", "f1", "balanced_accuracy")
_FOR_VALUES = ("mse", "rmse", "r2", "mae", "mape")


def resolve_metric(
    spec: object,
    task: PredictionTask,
    *,
    quantiles: Sequence[float] | None = None,
    direction: str | None = None,
) -> Metric:
    """Makes a `Metric` of whatever names one.

    Args:
        spec: None, a name, a `Metric`, a Keras loss or metric, a scikit-learn metric function or scorer, or a
            callable ``(y_true, y_pred) -> float``.
        task: what the members predict.
        quantiles: levels of the output columns, for quantile regression.
        direction: "min" or "max", where the metric does not tell.

    Raises:
        UsageError: the name is unknown, or the metric does not fit the task.
        UsageError: nothing tells whether higher or lower is better.
    """
    if isinstance(spec, Metric):
        return spec
    if spec is None or spec in ("loss", "val_loss"):
        return default_metric(task, None if quantiles is None else tuple(quantiles))
    if isinstance(spec, str):
        if spec.removeprefix("val_") == "pinball":
            return pinball(tuple(quantiles or ()))
        metric = named_metric(spec)
        if metric is not None:
            return _fitting(metric, task)
    return foreign_metric(spec, task, direction)


def _fitting(metric: Metric, task: PredictionTask) -> Metric:
    allowed = (*_FOR_PROBABILITIES, "mse", "rmse") if task.probabilistic else _FOR_VALUES
    if metric.name not in allowed:
        raise UsageError(
            explain(
                "Ensemble.fit(metric)",
                f"{metric.name!r} for a {task.value} task",
                ", ".join(allowed),
                "Choose one of these, or pass a callable (y_true, y_pred) -> float.",
            )
        )
    return metric


def foreign_metric(spec: object, task: PredictionTask, direction: str | None) -> Metric:
    """Makes a `Metric` of something that is not Manyfit's own.

    Args:
        spec: a Keras loss or metric (object, class or name), a scikit-learn metric function, scorer or scorer name,
            or a callable ``(y_true, y_pred) -> float``.
        task: what the members predict.
        direction: "min", "max", or None to find out.

    Raises:
        UsageError: nobody knows it, or nothing tells its direction.
    """
    if isinstance(spec, type):
        # Keras takes classes for metrics as well as objects of them.
        spec = spec()
    if isinstance(spec, str):
        spec = _by_name(spec)
    # A function tells its own module, an object that of its class.
    module = type(spec).__module__ if not hasattr(spec, "__name__") else getattr(spec, "__module__", "")
    if str(module).startswith("keras."):
        return _keras(spec, direction)  # type: ignore[arg-type]  # its module says that it is one
    if hasattr(spec, "_score_func") or type(spec).__name__ in ("_Scorer", "_PassthroughScorer"):
        return _scorer(spec, task)  # type: ignore[arg-type]  # scorers can be called
    if callable(spec):
        return _function(spec, task, direction, of_sklearn=str(module).startswith("sklearn"))
    raise UsageError(
        explain(
            "Ensemble.fit(metric)",
            type(spec).__name__,
            "a name, a Keras loss or metric, a scikit-learn metric, or a callable (y_true, y_pred) -> float",
            'For instance metric="log_loss".',
        )
    )


def _by_name(name: str) -> object:
    import keras

    plain = name.removeprefix("val_")
    # Keras's before scikit-learn's: a name means what `compile` would mean by it.
    for find in (keras.metrics.get, keras.losses.get):
        try:
            found = find(plain)
        except (ValueError, TypeError):
            continue
        if found is not None:
            return found
    try:
        from sklearn.metrics import get_scorer

        return get_scorer(name)
    except (ImportError, ValueError, KeyError):
        pass
    raise UsageError(
        explain(
            "Ensemble.fit(metric)",
            repr(name),
            'names such as "log_loss", "accuracy", "auc", "f1", "mse", "r2", and those of Keras and scikit-learn',
            "Pass the metric itself, or a callable (y_true, y_pred) -> float.",
        )
    )


def _direction(name: str, given: str | None, found: str | None) -> bool:
    """Whether higher is better."""
    direction = given or found or infer_metric_direction(name)
    if direction not in ("min", "max"):
        raise UsageError(
            explain(
                f"Ensemble.fit(metric={name!r})",
                "a metric whose direction nobody knows",
                '"min" or "max"',
                'Pass settings=EnsembleSettings(direction="max"), or "min".',
            )
        )
    return direction == "max"


def _signed(
    name: str,
    value: Callable[[np.ndarray, EnsembleProblem], float],
    maximise: bool,
    *,
    weighs: bool,
    by_answer: bool = True,
) -> Metric:
    sign = -1.0 if maximise else 1.0
    return Metric(
        name,
        whole_loss=lambda prediction, problem: sign * value(prediction, problem),
        maximise=maximise,
        to_score=lambda loss, problem: sign * loss,
        weighs=weighs,
        by_answer=by_answer,
    )


def _keras(spec: KerasJudge, direction: str | None) -> Metric:
    import keras

    name = str(getattr(spec, "name", None) or getattr(spec, "__name__", type(spec).__name__))
    if isinstance(spec, keras.losses.Loss):

        def rows(prediction: np.ndarray, problem: EnsembleProblem) -> np.ndarray:
            # Several predictions at once, as greedy selection asks; Keras's losses would take the first axis for rows.
            if prediction.ndim > 2:
                return np.stack([rows(one, problem) for one in prediction])
            found = keras.ops.convert_to_numpy(spec.call(*_tensors(problem, prediction)))
            values = np.asarray(found, dtype=np.float64).reshape(problem.num_rows, -1)
            # One number for each pixel or step, or fewer: a loss of the user's may take images as a whole.
            by_answer = values.size == len(problem.answer_weight)
            return problem.per_row(values.ravel()) if by_answer else values.mean(axis=1)

        return Metric(name, row_losses=rows, maximise=False, by_answer=False)
    if not isinstance(spec, keras.metrics.Metric):
        spec = keras.metrics.MeanMetricWrapper(spec, name=name)

    def value(prediction: np.ndarray, problem: EnsembleProblem) -> float:
        # One object serves all calls, since a user's metric cannot be built anew; it must forget the call before.
        spec.reset_state()
        truth, guess = _tensors(problem, prediction)
        spec.update_state(truth, guess, sample_weight=_keras_weight(problem))
        result = keras.ops.convert_to_numpy(spec.result())
        return float(np.mean(result))

    return _signed(name, value, _direction(name, direction, None), weighs=True, by_answer=False)


def _keras_weight(problem: EnsembleProblem) -> np.ndarray | None:
    """Weights for a metric of Keras: of rows, or of every pixel or step; None where all are alike."""
    # Not equal ones instead of None: metrics of confusion cannot spread weights of rows over positions.
    if problem.positions:
        weight = problem.answer_weight
        return None if np.ptp(weight) <= 1e-12 * weight.max() else weight.reshape(-1, *problem.positions) * len(weight)
    return problem.row_weight * problem.num_rows


def _tensors(problem: EnsembleProblem, prediction: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Labels as the user gave them, with a column axis where predictions have one column, as `fit` would do."""
    truth, guess = problem.given, _as_answered(prediction, problem)
    if problem.num_outputs == 1 and truth.ndim == guess.ndim - 1:
        truth = truth[..., None]
    return truth, guess.astype(np.float32)


def _as_answered(prediction: np.ndarray, problem: EnsembleProblem) -> np.ndarray:
    """A prediction (n * K, C) in the shape in which members answer."""
    shape = (problem.num_rows, *problem.positions, problem.num_outputs)
    return prediction.reshape(shape) if problem.positions else prediction


def _scorer(spec: Callable[..., SupportsFloat], task: PredictionTask) -> Metric:
    """A scikit-learn scorer, called with an estimator whose predictions are already known.

    Scorers say "higher is better" always, so the score shown is the scorer's own.
    """
    from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin

    # Scorers look at an estimator's tags and classes to decide what to call, so a plain object will not do.
    kind = ClassifierMixin if task.probabilistic else RegressorMixin

    class KnownPrediction(kind, BaseEstimator):  # type: ignore[misc, valid-type]
        """Predicts what it was told to."""

        def __init__(self, prediction: np.ndarray) -> None:
            self.prediction = prediction
            self.classes_ = np.arange(max(2, prediction.shape[1]))

        def fit(self, x: np.ndarray, y: np.ndarray) -> KnownPrediction:
            return self

        def predict(self, x: np.ndarray) -> np.ndarray:
            return _decided(self.prediction, task)

        def predict_proba(self, x: np.ndarray) -> np.ndarray:
            return (
                np.hstack([1 - self.prediction, self.prediction]) if task is PredictionTask.BINARY else self.prediction
            )

    def value(prediction: np.ndarray, problem: EnsembleProblem) -> float:
        return float(spec(KnownPrediction(prediction), np.zeros((len(prediction), 1)), _labels(problem)))

    return _signed(str(spec), value, True, weighs=False)


def _function(
    spec: Callable[..., SupportsFloat], task: PredictionTask, direction: str | None, *, of_sklearn: bool
) -> Metric:
    name = getattr(spec, "__name__", type(spec).__name__)
    if not of_sklearn:
        return _signed(
            name,
            lambda prediction, problem: float(spec(problem.given, _as_answered(prediction, problem))),
            _direction(name, direction, None),
            weighs=False,
            by_answer=False,
        )
    # scikit-learn's convention: names that end in _score improve upwards, _error, _loss and _deviance downwards.
    found = "max" if name.endswith("_score") else "min" if name.endswith(("_error", "_loss", "_deviance")) else None
    scores = not task.probabilistic or name in _TAKES_SCORES

    def value(prediction: np.ndarray, problem: EnsembleProblem) -> float:
        shown = prediction if scores else _decided(prediction, task)
        if scores and shown.shape[1] == 1:
            shown = shown[:, 0]
        weight = problem.answer_weight * len(problem.answer_weight)
        return float(spec(_labels(problem), shown, sample_weight=weight))

    return _signed(name, value, _direction(name, direction, found), weighs=True)


def _decided(prediction: np.ndarray, task: PredictionTask) -> np.ndarray:
    if task is PredictionTask.MULTICLASS:
        return prediction.argmax(axis=1)
    if task is PredictionTask.BINARY:
        return (prediction[:, 0] > 0.5).astype(np.int64)
    if task is PredictionTask.MULTILABEL:
        return (prediction > 0.5).astype(np.int64)
    return prediction[:, 0] if prediction.shape[1] == 1 else prediction


def _labels(problem: EnsembleProblem) -> np.ndarray:
    """Labels in scikit-learn's form: class indices, not one-hot rows; one axis for one column."""
    target = problem.target
    if problem.task.probabilistic:
        target = target.astype(np.int64)
    return target[:, 0] if target.ndim == 2 and target.shape[1] == 1 else target
