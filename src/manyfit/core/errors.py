"""The error family.

Every message has four parts: where it happened, what came in, what is allowed, and what to type instead.
The `Fatal*` and `FailedTrialError` names are KerasTuner's: raised inside a build function they mean
"stop the search" and "this trial failed, do not retry it".
"""

from __future__ import annotations

import inspect
import warnings
from pathlib import Path

from manyfit.core.untrusted import shown


class ManyfitError(Exception):
    """Base of all errors that Manyfit raises on purpose."""


class UsageError(ManyfitError, ValueError):
    """A value that Manyfit cannot work with."""


class UsageTypeError(ManyfitError, TypeError):
    """A value of a type that Manyfit cannot work with."""


class UsageKeyError(ManyfitError, KeyError):
    """A name that does not exist."""

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else ""  # KeyError would show the text in quotes


class ProjectError(ManyfitError, RuntimeError):
    """A project folder that cannot be used as asked: locked, unwritable, or of another search."""


class SearchError(ManyfitError, RuntimeError):
    """The search as a whole cannot go on, for instance because every trial failed."""


class FailedTrialError(ManyfitError):
    """Raise it in a build function or in `run_trial` to end this trial as failed, without a retry."""


class FatalError(ManyfitError):
    """Raise it in a build function or in `run_trial` to stop the whole search."""


class FatalValueError(FatalError, ValueError):
    """A `FatalError` that is also a `ValueError`."""


class FatalTypeError(FatalError, TypeError):
    """A `FatalError` that is also a `TypeError`."""


class FatalRuntimeError(FatalError, RuntimeError):
    """A `FatalError` that is also a `RuntimeError`."""


def explain(where: str, got: object, allowed: str, instead: str) -> str:
    """Builds the text of an error from its four parts.

    Args:
        where: the call or argument, for instance ``Int("units")``.
        got: what came in, a text or a value.
        allowed: what would have been right.
        instead: what to type instead.

    Returns:
        One line of text.

    Example:

    >>> explain('Int("units")', "min_value=64, max_value=16", "min_value <= max_value", "Swap the two values.")
    'Int("units"): got min_value=64, max_value=16. Allowed: min_value <= max_value. Swap the two values.'
    """
    found = got if isinstance(got, str) else repr(got)
    # Names out of a stranger's file are among them, and end on a terminal.
    return shown(f"{where}: got {found}. Allowed: {allowed}. {instead}")


def first_line(error: BaseException) -> str:
    """The first line of an exception's message, for a message of ours; "" where it has none.

    Example:

    >>> first_line(ValueError("no such file\\nin this folder")), first_line(EOFError())
    ('no such file', '')
    """
    return next(iter(str(error).strip().splitlines()), "")


def warn_user(text: str) -> None:
    """Warns, whatever `verbose` says, and names the user's line that led here, not one of ours.

    Args:
        text: what is wrong, and what to type instead.
    """
    ours, level, frame = str(Path(__file__).parents[1]), 1, inspect.currentframe()
    while frame is not None and frame.f_code.co_filename.startswith(ours):
        frame, level = frame.f_back, level + 1
    warnings.warn(text, UserWarning, stacklevel=level)
