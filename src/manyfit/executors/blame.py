"""Finds what in an object cannot be pickled, and names it as its author would."""

from __future__ import annotations

import functools
import inspect
import types
from collections.abc import Callable, Iterator, Mapping

_MAX_DEPTH = 12  # what lies deeper says little to its author, and a chain of closures may have no end


def blame(content: object, picklable: Callable[[object], bool]) -> str:
    """The innermost part that cannot be pickled, by the way that leads to it.

    Args:
        content: what cannot be pickled.
        picklable: says whether something can be.

    Example:

    >>> import pickle, threading
    >>> def can_be_pickled(content):
    ...     try:
    ...         return bool(pickle.dumps(content))
    ...     except Exception:
    ...         return False
    >>> blame({"size": 3, "guard": threading.Lock()}, can_be_pickled)
    "['guard'], a lock"
    """
    path: list[str] = []
    seen: set[int] = set()
    # Down into the first part that cannot be pickled, and from there on: the innermost one is what has to be changed.
    for _ in range(_MAX_DEPTH):
        seen.add(id(content))
        for way, part in _parts(content):
            if id(part) not in seen and not picklable(part):
                path += [way] if way else []
                content = part
                break
        else:
            break
    kind = type(content).__name__
    what = f"{'an' if kind[0] in 'aeiouAEIOU' else 'a'} {kind}"
    return ", ".join([*([" > ".join(path)] if path else []), what])


def _parts(content: object) -> Iterator[tuple[str, object]]:
    """What an object consists of, each with a name for people."""
    if isinstance(content, functools.partial):
        yield from (("", content.func), ("", content.args), ("", content.keywords))
    elif inspect.ismethod(content):
        yield "", content.__self__
        yield "", content.__func__
    elif inspect.isfunction(content):
        yield from _parts_of_function(content)
    elif inspect.isclass(content):
        yield from ((f"the class {content.__qualname__}", part) for part in vars(content).values())
    elif isinstance(content, Mapping):
        yield from ((f"[{key!r}]", value) for key, value in content.items())
    elif isinstance(content, list | tuple | set | frozenset):
        yield from (("" if callable(value) else f"[{index}]", value) for index, value in enumerate(content))
    else:
        yield from _parts_of_object(content)


def _parts_of_object(content: object) -> Iterator[tuple[str, object]]:
    state = content.__getstate__() if hasattr(content, "__getstate__") else None
    if isinstance(state, tuple):  # with slots
        state = {name: value for part in state if part for name, value in part.items()}
    if isinstance(state, Mapping):
        yield from ((f"{type(content).__name__}.{name}", value) for name, value in state.items())
    # Other classes travel by name.
    kind = type(content)
    if kind.__module__ == "__main__" or "<locals>" in kind.__qualname__:  # such a class travels with its objects
        yield "", kind


def _parts_of_function(function: types.FunctionType) -> Iterator[tuple[str, object]]:
    label = f"the function {function.__qualname__}"
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        try:
            yield f"{label} > its variable {name}", cell.cell_contents
        except ValueError:  # not set yet
            continue
    for index, value in enumerate(function.__defaults__ or ()):
        yield f"{label} > its default number {index + 1}", value
    for name in _names_in(function.__code__):
        if name in function.__globals__:
            yield f"{label} > the global {name}", function.__globals__[name]


def _names_in(code: types.CodeType) -> Iterator[str]:
    """Names that a function looks up, those of functions inside it included."""
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _names_in(constant)
