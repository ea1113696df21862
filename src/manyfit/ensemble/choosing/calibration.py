"""One temperature after pooling.

Averaging sharp predictions makes them too modest, averaging overconfident ones leaves them too bold; either way one
number repairs most of it, and it must be fitted after the pooling (Rahaman and Thiery, arXiv 2007.08792).

  (1) L(beta) = -sum_j v_j log softmax(beta log q_j)[truth]     convex in beta, the inverse temperature
  (2) se^2 = 1 / (n I), I = sum_j v_j Var_q(log q)         what the rows know of beta at its best
  (3) beta - 1 times 1 / (1 + se^2 / s^2)                  the posterior mean under a normal prior around no change

Two hundred rows of a good classifier hold ten mistakes, and a temperature fitted to ten mistakes makes most predictions
worse. So there is none where fewer than thirty rows are mistaken, or where beta is within two standard errors of one.

A calibration belongs to the models that it was fitted on: it dies with their retraining. A bag, whose models are
averaged, is softer than a single one of them, which is what out-of-fold predictions of one repeat show. Those of r
repeats are the means of r models; what they say is carried on to the M models of a bag along 1 / M, which is how much
of the single models' own noise is left in a mean.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from manyfit.ensemble.pools import Pool, TemperedPool, log_clipped, sharpened
from manyfit.ensemble.problem import EPSILON, EnsembleProblem, two_columns

# A pool that wants more is wrong in a way that no temperature repairs; without limits a separable one wants infinity.
_LIMITS = (0.1, 10.0)
_PRIOR_DEVIATION = 0.15  # s of equation (3): most pools want between 0.75 and 1.3
_FEWEST_MISTAKES = 30  # of fewer no temperature is learned


def fit_inverse_temperature(log_pool: np.ndarray, truth: np.ndarray, weight: np.ndarray) -> float:
    """The inverse temperature with the smallest log loss, by Newton's method kept inside a shrinking bracket.

    Args:
        log_pool: (N, C) log-probabilities of distributions.
        truth: (N,) class indices.
        weight: (N,) row weights, summing to one.

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
        slope = float(weight @ mean) - aim  # L'(beta)
        # At a limit, with the slope pointing outwards: this is the minimum within the limits.
        if (beta == _LIMITS[1] and slope < 0) or (beta == _LIMITS[0] and slope > 0):
            break
        curvature = float(weight @ ((weighted * logs).sum(axis=0) / total - mean**2))
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
    """What the rows know of one prediction's temperature; 1 where that is nothing."""
    if problem.task.two_class:
        logs = log_clipped(two_columns(prediction[None])[0])
        truth = (problem.target.reshape(-1) > 0.5).astype(int)
    else:
        logs, truth = log_clipped(prediction), problem.target
    size = 1.0 / float((problem.row_weight**2).sum())  # effective number of rows
    wrong = float(problem.entry_weight @ (logs.argmax(axis=1) != truth)) * size
    if wrong < _FEWEST_MISTAKES:
        return 1.0
    beta = fit_inverse_temperature(logs, truth, problem.entry_weight)
    share = np.exp(beta * logs)
    share /= share.sum(axis=1, keepdims=True)
    mean = (share * logs).sum(axis=1, keepdims=True)
    information = float(problem.entry_weight @ (share * (logs - mean) ** 2).sum(axis=1))
    error = 1.0 / np.sqrt(size * information) if information > 0 else np.inf  # (2)
    if abs(beta - 1.0) < 2.0 * error:
        return 1.0
    return float(1.0 + (beta - 1.0) / (1.0 + (error / _PRIOR_DEVIATION) ** 2))  # (3)


def of_a_bag(single: float, of_repeats: float, repeats: int, num_models: int) -> float:
    """The inverse temperature of a mean of many models, from those of one model and of a mean of a few.

    Args:
        single: of the predictions of one model per row.
        of_repeats: of the means over as many models per row as there are repeats.
        repeats: how many, two or more.
        num_models: that the bag averages.

    Example:

    >>> round(of_a_bag(1.0, 1.1, 2, 10), 3)  # half of the way from one model to infinitely many is behind it
    1.18
    """
    return single + (of_repeats - single) * (1.0 - 1.0 / num_models) / (1.0 - 1.0 / repeats)


def calibrated_members(problem: EnsembleProblem) -> tuple[EnsembleProblem, np.ndarray]:
    """Every member with a temperature of its own, as Caruana, Munson and Niculescu-Mizil 2006 advise before selection.

    Returns:
        The problem with calibrated predictions, and the (M,) inverse temperatures.
    """
    # On the same rows as everything else: cross-fitting charges for it, as for every other fit.
    betas = np.array([_inverse_temperature(p.astype(np.float64), problem) for p in problem.predictions])
    shaped = sharpened(problem.predictions.astype(np.float64), betas, problem.task)
    return dataclasses.replace(problem, predictions=np.clip(shaped, EPSILON, 1.0)), betas
