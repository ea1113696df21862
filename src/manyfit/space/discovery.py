"""Discovery: running a build function until no conditional scope of it is new."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from manyfit.core.errors import SearchError, explain
from manyfit.core.records import Value
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
    space = hps.copy()
    visited: set[Scope] = set()
    waiting: list[Scope | None] = [None]
    num_builds = 0
    while waiting:
        scope = waiting.pop(0)
        if scope is not None and scope in visited:
            continue
        if num_builds == max_builds:
            raise _endless(max_builds, scope)
        hp = space.copy()
        if scope is not None:
            visited.add(scope)
            if not _activate(hp, scope):
                continue
        build(hp)
        num_builds += 1
        space.widen(hp)
        if scope is None:
            space.values = dict(hp.values)
            space.ensure_active_values()
        visited.update(tuple(each) for each in hp.active_scopes)
        waiting += [tuple(each) for each in hp.inactive_scopes if tuple(each) not in visited]
    return space


def _activate(hp: HyperParameters, scope: Scope) -> bool:
    """Gives the parents of a scope values that make it hold; False where no value can."""
    wanted: dict[str, list[Value]] = {}
    for condition in scope:
        assert isinstance(condition, Parent)
        known = wanted.get(condition.name, condition.values)
        wanted[condition.name] = [value for value in condition.values if value in known]
    for name, values in wanted.items():
        legal = [value for value in values if any(each.contains(value) for each in hp._hps.get(name, []))]
        if not legal:
            return False
        hp.values[name] = legal[0]
    hp.ensure_active_values()
    return all(condition.is_active(hp.values) for condition in scope)


def _endless(max_builds: int, scope: Scope | None) -> SearchError:
    return SearchError(
        explain(
            "The build function",
            f"new conditional scopes after {max_builds} builds, the latest {list(scope or ())}",
            "a space that stops growing",
            "Do not make names, parent values or conditions from counters, times or random numbers.",
        )
    )
