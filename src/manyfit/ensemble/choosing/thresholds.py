"""From which probability on a row counts as positive, where a metric looks at decisions: accuracy, F1, balanced.

One half is best for accuracy where probabilities are right. It is not for F1: there the best threshold is half of the
F1 that is reached with it (Lipton, Elkan and Naryanaswamy 2014, arXiv 1402.1892, theorem 1), and for balanced accuracy
it is the share of positive rows.

A threshold is learned last, from what the finished procedure says of rows that it was not fitted on. Where fifty rows
of the rarer class or more are there it is the one that is best on them (the median over resamples of the rows, since
the best one jumps); with fewer it follows from the rules above. It is never scored on rows that it was learned from:
each fold is decided by the threshold of the other folds, and one number is computed of all decisions together. And it
has to be better than one half by a standard error, or it stays there.

No threshold is learned for precision or recall alone: the best one calls nothing, or everything, positive.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from manyfit.core.errors import UsageError, explain
from manyfit.ensemble.choosing.losses import Losses
from manyfit.ensemble.metrics import Metric
from manyfit.ensemble.problem import EnsembleProblem, PredictionTask

_OF_DECISIONS = ("accuracy", "f1", "balanced_accuracy")
_ENOUGH = 50  # rows of the rarer class from which the rows themselves are asked
_RESAMPLES = 50
_MOST_NUMBERS = 2_000_000  # that are held for the resamples of one column


def decides(metric: Metric, task: PredictionTask) -> bool:
    """Whether a metric looks at decisions that a threshold makes: yes or no, for each column."""
    return task.two_class and metric.name in _OF_DECISIONS


def moved(prediction: np.ndarray, thresholds: np.ndarray | None) -> np.ndarray:
    """Predictions (..., C) that are above one half exactly where they were above their column's threshold.

    Example:

    >>> moved(np.array([[0.2], [0.3], [0.65]]), np.array([0.3])).round(2).tolist()
    [[0.33], [0.5], [0.75]]
    """
    if thresholds is None:
        return prediction
    # Two straight lines, which keep the order of predictions: a logit would send 0 and 1 to infinity.
    t = np.clip(thresholds, 1e-9, 1 - 1e-9)
    return np.where(prediction > t, 0.5 + 0.5 * (prediction - t) / (1 - t), 0.5 * prediction / t)


def decisions(
    prediction: object, task: PredictionTask, thresholds: Sequence[float] | None, names: Sequence[str] | None
) -> np.ndarray:
    """What rows are, from their probabilities: see `Ensemble.decide`.

    Args:
        prediction: (n, ..., C) probabilities.
        task: what they are of.
        thresholds: for each column of a two-class question; None: one half.
        names: of the classes, or None.

    Raises:
        UsageError: values, or several outputs.

    Example:

    >>> decisions(np.array([[0.2], [0.4]]), PredictionTask.BINARY, [0.3], ["no", "yes"]).tolist()
    ['no', 'yes']
    """
    if not task.probabilistic or not isinstance(prediction, np.ndarray):
        got, allowed = "an ensemble of values or of several outputs", "one of probabilities of classes"
        raise UsageError(explain("Ensemble.decide", got, allowed, "Type ensemble.predict(x)."))
    if not task.two_class:
        classes = prediction.argmax(axis=-1)
    else:
        above = prediction > (0.5 if thresholds is None else np.asarray(thresholds))
        classes = (above if task is PredictionTask.MULTILABEL else above[..., 0]).astype(np.int64)
    return classes if names is None or task is PredictionTask.MULTILABEL else np.asarray(names)[classes]


def sharpened_thresholds(thresholds: np.ndarray, inverse_temperature: float) -> np.ndarray:
    """Where thresholds lie after a temperature, so that the decisions stay.

    Example:

    >>> sharpened_thresholds(np.array([0.2, 0.5]), 2.0).round(4).tolist()
    [0.0588, 0.5]
    """
    t = np.clip(thresholds, 1e-9, 1 - 1e-9)
    odds = (t / (1 - t)) ** inverse_temperature
    answer: np.ndarray = odds / (1 + odds)
    return answer


def learned(prediction: np.ndarray, problem: EnsembleProblem, fold: np.ndarray, metric: Metric) -> np.ndarray | None:
    """Thresholds for some predictions, if they are better than one half on rows that they were not learned from.

    Args:
        prediction: (n * K, C) of rows that they were not fitted on.
        problem: the rows.
        fold: (n,) of each row: those of one fold are decided by the thresholds of the others.
        metric: of decisions.

    Returns:
        (C,), learned from all rows; None: one half for all.
    """
    honest = np.empty_like(prediction, dtype=np.float64)
    for number in np.unique(fold):
        here, others = np.flatnonzero(fold == number), np.flatnonzero(fold != number)
        if not len(others):
            return None
        told = best_thresholds(prediction[problem.answers_of(others)], problem.rows(others), metric)
        answers = problem.answers_of(here)
        honest[answers] = moved(prediction[answers], told)
    # Not of the thresholds of all rows: those are better on them by having been chosen there.
    losses = Losses(metric, problem, [{"one half": prediction, "learned": honest}], precise=False)
    more, error = losses.difference("learned", "one half")
    return best_thresholds(prediction, problem, metric) if -more > error else None


def best_thresholds(prediction: np.ndarray, problem: EnsembleProblem, metric: Metric) -> np.ndarray:
    """(C,) thresholds that suit these rows best; see the head of this file."""
    weight = problem.answer_weight
    # The same draws for all that is compared: thresholds must not differ by who was resampled when.
    rng = np.random.default_rng(problem.num_rows)
    count = max(1, min(_RESAMPLES, _MOST_NUMBERS // max(1, len(weight))))
    draws = problem.over_answers(np.stack([_resampled(problem, rng) for _ in range(count)]))
    found = []
    for p, truth in zip(prediction.T.astype(np.float64), problem.target.T > 0.5, strict=True):
        rarer = min(int((truth & (weight > 0)).sum()), int((~truth & (weight > 0)).sum()))
        if rarer < _ENOUGH:
            found.append(_by_rule(p, truth, weight, metric.name))
        else:
            found.append(float(np.median(_best_cuts(p, truth, draws, metric.name))))
    return np.array(found)


def _resampled(problem: EnsembleProblem, rng: np.random.Generator) -> np.ndarray:
    """(n,) weights of the rows in the Bayesian bootstrap (Rubin 1981), in which no class is ever missing."""
    if problem.groups is None:
        return problem.row_weight * rng.standard_exponential(problem.num_rows)
    return problem.row_weight * rng.standard_exponential(int(problem.groups.max()) + 1)[problem.groups]


def _best_cuts(p: np.ndarray, truth: np.ndarray, draws: np.ndarray, metric: str) -> np.ndarray:
    """(B,) the threshold that is best under each of (B, N) weights."""
    order = np.argsort(-p, kind="stable")
    ordered, positive = p[order], truth[order]
    # The first k rows are called positive, k = 0 ... N; between equal predictions there is no cut.
    cuts = np.flatnonzero(np.r_[True, np.diff(ordered) < 0, True])
    weights = draws[:, order]
    nothing = np.zeros((len(draws), 1))
    right = np.concatenate([nothing, np.cumsum(weights * positive, axis=1)], axis=1)
    called = np.concatenate([nothing, np.cumsum(weights, axis=1)], axis=1)
    right, called, of_class, total = right[:, cuts], called[:, cuts], right[:, -1:], called[:, -1:]
    match metric:
        case "f1":
            value = 2 * right / (of_class + called)
        case "balanced_accuracy":
            # Less a constant; so below.
            value = right / of_class - (called - right) / (total - of_class)
        case _:
            value = 2 * right - called
    # In the middle between two predictions: at one of them a rounding error would decide.
    edges = np.r_[1.0, ordered, 0.0]
    between = (edges[cuts] + edges[cuts + 1]) / 2
    answer: np.ndarray = between[value.argmax(axis=1)]
    return answer


def _by_rule(p: np.ndarray, truth: np.ndarray, weight: np.ndarray, metric: str) -> float:
    share = float(weight @ truth)
    if metric == "balanced_accuracy" and 0 < share < 1:
        return share
    threshold = 0.5
    for _ in range(50 if metric == "f1" else 0):
        called = p > threshold
        total = share + float(weight @ called)
        half_of_f1 = float(weight @ (truth & called)) / total if total > 0 else 0.0
        if half_of_f1 == 0.0:
            break
        threshold = (threshold + half_of_f1) / 2  # half a step: few rows make F1 jump, and whole steps go in circles
    return threshold
