"""The arguments by name that tuners hand on to each other, with their types: what editors complete and `help` shows.

A constructor that hands on `**options: Unpack[SearchOptions]` has one line in place of thirty, and a type checker still
knows each of them. `spelled_out` tells `inspect` and `help` as well.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypedDict, TypeVar

from numpy.typing import ArrayLike

from manyfit.data.rows import FitData
from manyfit.ensemble.problem import PredictionTask
from manyfit.ensemble.settings import EnsembleSettings
from manyfit.executors.base import Executor
from manyfit.samplers.base import Constraint
from manyfit.schedulers.base import Scheduler
from manyfit.space.hyperparameters import HyperParameters
from manyfit.training.devices import Devices
from manyfit.training.precision import Precision
from manyfit.tuners.keras_tuner.overrides import Strategy

Function = TypeVar("Function", bound=Callable[..., Any])


class ProjectOptions(TypedDict, total=False):
    """What `Tuner` hands on to `BaseTuner`, where they are described."""

    executor: Executor | None
    max_seconds_per_trial: float | None
    max_memory: int | str | None
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


class ReadyOptions(SearchOptions, total=False):
    """What ready tuners take by name, those included that KerasTuner takes by their places; see `RandomSearch`."""

    seed: int | None
    hyperparameters: HyperParameters | None
    tune_new_entries: bool
    allow_new_entries: bool
    max_retries_per_trial: int
    max_consecutive_failed_trials: int


class StepArguments(TypedDict, total=False):
    """What `keras.Model.fit` takes that is neither rows nor epochs nor callbacks."""

    batch_size: int | None
    shuffle: bool
    class_weight: Mapping[int, float] | None
    steps_per_epoch: int | None
    validation_steps: int | None
    validation_batch_size: int | None
    validation_freq: int | Sequence[int]


class ConfirmArguments(StepArguments, total=False):
    """What `Tuner.confirm` takes besides; the first six are those of `ConfirmSettings`."""

    max_rounds: int
    proof_executions: int
    keep_weights: bool
    margin: float | None
    groups: ArrayLike | None
    time_ordered: bool
    epochs: int
    callbacks: object


class RetrainArguments(StepArguments, total=False):
    """What `Tuner.retrain` takes besides, as `model.fit` does."""

    sample_weight: FitData
    validation_data: object
    validation_split: float
    initial_epoch: int


class CallArguments(RetrainArguments, total=False):
    """What `Tuner.search` and `Tuner.fit` take besides x, y and epochs: all of `model.fit`, and four of their own."""

    verbose: int | str
    callbacks: object
    cross_validation: object
    row_id: object
    predict: FitData
    trackers: object


class SearchArguments(CallArguments, total=False):
    """What `Tuner.search` takes besides x and y."""

    epochs: int


class FitOptions(CallArguments, total=False):
    """What `kt.fit` hands on to `Tuner.fit`."""

    epochs: int | None
    max_trials: int | None
    groups: ArrayLike | None
    time_ordered: bool
    beliefs: bool


class CombineOptions(TypedDict, total=False):
    """What `Tuner.ensemble` and `Tuner.bag` hand on to `Ensemble.fit`."""

    sample_weight: FitData
    metric: object
    method: str
    task: PredictionTask | str | None
    settings: EnsembleSettings | None
    seed: int


class EvaluateOptions(TypedDict, total=False):
    """What `Tuner.evaluate` takes besides."""

    batch_size: int | None
    steps: int | None
    sample_weight: FitData


class Written(str):
    """An annotation as it stands in the source: `help` would show a text within quotation marks."""

    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)


def as_written(parameter: inspect.Parameter) -> inspect.Parameter:
    """The parameter, its annotation shown as it stands in the source; `self` has none."""
    annotation = parameter.annotation
    return parameter.replace(annotation=Written(annotation)) if isinstance(annotation, str) else parameter


def spelled_out(
    options: type, *takers: Callable[..., object], places: Sequence[str] = ()
) -> Callable[[Function], Function]:
    """Lets `inspect.signature`, `help` and completion show what `**options` takes, each by its name.

    Args:
        options: the `TypedDict` of them.
        takers: classes and functions that they are handed on to, the nearest first: theirs are the defaults. What none
            of them knows is None unless it is given.
        places: names of what `*args` takes, where that is handed on as well.
    """
    # The nearest taker last, since it wins: `Tuner` has its own default of what `BaseTuner` takes as well.
    known: dict[str, inspect.Parameter] = {}
    for taker in reversed(takers):
        known |= inspect.signature(taker).parameters

    types: dict[str, str] = {name: option.__forward_arg__ for name, option in options.__annotations__.items()}

    def handed_on(name: str, annotation: str, kind: inspect._ParameterKind) -> inspect.Parameter:
        default = known[name].default if name in known else None
        return inspect.Parameter(name, kind, default=default, annotation=Written(annotation))

    def show(function: Function) -> Function:
        signature = inspect.signature(function)
        shown: list[inspect.Parameter] = []
        for parameter in signature.parameters.values():
            if parameter.kind is inspect.Parameter.VAR_POSITIONAL:
                shown += [
                    handed_on(name, types.get(name, "FitData"), inspect.Parameter.POSITIONAL_OR_KEYWORD)
                    for name in places
                ]
            elif parameter.kind is not inspect.Parameter.VAR_KEYWORD:
                shown.append(as_written(parameter))
        names = {parameter.name for parameter in shown}
        shown += [
            handed_on(name, annotation, inspect.Parameter.KEYWORD_ONLY)
            for name, annotation in types.items()
            if name not in names
        ]
        answer = Written(signature.return_annotation)
        function.__signature__ = inspect.Signature(shown, return_annotation=answer)  # type: ignore[attr-defined]
        return function

    return show
