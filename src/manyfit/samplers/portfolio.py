"""The sampler for who does not want to choose one: picks by space and history, and says which."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from manyfit.core.records import Observation, Value, Values
from manyfit.samplers.base import Belief, Constraint, Sampler, besides
from manyfit.samplers.evolution import EvolutionSampler
from manyfit.samplers.gp.sampler import GaussianProcessSampler
from manyfit.samplers.non_adaptive import GridSampler
from manyfit.space.encoding import Encoding
from manyfit.space.hyperparameters import HyperParameters

_MAX_MODELLED = 600  # trials up to which a Gaussian process decides in well under a second
_MAX_DIMENSIONS = 80


@dataclasses.dataclass(frozen=True)
class Selection:
    """Which sampler, and the sentence that says why."""

    sampler: Sampler
    reason: str


class PortfolioSampler(Sampler):
    """Grid where everything will be tried anyway, a Gaussian process as long as it is quick, then evolution.

    The choice depends on the space, the budget and the number of trials only, so it is the same after a restart.

    Args:
        max_trials: budget of the search, None if unknown.
        constraints: on metrics of trials, for the samplers that learn.
        beliefs: of the user, for the Gaussian process.

    Example:

    >>> space = HyperParameters()
    >>> _ = space.Boolean("bias"), space.Choice("units", [16, 32])
    >>> PortfolioSampler(max_trials=100).choose(space, 0).reason
    'grid: 4 configurations are no more than the 100 trials allowed'
    """

    uses_earlier = True

    def __init__(
        self,
        max_trials: int | None = None,
        *,
        constraints: Sequence[Constraint] = (),
        beliefs: Sequence[Belief] = (),
    ) -> None:
        self.max_trials = max_trials
        self.constraints = tuple(constraints)
        self.beliefs = tuple(beliefs)

    def settings(self) -> dict[str, Any]:
        """The name. The budget may be raised between sessions: it is no part of a project's identity."""
        return {"name": type(self).__name__}

    def with_beliefs(self, beliefs: Sequence[Belief]) -> PortfolioSampler:
        """See `Sampler.with_beliefs`."""
        steered = besides(self.beliefs, beliefs)
        return PortfolioSampler(self.max_trials, constraints=self.constraints, beliefs=steered)

    def choose(self, space: HyperParameters, num_trials: int) -> Selection:
        """The sampler for the next proposals.

        Args:
            space: the space as known so far.
            num_trials: how many trials there are.
        """
        encoding = Encoding(space)
        size = encoding.num_configurations(self.max_trials) if self.max_trials else None
        if size is not None:
            few = "1 configuration is" if size == 1 else f"{size} configurations are"
            return Selection(GridSampler(), f"grid: {few} no more than the {self.max_trials} trials allowed")
        if len(encoding) > _MAX_DIMENSIONS:
            reason = f"evolution: {len(encoding)} hyperparameters are too many for a Gaussian process"
            return Selection(EvolutionSampler(constraints=self.constraints), reason)
        if num_trials > _MAX_MODELLED:
            reason = f"evolution: after {_MAX_MODELLED} trials a Gaussian process takes longer than it is worth"
            return Selection(EvolutionSampler(constraints=self.constraints), reason)
        sampler = GaussianProcessSampler(constraints=self.constraints, beliefs=self.beliefs)
        return Selection(sampler, "Bayesian optimisation with a Gaussian process")

    def rank(self, space: HyperParameters, completed: Sequence[Observation]) -> list[Observation]:
        """As a Gaussian process ranks them, as long as one decides in time; see `Sampler.rank`."""
        if len(completed) > _MAX_MODELLED or len(Encoding(space)) > _MAX_DIMENSIONS:
            return super().rank(space, completed)
        return GaussianProcessSampler().rank(space, completed)

    def propose(
        self,
        space: HyperParameters,
        completed: Sequence[Observation],
        pending: Sequence[Values],
        count: int,
        rng: np.random.Generator,
    ) -> list[dict[str, Value]]:
        """Whatever the sampler of the hour proposes; see `Sampler.propose`."""
        # Trials of earlier searches are no part of this budget.
        own = sum(not each.earlier for each in completed)
        sampler = self.choose(space, own + len(pending)).sampler
        if not sampler.uses_earlier:
            completed = [each for each in completed if not each.earlier]
        return sampler.propose(space, completed, pending, count, rng)
