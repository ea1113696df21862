"""`GaussianProcessSampler`: Bayesian optimisation over mixed, conditional, noisy, finite or endless spaces."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np

from manyfit.core.errors import UsageError, explain
from manyfit.core.records import Observation, Value, Values
from manyfit.samplers import filling, known
from manyfit.samplers.base import Sampler
from manyfit.samplers.gp import model
from manyfit.samplers.gp.data import Evidence, collect
from manyfit.samplers.gp.feasibility import log_odds_of_constraints, log_odds_of_success
from manyfit.samplers.gp.kernels import Array, Geometry
from manyfit.samplers.gp.optimise import Effort, Moves, Score, best_first
from manyfit.samplers.gp.priors import Belief, LogBelief
from manyfit.samplers.gp.score import ConfidenceBound, ExpectedImprovement, Lifted, Sum
from manyfit.samplers.gp.surrogate import NoisePrior
from manyfit.samplers.outcomes import Constraint
from manyfit.space.encoding import Encoding
from manyfit.space.hyperparameters import HyperParameters

_NUM_VERSIONS = 16  # imagined outcomes of pending trials
_NUM_ANYWHERE = 2_048  # candidates of the first points, of which beliefs choose
_NUM_BELIEVED = 64
_DOUBT_EVERY = 3
_DOUBT_AFTER = 4  # trials per dimension
_MAX_LISTED = 2_000  # finite spaces with at most so much left are scored in full instead of searched


class GaussianProcessSampler(Sampler):
    """Proposes what a Gaussian process expects to improve most on the best posterior mean.

    The first proposal is the configuration of defaults, some more fill the space evenly, then the model decides.

    Args:
        num_initial_points: trials before the model decides; None: dimensions + 1, at least 3 and at most 5. Trials
            that are there already, whoever proposed them, count.
        alpha: noise variance that is expected, relative to the variance of the objective: the centre of a wide
            prior; the data decide.
        beta: None for expected improvement. A number minimises the mean minus `beta` standard deviations instead,
            as KerasTuner does.
        constraints: on metrics of the trials. Proposals are likely to keep them, and only trials that keep them can
            be the incumbent. As long as none does, the search looks for one.
        beliefs: where the user expects good values; they steer early and fade.

    Raises:
        UsageError: an argument out of its range.

    Example:

    >>> space = HyperParameters()
    >>> _ = space.Int("layers", 1, 3), space.Float("rate", 1e-4, 1e-1, sampling="log", default=1e-3)
    >>> GaussianProcessSampler().propose(space, [], [], 1, np.random.default_rng(0))
    [{'layers': 1, 'rate': 0.001}]
    """

    def __init__(
        self,
        num_initial_points: int | None = None,
        *,
        alpha: float = 1e-4,
        beta: float | None = None,
        constraints: Sequence[Constraint] = (),
        beliefs: Sequence[Belief] = (),
    ) -> None:
        _check(
            "num_initial_points", num_initial_points, num_initial_points is None or num_initial_points >= 1, "1 or more"
        )
        _check("alpha", alpha, math.isfinite(alpha) and alpha > 0, "a number above 0")
        _check("beta", beta, beta is None or (math.isfinite(beta) and beta >= 0), "None, or a number of at least 0")
        self.num_initial_points = num_initial_points
        self.alpha = alpha
        self.beta = beta
        self.constraints = tuple(constraints)
        self.beliefs = tuple(beliefs)

    def settings(self) -> dict[str, Any]:
        """Name and arguments."""
        return {
            "name": type(self).__name__,
            "num_initial_points": self.num_initial_points,
            "alpha": self.alpha,
            "beta": self.beta,
            "constraints": [dataclasses.asdict(each) for each in self.constraints],
            "beliefs": [dataclasses.asdict(each) for each in self.beliefs],
        }

    def propose(
        self,
        space: HyperParameters,
        completed: Sequence[Observation],
        pending: Sequence[Values],
        count: int,
        rng: np.random.Generator,
    ) -> list[dict[str, Value]]:
        """Up to `count` new configurations that are useful together; see `Sampler.propose`."""
        encoding = Encoding(space)
        proposals = _Proposals(encoding, completed, pending, self.beliefs)
        start = self._num_initial(encoding)
        while len(proposals.found) < count and len(proposals.points) < start:
            if not proposals.add_initial(rng):
                return proposals.found
        if len(proposals.found) == count:
            return proposals.found
        evidence = collect(encoding, completed, self.constraints)
        odds = self._odds(encoding, completed, evidence)
        if len(evidence.losses) < 2 or not (len(evidence.full) or odds):
            return proposals.fill(count, rng)
        members = self.fit(encoding, evidence)
        moves = Moves(encoding)
        centers = _centers(encoding, evidence, members)
        effort = Effort.after(len(evidence.losses))
        while len(proposals.found) < count:
            believed = members
            if _doubts(len(proposals.points), len(evidence.losses), encoding):
                believed = [model.doubt(each, evidence) for each in members]
            score = self._score(encoding, believed, evidence, odds, proposals.waiting(), rng)
            left = proposals.left()
            if left is not None:
                if not proposals.add_best_of(left, score):
                    break
                continue
            ranked = best_first(score, centers, proposals.points, moves=moves, effort=effort, rng=rng)
            if not any(proposals.add_point(point) for point in ranked):
                return proposals.fill(count, rng)
        return proposals.found

    def rank(self, space: HyperParameters, completed: Sequence[Observation]) -> list[Observation]:
        """Trials with a score, the best posterior mean first: noise is averaged out over neighbours and replicates.

        Trials that were stopped early are ranked as if they had been trained in full.
        """
        encoding = Encoding(space)
        scored = [each for each in completed if math.isfinite(each.loss)]
        evidence = collect(encoding, completed)
        if len(evidence.losses) < 2 or not len(encoding):
            return sorted(scored, key=lambda each: each.loss)
        members = self.fit(encoding, evidence)
        points = encoding.encode_many([encoding.adapt(each.values) for each in scored])
        order = np.argsort(model.posterior_mean(members, evidence.lift(points)), kind="stable")
        return [scored[i] for i in order]

    def fit(self, encoding: Encoding, evidence: Evidence) -> list[model.Member]:
        """The model of the loss that the evidence supports."""
        noise = dataclasses.replace(NoisePrior(), center=math.log(self.alpha))
        return model.fit(evidence, _geometry(encoding, evidence.with_fidelity), noise)

    def _num_initial(self, encoding: Encoding) -> int:
        if self.num_initial_points is not None:
            return self.num_initial_points
        typical = int(np.ceil(encoding.active(encoding.defaults()).sum())) if len(encoding) else 0
        return min(max(typical + 1, 3), 5)

    def _score(
        self,
        encoding: Encoding,
        members: Sequence[model.Member],
        evidence: Evidence,
        odds: Sequence[Score],
        waiting: Array,
        rng: np.random.Generator,
    ) -> Score:
        """The acquisition function, given what is pending."""
        if not len(evidence.full):
            return Sum(odds)  # nothing keeps the constraints yet: nothing to improve on
        if len(waiting):
            members = [_imagine(each, waiting, evidence, rng) for each in members]
        score: Score
        score = ExpectedImprovement(members) if self.beta is None else ConfidenceBound(members, self.beta)
        if evidence.with_fidelity:
            score = Lifted(score)
        belief = [LogBelief(encoding, self.beliefs, len(evidence.losses))] if self.beliefs else []
        return Sum([score, *odds, *belief])

    def _odds(self, encoding: Encoding, completed: Sequence[Observation], evidence: Evidence) -> list[Score]:
        """What a proposal has to be besides good: likely to get a score, likely to keep the constraints."""
        geometry = _geometry(encoding, False)
        failures = log_odds_of_success(geometry, evidence)
        scores = log_odds_of_constraints(geometry, encoding, completed, self.constraints)
        if failures is not None:
            scores.append(failures)
        return scores


def _check(name: str, got: Any, fine: bool, allowed: str) -> None:
    if not fine:
        raise UsageError(
            explain("GaussianProcessSampler", f"{name}={got!r}", allowed, f"Leave {name} out for the default.")
        )


def _geometry(encoding: Encoding, with_fidelity: bool) -> Geometry:
    unordered = [each.kind == "unordered" for each in encoding.dimensions]
    return Geometry(np.array(unordered + [False] * with_fidelity, dtype=bool))


def _doubts(num_trials: int, num_scored: int, encoding: Encoding) -> bool:
    """Whether this proposal mistrusts the length scales: every third one, once there is something to be wrong about."""
    return num_trials % _DOUBT_EVERY == 0 and num_scored >= _DOUBT_AFTER * len(encoding)


def _centers(encoding: Encoding, evidence: Evidence, members: Sequence[model.Member]) -> Array:
    """Points that ran, the best posterior mean first."""
    full = evidence.full if len(evidence.full) else evidence.points[:, : len(encoding)]
    centers: Array = full[np.argsort(model.posterior_mean(members, evidence.lift(full)), kind="stable")]
    return centers


def _imagine(member: model.Member, pending: Array, evidence: Evidence, rng: np.random.Generator) -> model.Member:
    """The member with imagined outcomes at pending points, which may become incumbents."""
    surrogate = member.surrogate.fantasise(evidence.lift(pending), _NUM_VERSIONS, rng)
    return dataclasses.replace(member, surrogate=surrogate, incumbents=model.lowest_means(surrogate, evidence, pending))


class _Proposals:
    """Configurations that were tried, are pending or were just chosen, and the rule that none comes twice."""

    def __init__(
        self,
        encoding: Encoding,
        completed: Sequence[Observation],
        pending: Sequence[Values],
        beliefs: Sequence[Belief] = (),
    ) -> None:
        self._encoding = encoding
        self._beliefs = beliefs
        ended = [encoding.adapt(each.values) for each in completed]
        running = [encoding.adapt(values) for values in pending]
        self._keys: set[Hashable] = {encoding.key(values) for values in ended + running}
        self._num_ended = len(ended)
        self.points = encoding.encode_many(ended + running)
        self.found: list[dict[str, Value]] = []
        self._left: list[dict[str, Value]] | None = None
        size = encoding.num_configurations(known.MAX_LISTED)
        if size is not None and size - len(self._keys) <= _MAX_LISTED:
            self._left = known.untried(encoding, self._keys)

    def waiting(self) -> Array:
        """(k, d) points without a result: pending ones, and those just chosen."""
        return self.points[self._num_ended :]

    def left(self) -> list[dict[str, Value]] | None:
        """All that was never tried, if that is a short list."""
        if self._left is not None:
            self._left = [values for values in self._left if self._encoding.key(values) not in self._keys]
        return self._left

    def add(self, values: dict[str, Value]) -> bool:
        """Takes a configuration unless it is known."""
        key = self._encoding.key(values)
        if key in self._keys:
            return False
        self._keys.add(key)
        self.found.append(values)
        self.points = np.concatenate([self.points, self._encoding.encode(values)[None, :]])
        return True

    def add_point(self, point: Array) -> bool:
        """Takes the configuration at a point unless it is known."""
        return self.add(self._encoding.decode(point))

    def add_initial(self, rng: np.random.Generator) -> bool:
        """Takes the defaults if they are new, else a point in the largest gap, else anything new."""
        if self.add(self._encoding.defaults()):
            return True
        if len(self._encoding):
            candidates = None
            if self._beliefs:
                anywhere = self._encoding.snap(rng.random((_NUM_ANYWHERE, len(self._encoding))))
                candidates = LogBelief(self._encoding, self._beliefs, 1).draw(anywhere, _NUM_BELIEVED, rng)
            if self.add_point(filling.next_point(self._encoding, self.points, rng, candidates)):
                return True
        return any(self.add(values) for values in known.draw_new(self._encoding, self._keys, 1, rng))

    def add_best_of(self, left: list[dict[str, Value]], score: Score) -> bool:
        """Takes the best of what is left of a finite space; False when nothing is."""
        if not left:
            return False
        values = score(self._encoding.encode_many(left))
        return self.add(left[int(np.argmax(values))])

    def fill(self, count: int, rng: np.random.Generator) -> list[dict[str, Value]]:
        """All that was found, filled up by initial points."""
        while len(self.found) < count and self.add_initial(rng):
            pass
        return self.found
