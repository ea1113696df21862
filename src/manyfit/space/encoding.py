"""Encoding: between values and points of the unit cube. What samplers see of a search space.

Notation:
    n  number of points
    d  number of dimensions
    X  points, shape (n, d), each coordinate in [0, 1], or NaN where the hyperparameter is inactive
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Hashable, Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike

from manyfit.core.errors import UsageError, explain
from manyfit.core.records import Value, Values
from manyfit.space import configurations
from manyfit.space.conditions import Condition, Parent, all_active
from manyfit.space.hyperparameter import HyperParameter, Kind
from manyfit.space.hyperparameters import HyperParameters
from manyfit.space.numerical import NUM_MIDPOINTS, Numerical
from manyfit.space.registry import parents_first

_MISSING = object()


@dataclasses.dataclass(frozen=True, eq=False)
class Dimension:
    """One coordinate of the unit cube.

    Attributes:
        name: name of the hyperparameter. Two dimensions may share one, under different conditions.
        kind: "continuous", "ordered" (steps: stepped and whole numbers, choices of numbers) or "unordered".
        num_values: how many values it has, at least 2; None for a continuum.
        hyperparameter: where it comes from.
    """

    name: str
    kind: Kind
    num_values: int | None
    hyperparameter: HyperParameter

    @property
    def conditions(self) -> list[Condition]:
        """What must hold for it to be active."""
        return self.hyperparameter.conditions


class Encoding:
    """The unit cube of a search space, as the space was when this was made.

    A coordinate is a quantile of its hyperparameter's own distribution, so uniform points are fair samples, and
    log scales look linear. A value of a grid sits at the centre of its bucket, ``(i + 0.5) / num_values``
    (whole numbers on a log scale: the centre of their bucket on that scale). Fixed values and hyperparameters
    with a single value have no coordinate, `decode` adds them.

    Args:
        space: the search space; later changes to it do not show here.

    Example:

    >>> hp = HyperParameters()
    >>> _ = hp.Int("layers", 1, 4), hp.Float("rate", 1e-4, 1e-2, sampling="log"), hp.Fixed("epochs", 5)
    >>> encoding = Encoding(hp)
    >>> encoding.encode({"layers": 2, "rate": 1e-3, "epochs": 5})
    array([0.375, 0.5  ])
    >>> encoding.decode([0.375, 0.5])
    {'layers': 2, 'rate': 0.001, 'epochs': 5}
    """

    def __init__(self, space: HyperParameters) -> None:
        # A copy: a space that grows while trials run must not move the coordinates of those that were encoded.
        self._hyperparameters = parents_first(space.copy().space)
        self._index: dict[int, int] = {}
        self.dimensions: list[Dimension] = []
        for each in self._hyperparameters:
            if each.num_values != 1:
                self._index[id(each)] = len(self.dimensions)
                self.dimensions.append(Dimension(each.name, each.kind, each.num_values, each))
        self._by_name: dict[str, list[HyperParameter]] = {}
        for each in self._hyperparameters:
            self._by_name.setdefault(each.name, []).append(each)
        # For every condition: which values of each hyperparameter of the parent's name make it hold.
        self._members = {
            condition: {id(parent): _members(parent, condition) for parent in self._by_name.get(condition.name, ())}
            for each in self._hyperparameters
            for condition in each.conditions
            if isinstance(condition, Parent)
        }

    def __len__(self) -> int:
        """The number of dimensions, d."""
        return len(self.dimensions)

    @functools.cached_property
    def signature(self) -> str:
        """A text that is equal for spaces in which the same values mean the same."""
        return repr([(type(each).__name__, each.get_config()) for each in self._hyperparameters])

    # -- values to points ----------------------------------------------------------------------------------------

    def encode(self, values: Values) -> np.ndarray:
        """The point of one configuration, shape (d,); NaN where inactive, or not given."""
        point: np.ndarray = self.encode_many([values])[0]
        return point

    def encode_many(self, many_values: Sequence[Values]) -> np.ndarray:
        """The points of many configurations.

        Args:
            many_values: n times the values of the active hyperparameters. Numbers outside the bounds count as
                the bound.

        Returns:
            X, shape (n, d).

        Raises:
            UsageError: a value that is not in its choice.
        """
        points = np.full((len(many_values), len(self)), np.nan)
        holds: dict[Condition, np.ndarray] = {}
        for column, dimension in enumerate(self.dimensions):
            raw = [values.get(dimension.name, _MISSING) for values in many_values]
            rows = np.array([value is not _MISSING for value in raw], dtype=bool)
            for condition in dimension.conditions:
                if condition not in holds:
                    holds[condition] = np.array([condition.is_active(values) for values in many_values], dtype=bool)
                rows &= holds[condition]
            if rows.all():
                points[:, column] = dimension.hyperparameter.encode(raw)
            elif rows.any():
                chosen = [value for value, is_active in zip(raw, rows.tolist(), strict=True) if is_active]
                points[rows, column] = dimension.hyperparameter.encode(chosen)
        return points

    # -- points to values ----------------------------------------------------------------------------------------

    def decode(self, point: ArrayLike) -> dict[str, Value]:
        """The configuration at a point of shape (d,): the values of all active hyperparameters, fixed ones included.

        Coordinates of inactive hyperparameters are ignored; NaN at an active one means its default.
        """
        return self.decode_many(np.asarray(point, dtype=float)[None, ...])[0]

    def decode_many(self, points: ArrayLike) -> list[dict[str, Value]]:
        """The configurations at points X of shape (n, d); see `decode`.

        Raises:
            UsageError: X does not have d columns.
        """
        points = self._checked(points)
        rows: list[dict[str, Value]] = [{} for _ in points]
        for column in self._columns_at(points):
            name, decoded = column.hyperparameter.name, column.values()
            if column.owns.all():
                for values, value in zip(rows, decoded, strict=True):
                    values[name] = value
            else:
                for row in np.flatnonzero(column.owns).tolist():
                    rows[row][name] = decoded[row]
        return rows

    def snap(self, points: ArrayLike) -> np.ndarray:
        """The points of the configurations that are decoded at X, without making the configurations.

        Equal to ``encode_many(decode_many(X))``, but vectorised: for samplers that move in the cube.

        Args:
            points: X of shape (n, d). NaN at an active coordinate means the default.

        Returns:
            Shape (n, d): coordinates at the centres of their buckets, NaN where inactive.

        Raises:
            UsageError: X does not have d columns.
        """
        points = self._checked(points)
        snapped = np.full(points.shape, np.nan)
        for column in self._columns_at(points):
            if column.index is not None:
                snapped[:, column.index] = np.where(column.active, column.centres(), np.nan)
        return snapped

    def active(self, values_or_points: Values | ArrayLike) -> np.ndarray:
        """Which dimensions are active.

        Args:
            values_or_points: one configuration, one point (d,), or points X of shape (n, d).

        Returns:
            Booleans of shape (d,) or (n, d).
        """
        if isinstance(values_or_points, Mapping):
            return np.array([all_active(each.conditions, values_or_points) for each in self.dimensions], dtype=bool)
        points = np.asarray(values_or_points, dtype=float)
        if points.ndim == 1:
            points = points[None, :]
            active: np.ndarray = ~np.isnan(self.snap(points)[0])
        else:
            active = ~np.isnan(self.snap(points))
        return active

    def _checked(self, points: ArrayLike) -> np.ndarray:
        array = np.asarray(points, dtype=float)
        if array.ndim != 2 or array.shape[1] != len(self):
            raise UsageError(
                explain(
                    "Encoding",
                    f"points of shape {array.shape}",
                    f"shape (n, {len(self)}), one column per dimension",
                    "Make a new Encoding when the space has grown.",
                )
            )
        return array

    def _columns_at(self, points: np.ndarray) -> Iterator[_Column]:
        """Every hyperparameter at the points X, parents before children, with where it is active."""
        seen: dict[str, list[_Column]] = {}
        for each in self._hyperparameters:
            active = np.ones(len(points), dtype=bool)
            for condition in each.conditions:
                assert isinstance(condition, Parent)
                members = self._members[condition]
                holds = np.zeros(len(points), dtype=bool)
                for parent in seen.get(condition.name, ()):
                    holds |= parent.owns & parent.among(members[id(parent.hyperparameter)])
                active &= holds
            owns = active
            for earlier in seen.get(each.name, ()):
                owns = owns & ~earlier.owns
            column = _Column(each, self._index.get(id(each)), points, active, owns)
            seen.setdefault(each.name, []).append(column)
            yield column

    # -- configurations ------------------------------------------------------------------------------------------

    def defaults(self) -> dict[str, Value]:
        """The configuration of defaults."""
        return self.decode_many(np.full((1, len(self)), np.nan))[0]

    def random(self, rng: np.random.Generator) -> dict[str, Value]:
        """A random configuration: every active hyperparameter by its own distribution."""
        return self.decode(rng.random(len(self)))

    def random_many(self, count: int, rng: np.random.Generator) -> list[dict[str, Value]]:
        """`count` random configurations."""
        return self.decode_many(rng.random((count, len(self))))

    def is_valid(self, values: Values) -> bool:
        """Whether these are legal values of exactly the active hyperparameters."""
        seen: dict[str, Value] = {}
        for each in self._hyperparameters:
            if each.name not in seen and all_active(each.conditions, seen):
                if each.name not in values or not each.contains(values[each.name]):
                    return False
                seen[each.name] = values[each.name]
        return len(seen) == len(values)

    def adapt(self, values: Values, rng: np.random.Generator | None = None) -> dict[str, Value]:
        """Makes values of an older or another space valid in this one.

        What is unknown or inactive here is dropped; numbers outside the bounds or off the grid move to the
        nearest legal one; what is missing or no longer exists gets its default, or a random value.

        Args:
            values: values of any space.
            rng: draws what is missing; without it, defaults.
        """
        adapted: dict[str, Value] = {}
        for each in self._hyperparameters:
            if each.name in adapted or not all_active(each.conditions, adapted):
                continue
            value = values.get(each.name)
            if value is not None and each.contains(value):
                adapted[each.name] = each.cast(value)
            elif value is not None and isinstance(each, Numerical) and _is_number(value):
                adapted[each.name] = each.prob_to_value(each.value_to_prob(value))
            else:
                adapted[each.name] = each.default if rng is None else each.random_sample(rng)
        return adapted

    def key(self, values: Values) -> Hashable:
        """What two configurations have in common exactly if they are the same.

        Numbers count in the type of their hyperparameter (1 and 1.0 are the same rate), but True is never 1.
        """
        parts = []
        for name, value in values.items():
            for each in self._by_name.get(name, ()):
                if each.contains(value):
                    value = each.cast(value)
                    break
            parts.append((name, type(value).__name__, value))
        return frozenset(parts)

    # -- finite spaces -------------------------------------------------------------------------------------------

    def num_configurations(self, limit: int = 10**7) -> int | None:
        """How many configurations the space has; None when infinitely many, or more than `limit`."""
        return configurations.count(self._hyperparameters, limit)

    def enumerate(self, num_continuous: int = NUM_MIDPOINTS) -> Iterator[dict[str, Value]]:
        """The configurations of the grid, each once, in a stable order; see `configurations.walk`."""
        return configurations.walk(self._hyperparameters, num_continuous)

    # -- local search --------------------------------------------------------------------------------------------

    def neighbours(
        self, values: Values, rng: np.random.Generator, *, scale: float = 0.1, num_moves: int = 2
    ) -> list[dict[str, Value]]:
        """The configurations one move away.

        Moves change one active hyperparameter: one step up and down the order, every other category, and for
        each continuum `num_moves` Gaussian moves (also for orders of more than ten values, as longer steps).
        What becomes active by a move gets a random value.

        Args:
            values: a valid configuration.
            rng: draws the moves.
            scale: standard deviation of the Gaussian moves, in units of the cube's edge.
            num_moves: how many of them per hyperparameter.

        Returns:
            Valid configurations, none of them `values`, each once.
        """
        start = self.encode(values)
        found: dict[Hashable, dict[str, Value]] = {}
        for column, dimension in enumerate(self.dimensions):
            if np.isnan(start[column]):
                continue
            for position in self._moves(dimension, start[column], rng, scale, num_moves):
                value = dimension.hyperparameter.decode([position])[0]
                moved = self.adapt({**values, dimension.name: value}, rng)
                found.setdefault(self.key(moved), moved)
        found.pop(self.key(values), None)
        return list(found.values())

    def _moves(
        self, dimension: Dimension, position: float, rng: np.random.Generator, scale: float, num_moves: int
    ) -> list[float]:
        hyperparameter, count = dimension.hyperparameter, dimension.num_values
        gaussian = _reflected(position + scale * rng.standard_normal(num_moves))
        if count is None:
            return gaussian
        here = int(hyperparameter.indices(position))
        if dimension.kind == "unordered":
            targets = [index for index in range(count) if index != here]
        else:
            targets = [index for index in (here - 1, here + 1) if 0 <= index < count]
        steps: list[float] = hyperparameter.centres(targets).tolist()
        return steps + gaussian if dimension.kind == "ordered" and count > NUM_MIDPOINTS else steps


class _Column:
    """One hyperparameter at n points.

    Attributes:
        hyperparameter: the hyperparameter.
        index: its coordinate, None if it has a single value.
        active: where its conditions hold, shape (n,).
        owns: where it is active and the first of its name that is, so that its value is the one that counts.
    """

    def __init__(
        self,
        hyperparameter: HyperParameter,
        index: int | None,
        points: np.ndarray,
        active: np.ndarray,
        owns: np.ndarray,
    ) -> None:
        self.hyperparameter, self.index = hyperparameter, index
        self.active, self.owns = active, owns
        self._unknown: np.ndarray | None = None
        if index is None:
            self._positions = np.full(len(points), 0.5)
        else:
            unknown = np.isnan(points[:, index])
            self._positions = np.clip(points[:, index], 0.0, 1.0)
            if unknown.any():
                self._unknown = unknown
                self._positions[unknown] = hyperparameter.value_to_prob(hyperparameter.default)
        self._indices = None if hyperparameter.num_values is None else hyperparameter.indices(self._positions)

    def values(self) -> list[Value]:
        """The value at each point."""
        if self._indices is not None:
            return self.hyperparameter.take(self._indices)
        decoded = self.hyperparameter.decode(self._positions)
        if self._unknown is None:
            return decoded
        default = self.hyperparameter.default  # exactly, and not by way of its position
        return [default if skip else value for value, skip in zip(decoded, self._unknown.tolist(), strict=True)]

    def centres(self) -> np.ndarray:
        """The position of the value at each point."""
        return self._positions if self._indices is None else self.hyperparameter.centres(self._indices)

    def among(self, members: np.ndarray) -> np.ndarray:
        """Where the value is among `members`, which `_members` made."""
        if self._indices is None:
            return np.isin(np.asarray(self.values()), members)
        return np.isin(self._indices, members)


def _reflected(positions: np.ndarray) -> list[float]:
    """Positions folded back into [0, 1]: a move off the edge is a move back from it, not a pile at the edge."""
    folded = np.abs(positions) % 2.0
    inside: list[float] = np.where(folded > 1.0, 2.0 - folded, folded).tolist()
    return inside


def _members(parent: HyperParameter, condition: Parent) -> np.ndarray:
    """The indices (for a continuum: the values) of a parent for which a condition on it holds."""
    if parent.num_values is None:
        return np.asarray([value for value in condition.values if parent.contains(value)], dtype=float)
    return np.asarray(parent.indices_among(condition.values), dtype=np.int64)


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and value == value
