"""The methods that an ensemble chooses among: each turns a problem into a pool, and is cheap enough to be cross-fitted.

A method sees the rows it is given and nothing else. Screening (which members the slow methods look at) happens inside
it, so that cross-fitting covers the screening too.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping

import numpy as np
from scipy.optimize import minimize_scalar

from manyfit.core.errors import UsageError, explain
from manyfit.ensemble.choosing.calibration import calibrated_members, with_temperature
from manyfit.ensemble.choosing.shrinkage import PATH, mixed, reliability, shrunk_weights
from manyfit.ensemble.metrics import Metric, log_losses, squared_errors, surrogate
from manyfit.ensemble.pools import ExponentialPool, LinearPool, Pool, PowerPool, TemperedPool, rank_pool, single
from manyfit.ensemble.problem import EnsembleProblem, PredictionTask
from manyfit.ensemble.settings import CostBudget, EnsembleSettings, MemberCosts
from manyfit.ensemble.weights import bagging, derivative_free, gradient
from manyfit.ensemble.weights.exact import log_loss_weights, squared_error_weights
from manyfit.ensemble.weights.greedy import bagged_greedy_weights, greedy_path, greedy_weights, own_losses

# What searches without gradients can handle: their evaluations grow with the number of members.
_SLOW_MEMBERS = 10  # members that the slow methods look at
_ENOUGH_MISTAKES, _ENOUGH_OF_A_CLASS = 200, 1_000  # for weights that are fitted for accuracy; for AUC and F1
_POWERS = (0.25, 0.5, 0.75)  # between the geometric pool at 0 and the linear one at 1


@dataclasses.dataclass(frozen=True)
class Context:
    """What every method is told besides the problem."""

    metric: Metric  # that weights are fitted for
    settings: EnsembleSettings
    rng: np.random.Generator
    judged: Metric | None = None  # what counts, where that is another one; see `learnable`
    memory: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)  # what several methods need, found once

    @property
    def evaluations(self) -> int:
        """What a derivative-free search may spend: metrics that need all rows at once are slow."""
        return 300 if self.metric.row_losses is not None else 120


def learnable(metric: Metric, problem: EnsembleProblem) -> Metric:
    """The metric that weights are fitted for: one that counts mistakes or pairs tells too little of few of them.

    Weights that are chased up a staircase of few steps are luck. So below 200 mistakes of the best member, or 1,000
    rows of the rarest class, weights are fitted for the loss; the metric still chooses among methods.
    """
    if metric.name not in ("accuracy", "auc", "f1", "balanced_accuracy"):
        return metric
    if metric.name == "accuracy":
        told = float(own_losses(problem, metric).min()) * problem.num_rows >= _ENOUGH_MISTAKES
    else:
        labels = problem.one_hot if problem.task is PredictionTask.MULTICLASS else problem.target
        counts = labels.sum(axis=0)
        rarest = (
            counts.min()
            if problem.task is PredictionTask.MULTICLASS
            else np.minimum(counts, len(labels) - counts).min()
        )
        told = float(rarest) >= _ENOUGH_OF_A_CLASS
    return metric if told else surrogate(metric, problem.task)


Method = Callable[[EnsembleProblem, Context], Pool]
Fit = Callable[[EnsembleProblem, Context], Mapping[str, Pool]]
"""Fits every method of a menu, by name."""


def single_best(problem: EnsembleProblem, context: Context) -> Pool:
    """The member with the smallest loss; where the metric that counts leaves ties, the loss breaks them."""
    own = own_losses(problem, context.metric)
    if context.judged is None:
        return single(int(np.argmin(own)), problem.num_members)
    counts = own_losses(problem, context.judged)
    return single(int(np.lexsort((own, counts.round(9)))[0]), problem.num_members)


def uniform(problem: EnsembleProblem, context: Context) -> Pool:
    """The plain average of the best k members, k in 1, 2, 3, 5, 8, ... chosen by the metric."""
    order = np.argsort(own_losses(problem, context.metric), kind="stable")
    # In growing steps: one member more matters less, the more there are.
    sizes = [size for size in (1, 2, 3, 5, 8, 12, 20, 30, 50) if size <= problem.num_members]
    trials = np.zeros((len(sizes), problem.num_members))
    for trial, size in zip(trials, sizes, strict=True):
        trial[order[:size]] = 1.0 / size
    losses = derivative_free.linear_losses(problem, context.metric)(trials)
    return LinearPool(trials[int(np.argmin(losses))])


def greedy(problem: EnsembleProblem, context: Context) -> Pool:
    """Greedy selection with replacement and sorted start."""
    return LinearPool(greedy_weights(problem, context.metric, num_steps=context.settings.num_steps))


def bagged_greedy(problem: EnsembleProblem, context: Context) -> Pool:
    """Greedy selection bagged over members and rows."""
    chosen = screened(problem, context, context.settings.max_candidates)
    weights = bagged_greedy_weights(
        problem.members(chosen), context.metric, context.rng, num_steps=context.settings.num_steps
    )
    return LinearPool(trimmed(weights)).expand(chosen, problem.num_members)


def convex(problem: EnsembleProblem, context: Context) -> Pool:
    """The best simplex weights: exact where the metric allows it, else those of a smooth surrogate, then polished."""
    if "convex" not in context.memory:
        context.memory["convex"] = _convex_weights(problem, context)
    return LinearPool(context.memory["convex"])


def _convex_weights(problem: EnsembleProblem, context: Context) -> np.ndarray:
    near = surrogate(context.metric, problem.task)
    if near.row_losses is log_losses:
        weights = log_loss_weights(problem.true_probability, problem.entry_weight, tolerance=1e-9).weights
    elif near.row_losses is squared_errors:
        weights = squared_error_weights(problem.residual, problem.residual_weight).weights
    else:
        chosen = screened(problem, context, context.settings.max_candidates)
        found = gradient.smoothed_weights(problem.members(chosen), near)
        weights = LinearPool(found).expand(chosen, problem.num_members).weights
    # The surrogate's solution is the answer where the metric is the surrogate, up to a monotone function.
    if context.metric.exact:
        return weights
    # Those that the surrogate likes, and those that the metric likes alone: the two may disagree.
    chosen = np.union1d(np.flatnonzero(weights), screened(problem, context, _SLOW_MEMBERS))
    start = weights[chosen]
    better = derivative_free.polished(problem.members(chosen), context.metric, start, evaluations=context.evaluations)
    return LinearPool(better).expand(chosen, problem.num_members).weights


def bagged_convex(problem: EnsembleProblem, context: Context) -> Pool:
    """Convex weights for the metric's surrogate, stopped early and averaged over bootstraps of the rows."""
    return LinearPool(_bagged_weights(problem, context))


def _bagged_weights(problem: EnsembleProblem, context: Context) -> np.ndarray:
    if "bagged" not in context.memory:
        chosen = screened(problem, context, context.settings.max_candidates)
        smaller = problem.members(chosen)
        bags = bagging.bayesian_bootstraps(problem.row_weight, context.rng)
        steps = bagging.num_steps(problem.row_weight)
        if surrogate(context.metric, problem.task).row_losses is log_losses:
            # A row's labels stay together in a bootstrap: they are not independent of each other.
            bags = problem.over_answers(bags)
            bags = np.repeat(bags, len(problem.entry_weight) // bags.shape[1], axis=1)
            bags /= bags.sum(axis=1, keepdims=True)
            weights = bagging.bagged_log_loss_weights(smaller.true_probability, bags, steps=steps)
        else:
            bags = np.repeat(problem.over_answers(bags), problem.num_outputs, axis=1) / problem.num_outputs
            weights = bagging.bagged_squared_error_weights(smaller.residual, bags, steps=2 * steps)  # shorter ones
        context.memory["bagged"] = LinearPool(trimmed(weights)).expand(chosen, problem.num_members).weights
    return context.memory["bagged"]


def trimmed(weights: np.ndarray) -> np.ndarray:
    """The same weights without those below 1 %, of members that are cost without use."""
    # `min` keeps the largest, where hundreds of members have less than 1 % each.
    weights = np.where(weights < min(0.01, weights.max()), 0.0, weights)
    return weights / weights.sum()


def geometric(problem: EnsembleProblem, context: Context) -> Pool:
    """The geometric pool with the smallest log loss, weights pulled towards bagged convex ones."""
    # Only members that bagging gave weight: on the others the geometric pool would fit noise of its own.
    prior = _bagged_weights(problem, context)
    chosen = np.flatnonzero(prior)
    return gradient.geometric_pool(problem.members(chosen), prior=prior[chosen]).expand(chosen, problem.num_members)


def power(problem: EnsembleProblem, context: Context) -> Pool:
    """The power mean with bagged convex weights, r in (0, 1] and the temperature chosen by log loss."""
    weights = _bagged_weights(problem, context)
    smaller = problem.members(np.flatnonzero(weights))
    pools = [PowerPool(weights[weights > 0], parameter=r) for r in _POWERS]
    tempered = [with_temperature(pool, smaller) for pool in pools]
    losses = [float(smaller.row_weight @ log_losses(p(smaller.predictions, problem.task), smaller)) for p in tempered]
    best = int(np.argmin(losses))
    # r is chosen with a temperature either way: a small r makes the pool softer, which is no reason to prefer it.
    chosen = tempered[best] if context.settings.temperature else pools[best]
    return chosen.expand(np.flatnonzero(weights), problem.num_members)


def exponential(problem: EnsembleProblem, context: Context) -> Pool:
    """The exponential mean with convex weights, a chosen by the surrogate."""
    if problem.task is not PredictionTask.REGRESSION:
        return _exponential(problem, context, (0.05, 8.0))
    # a has the unit of one over the values, so its limits follow their spread.
    spread = max(float(problem.target.std()), 1e-12)
    return _exponential(problem, context, (0.01 / spread, 4.0 / spread))


def _exponential(problem: EnsembleProblem, context: Context, limits: tuple[float, float]) -> Pool:
    chosen = relevant(problem, context)
    smaller = problem.members(chosen)
    weights = convex(problem, context).weights[chosen]
    weights = weights / weights.sum()
    near = surrogate(context.metric, problem.task)

    def loss(parameter: float) -> float:
        pool = ExponentialPool(weights, parameter=parameter)
        return near.loss(pool(smaller.predictions, problem.task), smaller)

    answer = minimize_scalar(loss, bounds=limits, method="bounded", options={"xatol": 0.02 * limits[1], "maxiter": 12})
    return ExponentialPool(weights, parameter=float(answer.x)).expand(chosen, problem.num_members)


def rank(problem: EnsembleProblem, context: Context) -> Pool:
    """The average of ranks, weights by greedy selection on the ranks."""
    chosen = screened(problem, context, _SLOW_MEMBERS)
    # Weights by rank are fitted on ranks: on probabilities, a member's scale would count as confidence.
    smaller = problem.members(chosen)
    every = [rank_pool(smaller.predictions[[i]], np.ones(1)) for i in range(len(chosen))]
    ranks = np.stack([pool(smaller.predictions[[i]], problem.task) for i, pool in enumerate(every)])
    ranked = dataclasses.replace(smaller, predictions=ranks)
    weights = greedy_weights(ranked, context.metric, num_steps=context.settings.num_steps)
    return rank_pool(smaller.predictions, weights).expand(chosen, problem.num_members)


def on_the_path(name: str) -> Method:
    """The method of a name on `PATH`: convex weights, pulled towards equal ones by that many pseudo-rows."""

    def shrunk(problem: EnsembleProblem, context: Context) -> Pool:
        if problem.parts:  # several outputs have no gradient in common
            return LinearPool(mixed(greedy(problem, context).weights, PATH[name]))
        free = lambda: convex(problem, context).weights  # noqa: E731  # found once, and asked for by few
        return LinearPool(shrunk_weights(problem, context.metric, PATH[name], free))

    return shrunk


def stacking(problem: EnsembleProblem, context: Context) -> Pool:
    """A linear model on the members' outputs, strongly regularised."""
    chosen = relevant(problem, context)
    return gradient.stacking_pool(problem.members(chosen), ridge=0.1).expand(chosen, problem.num_members)


def nelder_mead(problem: EnsembleProblem, context: Context) -> Pool:
    """Nelder-Mead on the weights of the best few members."""
    chosen = screened(problem, context, _SLOW_MEMBERS)
    weights = derivative_free.nelder_mead_weights(
        problem.members(chosen), context.metric, evaluations=context.evaluations
    )
    return LinearPool(weights).expand(chosen, problem.num_members)


def random_search(problem: EnsembleProblem, context: Context) -> Pool:
    """The best of random weights of the best few members."""
    chosen = screened(problem, context, _SLOW_MEMBERS)
    weights = derivative_free.random_weights(
        problem.members(chosen), context.metric, context.rng, draws=context.evaluations
    )
    return LinearPool(weights).expand(chosen, problem.num_members)


def screened(problem: EnsembleProblem, context: Context, count: int) -> np.ndarray:
    """Indices of the `count` members with the smallest losses, in order of index."""
    if problem.num_members <= count:
        return np.arange(problem.num_members)
    return np.sort(np.argsort(own_losses(problem, context.metric), kind="stable")[:count])


def relevant(problem: EnsembleProblem, context: Context) -> np.ndarray:
    """Indices of the members worth a slow look: those with the largest convex weights, and the best few alone."""
    weights = convex(problem, context).weights
    # Both lists: convex weights leave out a good member that has a twin, and the best alone may be copies of another.
    largest = np.argsort(-weights, kind="stable")[:_SLOW_MEMBERS]
    return np.union1d(largest[weights[largest] > 0], screened(problem, context, 5))


METHODS: dict[str, Method] = {
    "single best": single_best,
    "uniform": uniform,
    "greedy": greedy,
    "bagged greedy": bagged_greedy,
    "convex": convex,
    "bagged convex": bagged_convex,
    "geometric": geometric,
    "power": power,
    "exponential": exponential,
    "rank": rank,
    "stacking": stacking,
    "nelder-mead": nelder_mead,
    "random search": random_search,
    **{name: on_the_path(name) for name in PATH},
}
"""Every method by its name."""

TEMPERED = ("single best", "uniform", "greedy", "bagged greedy", "convex", "bagged convex", "exponential")
CALIBRATED = ("convex", "bagged convex")
SHRUNK = "shrunk"
"""What a menu is named that has weights pulled towards equal ones, more or less: for models that are trained anew."""
DEFAULTS = ("power", "bagged convex", "bagged greedy")
"""The first that is on the menu is the default: what is used unless the rows prove something else better."""
SEVERAL_OUTPUTS = ("single best", "uniform", "greedy", "bagged greedy", "nelder-mead", "random search")
"""The methods that need nothing but values of a loss: those for models with several outputs."""
_CHEAPER = (3, 5, 8)  # members of the default's cheaper versions


@dataclasses.dataclass(frozen=True)
class Menu:
    """The methods that are tried."""

    plain: tuple[str, ...]
    tempered: tuple[str, ...] = ()  # those of `plain` that are also tried with a temperature after pooling
    calibrated: tuple[str, ...] = ()  # those tried on calibrated members too, with a temperature after pooling
    default: str = ""  # tried with fewer members, too

    def cheaper(self, num_members: int) -> dict[str, int]:
        """Names of the cheaper versions of the default, each with its number of members."""
        return {f"{self.default}, best {k}": k for k in _CHEAPER if self.default and k < num_members}

    def fit(self, problem: EnsembleProblem, context: Context) -> dict[str, Pool]:
        """Fits them all; names say what was done: "greedy", "greedy + temperature", "calibrated greedy"."""
        # Later methods find in `context.memory` what earlier ones computed, so together they cost less than apart.
        pools = {name: METHODS[name](problem, context) for name in self.plain}
        for name in self.tempered:
            pools[f"{name} + temperature"] = with_temperature(pools[name], problem)
        for name, count in self.cheaper(problem.num_members).items():
            smaller = pools[self.default].pruned(count)
            pools[name] = with_temperature(smaller, problem) if context.settings.temperature else smaller
        if self.calibrated:
            inner, betas = calibrated_members(problem)
            afresh = dataclasses.replace(context, memory={})  # what was found on members as they are does not hold
            for name in self.calibrated:
                pool = METHODS[name](inner, afresh)
                assert isinstance(pool, TemperedPool)  # `CALIBRATED` names no others
                pool = dataclasses.replace(pool, member_inverse_temperatures=betas)
                pools[f"calibrated {name}"] = with_temperature(pool, problem)
        return pools


def menu(task: PredictionTask, metric: Metric, settings: EnsembleSettings) -> Menu:
    """The methods that make sense for a task and a metric.

    Fewer are better: each is fitted in every fold of the cross-fitting, and each is one more chance that the luckiest
    is taken for the best. So a method is left out where another answers the same question exactly, or where the metric
    cannot tell its results apart.
    """
    names = ["single best", "uniform", "greedy", "bagged greedy", "convex"]
    if surrogate(metric, task).row_losses in (log_losses, squared_errors):
        names += ["bagged convex"]
    # Every method on the menu costs fits in the cross-fitting, and one more chance that luck is chosen.
    if not metric.exact:
        # Where the convex weights are exact, derivative-free searches answer the same question, later and less well.
        names += ["nelder-mead", "random search"]
    if metric.quantiles is None and (task.probabilistic or metric.row_losses is squared_errors):
        names += ["stacking"]  # for values it minimises squared error, so only where that is asked for
    if task.probabilistic:
        names += ["geometric", "power", "exponential"]
    if metric.ranks:
        names += ["rank"]
    # Ranks and, but for ties, decisions are the same at every temperature of a single member or of the whole pool.
    default = next(name for name in DEFAULTS if name in names)
    if not (task.probabilistic and settings.temperature) or metric.ranks or metric.name in ("accuracy", "f1"):
        return Menu(tuple(names), default=default)
    return Menu(tuple(names), TEMPERED, CALIBRATED, default)


def menu_of_one(method: str, task: PredictionTask, settings: EnsembleSettings) -> Menu:
    """The menu of a user who named a method; the single best member stays on it, to be compared with."""
    plain = ("single best",) if method == "single best" else ("single best", method)
    tempered = (method,) if task.probabilistic and settings.temperature and method in TEMPERED else ()
    return Menu(plain, tempered)


def menu_named(method: str, problem: EnsembleProblem, metric: Metric, settings: EnsembleSettings) -> Menu:
    """The menu for "auto", or for a method that the user named.

    Raises:
        UsageError: there is no such method, or it is none for this task.
    """
    alone = problem.num_members == 1
    if method == "auto" and problem.parts and not alone:
        return Menu(SEVERAL_OUTPUTS, default="bagged greedy")
    if method == "auto":
        return menu_of_one("single best", problem.task, settings) if alone else menu(problem.task, metric, settings)
    if method == SHRUNK:
        return Menu(("single best",)) if alone else Menu(("single best", *PATH))
    name = method.lower().replace("_", " ").replace("nelder mead", "nelder-mead")
    if name not in METHODS:
        raise UsageError(
            explain("Ensemble.fit(method)", repr(method), '"auto", "shrunk", ' + ", ".join(METHODS), 'Try "auto".')
        )
    if problem.parts and name not in SEVERAL_OUTPUTS:
        allowed = "methods for several outputs: " + ", ".join(SEVERAL_OUTPUTS)
        raise UsageError(explain("Ensemble.fit(method)", f"{method!r} for several outputs", allowed, 'Try "greedy".'))
    if name in ("geometric", "power") and not problem.task.probabilistic:
        raise UsageError(
            explain(
                "Ensemble.fit(method)",
                f"{method!r} for regression",
                "methods for values: uniform, greedy, convex, exponential, stacking, ...",
                'Try "convex".',
            )
        )
    return menu_of_one("single best" if alone else name, problem.task, settings)


def for_retrained(fit: Fit, *, model_folds: bool) -> Fit:
    """The same fit of methods, whose weights are for models of the same configurations that are trained anew.

    Learned weights keep one half at most, and no temperature survives. Where all rows were predicted by the same
    models, nobody has seen how far weights carry over: then they keep no more than is reliable of the members'
    differences.
    """

    def carrying(problem: EnsembleProblem, context: Context) -> dict[str, Pool]:
        answer = {}
        for name, pool in fit(problem, context).items():
            if not (name.endswith("+ temperature") or name.startswith("calibrated ")):
                known = 1.0 if model_folds else reliability(problem.members(pool.support), context.metric)
                answer[name] = pool.carried(min(0.5, known))
        return answer

    return carrying


def within(fit: Fit, budget: CostBudget, costs: MemberCosts) -> Fit:
    """The same fit of methods, on the members that greedy selection would buy with the budget."""
    if not budget.limited:
        return fit

    def limited(problem: EnsembleProblem, context: Context) -> dict[str, Pool]:
        chosen = affordable(problem, context, budget, costs)
        pools = fit(problem.members(chosen), context)
        return {name: pool.expand(chosen, problem.num_members) for name, pool in pools.items()}

    return limited


def affordable(problem: EnsembleProblem, context: Context, budget: CostBudget, costs: MemberCosts) -> np.ndarray:
    """Indices of members chosen greedily until nothing more fits the budget.

    The first is the best member that fits. Then the member that helps most among those that still fit, and so on;
    once no more helps, the rest of the budget is not spent.
    """
    own = own_losses(problem, context.metric)
    fitting = [index for index in np.argsort(own, kind="stable") if costs.fits([int(index)], budget)]
    chosen = [int(fitting[0])]
    # Selection starts anew with every member bought: which of them helps most depends on what is in already.
    while True:
        open_ones = [i for i in range(problem.num_members) if i not in chosen and costs.fits([*chosen, i], budget)]
        if not open_ones:
            break
        among = np.array([*chosen, *open_ones])
        path = greedy_path(problem.members(among), context.metric, num_steps=context.settings.num_steps)
        new = next((int(among[member]) for member, _ in path if member >= len(chosen)), None)
        if new is None:
            break
        chosen.append(new)
    return np.sort(chosen)
