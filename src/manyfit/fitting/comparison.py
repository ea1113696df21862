"""Which of two ensembles is better, on rows that no model of either was trained on."""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from manyfit.ensemble.ensemble import Ensemble
from manyfit.ensemble.metrics import Metric, surrogate
from manyfit.store.facts import Leader


@dataclasses.dataclass(frozen=True)
class Lead:
    """How much better a second ensemble is than a first one, in mean losses of rows.

    Attributes:
        estimate: positive where the second one is better.
        standard_error: of it.
        num_rows: that both predicted.
        metric: in whose losses; the objective's, or the loss where that leaves it open.
    """

    estimate: float
    standard_error: float
    num_rows: int
    metric: str

    @property
    def favours_second(self) -> bool:
        """Whether the second one is expected to be better.

        By however little: the steps that are compared with what is in hand are better than that in most searches, so
        that rows need not prove it anew. Asking for a standard error has gained less
        (`benchmarks/results/gains_of_phases.md`).
        """
        return self.num_rows > 1 and self.estimate > 0.0

    @property
    def is_clear(self) -> bool:
        """Whether the second one is better by more than a standard error."""
        return self.num_rows > 1 and self.estimate > self.standard_error

    def __str__(self) -> str:
        if self.num_rows < 2:
            return "they have no rows in common"
        how = "better" if self.estimate > 0 else "worse"
        return (
            f"{how} by {abs(self.estimate):.3g} ± {self.standard_error:.2g} in {self.metric} on {self.num_rows:,} rows"
        )


def difference(first: Ensemble, second: Ensemble, *, leader: Leader | None = None) -> Lead:
    """How much better a second ensemble is than a first one, from paired losses of the rows that both have seen.

    What weights that were fitted to these rows flatter is taken from each: the loss of its cross-fitting less that of
    its fit. Where one model of each configuration has predicted a row, and a mean of several will be used, what that
    gains is added, as far as it is known.

    Where the first one is a single model, the best of a search on these very rows, it is too good for having been
    chosen; that is taken from it, too, as far as it is known in its metric. Models of folds were trained after the
    choice.

    Args:
        first: fitted on rows with identities.
        second: likewise.
        leader: of the search that has chosen the first one, and its luck in that.
    """
    metric = first.metric if first.metric.row_losses is not None else surrogate(first.metric, first.task)
    found = _paired(first, second, metric)
    if leader is not None and _has_chosen(leader, first):
        found = dataclasses.replace(found, estimate=found.estimate + (leader.luck or 0.0))
    near = surrogate(metric, first.task)
    # Equal numbers of mistakes say little of few rows; the loss has something to say of each.
    if abs(found.estimate) <= found.standard_error and near != metric:
        closer = _paired(first, second, near)
        return closer if closer.is_clear and found.estimate >= -found.standard_error / 2 else found
    return found


def _has_chosen(leader: Leader, first: Ensemble) -> bool:
    """Whether an ensemble is the leader of a search alone, measured as the search has measured it, in means of rows."""
    if not first.refused or first.problem is None:
        return False
    loss = first.metric.loss(first.pool(first.problem.predictions, first.task), first.problem)
    score = first.metric.to_score(loss, first.problem)
    is_mean = any(math.isclose(score, each, abs_tol=1e-9) for each in (loss, 1.0 - loss))
    return is_mean and math.isclose(score, leader.score, rel_tol=1e-2, abs_tol=1e-6)


def _paired(first: Ensemble, second: Ensemble, metric: Metric) -> Lead:
    rows = _common_rows(first, second)
    if rows is None or rows.shape[1] < 2:
        return Lead(0.0, math.inf, 0, metric.name)
    losses = []
    for one, places in zip((first, second), rows, strict=True):
        assert one.problem is not None  # our bug: `_common_rows` asks
        part = one.problem.rows(places)
        prediction = one.pool(part.predictions, one.task)
        assert metric.row_losses is not None  # our bug: the callers see to it
        losses.append((metric.row_losses(prediction, part), part.row_weight))
    ahead, weight = losses[0][0] - losses[1][0], losses[0][1]
    mean = float(weight @ ahead)
    parts = weight * (ahead - mean)
    groups = first.problem.groups if first.problem is not None else None
    if groups is not None:  # rows of one group err together
        parts = np.bincount(groups[rows[0]], weights=parts).astype(np.float64)
    error = float(np.sqrt(np.sum(parts**2)))
    return Lead(mean + _flattered(second, metric, -1) + _flattered(first, metric, 1), error, len(ahead), metric.name)


def _common_rows(first: Ensemble, second: Ensemble) -> np.ndarray | None:
    """(2, n) where the rows lie that both have seen; rows that are there several times are left out."""
    ids = []
    for one in (first, second):
        known = [np.asarray(member.row_ids) for member in one.members if member.row_ids is not None]
        if one.problem is None or not known or len(known[0]) != one.problem.num_rows:
            return None
        ids.append(known[0])
    seen = [np.unique(each, return_counts=True) for each in ids]
    single, others = [names[counts == 1] for names, counts in seen]
    common = np.intersect1d(single, others, assume_unique=True)
    orders = [np.argsort(each, kind="stable") for each in ids]
    return np.stack(
        [order[np.searchsorted(each, common, sorter=order)] for each, order in zip(ids, orders, strict=True)]
    )


def _flattered(one: Ensemble, metric: Metric, sign: int) -> float:
    """By how much the fit of an ensemble is too good, with a sign, where that was measured in this metric."""
    choice = one.choice
    if choice is None or one.problem is None or one.metric.name != metric.name:
        return 0.0
    fitted = next((each for each in choice.candidates if each.name == choice.method), None)
    if fitted is None:
        return 0.0
    own = metric.loss(one.pool(one.problem.predictions, one.task), one.problem)
    flattered = fitted.loss - own
    return sign * flattered if math.isfinite(flattered) else 0.0
