"""The contract of samplers: what to try next."""

from __future__ import annotations

import abc
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from manyfit.core.records import Observation, Value, Values
from manyfit.samplers.outcomes import standings
from manyfit.space.hyperparameters import HyperParameters


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
            Values of the active hyperparameters, fixed ones included. Fewer than `count` when less than that is
            left to try; an empty list means that the space is exhausted.
        """

    def rank(self, space: HyperParameters, completed: Sequence[Observation]) -> list[Observation]:
        """The trials of this search that have a score, the best first: what the sampler would hand to its user.

        A sampler with a model of the noise ranks by what it expects; the others have nothing but the scores.
        """
        del space
        scored = [each for each in completed if math.isfinite(each.loss) and not each.earlier]
        places = standings(scored)
        return [scored[i] for i in np.argsort(places, kind="stable")]

    def settings(self) -> dict[str, Any]:
        """What distinguishes this sampler from another, as JSON: stored with the project and compared on reopening."""
        return {"name": type(self).__name__}
