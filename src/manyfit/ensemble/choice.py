"""The choice among methods, and a gain that may be believed.

Every method is *cross-fitted*: fitted on k - 1 folds of the rows, scored on the fold left out. The best cross-fitted
score of many methods is itself too good to be true, so the choice is cross-fitted as well (*nested*): for each fold
the method is chosen without that fold's rows, by fits that never saw them. What is printed is the gain of the whole
procedure on rows that neither the weights nor the choice had seen.

Nesting needs fits without fold a, without folds a and b, and on everything: k + k(k - 1)/2 + 1 fits per method.

Two questions, asked one after the other.

*Which ensemble?* The default, a pool with bagged convex weights, unless another is proven better: the best of fifteen
scores on few rows is often the luckiest. Then the rule of one standard error towards cheaper: the version of the
default with the fewest members within one standard error (of the paired difference), if that allowed for it gives up no
more than a fiftieth of the gain.

*Is it worth several members?* Only if its gain over the single best member is surely no trifle: copies of one model
that differ by a whiff of noise do gain a whiff. What the gain is counted from is the single best member, with a
temperature where that helps it: calibration is no reason to pay for several members. The rule of one standard error
holds here, too: the gain must be above one percent of the loss by that much. Or, for log loss, the likelihood ratio of
all rows must be 20. Were the single best member the truth, the labels would be 20 times as likely under an ensemble
fitted on other rows once in 20 times at most (Wasserman, Ramdas and Balakrishnan 2020, "Universal inference"),
whatever the shape of the gains; with few rows, where a handful decides, the mean's standard error is blunt.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping

import numpy as np

from manyfit.core.seeds import generator
from manyfit.ensemble.losses import Losses, standard_errors
from manyfit.ensemble.methods import DEFAULTS, Context
from manyfit.ensemble.metrics import Metric, log_losses
from manyfit.ensemble.pools import Pool
from manyfit.ensemble.problem import Problem, Task
from manyfit.ensemble.settings import Settings

Fit = Callable[[Problem, Context], Mapping[str, Pool]]
Predictions = Mapping[str, np.ndarray]

BASELINES = ("single best", "single best + temperature")
_SHARE_GIVEN_UP = 0.02  # of the gain, for fewer members
_FEW_ROWS = 1000  # below, the cross-fitting is repeated on other folds
_REPEATS = 3


@dataclasses.dataclass(frozen=True)
class Gain:
    """A difference in the metric's own unit, positive when better, with its confidence interval."""

    estimate: float
    low: float
    high: float
    standard_error: float
    bound: float  # what the gain exceeds by the confidence that counts as proof, one-sided
    least: float = 0.0  # what is worth having
    evidence: float = 0.0  # log of the likelihood ratio of all rows, for log loss; 0 for other metrics
    enough: float = np.inf  # evidence that is a proof

    @property
    def proven(self) -> bool:
        """Whether the gain is surely above `least`, or above it by evidence that is a proof."""
        return self.bound > self.least or (self.evidence > self.enough and self.estimate > self.least)


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
    ensemble: Candidate  # the one that `gain` speaks of: what was chosen, or what was refused


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
            chosen = best_ensemble(losses, sizes, self.settings)
            singles = [name for name in BASELINES if name in sizes]
            calibrated = cheapest(losses, sizes, min(singles, key=lambda name: losses.mean[name]), singles)
            for role, name in zip(answer, (chosen, calibrated, "single best"), strict=True):
                answer[role][rows] = pools[name](part, self.problem.task)
        return answer


def best_ensemble(losses: Losses, sizes: Mapping[str, int], settings: Settings) -> str:
    """The default method or what is proven better, and then the cheapest version of it that is nearly as good."""
    names = [name for name in sizes if name not in BASELINES] or list(sizes)
    best = min(names, key=lambda name: losses.mean[name])
    default = next((name for name in DEFAULTS if name in sizes), best)
    ahead, error = losses.difference(default, best)
    level = 1.0 - (1.0 - settings.confidence) / len(names)  # Bonferroni's: one of many is better by luck sooner
    leader = best if ahead > error * standard_errors(losses.num_rows, level) else default
    alone = losses.mean[BASELINES[0]]
    gain = max(alone - losses.mean[leader], settings.least_gain * abs(alone))
    versions = [name for name in names if name.startswith(default)] if default in sizes else names
    return cheapest(losses, sizes, leader, versions, give_up=_SHARE_GIVEN_UP * gain)


def cheapest(
    losses: Losses, sizes: Mapping[str, int], leader: str, names: Iterable[str], *, give_up: float = np.inf
) -> str:
    """The method with the fewest members, then the smallest loss, among those within one standard error of `leader`.

    Args:
        losses: of all methods.
        sizes: members that each uses.
        leader: the one to be compared with.
        names: those that may be taken.
        give_up: how much worse the answer may be at most, one standard error allowed for.
    """
    close = []
    for name in names:
        worse, error = losses.difference(name, leader)
        if worse <= error and worse + error <= give_up:
            close.append(name)
    return min({leader, *close}, key=lambda name: (sizes[name], losses.mean[name], name))


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
    repeats = _REPEATS if problem.num_rows < _FEW_ROWS else 1
    runs = [CrossFit(problem, fit, metric, settings, seed + repeat) for repeat in range(repeats)]
    final = runs[0].pools()
    losses = Losses(metric, problem, [run.predictions() for run in runs])
    candidates = {candidate.name: candidate for candidate in _table(losses, final)}
    sizes = {name: candidate.num_members for name, candidate in candidates.items()}
    chosen = ensemble = candidates[best_ensemble(losses, sizes, settings)]
    stated = Losses(metric, problem, [run.nested() for run in runs])
    gain = _gain(stated, "single best", "procedure", settings)
    ensembling = _gain(stated, "baseline", "procedure", settings)
    refused = settings.refuse and not insist and not (ensembling.proven and problem.num_members > 1)
    if refused:
        calibration = _gain(stated, "single best", "baseline", settings)
        singles = [candidates[name] for name in BASELINES if name in candidates]
        chosen = singles[-1] if calibration.proven else singles[0]
    return Choice(
        chosen.name,
        chosen.pool,
        tuple(sorted(candidates.values(), key=lambda c: c.loss)),
        gain,
        ensembling,
        metric.to_score(stated.mean["single best"], problem),
        metric.to_score(stated.mean["procedure"], problem),
        refused,
        ensemble,
    )


def _table(losses: Losses, final: Mapping[str, Pool]) -> list[Candidate]:
    best = min(final, key=lambda name: losses.mean[name])
    table = []
    for name, pool in final.items():
        score = losses.metric.to_score(losses.mean[name], losses.problem)
        _, error = losses.difference(name, best)
        table.append(Candidate(name, pool, losses.mean[name], score, error, _is_close(losses, name, best)))
    return table


def _gain(losses: Losses, before: str, after: str, settings: Settings) -> Gain:
    metric, problem = losses.metric, losses.problem
    difference, error = losses.difference(before, after)
    level = losses.mean[before]
    # The interval is that of the loss, in the unit of the score: exact in the middle, linear around it.
    other = losses.mean[after]
    step = other - level if abs(other - level) > 1e-9 * max(abs(level), 1e-12) else max(abs(level), 1e-12) * 1e-6
    unit = abs((metric.to_score(level + step, problem) - metric.to_score(level, problem)) / step)
    unit = unit if np.isfinite(unit) else 1.0
    doubt = 1.0 - settings.confidence
    low, high, bound = losses.bounds(before, after, (1.0 - doubt / 2, doubt / 2, settings.proof))
    gain = Gain(*(number * unit for number in (difference, low, high, error, bound, settings.least_gain * abs(level))))
    if (
        metric.row_losses is not log_losses or problem.task is Task.MULTILABEL or doubt <= 0
    ):  # labels of a row go together
        return gain
    return dataclasses.replace(gain, evidence=losses.num_rows * difference, enough=float(np.log(1.0 / doubt)))
