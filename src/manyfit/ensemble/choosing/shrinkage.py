"""Weights pulled towards equal ones, for models that are not those whose luck the rows have seen.

A weight is learned from what a member did well on some rows. Part of that is the configuration's, and stays when
another model of it is trained; the rest is luck of that model with these rows, and does not. Equal weights know of no
luck, and where members are nearly as good as each other they are hard to beat (Smith and Wallis 2009, "A simple
explanation of the forecast combination puzzle"). So weights are learned as if `kappa` further rows had been seen that
speak for equal ones.

Notation: P (N, M) probability of the truth, R (N, M) residuals, v (N,) row weights summing to one, w (M,) weights,
u = 1 / M, k = kappa / n pseudo-rows per row, s2 the mean squared residual under equal weights.

  (1) w_i <- (w_i G_i + k u) / (1 + k), G_i = sum_j v_j P_ji / (P w)_j     log loss: EM for the posterior mode under a
      Dirichlet prior with parameters 1 + kappa u
  (2) min w' R' diag(v) R w + k s2 |w - u|^2                               squared error, w on the simplex
  (3) (w + k u) / (1 + k)                                                  other losses, from the best weights w
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from manyfit.ensemble.metrics import Metric, log_losses, squared_errors, surrogate
from manyfit.ensemble.problem import EnsembleProblem
from manyfit.ensemble.weights.exact import squared_error_weights

PATH = {
    "equal weights": np.inf,
    "weights, 10 pseudo-rows a row": 10.0,
    "weights, 3 pseudo-rows a row": 3.0,
    "weights, 1 pseudo-row a row": 1.0,
    "weights, 0.3 pseudo-rows a row": 0.3,
    "weights, 0.1 pseudo-rows a row": 0.1,
    "weights": 0.0,
}
"""Names of the methods, from equal weights to those that the rows alone say, and kappa / n of each."""

_MAX_STEPS = 2000  # of EM; with pseudo-rows a few dozen do
_SETTLED = 1e-8


def shrunk_weights(
    problem: EnsembleProblem, metric: Metric, strength: float, free: Callable[[], np.ndarray]
) -> np.ndarray:
    """(M,) weights on the simplex, pulled towards equal ones.

    Args:
        problem: rows and members.
        metric: its surrogate is what the weights minimise.
        strength: pseudo-rows per row, that is kappa / n; inf gives equal weights.
        free: the weights that the rows alone say, asked for where there is no formula for others.

    Example:

    >>> from manyfit.ensemble.metrics import default_metric
    >>> from manyfit.ensemble.problem import PredictionTask, make_problem
    >>> problem = make_problem(np.array([[[0.9], [0.9]], [[0.6], [0.6]]]), [1, 1])  # the first is better on both rows
    >>> log_loss = default_metric(PredictionTask.BINARY)
    >>> pull = lambda strength: shrunk_weights(problem, log_loss, strength, lambda: np.array([1.0, 0.0]))
    >>> [pull(strength).round(2).tolist() for strength in (0.0, 1.0, np.inf)]
    [[1.0, 0.0], [0.59, 0.41], [0.5, 0.5]]
    """
    equal = np.full(problem.num_members, 1.0 / problem.num_members)
    near = surrogate(metric, problem.task)
    if not np.isfinite(strength):
        return equal
    if strength == 0.0:
        return free()
    if near.row_losses is log_losses:
        return _with_pseudo_rows(problem.true_probability, problem.entry_weight, strength)
    if near.row_losses is squared_errors:
        return _ridged(problem.residual, problem.residual_weight, strength)
    return mixed(free(), strength)


def mixed(weights: np.ndarray, strength: float) -> np.ndarray:
    """Equation (3)."""
    equal = np.full(len(weights), 1.0 / len(weights))
    return equal if np.isinf(strength) else (weights + strength * equal) / (1.0 + strength)


def _with_pseudo_rows(probability: np.ndarray, weight: np.ndarray, strength: float) -> np.ndarray:
    equal = np.full(probability.shape[1], 1.0 / probability.shape[1])
    current = equal
    for _ in range(_MAX_STEPS):
        attraction = (weight / (probability @ current)) @ probability
        new = (current * attraction + strength * equal) / (1.0 + strength)  # (1)
        settled = np.abs(new - current).max() < _SETTLED
        current = new
        if settled:
            break
    return current / current.sum()


def _ridged(residual: np.ndarray, weight: np.ndarray, strength: float) -> np.ndarray:
    count = residual.shape[1]
    spread = float(weight @ residual.mean(axis=1) ** 2)
    # On the simplex w - u is (I - u 1') w: the pull is as many further rows of residuals as there are members.
    pull = np.sqrt(strength * spread) * (np.eye(count) - 1.0 / count)
    # The solver makes weights of rows sum to one, so those of the pull are ones on the same scale.
    return squared_error_weights(
        np.concatenate([residual * np.sqrt(weight)[:, None], pull]), np.ones(len(weight) + count)
    ).weights


def reliability(problem: EnsembleProblem, metric: Metric) -> float:
    """How much of the differences between members is theirs, and not the luck of models and rows: in [0, 1].

    The variance between members' mean losses, less what the rows' disagreement about them explains, over all of it.
    """
    near = surrogate(metric, problem.task)
    count = problem.num_members
    if near.row_losses is None or count < 2:
        return 0.0
    losses = np.stack([near.row_losses(one, problem) for one in problem.predictions])
    means = losses @ problem.row_weight
    apart = losses - means[:, None] - (losses.mean(axis=0) - means.mean())
    noise = float(((apart**2) @ problem.row_weight**2).sum()) / (count - 1)
    between = float(means.var(ddof=1))
    return max(0.0, 1.0 - noise / between) if between > 0 else 0.0
