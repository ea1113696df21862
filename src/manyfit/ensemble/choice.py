"""The choice among methods, and a gain that may be believed.

Every method is *cross-fitted*: fitted on k - 1 folds of the rows, scored on the fold left out. The best cross-fitted
score of many methods is itself too good to be true, so the choice is cross-fitted as well (*nested*): for each fold
the method is chosen without that fold's rows, by fits that never saw them. What is printed is the gain of the whole
procedure on rows that neither the weights nor the choice had seen.

Nesting needs fits without fold a, without folds a and b, and on everything: k + k(k - 1)/2 + 1 fits per method.

The rule of one standard error: the cheapest method whose loss is within one standard error (of the paired difference)
of the best. The baseline is the single best member, with a temperature where that helps it: calibration is no reason
to pay for several members.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from manyfit.core.seeds import generator
from manyfit.ensemble.methods import Context, Method
from manyfit.ensemble.metrics import Metric
from manyfit.ensemble.pools import Pool
from manyfit.ensemble.problem import Problem, Task
from manyfit.ensemble.settings import Settings

BASELINES = ("single best", "single best + temperature")
_FEW_ROWS = 1000  # below, the cross-fitting is repeated on other folds
_REPEATS = 3
_BOOTSTRAPS = 200


@dataclasses.dataclass(frozen=True)
class Gain:
    """A difference in the metric's own unit, positive when better, with its confidence interval."""

    estimate: float
    low: float
    high: float
    standard_error: float

    @property
    def proven(self) -> bool:
        """Whether the whole interval is above zero."""
        return self.low > 0


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

    def __init__(self, problem: Problem, methods: Mapping[str, Method], metric: Metric, settings: Settings, seed: int):
        self.problem = problem
        self.methods = methods
        self.metric = metric
        self.settings = settings
        self.seed = seed
        self.num_folds = max(2, min(settings.num_folds, problem.num_rows))
        self.fold = folds_of(problem, self.num_folds, generator(seed, "folds"))
        self._fitted: dict[tuple[int, ...], dict[str, Pool]] = {}

    def pools(self, *left_out: int) -> dict[str, Pool]:
        """Every method's pool, fitted on the rows outside the folds `left_out`."""
        key = tuple(sorted(left_out))
        if key not in self._fitted:
            rows = self.problem.rows(np.flatnonzero(~np.isin(self.fold, key))) if key else self.problem
            self._fitted[key] = {
                name: method(rows, Context(self.metric, self.settings, generator(self.seed, "method", name, *key)))
                for name, method in self.methods.items()
            }
        return self._fitted[key]

    def predictions(self, without: int | None = None) -> dict[str, np.ndarray]:
        """(n, C) out-of-fold predictions of every method.

        Args:
            without: a fold that neither fits nor predicts; its rows are left out of the answer.
        """
        inside = [k for k in range(self.num_folds) if k != without]
        answer = {name: np.empty(self.problem.predictions.shape[1:]) for name in self.methods}
        for k in inside:
            rows = np.flatnonzero(self.fold == k)
            part = self.problem.predictions[:, rows]
            pools = self.pools(k) if without is None else self.pools(k, without)
            for name, pool in pools.items():
                answer[name][rows] = pool(part, self.problem.task)
        if without is None:
            return answer
        kept = self.fold != without
        return {name: array[kept] for name, array in answer.items()}

    def choose(self, without: int | None = None) -> tuple[str, str]:
        """The chosen method and the chosen baseline, seen from the folds other than `without`."""
        predictions = self.predictions(without)
        problem = self.problem if without is None else self.problem.rows(np.flatnonzero(self.fold != without))
        sizes = {name: len(pool.support) for name, pool in self.pools(*(() if without is None else (without,))).items()}
        baselines = [name for name in BASELINES if name in predictions]
        return (
            one_standard_error(predictions, sizes, self.metric, problem),
            one_standard_error({name: predictions[name] for name in baselines}, sizes, self.metric, problem),
        )

    def nested(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(n, C) predictions of the procedure, of its baseline and of the single best, all on rows unseen by them."""
        shape = self.problem.predictions.shape[1:]
        procedure, baseline, single = np.empty(shape), np.empty(shape), np.empty(shape)
        for k in range(self.num_folds):
            rows = np.flatnonzero(self.fold == k)
            part, pools = self.problem.predictions[:, rows], self.pools(k)
            chosen, calibrated = self.choose(without=k)
            procedure[rows] = pools[chosen](part, self.problem.task)
            baseline[rows] = pools[calibrated](part, self.problem.task)
            single[rows] = pools["single best"](part, self.problem.task)
        return procedure, baseline, single


def one_standard_error(
    predictions: Mapping[str, np.ndarray], sizes: Mapping[str, int], metric: Metric, problem: Problem
) -> str:
    """The method with the fewest members among those within one standard error of the best; then the smallest loss."""
    losses = {name: metric.loss(prediction, problem) for name, prediction in predictions.items()}
    best = min(losses, key=lambda name: losses[name])
    for name in sorted(losses, key=lambda name: (sizes[name], losses[name])):
        difference, error = paired_difference([predictions[name]], [predictions[best]], metric, problem)
        if difference <= error:
            return name
    return best


def paired_difference(
    ours: Sequence[np.ndarray], theirs: Sequence[np.ndarray], metric: Metric, problem: Problem
) -> tuple[float, float]:
    """Loss of `ours` minus loss of `theirs`, and its standard error over the rows.

    Args:
        ours: one (n, C) prediction, or several of the same rows, whose losses are averaged.
        theirs: as many.
    """
    if metric.row_losses is not None:
        rows = np.mean(
            [metric.row_losses(a, problem) - metric.row_losses(b, problem) for a, b in zip(ours, theirs, strict=True)],
            axis=0,
        )
        difference = float(problem.row_weight @ rows)
        variance = float((problem.row_weight**2) @ (rows - difference) ** 2)
        size = 1.0 / float((problem.row_weight**2).sum())  # effective number of rows
        return difference, float(np.sqrt(variance * size / (size - 1))) if size > 1 else np.inf
    return _bootstrapped(ours, theirs, metric, problem)


def _bootstrapped(
    ours: Sequence[np.ndarray], theirs: Sequence[np.ndarray], metric: Metric, problem: Problem
) -> tuple[float, float]:
    def difference(a: Sequence[np.ndarray], b: Sequence[np.ndarray], of: Problem) -> float:
        return float(np.mean([metric.loss(x, of) - metric.loss(y, of) for x, y in zip(a, b, strict=True)]))

    estimate = difference(ours, theirs, problem)
    if all(a is b or np.array_equal(a, b) for a, b in zip(ours, theirs, strict=True)):
        return estimate, 0.0
    rng = np.random.default_rng(problem.num_rows)  # the same resamples whenever two methods are compared
    thin = dataclasses.replace(problem, predictions=problem.predictions[:1])
    draws = []
    for _ in range(_BOOTSTRAPS if metric.weighs else _BOOTSTRAPS // 4):
        counts = rng.multinomial(problem.num_rows, problem.row_weight)
        if metric.weighs:
            draws.append(difference(ours, theirs, thin.weighted(counts.astype(np.float64))))
            continue
        rows = np.repeat(np.arange(problem.num_rows), counts)
        draws.append(difference([a[rows] for a in ours], [b[rows] for b in theirs], thin.rows(rows)))
    finite = np.asarray(draws)[np.isfinite(draws)]
    return estimate, float(finite.std(ddof=1)) if len(finite) > 1 else np.inf


def choose(
    problem: Problem, methods: Mapping[str, Method], metric: Metric, settings: Settings, seed: int, *, insist: bool = False
) -> Choice:
    """Chooses a method, fits it on all rows, and states what it gains.

    Args:
        problem: rows that no member was trained on.
        methods: by name; must contain "single best".
        metric: what counts.
        settings: folds, confidence, whether to refuse.
        seed: of the folds and of the random methods.
        insist: the user named the method: choose among what is no baseline, and do not refuse.
    """
    repeats = _REPEATS if problem.num_rows < _FEW_ROWS else 1
    runs = [CrossFit(problem, methods, metric, settings, seed + repeat) for repeat in range(repeats)]
    fitted = [run.predictions() for run in runs]
    final = runs[0].pools()
    candidates = _table(fitted, final, metric, problem)
    nested = [run.nested() for run in runs]
    procedure, baseline, single = (list(column) for column in zip(*nested, strict=True))
    gain = _gain(single, procedure, metric, problem, settings)
    ensembling = _gain(baseline, procedure, metric, problem, settings)
    named = [c for c in candidates if c.name not in BASELINES] if insist else list(candidates)
    chosen = _cheapest(named or list(candidates))
    refused = settings.refuse and not insist and not (ensembling.proven and problem.num_members > 1)
    if refused:
        calibration = _gain(single, baseline, metric, problem, settings)
        best = _cheapest([c for c in candidates if c.name in BASELINES])
        chosen = best if calibration.proven else next(c for c in candidates if c.name == "single best")
    return Choice(
        chosen.name,
        chosen.pool,
        tuple(sorted(candidates, key=lambda c: c.loss)),
        gain,
        ensembling,
        metric.to_score(float(np.mean([metric.loss(p, problem) for p in single])), problem),
        metric.to_score(float(np.mean([metric.loss(p, problem) for p in procedure])), problem),
        refused,
    )


def _table(
    fitted: list[dict[str, np.ndarray]], final: Mapping[str, Pool], metric: Metric, problem: Problem
) -> list[Candidate]:
    names = list(final)
    losses = {name: float(np.mean([metric.loss(run[name], problem) for run in fitted])) for name in names}
    best = min(names, key=lambda name: losses[name])
    table = []
    for name in names:
        difference, error = paired_difference([f[name] for f in fitted], [f[best] for f in fitted], metric, problem)
        score = metric.to_score(losses[name], problem)
        table.append(Candidate(name, final[name], losses[name], score, error, difference <= error))
    return table


def _cheapest(candidates: Sequence[Candidate]) -> Candidate:
    close = [candidate for candidate in candidates if candidate.within_one_error]
    return min(close or candidates, key=lambda candidate: (candidate.num_members, candidate.loss))


def _gain(
    before: list[np.ndarray], after: list[np.ndarray], metric: Metric, problem: Problem, settings: Settings
) -> Gain:
    difference, error = paired_difference(before, after, metric, problem)
    level = float(np.mean([metric.loss(prediction, problem) for prediction in before]))
    small = max(abs(level), 1e-12) * 1e-6
    unit = abs(metric.to_score(level + small, problem) - metric.to_score(level, problem)) / small
    unit = unit if np.isfinite(unit) else 1.0
    width = settings.standard_errors() * error
    return Gain(difference * unit, (difference - width) * unit, (difference + width) * unit, error * unit)


def pareto_front(points: Sequence[tuple[float, float]]) -> list[int]:
    """Indices of the points (cost, loss) that no other point beats in both, cheapest first.

    Example:

    >>> pareto_front([(1, 0.5), (2, 0.3), (3, 0.4)])
    [0, 1]
    """
    order = sorted(range(len(points)), key=lambda index: points[index])
    front, best = [], np.inf
    for index in order:
        if points[index][1] < best:
            front.append(index)
            best = points[index][1]
    return front


