"""Members of an ensemble: Keras models, estimators of other brands, or only their predictions."""

from __future__ import annotations

import dataclasses
import pickle
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, TypeAlias, TypeGuard

import numpy as np
from numpy.typing import ArrayLike

from manyfit.core.errors import UsageError, UsageTypeError, explain
from manyfit.ensemble.problem import PredictionTask

if TYPE_CHECKING:  # Keras takes seconds to load, and fitting on kept predictions does not need it
    import keras

Model: TypeAlias = object
"""A Keras model, or an estimator of another brand with `predict_proba` or `predict`; `is_keras` and `is_model` tell.

No class is common to them, and `predict` takes other arguments in each, so what a model is has to be asked.
"""


@dataclasses.dataclass(frozen=True, eq=False)
class EnsembleMember:
    """One member.

    At least one of `model` and `predictions` is needed: weights are learned from predictions, and new rows need a
    model. A list of models (the folds of a cross-validation, or seeds) is one member that averages them.

    Example:

    >>> EnsembleMember("forest", predictions=np.array([0.2, 0.9])).predictions.shape
    (2,)
    """

    name: str
    model: Model | Sequence[Model] | None = None
    predictions: ArrayLike | None = None  # on the rows that weights are learned from; never on rows it was trained on
    row_ids: ArrayLike | None = None  # identities of those rows, compared between members
    configuration: Mapping[str, object] | None = (
        None  # its hyperparameters; members with equal ones are flagged as seeds
    )

    @property
    def models(self) -> tuple[Model, ...]:
        """The models that this member averages; empty if it has none."""
        if self.model is None:
            return ()
        return tuple(self.model) if isinstance(self.model, list | tuple) else (self.model,)

    @property
    def all_keras(self) -> bool:
        """Whether it consists of Keras models only."""
        return bool(self.models) and all(is_keras(model) for model in self.models)

    @property
    def num_bytes(self) -> int:
        """Bytes of its weights: exact for Keras models, those of its pickle for others, 0 without a model."""
        return sum(model_bytes(model) for model in self.models)

    def predict(self, x: object, *, batch_size: int = 1024) -> np.ndarray:
        """Predicts rows.

        Returns:
            (n, C); probabilities where the model was compiled with a loss that takes logits.

        Raises:
            UsageError: the member has no model.
        """
        if not self.models:
            raise UsageError(
                explain(
                    f"Ensemble.predict, member {self.name!r}",
                    "a member with predictions but no model",
                    "members with a model",
                    "Give the models: Ensemble.fit(predictions=[...], y=y, models=[...]).",
                )
            )
        parts = [model_predictions(model, x, batch_size) for model in self.models]
        return parts[0] if len(parts) == 1 else np.mean(parts, axis=0)


def is_keras(model: object) -> TypeGuard[keras.Model]:
    """Whether it is a Keras model; does not load Keras to find out."""
    loaded = sys.modules.get("keras")
    return loaded is not None and isinstance(model, loaded.Model)


def is_model(value: object) -> bool:
    """Whether it can predict."""
    return (
        is_keras(value) or callable(getattr(value, "predict", None)) or callable(getattr(value, "predict_proba", None))
    )


def emits_logits(model: Model) -> bool:
    """Whether a Keras model was compiled with a loss that takes logits."""
    return bool(getattr(getattr(model, "loss", None), "from_logits", False))


def model_bytes(model: Model) -> int:
    """Bytes of a model's weights."""
    if is_keras(model):
        return sum(int(np.prod(v.shape)) * _bytes_per_number(v.dtype) for v in model.weights)
    return len(pickle.dumps(model))


def _bytes_per_number(dtype: object) -> int:
    name = str(dtype)
    return 2 if name in ("float16", "bfloat16") else 1 if name in ("int8", "bool", "uint8") else 4


def model_predictions(model: Model, x: object, batch_size: int) -> np.ndarray:
    """(n, C) predictions of one model: of a Keras model, or `predict_proba`, or `predict` (decisions as 0 and 1).

    Raises:
        UsageError: the model has several outputs.
        UsageTypeError: it cannot predict.
    """
    if is_keras(model):
        # Data sets and generators have batches of their own, and Keras refuses a batch size beside them.
        sized = isinstance(x, np.ndarray) or (hasattr(x, "shape") and hasattr(x, "__array__"))
        many = isinstance(x, dict | list | tuple)
        output = model.predict(x, batch_size=batch_size if sized or many else None, verbose=0)
        if isinstance(output, list | tuple | dict):
            raise UsageError(
                explain(
                    f"model {model.name!r}",
                    f"{len(output)} separate outputs",
                    "one output array",
                    "Concatenate the outputs in the model, or ensemble each of them by itself.",
                )
            )
        return link(as_columns(np.asarray(output, dtype=np.float32)), emits_logits(model))
    if callable(predict_proba := getattr(model, "predict_proba", None)):
        return _placed(predict_proba(x), getattr(model, "classes_", None))
    if callable(predict := getattr(model, "predict", None)):
        output, classes = np.asarray(predict(x)), getattr(model, "classes_", None)
        if isinstance(classes, np.ndarray) and classes.ndim == 1 and len(classes) > 0 and output.size == len(output):
            # A classifier without probabilities (a support vector machine, say) is sure of each of its decisions.
            return _placed((output.reshape(-1, 1) == classes).astype(np.float32), classes)
        return as_columns(output)
    raise UsageTypeError(
        explain(
            "Ensemble member",
            type(model).__name__,
            "Keras models, and estimators with predict_proba or predict",
            "Wrap it in an object with such a method.",
        )
    )


def link(output: np.ndarray, logits: bool) -> np.ndarray:
    """Turns logits (n, C) into probabilities: softmax over several columns, sigmoid of one."""
    if not logits:
        return output
    if output.shape[1] == 1:
        return 1.0 / (1.0 + np.exp(-output))
    # In the precision of the model, unlike `pools.softmax`: this is what the model itself would have said.
    shifted = np.exp(output - output.max(axis=1, keepdims=True))
    return shifted / shifted.sum(axis=1, keepdims=True)


def _placed(output: ArrayLike | list[np.ndarray], classes: ArrayLike | None) -> np.ndarray:
    """(n, C) probabilities of an estimator, with a column of zeros for each class that it has not seen."""
    if isinstance(output, list):  # scikit-learn's answer to several labels: one (n, 2) array per label
        return np.stack([np.asarray(part)[:, -1] for part in output], axis=1)
    probabilities = as_columns(np.asarray(output))
    positions = np.asarray(() if classes is None else classes)
    if positions.ndim != 1 or positions.dtype.kind not in "iu":
        return probabilities
    # Classes such as -1 and 1 are no columns; their probabilities are in order all the same.
    if positions.min() < 0 or np.array_equal(positions, np.arange(len(positions))):
        return probabilities
    placed = np.zeros((len(probabilities), int(positions.max()) + 1))  # it has not seen every class
    placed[:, positions] = probabilities
    return placed


def as_columns(array: np.ndarray) -> np.ndarray:
    """(n,) becomes (n, 1); (n, C) stays.

    Raises:
        UsageError: the array has another number of axes.
    """
    if array.ndim == 1:
        return array[:, None]
    if array.ndim == 2:
        return array
    raise UsageError(
        explain(
            "Ensemble predictions",
            f"an array of shape {array.shape}",
            "shape (rows,) or (rows, columns)",
            "Reshape each prediction to one row per example.",
        )
    )


def measure_latency(member: EnsembleMember, x: object, *, num_rows: int = 256, repeats: int = 3) -> float:
    """Seconds per row that a member takes to predict a batch, the median of a few tries after a warm-up."""
    sample = x[:num_rows]  # type: ignore[index]  # frames and tensors can be sliced as arrays can
    # Once untimed: the first call compiles.
    member.predict(sample, batch_size=num_rows)
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        member.predict(sample, batch_size=num_rows)
        seconds.append(time.perf_counter() - start)
    return float(np.median(seconds)) / len(sample)


def make_members(
    members: object, *, predictions: object = None, models: object = None, x: object = None, batch_size: int = 1024
) -> list[EnsembleMember]:
    """Makes a list of members, each with predictions, of whatever the user gave.

    Raises:
        UsageError: nothing was given, or predictions and models differ in number.
        UsageError: models without predictions and without `x` to predict.
        UsageError: two members have one name.
    """
    # Three ways to say the same: models alone, predictions alone, or predictions to learn from and models to use.
    if members is None and predictions is None:
        members, models = models, None
    if members is None:
        members = predictions
    elif predictions is not None:
        members, models = predictions, members if models is None else models
    named = _named(members)
    if not named:
        raise UsageError(
            explain(
                "Ensemble.fit",
                "no members",
                "models, predictions, or EnsembleMember objects",
                "For instance Ensemble.fit(models, y_val, x=x_val).",
            )
        )
    if models is not None:
        named = _with_models(named, models)
    return [_with_predictions(member, x, batch_size) for member in _distinct(named)]


def _named(members: object) -> list[EnsembleMember]:
    if isinstance(members, Mapping):
        return [_member(str(name), value) for name, value in members.items()]
    return [_member(f"m{position}", value) for position, value in enumerate(_each(members))]


def _each(several: object) -> list[object]:
    """The elements of a list of models, predictions or members, of a dictionary's values, or of an (M, n, C) array."""
    if isinstance(several, Mapping):
        return list(several.values())
    if is_model(several) or isinstance(several, EnsembleMember):
        return [several]
    if isinstance(several, np.ndarray):
        return list(several) if several.ndim == 3 else [several]
    return list(several) if isinstance(several, Iterable) else []


def _member(name: str, value: object) -> EnsembleMember:
    if isinstance(value, EnsembleMember):
        return value
    if is_model(value):
        return EnsembleMember(name, model=value)
    if isinstance(value, list | tuple) and value and all(is_model(part) for part in value):
        return EnsembleMember(name, model=list(value))
    return EnsembleMember(name, predictions=value)  # type: ignore[arg-type]  # what is no model is an array


def _with_models(members: list[EnsembleMember], models: object) -> list[EnsembleMember]:
    given = _each(models)
    if len(given) != len(members):
        raise UsageError(
            explain(
                "Ensemble.fit(models)",
                f"{len(given)} models for {len(members)} predictions",
                "as many models as predictions, in the same order",
                "Give for each prediction the model that is to use its weight.",
            )
        )
    return [
        dataclasses.replace(member, model=model.model if isinstance(model, EnsembleMember) else model)
        for member, model in zip(members, given, strict=True)
    ]


def _distinct(members: list[EnsembleMember]) -> list[EnsembleMember]:
    names = [member.name for member in members]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise UsageError(
            explain("Ensemble.fit", f"two members named {twice[0]!r}", "one name per member", "Rename one of them.")
        )
    return members


def _with_predictions(member: EnsembleMember, x: object, batch_size: int) -> EnsembleMember:
    if member.predictions is not None:
        return dataclasses.replace(member, predictions=as_columns(np.asarray(member.predictions)))
    if x is None:
        raise UsageError(
            explain(
                f"Ensemble.fit, member {member.name!r}",
                "a model without predictions, and no x",
                "x, the rows of y, or predictions on them",
                "Pass x=x_val: rows that no member was trained on.",
            )
        )
    return dataclasses.replace(member, predictions=member.predict(x, batch_size=batch_size))


def stack_predictions(members: Sequence[EnsembleMember]) -> np.ndarray:
    """(M, n, C) predictions of members on the same rows, columns made alike where their meaning is certain.

    A (n, 2) softmax beside (n, 1) sigmoids becomes its second column; estimators that have not seen the last classes
    get zeros there.

    Raises:
        UsageError: members predicted different rows, or different columns.
    """
    _check_rows(members)
    arrays = [np.asarray(member.predictions) for member in members]
    # Columns are only filled up for estimators, which say by `classes_` which classes they know. A Keras model with
    # fewer columns answers another question.
    widths = {array.shape[1] for array in arrays}
    if widths == {1, 2}:
        arrays = [array[:, 1:] if array.shape[1] == 2 else array for array in arrays]
    elif len(widths) > 1 and all(
        array.shape[1] == max(widths) or (not member.all_keras and member.models)
        for array, member in zip(arrays, members, strict=True)
    ):
        arrays = [np.pad(array, ((0, 0), (0, max(widths) - array.shape[1]))) for array in arrays]
    elif len(widths) > 1:
        odd = next(
            member for member, array in zip(members, arrays, strict=True) if array.shape[1] != arrays[0].shape[1]
        )
        raise UsageError(
            explain(
                f"Ensemble.fit, member {odd.name!r}",
                f"{np.asarray(odd.predictions).shape[1]} columns where {members[0].name!r} has {arrays[0].shape[1]}",
                "the same columns from every member",
                "Leave out the members that answer another question.",
            )
        )
    # Single precision stays: half of the memory, and faster logarithms. Half precision becomes single.
    kind = np.float32 if all(array.dtype in (np.float32, np.float16) for array in arrays) else np.float64
    return np.stack([array.astype(kind) for array in arrays])


def _check_rows(members: Sequence[EnsembleMember]) -> None:
    def num_rows(member: EnsembleMember) -> int:
        return len(np.asarray(member.predictions))

    first = members[0]
    reference = next((member for member in members if member.row_ids is not None), None)
    for member in members:
        if num_rows(member) != num_rows(first):
            raise UsageError(
                explain(
                    f"Ensemble.fit, member {member.name!r}",
                    f"predictions of {num_rows(member)} rows where {first.name!r} has {num_rows(first)}",
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


def usable_members(predictions: np.ndarray, members: Sequence[EnsembleMember]) -> tuple[np.ndarray, list[str]]:
    """Indices of members whose predictions are all finite; the others get weight zero and a note."""
    # A member that diverged is a fact of a search, not an error of the user's.
    flat = predictions.reshape(len(predictions), -1)
    bad = np.array([int((~np.isfinite(row)).sum()) for row in flat])
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
    for member in members:
        for model in member.models:
            loss = getattr(model, "loss", None)
            name = str(getattr(loss, "name", None) or getattr(loss, "__name__", None) or loss).lower()
            if "categorical_crossentropy" in name:
                return PredictionTask.MULTICLASS
            # Logits are turned into probabilities before they come here, so the numbers tell.
            if emits_logits(model):
                return None
            if name in ("mse", "mae", "mean_squared_error", "mean_absolute_error", "huber", "log_cosh", "poisson"):
                return None if np.asarray(member.predictions).shape[1] > 1 else PredictionTask.REGRESSION
    return None
