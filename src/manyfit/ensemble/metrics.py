"""Metrics as losses: lower is better here, always; `Metric.score` turns a loss back into what the user knows.

Two kinds. *Row-wise* metrics are a weighted mean of one number per row: their gains have a standard error from paired
differences. *Whole* metrics (AUC, F1, Keras metrics, callables) need all rows at once; their gains are bootstrapped.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np

from manyfit.core.errors import UsageError, explain
from manyfit.ensemble.problem import EPSILON, EnsembleProblem, PredictionTask
from manyfit.stats.influence import usual_name

RowLosses = Callable[[np.ndarray, EnsembleProblem], np.ndarray]  # predictions (..., n * K, C) -> losses (..., n)
WholeLoss = Callable[[np.ndarray, EnsembleProblem], float]


def _as_is(loss: float, problem: EnsembleProblem) -> float:
    return loss


@dataclasses.dataclass(frozen=True)
class Metric:
    """A metric, as a loss.

    Example:

    >>> named_metric("accuracy").maximise, named_metric("mse").maximise
    (True, False)
    """

    name: str
    row_losses: RowLosses | None = None
    whole_loss: WholeLoss | None = None
    maximise: bool = False
    to_score: Callable[[float, EnsembleProblem], float] = _as_is  # from a loss to the number that users know
    exact: bool = False  # the weights that are best for the surrogate are best for this metric
    ranks: bool = False  # only the order of predictions counts
    weighs: bool = True  # it heeds row weights; callables may not
    by_answer: bool = True  # it looks at each pixel or step by itself; one that is not ours may look at whole images
    quantiles: tuple[float, ...] | None = None

    def loss(self, prediction: np.ndarray, problem: EnsembleProblem) -> float:
        """The loss of one prediction (n * K, C); NaN and inf become inf."""
        if self.row_losses is not None:
            value = float(problem.row_weight @ self.row_losses(prediction, problem))
        else:
            assert self.whole_loss is not None
            value = float(self.whole_loss(prediction, problem))
        return value if np.isfinite(value) else np.inf

    def losses(self, predictions: np.ndarray, problem: EnsembleProblem) -> np.ndarray:
        """The losses (K,) of several predictions (K, n, C)."""
        if self.row_losses is None:
            return np.array([self.loss(prediction, problem) for prediction in predictions])
        return self.row_losses(predictions, problem) @ problem.row_weight

    def score(self, prediction: np.ndarray, problem: EnsembleProblem) -> float:
        """The metric's own number for one prediction (n, C)."""
        return self.to_score(self.loss(prediction, problem), problem)


def log_losses(prediction: np.ndarray, problem: EnsembleProblem) -> np.ndarray:
    """(..., n) negative log of the probability given to the truth, mean over labels."""
    if problem.task is PredictionTask.MULTICLASS:
        chosen = prediction[..., np.arange(len(problem.target)), problem.target]
        return problem.per_row(-np.log(np.maximum(chosen, EPSILON)))
    chosen = np.where(problem.target > 0.5, prediction, 1.0 - prediction)
    return problem.per_row(-np.log(np.maximum(chosen, EPSILON)).mean(axis=-1))


def squared_errors(prediction: np.ndarray, problem: EnsembleProblem) -> np.ndarray:
    """(..., n) squared error, mean over outputs; of one-hot rows for classes (Brier's score over classes)."""
    target = problem.one_hot if problem.task is PredictionTask.MULTICLASS else problem.target
    return problem.per_row(((prediction - target) ** 2).mean(axis=-1))


def _absolute_errors(prediction: np.ndarray, problem: EnsembleProblem) -> np.ndarray:
    return problem.per_row(np.abs(prediction - problem.target).mean(axis=-1))


def _relative_errors(prediction: np.ndarray, problem: EnsembleProblem) -> np.ndarray:
    relative = np.abs(prediction - problem.target) / np.maximum(np.abs(problem.target), EPSILON)
    return problem.per_row(relative.mean(axis=-1))


def _mistakes(prediction: np.ndarray, problem: EnsembleProblem) -> np.ndarray:
    if problem.task is PredictionTask.MULTICLASS:
        return problem.per_row((prediction.argmax(axis=-1) != problem.target).astype(np.float64))
    return problem.per_row(((prediction > 0.5) != (problem.target > 0.5)).mean(axis=-1))


def _pinball_losses(quantiles: np.ndarray) -> RowLosses:
    def losses(prediction: np.ndarray, problem: EnsembleProblem) -> np.ndarray:
        short = problem.target - prediction
        return problem.per_row(np.maximum(quantiles * short, (quantiles - 1) * short).mean(axis=-1))

    return losses


def pinball(quantiles: tuple[float, ...]) -> Metric:
    """Pinball loss (Koenker and Bassett 1978), one quantile per output column.

    Args:
        quantiles: levels in (0, 1), in the order of the columns.

    Raises:
        UsageError: a level is not between 0 and 1.
    """
    levels = np.asarray(quantiles, dtype=np.float64)
    if levels.size == 0 or levels.min() <= 0 or levels.max() >= 1:
        raise UsageError(
            explain("pinball(quantiles)", quantiles, "levels between 0 and 1", "For instance (0.1, 0.5, 0.9).")
        )
    return Metric("pinball", row_losses=_pinball_losses(levels), quantiles=tuple(map(float, quantiles)))


def _one_minus(loss: float, problem: EnsembleProblem) -> float:
    return 1.0 - loss


def _root(loss: float, problem: EnsembleProblem) -> float:
    return float(np.sqrt(loss))


def _explained(loss: float, problem: EnsembleProblem) -> float:
    mean = problem.answer_weight @ problem.target
    spread = float((problem.answer_weight @ (problem.target - mean) ** 2).mean())
    return 1.0 - loss / spread if spread > 0 else float("nan")


def binary_auc(score: np.ndarray, truth: np.ndarray, weight: np.ndarray) -> float:
    """Area under the ROC curve: the chance that a positive row is ranked above a negative one, ties counting half.

    Args:
        score: (n,) any ranking numbers.
        truth: (n,) 0 or 1.
        weight: (n,) row weights.

    Returns:
        A number in [0, 1]; NaN if one of the classes is missing.

    Example:

    >>> binary_auc(np.array([0.1, 0.4, 0.35, 0.8]), np.array([0, 0, 1, 1]), np.ones(4))
    0.75
    """
    order = np.argsort(score, kind="stable")
    positive = np.where(truth[order] > 0.5, weight[order], 0.0)
    negative = weight[order] - positive
    # By groups of ties: row by row, the area would depend on the order in which equal scores happen to lie.
    first = np.flatnonzero(np.r_[True, np.diff(score[order]) > 0])  # where each group of ties starts
    positive, negative = np.add.reduceat(positive, first), np.add.reduceat(negative, first)
    below = np.cumsum(negative) - negative
    pairs = positive.sum() * negative.sum()
    return float(positive @ (below + negative / 2) / pairs) if pairs > 0 else float("nan")


def _columns(problem: EnsembleProblem) -> np.ndarray:
    return problem.one_hot if problem.task is PredictionTask.MULTICLASS else problem.target


def _auc_loss(prediction: np.ndarray, problem: EnsembleProblem) -> float:
    truth = _columns(problem)
    areas = [binary_auc(prediction[:, c], truth[:, c], problem.answer_weight) for c in range(truth.shape[1])]
    # A bootstrap may miss a class.
    seen = [area for area in areas if np.isfinite(area)]  # classes without a row say nothing
    return 1.0 - float(np.mean(seen)) if seen else float("inf")


def _decisions(prediction: np.ndarray, problem: EnsembleProblem) -> np.ndarray:
    if problem.task is PredictionTask.MULTICLASS:
        return np.eye(problem.num_outputs)[prediction.argmax(axis=-1)]
    return (prediction > 0.5).astype(np.float64)


def _f1_loss(prediction: np.ndarray, problem: EnsembleProblem) -> float:
    truth, decided, weight = _columns(problem), _decisions(prediction, problem), problem.answer_weight
    both, total = weight @ (truth * decided), weight @ truth + weight @ decided
    # A class without a row, neither true nor predicted, has no F1; scikit-learn counts it as zero and warns.
    present = total > 0
    return 1.0 - float((2 * both[present] / total[present]).mean()) if present.any() else float("inf")


def _balanced_loss(prediction: np.ndarray, problem: EnsembleProblem) -> float:
    truth, weight = _columns(problem), problem.answer_weight
    decided = _decisions(prediction, problem)
    if problem.task.two_class:
        truth, decided = np.concatenate([truth, 1 - truth], 1), np.concatenate([decided, 1 - decided], 1)
    size = weight @ truth
    present = size > 0
    return 1.0 - float(((weight @ (truth * decided))[present] / size[present]).mean())


_NAMED = {
    "log_loss": Metric("log_loss", row_losses=log_losses, exact=True),
    "mse": Metric("mse", row_losses=squared_errors, exact=True),
    "rmse": Metric("rmse", row_losses=squared_errors, exact=True, to_score=_root),
    "r2": Metric("r2", row_losses=squared_errors, exact=True, to_score=_explained, maximise=True),
    "mae": Metric("mae", row_losses=_absolute_errors),
    "mape": Metric("mape", row_losses=_relative_errors),
    "brier": Metric("brier", row_losses=squared_errors, exact=True),
    "accuracy": Metric("accuracy", row_losses=_mistakes, maximise=True, to_score=_one_minus),
    "auc": Metric("auc", whole_loss=_auc_loss, maximise=True, to_score=_one_minus, ranks=True),
    "f1": Metric("f1", whole_loss=_f1_loss, maximise=True, to_score=_one_minus),
    "balanced_accuracy": Metric("balanced_accuracy", whole_loss=_balanced_loss, maximise=True, to_score=_one_minus),
}


def named_metric(name: str) -> Metric | None:
    """One of Manyfit's own metrics by any of its usual names, or None; ``val_`` in front is ignored."""
    return _NAMED.get(usual_name(name))


def default_metric(task: PredictionTask, quantiles: tuple[float, ...] | None = None) -> Metric:
    """Log loss for probabilities, squared error for values, pinball loss for quantiles."""
    if quantiles is not None:
        return pinball(quantiles)
    return _NAMED["log_loss"] if task.probabilistic else _NAMED["mse"]


def surrogate(metric: Metric, task: PredictionTask) -> Metric:
    """The smooth convex metric that weights are solved for before they are polished for `metric`.

    It is the metric itself where that is smooth and convex; the squared error does for Brier's score.
    """
    # Absolute and pinball losses are convex but kinked: `gradient` rounds the kink off.
    if metric.quantiles is not None or metric.row_losses in (squared_errors, _absolute_errors):
        return metric
    return default_metric(task)
