"""Rivals of `Ensemble.fit`, written from their descriptions: each takes validation rows and returns weights.

All of them weigh members linearly, so log loss needs the probabilities of the truth only, and squared error the
residuals: (M, n) numbers, whatever the number of classes.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy.optimize import minimize

Weights = np.ndarray
Loss = Callable[[np.ndarray], np.ndarray]  # entries (..., n) -> losses (...)


def entries_of(predictions: np.ndarray, y: np.ndarray, regression: bool) -> np.ndarray:
    """(M, n) probabilities of the truth, or residuals, of predictions (M, n, C)."""
    if regression:
        return predictions[..., 0].astype(float) - y
    return np.maximum(predictions[:, np.arange(len(y)), y].astype(float), 1e-7)


def log_loss(entries: np.ndarray) -> np.ndarray:
    """Mean log loss over the last axis."""
    return -np.log(entries).mean(axis=-1)


def squared_error(entries: np.ndarray) -> np.ndarray:
    """Mean squared error over the last axis."""
    return (entries**2).mean(axis=-1)


def single_best(entries: np.ndarray, loss: Loss) -> Weights:
    """The member with the smallest loss."""
    return np.eye(len(entries))[int(np.argmin(loss(entries)))]


def uniform_top_5(entries: np.ndarray, loss: Loss) -> Weights:
    """The plain average of the five best."""
    weights = np.zeros(len(entries))
    weights[np.argsort(loss(entries), kind="stable")[:5]] = 1.0
    return weights / weights.sum()


def greedy_25(entries: np.ndarray, loss: Loss) -> Weights:
    """Greedy selection as AutoGluon describes it: 25 steps with replacement, the best prefix, losses rounded to six
    decimals after the first step, ties to members that are in already."""
    num_members = len(entries)
    total, counts = np.zeros(entries.shape[1]), np.zeros(num_members)
    best, chosen = np.inf, counts.copy()
    for step in range(25):
        losses = np.array([loss((total + member) / (step + 1)) for member in entries])
        losses = losses.round(6) if step else losses
        tied = np.flatnonzero(losses == losses.min())
        known = tied[counts[tied] > 0]
        pick = int((known if len(known) else tied)[0])
        total += entries[pick]
        counts[pick] += 1
        if losses[pick] < best:
            best, chosen = losses[pick], counts.copy()
    return chosen / chosen.sum()


def _softmax(logits: np.ndarray) -> np.ndarray:
    shifted = np.exp(logits - logits.max())
    return shifted / shifted.sum()


def _linear_loss(entries: np.ndarray, loss: Loss) -> Callable[[np.ndarray], float]:
    return lambda weights: float(loss(weights @ entries))


def nelder_mead(entries: np.ndarray, loss: Loss) -> Weights:
    """Nelder-Mead on the logits of the weights of the ten best members, from equal weights, 1,000 evaluations."""
    chosen = np.argsort(loss(entries), kind="stable")[:10]
    value = _linear_loss(entries[chosen], loss)
    options = {"maxfev": 1_000, "xatol": 1e-4, "fatol": 1e-8}
    found = minimize(lambda free: value(_softmax(free)), np.zeros(len(chosen)), method="Nelder-Mead", options=options)
    weights = np.zeros(len(entries))
    weights[chosen] = _softmax(found.x)
    return weights


def cma_es(entries: np.ndarray, loss: Loss) -> Weights:
    """CMA-ES on weights that are normalised by a softmax and trimmed below 0.01 (arXiv 2307.00286): from equal weights,
    sigma 0.2, population 4 + 3 ln M, 1,000 evaluations."""
    import cma

    value = _linear_loss(entries, loss)
    if len(entries) == 1:
        return np.ones(1)
    options = {"seed": 1, "verbose": -9, "maxfevals": 1_000}
    best = cma.fmin2(lambda free: value(_softmax(np.asarray(free))), np.zeros(len(entries)), 0.2, options)[0]
    weights = _softmax(np.asarray(best))
    weights[weights < 0.01] = 0.0
    return weights / weights.sum() if weights.sum() else _softmax(np.asarray(best))


RIVALS: dict[str, Callable[[np.ndarray, Loss], Weights]] = {
    "single best": single_best,
    "uniform top 5": uniform_top_5,
    "greedy 25, as AutoGluon's": greedy_25,
    "Nelder-Mead": nelder_mead,
    "CMA-ES": cma_es,
}
