"""The contract of samplers: what to try next.

And what comes out of trials besides one loss (bounds on other metrics, several objectives) with one order over it all.
"""

from __future__ import annotations

import abc
import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from manyfit.core.errors import UsageError, explain
from manyfit.core.records import Observation, Value, Values
from manyfit.core.signatures import NAME, checked_arguments
from manyfit.space.hyperparameters import HyperParameters
from manyfit.stats import pareto


class Sampler(abc.ABC):
    """Proposes configurations: a pure function of the recorded history.

    A sampler holds its settings and nothing else. Database, clock and tuner stay outside, so a search that was
    killed goes on as if nothing had happened. Caches may make a sampler fast, they may never change its answers.
    """

    #: Whether proposals depend on results. The oracle asks a sampler that does not learn for one proposal at a
    #: time, each with the generator of that trial, so its proposals do not depend on how trials are batched.
    learns: bool = True

    #: Whether it can make use of trials of earlier searches (`Observation.earlier`), which come first among the
    #: completed ones. They say where to look and were not tried in this search; other samplers are not given them.
    uses_earlier: bool = False

    #: Where its user expects good values.
    beliefs: tuple[Belief, ...] = ()

    @abc.abstractmethod
    def propose(
        self,
        space: HyperParameters,
        completed: Sequence[Observation],
        pending: Sequence[Values],
        count: int,
        rng: np.random.Generator,
    ) -> list[dict[str, Value]]:
        """Proposes up to `count` different configurations.

        Args:
            space: the search space as known so far.
            completed: every trial that ended, in the order of its start, failed and diverged ones included.
            pending: the values of trials that were proposed and have not ended.
            count: how many proposals are wanted, at least 1.
            rng: the only source of randomness.

        Returns:
            Values of the active hyperparameters, fixed ones included; none of a trial of this search, completed or
            pending, whose missing hyperparameters had their defaults (`samplers.candidates.tried`). Fewer than `count`
            when less than that is left to try; an empty list means that the space is exhausted, and ends the search
            (`samplers.candidates.draw_new` finds what is left).
        """

    def rank(self, space: HyperParameters, completed: Sequence[Observation]) -> list[Observation]:
        """The trials of this search that have a score, the best first: what the sampler would hand to its user.

        A sampler with a model of the noise ranks by what it expects; the others have nothing but the scores.
        """
        del space
        scored = [each for each in completed if math.isfinite(each.loss) and not each.earlier]
        places = standings(scored)
        return [scored[i] for i in np.argsort(places, kind="stable")]

    def with_beliefs(self, beliefs: Sequence[Belief]) -> Sampler:
        """This sampler, steered by beliefs besides its own; itself where it has no use for any.

        Args:
            beliefs: where good values are expected; its own come first.
        """
        del beliefs
        return self

    def settings(self) -> dict[str, Any]:
        """Name and arguments, as JSON. The name is stored with the project, and compared when it is reopened."""
        return {"name": type(self).__name__}


OTHER_CATEGORY = 0.2
"""How likely another category is, relative to the one that is believed in."""


@checked_arguments(name=NAME)
@dataclasses.dataclass(frozen=True)
class Belief:
    """Where one hyperparameter is believed to be good.

    Args:
        name: the hyperparameter.
        value: the most likely value. Numbers outside the bounds count as the bound.
        spread: standard deviation, as a share of the range on the hyperparameter's own scale; categories ignore it.

    Raises:
        UsageError: a spread that is not positive.
    """

    name: str
    value: Value
    spread: float = 0.15

    def __post_init__(self) -> None:
        if not (math.isfinite(self.spread) and self.spread > 0):
            raise UsageError(
                explain(f'Belief("{self.name}")', f"spread={self.spread}", "more than 0", "Type spread=0.15.")
            )


def besides(own: Sequence[Belief], others: Sequence[Belief]) -> tuple[Belief, ...]:
    """Beliefs, and those of others about further names."""
    named = {each.name for each in own}
    return (*own, *(each for each in others if each.name not in named))


@checked_arguments(metric=NAME)
@dataclasses.dataclass(frozen=True)
class Constraint:
    """A bound on a metric of the trials: its size, its latency, or anything that is logged.

    Args:
        metric: its name.
        max: most that is allowed; None: no upper bound.
        min: least that is allowed; None: no lower bound.

    Raises:
        UsageError: neither bound is given, or both, or it is not finite.

    Example:

    >>> Constraint("model_bytes", max=1e6).holds({"model_bytes": 2e5})
    True
    """

    metric: str
    max: float | None = None
    min: float | None = None

    def __post_init__(self) -> None:
        given = [each for each in (self.max, self.min) if each is not None]
        if len(given) != 1 or not math.isfinite(given[0]):
            raise UsageError(
                explain(
                    f'Constraint("{self.metric}")',
                    f"max={self.max}, min={self.min}",
                    "one finite bound, max= or min=",
                    "Use two constraints for an interval.",
                )
            )

    def excess(self, metrics: Mapping[str, float]) -> float:
        """By how much the bound is broken: at most 0 if it is kept, NaN if the metric is missing."""
        value = metrics.get(self.metric, math.nan)
        return value - self.max if self.max is not None else (self.min or 0.0) - value

    def holds(self, metrics: Mapping[str, float]) -> bool:
        """Whether the bound is kept; a missing metric keeps nothing."""
        return self.excess(metrics) <= 0.0

    def __str__(self) -> str:
        return f"{self.metric} <= {self.max:g}" if self.max is not None else f"{self.metric} >= {self.min:g}"


def broken(constraints: Sequence[Constraint], metrics: Mapping[str, float]) -> float:
    """By how much metrics break constraints: 0 if they keep all, else the sum of the shares by which bounds are missed.

    Each excess counts in units of its bound, so that bytes and seconds can be added; a missing metric counts as `inf`.

    Example:

    >>> constraints = [Constraint("model_bytes", max=100.0), Constraint("val_accuracy", min=0.5)]
    >>> broken(constraints, {"model_bytes": 150.0, "val_accuracy": 0.6})
    0.5
    """
    total = 0.0
    for each in constraints:
        excess = each.excess(metrics)
        if math.isnan(excess):
            return math.inf
        bound = each.max if each.max is not None else each.min
        total += max(excess, 0.0) / (abs(bound) if bound else 1.0)
    return total


def standings(completed: Sequence[Observation], constraints: Sequence[Constraint] = ()) -> np.ndarray:
    """One number per trial that orders them, lower is better; `inf` for a trial without a score.

    One objective without constraints: the loss. Otherwise places: trials that keep the constraints first, with
    several objectives by front and by room in it, then the others, those that break the constraints least first.

    Returns:
        (n,) numbers.
    """
    losses = np.array([each.loss for each in completed], dtype=float)
    # NaN too, which every comparison would otherwise treat in its own way.
    losses[~np.isfinite(losses)] = np.inf
    if not constraints and not any(each.vectors for each in completed):
        return losses
    found = losses.copy()
    if any(each.vectors for each in completed):
        width = max(len(each.mean_vector) for each in completed)
        vectors = [each.mean_vector or (math.inf,) * width for each in completed]
        found = pareto.places(np.array(vectors)).astype(float)
    excess = np.array([broken(constraints, each.metrics) for each in completed])
    # The last key decides first: constraints before losses, as Deb's rule of feasibility has it.
    order = np.lexsort((found, excess))
    placed = np.empty(len(completed))
    placed[order] = np.arange(len(completed))
    placed[~np.isfinite(losses)] = np.inf
    return placed
