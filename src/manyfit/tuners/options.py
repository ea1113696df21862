"""The arguments by name that tuners hand on to each other, with their types: what editors complete and `help` shows.

A constructor that hands on `**options: Unpack[SearchOptions]` has one line in place of thirty, and a type checker still
knows each of them. `spelled_out` tells `inspect` and `help` as well.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Sequence
from typing import Any, TypedDict, TypeVar

from manyfit.executors.base import Executor
from manyfit.samplers.base import Constraint
from manyfit.schedulers.base import Scheduler
from manyfit.training.devices import Devices
from manyfit.training.precision import Precision
from manyfit.tuners.keras_tuner.overrides import Strategy

Function = TypeVar("Function", bound=Callable[..., Any])


class ProjectOptions(TypedDict, total=False):
    """What `Tuner` hands on to `BaseTuner`, where they are described."""

    executor: Executor | None
    keras_tuner_files: bool
    trust: bool
    display: str


class SearchOptions(ProjectOptions, total=False):
    """What ready tuners hand on by name to `Tuner` and to `Oracle`, where they are described."""

    directory: str | os.PathLike[str] | None
    project_name: str | None
    overwrite: bool

    max_model_size: int | None
    optimizer: object
    loss: object
    metrics: object
    distribution_strategy: Strategy | None
    logger: object
    tuner_id: str | None
    executions_per_trial: int
    num_kept_models: int
    population: bool
    population_size: int | None
    precision: Precision
    steps_per_execution: int | None
    jit_compile: bool | None
    devices: Devices
    keep_predictions: bool

    scheduler: Scheduler | str | None
    max_total_epochs: int | None
    max_seconds: float | None
    constraints: Sequence[Constraint]
    compat: str | None


class Written(str):
    """An annotation as it stands in the source: `help` would show a text within quotation marks."""

    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)


def as_written(parameter: inspect.Parameter) -> inspect.Parameter:
    """The parameter, its annotation shown as it stands in the source; `self` has none."""
    annotation = parameter.annotation
    return parameter.replace(annotation=Written(annotation)) if isinstance(annotation, str) else parameter


def spelled_out(options: type, *takers: type) -> Callable[[Function], Function]:
    """Lets `inspect.signature`, `help` and completion show what `**options` takes, each by its name.

    Args:
        options: the `TypedDict` of them.
        takers: classes whose constructors they are handed on to, the nearest first: theirs are types and defaults.
    """
    # The nearest taker last, since it wins: `Tuner` has its own default of what `BaseTuner` takes as well.
    known: dict[str, inspect.Parameter] = {}
    for taker in reversed(takers):
        known |= inspect.signature(taker).parameters

    def show(constructor: Function) -> Function:
        own = {
            name: parameter
            for name, parameter in inspect.signature(constructor).parameters.items()
            if parameter.kind is not inspect.Parameter.VAR_KEYWORD
        }
        handed_on = [
            known[name].replace(kind=inspect.Parameter.KEYWORD_ONLY)
            for name in options.__annotations__
            if name not in own
        ]
        shown = [as_written(parameter) for parameter in (*own.values(), *handed_on)]
        constructor.__signature__ = inspect.Signature(shown, return_annotation=Written("None"))  # type: ignore[attr-defined]
        return constructor

    return show
