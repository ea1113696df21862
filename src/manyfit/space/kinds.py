"""The kinds of hyperparameter by the name that their configuration carries."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from manyfit.core.errors import UsageError, explain
from manyfit.space.categorical import Boolean, Choice, Fixed
from manyfit.space.hyperparameter import HyperParameter
from manyfit.space.numerical import Float, Int

KINDS: dict[str, type[HyperParameter]] = {kind.__name__: kind for kind in (Fixed, Float, Int, Choice, Boolean)}


def to_config(hyperparameter: HyperParameter) -> dict[str, Any]:
    """A hyperparameter as ``{"class_name": ..., "config": ...}``."""
    return {"class_name": type(hyperparameter).__name__, "config": hyperparameter.get_config()}


def of_config(config: Mapping[str, Any]) -> HyperParameter:
    """The hyperparameter that `to_config` described.

    Raises:
        UsageError: a class name that is none of the five kinds.
    """
    kind = KINDS.get(config.get("class_name", ""))
    if kind is None:
        raise UsageError(
            explain(
                "deserialize",
                f"Unknown object: {config.get('class_name')!r}",
                f"a class_name out of {', '.join(KINDS)}",
                "Check that the file was written by `get_config`.",
            )
        )
    return kind.from_config(config["config"])
