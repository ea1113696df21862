"""Regularised evolution: tournament, crossover, typed mutation, and death of the oldest (Real et al. 2019).

The population is not stored: it is the last `population_size` trials of the history. That is what "regularised"
means here: trials die of age, not of rank, so a lucky score cannot stay for ever.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from manyfit.core.errors import UsageError, explain
from manyfit.core.records import Observation, Value, Values
from manyfit.samplers.base import Constraint, Sampler, standings
from manyfit.samplers.candidates import draw_new, next_point, tried
from manyfit.space.encoding import Encoding
from manyfit.space.hyperparameters import HyperParameters

_MAX_ATTEMPTS = 50  # mutations that lead to known configurations, before chance takes over
_SCALES = np.array([0.02, 0.1, 0.3])  # of the steps that numbers take, in units of the cube's edge


class EvolutionSampler(Sampler):
    """Breeds new configurations from the best of small random tournaments among recent trials.

    A child takes each hyperparameter from one of two parents (`crossover_rate` of the time, otherwise it has one
    parent), then mutates: on average one active hyperparameter, by its type. Numbers step up or down on their own
    scale, small steps more often than large ones and by at least one value; categories are redrawn; what a
    mutation switches on starts at random. Failed and diverged trials lose every tournament. With several objectives
    the better front wins, within a front the trial with more room around it (Deb et al. 2002).

    Args:
        population_size: trials that can be parents: the youngest so many.
        tournament_size: how many of them compete to become a parent; more is greedier.
        crossover_rate: share of children with two parents.
        constraints: on metrics of trials; those that break them lose against those that do not.

    Raises:
        UsageError: an argument out of its range.

    Example:

    >>> space = HyperParameters()
    >>> _ = space.Float("rate", 1e-4, 1e-1, sampling="log"), space.Choice("optimizer", ["adam", "sgd"])
    >>> len(EvolutionSampler().propose(space, [], [], 5, np.random.default_rng(0)))
    5
    """

    uses_earlier = True

    def __init__(
        self,
        population_size: int = 24,
        *,
        tournament_size: int = 6,
        crossover_rate: float = 0.5,
        constraints: Sequence[Constraint] = (),
    ) -> None:
        _check("population_size", population_size, population_size >= 2, "2 or more")
        _check("tournament_size", tournament_size, 1 <= tournament_size <= population_size, "1 to population_size")
        _check("crossover_rate", crossover_rate, 0.0 <= crossover_rate <= 1.0, "0 to 1")
        self.population_size = population_size
        self.tournament_size = tournament_size
        self.crossover_rate = crossover_rate
        self.constraints = tuple(constraints)

    def settings(self) -> dict[str, Any]:
        """Name and arguments."""
        return {
            "name": type(self).__name__,
            "population_size": self.population_size,
            "tournament_size": self.tournament_size,
            "crossover_rate": self.crossover_rate,
            "constraints": [str(each) for each in self.constraints],
        }

    def propose(
        self,
        space: HyperParameters,
        completed: Sequence[Observation],
        pending: Sequence[Values],
        count: int,
        rng: np.random.Generator,
    ) -> list[dict[str, Value]]:
        """Up to `count` new configurations; see `Sampler.propose`."""
        encoding = Encoding(space)
        # Pending ones too, or a batch would propose one child twice.
        taken = tried(encoding, completed, pending)
        found: list[dict[str, Value]] = []
        # Age by start, not by end: then a resumed search has the same population whatever finished first.
        population = completed[-self.population_size :]
        points = encoding.encode_many([encoding.adapt(each.values) for each in population])
        losses = standings(population, self.constraints)
        # Half a population of chance first: fewer ancestors than that, and crossover has nothing to recombine.
        num_random = max(self.population_size // 2 - len(completed) - len(pending), 0)
        # A space of fixed values has nothing to mutate, and one parent nobody to be compared with.
        breed = len(encoding) > 0 and len(points) > 1
        for i in range(count):
            values = None
            if breed and i >= num_random:
                values = self._child(encoding, points, losses, taken, rng)
            if values is None:
                values = _spread(encoding, completed, found, taken, rng)
            if values is None:
                break
            taken.add(encoding.key(values))
            found.append(values)
        return found

    def _child(
        self, encoding: Encoding, points: np.ndarray, losses: np.ndarray, taken: set[Any], rng: np.random.Generator
    ) -> dict[str, Value] | None:
        """A child that is new; None when too many attempts were not."""
        for _ in range(_MAX_ATTEMPTS):
            child = points[self._parent(losses, rng)]
            if rng.random() < self.crossover_rate:
                other = points[self._parent(losses, rng)]
                child = np.where((rng.random(child.size) < 0.5) & ~np.isnan(other), other, child)
            # Duplicates are dropped and not repaired: a repaired child would no longer be a draw of the mutation.
            values = encoding.decode(mutate(encoding, child, rng))
            if encoding.key(values) not in taken:
                return values
        return None

    def _parent(self, losses: np.ndarray, rng: np.random.Generator) -> int:
        """The winner of a tournament; ties go to chance."""
        size = min(self.tournament_size, len(losses))
        rivals = rng.choice(len(losses), size=size, replace=False)
        return int(rivals[np.argmin(losses[rivals])])


def mutate(encoding: Encoding, point: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Changes one active coordinate on average, at least one, each by its type.

    Args:
        encoding: of the space.
        point: (d,) coordinates, NaN where inactive.
        rng: the source of randomness.

    Returns:
        (d,) coordinates without NaN: inactive ones get a random value, should the mutation switch them on.
    """
    fresh = rng.random(point.size)
    active = np.flatnonzero(~np.isnan(point))
    mutated = np.where(np.isnan(point), fresh, point)
    if not active.size:
        return mutated
    # Rate 1 / d, the classical optimum on separable problems (Muehlenbein 1992); fixed counts would never change two
    # together.
    chosen = active[rng.random(active.size) < 1.0 / active.size]
    if not chosen.size:
        chosen = rng.choice(active, size=1)
    for j in chosen:
        mutated[j] = _moved(encoding, int(j), float(point[j]), rng)
    return mutated


def _moved(encoding: Encoding, column: int, position: float, rng: np.random.Generator) -> float:
    """Another position of one dimension."""
    dimension = encoding.dimensions[column]
    count = dimension.num_values
    step = float(rng.choice(_SCALES) * rng.standard_normal())
    if count is None:
        folded = abs(position + step) % 2.0  # back from the edge, where clipping would pile up
        return 2.0 - folded if folded > 1.0 else folded
    here = int(dimension.hyperparameter.indices(position))
    if dimension.kind == "unordered":
        there = int(rng.integers(count - 1))
        # Drawn among the others, so that a mutation of a category always changes it.
        there += there >= here
    else:
        # In positions, so that a log scale counts; at least one value away, so that the mutation is one.
        target = int(dimension.hyperparameter.indices(np.clip(position + step, 0.0, 1.0)))
        there = target if target != here else here + (1 if step > 0 else -1)
        there = there if 0 <= there < count else 2 * here - there
    return float(dimension.hyperparameter.centres(there))


def _spread(
    encoding: Encoding,
    completed: Sequence[Observation],
    found: Sequence[Values],
    taken: set[Any],
    rng: np.random.Generator,
) -> dict[str, Value] | None:
    """The defaults if they are new, then gap-filling points, then anything new; None if nothing is left."""
    defaults = encoding.defaults()
    if encoding.key(defaults) not in taken:
        return defaults
    if len(encoding):
        there = [encoding.adapt(each.values) for each in completed if not each.earlier] + list(found)
        values = encoding.decode(next_point(encoding, encoding.encode_many(there), rng))
        if encoding.key(values) not in taken:
            return values
    return next(iter(draw_new(encoding, taken, 1, rng)), None)


def _check(name: str, got: object, fine: bool, allowed: str) -> None:
    if not fine:
        raise UsageError(explain("EvolutionSampler", f"{name}={got!r}", allowed, f"Leave {name} out for the default."))
