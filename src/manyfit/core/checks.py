"""Checks of arguments that many calls share, so that the same mistake is answered in the same words everywhere."""

from __future__ import annotations

import difflib
import importlib.util
import inspect
import math
from collections.abc import Iterable, Sequence
from typing import TypeGuard

from manyfit.core.errors import ManyfitError, UsageError, explain


def is_whole(value: object) -> TypeGuard[int]:
    """Whether a value counts as a whole number: Python's and NumPy's integers do, `True` and `3.0` do not.

    Example:

    >>> is_whole(3), is_whole(True), is_whole(3.0)
    (True, False, False)
    """
    # `__index__` and not `isinstance(value, int)`: NumPy's integers come out of many a user's arithmetic. A bool has it
    # as well, and `epochs=True` is always a mistake.
    return hasattr(value, "__index__") and not isinstance(value, bool)


def whole_number(
    where: str,
    value: object,
    *,
    least: int = 1,
    instead: str,
    allowed: str = "",
    error: type[ManyfitError] = UsageError,
) -> int:
    """The value as an `int`, where it is a whole number of at least `least`.

    Args:
        where: the call or the argument, for the message.
        value: what the user passed.
        least: the smallest one that is allowed.
        instead: what to type instead.
        allowed: what is allowed, where there is more to say than the least number.
        error: what to raise.

    Raises:
        UsageError: it is no whole number, or smaller; or `error`, where one is given.

    Example:

    >>> whole_number("search(max_trials)", 3, instead="Type max_trials=10, say.")
    3
    """
    if is_whole(value) and int(value) >= least:
        return int(value)
    raise error(explain(where, repr(value), allowed or f"a whole number of at least {least}", instead))


def whole_number_or_none(
    where: str,
    value: object,
    *,
    least: int = 1,
    instead: str,
    allowed: str = "",
    error: type[ManyfitError] = UsageError,
) -> int | None:
    """See `whole_number`; None stays None.

    Raises:
        UsageError: it is neither None nor a whole number of at least `least`; or `error`, where one is given.
    """
    if value is None:
        return None
    allowed = allowed or f"a whole number of at least {least}, or None"
    return whole_number(where, value, least=least, instead=instead, allowed=allowed, error=error)


def seconds_or_none(where: str, value: object) -> float | None:
    """A limit of time as a `float`; None stays None.

    Raises:
        UsageError: it is neither None nor a finite number above 0.

    Example:

    >>> seconds_or_none("fit(max_seconds)", 90), seconds_or_none("fit(max_seconds)", None)
    (90.0, None)
    """
    if value is None:
        return None
    # Not infinite: of what has no end no share can be kept for a step.
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
        got = f"{value!r} of type {type(value).__name__}" if isinstance(value, str) else repr(value)
        raise UsageError(explain(where, got, "seconds: a number above 0, or None", "Leave it out for no limit."))
    return float(value)


def check_names(
    where: str, given: Iterable[str], known: Sequence[str], *, more: str = "", error: type[ManyfitError] = UsageError
) -> None:
    """Refuses arguments by a name that a call does not know.

    Args:
        where: the call, for the message.
        given: names that came in.
        known: those that there are.
        more: what shows all of them, where they are too many for a message.
        error: what to raise.

    Raises:
        UsageError: there is one; the message names the closest that there is; or `error`, where one is given.

    Example:

    >>> check_names("search(...)", ["epochs"], ["epochs", "verbose"])
    """
    unknown = [f"{name}=" for name in given if name not in known]
    if unknown:
        closest = closest_name(unknown[0][:-1], known)
        allowed = f"one of {', '.join(known)}" if known else "no arguments by name"
        instead = f"Type {closest}=, say" if closest else f"Leave {unknown[0]} out"
        if more:
            allowed, instead = "the arguments of its docstring", f"{instead}, or {more} for all of them"
        raise error(explain(where, f"Unrecognized arguments {', '.join(unknown)}", allowed, f"{instead}."))


def closest_name(name: object, known: Iterable[str]) -> str | None:
    """The name that somebody meant; even a poor guess shows what kind of name belongs there. None: there is none.

    Example:

    >>> closest_name("val_acuracy", ["loss", "val_loss", "val_accuracy"])
    'val_accuracy'
    """
    return next(iter(difflib.get_close_matches(str(name), list(known), n=1, cutoff=0.0)), None)


def did_you_mean(name: object, known: Iterable[str], otherwise: str) -> str:
    """What to type instead of a name that there is not.

    Args:
        name: what came in.
        known: the names that there are.
        otherwise: what to say where none of them resembles it.

    Example:

    >>> did_you_mean("unt", ["units", "rate"], "Type hp.get(name).")
    'Did you mean "units"?'
    """
    close = difflib.get_close_matches(str(name), list(known), n=1)
    return f'Did you mean "{close[0]}"?' if close else otherwise


def check_extra(package: str, extra: str) -> None:
    """Refuses what needs a package that is not installed.

    Args:
        package: its name, as it is imported.
        extra: of Manyfit, that brings it.

    Raises:
        ImportError: it is not.
    """
    if importlib.util.find_spec(package) is None:
        where, got = f"{extra}, asked for in trackers= or manyfit export,", f"no package {package}"
        raise ImportError(explain(where, got, f"{package} beside Manyfit", f"Type pip install manyfit[{extra}]."))


def check_left_over(made: type, given: Iterable[str]) -> None:
    """Refuses arguments of a constructor that nobody takes: see `check_names`.

    Args:
        made: the class; its signature says what there is.
        given: names of what is left over.

    Raises:
        UsageError: there is one.
    """
    known = [name for name in inspect.signature(made).parameters if name != "kwargs"]
    check_names(made.__name__, sorted(given), known, more=f"help({typed_name(made)})")


def typed_name(kind: type) -> str:
    """A class as its user types it: one of theirs by its name, one of Manyfit's as its documentation imports it.

    Example:

    >>> typed_name(int), typed_name(ManyfitError)
    ('int', 'kt.ManyfitError')
    """
    return f"{'kt.' if kind.__module__.startswith('manyfit.') else ''}{kind.__name__}"
