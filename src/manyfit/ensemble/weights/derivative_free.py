"""Searches that need nothing but values of the metric: Nelder-Mead, random search, and the polishing of weights.

Nelder-Mead and random search are what people know. For log loss and squared error the exact solvers of `weights`
never lose to them on the rows they are fitted on; they are kept because they take any metric, and to be compared with.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy.optimize import minimize

from manyfit.ensemble.metrics import Metric, log_losses, squared_errors
from manyfit.ensemble.pools import softmax
from manyfit.ensemble.problem import EnsembleProblem


def linear_losses(problem: EnsembleProblem, metric: Metric) -> Callable[[np.ndarray], np.ndarray]:
    """A function from (K, M) weights to the (K,) losses of the linear pools with these weights."""
    if metric.row_losses is log_losses:
        return lambda weights: -(problem.entry_weight @ np.log(problem.true_probability @ weights.T))
    if metric.row_losses is squared_errors:
        return lambda weights: problem.residual_weight @ (problem.residual @ weights.T) ** 2
    # Any other metric is asked one pool at a time: it may need all rows at once, and may be the user's own.
    predictions = problem.predictions.astype(np.float64)

    def losses(weights: np.ndarray) -> np.ndarray:
        return np.array([metric.loss(np.tensordot(one, predictions, axes=1), problem) for one in weights])

    return losses


def nelder_mead_weights(problem: EnsembleProblem, metric: Metric, *, evaluations: int = 300) -> np.ndarray:
    """Simplex weights by Nelder and Mead (1965) on the logits of the weights, from equal weights."""
    losses = linear_losses(problem, metric)
    if problem.num_members == 1:
        return np.ones(1)
    # On logits, since Nelder and Mead know no bounds: every point of the simplex has one, but for its edges.
    start = np.zeros(problem.num_members)
    simplex = np.vstack([start, start + 2.0 * np.eye(problem.num_members)])
    options = {"maxfev": evaluations, "initial_simplex": simplex, "xatol": 1e-4, "fatol": 1e-9}
    answer = minimize(lambda free: float(losses(softmax(free)[None])[0]), start, method="Nelder-Mead", options=options)
    return softmax(answer.x)


def random_weights(
    problem: EnsembleProblem, metric: Metric, rng: np.random.Generator, *, draws: int = 400
) -> np.ndarray:
    """The best of random simplex weights: half uniform on the simplex, half near its corners and edges."""
    # Uniform draws among many members are all near the middle of the simplex; good ensembles are near its edges.
    half = draws // 2
    ones = np.ones(problem.num_members)
    trials = np.vstack([ones[None] / len(ones), rng.dirichlet(ones, half), rng.dirichlet(0.3 * ones, half)])
    return trials[int(np.argmin(linear_losses(problem, metric)(trials)))]


def polished(problem: EnsembleProblem, metric: Metric, start: np.ndarray, *, evaluations: int = 300) -> np.ndarray:
    """Moves weight between pairs of members while the metric improves, in steps that halve from 0.2 to 0.025."""
    losses = linear_losses(problem, metric)
    weights, best, spent = start, float(losses(start[None])[0]), 1
    # Moves of weight between pairs stay on the simplex, and can reach every point of it. A metric such as accuracy is
    # flat between jumps, so steps are large first, and there is no use in ever smaller ones.
    for step in (0.2, 0.1, 0.05, 0.025):
        improved = True
        while improved and spent < evaluations:
            givers = np.flatnonzero(weights > 0)
            moves = [(giver, taker) for giver in givers for taker in range(len(weights)) if giver != taker]
            trials = np.repeat(weights[None], len(moves), axis=0)
            for trial, (giver, taker) in zip(trials, moves, strict=True):
                amount = min(step, weights[giver])
                trial[giver] -= amount
                trial[taker] += amount
            trials = trials[: max(evaluations - spent, 0)]
            spent += len(trials)
            if not len(trials):
                return weights
            values = losses(trials)
            improved = bool(values.min() < best - 1e-12)
            if improved:
                weights, best = trials[int(values.argmin())], float(values.min())
    return weights
