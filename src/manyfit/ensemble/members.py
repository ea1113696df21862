"""Members of an ensemble: Keras models, estimators of other brands, or only their predictions."""

from __future__ import annotations

import dataclasses
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from manyfit.core.errors import UsageError, UsageTypeError, explain

_BYTES_PER_PARAMETER = 4


@dataclasses.dataclass(frozen=True, eq=False)
class Member:
    """One member.

    At least one of `model` and `predictions` is needed: weights are learned from predictions, and new rows need a
    model. A list of models (the folds of a cross-validation, or seeds) is one member that averages them.

    Example:

    >>> Member("forest", predictions=np.array([0.2, 0.9])).predictions.shape
    (2,)
    """

    name: str
    model: Any = None  # a Keras model, an estimator with `predict_proba` or `predict`, or a list of them
    predictions: Any = None  # on the rows that weights are learned from; never on rows it was trained on
    row_ids: Any = None  # identities of those rows, compared between members
    configuration: Mapping[str, Any] | None = None  # its hyperparameters; members with equal ones are flagged as seeds

    @property
    def models(self) -> tuple[Any, ...]:
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

    def predict(self, x: Any, *, batch_size: int = 1024) -> np.ndarray:
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


def is_keras(model: Any) -> bool:
    """Whether it is a Keras model; does not load Keras to find out."""
    keras = sys.modules.get("keras")
    return keras is not None and isinstance(model, keras.Model)


def is_model(value: Any) -> bool:
    """Whether it can predict."""
    return (
        is_keras(value) or callable(getattr(value, "predict", None)) or callable(getattr(value, "predict_proba", None))
    )


def emits_logits(model: Any) -> bool:
    """Whether a Keras model was compiled with a loss that takes logits."""
    return bool(getattr(getattr(model, "loss", None), "from_logits", False))


def model_bytes(model: Any) -> int:
    """Bytes of a model's weights."""
    if is_keras(model):
        return sum(int(np.prod(v.shape)) * _bytes_per_number(v.dtype) for v in model.weights)
    import pickle

    return len(pickle.dumps(model))


def _bytes_per_number(dtype: Any) -> int:
    name = str(dtype)
    return 2 if name in ("float16", "bfloat16") else 1 if name in ("int8", "bool", "uint8") else _BYTES_PER_PARAMETER


def model_predictions(model: Any, x: Any, batch_size: int) -> np.ndarray:
    """(n, C) predictions of one model: of a Keras model, or `predict_proba`, or `predict`.

    Raises:
        UsageError: the model has several outputs.
        UsageTypeError: it cannot predict.
    """
    if is_keras(model):
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
    if callable(getattr(model, "predict_proba", None)):
        return _estimator_probabilities(model, x)
    if callable(getattr(model, "predict", None)):
        return as_columns(np.asarray(model.predict(x)))
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
    shifted = np.exp(output - output.max(axis=1, keepdims=True))
    return shifted / shifted.sum(axis=1, keepdims=True)


def _estimator_probabilities(model: Any, x: Any) -> np.ndarray:
    output = model.predict_proba(x)
    if isinstance(output, list):  # scikit-learn's answer to several labels: one (n, 2) array per label
        return np.stack([np.asarray(part)[:, -1] for part in output], axis=1)
    probabilities = as_columns(np.asarray(output))
    classes = getattr(model, "classes_", None)
    if classes is None or np.ndim(classes) != 1 or np.asarray(classes).dtype.kind not in "iu":
        return probabilities
    positions = np.asarray(classes)
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


def measure_latency(member: Member, x: Any, *, num_rows: int = 256, repeats: int = 3) -> float:
    """Seconds per row that a member takes to predict a batch, the median of a few tries after a warm-up."""
    sample = x[:num_rows]
    member.predict(sample, batch_size=num_rows)
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        member.predict(sample, batch_size=num_rows)
        seconds.append(time.perf_counter() - start)
    return float(np.median(seconds)) / len(sample)


def make_members(
    members: Any, *, predictions: Any = None, models: Any = None, x: Any = None, batch_size: int = 1024
) -> list[Member]:
    """Makes a list of members, each with predictions, of whatever the user gave.

    Raises:
        UsageError: nothing was given, or predictions and models differ in number.
        UsageError: models without predictions and without `x` to predict.
        UsageError: two members have one name.
    """
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
                "models, predictions, or Member objects",
                "For instance Ensemble.fit(models, y_val, x=x_val).",
            )
        )
    if models is not None:
        named = _with_models(named, models)
    return [_with_predictions(member, x, batch_size) for member in _distinct(named)]


def _named(members: Any) -> list[Member]:
    if isinstance(members, Mapping):
        return [_member(str(name), value) for name, value in members.items()]
    if isinstance(members, np.ndarray) and members.ndim == 3:
        members = list(members)
    if is_model(members) or isinstance(members, Member | np.ndarray):
        members = [members]
    return [_member(f"m{position}", value) for position, value in enumerate(members or ())]


def _member(name: str, value: Any) -> Member:
    if isinstance(value, Member):
        return value
    if is_model(value):
        return Member(name, model=value)
    if isinstance(value, list | tuple) and value and all(is_model(part) for part in value):
        return Member(name, model=list(value))
    return Member(name, predictions=value)


def _with_models(members: list[Member], models: Any) -> list[Member]:
    given = list(models.values()) if isinstance(models, Mapping) else list(models)
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
        dataclasses.replace(member, model=model.model if isinstance(model, Member) else model)
        for member, model in zip(members, given, strict=True)
    ]


def _distinct(members: list[Member]) -> list[Member]:
    names = [member.name for member in members]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise UsageError(
            explain("Ensemble.fit", f"two members named {twice[0]!r}", "one name per member", "Rename one of them.")
        )
    return members


def _with_predictions(member: Member, x: Any, batch_size: int) -> Member:
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


def stack_predictions(members: Sequence[Member]) -> np.ndarray:
    """(M, n, C) predictions of members on the same rows, columns made alike where their meaning is certain.

    A (n, 2) softmax beside (n, 1) sigmoids becomes its second column; estimators that have not seen the last classes
    get zeros there.

    Raises:
        UsageError: members predicted different rows, or different columns.
    """
    _check_rows(members)
    arrays = [np.asarray(member.predictions) for member in members]
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
    kind = np.float32 if all(array.dtype in (np.float32, np.float16) for array in arrays) else np.float64
    return np.stack([array.astype(kind) for array in arrays])


def _check_rows(members: Sequence[Member]) -> None:
    first = members[0]
    reference = next((member for member in members if member.row_ids is not None), None)
    for member in members:
        if len(member.predictions) != len(first.predictions):
            raise UsageError(
                explain(
                    f"Ensemble.fit, member {member.name!r}",
                    f"predictions of {len(member.predictions)} rows where {first.name!r} has {len(first.predictions)}",
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
