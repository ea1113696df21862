"""Predictions of several members brought together: the same rows, the same outputs and columns, one problem.

A search's members come from different models, other members from other libraries, and some of them have diverged. What
their meaning makes certain is made alike; what it does not is an error before anything is fitted.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from manyfit.core.errors import UsageError, explain
from manyfit.core.seeds import generator
from manyfit.data.rows import Rows
from manyfit.ensemble.foreign_metrics import resolve_metric
from manyfit.ensemble.members import EnsembleMember, is_keras, loss_of
from manyfit.ensemble.metrics import Metric, default_metric
from manyfit.ensemble.outputs import Outputs, OutputTask, several_metric, several_problem
from manyfit.ensemble.problem import EnsembleProblem, PredictionTask, make_problem
from manyfit.ensemble.settings import EnsembleSettings

if TYPE_CHECKING:  # slow to load, and predictions of other libraries do not need it
    import keras

# Half a minute of fitting, by all methods and in all folds. Pixels beyond it are drawn from each row.
_MAX_NUMBERS = 1 << 18  # of a member's predictions that weights are learned from, where rows have positions


@dataclasses.dataclass(frozen=True, eq=False)
class Aligned:
    """Members with one problem."""

    problem: EnsembleProblem  # of the usable members
    metric: Metric
    outputs: Outputs
    usable: np.ndarray  # indices of members with finite predictions
    notes: list[str]


def require_labels(y: object) -> None:
    """Raises a UsageError where there are none."""
    if y is None:
        raise UsageError(
            explain(
                "Ensemble.fit(y)",
                "no labels",
                "labels of rows that no member was trained on",
                "For instance Ensemble.fit(models, y_val, x=x_val).",
            )
        )


def aligned(
    members: Sequence[EnsembleMember],
    y: Any,
    *,
    task: PredictionTask | str | None,
    sample_weight: Any,
    metric: object,
    settings: EnsembleSettings,
    seed: int,
) -> Aligned:
    """Brings members together, see `Ensemble.fit`.

    Raises:
        UsageError: members, labels, rows or metric do not fit together; the message says how.
        UsageError: fewer than three rows.
    """
    outputs = outputs_of(members)
    check_rows(members)
    if (num_rows := _num_rows(members[0])) < 3:
        raise UsageError(
            explain(
                "Ensemble.fit(y)",
                f"{num_rows} rows",
                "at least three rows: some to learn from, some to choose by, some to measure with",
                "Give more validation rows; some hundred are good.",
            )
        )
    rng = generator(seed, "positions")
    if outputs.several:
        usable, notes = usable_members([outputs.flat(member.predictions) for member in members], members)
        outputs = dataclasses.replace(
            outputs, tasks=tuple(output_tasks(members, outputs)), layers=_layers_of(members, outputs)
        )
        predictions = [members[index].predictions for index in usable]
        most = _MAX_NUMBERS if metric is None else None
        problem = several_problem(outputs, predictions, y, sample_weight=sample_weight, max_numbers=most, rng=rng)
        # As they were found on these rows: others must not be taken for another task.
        found = tuple(OutputTask(part.problem.task, part.share) for part in problem.parts)
        outputs = dataclasses.replace(outputs, tasks=found)
        return Aligned(problem, several_metric(outputs, metric, settings.direction), outputs, usable, notes)
    stacked = stack_predictions(members)
    usable, notes = usable_members(stacked, members)
    problem = make_problem(stacked[usable], y, task=task_of(task, members), sample_weight=sample_weight)
    chosen = resolve_metric(metric, problem.task, quantiles=settings.quantiles, direction=settings.direction)
    if problem.positions and chosen.by_answer:
        everything = problem.num_positions
        problem = problem.thinned(_MAX_NUMBERS, rng)
        if problem.num_positions < everything:
            notes.append(f"Weights are learned from {problem.num_positions} of the {everything} positions of each row.")
    return Aligned(problem, chosen, outputs, usable, notes)


def problem_of(
    prediction: Any, y: Any, outputs: Outputs, task: PredictionTask | None, sample_weight: Any = None
) -> EnsembleProblem:
    """The problem of one prediction, for a metric to judge.

    Args:
        prediction: in the structure of `outputs`.
        y: its labels.
        outputs: how predictions are laid out.
        task: what is predicted; None finds it from the numbers.
        sample_weight: weights of the rows.

    Raises:
        UsageError: labels or weights do not fit the prediction.
    """
    if outputs.several:
        return several_problem(outputs, [prediction], y, sample_weight=sample_weight)
    array = np.asarray(prediction)
    if array.ndim == 0 or array.dtype.kind not in "fiub":
        got, allowed = f"{type(prediction).__name__} for a prediction", "an array of numbers, a row for each of y"
        raise UsageError(explain("ensemble.evaluate_predictions", got, allowed, "Type ensemble.predict(x)."))
    return make_problem(array[None], y, task=task, sample_weight=sample_weight)


def usual_metric(task: PredictionTask, outputs: Outputs) -> Metric:
    """What is measured where nobody named a metric."""
    return several_metric(outputs) if outputs.several else default_metric(task)


def outputs_of(members: Sequence[EnsembleMember]) -> Outputs:
    """How the members' predictions are laid out.

    Raises:
        UsageError: they differ in their outputs.
    """
    found = [Outputs.of(member.predictions) for member in members]
    odd = next(
        (place for place, one in enumerate(found) if (one.several, one.names) != (found[0].several, found[0].names)),
        None,
    )
    if odd is not None:
        raise UsageError(
            explain(
                f"Ensemble.fit, member {members[odd].name!r}",
                f"outputs {found[odd].keys} where {members[0].name!r} has {found[0].keys}",
                "the same outputs from every member",
                "Leave out the members that answer another question.",
            )
        )
    return found[0]


def stack_predictions(members: Sequence[EnsembleMember]) -> np.ndarray:
    """(M, n, ..., C) predictions of members on the same rows, columns made alike where their meaning is certain.

    A (n, 2) softmax beside (n, 1) sigmoids becomes its second column; estimators that have not seen the last classes
    get zeros there.

    Raises:
        UsageError: members predicted different positions, or different columns.
    """
    arrays = [np.asarray(member.predictions) for member in members]
    # Columns are only filled up for estimators, which say by `classes_` which classes they know. A Keras model with
    # fewer columns answers another question.
    widths = {array.shape[-1] for array in arrays}
    first = arrays[0].shape
    inner = next((place for place, array in enumerate(arrays) if array.shape[1:-1] != first[1:-1]), None)
    if inner is not None:
        raise UsageError(
            explain(
                f"Ensemble.fit, member {members[inner].name!r}",
                f"predictions of shape {arrays[inner].shape} where {members[0].name!r} has {first}",
                "the same pixels or steps from every member",
                "Leave out the members that answer another question.",
            )
        )
    if widths == {1, 2}:
        arrays = [array[..., 1:] if array.shape[-1] == 2 else array for array in arrays]
    elif len(widths) > 1 and all(
        array.shape[-1] == max(widths) or (not member.all_keras and member.models)
        for array, member in zip(arrays, members, strict=True)
    ):
        arrays = [np.pad(array, [(0, 0)] * (array.ndim - 1) + [(0, max(widths) - array.shape[-1])]) for array in arrays]
    elif len(widths) > 1:
        odd = next(
            member for member, array in zip(members, arrays, strict=True) if array.shape[-1] != arrays[0].shape[-1]
        )
        raise UsageError(
            explain(
                f"Ensemble.fit, member {odd.name!r}",
                f"{np.asarray(odd.predictions).shape[-1]} columns where {members[0].name!r} has {arrays[0].shape[-1]}",
                "the same columns from every member",
                "Leave out the members that answer another question.",
            )
        )
    # Single precision stays: half of the memory, and faster logarithms. Half precision becomes single.
    kind = np.float32 if all(array.dtype in (np.float32, np.float16) for array in arrays) else np.float64
    return np.stack([array.astype(kind) for array in arrays])


def _num_rows(member: EnsembleMember) -> int:
    return Rows.of(member.predictions).num_rows or 0


def check_rows(members: Sequence[EnsembleMember]) -> None:
    """Raises unless all members predicted the same rows."""

    first = members[0]
    reference = next((member for member in members if member.row_ids is not None), None)
    for member in members:
        if _num_rows(member) != _num_rows(first):
            raise UsageError(
                explain(
                    f"Ensemble.fit, member {member.name!r}",
                    f"predictions of {_num_rows(member)} rows where {first.name!r} has {_num_rows(first)}",
                    "predictions of the same rows",
                    "Predict the same validation rows with every member.",
                )
            )
        if reference is None or member.row_ids is None or member is reference:
            continue
        if not np.array_equal(np.asarray(member.row_ids), np.asarray(reference.row_ids)):
            raise UsageError(
                explain(
                    f"Ensemble.fit, member {member.name!r}",
                    f"row identities that differ from those of {reference.name!r}",
                    "the same rows in the same order",
                    "Sort both by row identity and keep the rows they share.",
                )
            )


def usable_members(
    predictions: Sequence[np.ndarray] | np.ndarray, members: Sequence[EnsembleMember]
) -> tuple[np.ndarray, list[str]]:
    """Indices of members whose predictions are all finite; the others get weight zero and a note."""
    # A member that diverged is a fact of a search, not an error of the user's.
    bad = np.array([int((~np.isfinite(prediction)).sum()) for prediction in predictions])
    usable = np.flatnonzero(bad == 0)
    if not len(usable):
        raise UsageError(
            explain(
                "Ensemble.fit(predictions)",
                "NaN or inf in the predictions of every member",
                "at least one member with finite predictions",
                "Leave out members that diverged, and check the preprocessing of x.",
            )
        )
    notes = [
        f"{member.name}: {count} predictions are NaN or inf, so it has weight 0"
        for member, count in zip(members, bad, strict=True)
        if count
    ]
    return usable, notes


def task_of(task: PredictionTask | str | None, members: Sequence[EnsembleMember]) -> PredictionTask | str | None:
    """The task the user named, or the one that a compiled Keras loss or an estimator's kind makes certain."""
    if task is not None:
        if task not in list(PredictionTask):
            raise UsageError(
                explain("Ensemble.fit(task)", repr(task), ", ".join(PredictionTask), "Leave it out to have it found.")
            )
        return task
    return next((found for member in members if (found := _task_of_losses(member)) is not None), None)


def _layers_of(members: Sequence[EnsembleMember], outputs: Outputs) -> tuple[str, ...] | None:
    """The names by which `model.fit` of the first Keras model takes targets of outputs that come in a list."""
    if outputs.names is not None or (model := _first_keras(members)) is None:
        return None
    names = tuple(getattr(model, "output_names", None) or ())
    return names if len(names) == len(outputs.shapes) else None


def _first_keras(members: Sequence[EnsembleMember]) -> keras.Model | None:
    return next((model for member in members if member.all_keras for model in member.models if is_keras(model)), None)


def output_tasks(members: Sequence[EnsembleMember], outputs: Outputs) -> list[OutputTask]:
    """For every output what the loss tells that the first Keras model was compiled with, and its weight in the sum."""
    model = _first_keras(members)
    if model is None:
        return [OutputTask()] * len(outputs.shapes)
    from manyfit.training.keras_internals.building import compile_arguments  # imports Keras

    weights = compile_arguments(model).get("loss_weights")
    names = getattr(model, "output_names", None) or [None] * len(outputs.shapes)
    answer = []
    for place, (key, name) in enumerate(zip(outputs.keys, names, strict=True)):
        share = (
            weights.get(key, weights.get(name, 1.0))
            if isinstance(weights, Mapping)
            else weights[place]
            if weights
            else 1.0
        )
        width = outputs.shapes[place][-1] if outputs.shapes[place] else 1
        answer.append(OutputTask(_task_of_loss(loss_of(model, key), width), float(share)))
    return answer


def _task_of_losses(member: EnsembleMember) -> PredictionTask | None:
    width = np.asarray(member.predictions).shape[-1]
    return next((found for model in member.models if (found := _task_of_loss(loss_of(model), width)) is not None), None)


def _task_of_loss(loss: object, width: int) -> PredictionTask | None:
    """The task that a compiled loss makes certain."""
    name = str(getattr(loss, "name", None) or getattr(loss, "__name__", None) or loss).lower()
    if "categorical_crossentropy" in name:
        return PredictionTask.MULTICLASS
    # Logits are turned into probabilities before they come here, so the numbers tell.
    if getattr(loss, "from_logits", False):
        return None
    if name in ("mse", "mae", "mean_squared_error", "mean_absolute_error", "huber", "log_cosh", "poisson"):
        return None if width > 1 else PredictionTask.REGRESSION
    return None
