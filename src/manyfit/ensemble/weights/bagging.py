"""Convex weights for few rows: stopped early, and averaged over bootstraps of the rows.

The best simplex weights on two hundred rows are the best for these rows: a few members that were lucky there get them
all. The plain average is hard to beat then, and two remedies that work together stay near it as far as the rows leave
it open. The update starts at equal weights and *stops early*, when the rows have said what they can; and it runs on
many *Bayesian bootstraps* (Rubin 1981), whose mean weight is what the rows leave open. For many rows both fade, and the
exact weights remain.

Notation: P (N, M) probability of the truth, R (N, M) residuals, V (B, N) row weights of B bootstraps, W (B, M) weights,
A (B, M, M) with A_b = R' diag(V_b) R, n rows.

  (1) W <- W * ((V / (W P')) P)                     multiplicative update for log loss, equation (3) of `weights`
  (2) W <- W * exp(1 - A W / (W'A W)), normalised   exponentiated gradient for squared error (Kivinen and Warmuth 1997)
  (3) V_b ~ n v * e / sum(n v * e),  e_j ~ Exp(1)   v the given row weights
"""

from __future__ import annotations

import numpy as np

from manyfit.ensemble.weights.exact import squared_error_weights

_STEPS_PER_ROOT = 5.0  # times the square root of n: 70 steps for 200 rows, 350 for 5,000
_MANY_ROWS = 1_000  # from here on a few bootstraps do


def bayesian_bootstraps(row_weight: np.ndarray, rng: np.random.Generator, num_bags: int | None = None) -> np.ndarray:
    """(B, n) row weights, each summing to one, equation (3).

    Args:
        row_weight: (n,) summing to one.
        rng: a generator.
        num_bags: B; None takes 24, or 8 for many rows.

    Example:

    >>> bayesian_bootstraps(np.full(5, 0.2), np.random.default_rng(0), 3).sum(axis=1).round(12).tolist()
    [1.0, 1.0, 1.0]
    """
    # Rows weigh little each when they are many, so bootstraps differ less and fewer of them do.
    num_bags = num_bags or (24 if len(row_weight) < _MANY_ROWS else 8)
    drawn = row_weight * rng.standard_exponential((num_bags, len(row_weight)))
    return drawn / drawn.sum(axis=1, keepdims=True)


def num_steps(row_weight: np.ndarray) -> int:
    """Steps after which the update stops, for the effective number of rows.

    Example:

    >>> num_steps(np.full(400, 1 / 400))
    100
    """
    return round(_STEPS_PER_ROOT / float(np.sqrt((row_weight**2).sum())))


def bagged_log_loss_weights(true_probability: np.ndarray, bags: np.ndarray, *, steps: int) -> np.ndarray:
    """(M,) mean weights of the linear pool under log loss, by equation (1).

    Args:
        true_probability: (N, M), positive.
        bags: (B, N) row weights, each summing to one.
        steps: from equal weights.

    Example:

    >>> true = np.array([[0.9, 0.2, 0.1], [0.2, 0.9, 0.1]])
    >>> bagged_log_loss_weights(true, np.full((1, 2), 0.5), steps=50).round(2).tolist()
    [0.5, 0.5, 0.0]
    """
    weights = np.full((len(bags), true_probability.shape[1]), 1.0 / true_probability.shape[1])
    # All bootstraps move together, so a step is two products of matrices; the transposed copy keeps both contiguous.
    transposed = np.ascontiguousarray(true_probability.T)
    for _ in range(steps):
        weights *= (bags / (weights @ transposed)) @ transposed.T  # (1); the sum stays one
    return weights.mean(axis=0)


def bagged_squared_error_weights(residual: np.ndarray, bags: np.ndarray, *, steps: int) -> np.ndarray:
    """(M,) mean weights of the linear pool under squared error, by equation (2).

    Args:
        residual: (N, M) prediction minus truth.
        bags: (B, N) row weights, each summing to one.
        steps: from equal weights; beside many rows the exact weights of every bootstrap are quicker and better.

    Example:

    >>> apart = np.array([[1.0, -1.0, 9.0], [-1.0, 1.0, 9.0]])
    >>> bagged_squared_error_weights(apart, np.full((1, 2), 0.5), steps=50).round(2).tolist()
    [0.5, 0.5, 0.0]
    """
    # Stopping early is a guard against few rows. With many, the exact weights of a bootstrap are the answer, and
    # the Gram matrix needs fewer passes over the rows than the steps do.
    if len(residual) >= _MANY_ROWS:
        return np.mean([squared_error_weights(residual, bag, tolerance=1e-6).weights for bag in bags], axis=0)
    gram = np.stack([(residual * bag[:, None]).T @ residual for bag in bags])
    weights = np.full((len(bags), residual.shape[1]), 1.0 / residual.shape[1])
    for _ in range(steps):
        slope = np.matmul(gram, weights[:, :, None])[:, :, 0]
        # The step is relative to the loss, so that the same number of steps does for targets in any unit.
        loss = np.maximum((weights * slope).sum(axis=1, keepdims=True), 1e-300)
        exponent = 1.0 - slope / loss
        # Subtracting the largest exponent changes nothing after the normalisation and keeps it from overflowing.
        weights *= np.exp(exponent - exponent.max(axis=1, keepdims=True))  # (2)
        weights /= weights.sum(axis=1, keepdims=True)
    return weights.mean(axis=0)
