"""Calls that are wrong: a table that people wrote, and one that signatures give; and what is said of each.

Short forms, as in a notebook: `H()` is a `HyperParameters` with two entries, `R(cls, ...)` a tuner, `S(...)` a search
of 24 rows of four numbers and two classes, `T` a tuner that has searched, `N` one that has not, `M(value)` a search
whose `run_trial` returns that value, `E(...)` `Ensemble.fit`, `X`, `Y`, `V` rows and validation data, `P` predictions.
"""

from __future__ import annotations

import dataclasses
import inspect
import re
import types
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from manyfit.core.errors import ManyfitError

_FOUR_PARTS = re.compile(r"(?s).+?: got .+?\. Allowed: .+?\. \S.*")


@dataclasses.dataclass(frozen=True)
class WrongCall:
    """A call, as people would type it."""

    typed: str
    run: Callable[[], Any]

    def answer(self) -> str:
        """Four parts, fewer parts, raw, or accepted; with what came."""
        try:
            self.run()
        except Exception as error:  # whatever comes out is what is looked for
            ours = isinstance(error, ManyfitError | ImportError)  # the latter of an extra that is not installed
            if ours and _FOUR_PARTS.fullmatch(str(error)):
                return "four parts"
            return f"{'fewer parts' if ours else 'raw'}: {type(error).__name__}: {str(error)[:150]}"
        return "accepted"


def written(lines: str, names: Mapping[str, Any]) -> Iterator[WrongCall]:
    """One call per line of text."""
    for line in filter(None, map(str.strip, lines.splitlines())):
        code = compile(line, "<wrong call>", "eval")
        yield WrongCall(line, lambda code=code: eval(code, dict(names)))  # written above


#: What is wrong for a part of an annotation, unless another part of it allows it.
_WRONG: dict[str, list[Any]] = {
    "int": ["3", 1.5, float("nan"), True, [2], 1j],
    "float": ["0.5", float("nan"), True, [0.5], 1j],
    "bool": ["no", 2, [], 0.5],
    "str": [5, b"x", ["a", 5], 1.5],
    "Callable": ["x", 5],
}
#: Arguments for which a number below zero, or zero, is wrong.
_AT_LEAST_ONE = re.compile(
    r"^(max_(?!value)\w+|num_\w+|\w+_epochs|epochs|executions\w*|folds|repeats|top|workers|trials|\w+_size)$"
)
#: Not asked for: `self`, and what Keras takes in many forms.
_AS_IN_KERAS = ("self", "verbose", "shuffle")
#: What a reader of annotations cannot know: an annotation that takes anything.
_ANYTHING = ("Any", "object", "ArrayLike", "FitData", "Prediction", "Source", "Value", "V", "Range")


def parts_of(annotation: str) -> list[str]:
    """The alternatives of an annotation, brackets cut off."""
    return [part.strip() for part in re.sub(r"\[[^\[\]]*(\[[^\[\]]*\])*[^\[\]]*\]", "", annotation).split("|")]


def wrong_values(name: str, annotation: str) -> list[Any]:
    """What the annotation does not allow."""
    parts = parts_of(annotation)
    if any(part in _ANYTHING for part in parts):
        return []
    values: list[Any] = [] if "None" in parts else [None]
    known = {"int": int, "float": float, "bool": bool, "str": str}
    for part in parts:
        values += [value for value in _WRONG.get(part, []) if not _allowed(value, parts)]
        if part not in known and part not in ("None", "Callable"):
            values += [value for value in (object(), 5.5) if not _allowed(value, parts)]
    if ("int" in parts or "float" in parts) and _AT_LEAST_ONE.match(name):
        values += [0, -1]
    return values


def _allowed(value: Any, parts: list[str]) -> bool:
    if isinstance(value, str):
        return "str" in parts
    if isinstance(value, bool):
        return "bool" in parts
    if isinstance(value, list):
        return any(part in parts for part in ("Sequence", "Iterable", "list", "tuple"))
    if isinstance(value, int):
        return "int" in parts or "float" in parts
    return isinstance(value, float) and "float" in parts and value == value


def generated(typed: str, called: Callable[..., Any], **right: Any) -> Iterator[WrongCall]:
    """Wrong calls of a function: one argument at a time wrong, the others as they are given.

    Args:
        typed: how people write the function.
        called: it.
        **right: arguments that are right; a function is called for a fresh value.
    """
    names = dict(inspect.signature(called).parameters)
    for name, parameter in names.items():
        annotation = parameter.annotation
        if name in _AS_IN_KERAS or parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        for value in wrong_values(name, annotation) if isinstance(annotation, str) else []:
            if parameter.default is value:
                continue
            yield _with(typed, called, right, name, value, parameter.kind is parameter.POSITIONAL_ONLY)
    misspelt = max(names, key=len, default="argument")[:-2] + "xx"
    yield _with(typed, called, right, misspelt, 1, False)


def _with(
    typed: str, called: Callable[..., Any], right: Mapping[str, Any], name: str, value: Any, by_place: bool
) -> WrongCall:
    def run() -> Any:
        given = {
            key: one() if isinstance(one, types.FunctionType) and one.__name__ == "<lambda>" else one
            for key, one in right.items()
        }
        return called(value, **given) if by_place else called(**{**given, name: value})

    return WrongCall(f"{typed}({name}={value!r})" if not by_place else f"{typed}({value!r})", run)


def counted(answers: Mapping[str, str]) -> dict[str, int]:
    """How many calls were answered in which way."""
    kinds = [answer.split(":")[0] for answer in answers.values()]
    return {kind: kinds.count(kind) for kind in ("four parts", "fewer parts", "raw", "accepted")}


def rows() -> tuple[np.ndarray, np.ndarray]:
    """24 rows of four numbers, and two classes."""
    x = np.random.default_rng(0).normal(size=(24, 4)).astype("float32")
    return x, (x.sum(axis=1) > 0).astype("int32")
