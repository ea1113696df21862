"""Finite spaces: how many configurations there are, and all of them in order."""

from __future__ import annotations

import collections
import math
from collections.abc import Iterator, Sequence

from manyfit.core.records import Value
from manyfit.space.conditions import Condition, Parent, all_active
from manyfit.space.hyperparameter import HyperParameter
from manyfit.space.numerical import NUM_MIDPOINTS, Numerical


def grid_values(hyperparameter: HyperParameter, num_continuous: int = NUM_MIDPOINTS) -> Sequence[Value]:
    """The values that a grid search tries, the default first, then the others in their order.

    A continuum, or whole numbers on a log scale that are more than `num_continuous`, are stood for by
    `num_continuous` quantile midpoints and the default, as in KerasTuner.
    """
    count = hyperparameter.num_values
    log_integers = isinstance(hyperparameter, Numerical) and hyperparameter.step is None
    if isinstance(hyperparameter, Numerical) and (count is None or (log_integers and count > num_continuous)):
        listed: Sequence[Value] = hyperparameter.midpoints(num_continuous)
    elif log_integers:
        listed = [hyperparameter.value_at(index) for index in range(count or 0)]
    else:
        listed = hyperparameter.values
    default = hyperparameter.default
    return [default, *(value for value in listed if value != default)]


def walk(space: Sequence[HyperParameter], num_continuous: int = NUM_MIDPOINTS) -> Iterator[dict[str, Value]]:
    """All configurations of a grid, each once.

    The order: every hyperparameter takes its default first, then its other values in their order; the last
    hyperparameter varies fastest. So the first configuration is the one of defaults. The order depends on the
    space alone.

    Args:
        space: hyperparameters, parents before children.
        num_continuous: see `grid_values`.
    """
    # Once per hyperparameter, not per branch; the walk itself makes nothing before it is asked for.
    columns = [grid_values(each, num_continuous) for each in space]

    def rest(index: int, values: dict[str, Value]) -> Iterator[dict[str, Value]]:
        while index < len(space) and (space[index].name in values or not all_active(space[index].conditions, values)):
            index += 1
        if index == len(space):
            yield dict(values)
            return
        for value in columns[index]:
            yield from rest(index + 1, {**values, space[index].name: value})

    return rest(0, {})


def count(space: Sequence[HyperParameter], limit: int) -> int | None:
    """The number of configurations; None when infinite or above `limit`.

    Hyperparameters that no condition links are counted apart and multiplied; within a linked group, the values of
    one parent are sorted into classes that switch on the same children, and each class is counted once. So thirty
    switches with a child each take thirty small steps, not 2**30.

    Args:
        space: hyperparameters, parents before children.
        limit: the largest number of interest.
    """
    total = _Counter(limit).configurations(tuple((each, frozenset(each.conditions)) for each in space))
    return None if total > limit else int(total)


#: A hyperparameter and those of its conditions that are not known to hold yet.
Item = tuple[HyperParameter, frozenset[Condition]]


class _Counter:
    """Counts the configurations of groups of items, each group once."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._known: dict[frozenset[tuple[int, frozenset[Condition]]], float] = {}

    def configurations(self, items: Sequence[Item]) -> float:
        """The product over linked groups; infinite for a continuum."""
        total: float = 1
        for group in _linked_groups(_possible(items)):
            total *= self._of_group(group)
            if total > self._limit:
                return math.inf
        return total

    def _of_group(self, group: Sequence[Item]) -> float:
        # By identity and open conditions: the same group under the same circumstances has the same count, whatever led
        # there. This is what keeps trees of switches from exploding.
        key = frozenset((id(each), open_conditions) for each, open_conditions in group)
        if key not in self._known:
            self._known[key] = self._sum_over_values(group)
        return self._known[key]

    def _sum_over_values(self, group: Sequence[Item]) -> float:
        # Somebody whose conditions are all settled: its values can be split into classes without knowing anything else.
        decided = next((each for each in _first_of_each_name(group) if not each[1]), None)
        if decided is None:
            return 1  # what waits for itself is never active
        hyperparameter = decided[0]
        if hyperparameter.num_values is None:
            return math.inf
        others = [item for item in group if item[0].name != hyperparameter.name]
        total: float = 0
        for holding, size in _classes(hyperparameter, others).items():
            total += size * self.configurations(_given(hyperparameter.name, holding, others))
            if total > self._limit:
                return math.inf
        return total


def _first_of_each_name(group: Sequence[Item]) -> list[Item]:
    """The first registration of each name: where several are active at once, it is the one that counts."""
    first: dict[str, Item] = {}
    for item in group:
        first.setdefault(item[0].name, item)
    return list(first.values())


def _classes(hyperparameter: HyperParameter, others: Sequence[Item]) -> dict[frozenset[Condition], int]:
    """How many values make the same conditions hold: set of conditions -> number of values."""
    holding: dict[int, set[Condition]] = {}
    for condition in {part for _, open_conditions in others for part in open_conditions}:
        if isinstance(condition, Parent) and condition.name == hyperparameter.name:
            for index in hyperparameter.indices_among(condition.values):
                holding.setdefault(index, set()).add(condition)
    classes = collections.Counter(frozenset(conditions) for conditions in holding.values())
    # Values that no condition mentions behave alike: one class for all of them, so a range of a million counts as one
    # step.
    indifferent = (hyperparameter.num_values or 0) - len(holding)
    return {**classes, frozenset(): indifferent}


def _given(name: str, holding: frozenset[Condition], others: Sequence[Item]) -> list[Item]:
    """What is left once the hyperparameter `name` has a value for which just these conditions hold."""
    left = []
    for each, open_conditions in others:
        on_name = {part for part in open_conditions if isinstance(part, Parent) and part.name == name}
        if on_name <= holding:
            left.append((each, open_conditions - on_name))
    return left


def _possible(items: Sequence[Item]) -> list[Item]:
    """The items without those that wait for a hyperparameter that is not there."""
    kept = list(items)
    while True:
        names = {each.name for each, _ in kept}
        left = [item for item in kept if all(isinstance(part, Parent) and part.name in names for part in item[1])]
        if len(left) == len(kept):
            return kept
        kept = left


def _linked_groups(items: Sequence[Item]) -> list[list[Item]]:
    """Splits items into groups that share no name and no condition."""
    group_of: dict[str, str] = {}

    def root(name: str) -> str:
        while group_of.setdefault(name, name) != name:
            name = group_of[name]
        return name

    for each, open_conditions in items:
        for part in open_conditions:
            if isinstance(part, Parent):
                group_of[root(part.name)] = root(each.name)
    groups: dict[str, list[Item]] = {}
    for item in items:
        groups.setdefault(root(item[0].name), []).append(item)
    return list(groups.values())
