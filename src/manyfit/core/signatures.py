"""Checks of arguments by what a signature says of them, so that no public function has to write its own.

`@checked_arguments()` holds each argument against its annotation before the function begins: `max_trials: int | None`
takes whole numbers (NumPy's, too) and None, `overwrite: bool` truth values, and so on. What an annotation cannot say is
said once beside the function: `@checked_arguments(max_trials=at_least(1))`. Names that the function does not have, and
arguments that are missing, are answered in the same way. Annotations that say nothing (`Any`, protocols, type
variables) check nothing.
"""

from __future__ import annotations

import collections.abc
import dataclasses
import functools
import inspect
import math
import numbers
import os
import types
import typing
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, TypeVar, Union, Unpack

from manyfit.core.checks import check_names, is_whole, typed_name
from manyfit.core.errors import UsageArgumentError, UsageTypeError, explain

Checked = TypeVar("Checked", bound=Callable[..., Any])
Made = TypeVar("Made")


@dataclasses.dataclass(frozen=True)
class Allowed:
    """What an argument has to be.

    Attributes:
        allowed: in words.
        holds: whether a value is that.
        example: one that is.
    """

    allowed: str
    holds: Callable[[Any], bool]
    example: object = None


def at_least(least: float, example: object = None) -> Allowed:
    """A number that is no smaller."""
    return Allowed(f"a number of at least {least:g}", lambda value: bool(value >= least), example or least)


def above(bound: float, example: object = None) -> Allowed:
    """A number that is larger."""
    return Allowed(f"a number above {bound:g}", lambda value: bool(value > bound), example or bound + 1)


def within(low: float, high: float, example: object = None) -> Allowed:
    """A number strictly between two others."""
    return Allowed(f"a number between {low:g} and {high:g}", lambda value: bool(low < value < high), example)


def one_of(*names: str) -> Allowed:
    """One of these texts."""
    return Allowed(f"one of {', '.join(map(repr, names))}", lambda value: value in names, names[0])


#: Numbers of things: a few, none below zero.
INDICES = Allowed(
    "a list of whole numbers from 0", lambda value: all(is_whole(one) and int(one) >= 0 for one in value), [0, 1]
)
#: What is called with something.
FUNCTION = Allowed("a function", callable)
#: A list with something in it.
SOME = Allowed("a list that is not empty", lambda value: len(value) > 0)
#: Where a file or a folder goes.
PATH = Allowed("a path that is not empty", lambda value: bool(os.fspath(value)), "folder")
#: A text that is not empty.
NAME = Allowed("a text that is not empty", lambda value: isinstance(value, str) and bool(value), "name")


def is_truth(value: object) -> bool:
    """Whether a value says yes or no: True, False, NumPy's of them, 1 and 0.

    Example:

    >>> is_truth(False), is_truth(1), is_truth("no")
    (True, True, False)
    """
    # By its name, so that looking at projects loads no NumPy.
    return type(value).__name__ in ("bool", "bool_") or (is_whole(value) and int(value) in (0, 1))


def is_one_of(value: object, *words: str | int) -> bool:
    """Whether a value is one of some words or small numbers; arrays, which equal nothing as a whole, are not."""
    return isinstance(value, str | numbers.Integral) and value in words


def is_number(value: object) -> bool:
    """Whether a value is a finite real number, in whatever library; a truth value is none.

    Example:

    >>> is_number(3), is_number(True), is_number(float("nan")), is_number("3")
    (True, False, False, False)
    """
    if isinstance(value, bool) or not (isinstance(value, numbers.Real) or getattr(value, "ndim", None) == 0):
        return False
    try:
        return math.isfinite(value)  # type: ignore[arg-type]  # a scalar of another library
    except (TypeError, ValueError, OverflowError):  # no number, or larger than any that counts
        return False


_ANYTHING = Allowed("anything", lambda value: True)
_KNOWN: dict[object, Allowed] = {
    type(None): Allowed("None", lambda value: value is None),
    bool: Allowed("True or False", is_truth, True),
    int: Allowed("a whole number", is_whole, 1),
    float: Allowed("a finite number", is_number, 0.5),
    str: Allowed("a text", lambda value: isinstance(value, str), "name"),
    os.PathLike: Allowed("a path", lambda value: isinstance(value, os.PathLike), "folder"),
}


def rule_of(hint: Any) -> Allowed:
    """What an annotation allows.

    Args:
        hint: an annotation that is no text any more.

    Example:

    >>> rule_of(int | None).allowed, rule_of(int | None).holds(2.5)
    ('a whole number or None', False)
    """
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if (known := _KNOWN.get(origin or hint)) is not None:
        return known
    if origin is typing.Literal:
        return Allowed(
            f"one of {', '.join(map(repr, inner))}",
            lambda value: any(value is one or value == one for one in inner),
            inner[0],
        )
    if origin in (Union, types.UnionType):
        return _any_of([rule_of(part) for part in inner])
    return _of_class(origin or hint, inner)


def _any_of(rules: list[Allowed]) -> Allowed:
    if _ANYTHING in rules:
        return _ANYTHING
    example = next((rule.example for rule in rules if rule.example is not None), None)
    words = list(dict.fromkeys(rule.allowed for rule in rules))
    allowed = words[0] if len(words) == 1 else f"{', '.join(words[:-1])} or {words[-1]}"
    return Allowed(allowed, lambda value: any(rule.holds(value) for rule in rules), example)


def _of_class(kind: Any, inner: tuple[Any, ...]) -> Allowed:
    if kind is collections.abc.Callable:
        return Allowed("a function", callable)
    if not isinstance(kind, type) or kind in (object, Any) or getattr(kind, "_is_protocol", False):
        return _ANYTHING
    if issubclass(kind, Mapping):
        return Allowed("a dict", lambda value: isinstance(value, Mapping))
    if (
        issubclass(kind, Iterable)
        and not issubclass(kind, str | bytes)
        and kind.__module__ in ("collections.abc", "builtins")
    ):
        return _several(rule_of(inner[0]) if inner else _ANYTHING)
    return Allowed(
        f"{'an' if kind.__name__[0] in 'AEIOU' else 'a'} {typed_name(kind)}", lambda value: isinstance(value, kind)
    )


def _several(each: Allowed) -> Allowed:
    """A list, or what serves as one: NumPy's arrays and pandas' columns do, texts and dicts do not."""

    def holds(value: Any) -> bool:
        if isinstance(value, str | bytes | Mapping | type) or not hasattr(value, "__iter__"):
            return False
        # Only what can be read twice.
        return not isinstance(value, list | tuple) or all(each.holds(one) for one in value)

    return Allowed("a list" if each is _ANYTHING else f"a list, each of it {each.allowed}", holds)


@dataclasses.dataclass(frozen=True)
class _Door:
    """What a function takes, worked out when it is first called: annotations name what is imported later."""

    function: Callable[..., Any]
    further: Mapping[str, Allowed]
    skipped: Collection[str]

    @functools.cached_property
    def signature(self) -> inspect.Signature:
        return inspect.signature(self.function)

    @functools.cached_property
    def rules(self) -> dict[str, Allowed]:
        found: dict[str, Allowed] = {}
        names = getattr(inspect.unwrap(self.function), "__globals__", {})
        for name, parameter in self.signature.parameters.items():
            if name in self.skipped or parameter.annotation is parameter.empty:
                continue
            if parameter.kind is parameter.VAR_KEYWORD:
                found |= self._of_options(_resolved(parameter.annotation, names))
            elif parameter.kind is not parameter.VAR_POSITIONAL:
                found[name] = self._narrowed(name, rule_of(_resolved(parameter.annotation, names)))
        return found

    def _of_options(self, hint: Any) -> dict[str, Allowed]:
        if typing.get_origin(hint) is not Unpack:
            return {}
        (options,) = typing.get_args(hint)
        # A class of options may take some from its bases, which another module knows the names of.
        hints: dict[str, Any] = {}
        for base in (options, *getattr(options, "__orig_bases__", ())):
            if hasattr(base, "__annotations__"):
                names = vars(inspect.getmodule(base) or types)
                hints = {name: _resolved(one, names) for name, one in base.__annotations__.items()} | hints
        return {name: self._narrowed(name, rule_of(one)) for name, one in hints.items() if name not in self.skipped}

    def _narrowed(self, name: str, rule: Allowed) -> Allowed:
        further = self.further.get(name)
        if further is None:
            return rule
        takes_none = rule is not _ANYTHING and rule.holds(None)
        allowed = f"{further.allowed}{', or None' if takes_none else ''}"
        # `whole` of what the annotation says, where the rule speaks of a number.
        allowed = (
            allowed.replace("a number", "a whole number") if rule.allowed.startswith("a whole number") else allowed
        )

        def holds(value: Any) -> bool:
            return rule.holds(value) and ((value is None and takes_none) or further.holds(value))

        return Allowed(allowed, holds, further.example)

    def check(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        parameters = self.signature.parameters
        where = _name_of(self.function, args if "self" in parameters else ())
        try:
            bound = self.signature.bind(*args, **kwargs)
        except TypeError as error:
            raise self._unbound(where, str(error), args, kwargs) from None
        for name, value in {**bound.arguments, **kwargs}.items():
            rule = self.rules.get(name)
            if rule is None or rule.holds(value):
                continue
            default = parameters[name].default if name in parameters else inspect.Parameter.empty
            if default is value:  # of KerasTuner's, which means "not given"
                continue
            instead = _instead(name, rule, default)
            raise UsageArgumentError(explain(f"{where}({name}=...)", _shown(value), rule.allowed, instead))

    def _unbound(self, where: str, told: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Exception:
        known = [
            name
            for name, one in self.signature.parameters.items()
            if one.kind not in (one.VAR_KEYWORD, one.VAR_POSITIONAL) and name != "self"
        ]
        if unknown := [name for name in kwargs if name not in known]:
            try:
                check_names(where, unknown, known, error=UsageTypeError)
            except UsageTypeError as error:
                return error
        got = f"{told}"
        missing = [
            name
            for name in known
            if name not in kwargs and self.signature.parameters[name].default is inspect.Parameter.empty
        ]
        allowed = f"the arguments {', '.join(known)}" if known else "no arguments"
        example = f"Type {missing[-1]}=..., too" if missing and "missing" in told else "Name each argument once"
        return UsageTypeError(explain(f"{where}(...)", got, allowed, f"{example}; help({where}) shows them."))


def _resolved(annotation: Any, names: Mapping[str, Any]) -> Any:
    """An annotation as it is meant; `Any` where it names what is not there at run time."""
    holder = types.SimpleNamespace(__annotations__={"it": annotation})
    try:
        return typing.get_type_hints(holder, globalns=dict(names))["it"]
    except (NameError, TypeError, AttributeError):
        return Any


def _name_of(function: Callable[..., Any], args: tuple[Any, ...]) -> str:
    name = function.__name__
    if name == "__init__" and args:
        return typed_name(type(args[0]))
    return name


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _instead(name: str, rule: Allowed, default: object) -> str:
    if default is not inspect.Parameter.empty:
        usual = "" if default is None else f" for {default!r}"
        told = f"Leave it out{usual}"
        return f"{told}." if rule.example is None else f"{told}, or type {name}={rule.example!r}."
    return f"Type {name}={rule.example!r}, say." if rule.example is not None else f"Type {name}= with {rule.allowed}."


def checked_arguments(*, skip: Collection[str] = (), **further: Allowed) -> Callable[[Checked], Checked]:
    """Has a function, or the constructor of a class, check its arguments by their annotations.

    Args:
        skip: arguments that the function itself answers for, in better words.
        **further: what an annotation cannot say, by the argument's name.

    Example:

    >>> @checked_arguments(trials=at_least(1))
    ... def wait(trials: int = 3) -> int:
    ...     return trials
    >>> wait(5)
    5
    >>> try:
    ...     wait(trials="5")
    ... except UsageArgumentError as error:
    ...     print(error)
    wait(trials=...): got '5'. Allowed: a whole number of at least 1. Leave it out for 3, or type trials=1.
    """

    def wrap(taken: Checked) -> Checked:
        function: Callable[..., Any] = taken.__init__ if isinstance(taken, type) else taken  # type: ignore[misc]
        door = _Door(function, further, skip)

        @functools.wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            door.check(args, kwargs)
            return function(*args, **kwargs)

        if isinstance(taken, type):
            taken.__init__ = call  # type: ignore[misc]
            return taken
        return call  # type: ignore[return-value]

    return wrap


def checked_methods(*names: str) -> Callable[[type[Made]], type[Made]]:
    """Has methods of a class check their arguments: `checked_arguments` for each, said once.

    Example:

    >>> @checked_methods("wait")
    ... class Clock:
    ...     def wait(self, seconds: float) -> float:
    ...         return seconds
    >>> Clock().wait(1)
    1
    """

    def wrap(owner: type[Made]) -> type[Made]:
        for name in names:
            method = vars(owner)[name]
            if isinstance(method, classmethod):
                setattr(owner, name, classmethod(checked_arguments()(method.__func__)))
            else:
                setattr(owner, name, checked_arguments()(method))
        return owner

    return wrap
