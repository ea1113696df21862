"""Members of an ensemble: Keras models, estimators of other brands, or only their predictions."""

from __future__ import annotations

import dataclasses
import pickle
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias, TypeGuard

import numpy as np
from numpy.typing import ArrayLike

from manyfit.core.errors import UsageError, UsageTypeError, explain
from manyfit.core.signatures import is_number
from manyfit.data.classes import Classes
from manyfit.data.kinds import FitData, map_leaves
from manyfit.data.rows import Rows
from manyfit.ensemble.outputs import Prediction
from manyfit.ensemble.problem import EPSILON

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
    predictions: ArrayLike | Prediction | None = (
        None  # on the rows that weights are learned from; never on rows it was trained on
    )
    row_ids: ArrayLike | None = None  # identities of those rows, compared between members
    configuration: Mapping[str, object] | None = (
        None  # its hyperparameters; members with equal ones are flagged as seeds
    )
    repeats: Sequence[Prediction] = ()  # of a repeated cross-validation: what each repeat's models predicted
    again: Prediction | None = None  # what another model of the configuration said of some rows; see `RowCuts`
    test: Callable[[], Prediction | None] | None = None  # reads what it said of rows that are to be answered

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

    def predict(self, x: object, *, batch_size: int = 1024) -> Prediction:
        """Predicts rows.

        Returns:
            (n, C), or (n, ..., C) with an answer for every pixel or step; for models with several outputs a list or a
            dictionary of such. Probabilities where the model was compiled with a loss that takes logits.

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
        return mean_of(parts)


def mean_of(predictions: Sequence[Prediction]) -> Prediction:
    """The mean of several models' predictions, output by output."""
    if len(predictions) == 1:
        return predictions[0]
    mean: Prediction = map_leaves(lambda *outputs: np.mean(outputs, axis=0), *predictions)
    return mean


def is_keras(model: object) -> TypeGuard[keras.Model]:
    """Whether it is a Keras model; does not load Keras to find out."""
    loaded = sys.modules.get("keras")
    return loaded is not None and isinstance(model, loaded.Model)


def is_model(value: object) -> bool:
    """Whether it can predict."""
    return (
        is_keras(value) or callable(getattr(value, "predict", None)) or callable(getattr(value, "predict_proba", None))
    )


def emits_logits(model: Model, output: str | int | None = None) -> bool:
    """Whether a Keras model was compiled with a loss that takes logits, or one of its outputs was."""
    return bool(getattr(loss_of(model, output), "from_logits", False))


def loss_of(model: Model, output: str | int | None = None) -> object:
    """The loss that a Keras model was compiled with, or the one of an output, given by name or place."""
    loss = getattr(model, "loss", None)
    if output is None or not isinstance(loss, Mapping | list | tuple):
        return loss
    if isinstance(loss, Mapping):
        names = getattr(model, "output_names", None)  # a dictionary of losses may go with a list of outputs
        return loss.get(output, loss.get(names[output]) if isinstance(output, int) and names else None)
    if isinstance(output, str):
        names = list(getattr(model, "output_names", None) or ())
        return loss[names.index(output)] if output in names else None
    return loss[output]


def fixed_batch(model: Model) -> int | None:
    """The only number of rows that a model takes at a time; None where any will do."""
    inputs = getattr(model, "inputs", None) if is_keras(model) else None
    size = inputs[0].shape[0] if inputs else None
    return None if size is None else int(size)


def model_bytes(model: Model) -> int:
    """Bytes of a model's weights."""
    if is_keras(model):
        return sum(int(np.prod(v.shape)) * _bytes_per_number(v.dtype) for v in model.weights)
    return len(pickle.dumps(model))


def _bytes_per_number(dtype: object) -> int:
    name = str(dtype)
    return 2 if name in ("float16", "bfloat16") else 1 if name in ("int8", "bool", "uint8") else 4


def class_names(members: Sequence[EnsembleMember]) -> Classes | None:
    """The names of classes, in the order of the members' columns; None where no `classes_` says them.

    Raises:
        UsageError: members know different names, so that a column of one is not that of another.
    """
    told = [
        (member, tuple(found.tolist()))
        for member in members
        for model in member.models
        if isinstance(found := getattr(model, "classes_", None), np.ndarray)
        and found.size
        and all(isinstance(one, str) for one in found.flat)
    ]
    odd = next((member for member, names in told if names != told[0][1]), None)
    if odd is not None:
        raise UsageError(
            explain(
                f"Ensemble.fit, member {odd.name!r}",
                f"other classes than those of {told[0][0].name!r}",
                "members that were trained on the same classes",
                "Train all of them on rows of every class.",
            )
        )
    return Classes(told[0][1]) if told else None


def model_predictions(model: Model, x: object, batch_size: int) -> Prediction:
    """Predictions of one model, as `EnsembleMember.predict` gives them.

    Raises:
        UsageTypeError: it cannot predict.
    """
    if is_keras(model):
        return linked(_keras_answer(model, x, batch_size), model)
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


def _keras_answer(model: keras.Model, x: Any, batch_size: int) -> Any:
    # Data sets and generators have batches of their own, and Keras refuses a batch size beside them.
    given = Rows.of(x)
    if given.kind.is_pipeline:
        return model.predict(x, verbose=0)
    size = fixed_batch(model)
    if size is None:
        return model.predict(x, batch_size=batch_size, verbose=0)
    # Such a model cannot take the rows that are left over: the last row fills them up.
    num_rows = given.num_rows
    assert num_rows is not None  # only arrays come here
    rows = np.minimum(np.arange(-(-num_rows // size) * size), num_rows - 1)
    import keras

    answer = model.predict(given.take(rows).x, batch_size=size, verbose=0)
    return keras.tree.map_structure(lambda part: part[:num_rows], answer)


def linked(output: Any, model: Model) -> Prediction:
    """What a model answered, in single precision, logits turned into probabilities."""
    if isinstance(output, Mapping):
        return {name: _linked(part, emits_logits(model, name)) for name, part in output.items()}
    if isinstance(output, list | tuple):
        return [_linked(part, emits_logits(model, place)) for place, part in enumerate(output)]
    return _linked(output, emits_logits(model))


def _linked(output: Any, logits: bool) -> np.ndarray:
    return link(as_columns(np.asarray(output, dtype=np.float32)), logits)


def link(output: np.ndarray, logits: bool) -> np.ndarray:
    """Turns logits (n, ..., C) into probabilities: softmax over several columns, sigmoid of one."""
    if not logits:
        return output
    if output.shape[-1] == 1:
        return 1.0 / (1.0 + np.exp(-output))
    # In the precision of the model, unlike `pools.softmax`: this is what the model itself would have said.
    shifted = np.exp(output - output.max(axis=-1, keepdims=True))
    return shifted / shifted.sum(axis=-1, keepdims=True)


def unlinked(prediction: np.ndarray) -> np.ndarray:
    """The inverse of `link`, up to a constant: logits (n, ..., C) in float32."""
    clipped = np.clip(prediction.astype(np.float64), EPSILON, 1.0)
    logs = np.log(clipped) if prediction.shape[-1] > 1 else np.log(clipped) - np.log(np.maximum(1.0 - clipped, EPSILON))
    return logs.astype(np.float32)


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
    """(n,) becomes (n, 1); all others stay: their last axis holds the columns."""
    return array[:, None] if array.ndim == 1 else array


def measure_latency(member: EnsembleMember, x: object, *, num_rows: int = 256, repeats: int = 3) -> float:
    """Seconds per row that a member takes to predict a batch, the median of a few tries after a warm-up."""
    few = Rows.of(x).take(slice(0, num_rows))
    sample, count = few.x, few.num_rows
    assert count is not None  # our bug: what can be taken can be counted
    # Once untimed: the first call compiles.
    member.predict(sample, batch_size=num_rows)
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        member.predict(sample, batch_size=num_rows)
        seconds.append(time.perf_counter() - start)
    return float(np.median(seconds)) / count


def members_with(models: Sequence[Any], members: Sequence[EnsembleMember]) -> list[EnsembleMember]:
    """The same members with other models; None keeps a member's own.

    Raises:
        UsageError: another number of models than members.
    """
    if len(models) != len(members):
        got = f"{len(models)} models for {len(members)} members"
        instead = "Give them in the order of ensemble.members."
        raise UsageError(explain("Ensemble.with_models", got, "one per member, None to keep a model", instead))
    return [
        member if model is None else dataclasses.replace(member, model=model)
        for member, model in zip(members, models, strict=True)
    ]


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
        return list(several) if several.ndim >= 3 else [several]
    return list(several) if isinstance(several, Iterable) else []


def _member(name: str, value: object) -> EnsembleMember:
    if isinstance(value, EnsembleMember):
        return value
    if is_model(value):
        return EnsembleMember(name, model=value)
    if _is_model_or_several(value):
        return EnsembleMember(name, model=list(value))  # type: ignore[call-overload]  # several, then
    _check_predictions(name, value)
    return EnsembleMember(name, predictions=value)  # type: ignore[arg-type]  # what is no model is an array


def _is_model_or_several(value: object) -> bool:
    return is_model(value) or (isinstance(value, list | tuple) and bool(value) and all(map(is_model, value)))


def _check_predictions(name: str, value: object) -> None:
    """Refuses what is neither a model nor an array of numbers, and an array in which nothing is one.

    Raises:
        UsageError: it is that.
    """
    # A list or a dictionary of arrays: outputs, which are looked at where they are brought together.
    if isinstance(value, Mapping | list | tuple) and not all(map(is_number, value)):
        return
    array = np.asarray(value)
    if array.ndim == 0 or array.dtype.kind not in "fiub":
        got, allowed = f"{type(value).__name__} for member {name}", "models, or arrays of numbers, a row for each of y"
        raise UsageError(explain("Ensemble.fit", got, allowed, "For instance Ensemble.fit(models, y_val, x=x_val)."))
    if array.size and not np.isfinite(array).any():
        got = f"no finite prediction of member {name}"
        raise UsageError(explain("Ensemble.fit", got, "predictions that are numbers", "Leave this member out."))


def _with_models(members: list[EnsembleMember], models: object) -> list[EnsembleMember]:
    given = _each(models)
    if wrong := [
        one for one in given if not (one is None or isinstance(one, EnsembleMember) or _is_model_or_several(one))
    ]:
        got, instead = f"{type(wrong[0]).__name__}, which predicts nothing", "Type models=[model_a, model_b]."
        raise UsageError(explain("Ensemble.fit(models)", got, "Keras models, estimators, or lists of these", instead))
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
        return dataclasses.replace(member, predictions=_as_prediction(member.predictions))
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


def _as_prediction(given: FitData) -> Prediction:
    # A list of arrays is several outputs, a list of numbers is one prediction.
    columns: Prediction = map_leaves(lambda output: as_columns(np.asarray(output)), given)
    return columns
