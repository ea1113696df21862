"""What the surrogate learns from: trials as points, replicates pooled, failures apart, early stops as fidelities."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Hashable, Sequence

import numpy as np
from numpy.typing import NDArray

from manyfit.core.records import Observation
from manyfit.samplers.base import Constraint
from manyfit.samplers.candidates import settled
from manyfit.samplers.gp.kernels import Array
from manyfit.space.encoding import Encoding

#: The fidelity of trials of earlier searches: as far below one epoch as full training is above it. How much they say
#: about this search is then a length scale like any other, learned from data.
_EARLIER = -1.0

#: Rows that predictions are made from at most: their cost grows with the square of the number, and a search is to find
#: its two thousandth trial as quickly as its two hundredth.
MAX_POINTS = 500
_NUM_VERY_BEST = 8  # as many as `Effort` searches around

#: Trials that ran to their end lend the surrogate their losses at so many of the epochs at which others were stopped.
_MAX_SHARED_EPOCHS = 2


@dataclasses.dataclass(frozen=True)
class Evidence:
    """Everything that was measured, one row per different configuration (and fidelity).

    Args:
        points: (n, d) coordinates, NaN where inactive; with a column more when `with_fidelity`: the share of the
            full training on a log scale, 1 for full, and -1 for trials of earlier searches.
        losses: (n,) means over the replicates of each row.
        counts: (n,) number of replicates.
        within: sum of squares of replicates around their row's mean.
        degrees: its degrees of freedom.
        failed: (k, d) points of configurations that have no score.
        with_fidelity: whether `points` has the extra column.
        satisfied: (n,) whether a row keeps all outcome constraints.
    """

    points: Array
    losses: Array
    counts: Array
    within: float
    degrees: int
    failed: Array
    with_fidelity: bool
    satisfied: NDArray[np.bool_]

    @property
    def may_lead(self) -> NDArray[np.bool_]:
        """(n,) whether a row was trained in full and keeps the constraints: what may be the incumbent."""
        return self.satisfied & (self.points[:, -1] == 1.0) if self.with_fidelity else self.satisfied

    @property
    def full(self) -> Array:
        """(f, d) the points of those, without their fidelity."""
        found = self.points[self.may_lead]
        return found[:, :-1] if self.with_fidelity else found

    def take(self, rows: NDArray[np.int64]) -> Evidence:
        """The evidence of some rows; what all replicates say of the noise, and what failed, stays."""
        columns = {name: getattr(self, name)[rows] for name in ("points", "losses", "counts", "satisfied")}
        return dataclasses.replace(self, **columns)

    def lift(self, points: Array) -> Array:
        """Points of the space at full fidelity, as the surrogate wants them."""
        return np.column_stack([points, np.ones(len(points))]) if self.with_fidelity else points


def most_telling(evidence: Evidence, count: int) -> NDArray[np.int64]:
    """The rows by which to predict where there are too many: the best, those nearest to the very best, and a spread.

    A third each. The first two know the surroundings of what the search will look at; the third, points as far from all
    others as there are (Gonzalez 1985), keep the rest of the space from looking as if nobody had been there.

    Args:
        evidence: more rows than `count`.
        count: of the rows.

    Returns:
        (count,) numbers of rows, in the order of the history.
    """
    order = np.lexsort((evidence.losses, ~evidence.may_lead))
    is_taken = np.zeros(len(order), dtype=bool)
    is_taken[order[: count // 3]] = True
    # What is inactive is a place of its own, as far from all others as the ends of an axis are from each other.
    # An axis per row, each in one piece: 500 distances to all points are computed for each proposal.
    axes = np.ascontiguousarray(np.where(np.isnan(evidence.points), 2.0, evidence.points).T)

    def to(row: int) -> Array:
        along = axes - axes[:, row, np.newaxis]
        distances: Array = np.minimum(np.abs(along, out=along), 1.0, out=along).sum(axis=0)
        return distances

    to_best = np.min([to(int(row)) for row in order[:_NUM_VERY_BEST]], axis=0)
    nearest = np.argsort(np.where(is_taken, np.inf, to_best), kind="stable")
    is_taken[nearest[: count // 3]] = True
    gaps = functools.reduce(np.minimum, (to(int(row)) for row in np.flatnonzero(is_taken)))
    for _ in range(count - int(is_taken.sum())):
        gaps[is_taken] = -1.0
        farthest = int(np.argmax(gaps))
        is_taken[farthest] = True
        gaps = np.minimum(gaps, to(farthest))
    return np.flatnonzero(is_taken)


@dataclasses.dataclass
class _Row:
    """Replicates of one configuration at one fidelity."""

    first: Observation
    losses: list[float]
    fidelity: float


def collect(encoding: Encoding, completed: Sequence[Observation], constraints: Sequence[Constraint] = ()) -> Evidence:
    """Sorts the history into evidence.

    Replicates are pooled: over the executions of a trial, and over trials with the same configuration. A trial
    without a finite loss is a failure, unless the same configuration has a score elsewhere. A trial that a
    scheduler stopped early is one measurement at a lower fidelity, not a final result; if no trial ran in full, the
    longest ones count as full. Trials of earlier searches are a fidelity of their own, shifted to the level of this
    search where configurations ran in both.

    Args:
        encoding: of the space.
        completed: the history.
        constraints: on metrics of the trials; a trial without such a metric does not keep its constraint.
    """
    own = [each for each in completed if not each.earlier]
    scored: list[Observation] = []
    lost: list[Observation] = []
    for each in own:
        (scored if math.isfinite(each.loss) else lost).append(each)
    # Before rows are made: whether a trial counts as full depends on how far the longest ones went.
    horizon = _horizon(scored)
    rows: dict[tuple[Hashable, float], _Row] = {}
    for each, (_, key) in zip(scored, settled(encoding, scored), strict=True):
        for fidelity, losses in _measurements(each, horizon, scored):
            row = rows.setdefault((key, fidelity), _Row(each, [], fidelity))
            row.losses.extend(losses)
    # A configuration that failed once and has a score elsewhere was unlucky, not impossible.
    good = {key for key, _ in rows}
    _add_earlier(rows, encoding, [each for each in completed if each.earlier and math.isfinite(each.loss)])
    failed = {key: each for each, (_, key) in zip(lost, settled(encoding, lost), strict=True)}
    bad = [each for key, each in failed.items() if key not in good]
    listed = list(rows.values())
    points = encoding.encode_many([values for values, _ in settled(encoding, [row.first for row in listed])])
    with_fidelity = any(row.fidelity != 1.0 for row in listed)
    if with_fidelity:
        points = np.column_stack([points, [row.fidelity for row in listed]])
    # Nearly all rows are of one run: its loss is the mean, and says nothing of the noise.
    groups = [np.asarray(row.losses) for row in listed if len(row.losses) > 1]
    found = Evidence(
        points=points,
        losses=np.array([np.mean(row.losses) if len(row.losses) > 1 else row.losses[0] for row in listed]),
        counts=np.array([len(row.losses) for row in listed], dtype=float),
        within=float(sum(((group - group.mean()) ** 2).sum() for group in groups)),
        degrees=sum(len(group) - 1 for group in groups),
        failed=encoding.encode_many([encoding.adapt(each.values) for each in bad]),
        with_fidelity=with_fidelity,
        satisfied=np.array([all(each.holds(row.first.metrics) for each in constraints) for row in listed], dtype=bool),
    )
    return found if len(listed) <= MAX_POINTS else found.take(most_telling(found, MAX_POINTS))


def _add_earlier(rows: dict[tuple[Hashable, float], _Row], encoding: Encoding, earlier: Sequence[Observation]) -> None:
    """Adds rows of earlier searches. Other data or longer training move all losses by about the same amount."""
    found: dict[Hashable, _Row] = {}
    for each in earlier:
        row = found.setdefault(encoding.key(encoding.adapt(each.values)), _Row(each, [], _EARLIER))
        row.losses.extend(loss for loss in each.losses if math.isfinite(loss))
    # The median of the shifts, not the mean: one configuration that diverged there and not here would move them all.
    both = [(rows[key, 1.0], row) for key, row in found.items() if (key, 1.0) in rows]
    shifts = [float(np.mean(here.losses) - np.mean(before.losses)) for here, before in both]
    shift = float(np.median(shifts)) if shifts else 0.0
    for key, row in found.items():
        row.losses[:] = [loss + shift for loss in row.losses]
        rows[key, _EARLIER] = row


def _horizon(scored: Sequence[Observation]) -> int | None:
    """The number of epochs that counts as full; None when no trial was stopped early, nor had a part of the rows."""
    if all(each.full for each in scored):
        return None
    complete = [_trained(each, scored) for each in scored if each.full]
    return max(complete or [_trained(each, scored) for each in scored]) or None


def _trained(observation: Observation, scored: Sequence[Observation]) -> int:
    """How far a trial was trained, in epochs; where some saw a part of the rows, in epochs of the smallest part.

    An epoch of three times the rows has three times the steps.
    """
    # In epochs of the smallest part, so that none is below one: the logarithm of a share of an epoch has no place here.
    smallest = min(each.share for each in scored)
    return round((observation.epochs or 0) * observation.share / smallest)


def _measurements(
    observation: Observation, horizon: int | None, scored: Sequence[Observation]
) -> list[tuple[float, tuple[float, ...]]]:
    """(fidelity, losses) of one trial: its result, and for a full trial what it had at others' last epochs."""
    losses = tuple(filter(math.isfinite, observation.losses))
    if horizon is None or horizon < 2:
        return [(1.0, losses)]
    if not observation.full and (trained := _trained(observation, scored)) < horizon:
        return [(_fidelity(trained or 1, horizon), losses)]
    found: list[tuple[float, tuple[float, ...]]] = [(1.0, losses)]
    for epochs in _common_stops(scored, horizon):
        # The best so far and not the loss at that epoch: that is what a stopped trial reports, so the two can be
        # compared.
        before = [loss for loss in observation.curve[:epochs] if math.isfinite(loss)]
        if before and len(observation.curve) > epochs:
            found.append((_fidelity(epochs, horizon), (min(before),)))
    return found


def _common_stops(scored: Sequence[Observation], horizon: int) -> list[int]:
    """The epochs at which most trials were stopped."""
    if any(each.share < 1.0 for each in scored):
        return []  # an epoch of all rows says nothing of one of a part
    stops = [each.epochs for each in scored if not each.full and each.epochs is not None and each.epochs < horizon]
    epochs, counts = np.unique(np.asarray(stops, dtype=int), return_counts=True)
    return [int(epochs[i]) for i in np.argsort(-counts, kind="stable")[:_MAX_SHARED_EPOCHS]]


def _fidelity(epochs: int, horizon: int) -> float:
    """Share of the full training on a log scale: 1 at the horizon, 0 at one epoch."""
    return math.log(max(epochs, 1)) / math.log(horizon)
