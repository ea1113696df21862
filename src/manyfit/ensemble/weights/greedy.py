"""Greedy ensemble selection with replacement (Caruana, Niculescu-Mizil, Crew, Ksikes 2004).

Start with the best few members, then add, again and again, the member whose addition helps most; members may come
back. The paper's three guards against overfitting are all here: sorted start, bagging, replacement.

Notation: P (N, M) probability of the truth, t members chosen so far, u their mean (N,), a = 1 / (t + 1).

The literal procedure computes the metric of every candidate at every step. For log loss most candidates can be ruled
out without that, and the result stays the same to the last member:
  (1) f((1 - a) u + a p_i) >= f(u) - a (G_i - 1),  G_i = sum_j v_j P_ji / u_j       convexity; one product bounds all
For squared error all candidates follow from one product:
  (2) ||s + r_i||^2 = ||s||^2 + 2 s'r_i + ||r_i||^2                                  s the sum of residuals so far
"""

from __future__ import annotations

from typing import Protocol

import numpy as np

from manyfit.ensemble.metrics import Metric, log_losses, squared_errors
from manyfit.ensemble.problem import EnsembleProblem

# Losses that differ by less are equal: twins differ by rounding, which must not decide who is picked.
_TIE = 1e-12
# Few candidates at a time, so that the bound can spare the rest, but enough for one product of matrices.
_CHUNK = 8  # candidates whose losses are computed together: few, so that the bound can spare the rest
# Below this many numbers, sorting the bounds takes longer than computing all losses.
_SMALL = 8192  # numbers that are sooner gone through than ruled out
_MANY_ROWS = 1_000  # from here on a few bags do
_BLOCK = 16  # candidates whose predictions are pooled together, for metrics without a bound


class _Candidates(Protocol):
    def add(self, member: int) -> None:
        """Adds a member to the ensemble."""

    def best_addition(self, chosen: np.ndarray) -> tuple[int, float]:
        """The member whose addition gives the smallest loss, and that loss; ties go to members that are in already."""


class _LogLoss:
    """Candidates under log loss, with the bound (1)."""

    def __init__(self, problem: EnsembleProblem) -> None:
        self.probability = problem.true_probability
        self.log_probability = problem.log_true_probability
        self.weight = problem.entry_weight
        self.total = np.zeros(len(self.probability))
        self.count = 0

    def add(self, member: int) -> None:
        self.total += self.probability[:, member]
        self.count += 1

    def _losses(self, members: np.ndarray) -> np.ndarray:
        summed = self.probability.T[members] + self.total
        return np.log(self.count + 1) - np.log(summed, out=summed) @ self.weight

    def best_addition(self, chosen: np.ndarray) -> tuple[int, float]:
        num_members = self.probability.shape[1]
        if self.count == 0:
            return _first_minimum(-(self.weight @ self.log_probability), chosen)
        if self.probability.size <= _SMALL:
            return _first_minimum(self._losses(np.arange(num_members)), chosen)
        mean = self.total / self.count
        attraction = (self.weight / mean) @ self.probability
        bound = -float(self.weight @ np.log(mean)) - (attraction - 1.0) / (self.count + 1)  # (1)
        order = np.argsort(bound, kind="stable")
        losses = np.full(num_members, np.inf)
        for start in range(0, num_members, _CHUNK):
            members = order[start : start + _CHUNK]
            if bound[members[0]] > losses.min() + _TIE:
                break  # nor can those behind, whose bounds are larger still
            losses[members] = self._losses(members)
        return _first_minimum(losses, chosen)


class _SquaredError:
    """Candidates under squared error, by equation (2)."""

    def __init__(self, problem: EnsembleProblem) -> None:
        self.residual = problem.residual
        self.weight = problem.residual_weight
        self.own = self.weight @ self.residual**2
        self.total = np.zeros(len(self.residual))
        self.count = 0

    def add(self, member: int) -> None:
        self.total += self.residual[:, member]
        self.count += 1

    def best_addition(self, chosen: np.ndarray) -> tuple[int, float]:
        weighted = self.weight * self.total
        losses = (weighted @ self.total + 2.0 * (weighted @ self.residual) + self.own) / (self.count + 1) ** 2
        return _first_minimum(losses, chosen)


class _AnyMetric:
    """Candidates under any other metric, a chunk at a time where the metric is row-wise."""

    def __init__(self, problem: EnsembleProblem, metric: Metric) -> None:
        self.problem = problem
        self.metric = metric
        self.total = np.zeros(problem.predictions.shape[1:])
        self.count = 0

    def add(self, member: int) -> None:
        self.total += self.problem.predictions[member]
        self.count += 1

    def best_addition(self, chosen: np.ndarray) -> tuple[int, float]:
        losses = []
        for start in range(0, self.problem.num_members, _BLOCK):
            pooled = (self.total + self.problem.predictions[start : start + _BLOCK]) / (self.count + 1)
            losses.append(self.metric.losses(pooled, self.problem))
        # No bound holds for any metric, so every candidate is computed.
        # Twins differ by rounding only: a rounded loss keeps them from being picked for that.
        return _first_minimum(np.concatenate(losses).round(9), chosen)


def _first_minimum(losses: np.ndarray, chosen: np.ndarray) -> tuple[int, float]:
    best = float(losses.min())
    tied = losses <= best + _TIE
    # A tie goes to who is in already: a new member costs memory and time at prediction and brings nothing.
    familiar = tied & (chosen > 0)
    return int(np.flatnonzero(familiar if familiar.any() else tied)[0]), best


def _candidates(problem: EnsembleProblem, metric: Metric) -> _Candidates:
    if metric.row_losses is log_losses:
        return _LogLoss(problem)
    if metric.row_losses is squared_errors:
        return _SquaredError(problem)
    return _AnyMetric(problem, metric)


def greedy_path(
    problem: EnsembleProblem, metric: Metric, *, num_steps: int = 25, num_start: int = 1
) -> list[tuple[int, float]]:
    """The members in the order they were added, each with the loss of the ensemble after it.

    Args:
        problem: rows to select on.
        metric: what to minimise.
        num_steps: members to add, repetitions counted.
        num_start: the best members that the ensemble starts with, in order; selection goes on from the best of these
            prefixes (the paper's sorted initialisation).

    Example:

    >>> from manyfit.ensemble.metrics import default_metric
    >>> from manyfit.ensemble.problem import PredictionTask, make_problem
    >>> p = np.array([[[0.9], [0.45]], [[0.6], [0.7]]])
    >>> problem = make_problem(p, [1, 1])
    >>> [member for member, loss in greedy_path(problem, default_metric(PredictionTask.BINARY), num_steps=3)]
    [1, 0, 1]
    """
    start = _sorted_start(problem, metric, min(num_start, problem.num_members, num_steps))
    candidates = _candidates(problem, metric)
    chosen = np.zeros(problem.num_members, dtype=np.int64)
    path = list(start)
    for member, _ in path:
        candidates.add(member)
        chosen[member] += 1
    # It goes on when the loss no longer falls: it may fall again later, and the best prefix is taken in the end.
    while len(path) < num_steps:
        member, loss = candidates.best_addition(chosen)
        candidates.add(member)
        chosen[member] += 1
        path.append((member, loss))
    return path


def _sorted_start(problem: EnsembleProblem, metric: Metric, count: int) -> list[tuple[int, float]]:
    if count <= 1:
        return []
    # The best single member first, then the best two, ...; this start alone guards against a lucky first pick.
    order = np.argsort(own_losses(problem, metric), kind="stable")[:count]
    sizes = np.arange(1, len(order) + 1)
    if metric.row_losses is log_losses:
        pooled = np.cumsum(problem.true_probability[:, order], axis=1) / sizes
        losses = -(problem.entry_weight @ np.log(pooled))
    else:
        pooled = np.cumsum(problem.predictions[order], axis=0, dtype=np.float64) / sizes[:, None, None]
        losses = metric.losses(pooled, problem)
    best = int(np.argmin(losses))
    return [(int(member), float(loss)) for member, loss in zip(order[: best + 1], losses, strict=False)]


def own_losses(problem: EnsembleProblem, metric: Metric) -> np.ndarray:
    """(M,) the loss of each member alone."""
    # One product for all members; the general way below goes through (M, n, C) predictions.
    if metric.row_losses is log_losses:
        return -(problem.entry_weight @ problem.log_true_probability)
    return np.concatenate(
        [
            metric.losses(problem.predictions[start : start + _BLOCK], problem)
            for start in range(0, problem.num_members, _BLOCK)
        ]
    )


def greedy_weights(problem: EnsembleProblem, metric: Metric, *, num_steps: int = 25, num_start: int = 5) -> np.ndarray:
    """(M,) weights of greedy selection: counts of the best prefix of the path, over their sum."""
    path = greedy_path(problem, metric, num_steps=num_steps, num_start=num_start)
    best = min(range(len(path)), key=lambda position: path[position][1])
    counts = np.bincount([member for member, _ in path[: best + 1]], minlength=problem.num_members)
    return counts / counts.sum()


def complementary_members(problem: EnsembleProblem, metric: Metric, count: int) -> list[int]:
    """The best member, then each time the one whose addition helps most: greedy selection without replacement.

    Args:
        problem: rows to select on.
        metric: what to minimise, of the mean of those that are in.
        count: members that are wanted; all of them where there are fewer.

    Example:

    >>> from manyfit.ensemble.metrics import default_metric
    >>> from manyfit.ensemble.problem import PredictionTask, make_problem
    >>> p = np.array([[[0.9], [0.4]], [[0.89], [0.4]], [[0.3], [0.8]]])
    >>> complementary_members(make_problem(p, [1, 1]), default_metric(PredictionTask.BINARY), 2)
    [0, 2]
    """
    chosen = [int(np.argmin(own_losses(problem, metric)))]
    total = problem.predictions[chosen[0]].astype(np.float64)
    while len(chosen) < min(count, problem.num_members):
        rest = np.setdiff1d(np.arange(problem.num_members), chosen)
        losses = [
            metric.losses((total + problem.predictions[rest[start : start + _BLOCK]]) / (len(chosen) + 1), problem)
            for start in range(0, len(rest), _BLOCK)
        ]
        chosen.append(int(rest[np.argmin(np.concatenate(losses).round(9))]))  # twins differ by rounding only
        total += problem.predictions[chosen[-1]]
    return chosen


def bagged_greedy_weights(
    problem: EnsembleProblem,
    metric: Metric,
    rng: np.random.Generator,
    *,
    num_steps: int = 25,
    num_bags: int | None = None,
    member_share: float = 0.5,
) -> np.ndarray:
    """(M,) mean weights of greedy selections, each from a random share of the members on a bootstrap of the rows.

    A bootstrap is a vector of row weights here, so no row is copied, unless the metric cannot weigh rows. There are
    eight bags, or four for many rows and for metrics that need all rows at once and are slow.
    """
    num_members = problem.num_members
    size = max(1, min(num_members, int(np.ceil(member_share * num_members))))
    weights = np.zeros(num_members)
    for _ in range(num_bags or (8 if metric.row_losses is not None and problem.num_rows < _MANY_ROWS else 4)):
        # Half of the members each time: without that, the same two or three would be picked on most bootstraps.
        members = np.sort(rng.choice(num_members, size, replace=False))
        counts = rng.multinomial(problem.num_rows, problem.row_weight)
        # Possible where row weights are nearly all zero.
        if not counts.any():
            continue
        bag = problem.members(members)
        if metric.weighs:
            bag = bag.weighted(counts.astype(np.float64))
        else:
            bag = bag.rows(np.repeat(np.arange(problem.num_rows), counts))
        weights[members] += greedy_weights(bag, metric, num_steps=num_steps)
    return weights / weights.sum()
