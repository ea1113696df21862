"""One temperature after pooling.

Averaging sharp predictions makes them too modest, averaging overconfident ones leaves them too bold; either way one
number repairs most of it, and it must be fitted after the pooling (Rahaman and Thiery, arXiv 2007.08792).

  (1) L(beta) = -sum_j v_j log softmax(beta log q_j)[truth]     convex in beta, the inverse temperature
  (2) L(beta) + (beta - 1)^2 / (2 s^2 n)     with a normal prior around no change: two hundred rows of a good classifier
      hold ten mistakes, and a temperature fitted to ten mistakes makes most predictions worse
"""

from __future__ import annotations

import dataclasses

import numpy as np

from manyfit.ensemble.pools import Pool, TemperedPool, log_clipped, sharpened
from manyfit.ensemble.problem import EPSILON, EnsembleProblem, two_columns

# A pool that wants more is wrong in a way that no temperature repairs; without limits a separable one wants infinity.
_LIMITS = (0.1, 10.0)
_PRIOR_DEVIATION = 0.15  # s of equation (2): most pools want between 0.75 and 1.3


def fit_inverse_temperature(log_pool: np.ndarray, truth: np.ndarray, weight: np.ndarray, *, pull: float = 0.0) -> float:
    """The inverse temperature with the smallest log loss, by Newton's method kept inside a shrinking bracket.

    Args:
        log_pool: (N, C) log-probabilities of distributions.
        truth: (N,) class indices.
        weight: (N,) row weights, summing to one.
        pull: 1 / (s^2 n) of equation (2); 0 for none.

    Returns:
        beta in [0.1, 10]; below one softens, above one sharpens.

    Example:

    >>> sure = np.log(np.array([[0.99, 0.01], [0.99, 0.01], [0.99, 0.01], [0.99, 0.01]]))
    >>> beta = fit_inverse_temperature(sure, np.array([0, 0, 0, 1]), np.full(4, 0.25))  # right three times in four
    >>> round(float(1 / (1 + np.exp(-beta * (sure[0, 0] - sure[0, 1])))), 6)
    0.75
    """
    aim = float(weight @ log_pool[np.arange(len(truth)), truth])
    logs = np.ascontiguousarray(log_pool.T)  # sums over a short last axis are slow
    low, high = _LIMITS
    beta = 1.0
    for _ in range(60):
        share = np.exp(beta * logs)  # the largest of C probabilities is at least 1 / C: no underflow to guard against
        weighted = share * logs
        total = share.sum(axis=0)
        mean = weighted.sum(axis=0) / total
        slope = float(weight @ mean) - aim + pull * (beta - 1.0)  # L'(beta)
        # At a limit, with the slope pointing outwards: this is the minimum within the limits.
        if (beta == _LIMITS[1] and slope < 0) or (beta == _LIMITS[0] and slope > 0):
            break
        curvature = float(weight @ ((weighted * logs).sum(axis=0) / total - mean**2)) + pull
        # The bracket makes Newton safe: where the curvature vanishes its step flies off, and a bisection takes over.
        low, high = (beta, high) if slope < 0 else (low, beta)
        step = beta - slope / curvature if curvature > 0 else np.inf
        if abs(step - beta) < 1e-7 or high - low < 1e-9:  # the next step would be below rounding
            break
        inside = min(max(step, low), high)  # a limit that was not tried yet, or a bisection
        beta = inside if low < inside < high or inside in _LIMITS else (low + high) / 2
    return float(beta)


def with_temperature(pool: Pool, problem: EnsembleProblem) -> Pool:
    """The same pool with the temperature that suits the rows of `problem` best; ranks and values stay as they are."""
    if not problem.task.probabilistic or not isinstance(pool, TemperedPool):
        return pool
    # From the pool without one: temperatures do not add up, the last counts.
    pooled = dataclasses.replace(pool, inverse_temperature=1.0)(problem.predictions, problem.task)
    return dataclasses.replace(pool, inverse_temperature=_inverse_temperature(pooled, problem))


def _inverse_temperature(prediction: np.ndarray, problem: EnsembleProblem) -> float:
    if problem.task.two_class:
        logs = log_clipped(two_columns(prediction[None])[0])
        truth = (problem.target.reshape(-1) > 0.5).astype(int)
    else:
        logs, truth = log_clipped(prediction), problem.target
    weight = problem.row_weight
    pull = float((weight**2).sum()) / _PRIOR_DEVIATION**2  # one over the effective number of rows
    return fit_inverse_temperature(logs, truth, problem.entry_weight, pull=pull)


def calibrated_members(problem: EnsembleProblem) -> tuple[EnsembleProblem, np.ndarray]:
    """Every member with a temperature of its own, as Caruana, Munson and Niculescu-Mizil 2006 advise before selection.

    Returns:
        The problem with calibrated predictions, and the (M,) inverse temperatures.
    """
    # On the same rows as everything else: cross-fitting charges for it, as for every other fit.
    betas = np.array([_inverse_temperature(p.astype(np.float64), problem) for p in problem.predictions])
    shaped = sharpened(problem.predictions.astype(np.float64), betas, problem.task)
    return dataclasses.replace(problem, predictions=np.clip(shaped, EPSILON, 1.0)), betas
