"""The choice among methods, and a gain that may be believed.

Every method is *cross-fitted*: fitted on k - 1 folds of the rows, scored on the fold left out. The best cross-fitted
score of many methods is itself too good to be true, so the choice is cross-fitted as well (*nested*): for each fold
the method is chosen without that fold's rows, by fits that never saw them. What is printed is the gain of the whole
procedure on rows that neither the weights nor the choice had seen.

Nesting needs fits without fold a, without folds a and b, and on everything: k + k(k - 1)/2 + 1 fits per method.

The rule of one standard error: the cheapest ensemble whose loss is within one standard error (of the paired difference)
of the best. Whether it is better than one member is a second question, answered by its gain alone. The baseline is the
single best member, with a temperature where that helps it: calibration is no reason to pay for several members.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from manyfit.core.seeds import generator
from manyfit.ensemble.losses import Losses
from manyfit.ensemble.methods import Context
from manyfit.ensemble.metrics import Metric
from manyfit.ensemble.pools import Pool
from manyfit.ensemble.problem import Problem, Task
from manyfit.ensemble.settings import Settings

Fit = Callable[[Problem, Context], Mapping[str, Pool]]
Predictions = Mapping[str, np.ndarray]

BASELINES = ("single best", "single best + temperature")
_FEW_ROWS = 1000  # below, the cross-fitting is repeated on other folds
_REPEATS = 2


@dataclasses.dataclass(frozen=True)
class Gain:
    """A difference in the metric's own unit, positive when better, with its confidence interval."""

    estimate: float
    low: float
    high: float
    standard_error: float
    bound: float  # what the gain exceeds with the same confidence: one-sided, so above `low`

    @property
    def proven(self) -> bool:
        """Whether `bound` is above zero: that it is no loss is the one question, so one side is enough."""
        return self.bound > 0


@dataclasses.dataclass(frozen=True, eq=False)
class Candidate:
    """One method: its pool fitted on all rows, and its cross-fitted result."""

    name: str
    pool: Pool
    loss: float  # cross-fitted; lower is better
    score: float  # the same in the metric's own unit
    standard_error: float  # of the paired difference to the best method, as a loss
    within_one_error: bool

    @property
    def num_members(self) -> int:
        """Members that it uses."""
        return len(self.pool.support)


@dataclasses.dataclass(frozen=True, eq=False)
class Choice:
    """What was chosen, and why."""

    method: str
    pool: Pool
    candidates: tuple[Candidate, ...]
    gain: Gain  # of the procedure over the single best member
    ensembling_gain: Gain  # over the single best member with a temperature: what several members add
    baseline_score: float  # cross-fitted score of the single best member
    score: float  # cross-fitted score of the procedure
    refused: bool


def folds_of(problem: Problem, num_folds: int, rng: np.random.Generator) -> np.ndarray:
    """(n,) fold of each row, classes spread evenly over the folds."""
    order = rng.permutation(problem.num_rows)
    if problem.task in (Task.MULTICLASS, Task.BINARY):
        order = order[np.argsort(problem.target.reshape(-1)[order], kind="stable")]
    fold = np.empty(problem.num_rows, dtype=np.int64)
    fold[order] = np.arange(problem.num_rows) % num_folds
    return fold


class CrossFit:
    """Fits of every method without each fold and without each pair of folds, made when they are first asked for."""

    def __init__(self, problem: Problem, fit: Fit, metric: Metric, settings: Settings, seed: int) -> None:
        self.problem = problem
        self.fit = fit
        self.metric = metric
        self.settings = settings
        self.seed = seed
        self.num_folds = settings.folds(problem.num_rows)
        self.fold = folds_of(problem, self.num_folds, generator(seed, "folds"))
        self._fitted: dict[tuple[int, ...], Mapping[str, Pool]] = {}

    def pools(self, *left_out: int) -> Mapping[str, Pool]:
        """Every method's pool, fitted on the rows outside the folds `left_out`."""
        key = tuple(sorted(left_out))
        if key not in self._fitted:
            rows = self.problem.rows(np.flatnonzero(~np.isin(self.fold, key))) if key else self.problem
            rng = generator(self.seed, "methods", *key)
            self._fitted[key] = self.fit(rows, Context(self.metric, self.settings, rng))
        return self._fitted[key]

    def predictions(self, without: int | None = None) -> dict[str, np.ndarray]:
        """(n, C) out-of-fold predictions of every method.

        Args:
            without: a fold that neither fits nor predicts; its rows are left out of the answer.
        """
        answer: dict[str, np.ndarray] = {}
        for k in range(self.num_folds):
            if k == without:
                continue
            rows = np.flatnonzero(self.fold == k)
            part = self.problem.predictions[:, rows]
            for name, pool in (self.pools(k) if without is None else self.pools(k, without)).items():
                empty = np.empty(self.problem.predictions.shape[1:])
                answer.setdefault(name, empty)[rows] = pool(part, self.problem.task)
        if without is None:
            return answer
        kept = self.fold != without
        return {name: array[kept] for name, array in answer.items()}

    def nested(self) -> dict[str, np.ndarray]:
        """(n, C) predictions of the procedure, its baseline and the single best, each on rows unseen by them."""
        shape = self.problem.predictions.shape[1:]
        answer = {name: np.empty(shape) for name in ("procedure", "baseline", "single best")}
        for k in range(self.num_folds):
            rows = np.flatnonzero(self.fold == k)
            part, pools = self.problem.predictions[:, rows], self.pools(k)
            sizes = {name: len(pool.support) for name, pool in pools.items()}
            others = self.problem.rows(np.flatnonzero(self.fold != k))
            losses = Losses(self.metric, others, [self.predictions(without=k)], precise=False)
            chosen = cheapest_ensemble(losses, sizes)
            calibrated = one_standard_error(losses, sizes, [name for name in BASELINES if name in sizes])
            for role, name in zip(answer, (chosen, calibrated, "single best"), strict=True):
                answer[role][rows] = pools[name](part, self.problem.task)
        return answer


def one_standard_error(losses: Losses, sizes: Mapping[str, int], names: Sequence[str]) -> str:
    """The method with the fewest members among those within one standard error of the best; then the smallest loss."""
    best = min(names, key=lambda name: losses.mean[name])
    close = [name for name in names if _is_close(losses, name, best)]
    return min(close, key=lambda name: (sizes[name], losses.mean[name]))


def cheapest_ensemble(losses: Losses, sizes: Mapping[str, int]) -> str:
    """The cheapest ensemble within one standard error of the best method; a baseline only where that is the best.

    Whether several members pay at all is not decided here, but by the proof of their gain: deciding it twice would
    refuse what little data can prove.
    """
    best = min(sizes, key=lambda name: losses.mean[name])
    allowed = [name for name in sizes if name == best or name not in BASELINES]
    return best if best in BASELINES else one_standard_error(losses, sizes, allowed)


def _is_close(losses: Losses, name: str, best: str) -> bool:
    difference, error = losses.difference(name, best)
    return name == best or difference <= error


def choose(
    problem: Problem, fit: Fit, metric: Metric, settings: Settings, seed: int, *, insist: bool = False
) -> Choice:
    """Chooses a method, fits it on all rows, and states what it gains.

    Args:
        problem: rows that no member was trained on.
        fit: fits every method, by name; "single best" must be among them.
        metric: what counts.
        settings: folds, confidence, whether to refuse.
        seed: of the folds and of the random methods.
        insist: the user named the method: choose among what is no baseline, and do not refuse.
    """
    repeats = _REPEATS if problem.num_rows < _FEW_ROWS else 1
    runs = [CrossFit(problem, fit, metric, settings, seed + repeat) for repeat in range(repeats)]
    final = runs[0].pools()
    candidates = _table(Losses(metric, problem, [run.predictions() for run in runs]), final)
    stated = Losses(metric, problem, [run.nested() for run in runs])
    gain = _gain(stated, "single best", "procedure", settings)
    ensembling = _gain(stated, "baseline", "procedure", settings)
    named = [c for c in candidates if c.name not in BASELINES]
    best = min(candidates, key=lambda candidate: candidate.loss)
    chosen = best if best.name in BASELINES and not (insist and named) else _cheapest(named or candidates)
    refused = settings.refuse and not insist and not (ensembling.proven and problem.num_members > 1)
    if refused:
        calibration = _gain(stated, "single best", "baseline", settings)
        singles = [c for c in candidates if c.name in BASELINES]
        chosen = singles[-1] if calibration.proven else singles[0]
    return Choice(
        chosen.name,
        chosen.pool,
        tuple(sorted(candidates, key=lambda c: c.loss)),
        gain,
        ensembling,
        metric.to_score(stated.mean["single best"], problem),
        metric.to_score(stated.mean["procedure"], problem),
        refused,
    )


def _table(losses: Losses, final: Mapping[str, Pool]) -> list[Candidate]:
    best = min(final, key=lambda name: losses.mean[name])
    table = []
    for name, pool in final.items():
        score = losses.metric.to_score(losses.mean[name], losses.problem)
        _, error = losses.difference(name, best)
        table.append(Candidate(name, pool, losses.mean[name], score, error, _is_close(losses, name, best)))
    return table


def _cheapest(candidates: Sequence[Candidate]) -> Candidate:
    close = [candidate for candidate in candidates if candidate.within_one_error]
    if not close:  # the best of all is a baseline, and the user insists on a method
        return min(candidates, key=lambda candidate: candidate.loss)
    return min(close, key=lambda candidate: (candidate.num_members, candidate.loss))


def _gain(losses: Losses, before: str, after: str, settings: Settings) -> Gain:
    metric, problem = losses.metric, losses.problem
    difference, error = losses.difference(before, after)
    level = losses.mean[before]
    # The interval is that of the loss, in the unit of the score: exact in the middle, linear around it.
    other = losses.mean[after]
    step = other - level if abs(other - level) > 1e-9 * max(abs(level), 1e-12) else max(abs(level), 1e-12) * 1e-6
    unit = abs((metric.to_score(level + step, problem) - metric.to_score(level, problem)) / step)
    unit = unit if np.isfinite(unit) else 1.0
    width = settings.standard_errors(losses.num_rows) * error
    bound = difference - settings.standard_errors(losses.num_rows, one_sided=True) * error
    return Gain(difference * unit, (difference - width) * unit, (difference + width) * unit, error * unit, bound * unit)
