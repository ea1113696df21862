"""The choice among methods, and a gain that may be believed.

Every method is cross-fitted, and so is the choice among them (`crossfit`): what is printed is the gain of the whole
procedure on rows that neither the weights nor the choice had seen.

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
from collections.abc import Iterable, Mapping

import numpy as np

from manyfit.ensemble.choosing.crossfit import CrossFit, Losses, standard_errors
from manyfit.ensemble.choosing.methods import DEFAULTS, Fit
from manyfit.ensemble.metrics import Metric, log_losses
from manyfit.ensemble.pools import Pool
from manyfit.ensemble.problem import EnsembleProblem, PredictionTask
from manyfit.ensemble.settings import EnsembleSettings

BASELINES = ("single best", "single best + temperature")
# One standard error is a lot of the gain where rows are few, so a share of the gain bounds it, too.
_SHARE_GIVEN_UP = 0.02  # of the gain, for fewer members
_FEW_ROWS = 1000  # below, the cross-fitting is repeated on other folds
# How rows fall into folds is luck where they are few, and fits on few rows are cheap.
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
class FittedMethod:
    """One method: its pool fitted on all rows, and its cross-fitted result."""

    name: str
    pool: Pool
    loss: float  # cross-fitted; lower is better
    score: float  # the same in the metric's own unit

    @property
    def num_members(self) -> int:
        """Members that it uses."""
        return len(self.pool.support)


@dataclasses.dataclass(frozen=True, eq=False)
class MethodChoice:
    """What was chosen, and why."""

    method: str
    pool: Pool
    candidates: tuple[FittedMethod, ...]
    gain: Gain  # of the procedure over the single best member
    ensembling_gain: Gain  # over the single best member with a temperature: what several members add
    baseline_score: float  # cross-fitted score of the single best member
    score: float  # cross-fitted score of the procedure
    refused: bool
    ensemble: FittedMethod  # the one that `gain` speaks of: what was chosen, or what was refused


def best_ensemble(losses: Losses, sizes: Mapping[str, int], settings: EnsembleSettings) -> str:
    """The default method or what is proven better, and then the cheapest version of it that is nearly as good.

    Two steps that pull apart on purpose. To *leave* the default takes proof, since the minimum of fifteen noisy scores
    is mostly noise; to take fewer members of the same method takes only the absence of proof against it, since fewer
    members are certainly cheaper. The baselines take no part: whether to combine at all is asked later, by `choose`.
    """
    names = [name for name in sizes if name not in BASELINES] or list(sizes)
    best = min(names, key=lambda name: losses.mean[name])
    default = next((name for name in DEFAULTS if name in sizes), best)
    ahead, error = losses.difference(default, best)
    level = 1.0 - (1.0 - settings.confidence) / len(names)  # Bonferroni's: one of many is better by luck sooner
    # The difference of two methods on the same rows has a small error, so a real advantage is seen all the same.
    leader = best if ahead > error * standard_errors(losses.num_rows, level) else default
    alone = losses.mean[BASELINES[0]]
    gain = max(alone - losses.mean[leader], settings.least_gain * abs(alone))
    # By name, since versions of the default are made of it: "power", "power + temperature", "power, best 3".
    versions = [name for name in names if name.startswith(default)] if default in sizes else names
    return cheapest(losses, sizes, leader, versions, give_up=_SHARE_GIVEN_UP * gain)


def _best_single(losses: Losses, sizes: Mapping[str, int]) -> str:
    """The single best member, with a temperature where that is better by more than a standard error."""
    singles = [name for name in BASELINES if name in sizes]
    return cheapest(losses, sizes, min(singles, key=lambda name: losses.mean[name]), singles)


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


def choose(
    problem: EnsembleProblem, fit: Fit, metric: Metric, settings: EnsembleSettings, seed: int, *, insist: bool = False
) -> MethodChoice:
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
    # Fitted on all rows; the folds of the repeats differ, this fit does not, so one run makes it.
    final = runs[0].pools()
    losses = Losses(metric, problem, [run.predictions() for run in runs])
    candidates = {
        name: FittedMethod(name, pool, losses.mean[name], metric.to_score(losses.mean[name], problem))
        for name, pool in final.items()
    }
    sizes = {name: candidate.num_members for name, candidate in candidates.items()}
    chosen = ensemble = candidates[best_ensemble(losses, sizes, settings)]

    def pick(losses: Losses, sizes: Mapping[str, int]) -> tuple[str, str]:
        return best_ensemble(losses, sizes, settings), _best_single(losses, sizes)

    # `losses` chose, so it flatters what it chose. What is stated, and what refuses, are the nested ones.
    stated = Losses(metric, problem, [run.nested(pick) for run in runs])
    gain = gain_between(stated, "single best", "procedure", settings)
    ensembling = gain_between(stated, "baseline", "procedure", settings)
    refused = settings.refuse and not insist and not (ensembling.proven and problem.num_members > 1)
    if refused:
        calibration = gain_between(stated, "single best", "baseline", settings)
        singles = [candidates[name] for name in BASELINES if name in candidates]
        # A refusal still says which: the temperature of one member has to prove its use like everything else.
        chosen = singles[-1] if calibration.proven else singles[0]
    return MethodChoice(
        method=chosen.name,
        pool=chosen.pool,
        candidates=tuple(sorted(candidates.values(), key=lambda c: c.loss)),
        gain=gain,
        ensembling_gain=ensembling,
        baseline_score=metric.to_score(stated.mean["single best"], problem),
        score=metric.to_score(stated.mean["procedure"], problem),
        refused=refused,
        ensemble=ensemble,
    )


def gain_between(losses: Losses, before: str, after: str, settings: EnsembleSettings) -> Gain:
    """What `after` gains over `before`, in the metric's own unit, with its interval and what would count as proof.

    Args:
        losses: of both, on rows that neither saw.
        before: the name of the one.
        after: the name of the other.
        settings: confidence, proof, and the least gain worth having.
    """
    metric, problem = losses.metric, losses.problem
    difference, error = losses.difference(before, after)
    level = losses.mean[before]
    # The interval is that of the loss, in the unit of the score: exact in the middle, linear around it.
    other = losses.mean[after]
    step = other - level if abs(other - level) > 1e-9 * max(abs(level), 1e-12) else max(abs(level), 1e-12) * 1e-6
    unit = abs((metric.to_score(level + step, problem) - metric.to_score(level, problem)) / step)
    unit = unit if np.isfinite(unit) else 1.0
    # Bounds are those of the loss; a root or 1 - loss bends them, which matters less than their width.
    doubt = 1.0 - settings.confidence
    low, high, bound = losses.bounds(before, after, (1.0 - doubt / 2, doubt / 2, settings.proof))
    gain = Gain(*(number * unit for number in (difference, low, high, error, bound, settings.least_gain * abs(level))))
    # The likelihood ratio multiplies over independent rows; the labels of one row in a multi-label task are not.
    together = problem.task is PredictionTask.MULTILABEL or problem.num_positions > 1
    if metric.row_losses is not log_losses or together or doubt <= 0:
        return gain
    return dataclasses.replace(gain, evidence=losses.num_rows * difference, enough=float(np.log(1.0 / doubt)))
