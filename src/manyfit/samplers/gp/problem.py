"""What the sampler has to model: one loss, or several of which none is traded for another.

Several are searched by the expected improvement of the hypervolume, in closed form, as a logarithm.

Notation (m losses, independent posteriors, all lower is better):

| symbol | meaning |
|---|---|
| mu_j, v_j | posterior mean and variance of loss j at a point |
| l_b, u_b | (m,) corners of box b of what the front leaves free below the reference |
| EI_j(t) | expected improvement of loss j on t: sqrt(v_j) h((t - mu_j) / sqrt(v_j)), see `acquisition` |

(1) HVI(y) = sum_b prod_j (u_bj - max(l_bj, y_j))^+           the boxes are disjoint, and a point fills part of each
(2) E[(u - max(l, y))^+] = EI(u) - EI(l)                       because the bracket is (u - y)^+ - (l - y)^+
(3) EHVI = sum_b prod_j (EI_j(u_bj) - EI_j(l_bj))              Emmerich et al. 2011; Daulton et al. 2020, section 3
(4) log EHVI by log-sum-exp over b of sums over j              Ament et al. 2023, section 4.3
"""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_ndtr

from manyfit.core.records import Observation
from manyfit.samplers.base import Constraint
from manyfit.samplers.gp import model
from manyfit.samplers.gp.acquisition import ConfidenceBound, ExpectedImprovement, Lifted, log_h
from manyfit.samplers.gp.data import Evidence, collect
from manyfit.samplers.gp.kernels import Array, Geometry
from manyfit.samplers.gp.optimise import Score
from manyfit.samplers.gp.surrogate import NoisePrior, Surrogate
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
        incumbents = model.lowest_means(surrogate, self.evidence)
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
        means: Array = np.stack([each.means(lifted) for each in surrogates], axis=2)
        return means


def _front(means: Array) -> tuple[Array, Array]:
    """The front among (n, m) losses, and a reference point a little beyond its worst losses."""
    front = means[pareto.non_dominated(means)]
    worst = front.max(axis=0)
    extent = worst - front.min(axis=0)
    # A front of one point has no extent: a tenth of a standard deviation of what ran.
    return front, worst + _REFERENCE_MARGIN * np.where(extent > 0.0, extent, 1.0)


_LOG_ROOT_2PI = 0.5 * float(np.log(2.0 * np.pi))
_LEAST_SHARE = 1e-300  # a box so thin that rounding ate it: finite, and of no weight
_MOST_LOG_RATIO = 600.0


@dataclasses.dataclass(frozen=True)
class Boxes:
    """What a front leaves free: (b, m) lower corners, -inf where unbounded, and (b, m) upper corners."""

    lower: Array
    upper: Array


class HypervolumeImprovement:
    """Log expected improvement of the hypervolume, averaged over versions of the front.

    Args:
        surrogates: one per loss, with as many versions of their targets as there are `fronts`.
        fronts: what each version of the front leaves free.
    """

    def __init__(self, surrogates: Sequence[Surrogate], fronts: Sequence[Boxes]) -> None:
        self._surrogates = surrogates
        self._fronts = fronts

    def __call__(self, points: Array) -> Array:
        found = [each.predict(points) for each in self._surrogates]
        values = [
            log_expected_hypervolume([means[s] for means, _ in found], [variance for _, variance in found], boxes)[0]
            for s, boxes in enumerate(self._fronts)
        ]
        mean: Array = np.logaddexp.reduce(values, axis=0) - np.log(len(values))
        return mean

    def with_slopes(self, points: Array) -> tuple[Array, Array]:
        found = [each.predict_with_slopes(points) for each in self._surrogates]
        values, slopes = [], []
        for s, boxes in enumerate(self._fronts):
            value, by_mean, by_variance = log_expected_hypervolume(
                [f[0][s] for f in found], [f[1] for f in found], boxes
            )
            slope = np.zeros(points.shape)
            for j, (_, _, mean_slopes, variance_slopes) in enumerate(found):
                slope += by_mean[j][:, None] * mean_slopes[s] + by_variance[j][:, None] * variance_slopes
            values.append(value)
            slopes.append(slope)
        total = np.logaddexp.reduce(values, axis=0)
        shares = np.exp(np.array(values) - total)
        return total - np.log(len(values)), np.einsum("sm,smj->mj", shares, np.array(slopes))


def log_expected_hypervolume(
    means: Sequence[Array], variances: Sequence[Array], boxes: Boxes
) -> tuple[Array, list[Array], list[Array]]:
    """Eq. (4) at n points, and its slopes.

    Args:
        means: (n,) posterior means, one array per loss.
        variances: (n,) posterior variances, likewise.
        boxes: what the front leaves free.

    Returns:
        (n,) values, and per loss (n,) slopes in its mean and in its variance.
    """
    total = np.zeros((len(boxes.upper), len(means[0])))
    parts = []
    for j, (mean, variance) in enumerate(zip(means, variances, strict=True)):
        side, by_mean, by_variance = _log_side(mean, variance, boxes.lower[:, j, None], boxes.upper[:, j, None])
        total += side
        parts.append((by_mean, by_variance))
    value = np.logaddexp.reduce(total, axis=0)
    shares = np.exp(total - value)
    return value, [(shares * part[0]).sum(axis=0) for part in parts], [(shares * part[1]).sum(axis=0) for part in parts]


def _log_side(mean: Array, variance: Array, lower: Array, upper: Array) -> tuple[Array, Array, Array]:
    """(b, n) log of (2), and its slopes in the mean and the variance; d EI / d mu = -Phi, d EI / d v = phi / 2 sd."""
    deviation = np.sqrt(variance)
    bounded = np.isfinite(lower)
    top = (upper - mean) / deviation
    bottom = (np.where(bounded, lower, upper) - mean) / deviation
    log_top, log_bottom = log_h(top), np.where(bounded, log_h(bottom), -np.inf)
    share = np.maximum(-np.expm1(np.minimum(log_bottom - log_top, 0.0)), _LEAST_SHARE)
    log_gain = log_top + np.log(share)

    def relative(log_value: Array, where: Array | bool = True) -> Array:
        """exp(log_value) / gain, 0 elsewhere; bounded where a box is so thin that its gain has no digits left."""
        found: Array = np.exp(np.minimum(np.where(where, log_value - log_gain, -np.inf), _MOST_LOG_RATIO))
        return found

    by_mean = -(relative(log_ndtr(top)) - relative(log_ndtr(bottom), bounded)) / deviation
    densities = relative(-0.5 * top**2 - _LOG_ROOT_2PI) - relative(-0.5 * bottom**2 - _LOG_ROOT_2PI, bounded)
    return np.log(deviation) + log_gain, by_mean, densities / (2.0 * variance)
