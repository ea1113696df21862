"""Finding the best points of an acquisition function over a mixed, conditional space.

Gradient steps move numbers with many values, a search among neighbours moves the rest; both start from the best of
a pool of random points, points near the best trials so far, and those points pushed onto the faces of the cube
(optima of real searches like to sit on bounds, and uniform points are never there).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Protocol

import numpy as np
from scipy.optimize import minimize

from manyfit.samplers.gp.kernels import Array
from manyfit.space.encoding import Encoding

_SCALES = np.array([0.003, 0.02, 0.1, 0.3])  # of perturbations, from polishing to wandering
_FULL_EFFORT = 120  # trials up to which the optimiser does all it can
_COARSE_BELOW = 12  # ordered dimensions with fewer values are searched value by value, not by gradient
_NUM_PLANES = 6  # through a center, of which a proposal chooses
_MAX_FREE = 3  # coordinates that differ from the center
_MAX_CATEGORIES = 24  # neighbours tried per unordered dimension and step; more are sampled


class Score(Protocol):
    """An acquisition function: higher is better."""

    def __call__(self, points: Array) -> Array:
        """(m, d) points -> (m,) values."""

    def with_slopes(self, points: Array) -> tuple[Array, Array]:
        """(m, d) points -> (m,) values and (m, d) slopes, 0 where there is none."""


@dataclasses.dataclass(frozen=True)
class Effort:
    """How hard the optimiser tries.

    Args:
        num_uniform: points of the pool that may be anywhere.
        num_centers: best trials whose surroundings are searched.
        num_near: points of the pool near each of them.
        num_starts: points that are improved further.
        max_iterations: gradient steps.
        max_steps: steps to neighbours.
    """

    num_uniform: int = 2048
    num_centers: int = 8
    num_near: int = 64
    num_starts: int = 10
    max_iterations: int = 40
    max_steps: int = 4

    @classmethod
    def after(cls, num_trials: int) -> Effort:
        """Less for long histories, where each evaluation of the acquisition costs more: a second is a trial too."""
        share = min(1.0, _FULL_EFFORT / max(num_trials, 1))
        return cls(
            num_uniform=max(round(2048 * share), 256),
            num_near=max(round(64 * share), 16),
            num_starts=max(round(10 * share), 4),
            max_iterations=max(round(40 * share), 15),
        )


class Moves:
    """Random points and steps in the cube of a space; all of them are coordinates of legal configurations.

    Args:
        encoding: of the space.
    """

    def __init__(self, encoding: Encoding) -> None:
        self.encoding = encoding
        self.unordered = np.array([each.kind == "unordered" for each in encoding.dimensions], dtype=bool)
        self.smooth = np.array(
            [
                each.kind != "unordered" and (each.num_values is None or each.num_values >= _COARSE_BELOW)
                for each in encoding.dimensions
            ],
            dtype=bool,
        )

    def uniform(self, num_points: int, rng: np.random.Generator) -> Array:
        """(num_points, d) points, by the space's own distribution."""
        return self.encoding.snap(rng.random((num_points, len(self.encoding))))

    def perturbed(self, centers: Array, num_each: int, rng: np.random.Generator) -> Array:
        """Points near centers: each moves some coordinates, by a scale of its own, and sends a few to a bound.

        Returns:
            (len(centers) * num_each, d) points.
        """
        points = np.repeat(centers, num_each, axis=0)
        shape = points.shape
        # Everything is drawn for all points, and chosen from by masks: one call per draw is far quicker than a loop
        # over points, and the stream of random numbers does not depend on what was chosen.
        fresh = rng.random(shape)
        points = np.where(np.isnan(points), fresh, points)  # what a move switches on starts anywhere
        # Each point has its own share of coordinates that move, so the pool holds both small corrections and long
        # jumps; the next line makes sure that at least one moves, or the point would be its center again.
        moved = rng.random(shape) < np.maximum(rng.random((shape[0], 1)), 1.0 / shape[1])
        moved[np.arange(shape[0]), rng.integers(shape[1], size=shape[0])] = True
        step = rng.choice(_SCALES, size=(shape[0], 1)) * rng.standard_normal(shape)
        # Categories have no direction to step in: they are redrawn. A few numbers are, too, to leave a ridge.
        redrawn = self.unordered | (rng.random(shape) < 0.05)
        target = np.where(redrawn, fresh, np.clip(points + step, 0.0, 1.0))
        faces = (rng.random(shape) < 0.05) & ~self.unordered
        target = np.where(faces, np.round(rng.random(shape)), target)
        return self.encoding.snap(np.where(moved, target, points))

    def pool(self, centers: Array, effort: Effort, rng: np.random.Generator) -> Array:
        """(m, d) points anywhere, and points near the best centers."""
        anywhere = self.uniform(effort.num_uniform, rng)
        if not len(centers):
            return anywhere
        near = self.perturbed(centers[: effort.num_centers], effort.num_near, rng)
        return np.concatenate([anywhere, near])

    def planes(self, center: Array, effort: Effort, rng: np.random.Generator) -> Array:
        """(m, d) points that share all but up to three coordinates with a center: near it, far from it, on bounds."""
        d = center.size
        # As many points as the pool has elsewhere, shared among a few planes: a plane has few dimensions, so it is
        # searched densely, and one bad draw of free coordinates does not decide the proposal.
        num_each = effort.num_uniform // _NUM_PLANES
        num_free = int(rng.integers(1, min(_MAX_FREE, d) + 1))
        free = np.zeros((_NUM_PLANES, d), dtype=bool)
        for plane in free:
            plane[rng.choice(d, size=num_free, replace=False)] = True
        free = np.repeat(free, num_each, axis=0)
        far = rng.random(free.shape)
        base = np.where(np.isnan(center), rng.random(d), center)  # what a move switches on starts anywhere
        step = rng.choice(_SCALES, size=(len(free), 1)) * rng.standard_normal(free.shape)
        near = (rng.random((len(free), 1)) < 0.5) & ~self.unordered
        target = np.where(near, np.clip(base + step, 0.0, 1.0), far)
        faces = (rng.random(free.shape) < 0.1) & ~self.unordered
        target = np.where(faces, np.round(target), target)
        return self.encoding.snap(np.where(free, target, base))

    def neighbours(self, point: Array, rng: np.random.Generator) -> Array:
        """Points that differ in one coarse dimension by one or two values, or in one category; (m, d)."""
        found = []
        # A neighbour may switch something on, which then needs a position; `snap` takes it away where nothing is
        # switched on.
        base = np.where(np.isnan(point), rng.random(point.size), point)
        for j, dimension in enumerate(self.encoding.dimensions):
            if self.smooth[j] or np.isnan(point[j]):
                continue
            num_values = dimension.num_values or 0
            here = int(dimension.hyperparameter.indices(point[j]))
            if self.unordered[j]:
                others = [i for i in range(num_values) if i != here]
                if len(others) > _MAX_CATEGORIES:
                    others = sorted(rng.choice(others, size=_MAX_CATEGORIES, replace=False).tolist())
            else:
                others = [i for i in (here - 2, here - 1, here + 1, here + 2) if 0 <= i < num_values]
            block = np.repeat(base[None, :], len(others), axis=0)
            block[:, j] = dimension.hyperparameter.centres(others)
            found.append(block)
        if not found:
            return np.empty((0, point.size))
        return self.encoding.snap(np.concatenate(found))


def climb(score: Score, starts: Array, moves: Moves, max_iterations: int, held: Array | None = None) -> Array:
    """Gradient ascent from several starts at once, in smooth dimensions only, then a snap to legal values.

    The starts form one problem, the sum of their scores, so that each step evaluates all of them in one batch.

    Args:
        score: what to maximise.
        starts: (m, d) points.
        moves: of the space.
        max_iterations: gradient steps.
        held: (d,) a point; coordinates that a start shares with it stay.

    Returns:
        (m, d) end points.
    """
    # Coarse and unordered dimensions stand still: a gradient of a stepped value is 0 or misleading, and `step_through`
    # searches them.
    free = moves.smooth[None, :] & ~np.isnan(starts)
    if held is not None:
        free &= starts != held
    if not free.any():
        return starts
    points = starts.copy()

    def negative(flat: Array) -> tuple[float, Array]:
        points[free] = flat
        value, slopes = score.with_slopes(points)
        # A sum of functions of separate coordinates: its gradient is each start's own, so one problem climbs them all.
        return -float(value.sum()), -slopes[free]

    found = minimize(
        negative,
        starts[free],
        jac=True,
        method="L-BFGS-B",
        bounds=[(0.0, 1.0)] * int(free.sum()),
        # More corrections than SciPy's 10: the joint problem has as many directions as all starts together.
        options={"maxiter": max_iterations, "maxcor": 20},
    )
    points[free] = found.x
    return moves.encoding.snap(points)


def step_through(score: Score, points: Array, moves: Moves, max_steps: int, rng: np.random.Generator) -> Array:
    """Greedy ascent among neighbours in coarse dimensions, each start for itself.

    Returns:
        (m, d) end points.
    """
    ends = points.copy()
    if moves.smooth.all():
        return ends
    values = score(points)
    for i in range(len(ends)):
        for _ in range(max_steps):
            around = moves.neighbours(ends[i], rng)
            if not len(around):
                break
            found = score(around)
            k = int(np.argmax(found))
            # Equal is not better: without this a flat acquisition would be wandered through until the steps are used
            # up.
            if found[k] <= values[i]:
                break
            ends[i], values[i] = around[k], found[k]
    return ends


def best_first(
    score: Score,
    pool: Array,
    known: Array,
    *,
    moves: Moves,
    effort: Effort,
    rng: np.random.Generator,
    held: Array | None = None,
) -> Iterator[Array]:
    """Points of high score, the best first; many enough that the caller can skip those it knows already.

    Args:
        score: what to maximise.
        pool: (m, d) points of which the best are improved further.
        known: (n, d) points that need not be proposed again.
        moves: of the space.
        effort: how hard to try.
        rng: the source of randomness.
        held: (d,) a point; coordinates of the pool that equal its own are not improved.

    Yields:
        (d,) points.
    """
    # By bytes, since NaN (inactive) does not equal itself, and a set is quicker than a table of distances.
    taken = {point.tobytes() for point in known}
    pool = pool[[point.tobytes() not in taken for point in pool]]
    values = score(pool)
    order = np.argsort(-values)
    starts = pool[order[: effort.num_starts]]
    ends = climb(score, starts, moves, effort.max_iterations, held)
    ends = step_through(score, ends, moves, effort.max_steps, rng)
    # The pool follows the improved points: where all of those are known already, the caller still gets something.
    points = np.concatenate([ends, pool])
    yield from points[np.argsort(-np.concatenate([score(ends), values]))]
