"""Expected improvement of the hypervolume, in closed form, as a logarithm.

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

import dataclasses
from collections.abc import Sequence

import numpy as np
from scipy.special import log_ndtr

from manyfit.samplers.gp.acquisition import log_h
from manyfit.samplers.gp.kernels import Array
from manyfit.samplers.gp.surrogate import Surrogate

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
