"""The arguments by name that tuners hand on to each other, with their types: what editors complete and `help` shows.

A constructor that hands on `**options: Unpack[SearchOptions]` has one line in place of thirty, and a type checker still
knows each of them. `spelled_out` tells `inspect` and `help` as well, and `described_by` has `help` say what each is
for, which is written once, where it is taken.
"""

from __future__ import annotations

import inspect
import os
import re
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
Described = TypeVar("Described", bound=Callable[..., Any])

#: Columns of a signature that `help` can show in one line.
_WIDTH = 100


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
    """What `keras.Model.fit` takes that is neither rows nor epochs nor callbacks.

    Args:
        batch_size: rows of a step; None: 32.
        shuffle: whether each epoch reads the rows in another order.
        class_weight: class -> weight of its rows in the loss.
        steps_per_epoch: batches of an epoch; None: all that there are.
        validation_steps: batches that validate; None: all that there are.
        validation_batch_size: rows of a batch that validates; None: `batch_size`.
        validation_freq: validate after every so many epochs, or after those in a list.
    """

    batch_size: int | None
    shuffle: bool
    class_weight: Mapping[int, float] | None
    steps_per_epoch: int | None
    validation_steps: int | None
    validation_batch_size: int | None
    validation_freq: int | Sequence[int]


class ConfirmArguments(StepArguments, total=False):
    """What `Tuner.confirm` takes besides; the first six are those of `ConfirmSettings`.

    Args:
        epochs: of one training.
        callbacks: a list of Keras's callbacks; each training has copies of its own.
    """

    max_rounds: int
    proof_executions: int
    keep_weights: bool
    margin: float | None
    groups: ArrayLike | None
    time_ordered: bool
    epochs: int
    callbacks: object


class RetrainArguments(StepArguments, total=False):
    """What `Tuner.retrain` takes besides, as `model.fit` does.

    Args:
        sample_weight: one weight per row, or per row and output.
        validation_data: rows to validate on: (x, y), (x, y, weights), or a pipeline.
        validation_split: the share of the rows, from the end, to validate on instead.
        initial_epoch: the number of the first epoch.
    """

    sample_weight: FitData
    validation_data: object
    validation_split: float
    initial_epoch: int


class CallArguments(RetrainArguments, total=False):
    """What `Tuner.search` and `Tuner.fit` take besides x, y and epochs: all of `model.fit`, and four of their own.

    Args:
        verbose: 0 prints nothing; "auto" and 1 show the progress, 2 a line per trial as well.
        callbacks: a list of Keras's callbacks; each training has copies of its own.
        cross_validation: a `kt.CrossValidation`, a number of folds or a splitter of scikit-learn; every trial then runs
            once per fold, and its score is the mean.
        row_id: a name for each row of x (and behind these for each of `validation_data`), by which rows are known again
            in ensembles with other searches and with files; None: frames are known by their index.
        predict: the x of rows to be answered: what every trial says of them is kept, for `predictions(test=True)` and
            `submission`.
        trackers: where else the search is told: "mlflow", "wandb", "optuna", or a `kt.trackers.Tracker`; or a list.
    """

    verbose: int | str
    callbacks: object
    cross_validation: object
    row_id: object
    predict: FitData
    trackers: object


class SearchArguments(CallArguments, total=False):
    """What `Tuner.search` takes besides x and y.

    Args:
        x: rows, as `model.fit` takes them.
        y: their targets.
        epochs: of one training; 1 where nothing is said.
    """

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
    """What `Tuner.evaluate` takes besides.

    Args:
        batch_size: rows that are predicted at once; None: 32.
        steps: batches of a stream; None: all that there are.
        sample_weight: one weight per row, or per row and output.
    """

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


class Lines(inspect.Signature):
    """A signature that is printed with a line for each parameter where they would not fit into one."""

    __slots__ = ()

    def __str__(self) -> str:
        text = super().__str__()
        if len(text) <= _WIDTH:
            return text
        shown: list[str] = []
        for parameter in self.parameters.values():
            if parameter.kind is parameter.KEYWORD_ONLY and "*" not in shown:
                shown.append("*")
            shown.append(str(parameter))
        answer = "" if self.return_annotation is self.empty else f" -> {self.return_annotation}"
        return "(\n" + "".join(f"    {each},\n" for each in shown) + f"){answer}"


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
        function.__signature__ = Lines(shown, return_annotation=answer)  # type: ignore[attr-defined]
        return function

    return show


_ARGS = re.compile(r"(?<=^Args:\n).*?(?=\n\n|\Z)", re.M | re.S)


def _descriptions(doc: str | None) -> dict[str, str]:
    """Argument -> the lines of a docstring about it."""
    section = _ARGS.search(inspect.cleandoc(doc or ""))
    entries = re.split(r"\n(?=    \S)", section[0]) if section else []
    return {entry.partition(":")[0].strip(): entry for entry in entries}


def described_by(*takers: Callable[..., object]) -> Callable[[Described], Described]:
    """Has the docstring of a function or a class describe what `*places` and `**options` take.

    Args:
        takers: whose docstrings say it, the nearest first: classes of options, and what those are handed on to.
    """

    def show(taken: Described) -> Described:
        known: dict[str, str] = {}
        for taker in reversed(takers):
            known |= _descriptions(taker.__doc__)
        doc = inspect.cleandoc(taken.__doc__ or "")
        known |= _descriptions(doc)
        entries = [known[name] for name in inspect.signature(taken).parameters if name in known]
        taken.__doc__ = _ARGS.sub(lambda _: "\n".join(entries), doc, count=1)
        return taken

    return show
