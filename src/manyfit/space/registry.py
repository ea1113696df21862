"""The registry of a search space: names, conditions, definitions, and which definition is in force."""

from __future__ import annotations

import collections
import difflib
from collections.abc import Sequence
from typing import Any

from manyfit.core import environment
from manyfit.core.errors import UsageError, explain
from manyfit.core.records import Value
from manyfit.core.signatures import checked_arguments
from manyfit.space.conditions import Condition, Parent, all_active
from manyfit.space.hyperparameter import HyperParameter

Key = tuple[str, tuple[Condition, ...]]


class Registry:
    """What `HyperParameters` remembers, and the rules by which a definition becomes a value.

    Attributes:
        values: name -> value of the active hyperparameters.
        active_scopes: the condition lists of the conditional scopes that were entered and held.
        inactive_scopes: the same for scopes that did not hold.
    """

    def __init__(self) -> None:
        self.values: dict[str, Value] = {}
        self.active_scopes: list[list[Condition]] = []
        self.inactive_scopes: list[list[Condition]] = []
        self._space: list[HyperParameter] = []
        self._hps: dict[str, list[HyperParameter]] = {}
        self._conditions: list[Condition] = []
        self._name_scopes: list[str] = []
        self._declared: dict[Key, HyperParameter] = {}
        self._pinned: set[str] = set()
        # KerasTuner's way with a name that is asked for again with other bounds; else that is an error.
        self.first_definition_holds = environment.written_for_keras_tuner

    @property
    def space(self) -> list[HyperParameter]:
        """All registered hyperparameters, in the order of their registration."""
        return self._space

    @property
    def pinned(self) -> frozenset[str]:
        """Names whose definition builds cannot change."""
        return frozenset(self._pinned)

    @checked_arguments()
    def is_active(self, hyperparameter: str | HyperParameter) -> bool:
        """Whether the conditions hold: of this hyperparameter, or of any one registered under this name."""
        if isinstance(hyperparameter, HyperParameter):
            return self._conditions_are_active(hyperparameter.conditions)
        return self._active_registration(self._find_name(hyperparameter)) is not None

    def _active_registration(self, full_name: str) -> HyperParameter | None:
        """The first hyperparameter of this name whose conditions hold."""
        registered = self._hps.get(full_name, [])
        return next((each for each in registered if self._conditions_are_active(each.conditions)), None)

    def _conditions_are_active(self, conditions: Sequence[Condition]) -> bool:
        return all_active(conditions, self.values)

    # -- names --------------------------------------------------------------------------------------------------

    def _get_name(self, name: str) -> str:
        """The full name: name scopes, then the name."""
        return "/".join([*self._name_scopes, name])

    def _find_name(self, name: str) -> str:
        """The full name of something known: looked for in the name scope first, then outside of it."""
        for depth in range(len(self._name_scopes), -1, -1):
            candidate = "/".join([*self._name_scopes[:depth], name])
            if candidate in self._hps or candidate in self.values:
                return candidate
        return self._get_name(name)

    def _validate_name(self, name: str) -> None:
        """Refuses a hyperparameter that bears the name of a condition it is under."""
        full_name = self._get_name(name)
        if any(isinstance(each, Parent) and each.name == full_name for each in self._conditions):
            raise UsageError(
                explain(
                    f'hp: "{name}"',
                    "A conditional `HyperParameter` cannot have the same name as its parent. "
                    f"Found: {full_name} and parent_name: {full_name}",
                    "a name of its own",
                    "Rename one of the two.",
                )
            )

    def _hint(self, name: str) -> tuple[str, str]:
        """What is allowed, and what to type, for an error about an unknown name."""
        known = list(self._hps)
        allowed = (
            f"one of {', '.join(known[:20])}{', ...' if len(known) > 20 else ''}" if known else "a registered name"
        )
        near = difflib.get_close_matches(name, known, 1)
        return allowed, f'Did you mean "{near[0]}"?' if near else "Ask for it with hp.Int, hp.Choice and so on first."

    # -- registering --------------------------------------------------------------------------------------------

    def _exists(self, name: str, conditions: Sequence[Condition] | None = None) -> bool:
        """Whether the full name is registered under exactly these conditions (default: the present scope's)."""
        # Exactly these, in this order: two scopes with the same conditions are the same place of the space.
        wanted = list(self._conditions if conditions is None else conditions)
        return any(each.conditions == wanted for each in self._hps.get(name, []))

    def _lookup(self, hp: HyperParameter) -> HyperParameter | None:
        for each in self._hps.get(hp.name, []):
            if each.conditions == hp.conditions:
                return each
        return None

    def _put(self, hp: HyperParameter) -> None:
        """Adds a hyperparameter, or puts it in the place of the one with the same name and conditions."""
        known = self._lookup(hp)
        if known is None:
            self._space.append(hp)
            self._hps.setdefault(hp.name, []).append(hp)
            return
        for listed in (self._space, self._hps[hp.name]):
            listed[next(index for index, each in enumerate(listed) if each is known)] = hp

    def _retrieve(self, hp: HyperParameter) -> Any:
        """The value of what a build asks for, registering it first; None while its conditions do not hold."""
        known = self._lookup(hp)
        if known is not None and type(known) is type(hp) and known.get_config() == hp.get_config():
            hp = known  # with its tables; else thousands of trials would each hold the space
        if self.first_definition_holds:
            hp = self._declared.get(hp.key, hp)
        else:
            self._refuse_second_definition(hp)
        self._declared.setdefault(hp.key, hp)
        # A pin wins over what the build asks for, but only where the pinned definition is active: else the build's own
        # counts.
        override = self._active_registration(hp.name) if hp.name in self._pinned else None
        if override is None:
            self._register(hp)
        else:
            self.values.setdefault(hp.name, override.default)
        if self._conditions_are_active(hp.conditions):
            return self.values[hp.name]
        if self._active_registration(hp.name) is None:
            self.values.pop(hp.name, None)  # proposed for parent values that this build did not keep
        return None

    def _register(self, hp: HyperParameter, overwrite: bool = False) -> Any:
        """Puts a definition in force and settles its value; with `overwrite`, at the default."""
        known = self._lookup(hp)
        self._put(hp)
        if not self._conditions_are_active(hp.conditions):
            return None
        if overwrite or hp.name not in self.values:
            self.values[hp.name] = hp.default
        else:
            self.values[hp.name] = _carried_over(self.values[hp.name], known, hp)
        return self.values[hp.name]

    def _refuse_second_definition(self, hp: HyperParameter) -> None:
        """Refuses a second definition of a name that holds at the same time."""
        for earlier in [each for key, each in self._declared.items() if key[0] == hp.name]:
            both_hold = self.is_active(earlier) and self.is_active(hp)
            if (earlier.conditions == hp.conditions or both_hold) and not earlier.same_domain(hp):
                raise UsageError(
                    explain(
                        f'hp.{type(hp).__name__}("{hp.name}")',
                        f"{hp.describe()} after {earlier.describe()}",
                        "one definition for a name within one build",
                        "Use another name for the second; or, if this is meant as a new build, give it hp.copy().",
                    )
                )


def parents_first(space: Sequence[HyperParameter]) -> list[HyperParameter]:
    """The hyperparameters in their order, except that each comes after all that bear the name of a parent of it."""
    waiting, placed = list(space), []
    num_waiting = collections.Counter(each.name for each in waiting)
    while waiting:
        ready = (
            index
            for index, each in enumerate(waiting)
            if not any(isinstance(part, Parent) and num_waiting[part.name] for part in each.conditions)
        )
        # Nobody ready means a circle of conditions: then the first goes, and is simply never active.
        placed.append(waiting.pop(next(ready, 0)))
        num_waiting[placed[-1].name] -= 1
    return placed


def _carried_over(value: Value, old: HyperParameter | None, new: HyperParameter) -> Value:
    """A stored value under a new definition: as it is where legal, else at the same quantile.

    A value that the old definition did not allow either was set by hand, and is the user's business.
    """
    if new.contains(value):
        return new.cast(value)
    if old is None or not old.contains(value):
        return value
    return new.prob_to_value(old.value_to_prob(value))
