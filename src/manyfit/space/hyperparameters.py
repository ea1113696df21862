"""`HyperParameters`: the search space, and the values of one trial."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from manyfit.core.errors import UsageError, UsageKeyError, UsageTypeError, explain
from manyfit.core.signatures import checked_arguments
from manyfit.space.categorical import Boolean, Choice, Fixed
from manyfit.space.conditions import Condition, Parent, ParentValues, all_active
from manyfit.space.configs import of_config, parts_of_config
from manyfit.space.hyperparameter import HyperParameter, V
from manyfit.space.numerical import Float, Int
from manyfit.space.registry import Registry, parents_first

#: What `Int` and `Float` check themselves.
_NUMBERS = ("name", "min_value", "max_value", "step", "sampling", "default")


class HyperParameters(Registry):
    """The search space that a build function defines by running, and the values it sees while it runs.

    A hyperparameter is known by its name and the conditions it was asked for under. The first call registers it;
    every call returns its value, or None while its conditions do not hold.

    **One build.** A new object, or a `copy`, starts a new build. Within one build a name has one definition:
    asking again with other bounds, values or type (under the same conditions, or under others that hold at the
    same time) is an error that shows both. Asking again with the same ones returns the same value.

    **From build to build** definitions may change, because a bound may depend on another value:
    ``hp.Int("b", 0, hp.Int("a", 1, 10))``. The build at hand then uses its own bounds. A stored value that is
    legal there stays; another is moved to the same quantile of the new bounds; `values` holds what was used.
    A space collects what builds defined with `widen`, which keeps the envelope of all bounds seen, so that later
    proposals cover the whole range.

    **Overrides.** `pin` marks what is registered as the user's own word: builds get its values, whatever they ask.

    Attributes:
        values: name -> value of the active hyperparameters.
        active_scopes: the condition lists of the conditional scopes that were entered and held.
        inactive_scopes: the same for scopes that did not hold.

    Example:

    >>> hp = HyperParameters()
    >>> hp.Choice("optimizer", ["adam", "sgd"])
    'adam'
    >>> with hp.conditional_scope("optimizer", "sgd"):
    ...     print(hp.Float("momentum", 0, 0.9, step=0.1))
    None
    >>> hp.values
    {'optimizer': 'adam'}
    """

    # -- asking for values ---------------------------------------------------------------------------------------

    @checked_arguments(skip=("name", "values"))
    def Choice(
        self,
        name: str,
        values: Iterable[V],
        ordered: bool | None = None,
        default: V | None = None,
        parent_name: str | None = None,
        parent_values: ParentValues | None = None,
    ) -> V:
        """One of a list of values; see `Choice`.

        Args:
            name: unique name within its scope.
            values: the values, of one type, each once.
            ordered: whether neighbours are alike; True for numbers unless said otherwise.
            default: value of the first trial, the first in the list if not given.
            parent_name: with `parent_values`, the hyperparameter that switches this one on.
            parent_values: one value or a list.

        Returns:
            The value, or None while inactive.
        """
        value: V = self._ask(Choice, name, parent_name, parent_values, values=values, ordered=ordered, default=default)
        return value

    @checked_arguments(skip=_NUMBERS)
    def Int(
        self,
        name: str,
        min_value: int,
        max_value: int,
        step: int | None = None,
        sampling: str | None = "linear",
        default: int | None = None,
        parent_name: str | None = None,
        parent_values: ParentValues | None = None,
    ) -> int:
        """A whole number between two bounds, both included; see `Int`.

        Args:
            name: unique name within its scope.
            min_value: lower bound.
            max_value: upper bound.
            step: distance of neighbours; on a log scale, their ratio.
            sampling: "linear", "log" or "reverse_log".
            default: value of the first trial, the lowest if not given.
            parent_name: with `parent_values`, the hyperparameter that switches this one on.
            parent_values: one value or a list.

        Returns:
            The value, or None while inactive.
        """
        numbers = {"min_value": min_value, "max_value": max_value, "step": step}
        value: int = self._ask(Int, name, parent_name, parent_values, **numbers, sampling=sampling, default=default)
        return value

    @checked_arguments(skip=_NUMBERS)
    def Float(
        self,
        name: str,
        min_value: float,
        max_value: float,
        step: float | None = None,
        sampling: str | None = "linear",
        default: float | None = None,
        parent_name: str | None = None,
        parent_values: ParentValues | None = None,
    ) -> float:
        """A real number between two bounds, both included; see `Float`. Arguments as in `Int`."""
        numbers = {"min_value": min_value, "max_value": max_value, "step": step}
        value: float = self._ask(Float, name, parent_name, parent_values, **numbers, sampling=sampling, default=default)
        return value

    @checked_arguments(skip=("name", "default"))
    def Boolean(
        self,
        name: str,
        default: bool = False,
        parent_name: str | None = None,
        parent_values: ParentValues | None = None,
    ) -> bool:
        """True or False; see `Boolean`. None while inactive."""
        value: bool = self._ask(Boolean, name, parent_name, parent_values, default=default)
        return value

    @checked_arguments(skip=("name",))
    def Fixed(
        self,
        name: str,
        value: V,
        parent_name: str | None = None,
        parent_values: ParentValues | None = None,
    ) -> V:
        """A value that the search leaves alone; see `Fixed`. None while inactive."""
        chosen: V = self._ask(Fixed, name, parent_name, parent_values, value=value)
        return chosen

    def _ask(
        self,
        kind: type[HyperParameter],
        name: str,
        parent_name: str | None,
        parent_values: ParentValues | None,
        **arguments: Any,
    ) -> Any:
        with self._maybe_conditional_scope(parent_name, parent_values):
            # A name that is no text is passed on as it is: the hyperparameter's own check explains it best.
            full_name = name
            if isinstance(name, str) and name:
                self._validate_name(name)
                full_name = self._get_name(name)
            return self._retrieve(kind(name=full_name, conditions=self._conditions, **arguments))

    @checked_arguments()
    def get(self, name: str) -> Any:
        """The value of an active hyperparameter.

        Raises:
            UsageError: it is inactive.
            UsageKeyError: there is none of this name.
        """
        full_name = self._find_name(name)
        if full_name in self._hps:
            active = self._active_registration(full_name)
            if active is None:
                raise UsageError(
                    explain(
                        f'hp.get("{name}")',
                        f"{full_name} is currently inactive",
                        "a hyperparameter whose conditions hold",
                        f'Ask with `if "{name}" in hp:` first.',
                    )
                )
            return self.values.get(full_name, active.default)
        if full_name not in self.values:
            raise UsageKeyError(explain(f'hp.get("{name}")', f"{full_name} does not exist", *self._hint(name)))
        return self.values[full_name]

    def __getitem__(self, name: str) -> Any:
        return self.get(name)

    def __contains__(self, name: object) -> bool:
        if not isinstance(name, str):
            return False
        full_name = self._find_name(name)
        return self.is_active(full_name) if full_name in self._hps else full_name in self.values

    # -- scopes --------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def name_scope(self, name: str) -> Iterator[None]:
        """Puts ``name/`` before the names of hyperparameters asked for inside.

        Raises:
            UsageTypeError: the name is no text.

        Example:

        >>> hp = HyperParameters()
        >>> with hp.name_scope("encoder"):
        ...     units = hp.Int("units", 16, 64)
        >>> hp.values
        {'encoder/units': 16}
        """
        if not isinstance(name, str):
            raise UsageTypeError(explain("hp.name_scope", f"{name!r}", "a text", f'Type hp.name_scope("{name}").'))
        self._name_scopes.append(name)
        try:
            yield
        finally:
            self._name_scopes.pop()

    @checked_arguments(skip=("parent_values",))
    @contextlib.contextmanager
    def conditional_scope(self, parent_name: str, parent_values: ParentValues) -> Iterator[None]:
        """Hyperparameters asked for inside are active only while the parent has one of the given values.

        The body always runs, so that the space becomes known; inside a scope that does not hold, every
        hyperparameter returns None. The parent may be any hyperparameter asked for before: in this scope, in an
        enclosing one, or in another conditional scope (then its own conditions apply here as well).

        Args:
            parent_name: name of the parent; inside a name scope, first looked for in it, then outside.
            parent_values: one value or a list.

        Raises:
            UsageError: the parent is not defined, or is defined under several conditions of which none encloses
                this scope.
        """
        full_name, inherited = self._resolve_parent(parent_name)
        condition = self._parent_condition(full_name, parent_values)
        depth = len(self._conditions)
        self._conditions += [*inherited, condition]
        try:
            scopes = self.active_scopes if self._conditions_are_active(self._conditions) else self.inactive_scopes
            scopes.append(list(self._conditions))
            yield
        finally:
            del self._conditions[depth:]

    # -- the space as a whole ------------------------------------------------------------------------------------

    @checked_arguments()
    def pin(self, *names: str) -> None:
        """Makes registered hyperparameters (all, if no names are given) override what build functions ask for.

        Args:
            names: full names.

        Raises:
            UsageKeyError: a name that is not registered.

        Example:

        >>> mine = HyperParameters()
        >>> mine.Fixed("learning_rate", 0.01)
        0.01
        >>> mine.pin()
        >>> hp = mine.copy()
        >>> hp.Float("learning_rate", 1e-4, 1e-1, sampling="log")
        0.01
        """
        for name in names:
            if name not in self._hps:
                raise UsageKeyError(explain("hp.pin", f"{name} does not exist", *self._hint(name)))
        self._pinned.update(names or self._hps)

    def merge(self, hps: HyperParameters | Iterable[HyperParameter], overwrite: bool = True) -> None:
        """Takes over the hyperparameters of another space.

        Args:
            hps: the other space, or a list of hyperparameters.
            overwrite: whether definitions for the same name and conditions are replaced, and their values reset to
                the default; otherwise what is here stays.

        Raises:
            UsageTypeError: `hps` is neither.
        """
        incoming = _listed(hps, "merge")
        for each in incoming:
            if overwrite or self._lookup(each) is None:
                self._put(each)
                if overwrite:
                    self.values.pop(each.name, None)
        self.ensure_active_values()

    def widen(self, hps: HyperParameters | Iterable[HyperParameter]) -> bool:
        """Takes over what a build has defined: new hyperparameters, and wider bounds of known ones.

        Where both define the same name and conditions, the result allows the values of both (the envelope of the
        bounds, the union of the lists); where that has no meaning (another type), the incoming definition counts.
        Pinned names stay as they are.

        Returns:
            Whether anything changed.

        Example:

        >>> space, hp = HyperParameters(), HyperParameters()
        >>> space.Int("layers", 1, 3)
        1
        >>> hp.Int("layers", 1, 5)
        1
        >>> space.widen(hp)
        True
        >>> space.space
        [Int(name: 'layers', min_value: 1, max_value: 5, step: 1, sampling: linear, default: 1)]
        """
        changed = False
        for each in _listed(hps, "widen"):
            known = self._lookup(each)
            if known is None:
                if each.name in self._pinned:
                    continue
                self._put(each)
            elif each.name not in self._pinned and not known.same_domain(each):
                # The envelope and not the latest: bounds that depend on other values move from build to build, and
                # proposals have to reach all of them.
                wider = known.union(each)
                if wider.same_domain(known):
                    continue
                self._put(wider)
            else:
                continue
            changed = True
        if changed:
            self.ensure_active_values()
        return changed

    def ensure_active_values(self, rng: np.random.Generator | None = None) -> None:
        """Drops the values of inactive hyperparameters and gives the active ones that lack a value one.

        Args:
            rng: draws the missing values; without it, they get their defaults.
        """
        values = {name: value for name, value in self.values.items() if name not in self._hps}
        for each in parents_first(self._space):
            if each.name in values or not all_active(each.conditions, values):
                continue
            if each.name in self.values:
                values[each.name] = self.values[each.name]
            else:
                values[each.name] = each.default if rng is None else each.random_sample(rng)
        self.values.clear()
        self.values.update(values)

    def copy(self) -> HyperParameters:
        """The same space and values, ready for a new build: scopes start afresh."""
        return self._twin(map(copy.copy, self._space))

    def shared_copy(self) -> HyperParameters:
        """A copy with the same objects, which nobody may change: for trials, of which there may be thousands."""
        return self._twin(self._space)

    def _twin(self, space: Iterable[HyperParameter]) -> HyperParameters:
        twin = HyperParameters()
        for each in space:
            twin._put(each)
        twin.values = dict(self.values)
        # Not `_declared` and not the scopes: they belong to one build, and a copy begins another.
        twin._pinned = set(self._pinned)
        twin.first_definition_holds = self.first_definition_holds
        return twin

    def get_config(self) -> dict[str, Any]:
        """Space and values as JSON, in KerasTuner's form (with the key "pinned" if anything is)."""
        config: dict[str, Any] = {
            "space": [serialize(each) for each in self._space],
            "values": dict(self.values),
        }
        return {**config, "pinned": sorted(self._pinned)} if self._pinned else config

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> HyperParameters:
        """The space and values that `get_config` described."""
        hps = cls()
        space, hps.values, hps._pinned = parts_of_config(config)
        for each in space:
            hps._put(each)
        return hps

    def __repr__(self) -> str:
        return f"HyperParameters(space: {[each.name for each in self._space]}, values: {self.values})"

    # -- parents -------------------------------------------------------------------------------------------------

    def _resolve_parent(self, parent_name: str) -> tuple[str, list[Condition]]:
        """The full name of a parent, and its own conditions that do not hold for the present scope yet."""
        full_name = self._find_name(parent_name)
        registered = self._hps.get(full_name, [])
        registered = [each for each in registered if each.key in self._declared] or registered
        if not registered:
            raise UsageError(
                explain(
                    f'parent_name="{parent_name}"',
                    f"`HyperParameter` named: {self._get_name(parent_name)} not defined",
                    *self._hint(parent_name),
                )
            )
        missing = [[each for each in hp.conditions if each not in self._conditions] for hp in registered]
        if not all(missing):
            return full_name, []
        # One definition: its own conditions are inherited, as if its scope had been opened here.
        if len(missing) == 1:
            return full_name, missing[0]
        raise UsageError(
            explain(
                f'parent_name="{parent_name}"',
                f"{full_name}, which exists {len(missing)} times, under {[hp.conditions for hp in registered]}",
                "a parent that is unambiguous here",
                "Open the conditional scope of the one you mean first.",
            )
        )

    def _parent_condition(self, full_name: str, parent_values: ParentValues) -> Parent:
        """The condition on a parent, with 1 and 0 read as booleans where the parent is one."""
        condition = Parent(full_name, parent_values)
        if not all(isinstance(each.default, bool) for each in self._hps[full_name]):
            return condition
        return Parent(full_name, [bool(value) if value in (0, 1) else value for value in condition.values])

    @contextlib.contextmanager
    def _maybe_conditional_scope(self, parent_name: str | None, parent_values: ParentValues | None) -> Iterator[None]:
        if parent_name is None and parent_values is None:
            yield
            return
        if parent_name is None or parent_values is None:
            raise UsageError(
                explain(
                    "hp",
                    f"parent_name={parent_name!r}, parent_values={parent_values!r}",
                    "both or neither",
                    'Type, for instance, parent_name="optimizer", parent_values=["sgd"].',
                )
            )
        with self.conditional_scope(parent_name, parent_values):
            yield


def _listed(hps: HyperParameters | Iterable[HyperParameter], where: str) -> list[HyperParameter]:
    listed = hps.space if isinstance(hps, HyperParameters) else hps
    if isinstance(listed, Iterable) and not isinstance(listed, str):
        listed = list(listed)
        if all(isinstance(each, HyperParameter) for each in listed):
            return [copy.copy(each) for each in listed]
    raise UsageTypeError(
        explain(
            f"HyperParameters.{where}",
            hps,
            "a HyperParameters object or a list of hyperparameters",
            "Type, for instance, tuner.oracle.get_space().",
        )
    )


def serialize(item: HyperParameters | HyperParameter) -> dict[str, Any]:
    """A hyperparameter or a whole space as JSON: ``{"class_name": ..., "config": ...}``."""
    return {"class_name": type(item).__name__, "config": item.get_config()}


def deserialize(config: Mapping[str, Any]) -> HyperParameters | HyperParameter:
    """What `serialize` described.

    Raises:
        UsageError: an unknown class name.

    Example:

    >>> deserialize(serialize(Int("units", 16, 64)))
    Int(name: 'units', min_value: 16, max_value: 64, step: 1, sampling: linear, default: 16)
    """
    if isinstance(config, Mapping) and config.get("class_name") == HyperParameters.__name__:
        return HyperParameters.from_config(config.get("config", {}))
    return of_config(config)
