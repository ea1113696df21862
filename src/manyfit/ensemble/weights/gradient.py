"""Weights of pools that have no closed treatment, by gradients: geometric, stacking, and smoothed kinked losses.

Notation: L (S, N, C) logs of the members' probabilities, w weights, Q (N, C) the pool, e (N, C) one-hot truth,
v (N,) row weights.

  (1) f(w) = sum_j v_j [ logsumexp_c (L w)_jc - (L w)_j,truth ]      geometric pool; convex in w >= 0
  (2) df/dw_i = sum_jc v_j (Q - e)_jc L_ijc
Weights of the geometric pool need not sum to one: their sum is an inverse temperature, so weights and calibration
are one convex fit.
"""

from __future__ import annotations

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit

from manyfit.ensemble.metrics import Metric
from manyfit.ensemble.pools import GeometricPool, StackingPool, log_clipped, softmax
from manyfit.ensemble.problem import EnsembleProblem, two_columns

# About the size of a member's weight, so that many rows can still take it to zero.
_PRIOR_DEVIATION = 0.1  # of the weights of a geometric pool


def expanded(problem: EnsembleProblem) -> tuple[np.ndarray, np.ndarray]:
    """(S, N, C) log-probabilities with two-class columns unfolded, and the (N, C) one-hot truth."""
    if problem.task.two_class:
        truth = two_columns(problem.target[None])[0]
        return log_clipped(two_columns(problem.predictions.astype(np.float64))), truth
    return log_clipped(problem.predictions.astype(np.float64)), problem.one_hot


def geometric_pool(
    problem: EnsembleProblem, *, prior: np.ndarray | None = None, iterations: int = 200
) -> GeometricPool:
    """The geometric pool with the smallest log loss; the temperature is within its weights, equation (1).

    Args:
        problem: rows to fit on.
        prior: (S,) weights around which there is a normal prior; with few rows the free fit follows their noise.
        iterations: of L-BFGS.
    """
    logs, truth = expanded(problem)
    weight = problem.entry_weight
    flat = logs.reshape(len(logs), -1)
    start = np.full(len(logs), 1.0 / len(logs)) if prior is None else prior
    # One over the effective number of rows: the prior is worth the same whatever the rows weigh.
    pull = 0.0 if prior is None else float((problem.row_weight**2).sum()) / _PRIOR_DEVIATION**2

    def loss(weights: np.ndarray) -> tuple[float, np.ndarray]:
        logits = (weights @ flat).reshape(truth.shape)
        value, difference = _cross_entropy(logits, truth, weight)
        away = weights - start
        return value + pull / 2 * float(away @ away), flat @ difference.ravel() + pull * away  # (2)

    options = {"maxiter": iterations, "ftol": 1e-12, "gtol": 1e-8}
    answer = minimize(loss, start, jac=True, method="L-BFGS-B", bounds=[(0.0, None)] * len(logs), options=options)
    # L-BFGS-B leaves bounded weights a hair above zero, and a member with weight has to be kept and run.
    weights = np.where(answer.x < 1e-6 * answer.x.sum(), 0.0, answer.x)
    return GeometricPool(weights if weights.any() else start)


def _cross_entropy(logits: np.ndarray, truth: np.ndarray, weight: np.ndarray) -> tuple[float, np.ndarray]:
    shifted = logits - logits.max(axis=1, keepdims=True)
    exponent = np.exp(shifted)
    total = exponent.sum(axis=1, keepdims=True)
    value = float(weight @ (np.log(total[:, 0]) - (shifted * truth).sum(axis=1)))
    return value, (exponent / total - truth) * weight[:, None]


def stacking_pool(problem: EnsembleProblem, *, ridge: float, iterations: int = 60) -> StackingPool:
    """A regularised linear model on the members' outputs: log-probabilities for classes, values for regression.

    One weight per member and column, and a bias per column, pulled towards the plain average with strength `ridge`.
    Weights may be negative. There is no full matrix between members and classes: with a few hundred validation rows it
    would be fitted to noise (logistic-regression stacking had the worst log loss of six combiners, arXiv 2605.18696).
    """
    if not problem.task.probabilistic:
        return _ridge_pool(problem, ridge)
    logs, truth = expanded(problem)
    weight = problem.entry_weight
    num_members, _, num_classes = logs.shape
    # Towards the plain average, not towards zero, where a strong ridge would make all predictions alike.
    prior = np.r_[np.full(num_members * num_classes, 1.0 / num_members), np.zeros(num_classes)]

    def loss(parameters: np.ndarray) -> tuple[float, np.ndarray]:
        matrix = parameters[:-num_classes].reshape(num_members, num_classes)
        logits = np.einsum("mnc,mc->nc", logs, matrix) + parameters[-num_classes:]
        value, difference = _cross_entropy(logits, truth, weight)
        gradient = np.r_[np.einsum("mnc,nc->mc", logs, difference).ravel(), difference.sum(axis=0)]
        away = parameters - prior
        return value + ridge / 2 * float(away @ away), gradient + ridge * away

    answer = minimize(loss, prior, jac=True, method="L-BFGS-B", options={"maxiter": iterations, "gtol": 1e-7})
    matrix = answer.x[:-num_classes].reshape(num_members, num_classes)
    return StackingPool(_importance(matrix), class_weights=matrix, bias=answer.x[-num_classes:])


def _ridge_pool(problem: EnsembleProblem, ridge: float) -> StackingPool:
    """Solves min sum_j v_j (p_j a + b - y_j)^2 + ridge * scale * |a - 1/S|^2 for every output."""
    num_members, _, num_outputs = problem.predictions.shape
    matrix, bias = np.zeros((num_members, num_outputs)), np.zeros(num_outputs)
    for column in range(num_outputs):
        features = problem.predictions[:, :, column].T.astype(np.float64)
        target = problem.target[:, column]
        center, middle = problem.answer_weight @ features, problem.answer_weight @ target
        centered = features - center
        # In terms of the change from the average the ridge has a closed solution, and a large ridge leaves the average.
        rest = target - middle - centered.mean(axis=1)  # what the plain average leaves over
        gram = centered.T @ (centered * problem.answer_weight[:, None])
        # In the unit of the predictions, so that the same ridge means the same for prices in cents and in millions.
        scale = max(float(np.trace(gram)) / num_members, 1e-300)
        change = np.linalg.solve(
            gram + ridge * scale * np.eye(num_members), centered.T @ (rest * problem.answer_weight)
        )
        matrix[:, column] = 1.0 / num_members + change
        bias[column] = middle - center @ matrix[:, column]
    return StackingPool(_importance(matrix), class_weights=matrix, bias=bias)


def _importance(matrix: np.ndarray) -> np.ndarray:
    """(M,) one number per member: the mean of its weights, never exactly zero, since zero means unused."""
    # Weights also say who is used at all, so a member whose coefficients cancel must not get exactly zero.
    mean = matrix.mean(axis=1)
    return np.where(mean == 0, 1e-12, mean)


def smoothed_weights(problem: EnsembleProblem, metric: Metric, *, iterations: int = 100) -> np.ndarray:
    """Simplex weights under a smoothed absolute or pinball loss: the kink is rounded within a twentieth of the errors.

    (3) l(d) = tau d + h log(1 + exp(-d / h)),  d = y - p;   absolute loss is twice the pinball loss at 1/2
    """
    num_members, _, num_outputs = problem.predictions.shape
    levels = np.asarray(metric.quantiles or (0.5,) * num_outputs)
    flat = problem.predictions.astype(np.float64).reshape(num_members, -1)
    # A twentieth of the typical error: wide enough for gradients, narrow enough that the minimum hardly moves.
    width = 0.05 * max(float(np.median(np.abs(flat.mean(axis=0) - problem.target.ravel()))), 1e-12)
    weight = problem.entry_weight.reshape(-1, num_outputs)

    # Free numbers through a softmax keep the weights on the simplex, so no solver with constraints is needed.
    def loss(free: np.ndarray) -> tuple[float, np.ndarray]:
        weights = softmax(free)
        short = problem.target - (weights @ flat).reshape(problem.target.shape)
        value = float((weight * (levels * short + width * np.logaddexp(0.0, -short / width))).sum())  # (3)
        slope = -weight * (levels - expit(-short / width))
        by_weight = flat @ slope.ravel()
        return value / width, weights * (by_weight - weights @ by_weight) / width

    answer = minimize(loss, np.zeros(num_members), jac=True, method="L-BFGS-B", options={"maxiter": iterations})
    weights = softmax(answer.x)
    # A softmax never reaches zero; below this a member costs more than it brings.
    weights[weights < 1e-4] = 0.0
    return weights / weights.sum()
