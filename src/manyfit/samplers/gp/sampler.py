"""`GaussianProcessSampler`: Bayesian optimisation over mixed, conditional, noisy, finite or endless spaces.

`ProposalBatch` is what one call of it has chosen so far, and the rule that no configuration comes twice.

A `Belief` tells where good values of one hyperparameter are (Hvarfner et al. 2022, piBO):

(1) log acquisition + strength / trials * log belief

A belief steers the first trials and fades as results come in, so a wrong one costs trials but never the optimum. It
is never zero anywhere, so beliefs cannot exclude everything between them.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np

from manyfit.core.errors import UsageError, explain
from manyfit.core.records import Observation, Value, Values
from manyfit.samplers.base import OTHER_CATEGORY, Belief, Constraint, Sampler, besides, standings
from manyfit.samplers.candidates import MAX_LISTED, draw_new, next_point, settled, untried
from manyfit.samplers.gp.acquisition import Sum, log_odds_of_constraints, log_odds_of_success
from manyfit.samplers.gp.data import Evidence
from manyfit.samplers.gp.kernels import Array
from manyfit.samplers.gp.optimise import Effort, Moves, Score, best_first
from manyfit.samplers.gp.problem import LossModel, OneLoss, SeveralLosses, geometry_of
from manyfit.samplers.gp.surrogate import NoisePrior
from manyfit.space.encoding import Encoding
from manyfit.space.hyperparameters import HyperParameters

_CLOSE_EVERY = 2
_DOUBT_EVERY = 3
_DOUBT_AFTER = 4  # trials per dimension


class GaussianProcessSampler(Sampler):
    """Proposes what a Gaussian process expects to improve most on the best posterior mean.

    The first proposal is the configuration of defaults, some more fill the space evenly, then the model decides. Where
    trials have several losses it expects to improve the hypervolume that their front dominates. Where trials of earlier
    searches are among the completed ones, their winners come first, and how much the rest is worth is learned.

    Args:
        num_initial_points: trials before the model decides; None: dimensions + 1, at least 3 and at most 8. Trials
            that are there already, whoever proposed them, count, and so do those of earlier searches.
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

    uses_earlier = True

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
        """Up to `count` new configurations that are useful together; see `Sampler.propose`.

        First come points that fill the space evenly, until there are enough for a model. Then the model is fitted once,
        and the batch is built one point after another: each is the best under a score that takes those already found
        for measured, so that the next one looks elsewhere. Where nothing can be scored yet the space is filled further.
        """
        encoding = Encoding(space)
        # Everything from history, nothing from `self`: a new process has to propose what this one would have.
        proposals = ProposalBatch(encoding, completed, pending, self.beliefs)
        start = self._num_initial(encoding, completed)
        while len(proposals.found) < count and len(proposals.points) < start:
            if not proposals.add_initial(rng):
                return proposals.found
        if len(proposals.found) == count:
            return proposals.found
        problem = self._problem(encoding, completed)
        num_rows, has_incumbent = problem.num_rows, len(problem.evidence.full) > 0
        others = self._odds(encoding, completed, problem.evidence)
        # One measurement has no variance to learn from; and without an incumbent or odds there is nothing to score by.
        if num_rows < 2 or not (has_incumbent or others):
            return proposals.fill(count, rng)
        if self.beliefs and has_incumbent:
            others.append(LogBelief(encoding, self.beliefs, num_rows))
        problem.fit()
        moves = Moves(encoding)
        # Once for the whole batch: what is pending changes scores, not which finished trials are good.
        centers = problem.centers()
        effort = Effort.after(num_rows)
        while len(proposals.found) < count:
            scores = list(others)
            if has_incumbent:  # else nothing keeps the constraints yet: nothing to improve on
                doubting = _doubts(len(proposals.points), num_rows, encoding)
                scores.append(problem.score(proposals.waiting(), doubting=doubting, rng=rng))
            left = proposals.left()
            # A finite space with few configurations left: all of them are scored, which is exact, and cheaper than
            # climbing.
            if left is not None:
                if not proposals.add_best_of(left, Sum(scores)):
                    break
                continue
            held = centers[0] if _stays_close(proposals, num_rows, encoding) else None
            pool = moves.pool(centers, effort, rng) if held is None else moves.planes(held, effort, rng)
            ranked = best_first(Sum(scores), pool, proposals.points, moves=moves, effort=effort, rng=rng, held=held)
            if not any(proposals.add_point(point) for point in ranked):
                return proposals.fill(count, rng)
        return proposals.found

    def rank(self, space: HyperParameters, completed: Sequence[Observation]) -> list[Observation]:
        """Trials with a score, the best posterior mean first: noise is averaged out over neighbours and replicates.

        Trials that were stopped early are ranked as if they had been trained in full.
        """
        encoding = Encoding(space)
        scored = [each for each in completed if math.isfinite(each.loss) and not each.earlier]
        problem = self._problem(encoding, completed)
        if problem.num_rows < 2 or not len(encoding) or not scored:
            return sorted(scored, key=lambda each: each.loss)
        problem.fit()
        points = encoding.encode_many([encoding.adapt(each.values) for each in scored])
        order = problem.order(points)
        return [scored[i] for i in order]

    def with_beliefs(self, beliefs: Sequence[Belief]) -> GaussianProcessSampler:
        """See `Sampler.with_beliefs`."""
        return GaussianProcessSampler(
            self.num_initial_points,
            alpha=self.alpha,
            beta=self.beta,
            constraints=self.constraints,
            beliefs=besides(self.beliefs, beliefs),
        )

    def _problem(self, encoding: Encoding, completed: Sequence[Observation]) -> LossModel:
        noise = dataclasses.replace(NoisePrior(), center=math.log(self.alpha))
        if any(each.vectors for each in completed):
            return SeveralLosses(encoding, completed, self.constraints, noise=noise)
        return OneLoss(encoding, completed, self.constraints, noise=noise, beta=self.beta)

    def _num_initial(self, encoding: Encoding, completed: Sequence[Observation]) -> int:
        """Trials of this search before the model decides: what those of earlier searches leave to be done."""
        # Of conditional spaces only what is active at the defaults: a tree of twenty switches is not a space of twenty
        # dimensions.
        typical = int(np.ceil(encoding.active(encoding.defaults()).sum())) if len(encoding) else 0
        least = min(max(typical + 1, 3), 8) if self.num_initial_points is None else self.num_initial_points
        num_earlier = sum(each.earlier and math.isfinite(each.loss) for each in completed)
        # But their winners are tried first: without a trial of this search nothing says how much the others are worth.
        return max(least - num_earlier, min(least, num_earlier, _NUM_TRANSFERRED))

    def _odds(self, encoding: Encoding, completed: Sequence[Observation], evidence: Evidence) -> list[Score]:
        """What a proposal has to be besides good: likely to get a score, likely to keep the constraints."""
        geometry = geometry_of(encoding, False)
        failures = log_odds_of_success(geometry, evidence)
        scores = log_odds_of_constraints(geometry, encoding, completed, self.constraints)
        if failures is not None:
            scores.append(failures)
        return scores


def _check(name: str, got: object, fine: bool, allowed: str) -> None:
    if not fine:
        raise UsageError(
            explain("GaussianProcessSampler", f"{name}={got!r}", allowed, f"Leave {name} out for the default.")
        )


def _doubts(num_trials: int, num_scored: int, encoding: Encoding) -> bool:
    """Whether this proposal mistrusts the length scales: every third one, once there is something to be wrong about."""
    return num_trials % _DOUBT_EVERY == 0 and num_scored >= _DOUBT_AFTER * len(encoding)


def _stays_close(proposals: ProposalBatch, num_scored: int, encoding: Encoding) -> bool:
    """Whether this proposal shares all but a few coordinates with the best trial.

    Of many proposals at once, those after the first few expect to improve most where nobody will have been, far from
    anything good: sixteen at a time are few rounds, and each spends itself on looking around. So every second
    proposal that has company refines the best trial, a few coordinates at a time (in the spirit of the trust regions
    of Eriksson et al. 2019 and the random subspaces of Kirschner et al. 2019), once there are trials to know it by.
    """
    has_company = len(proposals.waiting()) > 0
    return has_company and len(proposals.points) % _CLOSE_EVERY == 1 and num_scored >= _DOUBT_AFTER * len(encoding)


_NUM_ANYWHERE = 2_048  # candidates of the first points, of which beliefs choose
_NUM_BELIEVED = 64
_NUM_TRANSFERRED = 3  # winners of earlier searches that are tried first
_MAX_LISTED = 2_000  # finite spaces with at most so much left are scored in full instead of searched


class ProposalBatch:
    """Configurations that were tried, are pending or were just chosen; those just chosen are in `found`.

    Args:
        encoding: of the space.
        completed: the history; trials of earlier searches were not tried in this one.
        pending: values of trials without a result.
        beliefs: of the user, about where the first points should lie.
    """

    def __init__(
        self,
        encoding: Encoding,
        completed: Sequence[Observation],
        pending: Sequence[Values],
        beliefs: Sequence[Belief] = (),
    ) -> None:
        self._encoding = encoding
        self._beliefs = beliefs
        known = settled(encoding, [each for each in completed if not each.earlier])
        ended = [values for values, _ in known]
        running = [encoding.adapt(values) for values in pending]
        self._keys: set[Hashable] = {key for _, key in known} | {encoding.key(values) for values in running}
        self._num_ended = len(ended)
        self.points = encoding.encode_many(ended + running)
        self.found: list[dict[str, Value]] = []
        self._winners = _winners(encoding, [each for each in completed if each.earlier])
        self._left: list[dict[str, Value]] | None = None
        # Beyond this a list costs more than it finds; until then every configuration is scored.
        size = encoding.num_configurations(MAX_LISTED)
        if size is not None and size - len(self._keys) <= _MAX_LISTED:
            self._left = untried(encoding, self._keys)

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
        """Takes an earlier winner, else the defaults, else a point in the largest gap, else anything new."""
        if any(self.add(values) for values in [*self._winners, self._encoding.defaults()]):
            return True
        if len(self._encoding):
            candidates = None
            if self._beliefs:
                anywhere = self._encoding.snap(rng.random((_NUM_ANYWHERE, len(self._encoding))))
                candidates = LogBelief(self._encoding, self._beliefs, 1).draw(anywhere, _NUM_BELIEVED, rng)
            if self.add_point(next_point(self._encoding, self.points, rng, candidates)):
                return True
        return any(self.add(values) for values in draw_new(self._encoding, self._keys, 1, rng))

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


def _winners(encoding: Encoding, earlier: Sequence[Observation]) -> list[dict[str, Value]]:
    """The best configurations of earlier searches, as this space has them."""
    order = np.argsort(standings(earlier), kind="stable")[:_NUM_TRANSFERRED]
    return [encoding.adapt(earlier[i].values) for i in order]


_STRENGTH = 10.0
_LEAST = -12.5  # log belief five spreads away; no place is less likely, however many trials agree


class LogBelief:
    """The weighted log beliefs of points, eq. (1), as a score to add. Inactive hyperparameters say nothing.

    Args:
        encoding: of the space.
        beliefs: of the user; names that the space does not have (yet) are passed over.
        num_trials: trials so far.
    """

    def __init__(self, encoding: Encoding, beliefs: Sequence[Belief], num_trials: int) -> None:
        self._weight = _STRENGTH / max(num_trials, 1)
        by_name = {each.name: each for each in beliefs}
        self._terms = [
            (j, float(dimension.hyperparameter.encode([by_name[dimension.name].value])[0]), by_name[dimension.name])
            for j, dimension in enumerate(encoding.dimensions)
            if dimension.name in by_name
        ]
        self._unordered = [each.kind == "unordered" for each in encoding.dimensions]

    def __call__(self, points: Array) -> Array:
        return self.with_slopes(points)[0]

    def with_slopes(self, points: Array) -> tuple[Array, Array]:
        values, slopes = np.zeros(len(points)), np.zeros(points.shape)
        for j, center, belief in self._terms:
            distance = np.where(np.isnan(points[:, j]), 0.0, points[:, j] - center)
            if self._unordered[j]:
                values += self._weight * np.where(distance == 0.0, 0.0, math.log(OTHER_CATEGORY))
                continue
            density = -0.5 * (distance / belief.spread) ** 2
            values += self._weight * np.maximum(density, _LEAST)
            slopes[:, j] -= self._weight * np.where(density > _LEAST, distance / belief.spread**2, 0.0)
        return values, slopes

    def draw(self, candidates: Array, num_points: int, rng: np.random.Generator) -> Array:
        """(num_points, d) of the candidates, each as likely as it is believed in; the first trials use it."""
        log_weights = self(candidates) / self._weight
        weights = np.exp(log_weights - log_weights.max())
        chosen: Array = candidates[rng.choice(len(candidates), size=num_points, p=weights / weights.sum())]
        return chosen
