"""Pools: how the predictions of several members become one.

Most pools are one family, the quasi-arithmetic means: average f(prediction), map back, renormalise over classes.

| kind | f(p) | remarks |
|---|---|---|
| linear | p | never worse than the members' weighted average, by convexity of the losses |
| geometric | log p | softmax of weighted log-probabilities; weights need not sum to one: their sum is a sharpness |
| power | p ** r | safe for r in [0, 1] only (arXiv 2603.04204); r = 1 is linear, r -> 0 geometric |
| exponential | exp(a p) | follows confident members; tends to linear for a -> 0; no guarantee |
| rank | rank among the fitting rows | for metrics that look at order only, such as AUC |
| stacking | b + sum of u_i log p_i | weights per class and a bias, ridge towards the plain average |

Notation: p (M, n, C) predictions, w (M,) weights, q (n, C) the pool, beta one over the temperature.
Binary and multi-label columns are pooled as two-class questions of their own: (1 - p, p).
"""

from __future__ import annotations

import dataclasses

import numpy as np
from scipy.special import expit, logsumexp

from manyfit.ensemble.problem import EPSILON, Task, two_columns

KINDS = ("linear", "geometric", "power", "exponential", "rank", "stacking")


@dataclasses.dataclass(frozen=True, eq=False)
class Pool:
    """A fitted pool: everything that is needed to combine predictions, and nothing else."""

    kind: str
    weights: np.ndarray  # (M,); zero for members that are not used, which are never looked at
    parameter: float = 1.0  # r of the power pool, a of the exponential pool
    inverse_temperature: float = 1.0  # beta, applied to the log of the pool
    member_inverse_temperatures: np.ndarray | None = None  # (M,), applied to each member before it is pooled
    class_weights: np.ndarray | None = None  # (M, C) of stacking
    bias: np.ndarray | None = None  # (C,) of stacking
    knots: tuple[tuple[np.ndarray, ...], ...] | None = None  # rank: per member, per column, sorted distinct values
    heights: tuple[tuple[np.ndarray, ...], ...] | None = None  # rank: their ranks in [0, 1]

    @property
    def support(self) -> np.ndarray:
        """Indices of the members that are used."""
        return np.flatnonzero(self.weights)

    def __call__(self, predictions: np.ndarray, task: Task) -> np.ndarray:
        """Combines predictions.

        Args:
            predictions: (M, n, C); rows of members with weight zero may hold anything, NaN included.
            task: what they predict.

        Returns:
            (n, C) in float64.
        """
        used = self.support
        return self.combine(predictions[used].astype(np.float64), task)

    def combine(self, predictions: np.ndarray, task: Task) -> np.ndarray:
        """Like a call, with the predictions (S, n, C) of the members of `support` only."""
        if not task.probabilistic:
            return self._values(predictions)
        if self.kind == "rank":
            return self._ranks(predictions)
        if self.member_inverse_temperatures is not None:
            predictions = sharpened(predictions, self.member_inverse_temperatures[self.support], task)
        num_rows, num_outputs = predictions.shape[1:]
        expanded = two_columns(predictions) if task.two_class else predictions
        pooled = self._probabilities(expanded)
        return pooled[:, 1].reshape(num_rows, num_outputs) if task.two_class else pooled

    def _values(self, predictions: np.ndarray) -> np.ndarray:
        weights = self.weights[self.support]
        if self.kind == "stacking":
            assert self.class_weights is not None and self.bias is not None
            return np.einsum("mnc,mc->nc", predictions, self.class_weights[self.support]) + self.bias
        if self.kind == "rank":
            return self._ranks(predictions)
        if self.kind == "exponential":  # the Bayes estimate under LINEX loss
            a = self.parameter
            return logsumexp(a * predictions, b=weights[:, None, None], axis=0) / a
        return np.tensordot(weights, predictions, axes=1)

    def _probabilities(self, predictions: np.ndarray) -> np.ndarray:
        weights = self.weights[self.support]
        beta = self.inverse_temperature
        if self.kind == "linear":
            pooled = np.tensordot(weights, predictions, axes=1)
            return pooled if beta == 1.0 else softmax(beta * log_clipped(pooled))
        if self.kind == "power":
            r = self.parameter
            pooled = np.tensordot(weights, np.exp(r * log_clipped(predictions)), axes=1)
            return softmax(beta / r * log_clipped(pooled))
        if self.kind == "exponential":
            a = self.parameter
            pooled = np.log(np.tensordot(weights, np.exp(a * predictions), axes=1)) / a
            return softmax(beta * log_clipped(pooled))
        logs = log_clipped(predictions)
        if self.kind == "geometric":
            return softmax(beta * np.tensordot(weights, logs, axes=1))
        assert self.kind == "stacking" and self.class_weights is not None and self.bias is not None
        chosen: np.ndarray = self.class_weights[self.support]
        logits = np.einsum("mnc,mc->nc", logs, chosen) + self.bias
        return softmax(beta * logits)

    def _ranks(self, predictions: np.ndarray) -> np.ndarray:
        assert self.knots is not None and self.heights is not None
        _, num_rows, num_columns = predictions.shape
        pooled = np.zeros((num_rows, num_columns))
        for position, member in enumerate(self.support):
            for column in range(num_columns):
                x = predictions[position, :, column]
                ranks = np.interp(x, self.knots[member][column], self.heights[member][column])
                pooled[:, column] += self.weights[member] * ranks
        return pooled

    def expand(self, members: np.ndarray, num_members: int) -> Pool:
        """The same pool among all members, when it was fitted on a selection of them.

        Args:
            members: indices of the members it was fitted on.
            num_members: how many there are in all.
        """

        def spread(array: np.ndarray | None) -> np.ndarray | None:
            if array is None:
                return None
            full = np.zeros((num_members, *array.shape[1:]))
            full[members] = array
            return full

        weights = spread(self.weights)
        assert weights is not None
        return dataclasses.replace(
            self,
            weights=weights,
            member_inverse_temperatures=spread(self.member_inverse_temperatures),
            class_weights=spread(self.class_weights),
            knots=_place(self.knots, members, num_members),
            heights=_place(self.heights, members, num_members),
        )

    def describe(self) -> str:
        """The pool in words."""
        texts = {
            "linear": "weighted average",
            "geometric": "weighted geometric mean",
            "power": f"power mean with r = {self.parameter:g}",
            "exponential": f"exponential mean with a = {self.parameter:g}",
            "rank": "average of ranks",
            "stacking": "regularised linear model on the members' outputs",
        }
        beta = self.inverse_temperature
        text = texts[self.kind] + ("" if beta == 1.0 else f", temperature {1 / beta:.3g}")
        return text if self.member_inverse_temperatures is None else f"{text}, each member calibrated first"


def _place(columns: tuple | None, members: np.ndarray, num_members: int) -> tuple | None:
    if columns is None:
        return None
    full: list[tuple] = [()] * num_members
    for position, member in enumerate(members):
        full[member] = columns[position]
    return tuple(full)


def single(member: int, num_members: int) -> Pool:
    """The pool that is one member."""
    weights = np.zeros(num_members)
    weights[member] = 1.0
    return Pool("linear", weights)


def log_clipped(probabilities: np.ndarray) -> np.ndarray:
    """Log of probabilities kept `EPSILON` away from zero."""
    return np.log(np.maximum(probabilities, EPSILON))


def sharpened(predictions: np.ndarray, inverse_temperatures: np.ndarray, task: Task) -> np.ndarray:
    """Probabilities (S, n, C) with one inverse temperature per member."""
    betas = inverse_temperatures[:, None, None]
    if not task.two_class:
        return softmax(betas * log_clipped(predictions))
    return expit(betas * (log_clipped(predictions) - log_clipped(1.0 - predictions)))


def softmax(logits: np.ndarray) -> np.ndarray:
    """Softmax over the last axis."""
    front = np.array(np.moveaxis(logits, -1, 0), dtype=np.float64, order="C")  # sums over a short last axis are slow
    front -= front.max(axis=0)
    np.exp(front, out=front)
    front /= front.sum(axis=0)
    return np.moveaxis(front, 0, -1)


def rank_pool(predictions: np.ndarray, weights: np.ndarray, *, num_knots: int = 64) -> Pool:
    """A rank-average pool whose ranks are those among the rows it was fitted on.

    A new row is placed among the fitting rows by linear interpolation between quantiles, so one row can be predicted
    alone, and the pool can be written with standard layers.

    Args:
        predictions: (M, n, C) on the fitting rows.
        weights: (M,) on the simplex.
        num_knots: quantiles that are kept per member and column.
    """
    levels = np.linspace(0, 1, num_knots)
    knots, heights = [], []
    for member in predictions:
        member_knots, member_heights = [], []
        for column in member.T.astype(np.float64):
            values = np.unique(np.quantile(column, levels, method="nearest"))
            ordered = np.sort(column)
            below = np.searchsorted(ordered, values, side="left") + np.searchsorted(ordered, values, side="right")
            member_knots.append(values)
            member_heights.append(below / (2 * len(column)))  # mid-ranks: ties share their place
        knots.append(tuple(member_knots))
        heights.append(tuple(member_heights))
    return Pool("rank", weights, knots=tuple(knots), heights=tuple(heights))
