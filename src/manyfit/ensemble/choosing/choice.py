"""The choice among methods, and a gain that may be believed.

Every method is cross-fitted, and so is the choice among them (`crossfit`): what is printed is the gain of the whole
procedure on rows that neither the weights nor the choice had seen.

Two questions, asked one after the other.

*Which ensemble?* The default, a pool with bagged convex weights, unless another is proven better: the best of fifteen
scores on few rows is often the luckiest. Then the rule of one standard error towards cheaper: the version of the
default with the fewest members within one standard error (of the paired difference), if that allowed for it gives up no
more than a fiftieth of the gain.

*Is it worth several members?* Only if its gain over the single best member is likely no trifle: copies of one model
that differ by a whiff of noise do gain a whiff. What the gain is counted from is the single best member, with a
temperature where that helps it: calibration is no reason to pay for several members. The rule of one standard error
holds here, too: the gain must be above one percent of the loss by that much. That is enough to act on, and no proof.

*Proven* is a gain that is above that one percent with 95 %, one-sided. Or, for log loss, one whose evidence is 20: were
one of the members the truth, the labels of a fold would be expected to be as likely under the procedure that was fitted
without them as under that member, so the mean of these ratios over the folds is above 20 once in 20 times at most
(Wasserman, Ramdas and Balakrishnan 2020, "Universal inference", section 3), whatever the shape of the gains. Their
product over the folds would be no such thing: each fold's fit has seen the others' labels.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from scipy.special import logsumexp

from manyfit.ensemble.choosing.crossfit import CrossFit, averaged_of
from manyfit.ensemble.choosing.losses import Losses, Means, ModelLuck, standard_errors
from manyfit.ensemble.choosing.methods import DEFAULTS, Fit
from manyfit.ensemble.choosing.shrinkage import PATH
from manyfit.ensemble.metrics import Metric, log_losses, surrogate
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
    likely_bound: float  # what it exceeds by the confidence that is enough to act on, one-sided
    least: float = 0.0  # what is worth having
    evidence: float = -np.inf  # log of an e-value of all rows, for log loss
    enough: float = np.inf  # evidence that is a proof

    @property
    def proven(self) -> bool:
        """Whether the gain surely is above `least`: said in at most one case of twenty where it is not.

        And not where zero lies in the interval that is printed beside the word, unless it is the labels' own evidence
        that tells, which the interval knows nothing of.
        """
        by_mean = self.bound > self.least and self.low > 0.0
        return by_mean or (self.evidence > self.enough and self.estimate > self.least)

    def unproven(self) -> Gain:
        """The same estimate, with zero in its interval and no claim of a proof."""
        return dataclasses.replace(
            self, low=min(self.low, 0.0), high=max(self.high, 0.0), bound=min(self.bound, 0.0), enough=math.inf
        )

    @property
    def worth_having(self) -> bool:
        """Whether the gain is likely above `least`: enough to act on, no proof."""
        return self.likely_bound > self.least or (self.evidence > self.enough and self.estimate > self.least)


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
    model_folds: bool = False  # whether models were left out with the rows of their fold
    measured: float | None = None  # `score` where every member is one model, of which bags average many
    thresholds: np.ndarray | None = None  # (C,) from which probability on a column is positive; None: one half

    def unproven(self) -> MethodChoice:
        """The same choice, whose gains are estimates and claim no proof."""
        return dataclasses.replace(self, gain=self.gain.unproven(), ensembling_gain=self.ensembling_gain.unproven())


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


def steadiest(losses: Losses, sizes: Mapping[str, int], settings: EnsembleSettings) -> str:
    """The method nearest to equal weights that is within one standard error of the best.

    The metric decides; where that is not the loss that weights were fitted by, the loss breaks the ties that the metric
    leaves. Weights that gain less over equal ones than their own fitting hides are not used: in expectation a fit of s
    weights gives away (s - 1) / n nats on new rows, and shows as much too little on its own.

    Args:
        losses: cross-fitted, of the methods of `PATH`.
        sizes: number of members of each.
        settings: not asked; every rule takes them.
    """
    del settings
    path = [name for name in PATH if name in sizes] or list(sizes)  # of one member there is but itself
    near = surrogate(losses.metric, losses.problem.task)
    smooth = losses if losses.metric.exact or near == losses.metric else losses.under(near)
    equal = path[0]
    best = min(path, key=lambda name: smooth.mean[name])
    unit = 1.0 if near.row_losses is log_losses else smooth.mean[equal]
    if smooth.mean[equal] - smooth.mean[best] < unit * (max(sizes.values()) - 1) / smooth.num_rows:
        return equal
    close = _within_one_error(losses, path)
    return close[0] if smooth is losses else _within_one_error(smooth, close)[0]


def _within_one_error(losses: Losses, names: Sequence[str]) -> list[str]:
    """Those whose loss is within one paired standard error of the least, in their order."""
    best = min(names, key=lambda name: losses.mean[name])
    told = {name: losses.difference(name, best) for name in names}
    return [name for name in names if told[name][0] <= told[name][1]]


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


Rule = Callable[[Losses, Mapping[str, int], EnsembleSettings], str]
"""From cross-fitted losses and numbers of members to the name of the method that is taken."""


@dataclasses.dataclass(frozen=True, eq=False)
class Judging:
    """How methods are judged.

    Attributes:
        rule: which one is taken.
        insist: the user named the method: choose among what is no baseline, and do not refuse.
        model_folds: for each repeat of a cross-validation what its models predicted, and (n,) the fold of each row: the
            models of a fold are left out with its rows. Empty: the same models predicted all rows.
        num_kept: of so many members, the first ones, there are models; see `CrossFit`. None: of all.
        num_models: that each member is a mean of in the end; None: of no more than were there when it predicted.
        again: what another model of each member said of a share of the rows, and of the others what the first said.
        thresholds: whether one is learned for a metric of decisions.
    """

    rule: Rule = best_ensemble
    insist: bool = False
    model_folds: tuple[tuple[EnsembleProblem, np.ndarray], ...] = ()
    num_kept: int | None = None
    num_models: int | None = None
    again: tuple[EnsembleProblem, float] | None = None
    thresholds: bool = True

    def runs(
        self, problem: EnsembleProblem, fit: Fit, metric: Metric, settings: EnsembleSettings, seed: int
    ) -> list[CrossFit]:
        """The cross-fits, one for each repeat of the members' own folds, or as many as it takes on few rows."""
        same: dict[str, Any] = {"num_kept": self.num_kept, "thresholds": self.thresholds}
        if self.model_folds:
            means = self.means(problem)
            return [
                CrossFit(one, fit, metric, settings, seed=seed, fold=fold, means=means, **same)
                for one, fold in self.model_folds
            ]
        repeats = _REPEATS if problem.num_rows < _FEW_ROWS else 1
        return [CrossFit(problem, fit, metric, settings, seed=seed + more, **same) for more in range(repeats)]

    def luck(self) -> ModelLuck | None:
        """Of models with folds of their own; None: the same models predicted all rows."""
        folds = tuple(fold for _, fold in self.model_folds)
        return ModelLuck(folds, one_more=self.num_models is None) if folds else None

    def means(self, problem: EnsembleProblem) -> Means | None:
        """What is known of means over several models of each member."""
        repeats = len(self.model_folds)
        if self.num_models is None or self.num_models == 1:
            return None
        if repeats > 1:
            return Means(problem, (1.0 - 1.0 / self.num_models) / (1.0 - 1.0 / repeats))
        if self.again is None:
            return None
        other, share = self.again
        both = dataclasses.replace(problem, predictions=(problem.predictions + other.predictions) / 2)
        return Means(both, 2.0 * (1.0 - 1.0 / self.num_models) / share, other)


def choose(
    problem: EnsembleProblem, fit: Fit, metric: Metric, settings: EnsembleSettings, seed: int, judging: Judging
) -> MethodChoice:
    """Chooses a method, fits it on all rows, and states what it gains.

    Args:
        problem: rows that no member was trained on.
        fit: fits every method, by name; "single best" must be among them.
        metric: what counts.
        settings: folds, confidence, whether to refuse.
        seed: of the folds and of the random methods.
        judging: what is left out in the cross-fitting, and by which rule the choice is made.
    """
    runs = judging.runs(problem, fit, metric, settings, seed)
    # Fitted on all rows, with the mean of the repeats: what the folds are differs between the runs, this fit does not.
    final = CrossFit(problem, fit, metric, settings, seed=seed, num_kept=judging.num_kept).final()
    averaged = averaged_of(runs, lambda run, of: run.predictions(of=of))
    losses = Losses(metric, problem, [run.predictions() for run in runs], averaged=averaged)
    candidates = {
        name: FittedMethod(name, pool, losses.mean[name], metric.to_score(losses.mean[name], problem))
        for name, pool in final.items()
    }
    sizes = {name: candidate.num_members for name, candidate in candidates.items()}
    chosen = ensemble = candidates[judging.rule(losses, sizes, settings)]

    def pick(losses: Losses, sizes: Mapping[str, int]) -> tuple[str, str]:
        return judging.rule(losses, sizes, settings), _best_single(losses, sizes)

    # `losses` chose, so it flatters what it chose. What is stated, and what refuses, are the nested ones.
    nested = [run.nested(pick) for run in runs]
    luck = judging.luck()
    decided = [run.nested(pick, decided=True) for run in runs] if runs[0].decides else nested
    measured = Losses(metric, problem, decided, luck=luck)
    averaged = averaged_of(runs, lambda run, of: run.nested(pick, of=of, decided=True))
    stated = measured if averaged is None else Losses(metric, problem, decided, averaged=averaged, luck=luck)
    # Of rows with these models: where folds have models of their own, others would be used.
    evidence = -math.inf if luck is not None else log_evidence(runs, nested)
    gain = gain_between(stated, "single best", "procedure", settings, evidence=evidence)
    ensembling = gain_between(stated, "baseline", "procedure", settings, evidence=evidence)
    several = (problem.num_members if judging.num_kept is None else judging.num_kept) > 1
    # What a share of the rows says of averaging is right on average, and too noisy to send anybody away.
    deciding = stated if judging.again is None else measured
    certain = gain_between(deciding, "baseline", "procedure", settings, evidence=evidence)
    as_said = Losses(metric, problem, nested, luck=luck) if decided is not nested else deciding
    worth_having = several and (certain.worth_having or _loss_decides(as_said, certain, settings))
    refused = settings.refuse and not judging.insist and not worth_having
    if refused:
        calibration = gain_between(stated, "single best", "baseline", settings)
        singles = [candidates[name] for name in BASELINES if name in candidates]
        # A refusal still says which: the temperature of one member has to show its use like everything else.
        chosen = singles[-1] if calibration.worth_having else singles[0]
    thresholds = _of_all(run.threshold(chosen.name) for run in runs)
    alone = "single best" if thresholds is None else "baseline"  # the same member, with its threshold
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
        model_folds=bool(judging.model_folds),
        measured=metric.to_score(measured.mean[alone if refused else "procedure"], problem),
        thresholds=thresholds,
    )


def _of_all(found: Iterable[np.ndarray | None]) -> np.ndarray | None:
    """The thresholds of several repeats as one; one half where less than half of them learned any."""
    told = list(found)
    some = [one for one in told if one is not None]
    return np.median(some, axis=0) if 2 * len(some) > len(told) else None


def _loss_decides(stated: Losses, ensembling: Gain, settings: EnsembleSettings) -> bool:
    """Whether several members are worth having by the loss, where the metric that counts leaves it open."""
    near = surrogate(stated.metric, stated.problem.task)
    if stated.metric.exact or near == stated.metric or abs(ensembling.estimate) > ensembling.standard_error:
        return False
    return gain_between(stated.under(near), "baseline", "procedure", settings).worth_having


def log_evidence(runs: Sequence[CrossFit], nested: Sequence[Mapping[str, np.ndarray]]) -> float:
    """Log of an e-value against "one member alone is the truth", for log loss of independent rows.

    In each fold the labels' likelihood under the procedure that was fitted without it, over the largest under any
    member, and under the baseline; then the mean over folds and repeats, since the mean of e-values is one.

    Args:
        runs: the cross-fits.
        nested: predictions of "procedure" and "baseline" of each, on rows unseen by them.

    Returns:
        -inf where labels have no likelihood: other metrics, weighted or grouped rows, several answers of a row.
    """
    ratios = []
    for run, predictions in zip(runs, nested, strict=True):
        if run.means is not None:  # what is stated is not of these predictions
            return -math.inf
        problem, several = run.problem, run.problem.task is PredictionTask.MULTILABEL or run.problem.num_positions > 1
        weight = problem.row_weight
        if run.metric.row_losses is not log_losses or several or problem.groups is not None or np.ptp(weight) > 1e-12:
            return -math.inf
        alone = [*problem.predictions, predictions["baseline"]]
        rows = np.stack([log_losses(one, problem) for one in alone])
        ahead = log_losses(predictions["procedure"], problem)
        for k in range(run.num_folds):
            here = run.fold == k
            ratios.append(float(rows[:, here].sum(axis=1).min() - ahead[here].sum()))
    return float(logsumexp(ratios) - math.log(len(ratios)))


def gain_between(
    losses: Losses, before: str, after: str, settings: EnsembleSettings, *, evidence: float = -math.inf
) -> Gain:
    """What `after` gains over `before`, in the metric's own unit, with its interval and what would count as proof.

    Args:
        losses: of both, on rows that neither saw.
        before: the name of the one.
        after: the name of the other.
        settings: confidence, proof, and the least gain worth having.
        evidence: see `log_evidence`.
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
    levels = (1.0 - doubt / 2, doubt / 2, settings.proof, settings.likely)
    low, high, bound, likely = losses.bounds(before, after, levels)
    least = settings.least_gain * abs(level)
    gain = Gain(*(number * unit for number in (difference, low, high, error, bound, likely, least)))
    enough = -math.log(1.0 - settings.proof) if settings.proof < 1 and evidence > -math.inf else math.inf
    return dataclasses.replace(gain, evidence=evidence, enough=enough)
