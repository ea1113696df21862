"""Encoding: between values and points of the unit cube. What samplers see of a search space.

Notation:
    n  number of points
    d  number of dimensions
    X  points, shape (n, d), each coordinate in [0, 1], or NaN where the hyperparameter is inactive
"""

from __future__ import annotations

import dataclasses
from collections.abc import Hashable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from manyfit.core.errors import UsageError, explain
from manyfit.core.records import Value, Values
from manyfit.space import grid
from manyfit.space.conditions import Condition, Parent, all_active
from manyfit.space.hyperparameter import HyperParameter, Kind
from manyfit.space.hyperparameters import HyperParameters, parents_first
from manyfit.space.numerical import NUM_MIDPOINTS, Numerical

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
        self._hyperparameters = parents_first(space.copy().space)
        self._columns = {}
        self.dimensions: list[Dimension] = []
        for each in self._hyperparameters:
            if each.num_values != 1:
                self._columns[id(each)] = len(self.dimensions)
                self.dimensions.append(Dimension(each.name, each.kind, each.num_values, each))
        self._by_name: dict[str, list[HyperParameter]] = {}
        for each in self._hyperparameters:
            self._by_name.setdefault(each.name, []).append(each)
        self._members = {
            (id(parent), id(condition)): _members(parent, condition)
            for each in self._hyperparameters
            for condition in each.conditions
            if isinstance(condition, Parent)
            for parent in self._by_name.get(condition.name, [])
        }

    def __len__(self) -> int:
        """The number of dimensions, d."""
        return len(self.dimensions)

    # -- values to points ----------------------------------------------------------------------------------------

    def encode(self, values: Values) -> np.ndarray:
        """The point of one configuration, shape (d,); NaN where inactive, or not given."""
        return self.encode_many([values])[0]

    def encode_many(self, configurations: Sequence[Values]) -> np.ndarray:
        """The points of many configurations.

        Args:
            configurations: n times the values of the active hyperparameters. Numbers outside the bounds count as
                the bound.

        Returns:
            X, shape (n, d).

        Raises:
            UsageError: a value that is not in its choice.
        """
        points = np.full((len(configurations), len(self)), np.nan)
        holds: dict[Condition, np.ndarray] = {}
        for column, dimension in enumerate(self.dimensions):
            raw = [values.get(dimension.name, _MISSING) for values in configurations]
            rows = np.array([value is not _MISSING for value in raw], dtype=bool)
            for condition in dimension.conditions:
                if condition not in holds:
                    holds[condition] = np.array([condition.is_active(values) for values in configurations], dtype=bool)
                rows &= holds[condition]
            if rows.all():
                points[:, column] = dimension.hyperparameter.encode(raw)
            elif rows.any():
                chosen = [value for value, is_active in zip(raw, rows.tolist(), strict=True) if is_active]
                points[rows, column] = dimension.hyperparameter.encode(chosen)
        return points

    # -- points to values ----------------------------------------------------------------------------------------

    def decode(self, point: Any) -> dict[str, Value]:
        """The configuration at a point of shape (d,): the values of all active hyperparameters, fixed ones included.

        Coordinates of inactive hyperparameters are ignored; NaN at an active one means its default.
        """
        return self.decode_many(np.asarray(point, dtype=float)[None, :])[0]

    def decode_many(self, points: Any) -> list[dict[str, Value]]:
        """The configurations at points X of shape (n, d); see `decode`.

        Raises:
            UsageError: X does not have d columns.
        """
        points = self._checked(points)
        configurations: list[dict[str, Value]] = [{} for _ in points]
        for each in self._hyperparameters:
            column = self._column_values(each, points)
            for values, value in zip(configurations, column, strict=True):
                if each.name not in values and all_active(each.conditions, values):
                    values[each.name] = value
        return configurations

    def _column_values(self, hyperparameter: HyperParameter, points: np.ndarray) -> list[Value]:
        index = self._columns.get(id(hyperparameter))
        if index is None:
            return [hyperparameter.value_at(0)] * len(points)
        column = points[:, index]
        unknown = np.isnan(column)
        if not unknown.any():
            return hyperparameter.decode(column)
        decoded = hyperparameter.decode(np.where(unknown, 0.5, column))
        return [
            hyperparameter.default if skip else value for value, skip in zip(decoded, unknown.tolist(), strict=True)
        ]

    def _checked(self, points: Any) -> np.ndarray:
        array = np.asarray(points, dtype=float)
        if array.ndim != 2 or array.shape[1] != len(self):
            raise UsageError(
                explain(
                    "Encoding.decode",
                    f"points of shape {array.shape}",
                    f"shape (n, {len(self)}), one column per dimension",
                    "Make a new Encoding when the space has grown.",
                )
            )
        return array

    # -- activity ------------------------------------------------------------------------------------------------

    def active(self, values_or_points: Any) -> np.ndarray:
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
            return ~np.isnan(self.snap(points[None, :]))[0]
        return ~np.isnan(self.snap(points))

    def snap(self, points: Any) -> np.ndarray:
        """The points of the configurations that are decoded at X, without making the configurations.

        Equal to ``encode_many(decode_many(X))``, but vectorised: for samplers that move in the cube.

        Args:
            points: X of shape (n, d). NaN at an active coordinate means the default.

        Returns:
            Shape (n, d): coordinates at the centres of their buckets, NaN where inactive.
        """
        points = self._checked(points)
        snapped = np.full(points.shape, np.nan)
        states: dict[str, list[tuple[HyperParameter, np.ndarray, Any]]] = {}
        taken: dict[str, np.ndarray] = {}
        for each in self._hyperparameters:
            active = np.ones(len(points), dtype=bool)
            for condition in each.conditions:
                active &= self._holds(condition, states, len(points))
            if each.name in taken:
                own = active & ~taken[each.name]
                taken[each.name] = taken[each.name] | active
            else:
                own = taken[each.name] = active
            position, state = self._snapped_column(each, points)
            states.setdefault(each.name, []).append((each, own, state))
            if id(each) in self._columns:
                snapped[:, self._columns[id(each)]] = np.where(active, position, np.nan)
        return snapped

    def _snapped_column(self, hyperparameter: HyperParameter, points: np.ndarray) -> tuple[Any, Any]:
        """Snapped positions, and what conditions on this hyperparameter look at: indices, or a continuum's values."""
        index = self._columns.get(id(hyperparameter))
        if index is None:
            return None, np.zeros(len(points), dtype=np.int64)
        column = points[:, index]
        unknown = np.isnan(column)
        if unknown.any():
            column = np.where(unknown, hyperparameter.value_to_prob(hyperparameter.default), column)
        if hyperparameter.num_values is None:
            return np.clip(column, 0.0, 1.0), np.asarray(hyperparameter.decode(column))
        indices = hyperparameter.indices(column)
        return hyperparameter.centres(indices), indices

    def _holds(self, condition: Condition, states: Mapping[str, list[Any]], count: int) -> np.ndarray:
        assert isinstance(condition, Parent)
        holds = np.zeros(count, dtype=bool)
        for parent, owns, state in states.get(condition.name, []):
            holds |= owns & np.isin(state, self._members[id(parent), id(condition)])
        return holds

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
            if all_active(each.conditions, seen):
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
            if each.contains(value):
                adapted[each.name] = each.cast(value)
            elif isinstance(each, Numerical) and isinstance(value, (int, float)) and not isinstance(value, bool):
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
        return grid.count(self._hyperparameters, limit)

    def enumerate(self, num_continuous: int = NUM_MIDPOINTS) -> Iterator[dict[str, Value]]:
        """The configurations of the grid, each once, in a stable order; see `grid.walk`."""
        return grid.walk(self._hyperparameters, num_continuous)

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
        steps = hyperparameter.centres(targets).tolist()
        return steps + gaussian if dimension.kind == "ordered" and count > NUM_MIDPOINTS else steps


def _reflected(positions: np.ndarray) -> list[float]:
    """Positions folded back into [0, 1]: a move off the edge is a move back from it, not a pile at the edge."""
    folded = np.abs(positions) % 2.0
    return np.where(folded > 1.0, 2.0 - folded, folded).tolist()


def _members(parent: HyperParameter, condition: Parent) -> np.ndarray:
    """The indices (for a continuum: the values) of a parent for which a condition on it holds."""
    if parent.num_values is None:
        return np.asarray([value for value in condition.values if parent.contains(value)], dtype=float)
    return np.asarray(parent.indices_among(condition.values), dtype=np.int64)
