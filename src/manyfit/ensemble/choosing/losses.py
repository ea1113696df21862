"""Means of losses, and paired differences with their errors: of rows, of groups of rows, of models.

Predictions of the same rows go up and down together, so differences are taken row by row (or resample by resample,
for metrics that need all rows at once) before anything is averaged. Rows of one group are one observation.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from scipy.special import ndtr, stdtrit

from manyfit.ensemble.metrics import Metric
from manyfit.ensemble.problem import EnsembleProblem

# The standard error of a bootstrap is known to 5 % then; to 11 % with forty, enough within the nesting.
_RESAMPLES = 200
_FEW_RESAMPLES = 40  # where a standard error to a tenth is enough


@dataclasses.dataclass(frozen=True, eq=False)
class Averaged:
    """What averaging models changes, seen in the means of a few of them and carried on to a bag of many.

    A bag's loss is its members' less what averaging takes away of their own noise. Of M models it takes 1 - 1 / M of
    what infinitely many would: exactly for squared error and models that are exchangeable, nearly for log loss.

    Attributes:
        predictions: means over the repeats, of every cross-fit, as `Losses` takes them.
        factor: (1 - 1 / M) / (1 - 1 / r) for means of r repeats, over the share of the rows that have so many.
        partners: of the other models in the means, where those are no cross-fits of their own; None: they are.
    """

    predictions: Sequence[Mapping[str, np.ndarray]]
    factor: float
    partners: Sequence[Mapping[str, np.ndarray]] | None = None


@dataclasses.dataclass(frozen=True, eq=False)
class ModelLuck:
    """Where each row was predicted by a model of its own fold: how far models fall from each other.

    A fold's rows share their models' luck, which no number of rows averages away. The means of folds show it: they vary
    by more than their rows do.

    Attributes:
        folds: (n,) the fold of each row, for each repeat.
        one_more: whoever uses the weights has one model more of each member, none of these.
    """

    folds: tuple[np.ndarray, ...]
    one_more: bool

    def variance(self, apart: np.ndarray, weight: np.ndarray, labels: Sequence[np.ndarray]) -> tuple[float, float]:
        """What models' luck adds to the variance of a mean, and that variance squared by its degrees of freedom.

        Args:
            apart: (u,) what is averaged, of rows or groups of rows.
            weight: (u,) weights, which sum to 1.
            labels: (u,) the fold of each, for each repeat.
        """
        more, parts = 0.0, 0.0
        for fold in labels:
            share = np.bincount(fold, weight)
            count = len(share)
            means = np.bincount(fold, weight * apart) / share
            by_rows = np.bincount(fold, weight**2 * (apart - means[fold]) ** 2) / share**2
            between = float(means.var(ddof=1))
            # Of R repeats each has an R-th part in what is averaged, and one more model has all of its luck.
            times = 1 / count + (len(labels) if self.one_more else 0.0)
            more += times * _positive(between - float(by_rows.mean()), between * math.sqrt(2 / (count - 1)))
            parts += (times * between) ** 2 / (count - 1)
        return more, parts


def _positive(estimate: float, error: float) -> float:
    """What a quantity that cannot be negative is on average, given an estimate of it with a normal error.

    Cut off at 0 it would be 0 in every second case where there is little of it, and intervals too narrow there.
    """
    if error == 0:
        return max(0.0, estimate)
    ratio = estimate / error
    density = math.exp(-0.5 * ratio**2) / math.sqrt(2 * math.pi)
    return max(0.0, estimate + error * density / max(float(ndtr(ratio)), 1e-12))


@dataclasses.dataclass(frozen=True, eq=False)
class Means:
    """What is known of several models' means: their problem, and `factor` and `partner` as `Averaged` has them."""

    problem: EnsembleProblem
    factor: float
    partner: EnsembleProblem | None = None


class Losses:
    """Means of losses by name, and paired differences.

    Args:
        metric: which loss.
        problem: the rows; those of one group count as one observation.
        predictions: one mapping from names to (n, C) predictions, or several (repeats on other folds), which are
            averaged.
        averaged: of the means of the repeats' predictions, likewise: what averaging models changes. None: not asked.
        precise: False makes do with fewer resamples.
        luck: of models, where that is part of the error. None: the same models are used again.
    """

    def __init__(
        self,
        metric: Metric,
        problem: EnsembleProblem,
        predictions: Sequence[Mapping[str, np.ndarray]],
        *,
        averaged: Averaged | None = None,
        precise: bool = True,
        luck: ModelLuck | None = None,
    ) -> None:
        self.metric = metric
        self.problem = problem
        self._luck = luck
        self._predictions, self._averaged, self._precise = predictions, averaged, precise
        self._units: dict[str, np.ndarray] = {}  # losses per row or group of rows, or per resample
        self._weight = _unit_weight(problem)
        # Repeats on other folds are averaged row by row, not pooled as if they were more rows: they share the labels,
        # which is where most of the noise comes from.
        if metric.row_losses is not None:
            for name in predictions[0]:
                self._units[name] = _by_unit(self._carried_on(name, problem, metric.row_losses), problem)
            self.mean = {name: _or_inf(float(self._weight @ units)) for name, units in self._units.items()}
            return
        self.mean = {name: float(self._carried_on(name, problem, metric.loss)) for name in predictions[0]}
        for resample in self._resamples(_RESAMPLES if precise else _FEW_RESAMPLES):
            for name in predictions[0]:
                loss = self._carried_on(name, resample[1], metric.loss, resample[0])
                self._units[name] = np.append(self._units.get(name, np.empty(0)), loss)

    def _carried_on(
        self, name: str, problem: EnsembleProblem, loss: Callable[..., Any], answers: np.ndarray | slice = slice(None)
    ) -> Any:
        """The mean loss over the repeats, carried on to as many models as there will be."""
        single = np.mean([loss(run[name][answers], problem) for run in self._predictions], axis=0)
        if self._averaged is None:
            return single
        told = self._averaged
        several = np.mean([loss(run[name][answers], problem) for run in told.predictions], axis=0)
        alone = single
        if told.partners is not None:
            alone = (single + np.mean([loss(run[name][answers], problem) for run in told.partners], axis=0)) / 2
        return single - told.factor * (alone - several)

    def under(self, metric: Metric) -> Losses:
        """The losses of the same predictions by another metric."""
        return Losses(
            metric, self.problem, self._predictions, averaged=self._averaged, precise=self._precise, luck=self._luck
        )

    @property
    def num_rows(self) -> float:
        """Effective number of independent rows, or groups of rows: fewer than there are, where weights differ."""
        return 1.0 / float((self._weight**2).sum())

    def _resamples(self, count: int) -> list[tuple[np.ndarray | slice, EnsembleProblem]]:
        """Bootstraps of rows, the same for every name: places of answers, and the problem they make."""
        # One seed for all names and calls: differences between methods must not depend on who was resampled when.
        rng = np.random.default_rng(self.problem.num_rows)
        thin = dataclasses.replace(self.problem, predictions=self.problem.predictions[:1])
        everything, answers = np.arange(self.problem.num_rows), slice(None)
        answer: list[tuple[np.ndarray | slice, EnsembleProblem]] = []
        for _ in range(count):
            counts, weight = self._counts(rng)
            if self.metric.weighs:  # weights of zero and two are a resample without a copy of any row
                answer.append((answers, thin.weighted(weight)))
            else:
                rows = np.repeat(everything, counts)
                answer.append((self.problem.answers_of(rows), thin.rows(rows)))
        return answer

    def _counts(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """How often each row is drawn in a bootstrap, and the weights that rows have in it."""
        groups = self.problem.groups
        if groups is None:
            counts = rng.multinomial(self.problem.num_rows, self.problem.row_weight)
            return counts, counts.astype(np.float64)
        # Groups are drawn alike, however many rows they have: these come along, with the weights that they have.
        found = np.unique(groups, return_inverse=True)[1]
        size = int(found.max()) + 1
        drawn = rng.multinomial(size, np.full(size, 1.0 / size))[found]
        weight = drawn * self.problem.row_weight
        return drawn, weight if weight.sum() > 0 else self.problem.row_weight

    def difference(self, name: str, other: str) -> tuple[float, float]:
        """Loss of `name` minus loss of `other`, and its standard error."""
        return self._difference(name, other)[:2]

    def _difference(self, name: str, other: str) -> tuple[float, float, float]:
        """The same, and the degrees of freedom of the error."""
        size = self.num_rows
        if name == other:
            return 0.0, 0.0, size - 1
        estimate = self.mean[name] - self.mean[other]
        with np.errstate(invalid="ignore"):
            apart = self._units[name] - self._units[other]
        # The spread over resamples is the standard error itself; the mean of rows has to be divided by their number.
        if self.metric.row_losses is None:
            finite = apart[np.isfinite(apart)]
            return estimate, float(finite.std(ddof=1)) if len(finite) > 1 else np.inf, size - 1
        if size <= 1 + 1e-9:
            return estimate, np.inf, 0.0
        rows = float((self._weight**2) @ (apart - estimate) ** 2) * size / (size - 1)
        if self._luck is None or not np.isfinite(rows) or rows == 0:
            return estimate, float(np.sqrt(rows)), size - 1
        labels = [_of_unit(fold, self.problem) for fold in self._luck.folds]
        more, parts = self._luck.variance(apart, self._weight, labels)
        # Satterthwaite's degrees of freedom.
        return estimate, float(np.sqrt(rows + more)), (rows + more) ** 2 / (rows**2 / (size - 1) + parts)

    def bounds(self, name: str, other: str, levels: Sequence[float]) -> list[float]:
        """What the expected difference exceeds with each of some probabilities."""
        estimate, error, degrees = self._difference(name, other)
        skewness = self._skewness(name, other)
        return [estimate - error * standard_errors(self.num_rows, level, skewness, degrees=degrees) for level in levels]

    def _skewness(self, name: str, other: str) -> float:
        """Skewness of the rows' differences; 0 for metrics that need all rows at once."""
        if self.metric.row_losses is None or name == other:
            return 0.0
        apart = self._units[name] - self._units[other]
        apart = apart - self._weight @ apart
        spread = float(np.sqrt(self._weight @ apart**2))
        return float(self._weight @ (apart / spread) ** 3) if spread > 0 and np.isfinite(spread) else 0.0


def _unit_weight(problem: EnsembleProblem) -> np.ndarray:
    """(u,) weights of the independent parts of the rows: of rows, or of groups of them."""
    if problem.groups is None:
        return problem.row_weight
    found = np.unique(problem.groups, return_inverse=True)[1]
    return np.bincount(found, problem.row_weight)


def _by_unit(rows: np.ndarray, problem: EnsembleProblem) -> np.ndarray:
    """(u,) means over the rows of each group, of (n,) losses of rows; without groups the rows themselves."""
    if problem.groups is None:
        return rows
    found = np.unique(problem.groups, return_inverse=True)[1]
    # A group of rows without weight has no mean, and takes no part in any.
    weight = np.bincount(found, problem.row_weight)
    return np.bincount(found, problem.row_weight * rows) / np.where(weight > 0, weight, 1.0)


def _of_unit(fold: np.ndarray, problem: EnsembleProblem) -> np.ndarray:
    """(u,) the fold of each row or group of rows, without gaps in the numbers."""
    found = np.unique(fold, return_inverse=True)[1]
    if problem.groups is None:
        return found
    groups = np.unique(problem.groups, return_inverse=True)[1]
    answer = np.empty(int(groups.max()) + 1, dtype=np.intp)
    answer[groups] = found
    return answer


def standard_errors(num_rows: float, level: float, skewness: float = 0.0, *, degrees: float | None = None) -> float:
    """How many standard errors a mean minus its expectation stays below, with probability `level`.

    Student's t, corrected for skewness (Hall 1992, "On the removal of skewness by transformation", equation 2.2): most
    rows change little, and a few that one member got badly wrong change much. Without end below ten rows, whose
    standard error means nothing.

    Args:
        num_rows: effective number of rows.
        level: in [0, 1]; below one half the answer is negative.
        skewness: of the rows.
        degrees: of freedom of the error; None: of rows alone.

    Example:

    >>> round(standard_errors(10_000, 0.975), 2), round(standard_errors(10, 0.975), 2)
    (1.96, 2.26)
    >>> [round(standard_errors(200, level, skewness=8.0), 2) for level in (0.95, 0.05)]
    [1.24, -4.09]
    """
    # With fewer rows nothing is proven, whatever they say.
    if level in (0.0, 1.0) or num_rows < 9.5:
        return math.inf if level > 0.5 else -math.inf
    plain = float(stdtrit(num_rows - 1 if degrees is None else degrees, level))
    if abs(skewness) < 1e-6:
        return plain
    root = math.sqrt(num_rows)
    inner = 1.0 + skewness * (plain / root - skewness / (6 * num_rows))
    return 3.0 * root / skewness * (math.cbrt(inner) - 1.0)


def _or_inf(value: float) -> float:
    return value if np.isfinite(value) else np.inf
