"""Hyperparameters as JSON, and back: the gate for what files say, whoever wrote them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from manyfit.core.errors import ManyfitError, UsageError, explain
from manyfit.core.records import Value
from manyfit.space.categorical import Boolean, Choice, Fixed
from manyfit.space.hyperparameter import HyperParameter
from manyfit.space.numerical import Float, Int

#: The five kinds of hyperparameter by the name that their configuration carries.
KINDS: dict[str, type[HyperParameter]] = {kind.__name__: kind for kind in (Fixed, Float, Int, Choice, Boolean)}
_CHECK_FILE = "Check that the file was written by `get_config`."


def of_config(config: Mapping[str, Any]) -> HyperParameter:
    """The hyperparameter that `serialize` described.

    Raises:
        UsageError: a class name that is none of the five kinds, or arguments that this kind does not take.

    Example:

    >>> of_config({"class_name": "Fixed", "config": {"name": "epochs", "value": 20}})
    Fixed(name: epochs, value: 20)
    """
    name = config.get("class_name", "") if isinstance(config, Mapping) else config
    kind = KINDS.get(name) if isinstance(name, str) else None
    if kind is None:
        got, allowed = f"Unknown object: {name!r}", f"a class_name out of {', '.join(KINDS)}"
        raise UsageError(explain("deserialize", got, allowed, _CHECK_FILE))
    try:
        return kind.from_config(config["config"])
    except ManyfitError:
        raise
    # Whatever the constructor stumbles over: of a file nobody knows what it holds.
    except Exception as error:
        got, allowed = f"config={config.get('config')!r}"[:200], f"the arguments of {name}"
        raise UsageError(explain(f"deserialize: {name}", got, allowed, _CHECK_FILE)) from error


def parts_of_config(config: Mapping[str, Any]) -> tuple[list[HyperParameter], dict[str, Value], set[str]]:
    """The hyperparameters, the values and the pinned names of a space.

    Raises:
        UsageError: it is none; the message names the part.
    """
    where = "HyperParameters.from_config"
    allowed = 'a dict {"space": [...], "values": {...}}'
    if not isinstance(config, Mapping) or not {"space", "values"} <= set(config):
        raise UsageError(explain(where, f"{config!r}"[:200], allowed, _CHECK_FILE))
    space, values, pinned = config["space"], config["values"], config.get("pinned", ())
    if not isinstance(space, list | tuple):
        raise UsageError(explain(where, f"space={space!r}"[:200], "a list of hyperparameters", _CHECK_FILE))
    if not isinstance(values, Mapping) or not all(map(_is_named_value, values.items())):
        got, right = f"values={values!r}"[:200], "a dict from names to texts, numbers and truth values"
        raise UsageError(explain(where, got, right, _CHECK_FILE))
    if not isinstance(pinned, list | tuple) or not all(isinstance(name, str) for name in pinned):
        raise UsageError(explain(where, f"pinned={pinned!r}"[:200], "a list of names", _CHECK_FILE))
    return [of_config(each) for each in space], dict(values), set(pinned)


def _is_named_value(item: tuple[object, object]) -> bool:
    name, value = item
    return isinstance(name, str) and (value is None or isinstance(value, str | int | float | bool))
