"""The noise of a training curve, and how lucky its best epoch is.

The loss after an epoch jitters around a smooth line. The best of E epochs is too good by about s e(E, rho): s is the
jitter, rho how much neighbouring epochs share of it.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np
from numpy.typing import ArrayLike

from manyfit.core.errors import UsageError, explain
from manyfit.stats.intervals import Array
from manyfit.stats.ranking import expected_maximum

MIN_EPOCHS = 8  # below it neither jitter nor its correlation can be told from the trend
_STEEP = 6  # swings above the lowest epoch from which on a curve is still coming down
_AROUND = 8  # epochs on each side of the best whose jitter says whether it has died down there


@dataclasses.dataclass(frozen=True, slots=True)
class Jitter:
    """How much a curve swings from epoch to epoch."""

    deviation: float  # of one epoch's loss around its trend; NaN where the curve is too short or decayed
    correlation: float  # of neighbouring epochs, 0 or more
    num_epochs: int  # that it was measured on


def curve_jitter(curve: ArrayLike) -> Jitter:
    """The jitter of the last epochs of a curve, by second differences: a trend does not count.

    Args:
        curve: the loss after each epoch; what is not finite ends what is looked at.

    Returns:
        A deviation of NaN with fewer than 8 epochs. It is a lower bound of the noise over seeds.

    Raises:
        UsageError: not one number per epoch.

    Source: the variance by differences, Gasser, Sroka and Jennen-Steinmetz 1986.

    Example:

    >>> noise = np.random.default_rng(0).normal(0, 0.1, 400)
    >>> round(curve_jitter(5 - np.linspace(0, 2, 400) + noise).deviation, 2)
    0.1
    """
    y = _curve("curve_jitter(curve)", curve)
    y = _past_the_descent(_last_run(y, np.isfinite(y)))
    if y.size < MIN_EPOCHS:
        return Jitter(math.nan, math.nan, int(y.size))
    # Lags 1 and 2 of the second differences give variance and correlation of first-order noise.
    second = np.diff(y, 2)
    white = float((second**2).mean()) / 6
    correlation = _correlation(y)
    return Jitter(math.sqrt(white / _shrinkage(correlation)), correlation, int(y.size))


def _past_the_descent(y: Array) -> Array:
    """Without the steep beginning, whose bend would count as jitter."""
    if y.size < MIN_EPOCHS:
        return y
    rough = _roughness(y)
    if rough <= 1e-12 * float(np.ptp(y)):  # a trend and nothing else
        return y
    trend = _running_median(y)
    return y[int(np.argmax(trend <= trend.min() + _STEEP * rough)) :]


def _roughness(y: Array) -> float:
    """What an epoch swings by, from second differences; their median passes over the few that are steep."""
    return math.sqrt(float(np.median(np.diff(y, 2) ** 2)) / (6 * 0.455))


def _running_median(y: Array) -> Array:
    median: Array = np.median(np.stack([np.r_[y[0], y[:-1]], y, np.r_[y[1:], y[-1]]]), axis=0)
    return median


def _shrinkage(rho: float) -> float:
    """What second differences leave of the variance of noise of the first order: (6 - 8 rho + 2 rho^2) / 6."""
    return max((6 - 8 * rho + 2 * rho * rho) / 6, 0.05)


def _correlation(y: Array) -> float:
    """Of neighbouring epochs: the rho whose second differences have the autocorrelation that is seen."""
    second = np.diff(y, 2)
    total = float((second**2).mean())
    if total == 0 or second.size < 4:
        return 0.0
    seen = float((second[1:] * second[:-1]).mean()) / total
    grid = np.linspace(0.0, 0.9, 91)
    # gamma_1 / gamma_0 of second differences of rho^|k|: (-4 + 7 rho - 4 rho^2 + rho^3) / (6 - 8 rho + 2 rho^2).
    expected = (-4 + 7 * grid - 4 * grid**2 + grid**3) / (6 - 8 * grid + 2 * grid**2)
    rho = float(grid[np.abs(expected - seen).argmin()])
    return rho if rho > 0.2 else 0.0


def effective_epochs(curve: ArrayLike, jitter: float) -> int:
    """How many epochs had a chance to be the best: those whose trend lies within two jitters of its lowest.

    Example:

    >>> effective_epochs([9.0, 5.0, 2.0, 1.0, 1.1, 1.0, 1.1, 1.0], 0.1)
    5
    """
    y = _curve("effective_epochs(curve)", curve)
    y = y[np.isfinite(y)]
    if y.size == 0 or not jitter > 0:
        return 1
    # A median of three keeps steps where they are, and one lucky epoch does not set the lowest.
    trend = _running_median(y)
    return max(1, int((trend <= trend.min() + 2 * jitter).sum()))


def best_epoch_optimism(curve: ArrayLike) -> float:
    """By how much the loss of the best epoch is too good.

    Where the learning rate decays, so does the jitter: an optimum that is found there is as little lucky as the epochs
    around it swing.

    Args:
        curve: as in `curve_jitter`.

    Returns:
        0 or more; NaN where the jitter is unknown.

    Raises:
        UsageError: not one number per epoch.

    Example:

    >>> noise = np.random.default_rng(0).normal(0, 0.1, 20)
    >>> round(best_epoch_optimism(3 + noise), 2) > 0.1
    True
    """
    jitter = curve_jitter(curve)
    if not math.isfinite(jitter.deviation):
        return math.nan
    y = _curve("best_epoch_optimism(curve)", curve)
    y = _last_run(y, np.isfinite(y))
    count = effective_epochs(y, jitter.deviation)
    return jitter.deviation * _share_left(y) * expected_best(count, jitter.correlation)


def _share_left(y: Array) -> float:
    """The jitter around the best epoch in units of that of the whole curve; 1 at most."""
    best = int(y.argmin())
    start = max(0, min(best - _AROUND, y.size - 2 * _AROUND))
    there, everywhere = (
        float((np.diff(part, 2) ** 2).mean()) for part in (y[start : start + 2 * _AROUND], _past_the_descent(y))
    )
    return min(1.0, math.sqrt(there / everywhere)) if everywhere > 0 else 0.0


def loss_at_best(curve: ArrayLike) -> float:
    """What the best epoch's loss would be without its luck.

    The mean of two estimates: a parabola through the neighbours, and the lowest loss plus its expected luck. What
    neighbours share of the luck is left in the first; the second has the error of the jitter's size. Half of each is
    nearer to the truth than either, in level and in spread.

    Args:
        curve: the loss after each epoch.

    Returns:
        NaN without a finite epoch. With fewer than 8 the parabola alone, with fewer than 5 the lowest loss.

    Raises:
        UsageError: not one number per epoch.

    Example:

    >>> noise = np.random.default_rng(1).normal(0, 0.1, 40)
    >>> (3 + noise).min().round(1), round(loss_at_best(3 + noise), 1)
    (np.float64(2.7), 3.0)
    """
    smooth, luck = value_at_best(curve), best_epoch_optimism(curve)
    if not math.isfinite(luck):
        return smooth
    return (smooth + float(np.nanmin(np.asarray(curve, dtype=float))) + luck) / 2


def expected_best(count: int, correlation: float) -> float:
    """How far the lowest of `count` neighbouring epochs lies below their mean, in jitters.

    Args:
        count: epochs.
        correlation: of neighbours, of the first order.

    Example:

    >>> round(expected_best(20, 0.0), 2), round(expected_best(20, 0.5), 2)
    (1.87, 1.74)
    """
    if count < 2 or correlation >= 1:
        return 0.0
    rho = min(max(correlation, 0.0), 0.95)
    logs = np.log(np.array([2, 5, 10, 20, 50, 100, 200], dtype=float))
    at = float(np.clip(math.log(count), logs[0], logs[-1]))
    ratio = [np.interp(at, logs, row) for row in _RATIOS]
    return expected_maximum(count) * float(np.interp(rho, _RHOS, ratio))


_RHOS = (0.0, 0.5, 0.8, 0.95)
#: The mean of the best of E = 2, 5, 10, 20, 50, 100, 200 in units of that without correlation, per rho: 100,000 paths
#: of first-order noise, error .003. At E = 2 it is sqrt(1 - rho).
_RATIOS = (
    (1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0),
    (0.697, 0.821, 0.887, 0.930, 0.965, 0.978, 0.986),
    (0.456, 0.573, 0.670, 0.762, 0.853, 0.897, 0.926),
    (0.236, 0.303, 0.374, 0.461, 0.589, 0.680, 0.755),
)


def value_at_best(curve: ArrayLike, *, width: int = 7) -> float:
    """The loss at the best epoch without most of its luck: a parabola through its neighbours, at that epoch.

    The best epoch itself is left out: it was chosen for its luck. What neighbours share of that luck remains. So are
    neighbours on the steep way down, which no parabola follows. Where every epoch was better than the one before, up to
    the last, that one was not chosen: it has no luck, and a parabola would only be led astray beyond its points.

    Args:
        curve: the loss after each epoch.
        width: epochs around the best, 5 to 9.

    Returns:
        The lowest loss itself where the curve only falls, or where fewer than 4 finite epochs are around the best; it
        is never below that.

    Raises:
        UsageError: not one number per epoch, or a width outside 5 to 9.

    Source: Savitzky and Golay 1964, at the ends of the curve with a window that stays inside.

    Example:

    >>> epochs = np.arange(20.0)
    >>> round(value_at_best((epochs - 10) ** 2 / 100), 9)
    0.0
    """
    if not 5 <= width <= 9:
        raise UsageError(explain("value_at_best(width)", width, "5 to 9 epochs", "Leave it out."))
    y = _curve("value_at_best(curve)", curve)
    if not np.isfinite(y).any():
        return math.nan
    best = int(np.nanargmin(np.where(np.isfinite(y), y, np.inf)))
    start = min(max(best - width // 2, 0), max(y.size - width, 0))
    around = np.arange(start, min(start + width, y.size))
    around = around[np.isfinite(y[around])]
    if around[-1] == best and (np.diff(y[around]) < 0).all():
        return float(y[best])
    if around.size > 3:
        steep = around[(around < best) & (y[around] > y[best] + _STEEP * _roughness(y[around]))]
        around = around[around > (steep[-1] if steep.size else -1)]
    around = around[around != best]
    if around.size < 4:
        return float(y[best])
    return max(float(y[best]), float(np.polynomial.polynomial.polyfit(around - best, y[around], 2)[0]))


def _curve(where: str, values: ArrayLike) -> Array:
    curve = np.asarray(values, dtype=float)
    if curve.ndim != 1:
        got = f"an array of shape {curve.shape}"
        raise UsageError(explain(where, got, "one number per epoch", "Pass a flat list."))
    return curve


def _last_run(y: Array, kept: np.ndarray) -> Array:
    """The last unbroken run of epochs that are kept."""
    if not kept.any():
        return y[:0]
    last = int(np.flatnonzero(kept)[-1])
    broken = np.flatnonzero(~kept[: last + 1])
    return y[broken[-1] + 1 if broken.size else 0 : last + 1]
