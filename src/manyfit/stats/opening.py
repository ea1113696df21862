"""Whether to open another structure: what it may gain, and what it has to gain to be worth its seconds.

A program takes K seconds to compile and stays, so K is an opening cost: it is paid once, and every trial after it is
cheap. Notation:

| symbol | meaning |
|---|---|
| K, T, R | seconds to compile a structure, of one training, and that are left |
| y_si | loss of trial i in structure s, lower is better |
| b | the best loss so far |
| mu, tau | mean of the structures' means, and their standard deviation |
| sigma | standard deviation of the losses within a structure |

(1) y_si ~ N(m_s, sigma^2),  m_s ~ N(mu, tau^2)
(2) gain of a trial in s = E[(b - y)^+] = d h((b - m) / d),  h(z) = phi(z) + z Phi(z); of a new one with Student's t,
    since tau is known from as many numbers as there are structures
(3) worth its seconds:  gain > lambda max(K + T, T R / (R - K))

(1) is what samplers without a surrogate have instead of one: trials of a structure are alike, and a structure that
nobody has opened is one more draw of m_s. In (3), lambda is what the resident program gains per second. Its first part
charges the first trial with all of K (the switching cost of Pricopie et al. 2024); its second is break-even over all
that is left: R seconds at the rate of the resident program, or R - K at that of the new one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, stdtr


def break_even(seconds_left: float, opening_seconds: float) -> float:
    """How many times as fast a new structure has to gain as the resident one does, R / (R - K).

    Example: a compilation of 4.5 s, with 10, 20, 40 and 120 s left, and with 4.

    >>> [round(break_even(left, 4.5), 2) for left in (10, 20, 40, 120, 4)]
    [1.82, 1.29, 1.13, 1.04, inf]
    """
    if math.isinf(seconds_left):
        return 1.0
    rest = seconds_left - opening_seconds
    return seconds_left / rest if rest > 0 else math.inf


def seconds_to_earn(seconds_left: float, opening_seconds: float, training_seconds: float) -> float:
    """The seconds that the first trial of a new structure has to be worth, the factor of lambda in (3).

    Example: with 60 s left it is the compilation that counts; with 5 s left, that there is hardly anything left.

    >>> [round(seconds_to_earn(left, 4.5, 1.0), 2) for left in (60, 5, 4)]
    [5.5, 10.0, inf]
    """
    return max(opening_seconds + training_seconds, training_seconds * break_even(seconds_left, opening_seconds))


def gain_per_second(losses: Sequence[float], seconds: Sequence[float], num_recent: int, *, least: float) -> float:
    """What the running best has gained per second over the latest trials: lambda.

    Args:
        losses: of all trials, in the order of their start; not finite: no score.
        seconds: what each of them took, without compiling.
        num_recent: how many are the latest.
        least: the answer is no less, since nobody knows that nothing more will come.

    Example:

    >>> gain_per_second([1.0, 0.9, 0.9, 0.7], [2.0] * 4, 2, least=0.01).__round__(3)
    0.05
    """
    scored = [loss if math.isfinite(loss) else math.inf for loss in losses]
    before = min(scored[:-num_recent], default=math.inf)
    if math.isinf(before):  # what there was before the first of them: that one
        before = next((loss for loss in scored if loss < math.inf), math.inf)
    after = min(scored, default=math.inf)
    spent = math.fsum(seconds[-num_recent:])
    return least if math.isinf(before) or spent <= 0 else max(least, (before - after) / spent)


class StructureGains:
    """What the next trial is expected to gain in each structure, and in one that nobody has opened, eq. (1) and (2).

    Of losses more than twice as far above the best as the upper quartile, that much counts: how bad the worst ones are
    says nothing of how good the next one may be.

    Args:
        losses: per structure the losses of its trials, those without a score left out.

    Example: of two structures the second is better throughout; a new one may be better still.

    >>> gains = StructureGains([[0.9, 1.0, 1.1], [0.4, 0.6, 0.5]])
    >>> [round(gain, 3) for gain in gains.of_opened]
    [0.0, 0.01]
    >>> round(gains.of_new, 3)
    0.057
    """

    def __init__(self, losses: Sequence[Sequence[float]]) -> None:
        groups = [np.asarray([each for each in group if math.isfinite(each)], np.float64) for group in losses]
        everything = np.concatenate(groups) if groups else np.empty(0)
        self.of_opened: list[float] = [math.inf] * len(groups)
        self.of_new = math.inf
        if len(everything) < 2:
            return
        best, quartile = float(everything.min()), float(np.quantile(everything, 0.75))
        groups = [np.minimum(group, quartile + (quartile - best)) for group in groups]
        mu, tau, sigma = _components([group for group in groups if len(group)])
        num_groups = sum(bool(len(group)) for group in groups)
        between, within = tau**2 * (1.0 + 1.0 / num_groups), sigma**2
        degrees = _joint_degrees((between, num_groups + 1), (within, max(1, len(everything) - num_groups)))
        self.of_new = expected_gain(best, mu, math.sqrt(between + within), degrees)
        for number, group in enumerate(groups):
            count = len(group)
            share = 0.0 if not count else tau**2 / (tau**2 + sigma**2 / count) if tau > 0 else 0.0
            mean = mu + share * (float(group.mean()) - mu) if count else mu
            deviation = math.hypot(sigma, math.sqrt(1.0 - share) * tau)
            self.of_opened[number] = expected_gain(best, mean, deviation)


def expected_gain(best: float, mean: float, deviation: float, degrees: float = math.inf) -> float:
    """By how much a loss is expected to undercut the best one, eq. (2); of Student's t (Tracey and Wolpert 2018).

    Args:
        best: to undercut.
        mean: of the loss.
        deviation: its scale.
        degrees: of freedom, more than 1; infinite: it is normal.

    Example:

    >>> round(expected_gain(0.0, 0.0, 1.0), 4), round(expected_gain(0.0, 0.0, 1.0, degrees=2), 4)
    (0.3989, 0.7071)
    >>> expected_gain(0.5, 0.2, 0.0)
    0.3
    """
    if deviation <= 0.0:
        return max(0.0, best - mean)
    z = (best - mean) / deviation
    if math.isinf(degrees):
        return deviation * (math.exp(-0.5 * z * z) / math.sqrt(2.0 * math.pi) + z * float(ndtr(z)))
    density = math.exp(
        math.lgamma((degrees + 1) / 2) - math.lgamma(degrees / 2) - (degrees + 1) / 2 * math.log1p(z * z / degrees)
    ) / math.sqrt(degrees * math.pi)
    return deviation * ((degrees + z * z) / (degrees - 1) * density + z * float(stdtr(degrees, z)))


def _joint_degrees(*parts: tuple[float, int]) -> float:
    """Degrees of freedom of a sum of variances, each with its own (Welch and Satterthwaite).

    Structures count one more than there are: the guess of tau stands in for the first.
    """
    total = math.fsum(variance for variance, _ in parts)
    if total <= 0.0:
        return math.inf
    return total**2 / math.fsum(variance**2 / degrees for variance, degrees in parts)


def _components(groups: Sequence[NDArray[np.float64]]) -> tuple[float, float, float]:
    """mu, tau and sigma by moments; with one structure tau is sigma, and each further one tells its share."""
    num_groups, total = len(groups), sum(map(len, groups))
    means = np.array([group.mean() for group in groups])
    within = math.fsum(float(((group - group.mean()) ** 2).sum()) for group in groups)
    degrees = total - num_groups
    # With one trial each nobody can tell the two apart.
    variance = within / degrees if degrees else float(means.var(ddof=1)) / 2.0
    between = variance
    if num_groups > 1:
        found = max(0.0, float(means.var(ddof=1)) - variance * float(np.mean([1.0 / len(group) for group in groups])))
        between = (variance + (num_groups - 1) * found) / num_groups
    weights = 1.0 / (between + variance / np.array([len(group) for group in groups])) if between + variance else None
    return float(np.average(means, weights=weights)), math.sqrt(between), math.sqrt(variance)
