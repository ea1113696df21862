"""What the sampler has to model: one loss, or several of which none is traded for another."""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from manyfit.core.records import Observation
from manyfit.samplers.gp import model
from manyfit.samplers.gp.acquisition import ConfidenceBound, ExpectedImprovement, Lifted
from manyfit.samplers.gp.data import Evidence, collect
from manyfit.samplers.gp.hypervolume import Boxes, HypervolumeImprovement
from manyfit.samplers.gp.kernels import Array, Geometry
from manyfit.samplers.gp.optimise import Score
from manyfit.samplers.gp.surrogate import NoisePrior, Surrogate
from manyfit.samplers.outcomes import Constraint
from manyfit.space.encoding import Encoding
from manyfit.stats import pareto

_MAX_WARPED = 20  # dimensions; two shapes each are more than the trials of a wider search can tell
_NUM_VERSIONS = 16  # imagined outcomes of pending trials
_NUM_VERSIONS_OF_FRONTS = 4  # a front takes longer to evaluate than one incumbent
_REFERENCE_MARGIN = 0.1  # of the front's extent, beyond its worst losses (Ishibuchi et al. 2018)


def geometry_of(encoding: Encoding, with_fidelity: bool) -> Geometry:
    """How the points of a space are compared, with a last coordinate for the fidelity where there is one.

    Numbers of three or more values are warped.
    """
    unordered = [each.kind == "unordered" for each in encoding.dimensions]
    # Two values have one distance: nothing to warp. Neither has an unordered dimension.
    warped = [j for j, each in enumerate(encoding.dimensions) if not unordered[j] and (each.num_values or 3) > 2]
    if len(warped) > _MAX_WARPED:
        warped = []
    return Geometry(np.array(unordered + [False] * with_fidelity, dtype=bool), np.array(warped, dtype=np.int64))


class LossModel(abc.ABC):
    """Evidence and models of a call of the sampler.

    Attributes:
        evidence: of the loss, or of the first of several.
    """

    evidence: Evidence

    @property
    def num_rows(self) -> int:
        """How many rows of evidence there are."""
        return len(self.evidence.losses)

    @abc.abstractmethod
    def fit(self) -> None:
        """Learns the models. Called once, before the methods below, and only if there is something to learn from."""

    @abc.abstractmethod
    def order(self, points: Array) -> NDArray[np.int64]:
        """The order of (n, d) points by what the models expect of them, the best first; (n,) indices."""

    def centers(self) -> Array:
        """(k, d) points that ran, the most promising surroundings first."""
        full = self.evidence.full
        if not len(full):
            full = self.evidence.points[:, : self.evidence.points.shape[1] - self.evidence.with_fidelity]
        centers: Array = full[self.order(full)]
        return centers

    @abc.abstractmethod
    def score(self, waiting: Array, *, doubting: bool, rng: np.random.Generator) -> Score:
        """The acquisition function.

        Args:
            waiting: (k, d) points without a result yet.
            doubting: whether to mistrust the length scales.
            rng: imagines their results.
        """


class OneLoss(LossModel):
    """One loss: a mixture of processes and expected improvement, or KerasTuner's confidence bound.

    Args:
        encoding: of the space.
        completed: the history.
        constraints: on metrics of trials.
        noise: prior belief about the noise.
        beta: see `GaussianProcessSampler`.
    """

    def __init__(
        self,
        encoding: Encoding,
        completed: Sequence[Observation],
        constraints: Sequence[Constraint],
        *,
        noise: NoisePrior,
        beta: float | None,
    ) -> None:
        self._encoding = encoding
        self._noise = noise
        self._beta = beta
        self.evidence = collect(encoding, completed, constraints)
        self.members: list[model.MixtureMember] = []

    def fit(self) -> None:
        geometry = geometry_of(self._encoding, self.evidence.with_fidelity)
        self.members = model.fit(self.evidence, geometry, self._noise)

    def order(self, points: Array) -> NDArray[np.int64]:
        means = model.posterior_mean(self.members, self.evidence.lift(points))
        return np.argsort(means, kind="stable")

    def score(self, waiting: Array, *, doubting: bool, rng: np.random.Generator) -> Score:
        members, evidence = self.members, self.evidence
        if doubting:
            members = [model.doubt(each, evidence) for each in members]
        if len(waiting):
            members = [self._imagine(each, waiting, rng) for each in members]
        score: Score = ExpectedImprovement(members) if self._beta is None else ConfidenceBound(members, self._beta)
        return Lifted(score) if evidence.with_fidelity else score

    def _imagine(self, member: model.MixtureMember, waiting: Array, rng: np.random.Generator) -> model.MixtureMember:
        """The member with imagined outcomes at waiting points, which may become incumbents."""
        surrogate = member.surrogate.fantasise(self.evidence.lift(waiting), _NUM_VERSIONS, rng)
        incumbents = model.lowest_means(surrogate, self.evidence, waiting)
        return dataclasses.replace(member, surrogate=surrogate, incumbents=incumbents)


class SeveralLosses(LossModel):
    """Several losses: one process each, and expected improvement of the hypervolume below the front.

    The front is that of the posterior means, so one lucky draw does not stand on it. Volumes are measured on the
    scale that suits each process best, which keeps the order in every loss, and so the front.

    Args:
        encoding: of the space.
        completed: the history, with vectors of losses.
        constraints: on metrics of trials.
        noise: prior belief about the noise.
    """

    def __init__(
        self,
        encoding: Encoding,
        completed: Sequence[Observation],
        constraints: Sequence[Constraint],
        *,
        noise: NoisePrior,
    ) -> None:
        self._encoding = encoding
        self._noise = noise
        num_losses = max(len(each.vectors[0]) for each in completed if each.vectors)
        self._evidence = [
            collect(encoding, [each.of_objective(j) for each in completed], constraints) for j in range(num_losses)
        ]
        # Failures, counts and constraints are the same for every loss; only the losses differ.
        self.evidence = self._evidence[0]
        self._surrogates: list[Surrogate] = []

    def fit(self) -> None:
        for evidence in self._evidence:
            geometry = geometry_of(self._encoding, evidence.with_fidelity)
            self._surrogates.append(model.fit(evidence, geometry, self._noise)[0].surrogate)

    def order(self, points: Array) -> NDArray[np.int64]:
        return np.argsort(pareto.places(self._means(self._surrogates, points)[0]), kind="stable")

    def score(self, waiting: Array, *, doubting: bool, rng: np.random.Generator) -> Score:
        surrogates, ran = self._surrogates, self.evidence.full
        if doubting:
            surrogates = [model.doubted(each) for each in surrogates]
        if len(waiting):
            lifted = self.evidence.lift(waiting)
            surrogates = [each.fantasise(lifted, _NUM_VERSIONS_OF_FRONTS, rng) for each in surrogates]
            ran = np.concatenate([ran, waiting])
        boxes = [Boxes(*pareto.free_boxes(*_front(means))) for means in self._means(surrogates, ran)]
        score = HypervolumeImprovement(surrogates, boxes)
        return Lifted(score) if self.evidence.with_fidelity else score

    def _means(self, surrogates: Sequence[Surrogate], points: Array) -> Array:
        """(s, n, m) posterior means of n points, one block per version."""
        lifted = self.evidence.lift(points)
        means: Array = np.stack([each.predict(lifted)[0] for each in surrogates], axis=2)
        return means


def _front(means: Array) -> tuple[Array, Array]:
    """The front among (n, m) losses, and a reference point a little beyond its worst losses."""
    front = means[pareto.non_dominated(means)]
    worst = front.max(axis=0)
    extent = worst - front.min(axis=0)
    # A front of one point has no extent: a tenth of a standard deviation of what ran.
    return front, worst + _REFERENCE_MARGIN * np.where(extent > 0.0, extent, 1.0)
