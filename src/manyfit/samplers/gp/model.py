"""From losses to a mixture of Gaussian processes, one for each way of bending the scale of the losses.

Losses of a search are skewed: a few configurations are good, many are fine, some are far off. A Gaussian process on
raw losses spends its flexibility on telling bad from terrible; on log losses it forgets which region is hopeless.
No single transform wins on all problems, so each candidate gets its own process, and their marginal likelihoods (of
the raw losses, so with the Jacobian of the transform) are the weights of a mixture.

Notation:

| symbol | meaning |
|---|---|
| y | (n,) losses |
| c | softness of the transform, in units of the median loss minus the best one |
| t | transformed, standardised losses, for which the processes are built |

(1) t = log(1 + (y - min y) / (c (median y - min y))), c = infinity: t = y
(2) log p(y) = log p(t) + sum log |dt/dy|
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from manyfit.samplers.gp.data import Evidence
from manyfit.samplers.gp.kernels import Array, Geometry
from manyfit.samplers.gp.surrogate import Likelihood, NoisePrior, Surrogate, Targets

#: Softness of the candidates, gentle to strong.
SOFTNESS = (math.inf, 3.0, 0.3)
_LEAST_WEIGHT = 0.02  # lighter members of the mixture are dropped: they cost time and change nothing
_MAX_MIXED = 200  # rows beyond which the heaviest member decides alone: the evidence is nearly always one-sided
_MAX_FIT = 120  # points that length scales are learned from; all points count for predictions


@dataclasses.dataclass(frozen=True)
class MixtureMember:
    """One process of the mixture.

    Args:
        surrogate: the process, of transformed losses.
        log_weight: logarithm of its share.
        incumbents: (s,) what has to be undercut, for each version of the targets.
    """

    surrogate: Surrogate
    log_weight: float
    incumbents: Array


def bend(losses: Array, softness: float) -> tuple[Array, float]:
    """Transforms and standardises losses, eq. (1).

    Args:
        losses: (n,) finite losses.
        softness: c; infinity leaves the shape alone.

    Returns:
        (n,) values with mean 0 and standard deviation 1 (all 0 if the losses are constant), and the sum of the
        logarithms of the slopes, eq. (2).

    Example:

    >>> bend(np.array([1.0, 1.0]), 1.0)
    (array([0., 0.]), 0.0)
    """
    # The median and not the mean: a diverging run of 1e30 must not decide what counts as near the best.
    span = float(np.median(losses) - losses.min())
    # More than half of the losses are the best one. The range still tells something then.
    if span <= 0.0:
        span = float(losses.max() - losses.min())
    if not span > 1e-12 * max(1.0, float(np.abs(losses).max())):
        return np.zeros(len(losses)), 0.0
    if math.isinf(softness):
        bent, log_slope = (losses - losses.min()) / span, -len(losses) * math.log(span)
    else:
        bent = np.log1p((losses - losses.min()) / (softness * span))
        log_slope = -float(bent.sum()) - len(losses) * math.log(softness * span)
    deviation = float(bent.std())
    return (bent - bent.mean()) / deviation, log_slope - len(losses) * math.log(deviation)


def fit(
    evidence: Evidence, geometry: Geometry, noise: NoisePrior, softness: Sequence[float] = SOFTNESS
) -> list[MixtureMember]:
    """The mixture that the evidence supports.

    Args:
        evidence: at least one scored point.
        geometry: how points are compared.
        noise: prior belief about the noise.
        softness: the transforms to weigh.

    Returns:
        Members with their weights, at least one, the heaviest first.
    """
    rows = _representatives(evidence.losses)
    fits: list[tuple[float, Targets, Array]] = []
    # Length scales of one transform are a good start for the next, which halves the iterations.
    theta: Array | None = None
    for c in softness:
        bent, log_slope = bend(evidence.losses, c)
        targets = _targets(evidence, bent, log_slope)
        likelihood = Likelihood(geometry, evidence.points[rows], _subset(targets, rows), noise)
        theta, density = likelihood.maximise(likelihood.start() if theta is None else theta)
        # Densities of different transforms compare only with the Jacobian (2); it was summed over all rows, and the
        # likelihood saw some of them.
        density += log_slope * len(rows) / len(bent)
        fits.append((density, targets, theta))
    # Weights relative to the best one: densities are of the order of exp(-100) and would underflow.
    best = max(score for score, _, _ in fits)
    members = []
    heaviest = sorted(fits, key=lambda each: -each[0])
    for score, targets, theta in heaviest[: 1 if len(evidence.losses) > _MAX_MIXED else None]:
        if score - best >= math.log(_LEAST_WEIGHT):
            surrogate = Surrogate(geometry, evidence.points, targets, theta)
            members.append(MixtureMember(surrogate, score - best, np.zeros(1)))
    total = math.log(sum(math.exp(each.log_weight) for each in members))
    return [
        dataclasses.replace(each, log_weight=each.log_weight - total, incumbents=lowest_means(each.surrogate, evidence))
        for each in members
    ]


def lowest_means(surrogate: Surrogate, evidence: Evidence) -> Array:
    """(s,) the best posterior mean of each version, over what ran in full and keeps the constraints.

    Args:
        surrogate: of the evidence; points that it imagines the outcomes of count too.
        evidence: what ran.
    """
    means = surrogate.means_of_own()
    num_imagined = means.shape[1] - len(evidence.losses)
    may_lead = np.append(evidence.may_lead, np.full(num_imagined, True))
    lowest: Array = means[:, may_lead].min(axis=1, initial=np.inf)
    return lowest


def doubt(member: MixtureMember, evidence: Evidence) -> MixtureMember:
    """The member with length scales halved.

    Trials of a search crowd around what looks best. Length scales learned there can be sure of places where
    nobody has been, and then no amount of trials corrects them. Shorter ones keep such places open (Berkenkamp et
    al. 2019); taking turns with the learned ones costs little where those are right.
    """
    surrogate = doubted(member.surrogate)
    return dataclasses.replace(member, surrogate=surrogate, incumbents=lowest_means(surrogate, evidence))


def doubted(surrogate: Surrogate) -> Surrogate:
    """The process with length scales halved."""
    theta = surrogate.theta.copy()
    theta[: surrogate.geometry.num_dimensions] -= math.log(2.0)
    return surrogate.with_theta(theta)


def posterior_mean(members: Sequence[MixtureMember], points: Array) -> Array:
    """(m,) mean of the mixture on the standardised scale: for ranking points, not for reading off losses."""
    means = [math.exp(each.log_weight) * each.surrogate.means(points).mean(axis=0) for each in members]
    total: Array = np.sum(means, axis=0)
    return total


def _targets(evidence: Evidence, bent: Array, log_slope: float) -> Targets:
    """Standardised targets; the squares of the replicates scale with the geometric mean of the transform's slope."""
    if not bent.any():
        return Targets(bent, evidence.counts)
    # Replicates would have to be bent one by one; the geometric mean of the slope is right for small noise.
    square = math.exp(2.0 * log_slope / len(bent))
    return Targets(bent, evidence.counts, evidence.within * square, evidence.degrees)


def _representatives(losses: Array) -> np.ndarray:
    """Rows that length scales are learned from: the best half of the allowance, and others spread over time."""
    n = len(losses)
    if n <= _MAX_FIT:
        return np.arange(n)
    # The best ones, since length scales matter most where the search will look; and others evenly over time, since
    # early trials were spread over the whole space and late ones crowd.
    order = np.argsort(losses, kind="stable")
    best = order[: _MAX_FIT // 2]
    others = np.setdiff1d(np.arange(n), best)
    spread = others[np.linspace(0, len(others) - 1, _MAX_FIT - len(best)).round().astype(int)]
    return np.sort(np.concatenate([best, spread]))


def _subset(targets: Targets, rows: np.ndarray) -> Targets:
    return dataclasses.replace(targets, means=targets.means[rows], counts=targets.counts[rows])
