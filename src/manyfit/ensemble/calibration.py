"""One temperature after pooling.

Averaging sharp predictions makes them too modest, averaging overconfident ones leaves them too bold; either way one
number repairs most of it, and it must be fitted after the pooling (Rahaman and Thiery, arXiv 2007.08792).

  (1) L(beta) = -sum_j v_j log softmax(beta log q_j)[truth]     convex in beta, the inverse temperature
"""

from __future__ import annotations

import dataclasses

import numpy as np
from scipy.special import logsumexp

from manyfit.ensemble.pools import Pool, log_clipped
from manyfit.ensemble.problem import Problem, two_columns

_LIMITS = (0.05, 20.0)


def fit_inverse_temperature(log_pool: np.ndarray, truth: np.ndarray, weight: np.ndarray) -> float:
    """The inverse temperature with the smallest log loss, by Newton's method kept inside a shrinking bracket.

    Args:
        log_pool: (N, C) log-probabilities.
        truth: (N,) class indices.
        weight: (N,) row weights, summing to one.

    Returns:
        beta in [0.05, 20]; below one softens, above one sharpens.

    Example:

    >>> sure = np.log(np.array([[0.99, 0.01], [0.99, 0.01], [0.99, 0.01], [0.99, 0.01]]))
    >>> beta = fit_inverse_temperature(sure, np.array([0, 0, 0, 1]), np.full(4, 0.25))  # right three times in four
    >>> round(float(1 / (1 + np.exp(-beta * (sure[0, 0] - sure[0, 1])))), 6)
    0.75
    """
    aim = float(weight @ log_pool[np.arange(len(truth)), truth])
    low, high = _LIMITS
    beta = 1.0
    for _ in range(60):
        scaled = beta * log_pool
        share = np.exp(scaled - logsumexp(scaled, axis=1, keepdims=True))
        mean = (share * log_pool).sum(axis=1)
        slope = float(weight @ mean) - aim  # L'(beta)
        curvature = float(weight @ ((share * log_pool**2).sum(axis=1) - mean**2))
        low, high = (beta, high) if slope < 0 else (low, beta)
        if abs(slope) < 1e-12 or high - low < 1e-12:
            break
        step = beta - slope / curvature if curvature > 0 else np.inf
        beta = step if low < step < high else (low + high) / 2
    return float(beta)


def with_temperature(pool: Pool, problem: Problem) -> Pool:
    """The same pool with the temperature that suits the rows of `problem` best; ranks and values stay as they are."""
    if not problem.task.probabilistic or pool.kind == "rank":
        return pool
    pooled = dataclasses.replace(pool, inverse_temperature=1.0)(problem.predictions, problem.task)
    if problem.task.two_class:
        logs = log_clipped(two_columns(pooled[None])[0])
        truth = (problem.target.reshape(-1) > 0.5).astype(int)
    else:
        logs, truth = log_clipped(pooled), problem.target
    beta = fit_inverse_temperature(logs, truth, problem.entry_weight)
    return dataclasses.replace(pool, inverse_temperature=beta)
