"""Discovery: running a build function until no conditional scope of it is new."""

from __future__ import annotations

import collections
import warnings
from collections.abc import Callable
from typing import Any

from manyfit.core.errors import SearchError, explain
from manyfit.core.records import Value
from manyfit.space.categorical import Choice
from manyfit.space.conditions import Condition, Parent
from manyfit.space.hyperparameters import HyperParameters

Scope = tuple[Condition, ...]


def discover(
    build: Callable[[HyperParameters], Any], hps: HyperParameters, *, max_builds: int = 1000
) -> HyperParameters:
    """Finds the whole space of a build function.

    The function runs once with the values given (and defaults for the rest), then once for every conditional
    scope that was entered without holding, with values that make it hold; scopes found on the way are treated
    alike. What lies behind a plain ``if`` becomes known only when a trial gets there.

    A scope on texts that its parent never takes is reported as a warning, for it is nearly always a misspelling.

    Args:
        build: the build function; its result is ignored, what it raises is not caught.
        hps: what is known before: starting values, overrides. It stays as it is.
        max_builds: how often the function may run.

    Returns:
        The space, with the values of the first run.

    Raises:
        SearchError: the function still had new scopes after `max_builds` runs.

    Example:

    >>> def build(hp):
    ...     if hp.Choice("kind", ["linear", "deep"]) == "deep":
    ...         hp.Int("layers", 1, 3)
    ...     with hp.conditional_scope("kind", "deep"):
    ...         hp.Int("units", 16, 64)
    >>> [each.name for each in discover(build, HyperParameters()).space]
    ['kind', 'units', 'layers']
    """
    # Two copies: `first` keeps the user's values through the first run, `space` collects what all runs find.
    space, first = hps.copy(), hps.copy()
    found = _Scopes()
    found.run(build, first, space)
    space.values = dict(first.values)
    space.ensure_active_values()
    num_builds = 1
    while found.waiting:
        scope = found.waiting.popleft()
        # Once each: a scope that cannot be made to hold would otherwise be tried for ever.
        if scope in found.held or scope in found.tried:
            continue
        found.tried.add(scope)
        hp = space.copy()
        if not _activate(hp, scope):
            continue
        if num_builds >= max_builds:
            raise _endless(max_builds, scope)
        found.run(build, hp, space)
        num_builds += 1
    # Sorted, since sets have another order in each process and warnings should not.
    for scope in sorted(found.tried - found.held, key=repr):
        _warn_of_misspelling(space, scope)
    return space


class _Scopes:
    """The conditional scopes of a build function: which held in some run, were tried, or wait for a try."""

    def __init__(self) -> None:
        self.held: set[Scope] = set()
        self.tried: set[Scope] = set()
        self.waiting: collections.deque[Scope] = collections.deque()

    def run(self, build: Callable[[HyperParameters], Any], hp: HyperParameters, space: HyperParameters) -> None:
        """One run of the build function, whose hyperparameters go into `space`."""
        build(hp)
        space.widen(hp)
        self.held.update(tuple(scope) for scope in hp.active_scopes)
        self.waiting.extend(tuple(scope) for scope in hp.inactive_scopes)


def _activate(hp: HyperParameters, scope: Scope) -> bool:
    """Gives the parents of a scope values that make it hold; False where no value can."""
    for name in dict.fromkeys(condition.name for condition in scope if isinstance(condition, Parent)):
        value = _common_value(hp, scope, name)
        if value is None:
            return False
        hp.values[name] = value
    hp.ensure_active_values()
    return all(condition.is_active(hp.values) for condition in scope)


def _common_value(hp: HyperParameters, scope: Scope, name: str) -> Value | None:
    """The first value of the hyperparameter `name` that all conditions of the scope on it allow."""
    lists = [part.values for part in scope if isinstance(part, Parent) and part.name == name]
    parents = [each for each in hp.space if each.name == name]
    for value in lists[0]:
        if all(value in values for values in lists) and any(parent.contains(value) for parent in parents):
            return value
    return None


def _warn_of_misspelling(space: HyperParameters, scope: Scope) -> None:
    last = scope[-1]
    assert isinstance(last, Parent)
    parents = [each for each in space.space if each.name == last.name]
    if last.name in space.pinned or not all(isinstance(each, Choice) for each in parents):
        return
    known = [value for each in parents for value in each.values]
    if any(value in known for value in last.values) or not all(isinstance(value, str) for value in last.values):
        return
    warnings.warn(
        explain(
            f'conditional_scope("{last.name}")',
            f"{last.values}, which it never took while the space was explored, so the scope was never active",
            f"values out of {known}",
            "Correct the spelling, or add the value to the choice.",
        ),
        stacklevel=3,
    )


def _endless(max_builds: int, scope: Scope) -> SearchError:
    return SearchError(
        explain(
            "The build function",
            f"new conditional scopes after {max_builds} builds, the latest {list(scope)}",
            "a space that stops growing",
            "Do not make names, parent values or conditions from counters, times or random numbers.",
        )
    )
